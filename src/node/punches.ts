/**
 * Hole punching on the control thread: tells the puncher how each peer is reached and whether anybody needs it, and carries out what it wants,
 * through the session (messages) and the data plane (probes). Source: docs/protocol.md, "Hole punching".
 */
import type { Now } from "../base/clock.ts";
import { equal } from "../base/bytes.ts";
import { isVirtualAddress } from "../base/endpoint.ts";
import type { Random } from "../base/random.ts";
import type { Command, PeerFigures, PlanePath } from "../dataplane/messages.ts";
import type { MeshNode } from "../mesh/mesh-node.ts";
import { type Mapping, type PunchControl } from "../mesh/punch/messages.ts";
import { Puncher, type PunchOutput, type PunchReport, type Reach } from "../mesh/punch/puncher.ts";
import { PathState } from "../path/path.ts";
import type { PeerRecord, PeerTable } from "./peer-table.ts";

/** A peer without traffic for this long is not worth an attempt. */
const IN_USE_MS = 30_000;
const MAX_WITNESSES = 3;
const MAX_OTHER_SIGHTS = 2;

export interface PunchesDeps {
  readonly mesh: MeshNode;
  readonly peers: () => PeerTable;
  readonly random: Random;
  readonly send: (command: Command) => void;
  readonly figures: (slot: number) => PeerFigures | undefined;
  /** How the NAT in front of this node chooses ports. */
  readonly mapping: () => Mapping;
  readonly paths: (slot: number) => Promise<readonly PlanePath[]>;
  /** Tells a member something outside of a pump's turn. */
  readonly tell: (nodeId: Uint8Array, message: PunchControl) => void;
}

export class Punches {
  readonly #deps: PunchesDeps;
  readonly #puncher: Puncher;
  /** Per slot: bytes of user data when last looked at, and when they last grew. */
  readonly #traffic = new Map<number, { bytes: number; grewAtMs: number }>();

  constructor(deps: PunchesDeps) {
    this.#deps = deps;
    this.#puncher = new Puncher({
      random: deps.random,
      own: () => deps.mesh.ownEndpoints,
      mapping: deps.mapping,
      witnesses: (nodeId) => this.#witnesses(nodeId),
      sight: (nodeId) => {
        const peer = this.#peerOf(nodeId);
        return peer !== undefined && reachOf(peer) === "direct" ? peer.endpoint : undefined;
      },
    });
  }

  get nextTimeoutMs(): number {
    return this.#puncher.nextTimeoutMs;
  }

  get counters(): Puncher["counters"] {
    return this.#puncher.counters;
  }

  /** The active path of a peer changed: somebody uses it, or is about to. */
  pathChanged(now: Now, peer: PeerRecord): void {
    if (peer.member !== undefined) this.#puncher.pathIs(now, peer.nodeId, reachOf(peer), true);
    this.#carryOut();
  }

  handle(now: Now, nodeId: Uint8Array, message: PunchControl): void {
    this.#puncher.handle(now, nodeId, message);
    this.#carryOut();
    if (message.type === "sight") void this.#tellOtherSights(nodeId, message.node);
  }

  /** Own addresses or the NAT changed. */
  surroundingsChanged(now: Now): void {
    this.#puncher.surroundingsChanged(now);
  }

  forget(peer: PeerRecord): void {
    this.#puncher.forget(peer.nodeId);
    this.#traffic.delete(peer.slot);
  }

  handleTimeout(now: Now): void {
    this.#puncher.handleTimeout(now);
    this.#carryOut();
  }

  /** Once a second: who is reached through others, and is it used? */
  tick(now: Now): void {
    for (const peer of this.#deps.peers().all()) {
      if (peer.member === undefined || reachOf(peer) !== "indirect") continue;
      this.#puncher.pathIs(now, peer.nodeId, "indirect", this.#isUsed(now, peer.slot));
    }
    this.#carryOut();
  }

  report(now: Now, nodeId: Uint8Array): PunchReport | undefined {
    return this.#puncher.report(now, nodeId);
  }

  #isUsed(now: Now, slot: number): boolean {
    const figures = this.#deps.figures(slot);
    if (figures === undefined) return false;
    const bytes = figures.txBytes + figures.rxBytes;
    const known = this.#traffic.get(slot);
    if (known === undefined) this.#traffic.set(slot, { bytes, grewAtMs: now.nowMs });
    else if (bytes !== known.bytes) {
      known.bytes = bytes;
      known.grewAtMs = now.nowMs;
    }
    return now.nowMs - (known?.grewAtMs ?? now.nowMs) < IN_USE_MS;
  }

  /** Members reached directly that are likely to see that node too: beacons first. */
  #witnesses(nodeId: Uint8Array): Uint8Array[] {
    return this.#deps
      .peers()
      .all()
      .filter((peer) => peer.member !== undefined && peer.established && reachOf(peer) === "direct")
      .filter((peer) => !equal(peer.nodeId, nodeId))
      .toSorted((a, b) => Number(isBeacon(b)) - Number(isBeacon(a)))
      .slice(0, MAX_WITNESSES)
      .map((peer) => peer.nodeId);
  }

  /** Whoever asks may reach it over one family of addresses only, and it may be seen here at one of the other. Never rejects. */
  async #tellOtherSights(asker: Uint8Array, node: Uint8Array): Promise<void> {
    const peer = this.#peerOf(node);
    if (peer === undefined || reachOf(peer) !== "direct") return;
    const paths = await this.#deps.paths(peer.slot);
    const { endpoint: active } = peer;
    const others = paths.filter(
      ({ state, socket, endpoint }) =>
        state === PathState.ALIVE &&
        socket === 0 &&
        !isVirtualAddress(endpoint) &&
        (active === undefined || !equal(endpoint, active)),
    );
    for (const { endpoint } of others.slice(0, MAX_OTHER_SIGHTS))
      this.#deps.tell(asker, { type: "seen", node, endpoint });
  }

  #peerOf(nodeId: Uint8Array): PeerRecord | undefined {
    const key = this.#deps.mesh.memberById(nodeId)?.staticKey;
    return key === undefined ? undefined : this.#deps.peers().byKey(key);
  }

  #carryOut(): void {
    for (let output = this.#puncher.pollOutput(); output !== undefined; output = this.#puncher.pollOutput()) {
      if (output.kind === "send") this.#deps.mesh.tell(output.nodeId, output.message);
      else this.#order(output);
    }
  }

  #order(output: Exclude<PunchOutput, { kind: "send" }>): void {
    const peer = this.#peerOf(output.nodeId);
    if (peer === undefined) return;
    this.#deps.send({
      kind: "punch",
      peer: peer.slot,
      mode: output.kind,
      endpoints: output.kind === "plain" ? output.endpoints : [output.endpoint],
      count: output.kind === "fan" ? output.sockets : output.kind === "guess" ? output.count : 0,
      everyMs: output.everyMs,
      rounds: output.kind === "guess" ? 1 : output.rounds,
    });
  }
}

/** How data reaches that peer now. */
export function reachOf(peer: PeerRecord): Reach {
  if (peer.endpoint === undefined) return "none";
  return isVirtualAddress(peer.endpoint) ? "indirect" : "direct";
}

function isBeacon(peer: PeerRecord): boolean {
  return peer.member?.roles.includes("beacon") === true;
}
