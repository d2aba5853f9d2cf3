/**
 * One round of binding requests, sans-I/O: to every server, then to the second address and port that a server says it has (RFC 5780), so that
 * a single such server tells the kind of the NAT; at last one request to this node's own mapped endpoint, which arrives when the NAT
 * hairpins. Resends after 500 ms, doubling, 4 times in all (RFC 8489 section 6.2.1, shortened); a round lasts less than 9 s.
 *
 * An answer counts only when it comes from where its request went and carries that transaction's 96 random bits. Bounds: MAX_TRANSACTIONS;
 * a server sends this node to at most two more places, of its own scope and family.
 */
import { equal } from "../../base/bytes.ts";
import { Drop } from "../../base/drop.ts";
import { endpointFromBytes, formatEndpoint, isIPv4Mapped } from "../../base/endpoint.ts";
import type { Random } from "../../base/random.ts";
import { decodeStun, encodeBindingRequest, STUN_TRANSACTION_BYTES, StunClass, StunMessage } from "../../wire/stun.ts";
import { scopeOf } from "./fits.ts";

const MAX_TRANSACTIONS = 24;
const FIRST_RESEND_MS = 500;
const SENDS = 4;
const HAIRPIN_SENDS = 2;

export interface StunResult {
  readonly to: Uint8Array;
  /** 18 bytes each */
  readonly mapped: Uint8Array;
  readonly rttMs: number;
}

interface Transaction {
  readonly id: Uint8Array;
  readonly to: Uint8Array;
  readonly kind: "server" | "other" | "hairpin";
  readonly startedAtMs: number;
  sends: number;
  dueAtMs: number;
  ended: boolean;
}

export class StunRound {
  readonly results: StunResult[] = [];
  /** Why servers gave nothing, one line each. */
  readonly failures: string[] = [];
  /** undefined = not tried, or not answered yet. */
  hairpin: boolean | undefined;
  dropped = 0;
  readonly #random: Random;
  readonly #transactions: Transaction[] = [];
  readonly #out: { readonly to: Uint8Array; readonly datagram: Uint8Array }[] = [];
  readonly #message = new StunMessage();
  #hairpinTried = false;

  /** @param servers 18 bytes each, without doubles */
  constructor(nowMs: number, random: Random, servers: readonly Uint8Array[]) {
    this.#random = random;
    for (const server of servers) this.#begin(nowMs, server, "server");
  }

  get done(): boolean {
    return this.#transactions.every((one) => one.ended);
  }

  nextTimeout(): number {
    return this.#transactions.reduce((next, one) => (one.ended ? next : Math.min(next, one.dueAtMs)), Infinity);
  }

  pollTransmit(): { readonly to: Uint8Array; readonly datagram: Uint8Array } | undefined {
    return this.#out.shift();
  }

  /** @returns true when the datagram belonged to this round */
  handleDatagram(nowMs: number, from: Uint8Array, datagram: Uint8Array): boolean {
    const message = this.#message;
    const drop = decodeStun(datagram, message);
    const one =
      drop === Drop.NONE
        ? this.#transactions.find((each) => !each.ended && equal(each.id, message.transactionId))
        : undefined;
    if (one === undefined || !equal(one.to, from)) {
      this.dropped++;
      return false;
    }
    if (one.kind === "hairpin") {
      // our own request, come back through the NAT; answering it is nobody's business
      if (message.class !== StunClass.REQUEST) return false;
      this.hairpin = true;
      one.ended = true;
      return true;
    }
    if (message.class === StunClass.ERROR) this.#fail(one, `answered with error ${message.errorCode}`);
    else if (message.class !== StunClass.SUCCESS) return false;
    else if (message.unknownRequired !== 0 || !message.hasMapped)
      this.#fail(one, "answered what this version does not understand");
    else this.#succeed(nowMs, one, message);
    this.#tryHairpin(nowMs);
    return true;
  }

  handleTimeout(nowMs: number): void {
    for (const one of this.#transactions) {
      if (one.ended || nowMs < one.dueAtMs) continue;
      if (one.sends >= (one.kind === "hairpin" ? HAIRPIN_SENDS : SENDS)) {
        if (one.kind === "hairpin") this.hairpin = false;
        this.#fail(one, "did not answer");
      } else {
        this.#send(nowMs, one);
      }
    }
    this.#tryHairpin(nowMs);
  }

  #succeed(nowMs: number, one: Transaction, message: StunMessage): void {
    one.ended = true;
    this.results.push({ to: one.to, mapped: message.mapped.slice(), rttMs: nowMs - one.startedAtMs });
    const other = message.other;
    if (one.kind !== "server" || !message.hasOther) return;
    if (isIPv4Mapped(other) !== isIPv4Mapped(one.to) || scopeOf(other) !== scopeOf(one.to)) return;
    const sameAddress = one.to.slice();
    sameAddress.set(other.subarray(16), 16);
    for (const to of [sameAddress, other.slice()]) this.#begin(nowMs, to, "other");
  }

  #tryHairpin(nowMs: number): void {
    if (this.#hairpinTried || !this.done) return;
    this.#hairpinTried = true;
    const mapped = this.results.find((one) => isIPv4Mapped(one.mapped))?.mapped;
    if (mapped !== undefined) this.#begin(nowMs, mapped, "hairpin");
  }

  #begin(nowMs: number, to: Uint8Array, kind: Transaction["kind"]): void {
    if (this.#transactions.length >= MAX_TRANSACTIONS || scopeOf(to) === "unusable") return;
    if (kind !== "hairpin" && this.#transactions.some((one) => equal(one.to, to))) return;
    const id = this.#random.bytes(STUN_TRANSACTION_BYTES);
    const one: Transaction = { id, to: to.slice(), kind, startedAtMs: nowMs, sends: 0, dueAtMs: nowMs, ended: false };
    this.#transactions.push(one);
    this.#send(nowMs, one);
  }

  #send(nowMs: number, one: Transaction): void {
    this.#out.push({ to: one.to, datagram: encodeBindingRequest(one.id) });
    one.dueAtMs = nowMs + FIRST_RESEND_MS * 2 ** one.sends;
    one.sends++;
  }

  #fail(one: Transaction, why: string): void {
    one.ended = true;
    if (one.kind === "server") this.failures.push(`${formatEndpoint(endpointFromBytes(one.to))} ${why}`);
  }
}
