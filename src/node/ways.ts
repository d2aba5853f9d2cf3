/**
 * Routing through members on the control thread: tells the routing machine who is reached directly, who is wanted and what is in use, and carries out
 * what it wants, through sessions (messages) and the data plane (labels). Node ids become slots here.
 *
 *   traffic or a dial, no answer after 300 ms ──► seek ──► lookups ──► a way ──► candidates of the peer ──► handshake, probes and data go over it
 * Source: docs/protocol.md, "Routing through members".
 */
import type { Now } from "../base/clock.ts";
import { equal } from "../base/bytes.ts";
import { VirtualType, virtualOf } from "../base/endpoint.ts";
import type { Random } from "../base/random.ts";
import { type Identity, verifySignature } from "../crypto/identity.ts";
import type { Command, PeerFigures } from "../dataplane/messages.ts";
import { hasIdForm } from "../mesh/id-form.ts";
import type { MeshNode } from "../mesh/mesh-node.ts";
import type { RoutingMessage } from "../mesh/routing/messages.ts";
import { Routing, type RoutingOptions, type RoutingOutput } from "../mesh/routing/routing.ts";
import { formatNodeId } from "../crypto/node-id.ts";
import type { PeerRecord, PeerTable } from "./peer-table.ts";

/** A direct answer that takes longer is not waited for. */
const DIRECT_WAIT_MS = 300;
/** Nobody asked for the peer in that time: the wait is over. */
const WAIT_LIFE_MS = 5000;
/** A peer without traffic for this long is not in use. */
const IN_USE_MS = 30_000;
/** Seconds with traffic after which a way in reserve is worth looking for; a single ping is not. */
const SUSTAINED_TICKS = 3;
/** The plane did not take it (ViaFailure.REFUSED). */
const REFUSED = 4;

export interface WaysDeps {
  readonly identity: Identity;
  readonly mesh: MeshNode;
  readonly peers: () => PeerTable;
  readonly random: Random;
  readonly send: (command: Command) => void;
  readonly figures: (slot: number) => PeerFigures | undefined;
  /** The peer can be reached by other ways than before. */
  readonly candidatesChanged: (now: Now, peer: PeerRecord) => void;
}

export interface WaysOptions {
  /** Forward for any two members, as beacons do anyway. @default false */
  readonly relay?: boolean | undefined;
  /** Names or node ids of members that may use this node as transit; undefined: all. @default undefined */
  readonly transit?: readonly string[] | undefined;
  /** Bytes per second that one member may send through this node, on all its ways together; 0 = no limit. @default 50000000 */
  readonly forwardBytesPerSecond?: number | undefined;
}

/** A way to a peer through others, for `weft explain`. */
export interface ThroughView {
  readonly id: number;
  readonly kind: "relay" | "transit";
  readonly via: readonly string[];
  readonly state: string;
  readonly reason: string;
}

interface Wait {
  readonly sinceMs: number;
  lastMs: number;
  /** Packets wait, not just a neighbour that ought to be connected. */
  isTraffic: boolean;
  isSought: boolean;
}

export class Ways {
  readonly #deps: WaysDeps;
  readonly #routing: Routing;
  readonly #waits = new Map<number, Wait>();
  /** Per slot: bytes of user data when last looked at, when they last grew, and in how many ticks since it was idle. */
  readonly #traffic = new Map<number, { bytes: number; grewAtMs: number; ticks: number }>();
  #waitDueMs = Infinity;
  #isCarrying = false;

  constructor(deps: WaysDeps, options: WaysOptions = {}) {
    this.#deps = deps;
    const { identity, mesh, random } = deps;
    const networkId = (): Uint8Array => mesh.networkId ?? new Uint8Array(32);
    const routing: RoutingOptions = {
      relay: options.relay ?? false,
      forwardBytesPerSecond: options.forwardBytesPerSecond ?? 50_000_000,
    };
    this.#routing = new Routing(
      {
        nodeId: identity.nodeId,
        random,
        sign: (kind, body) => identity.sign(kind, networkId(), body),
        verify: (nodeId, kind, body, signature) => verifySignature(nodeId, kind, networkId(), body, signature),
        isMember: (nodeId) => mesh.memberById(nodeId) !== undefined,
        isBeacon: (nodeId) => mesh.memberById(nodeId)?.roles.includes("beacon") === true,
        mayTransit: (nodeId) => {
          const name = mesh.memberById(nodeId)?.name ?? "";
          return (
            options.transit === undefined ||
            (!hasIdForm(name) && options.transit.includes(name)) ||
            options.transit.includes(formatNodeId(nodeId))
          );
        },
      },
      routing,
    );
  }

  get counters(): Routing["counters"] {
    return this.#routing.counters;
  }

  /** Paths of others that lead through this node. */
  get forwards(): number {
    return this.#routing.forwards;
  }

  get nextTimeoutMs(): number {
    return Math.min(this.#routing.nextTimeoutMs, this.#waitDueMs);
  }

  /** Virtual endpoints of the peer, 18 bytes each, best first. */
  candidates(now: Now, nodeId: Uint8Array): Uint8Array[] {
    return this.#routing.candidates(now, nodeId);
  }

  /** The session with that node carries more than its own traffic. */
  isHop(nodeId: Uint8Array): boolean {
    return this.#routing.isHop(nodeId);
  }

  /** What a path through others is, and through whom. @returns undefined for a direct one */
  through(endpoint: Uint8Array): { readonly kind: "relay" | "transit"; readonly via: string } | undefined {
    const virtual = virtualOf(endpoint);
    if (virtual?.type !== VirtualType.LABEL) return undefined;
    const via = this.#routing.via(virtual.id);
    const kind = virtual.pathKind === 1 ? "relay" : "transit";
    return { kind, via: via === undefined ? "" : this.#nameOf(via.viaNodeId) };
  }

  /** Every way to the node through others, used or not; while there is none, how the search for one stands. */
  describe(now: Now, nodeId: Uint8Array): ThroughView[] {
    const ways = this.#routing.describe(now, nodeId).map(({ id, kind, viaNodeId, hops, state, reason }) => {
      const more = hops > 2 ? [`${hops - 2} more`] : [];
      return { id, kind, via: [this.#nameOf(viaNodeId), ...more], state, reason };
    });
    const search = this.#routing.search(nodeId);
    if (ways.length > 0 || search === undefined || search.attempts === 0) return ways;
    const next = search.nextAtMs === Infinity ? "" : `; next in ${Math.ceil((search.nextAtMs - now.nowMs) / 1000)} s`;
    const reason = `${search.attempts} lookups, the last one to ${search.asked} members${next}`;
    return [{ id: 0, kind: "transit", via: ["other members"], state: "looked for", reason }];
  }

  // ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * A session is wanted, or what there is does not deliver. @param isTraffic packets wait for it
   * @param isOverdue a direct answer was waited for already
   */
  wanted(now: Now, peer: PeerRecord, isTraffic: boolean, isOverdue = false): void {
    if (peer.member === undefined) return;
    let wait = this.#waits.get(peer.slot);
    if (wait === undefined) {
      const isReachable = !isOverdue && this.#deps.mesh.candidates(peer.nodeId, now.wallMs).length > 0;
      wait = { sinceMs: isReachable ? now.nowMs : now.nowMs - DIRECT_WAIT_MS, lastMs: 0, isTraffic, isSought: false };
      this.#waits.set(peer.slot, wait);
    }
    wait.lastMs = now.nowMs;
    wait.isTraffic ||= isTraffic;
    const dueMs = wait.sinceMs + DIRECT_WAIT_MS;
    if (isOverdue || now.nowMs >= dueMs) this.#look(now, peer, wait);
    else this.#waitDueMs = Math.min(this.#waitDueMs, dueMs);
    this.#carryOut(now);
  }

  /** The peer's session or active path came, changed or ended. */
  changed(now: Now, peer: PeerRecord): void {
    if (peer.member === undefined) return;
    const virtual = peer.endpoint === undefined ? undefined : virtualOf(peer.endpoint);
    const isDirect = peer.established && !peer.stopping && peer.endpoint !== undefined && !isLabel(peer);
    if (isDirect) this.#routing.peerUp(now, peer.nodeId, { rttMs: this.#rttOf(peer) });
    else this.#routing.peerDown(now, peer.nodeId);
    if (peer.established && peer.endpoint !== undefined && !peer.silent) {
      this.#waits.delete(peer.slot);
      this.#routing.forget(now, peer.nodeId);
    }
    // data on a way that is just taken up counts as use: it is there because somebody wants it
    if (virtual?.type === VirtualType.LABEL) this.#routing.using(now, peer.nodeId, { via: virtual.id });
    this.#carryOut(now);
  }

  /** The slot is given back. @param isRemoved the node is no member any more */
  removed(now: Now, peer: PeerRecord): void {
    this.#waits.delete(peer.slot);
    this.#traffic.delete(peer.slot);
    if (peer.member === undefined) return;
    if (this.#deps.mesh.memberById(peer.nodeId) === undefined) this.#routing.memberRemoved(now, peer.nodeId);
    else this.#routing.peerDown(now, peer.nodeId);
    this.#carryOut(now);
  }

  handle(now: Now, nodeId: Uint8Array, message: RoutingMessage): void {
    this.#routing.handle(now, nodeId, message);
    this.#carryOut(now);
  }

  viaFailed(now: Now, id: number, code: number): void {
    this.#routing.viaFailed(now, id, code);
    this.#carryOut(now);
  }

  forwardExpired(now: Now, label: number, from: number): void {
    const peer = this.#deps.peers().bySlot(from);
    if (peer?.member !== undefined) this.#routing.forwardExpired(now, label, peer.nodeId);
    this.#carryOut(now);
  }

  handleTimeout(now: Now): void {
    if (now.nowMs >= this.#waitDueMs) {
      this.#waitDueMs = Infinity;
      for (const [slot, wait] of this.#waits) {
        const dueMs = wait.sinceMs + DIRECT_WAIT_MS;
        const peer = this.#deps.peers().bySlot(slot);
        if (peer === undefined || wait.isSought) continue;
        if (now.nowMs >= dueMs) this.#look(now, peer, wait);
        else this.#waitDueMs = Math.min(this.#waitDueMs, dueMs);
      }
    }
    this.#routing.handleTimeout(now);
    this.#carryOut(now);
  }

  /** Once a second: round trips, and who is in use. */
  tick(now: Now): void {
    for (const peer of this.#deps.peers().all()) {
      if (peer.member === undefined) continue;
      const wait = this.#waits.get(peer.slot);
      if (wait !== undefined && now.nowMs - wait.lastMs > WAIT_LIFE_MS) this.#waits.delete(peer.slot);
      if (!peer.established || peer.endpoint === undefined) {
        this.#routing.using(now, peer.nodeId, undefined);
        continue;
      }
      const virtual = virtualOf(peer.endpoint);
      const via = virtual?.type === VirtualType.LABEL ? virtual.id : undefined;
      if (via === undefined) {
        const rttMs = this.#rttOf(peer);
        this.#routing.peerUp(now, peer.nodeId, { rttMs });
        this.#deps.mesh.noteRtt(peer.nodeId, rttMs);
      }
      this.#routing.using(
        now,
        peer.nodeId,
        this.#isUsed(now, peer.slot, via === undefined ? SUSTAINED_TICKS : 1) ? { via } : undefined,
      );
    }
    this.#carryOut(now);
  }

  // ── carrying out ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #look(now: Now, peer: PeerRecord, wait: Wait): void {
    wait.isSought = true;
    if (wait.isTraffic) this.#routing.seek(now, peer.nodeId);
    else this.#routing.glance(now, peer.nodeId);
  }

  #carryOut(now: Now): void {
    // what the owner does about a change may lead back here: the loop below takes what comes of it
    if (this.#isCarrying) return;
    this.#isCarrying = true;
    try {
      for (let output = this.#routing.pollOutput(); output !== undefined; output = this.#routing.pollOutput())
        this.#follow(now, output);
    } finally {
      this.#isCarrying = false;
    }
  }

  #follow(now: Now, output: RoutingOutput): void {
    switch (output.kind) {
      case "send":
        return this.#deps.mesh.tell(output.nodeId, output.message);
      case "via": {
        const hop = this.#peerOf(output.hop)?.slot;
        if (hop === undefined) return this.#routing.viaFailed(now, output.id, REFUSED);
        const { id, out, pathKind } = output;
        return this.#deps.send({ kind: "via", id, hop, out, in: output.in, pathKind });
      }
      case "viaRemove":
        return this.#deps.send(output);
      case "forward": {
        const from = this.#peerOf(output.from)?.slot;
        const to = this.#peerOf(output.to)?.slot;
        const { label, out, bytesPerSecond } = output;
        if (from === undefined || to === undefined) return this.#routing.forwardExpired(now, label, output.from);
        return this.#deps.send({ kind: "forward", label, from, to, out, bytesPerSecond });
      }
      case "forwardRemove": {
        const from = this.#peerOf(output.from)?.slot;
        if (from !== undefined) this.#deps.send({ kind: "forwardRemove", label: output.label, from });
        return;
      }
      case "candidatesChanged": {
        const peer = this.#peerOf(output.nodeId);
        if (peer !== undefined) this.#deps.candidatesChanged(now, peer);
      }
    }
  }

  #isUsed(now: Now, slot: number, ticks: number): boolean {
    const figures = this.#deps.figures(slot);
    if (figures === undefined) return false;
    const bytes = figures.txBytes + figures.rxBytes;
    const known = this.#traffic.get(slot);
    if (known === undefined) {
      const grewAtMs = bytes > 0 ? now.nowMs : -Infinity;
      this.#traffic.set(slot, { bytes, grewAtMs, ticks: bytes > 0 ? 1 : 0 });
      return bytes > 0 && ticks <= 1;
    }
    if (bytes !== known.bytes) {
      known.bytes = bytes;
      known.ticks = now.nowMs - known.grewAtMs < IN_USE_MS ? known.ticks + 1 : 1;
      known.grewAtMs = now.nowMs;
    }
    return known.ticks >= ticks && now.nowMs - known.grewAtMs < IN_USE_MS;
  }

  #rttOf(peer: PeerRecord): number | undefined {
    const rttMs = this.#deps.figures(peer.slot)?.rttMs ?? -1;
    return rttMs < 0 ? undefined : rttMs;
  }

  #peerOf(nodeId: Uint8Array): PeerRecord | undefined {
    const key = this.#deps.mesh.memberById(nodeId)?.staticKey;
    return key === undefined
      ? this.#deps
          .peers()
          .all()
          .find((peer) => equal(peer.nodeId, nodeId))
      : this.#deps.peers().byKey(key);
  }

  #nameOf(nodeId: Uint8Array): string {
    return this.#deps.mesh.memberById(nodeId)?.name ?? formatNodeId(nodeId).slice(0, 8);
  }
}

function isLabel(peer: PeerRecord): boolean {
  return peer.endpoint !== undefined && virtualOf(peer.endpoint)?.type === VirtualType.LABEL;
}
