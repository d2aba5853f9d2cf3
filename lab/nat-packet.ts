/**
 * One packet through a NatTable: which way it goes, and its addresses, ports and checksums rewritten in place.
 *
 *   from inside to outside      source → external endpoint                       (UDP, TCP, ICMP echo request)
 *   from outside to external    destination → internal endpoint, if let in       (UDP, TCP, ICMP echo reply)
 *   from inside to external     both (hairpin), or dropped                       (UDP, TCP)
 *   ICMP errors, either way     the address outside and the packet they quote    (types 3, 11, 12)
 *
 * Guarantees: only IPv4; the hop limit is left to the router around it; a checksum that was right stays right, UDP's "none" stays none;
 * every packet that is not translated is counted under one reason. Fragments are not put together: they are dropped and counted.
 * Source: RFC 4787, RFC 5508 sections 3 and 4, RFC 1624.
 */
import { Drop } from "../src/base/drop.ts";
import { completeTransportChecksum, updateChecksum, updateChecksum32 } from "../src/wire/checksum.ts";
import { decodeIp, IpPacket, Protocol } from "../src/wire/ip.ts";
import { IPV4_CHECKSUM, IPV4_DESTINATION, IPV4_SOURCE } from "../src/wire/ipv4.ts";
import { TCP_CHECKSUM } from "../src/wire/tcp.ts";
import { Verdict, type NatTable } from "./nat-model.ts";

const ICMP_ECHO_REPLY = 0;
const ICMP_ECHO_REQUEST = 8;
const ICMP_ERRORS: ReadonlySet<number> = new Set([3, 11, 12]);
const ICMP_HEADER_BYTES = 8;
const ICMP_IDENTIFIER = 4;
const UDP_CHECKSUM = 6;
const SOURCE_PORT = 0;
const DESTINATION_PORT = 2;
/** Ports, or type and identifier, are in the first bytes; an error quotes at least these (RFC 792). */
const QUOTED_TRANSPORT_BYTES = 8;

/** An IPv4 prefix: address and mask as unsigned 32-bit numbers. */
export interface Prefix4 {
  readonly address: number;
  readonly mask: number;
}

/** Why translate() dropped a packet; the names are those of the counters. */
export type NatDrop =
  | "malformed"
  | "notIpv4"
  | "fragment"
  | "unsupported"
  | "noRoute"
  | "noMapping"
  | "filtered"
  | "full"
  | "hairpinOff";

export class NatTranslator {
  readonly table: NatTable;
  outbound = 0;
  inbound = 0;
  hairpinned = 0;
  errors = 0;
  readonly drops: Record<NatDrop, number> = {
    malformed: 0,
    notIpv4: 0,
    fragment: 0,
    unsupported: 0,
    noRoute: 0,
    noMapping: 0,
    filtered: 0,
    full: 0,
    hairpinOff: 0,
  };
  readonly #externals: ReadonlySet<number>;
  readonly #inside: readonly Prefix4[];
  readonly #packet: IpPacket = new IpPacket();
  readonly #quoted: IpPacket = new IpPacket();

  constructor(deps: { readonly table: NatTable }, externals: readonly number[], inside: readonly Prefix4[]) {
    this.table = deps.table;
    this.#externals = new Set(externals);
    this.#inside = inside;
  }

  /** @param length bytes from `offset`; `u8` and `view` show the same memory @returns bytes to send on; 0 when it was dropped */
  translate(nowMs: number, u8: Uint8Array, view: DataView, offset: number, length: number): number {
    const packet = this.#packet;
    if (decodeIp(view, offset, length, packet) !== Drop.NONE) return this.#drop("malformed");
    if (packet.version !== 4) return this.#drop("notIpv4");
    if (packet.fragment) return this.#drop("fragment");
    if (packet.transportBytes < QUOTED_TRANSPORT_BYTES) return this.#drop("malformed");
    const source = view.getUint32(offset + IPV4_SOURCE);
    const destination = view.getUint32(offset + IPV4_DESTINATION);
    const toExternal = this.#externals.has(destination);
    const fromInside = this.#isInside(source);
    if (!toExternal && !fromInside) return this.#drop("noRoute");
    const { protocol } = packet;
    if (protocol === Protocol.ICMP) return this.#icmp(nowMs, u8, view, source, destination, toExternal, fromInside);
    if (protocol !== Protocol.UDP && protocol !== Protocol.TCP) return this.#drop("unsupported");
    if (protocol === Protocol.TCP && packet.transportBytes < TCP_CHECKSUM + 2) return this.#drop("malformed");
    if (toExternal && fromInside && !this.table.settings.hairpin) return this.#drop("hairpinOff");

    const at = packet.transportOffset;
    const sourcePort = view.getUint16(at + SOURCE_PORT);
    const destinationPort = view.getUint16(at + DESTINATION_PORT);
    let remote = source;
    let remotePort = sourcePort;
    if (fromInside) {
      if (this.table.outbound(nowMs, protocol, source, sourcePort, destination, destinationPort) !== Verdict.TRANSLATED)
        return this.#drop("full");
      remote = this.table.address;
      remotePort = this.table.port;
      rewrite(view, packet, IPV4_SOURCE, SOURCE_PORT, remote, remotePort);
      if (!toExternal) {
        this.outbound++;
        return packet.totalBytes;
      }
    }
    const verdict = this.table.inbound(nowMs, protocol, destination, destinationPort, remote, remotePort);
    if (verdict !== Verdict.TRANSLATED) return this.#drop(verdict === Verdict.FILTERED ? "filtered" : "noMapping");
    rewrite(view, packet, IPV4_DESTINATION, DESTINATION_PORT, this.table.address, this.table.port);
    if (fromInside) this.hairpinned++;
    else this.inbound++;
    return packet.totalBytes;
  }

  counters(): Record<string, number> {
    const { outbound, inbound, hairpinned, errors } = this;
    return { outbound, inbound, hairpinned, errors, ...this.drops, ...this.table.counters() };
  }

  #icmp(
    nowMs: number,
    u8: Uint8Array,
    view: DataView,
    source: number,
    destination: number,
    toExternal: boolean,
    fromInside: boolean,
  ): number {
    const packet = this.#packet;
    const at = packet.transportOffset;
    const type = view.getUint8(at);
    if (ICMP_ERRORS.has(type)) return this.#icmpError(nowMs, u8, view, toExternal);
    const identifier = view.getUint16(at + ICMP_IDENTIFIER);
    if (toExternal && fromInside) return this.#drop("unsupported");
    if (fromInside && type === ICMP_ECHO_REQUEST) {
      if (this.table.outbound(nowMs, Protocol.ICMP, source, identifier, destination, 0) !== Verdict.TRANSLATED)
        return this.#drop("full");
      rewrite(view, packet, IPV4_SOURCE, ICMP_IDENTIFIER, this.table.address, this.table.port);
      this.outbound++;
      return packet.totalBytes;
    }
    if (!fromInside && type === ICMP_ECHO_REPLY) {
      const verdict = this.table.inbound(nowMs, Protocol.ICMP, destination, identifier, source, 0);
      if (verdict !== Verdict.TRANSLATED) return this.#drop(verdict === Verdict.FILTERED ? "filtered" : "noMapping");
      rewrite(view, packet, IPV4_DESTINATION, ICMP_IDENTIFIER, this.table.address, this.table.port);
      this.inbound++;
      return packet.totalBytes;
    }
    return this.#drop("unsupported");
  }

  /** An error quotes a packet that went the other way: from the external endpoint (inbound), or to the internal one (outbound). */
  #icmpError(nowMs: number, u8: Uint8Array, view: DataView, inbound: boolean): number {
    const packet = this.#packet;
    const quoted = this.#quoted;
    const start = packet.transportOffset + ICMP_HEADER_BYTES;
    const room = packet.transportBytes - ICMP_HEADER_BYTES;
    if (!decodeQuoted(view, start, room, quoted)) return this.#drop("malformed");
    const { protocol, transportOffset: at } = quoted;
    const icmp = protocol === Protocol.ICMP;
    if (!icmp && protocol !== Protocol.UDP && protocol !== Protocol.TCP) return this.#drop("unsupported");
    const source = view.getUint32(start + IPV4_SOURCE);
    const destination = view.getUint32(start + IPV4_DESTINATION);
    const sourcePort = view.getUint16(at + (icmp ? ICMP_IDENTIFIER : SOURCE_PORT));
    const destinationPort = icmp ? sourcePort : view.getUint16(at + DESTINATION_PORT);
    const verdict = inbound
      ? this.table.owner(nowMs, protocol, source, sourcePort)
      : this.table.external(nowMs, protocol, destination, destinationPort, source, icmp ? 0 : sourcePort);
    if (verdict !== Verdict.TRANSLATED) return this.#drop("noMapping");
    const { address, port } = this.table;
    const portField = icmp ? ICMP_IDENTIFIER : inbound ? SOURCE_PORT : DESTINATION_PORT;
    rewrite(view, quoted, inbound ? IPV4_SOURCE : IPV4_DESTINATION, portField, address, port);
    rewriteAddress(view, packet.offset, inbound ? IPV4_DESTINATION : IPV4_SOURCE, address);
    completeTransportChecksum(u8, view, packet.offset, packet.transportOffset, packet.transportBytes, Protocol.ICMP);
    this.errors++;
    return packet.totalBytes;
  }

  #isInside(address: number): boolean {
    for (const prefix of this.#inside) if ((address & prefix.mask) >>> 0 === prefix.address) return true;
    return false;
  }

  #drop(reason: NatDrop): number {
    this.drops[reason]++;
    return 0;
  }
}

/** The packet that an error quotes: its length field says more than is there. @returns false when its ports are not there */
function decodeQuoted(view: DataView, offset: number, room: number, out: IpPacket): boolean {
  if (room < 20 + QUOTED_TRANSPORT_BYTES) return false;
  const headerBytes = (view.getUint8(offset) & 15) * 4;
  if (view.getUint8(offset) >>> 4 !== 4 || headerBytes < 20 || headerBytes + QUOTED_TRANSPORT_BYTES > room)
    return false;
  out.offset = offset;
  out.protocol = view.getUint8(offset + 9);
  out.transportOffset = offset + headerBytes;
  out.transportBytes = room - headerBytes;
  return true;
}

function rewriteAddress(view: DataView, offset: number, field: number, address: number): number {
  const old = view.getUint32(offset + field);
  view.setUint32(offset + field, address);
  view.setUint16(offset + IPV4_CHECKSUM, updateChecksum32(view.getUint16(offset + IPV4_CHECKSUM), old, address));
  return old;
}

/** Writes address and port (or identifier) and corrects both checksums. A quoted packet may end before its transport checksum. */
function rewrite(
  view: DataView,
  packet: IpPacket,
  addressField: number,
  portField: number,
  address: number,
  port: number,
): void {
  const at = packet.transportOffset;
  const oldAddress = rewriteAddress(view, packet.offset, addressField, address);
  const oldPort = view.getUint16(at + portField);
  view.setUint16(at + portField, port);
  const { protocol } = packet;
  const field = protocol === Protocol.UDP ? UDP_CHECKSUM : protocol === Protocol.TCP ? TCP_CHECKSUM : 2;
  if (packet.transportBytes < field + 2) return;
  let checksum = view.getUint16(at + field);
  if (protocol === Protocol.UDP && checksum === 0) return;
  if (protocol !== Protocol.ICMP) checksum = updateChecksum32(checksum, oldAddress, address);
  checksum = updateChecksum(checksum, oldPort, port);
  view.setUint16(at + field, checksum === 0 && protocol === Protocol.UDP ? 0xffff : checksum);
}
