/**
 * The paths of all peers as the engine sees them: what proves and breaks them, and what follows when the active one, its size or its figures change (routes,
 * statistics, queues that wait, the control thread).
 */
import { NAME_FAMILY, readName, writeName } from "../base/name.ts";
import { PMTU_BASE_BYTES } from "../path/pmtu.ts";
import type { Epoch } from "../session/epochs.ts";
import { DATA_OVERHEAD_BYTES, OUTER_IPV4_BYTES, OUTER_IPV6_BYTES } from "../wire/data.ts";
import { adaptToPath } from "./adapt.ts";
import type { Door } from "./door.ts";
import { type EngineContext, KEEPALIVE_AFTER_MS } from "./engine-context.ts";
import type { InnerMessages } from "./inner-messages.ts";
import type { EndpointBytes } from "./messages.ts";
import type { Outbound } from "./outbound.ts";
import type { PeerState } from "./peer.ts";
import { Pings } from "./pings.ts";
import { Counter, PeerField } from "./stats.ts";
import type { VirtualPaths } from "./virtual.ts";

const EMSGSIZE = 90;
const ERRORS_PER_TURN = 64;
/** Smallest MTU of IPv4 hosts; what says less is no hint. */
const MIN_HINT_BYTES = 576;

export interface PathWatchDeps {
  readonly context: EngineContext;
  readonly outbound: Outbound;
  readonly virtual: VirtualPaths;
  readonly door: Door;
  readonly inner: () => InnerMessages;
}

export class PathWatch {
  readonly #context: EngineContext;
  readonly #deps: PathWatchDeps;
  readonly #outbound: Outbound;
  readonly #pings = new Pings();
  /** Where an epoch's handshake answer went: its first authenticated packet from there proves the address. */
  readonly #expected = new Map<number, EndpointBytes>();

  constructor(deps: PathWatchDeps) {
    this.#context = deps.context;
    this.#deps = deps;
    this.#outbound = deps.outbound;
  }

  // ── what proves a path ───────────────────────────────────────────────────────────────────────────────────────────────

  /** The answer of this epoch's handshake went there. */
  expect(epochId: number, endpoint: EndpointBytes): void {
    this.#expected.set(epochId, endpoint);
  }

  forgetEpoch(epochId: number): void {
    this.#expected.delete(epochId);
  }

  /** First authenticated packet under an epoch. */
  proof(peer: PeerState, epoch: Epoch): void {
    const context = this.#context;
    const expected = this.#expected.get(epoch.epochId);
    if (expected !== undefined) {
      this.#expected.delete(epoch.epochId);
      peer.paths.confirmIfSeen(context.nowMs, writeName(context.u8, expected, context.scratchName));
    }
    context.emit({ kind: "proof", peer: peer.slot, epochId: epoch.epochId });
    this.changed(peer);
  }

  /** A handshake has proven the address. */
  confirm(peer: PeerState, endpoint: EndpointBytes): void {
    const { u8, scratchName, nowMs } = this.#context;
    peer.paths.confirm(nowMs, writeName(u8, endpoint, scratchName));
    this.changed(peer);
    this.#outbound.released(peer);
  }

  /** Called after packets of a peer were accepted: paths may want to answer, timers may have moved. */
  arrived(peer: PeerState): void {
    if (peer.paths.active !== peer.toldPath) this.changed(peer);
    this.#context.schedulePaths(peer);
    if (peer.unansweredReceiveMs >= 0) this.#context.schedule(peer.slot, peer.unansweredReceiveMs + KEEPALIVE_AFTER_MS);
  }

  // ── what breaks a path ───────────────────────────────────────────────────────────────────────────────────────────────

  /** A datagram was refused as too big for the active path; a via knows how much it takes. */
  tooBig(peer: PeerState, datagramBytes: number): void {
    const { paths } = peer;
    const { nowMs } = this.#context;
    const limitBytes = paths.active < 0 ? 0 : this.#deps.virtual.limitBytes(paths.activeName());
    const mtuBytes = Math.max(PMTU_BASE_BYTES, limitBytes + OUTER_IPV6_BYTES);
    const known = limitBytes > 0 && limitBytes < datagramBytes;
    if (!known || !paths.mtuError(nowMs, paths.activeName(), mtuBytes)) paths.tooBig(nowMs, datagramBytes);
    this.#touched(peer);
  }

  /** The path of this name does not deliver. */
  failed(name: number): void {
    const { peers, nowMs } = this.#context;
    for (const peer of peers) if (peer?.paths.failed(nowMs, name) === true) this.#touched(peer);
  }

  /** The path of this name is gone for good. */
  gone(name: number): void {
    const { peers, nowMs } = this.#context;
    for (const peer of peers) if (peer?.paths.remove(nowMs, name) === true) this.#touched(peer);
  }

  /** Those of the host. */
  addressesChanged(): void {
    const context = this.#context;
    for (const peer of context.peers) {
      if (peer === undefined) continue;
      peer.paths.addressesChanged(context.nowMs);
      context.schedulePaths(peer);
    }
    context.emit({ kind: "netlink" });
  }

  /** What the kernel says about datagrams sent earlier: how large they may be. */
  drainErrors(family: 4 | 6): void {
    const { deps, peers, stats, nowMs } = this.#context;
    const { udp } = deps;
    for (let i = 0; i < ERRORS_PER_TURN && udp.takeError(family) > 0; i++) {
      stats.add(Counter.socketErrors, 1);
      const { errno, info, name } = udp.error;
      if (errno !== EMSGSIZE || info < MIN_HINT_BYTES) continue;
      for (const peer of peers) if (peer?.paths.mtuError(nowMs, name, info) === true) this.#touched(peer);
    }
  }

  #touched(peer: PeerState): void {
    this.changed(peer);
    this.#context.schedulePaths(peer);
  }

  // ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────

  ping(slot: number, token: number): void {
    const context = this.#context;
    const peer = context.peers[slot];
    if (peer === undefined) return;
    if (peer.sendEpoch === undefined) {
      context.needSession(peer);
      return;
    }
    const id = peer.paths.ping(context.nowMs, this.#deps.inner().sinkOf(peer));
    if (id < 0) return;
    this.#pings.add(slot, id, token);
    peer.unansweredReceiveMs = -1;
  }

  pong(peer: PeerState): void {
    const { paths } = peer;
    const context = this.#context;
    this.#pings.answered(peer.slot, paths.lastAckId, (token) => {
      const endpoint = readName(context.u8, paths.nameOf(paths.lastAckPath));
      context.emit({ kind: "pong", peer: peer.slot, token, rttMs: paths.lastAckRttMs, endpoint });
    });
  }

  tell(slot: number, token: number): void {
    const { nowMs, peers } = this.#context;
    const paths = (peers[slot]?.paths.figures() ?? []).map((path) => ({
      endpoint: path.endpoint,
      local: path.local,
      socket: path.socket,
      active: path.active,
      duplicate: path.duplicate,
      state: path.state,
      reason: path.reason,
      rttMs: path.rttMs,
      lossRatio: path.lossRatio,
      mtuBytes: path.mtuBytes,
      lastReceivedAgoMs: path.lastReceivedMs < 0 ? -1 : Math.max(0, nowMs - path.lastReceivedMs),
    }));
    this.#context.emit({ kind: "paths", peer: slot, token, paths });
  }

  // ── what follows ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Publishes the active path where it, its MTU or its figures changed. */
  changed(peer: PeerState): void {
    const { paths } = peer;
    const context = this.#context;
    const { u8, stats } = context;
    const { active } = paths;
    const { cells } = stats;
    const mtuBytes = active >= 0 ? paths.mtuBytes : 0;
    cells[peer.row + PeerField.rttMs] = active >= 0 ? paths.rttMs : -1;
    cells[peer.row + PeerField.lossRatio] = active >= 0 ? paths.lossRatio : 0;
    cells[peer.row + PeerField.mtuBytes] = mtuBytes;
    cells[peer.row + PeerField.rateBps] = paths.rateBps;
    adaptToPath(peer, context.nowMs, stats);
    const outerBytes = active >= 0 && u8[paths.activeName() + NAME_FAMILY] !== 4 ? OUTER_IPV6_BYTES : OUTER_IPV4_BYTES;
    const innerBytes = active >= 0 ? paths.innerBytes(DATA_OVERHEAD_BYTES) : peer.maxPacketBytes;
    const observed = paths.takeObserved();
    if (observed !== undefined) context.emit({ kind: "observed", peer: peer.slot, endpoint: observed });
    const same = active === peer.toldPath && innerBytes === peer.maxPacketBytes && mtuBytes === peer.toldMtuBytes;
    if (same && !paths.takeActiveChanged()) return;
    peer.toldPath = active;
    peer.toldMtuBytes = mtuBytes;
    peer.maxPacketBytes = innerBytes;
    if (active >= 0) this.#outbound.released(peer);
    if (active >= 0) this.#deps.door.noteKnown(readName(u8, paths.activeName()));
    context.emit({
      kind: "path",
      peer: peer.slot,
      endpoint: active >= 0 ? readName(u8, paths.activeName()) : undefined,
      // what the routes are to follow: the largest inner packet, in terms of this path
      mtuBytes: active >= 0 ? innerBytes + DATA_OVERHEAD_BYTES + outerBytes : 0,
    });
  }
}
