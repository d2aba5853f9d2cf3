/**
 * ICMP errors into the overlay: the node tells its own kernel (and whoever it routes for) why a packet went nowhere. Rate-limited to
 * 100 a second with a burst of 20; beyond that errors are not sent (the packet itself is counted by its drop reason anyway).
 * Source: RFC 1191, RFC 4443, docs/protocol.md "Packets that do not fit".
 */
import { Drop } from "../base/drop.ts";
import type { Slab } from "../base/slab.ts";
import { ICMP_ERROR_MAX_BYTES, IcmpError, buildIcmpError } from "../wire/icmp.ts";
import { IpPacket, decodeIp } from "../wire/ip.ts";
import { type TunPort, VNET_HEADER_BYTES } from "./ports.ts";
import { Counter, type PlaneStats } from "./stats.ts";

const RATE_PER_MS = 0.1;
const BURST = 20;

export class IcmpErrors {
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #tun: TunPort | undefined;
  readonly #stats: PlaneStats;
  readonly #packet = new IpPacket();
  readonly #buffer: number;
  /** Own overlay addresses: 4 and 16 bytes; all zero = none of that family. */
  readonly #own4: number;
  readonly #own6: number;
  #tokens = BURST;
  #lastMs = 0;

  constructor(slab: Slab, tun: TunPort | undefined, stats: PlaneStats) {
    this.#u8 = slab.u8;
    this.#view = slab.view;
    this.#tun = tun;
    this.#stats = stats;
    this.#buffer = slab.allocate(ICMP_ERROR_MAX_BYTES + VNET_HEADER_BYTES + 64);
    this.#own4 = slab.allocate(4);
    this.#own6 = slab.allocate(16);
  }

  /** @param address16 one of this node's overlay addresses, v4-mapped or IPv6 */
  setOwnAddress(address16: Uint8Array, ipv4: boolean): void {
    if (ipv4) this.#u8.set(address16.subarray(12, 16), this.#own4);
    else this.#u8.set(address16.subarray(0, 16), this.#own6);
  }

  /** Answers the IP packet at `ip` (`bytes` long, maybe one segment of a super-packet). @param mtuBytes for Drop.TOO_BIG */
  send(nowMs: number, reason: Drop, ip: number, bytes: number, mtuBytes: number): void {
    const tun = this.#tun;
    if (tun === undefined) return;
    this.#tokens = Math.min(BURST, this.#tokens + (nowMs - this.#lastMs) * RATE_PER_MS);
    this.#lastMs = nowMs;
    if (this.#tokens < 1) return;
    if (decodeIp(this.#view, ip, bytes, this.#packet) !== Drop.NONE) return;
    const from = this.#packet.version === 4 ? this.#own4 : this.#own6;
    if (this.#u8[from] === 0) return;
    const target = this.#buffer + VNET_HEADER_BYTES;
    const kind = reason === Drop.TOO_BIG ? IcmpError.TOO_BIG : IcmpError.HOST_UNREACHABLE;
    const length = buildIcmpError(this.#u8, this.#view, this.#packet, kind, mtuBytes, from, target);
    if (length === 0) return;
    this.#tokens--;
    this.#u8.fill(0, this.#buffer, target);
    tun.beginWrite();
    tun.addPart(this.#buffer, VNET_HEADER_BYTES + length);
    if (tun.commitWrite() > 0) this.#stats.add(Counter.icmpSent, 1);
    else this.#stats.add(Counter.tunWriteErrors, 1);
  }
}
