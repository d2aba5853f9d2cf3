/**
 * Where agents live: leases of agents that this node hosts, of those for which it is a meeting node, and of those it has asked about. A lease comes from its host and
 * from nobody else, answers may come from anybody; either way both signatures in it are checked. Of two leases for an agent the higher version counts.
 * A lease that comes unasked is kept only by a node that is, by its own roster, among the first ten meeting nodes of the agent. What one peer delivers costs its own
 * share of checks. Bounds: 256 agents hosted, 4,096 places known, of each host at most 256 (at 256 its own least recently used goes, at 4,096 one of the host with
 * the most), 256 questions open, 3 meeting nodes asked each, one answer of each.
 * Source: docs/protocol.md, "Directory".
 */
import type { Now } from "../../base/clock.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import { type DirectoryFrame, DirectoryType, MAX_LEASE_BYTES } from "./frames.ts";
import type { AgentPlace, DirectoryCounters, OpenLease } from "./types.ts";

const MAX_HOSTED = 256;
const MAX_PLACES = 4096;
/** No host has more agents. */
const MAX_PLACES_OF_HOST = MAX_HOSTED;
const MAX_QUESTIONS = 256;
const ANNOUNCE_MS = 300_000;
const MOVED_MS = 5000;
/** Leases that a host shows per second. */
const ANNOUNCE_DISTANCE_MS = 100;

export interface AgentsHost {
  readonly selfId: Uint8Array;
  readonly random: Random;
  readonly openLease: OpenLease;
  /** Who meets at that key, this node perhaps among them. */
  meetingNodes(key: Uint8Array): readonly Uint8Array[];
  isMember(nodeId: Uint8Array): boolean;
  /** Whether this node is to keep what is said of that key. */
  isMeetingNode(key: Uint8Array): boolean;
  /** Whether the peer's share of checks allows one more. */
  mayCheck(now: Now, peerHex: string): boolean;
  send(to: Uint8Array, frame: DirectoryFrame): void;
  located(agent: Uint8Array, place: AgentPlace | undefined): void;
}

interface Hosted {
  readonly place: AgentPlace;
  dueMs: number;
}

interface Question {
  readonly agent: Uint8Array;
  readonly agentHex: string;
  readonly dueMs: number;
  /** Who has not answered yet. */
  readonly asked: Set<string>;
}

export class Agents {
  readonly #host: AgentsHost;
  readonly #counters: DirectoryCounters;
  readonly #hosted = new Map<string, Hosted>();
  /** In order of use, the latest last. */
  readonly #places = new Map<string, AgentPlace>();
  /** How many places there are of each host. */
  readonly #ofHosts = new Map<string, number>();
  readonly #selfHex: string;
  readonly #questions = new Map<number, Question>();
  #query: number;
  #announcedMs: number = Number.NEGATIVE_INFINITY;

  constructor(host: AgentsHost, counters: DirectoryCounters) {
    this.#host = host;
    this.#selfHex = toHex(host.selfId);
    this.#counters = counters;
    this.#query = host.random.u32();
  }

  /** @throws WeftError LEASE_INVALID, AGENTS_FULL */
  announce(now: Now, lease: Uint8Array): void {
    const opened = lease.length <= MAX_LEASE_BYTES ? this.#host.openLease(lease, now.wallMs) : undefined;
    if (opened === undefined || !equal(opened.nodeId, this.#host.selfId))
      throw new WeftError("LEASE_INVALID", "the lease does not bind an agent to this node", "sign a new one");
    const hex = toHex(opened.agent);
    if (!this.#hosted.has(hex) && this.#hosted.size >= MAX_HOSTED)
      throw new WeftError("AGENTS_FULL", `${MAX_HOSTED} agents live on this node`, "withdraw one, or use another node");
    const place: AgentPlace = { ...opened, lease };
    this.#hosted.set(hex, { place, dueMs: now.nowMs });
    this.#keep(hex, place);
  }

  withdraw(agent: Uint8Array): void {
    const hex = toHex(agent);
    const hosted = this.#hosted.get(hex);
    if (hosted === undefined) return;
    this.#hosted.delete(hex);
    if (this.#places.get(hex) === hosted.place) this.#forget(hex);
    this.#count();
  }

  whereIs(wallMs: number, agent: Uint8Array): AgentPlace | undefined {
    const hex = toHex(agent);
    const place = this.#places.get(hex);
    if (place === undefined) return undefined;
    if (place.expiresAtMs <= wallMs || !this.#host.isMember(place.nodeId)) {
      this.#forget(hex);
      return undefined;
    }
    this.#places.delete(hex);
    this.#places.set(hex, place);
    return place;
  }

  /** Answered by located(), perhaps at once. */
  locate(now: Now, agent: Uint8Array, timeoutMs: number): void {
    const others = this.#host.meetingNodes(agent).filter((nodeId) => !equal(nodeId, this.#host.selfId));
    this.#counters.lookups++;
    if (others.length === 0 || this.#questions.size >= MAX_QUESTIONS) {
      this.#answer(now, agent);
      return;
    }
    this.#query = (this.#query + 1) >>> 0;
    const asked = new Set(others.map((nodeId) => toHex(nodeId)));
    const question = { agent, agentHex: toHex(agent), dueMs: now.nowMs + timeoutMs, asked };
    this.#questions.set(this.#query, question);
    for (const to of others) this.#host.send(to, { type: DirectoryType.LOCATE, query: this.#query, agent });
  }

  handleLease(now: Now, from: Uint8Array, lease: Uint8Array): void {
    const place = this.#open(now, toHex(from), lease);
    if (place !== undefined && equal(place.nodeId, from) && this.#host.isMeetingNode(place.agent)) this.#take(place);
    else this.#counters.recordsRefused++;
  }

  handleLocate(now: Now, from: Uint8Array, query: number, agent: Uint8Array): void {
    const place = this.whereIs(now.wallMs, agent);
    const lease = place?.lease ?? new Uint8Array(0);
    this.#host.send(from, { type: DirectoryType.LOCATED, query, agent, lease });
  }

  handleLocated(now: Now, fromHex: string, query: number, agent: Uint8Array, lease: Uint8Array): void {
    const question = this.#questions.get(query);
    if (question === undefined || question.agentHex !== toHex(agent) || !question.asked.delete(fromHex)) return;
    if (lease.length > 0) {
      const place = this.#open(now, fromHex, lease);
      if (place === undefined || !equal(place.agent, agent)) this.#counters.recordsRefused++;
      else {
        this.#take(place);
        this.#questions.delete(query);
        this.#answer(now, agent);
        return;
      }
    }
    if (question.asked.size > 0) return;
    this.#questions.delete(query);
    this.#answer(now, agent);
  }

  memberGone(nodeId: Uint8Array): void {
    for (const [hex, place] of this.#places) if (equal(place.nodeId, nodeId)) this.#forget(hex);
    this.#count();
  }

  /** The meeting nodes may be others now: show everything again, spread over a few seconds. */
  membersChanged(now: Now): void {
    for (const hosted of this.#hosted.values())
      hosted.dueMs = Math.min(hosted.dueMs, now.nowMs + MOVED_MS * this.#host.random.unit());
  }

  handleTimeout(now: Now): void {
    for (const [query, question] of this.#questions) {
      if (now.nowMs < question.dueMs) continue;
      this.#questions.delete(query);
      this.#answer(now, question.agent);
    }
    if (now.nowMs < this.#announcedMs + ANNOUNCE_DISTANCE_MS) return;
    for (const [hex, hosted] of this.#hosted) {
      if (now.nowMs < hosted.dueMs) continue;
      this.#announcedMs = now.nowMs;
      hosted.dueMs = now.nowMs + ANNOUNCE_MS * (0.8 + 0.4 * this.#host.random.unit());
      if (hosted.place.expiresAtMs <= now.wallMs) this.#hosted.delete(hex);
      else {
        for (const to of this.#host.meetingNodes(hosted.place.agent)) {
          if (!equal(to, this.#host.selfId))
            this.#host.send(to, { type: DirectoryType.LEASE, lease: hosted.place.lease });
        }
      }
      break;
    }
  }

  nextTimeoutMs(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const question of this.#questions.values()) next = Math.min(next, question.dueMs);
    let due = Number.POSITIVE_INFINITY;
    for (const hosted of this.#hosted.values()) due = Math.min(due, hosted.dueMs);
    return Math.min(next, Math.max(due, this.#announcedMs + ANNOUNCE_DISTANCE_MS));
  }

  #open(now: Now, fromHex: string, lease: Uint8Array): AgentPlace | undefined {
    if (!this.#host.mayCheck(now, fromHex)) return undefined;
    const opened = this.#host.openLease(lease, now.wallMs);
    return opened === undefined || !this.#host.isMember(opened.nodeId) ? undefined : { ...opened, lease };
  }

  #take(place: AgentPlace): void {
    const hex = toHex(place.agent);
    const known = this.#places.get(hex);
    if (known !== undefined && known.version >= place.version) return;
    this.#counters.recordsAccepted++;
    // it has moved
    if (this.#hosted.has(hex)) this.#hosted.delete(hex);
    this.#keep(hex, place);
  }

  #keep(hex: string, place: AgentPlace): void {
    this.#forget(hex);
    this.#places.set(hex, place);
    const hostHex = toHex(place.nodeId);
    const ofHost = (this.#ofHosts.get(hostHex) ?? 0) + 1;
    this.#ofHosts.set(hostHex, ofHost);
    if (ofHost > MAX_PLACES_OF_HOST) this.#evict(hostHex);
    if (this.#places.size > MAX_PLACES) {
      let most = "";
      for (const [host, count] of this.#ofHosts)
        if (host !== this.#selfHex && count > (this.#ofHosts.get(most) ?? 0)) most = host;
      this.#evict(most);
    }
    this.#count();
  }

  /** The least recently used of that host. */
  #evict(hostHex: string): void {
    for (const [hex, { nodeId }] of this.#places) {
      if (toHex(nodeId) !== hostHex || this.#hosted.has(hex)) continue;
      this.#forget(hex);
      this.#counters.recordsEvicted++;
      return;
    }
  }

  #forget(hex: string): void {
    const place = this.#places.get(hex);
    if (place === undefined) return;
    this.#places.delete(hex);
    const hostHex = toHex(place.nodeId);
    const left = (this.#ofHosts.get(hostHex) ?? 1) - 1;
    if (left > 0) this.#ofHosts.set(hostHex, left);
    else this.#ofHosts.delete(hostHex);
  }

  #answer(now: Now, agent: Uint8Array): void {
    const place = this.whereIs(now.wallMs, agent);
    if (place === undefined) this.#counters.lookupsFailed++;
    this.#host.located(agent, place);
  }

  #count(): void {
    this.#counters.agents = this.#places.size;
  }
}
