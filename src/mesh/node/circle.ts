/**
 * The circle of neighbours of a node: how far members are, who of them is a neighbour (neighbours.ts), and when those that are missing are dialled.
 */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import { Dialler, neighboursOf } from "../neighbours.ts";
import type { Member } from "../types.ts";
import type { MeshCore } from "./core.ts";

export class Circle {
  readonly #core: MeshCore;
  readonly #dialler: Dialler;
  /** Round trips to members reached directly, by node id in hex; and who is a neighbour. Bound: members. */
  readonly #rttMs = new Map<string, number>();
  #hexes: ReadonlySet<string> = new Set();
  /** undefined: members or distances have changed since. */
  #list: readonly Member[] | undefined;

  constructor(core: MeshCore) {
    this.#core = core;
    this.#dialler = new Dialler(core.deps.random);
  }

  /** Monotonic; Infinity: nobody is missing. */
  get dueMs(): number {
    return this.#dialler.dueMs;
  }

  has(nodeId: Uint8Array): boolean {
    this.#neighbours();
    return this.#hexes.has(toHex(nodeId));
  }

  /** See MeshNode.noteRtt. */
  noteRtt(nodeId: Uint8Array, rttMs: number | undefined): void {
    const hex = toHex(nodeId);
    if (this.#rttMs.get(hex) === rttMs) return;
    this.#list = undefined;
    if (rttMs === undefined) this.#rttMs.delete(hex);
    else if (this.#core.membership?.byNode(nodeId) !== undefined) this.#rttMs.set(hex, rttMs);
  }

  membersChanged(): void {
    this.#list = undefined;
  }

  forget(nodeId: Uint8Array): void {
    this.#rttMs.delete(toHex(nodeId));
  }

  /** Somebody new can be dialled. */
  look(now: Now): void {
    this.#dialler.schedule(now.nowMs);
  }

  /** Somebody is gone, perhaps for many nodes at once. */
  lookJittered(now: Now, withinMs: number): void {
    this.#dialler.scheduleJittered(now, withinMs);
  }

  dial(now: Now): void {
    const { gossip, outbox, isRemoved, self } = this.#core;
    const neighbours = isRemoved || self === undefined ? [] : this.#neighbours();
    const isConnected = (hex: string): boolean => gossip.link(hex) !== undefined;
    const isReachable = (member: Member): boolean =>
      this.#core.candidates(member.nodeId, now.wallMs).length > 0 || this.#core.urls(member.nodeId).length > 0;
    for (const { nodeId, staticKey } of this.#dialler.due(now, neighbours, isConnected, isReachable)) {
      outbox.push({ kind: "dial", nodeId, staticKey, inviteId: undefined });
    }
  }

  #neighbours(): readonly Member[] {
    if (this.#list !== undefined) return this.#list;
    const neighbours = neighboursOf(this.#core.members(), this.#core.deps.identity.nodeId, this.#rttMs, this.#hexes);
    this.#hexes = new Set(neighbours.map((member) => toHex(member.nodeId)));
    this.#list = neighbours;
    return neighbours;
  }
}
