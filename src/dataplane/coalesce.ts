/**
 * Merges opened packets into super-packets on their way to the TUN, the receiving half of segmentation offload.
 *
 * The packets of one train stand one behind the other in the receive buffer, each with its own headers; nothing is moved. The first
 * packet goes out whole, of the others only the payload, as parts of one gathered write. Guarantees: what the kernel splits again
 * equals what came in (same flow, contiguous sequence, equal segment size with a shorter last one, equal options, ToS, TTL and DF;
 * flags only ACK or ACK|PSH; IPv4 without options and fragments); a packet with a whole checksum is merged only after that checksum
 * verified, so that a corrupt one stays corrupt. Order of packets is kept. The caller flushes before the buffer is reused.
 *
 * Source: virtio 1.2 section 5.1.6 (struct virtio_net_hdr), docs/protocol.md "Partial checksums".
 */
import { Drop } from "../base/drop.ts";
import { ipv4HeaderChecksum, transportChecksumOk, writePartialChecksum } from "../wire/checksum.ts";
import type { TunPort } from "./ports.ts";
import { VNET_HEADER_BYTES } from "./ports.ts";
import { Counter, type PlaneStats } from "./stats.ts";

const TCP = 6;
const UDP = 17;
const NEEDS_CSUM = 1;
const GSO_TCPV4 = 1;
const GSO_TCPV6 = 4;
const GSO_UDP_L4 = 5;
const TCP_ACK = 0x10;
const TCP_ACK_PSH = 0x18;
const PSH = 0x08;
/** Parts of one write, the first packet included; also the most segments the kernel takes from us. */
const MAX_SEGMENTS = 64;
const MAX_PACKET_BYTES = 65_535;
const EAGAIN = -11;
const EINVAL = -22;

export interface CoalescerDeps {
  readonly u8: Uint8Array;
  readonly view: DataView;
  readonly tun: TunPort;
  readonly stats: PlaneStats;
  /** Sleeps until the TUN takes packets again, a few milliseconds at most. */
  readonly waitWritable: () => void;
}

export class Coalescer {
  /** Runtime switches: merge TCP, merge UDP. */
  tcp: boolean;
  udp: boolean;

  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #tun: TunPort;
  readonly #stats: PlaneStats;
  readonly #waitWritable: () => void;
  readonly #partOffset = new Int32Array(MAX_SEGMENTS);
  readonly #partBytes = new Int32Array(MAX_SEGMENTS);
  /** The whole packets that the parts belong to, in case the TUN refuses to take them merged. */
  readonly #packet = new Int32Array(MAX_SEGMENTS);
  readonly #packetPartial = new Uint8Array(MAX_SEGMENTS);
  /** Pending super-packet; #count 0 = none. */
  #count = 0;
  #first = 0;
  #firstBytes = 0;
  #totalBytes = 0;
  #headerBytes = 0;
  #ipBytes = 0;
  #protocol = 0;
  #segmentBytes = 0;
  #nextSequence = 0;
  #partial = false;
  /** Checksum of the pending first packet known to be good (partial, or verified). */
  #verified = false;
  /** No more may follow: a shorter segment or PSH ended the run. */
  #ended = false;

  constructor(deps: CoalescerDeps, options: { readonly tcp: boolean; readonly udp: boolean }) {
    this.#u8 = deps.u8;
    this.#view = deps.view;
    this.#tun = deps.tun;
    this.#stats = deps.stats;
    this.#waitWritable = deps.waitWritable;
    this.tcp = options.tcp;
    this.udp = options.udp;
  }

  /**
   * Takes one well-formed IP packet (length fields checked by the caller) of `bytes` at `ip`, in front of which 10 bytes are free.
   * @param partial the transport checksum is partial: the caller checked that it is TCP or UDP right behind a plain header
   */
  add(ip: number, bytes: number, partial: boolean): void {
    const u8 = this.#u8;
    const view = this.#view;
    const version = u8[ip] >>> 4;
    let ipBytes = 0;
    let protocol = 0;
    let mergeable = false;
    if (version === 4) {
      ipBytes = (u8[ip] & 15) * 4;
      protocol = u8[ip + 9];
      mergeable = ipBytes === 20 && (view.getUint16(ip + 6) & 0x3fff) === 0;
    } else {
      ipBytes = 40;
      protocol = u8[ip + 6];
      mergeable = true;
    }
    const transport = ip + ipBytes;
    let headerBytes = ipBytes;
    let psh = false;
    if (mergeable && protocol === TCP && this.tcp && bytes >= ipBytes + 20) {
      headerBytes = ipBytes + (u8[transport + 12] >>> 4) * 4;
      const flags = u8[transport + 13];
      psh = flags === TCP_ACK_PSH;
      mergeable =
        (flags === TCP_ACK || psh) &&
        headerBytes >= ipBytes + 20 &&
        headerBytes < bytes &&
        (u8[transport + 12] & 15) === 0;
    } else if (mergeable && protocol === UDP && this.udp && bytes > ipBytes + 8) {
      headerBytes = ipBytes + 8;
      mergeable = view.getUint16(transport + 4) === bytes - ipBytes;
    } else {
      mergeable = false;
    }
    if (!mergeable) {
      this.flush();
      this.#writeSingle(ip, bytes, partial, ipBytes, protocol);
      return;
    }
    if (this.#count > 0 && !this.#ended && this.#append(ip, bytes, partial, ipBytes, headerBytes, protocol, psh))
      return;
    this.flush();
    this.#count = 1;
    this.#first = ip;
    this.#firstBytes = bytes;
    this.#totalBytes = bytes;
    this.#headerBytes = headerBytes;
    this.#ipBytes = ipBytes;
    this.#protocol = protocol;
    this.#segmentBytes = bytes - headerBytes;
    this.#nextSequence = protocol === TCP ? (view.getUint32(transport + 4) + bytes - headerBytes) >>> 0 : 0;
    this.#partial = partial;
    this.#verified = partial;
    this.#ended = psh;
  }

  /** Writes what is pending. */
  flush(): void {
    const count = this.#count;
    if (count === 0) return;
    this.#count = 0;
    const ip = this.#first;
    if (count === 1) {
      this.#writeSingle(ip, this.#firstBytes, this.#partial, this.#ipBytes, this.#protocol);
      return;
    }
    const u8 = this.#u8;
    const view = this.#view;
    const total = this.#totalBytes;
    const ipBytes = this.#ipBytes;
    const transport = ip + ipBytes;
    const ipv4 = ipBytes === 20;
    if (ipv4) {
      view.setUint16(ip + 2, total);
      view.setUint16(ip + 10, ipv4HeaderChecksum(view, ip, 20));
    } else {
      view.setUint16(ip + 4, total - 40);
    }
    if (this.#protocol === UDP) view.setUint16(transport + 4, total - ipBytes);
    writePartialChecksum(view, ip, transport, total - ipBytes, this.#protocol);
    const vnet = ip - VNET_HEADER_BYTES;
    u8[vnet] = NEEDS_CSUM;
    u8[vnet + 1] = this.#protocol === UDP ? GSO_UDP_L4 : ipv4 ? GSO_TCPV4 : GSO_TCPV6;
    view.setUint16(vnet + 2, this.#headerBytes, true);
    view.setUint16(vnet + 4, this.#segmentBytes, true);
    view.setUint16(vnet + 6, ipBytes, true);
    view.setUint16(vnet + 8, this.#protocol === UDP ? 6 : 16, true);
    this.#stats.add(Counter.coalescedPackets, count);
    if (this.#write(vnet, VNET_HEADER_BYTES + this.#firstBytes, count, total) === EINVAL) this.#writeApart(count);
  }

  /** The device takes no super-packets after all: merging ends, and what was merged goes out packet by packet. */
  #writeApart(count: number): void {
    const view = this.#view;
    const ip = this.#first;
    this.tcp = false;
    this.udp = false;
    this.#stats.add(Counter.mergesRefused, 1);
    if (this.#ipBytes === 20) {
      view.setUint16(ip + 2, this.#firstBytes);
      view.setUint16(ip + 10, ipv4HeaderChecksum(view, ip, 20));
    } else {
      view.setUint16(ip + 4, this.#firstBytes - 40);
    }
    if (this.#protocol === UDP) view.setUint16(ip + this.#ipBytes + 4, this.#firstBytes - this.#ipBytes);
    // its own checksum was overwritten by that of the whole
    this.#writeSingle(ip, this.#firstBytes, true, this.#ipBytes, this.#protocol);
    for (let i = 1; i < count; i++) {
      const bytes = this.#headerBytes + this.#partBytes[i];
      this.#writeSingle(this.#packet[i], bytes, this.#packetPartial[i] === 1, this.#ipBytes, this.#protocol);
    }
  }

  #append(
    ip: number,
    bytes: number,
    partial: boolean,
    ipBytes: number,
    headerBytes: number,
    protocol: number,
    psh: boolean,
  ): boolean {
    const view = this.#view;
    const first = this.#first;
    const payload = bytes - headerBytes;
    if (
      headerBytes !== this.#headerBytes ||
      ipBytes !== this.#ipBytes ||
      protocol !== this.#protocol ||
      payload > this.#segmentBytes ||
      this.#count >= MAX_SEGMENTS ||
      this.#totalBytes + payload > MAX_PACKET_BYTES
    ) {
      return false;
    }
    if (ipBytes === 20) {
      // version, header length and ToS; fragment bits; TTL and protocol; addresses
      if (
        view.getUint32(first + 12) !== view.getUint32(ip + 12) ||
        view.getUint32(first + 16) !== view.getUint32(ip + 16) ||
        view.getUint16(first) !== view.getUint16(ip) ||
        view.getUint16(first + 6) !== view.getUint16(ip + 6) ||
        view.getUint16(first + 8) !== view.getUint16(ip + 8)
      ) {
        return false;
      }
      // without DF the identification matters (RFC 6864), and the kernel will count it up
      if (
        (view.getUint16(ip + 6) & 0x4000) === 0 &&
        view.getUint16(ip + 4) !== ((view.getUint16(first + 4) + this.#count) & 0xffff)
      ) {
        return false;
      }
    } else {
      // version, traffic class, flow label; next header and hop limit; addresses
      if (view.getUint32(first) !== view.getUint32(ip) || view.getUint16(first + 6) !== view.getUint16(ip + 6))
        return false;
      for (let i = 8; i < 40; i += 4) if (view.getUint32(first + i) !== view.getUint32(ip + i)) return false;
    }
    const a = first + ipBytes;
    const b = ip + ipBytes;
    if (view.getUint32(a) !== view.getUint32(b)) return false;
    if (protocol === TCP) {
      if (view.getUint32(b + 4) !== this.#nextSequence) return false;
      if (view.getUint32(a + 8) !== view.getUint32(b + 8)) return false;
      // data offset, flags without PSH, window
      if (((view.getUint32(a + 12) ^ view.getUint32(b + 12)) & ~(PSH << 16)) !== 0) return false;
      const options = headerBytes - ipBytes;
      for (let i = 20; i < options; i += 4) if (view.getUint32(a + i) !== view.getUint32(b + i)) return false;
    }
    if (!this.#verified) {
      if (!transportChecksumOk(this.#u8, view, first, a, this.#firstBytes - ipBytes, protocol)) return false;
      this.#verified = true;
    }
    if (!partial && !transportChecksumOk(this.#u8, view, ip, b, bytes - ipBytes, protocol)) return false;
    this.#partOffset[this.#count] = ip + headerBytes;
    this.#partBytes[this.#count] = payload;
    this.#packet[this.#count] = ip;
    this.#packetPartial[this.#count] = partial ? 1 : 0;
    this.#count++;
    this.#totalBytes += payload;
    this.#nextSequence = (this.#nextSequence + payload) >>> 0;
    if (psh) this.#u8[a + 13] = TCP_ACK_PSH;
    if (psh || payload < this.#segmentBytes) this.#ended = true;
    return true;
  }

  #writeSingle(ip: number, bytes: number, partial: boolean, ipBytes: number, protocol: number): void {
    const u8 = this.#u8;
    const view = this.#view;
    const vnet = ip - VNET_HEADER_BYTES;
    u8[vnet] = partial ? NEEDS_CSUM : 0;
    u8[vnet + 1] = 0;
    view.setUint32(vnet + 2, 0);
    if (partial) {
      writePartialChecksum(view, ip, ip + ipBytes, bytes - ipBytes, protocol);
      view.setUint16(vnet + 6, ipBytes, true);
      view.setUint16(vnet + 8, protocol === UDP ? 6 : 16, true);
    } else {
      view.setUint32(vnet + 6, 0);
    }
    this.#write(vnet, VNET_HEADER_BYTES + bytes, 1, bytes);
  }

  #write(vnet: number, firstBytes: number, count: number, totalBytes: number): number {
    const tun = this.#tun;
    const stats = this.#stats;
    let result = EAGAIN;
    for (let attempt = 0; attempt < 20 && result === EAGAIN; attempt++) {
      if (attempt > 0) {
        stats.add(Counter.tunWriteAgain, 1);
        this.#waitWritable();
      }
      tun.beginWrite();
      tun.addPart(vnet, firstBytes);
      for (let i = 1; i < count; i++) tun.addPart(this.#partOffset[i], this.#partBytes[i]);
      result = tun.commitWrite();
    }
    if (result === VNET_HEADER_BYTES + totalBytes) {
      stats.add(Counter.tunTxWrites, 1);
      stats.add(Counter.tunTxPackets, count);
      stats.add(Counter.tunTxBytes, totalBytes);
      stats.add(Counter.rxPackets, count);
    } else if (result !== EINVAL || count === 1) {
      stats.add(Counter.tunWriteErrors, 1);
      stats.dropRx(Drop.TUN_WRITE, count);
    }
    return result;
  }
}
