/**
 * What comes in and goes out without a session: handshake datagrams, which pass the gate before the control thread hears of them, and STUN messages that answer
 * what was asked. Source: docs/protocol.md, "Handshake".
 */
import { Drop } from "../base/drop.ts";
import { isVirtualAddress } from "../base/endpoint.ts";
import { readName, writeName } from "../base/name.ts";
import { HandshakeGate } from "../session/gate.ts";
import { DatagramClass, classify } from "../wire/demux.ts";
import type { EngineContext } from "./engine-context.ts";
import type { EndpointBytes } from "./messages.ts";
import type { Outbound } from "./outbound.ts";
import { Counter } from "./stats.ts";
import { STUN_MAX_BYTES, StunDoor } from "./stun-door.ts";

const MAX_TRANSMIT_BYTES = 2_048;

export class Door {
  readonly #context: EngineContext;
  readonly #outbound: Outbound;
  readonly #gate: HandshakeGate;
  readonly #stun: StunDoor;

  constructor(context: EngineContext, outbound: Outbound) {
    const { deps, options } = context;
    this.#context = context;
    this.#outbound = outbound;
    this.#stun = new StunDoor(deps.slab);
    this.#gate = new HandshakeGate(
      { slab: deps.slab, mac: deps.mac, random: deps.random },
      { staticKey: options.staticKey },
    );
  }

  close(): void {
    this.#gate.destroy();
  }

  /** Handshakes from there are those of a peer. */
  noteKnown(endpoint: EndpointBytes): void {
    this.#gate.noteKnown(endpoint);
  }

  /** Everything that is no data datagram; anything may be in it. */
  receive(offset: number, bytes: number, name: number): void {
    const { stats, u8, deps, nowMs } = this.#context;
    const kind = classify(u8[offset]);
    if (kind === DatagramClass.STUN) return this.#stunMessage(offset, bytes, name);
    if (kind !== DatagramClass.HANDSHAKE) {
      stats.dropRx(Drop.BAD_TYPE, 1);
      return;
    }
    this.#gate.setLoad(nowMs, deps.eventLoad());
    const reason = this.#gate.judge(nowMs, offset, bytes, name);
    if (this.#gate.replyBytes > 0) {
      this.#outbound.sendRaw(this.#gate.replyOffset, this.#gate.replyBytes, name);
      stats.add(Counter.cookieReplies, 1);
    }
    if (reason !== Drop.NONE) {
      stats.dropRx(reason, 1);
      return;
    }
    const datagram = u8.slice(offset, offset + bytes);
    if (deps.emit({ kind: "handshake", from: readName(u8, name), datagram })) stats.add(Counter.rxInternal, 1);
    else stats.dropRx(Drop.CONTROL_FULL, 1);
  }

  #stunMessage(offset: number, bytes: number, name: number): void {
    const { stats, u8, deps, nowMs } = this.#context;
    const reason = this.#stun.judge(nowMs, offset, bytes, name);
    if (reason !== Drop.NONE) return stats.dropRx(reason, 1);
    const datagram = u8.slice(offset, offset + bytes);
    if (!deps.emit({ kind: "stun", from: readName(u8, name), datagram })) return stats.dropRx(Drop.CONTROL_FULL, 1);
    stats.add(Counter.rxInternal, 1);
    stats.add(Counter.stunReceived, 1);
  }

  /** A handshake datagram as it is. @param to undefined: to every candidate of the peer and its active path */
  transmit(slot: number, to: EndpointBytes | undefined, datagram: Uint8Array): void {
    if (datagram.length > MAX_TRANSMIT_BYTES) return;
    const { u8, scratch, scratchName, peers, candidates } = this.#context;
    u8.set(datagram, scratch);
    this.#gate.noteSent(scratch, datagram.length);
    if (to !== undefined) {
      this.#outbound.sendRaw(scratch, datagram.length, writeName(u8, to, scratchName));
      return;
    }
    const peer = peers[slot];
    if (peer !== undefined && peer.paths.active >= 0) {
      this.#outbound.sendRaw(scratch, datagram.length, peer.paths.activeName());
    }
    for (const endpoint of candidates.get(slot) ?? []) {
      this.#outbound.sendRaw(scratch, datagram.length, writeName(u8, endpoint, scratchName));
    }
  }

  /** A datagram of another protocol, as it is. */
  sendForeign(to: EndpointBytes, datagram: Uint8Array): void {
    const { stats, u8, scratch, scratchName, nowMs } = this.#context;
    if (datagram.length === 0 || datagram.length > STUN_MAX_BYTES || isVirtualAddress(to)) {
      stats.add(Counter.sendErrors, 1);
      return;
    }
    u8.set(datagram, scratch);
    this.#stun.asked(nowMs, to);
    stats.add(Counter.rawSent, 1);
    this.#outbound.sendRaw(scratch, datagram.length, writeName(u8, to, scratchName));
  }
}
