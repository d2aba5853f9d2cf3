/**
 * Hole punching, sans-I/O: two nodes that reach each other only through somebody else tell each other, through that way, where they may be
 * met and how their NATs behave, and then both send at the same time. What is sent, and from how many sockets, is the data plane's work:
 *
 *   plain   probes to every address of the other, from the main socket: enough unless a NAT gives every destination another port
 *   fan     this side's NAT is of that kind: probes to the other's address from 256 sockets, so that 256 ports are open
 *   guess   the other side's NAT is: probes to random ports of its address, at most 1,024 at 200 a second
 *
 * The last two go only to an address at which a third member sees the peer (`sight`, `seen`), so a member cannot point them at a stranger.
 * Each attempt has a number; what belongs to an earlier one changes nothing. Bounds: MAX_PEERS peers, beyond them nobody is tried until
 * another one is done; one attempt per peer at a time, after a failure a pause of 10 s that doubles up to 10 minutes. Attempts that a peer
 * begins are taken every 2 s at most.
 * Source: docs/protocol.md, "Hole punching"; RFC 4787 (mapping kinds), RFC 5128 section 3.
 */
import type { Now } from "../../base/clock.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { ENDPOINT_BYTES } from "../../base/endpoint.ts";
import type { Random } from "../../base/random.ts";
import type { PunchMessage, SeenMessage, SightMessage } from "./messages.ts";
import { Mapping, MAX_PUNCH_ENDPOINTS } from "./messages.ts";
import { judge, type Verdict } from "./verdict.ts";

const MAX_PEERS = 1024;
const ASK_EVERY_MS = 500;
const ASKS = 5;
const PLAIN_EVERY_MS = 250;
/** Two seconds: the other side begins half a round trip later, at most one second. */
const PLAIN_ROUNDS = 8;
/** While nothing has come of that, the same now and then. */
const SLOW_EVERY_MS = 1_000;
const SLOW_ROUNDS = 5;
const FAN_SOCKETS = 256;
/** A NAT forgets an unanswered mapping after 30 s at the earliest in practice; all sockets are heard again well before. */
const FAN_EVERY_MS = 2_000;
const FAN_ROUNDS = 5;
const GUESSES = 1024;
const GUESS_EVERY_MS = 5;
/** Waits for the answer, the third member and the guesses. */
const ATTEMPT_MS = 12_000;
/** When plain probes alone have not met for so long, a NAT that nobody knows is assumed to be a hard one. */
const PLAIN_MS = 3_000;
/** A peer may begin an attempt so often; its second stage comes PLAIN_MS after its first, and it asks again when it was refused. */
const REMOTE_EVERY_MS = 2_000;
const REST_MIN_MS = 10_000;
const REST_MAX_MS = 600_000;
const MAX_SIGHTS = 4;
/** Asked how they see the peer. */
const MAX_WITNESSES = 3;

export type PunchOutput =
  | {
      readonly kind: "send";
      readonly nodeId: Uint8Array;
      readonly message: PunchMessage | SightMessage | SeenMessage;
    }
  | {
      readonly kind: "plain";
      readonly nodeId: Uint8Array;
      readonly endpoints: readonly Uint8Array[];
      readonly everyMs: number;
      readonly rounds: number;
    }
  | {
      readonly kind: "fan";
      readonly nodeId: Uint8Array;
      readonly endpoint: Uint8Array;
      readonly sockets: number;
      readonly everyMs: number;
      readonly rounds: number;
    }
  | {
      readonly kind: "guess";
      readonly nodeId: Uint8Array;
      /** Its port is the last one seen, and is tried first. */
      readonly endpoint: Uint8Array;
      readonly count: number;
      readonly everyMs: number;
    };

/** How data reaches the peer now. */
export type Reach = "direct" | "indirect" | "none";

export interface PunchReport {
  readonly state: "direct" | "asking" | "punching" | "resting" | "idle";
  readonly attempts: number;
  readonly ownMapping: Mapping;
  readonly peerMapping: Mapping;
  /** Addresses the peer named in its last answer. */
  readonly peerEndpoints: readonly Uint8Array[];
  /** Where other members see the peer. */
  readonly seenAt: readonly Uint8Array[];
  readonly tried: readonly ("plain" | "fan" | "guess")[];
  /** Until the next attempt, ms; 0 = none is planned. */
  readonly nextAttemptInMs: number;
  readonly verdict: Verdict;
}

export interface PuncherDeps {
  readonly random: Random;
  /** Where this node may be met now, best first, without virtual endpoints. */
  readonly own: () => readonly Uint8Array[];
  readonly mapping: () => Mapping;
  /** Members with a direct session, likely to see that peer too: its relay first. */
  readonly witnesses: (nodeId: Uint8Array) => readonly Uint8Array[];
  /** Where this node itself sees that member on a direct path; undefined when it does not. */
  readonly sight: (nodeId: Uint8Array) => Uint8Array | undefined;
}

interface Peer {
  readonly nodeId: Uint8Array;
  reach: Reach;
  wanted: boolean;
  state: "idle" | "asking" | "punching" | "resting";
  attempt: number;
  asksLeft: number;
  dueMs: number;
  attemptEndsMs: number;
  restMs: number;
  peerMapping: Mapping;
  /** Second stage of an attempt: a NAT that is not known may be a hard one. */
  supposes: boolean;
  /** This side began the attempt, and says when its second stage comes. */
  isInitiator: boolean;
  endpoints: readonly Uint8Array[];
  seenAt: Uint8Array[];
  /** Hex of the witnesses that were asked in this attempt: only their word counts. */
  asked: Set<string>;
  /** When the peer last began an attempt. */
  remoteAtMs: number;
  tried: Set<"plain" | "fan" | "guess">;
  answered: boolean;
  attempts: number;
}

export class Puncher {
  readonly counters: { attempts: number; successes: number; failures: number; late: number; refused: number } = {
    attempts: 0,
    successes: 0,
    failures: 0,
    late: 0,
    refused: 0,
  };
  readonly #deps: PuncherDeps;
  readonly #peers = new Map<string, Peer>();
  readonly #outputs: PunchOutput[] = [];

  constructor(deps: PuncherDeps) {
    this.#deps = deps;
  }

  /** When handleTimeout() wants to be called, monotonic ms; Infinity = never. */
  get nextTimeoutMs(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const peer of this.#peers.values()) next = Math.min(next, peer.dueMs);
    return next;
  }

  pollOutput(): PunchOutput | undefined {
    return this.#outputs.shift();
  }

  /**
   * How that member is reached, told at every change and while traffic flows.
   * @param inUse user data flows, or somebody asked for the peer: worth an attempt
   */
  pathIs(now: Now, nodeId: Uint8Array, reach: Reach, inUse: boolean): void {
    const hex = toHex(nodeId);
    let peer = this.#peers.get(hex);
    if (peer === undefined) {
      if (reach !== "indirect" || !inUse) return;
      peer = this.#add(nodeId, hex);
      if (peer === undefined) return;
    }
    const before = peer.reach;
    peer.reach = reach;
    peer.wanted = inUse;
    if (reach === "direct") {
      if (before !== "direct" && (peer.state === "punching" || peer.state === "asking")) this.counters.successes++;
      this.#settle(peer);
      peer.restMs = REST_MIN_MS;
    } else if (reach === "none") {
      this.#settle(peer);
    } else if (inUse && peer.state === "idle") {
      this.#begin(now, peer);
    }
  }

  /** Own addresses or NAT changed: pauses end, because what failed may work now. */
  surroundingsChanged(now: Now): void {
    for (const peer of this.#peers.values()) {
      peer.restMs = REST_MIN_MS;
      if (peer.state === "resting") peer.dueMs = Math.min(peer.dueMs, now.nowMs + this.#deps.random.unit() * 500);
    }
  }

  /** The session with that member is gone for good. */
  forget(nodeId: Uint8Array): void {
    this.#peers.delete(toHex(nodeId));
  }

  /** @param from the authenticated member that said it */
  handle(now: Now, from: Uint8Array, message: PunchMessage | SightMessage | SeenMessage): void {
    if (message.type === "punch") this.#handlePunch(now, from, message);
    else if (message.type === "sight") this.#handleSight(from, message);
    else this.#handleSeen(from, message);
  }

  handleTimeout(now: Now): void {
    for (const peer of this.#peers.values()) {
      if (now.nowMs < peer.dueMs) continue;
      if (peer.state === "asking") this.#ask(now, peer);
      else if (peer.state === "punching") this.#overdue(now, peer);
      else if (peer.state === "resting") {
        peer.state = "idle";
        peer.dueMs = Number.POSITIVE_INFINITY;
        if (peer.wanted && peer.reach === "indirect") this.#begin(now, peer);
      } else peer.dueMs = Number.POSITIVE_INFINITY;
    }
  }

  /** For `weft explain`. @returns undefined when nothing was ever tried with that member */
  report(now: Now, nodeId: Uint8Array): PunchReport | undefined {
    const peer = this.#peers.get(toHex(nodeId));
    if (peer === undefined) return undefined;
    const own = this.#deps.mapping();
    return {
      state: peer.reach === "direct" ? "direct" : peer.state,
      attempts: peer.attempts,
      ownMapping: own,
      peerMapping: peer.peerMapping,
      peerEndpoints: peer.endpoints,
      seenAt: peer.seenAt,
      tried: [...peer.tried],
      nextAttemptInMs: peer.state === "resting" ? Math.max(0, Math.ceil(peer.dueMs - now.nowMs)) : 0,
      verdict: judge({
        isDirect: peer.reach === "direct",
        isUnderWay: peer.state === "asking" || peer.state === "punching",
        attempts: peer.attempts,
        answered: peer.answered,
        own,
        peer: peer.peerMapping,
        ownEndpoints: this.#deps.own().length,
        peerEndpoints: peer.endpoints.length,
        confirmed: peer.seenAt.length > 0,
        tried: peer.tried,
      }),
    };
  }

  // ── attempts ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #add(nodeId: Uint8Array, hex: string): Peer | undefined {
    if (this.#peers.size >= MAX_PEERS) {
      for (const [key, other] of this.#peers) {
        if (other.state !== "idle" && other.state !== "resting") continue;
        this.#peers.delete(key);
        break;
      }
      if (this.#peers.size >= MAX_PEERS) {
        this.counters.refused++;
        return undefined;
      }
    }
    const peer: Peer = {
      nodeId,
      reach: "none",
      wanted: false,
      state: "idle",
      attempt: 0,
      asksLeft: 0,
      dueMs: Number.POSITIVE_INFINITY,
      attemptEndsMs: 0,
      restMs: REST_MIN_MS,
      peerMapping: Mapping.UNKNOWN,
      supposes: false,
      isInitiator: false,
      endpoints: [],
      seenAt: [],
      asked: new Set(),
      remoteAtMs: Number.NEGATIVE_INFINITY,
      tried: new Set(),
      answered: false,
      attempts: 0,
    };
    this.#peers.set(hex, peer);
    return peer;
  }

  #begin(now: Now, peer: Peer): void {
    this.counters.attempts++;
    peer.attempts++;
    peer.supposes = false;
    peer.tried.clear();
    this.#open(now, peer);
  }

  /**
   * Plain probes have not met, and somebody's NAT is not known: it may be a hard one.
   * @returns false when there is nothing to suppose
   */
  #suppose(now: Now, peer: Peer): boolean {
    const own = this.#deps.mapping();
    if (!peer.isInitiator || peer.supposes) return false;
    if (own !== Mapping.UNKNOWN && peer.peerMapping !== Mapping.UNKNOWN) return false;
    peer.supposes = true;
    this.#open(now, peer);
    return true;
  }

  #open(now: Now, peer: Peer): void {
    peer.isInitiator = true;
    peer.attempt = (this.#deps.random.u32() | 1) >>> 0;
    peer.state = "asking";
    peer.asksLeft = ASKS;
    peer.attemptEndsMs = now.nowMs + ATTEMPT_MS;
    peer.answered = false;
    peer.asked.clear();
    this.#askWitnesses(peer);
    this.#ask(now, peer);
  }

  #ask(now: Now, peer: Peer): void {
    if (peer.asksLeft === 0) return this.#fail(now, peer);
    peer.asksLeft--;
    peer.dueMs = now.nowMs + ASK_EVERY_MS;
    this.#send(peer.nodeId, this.#message(peer, peer.attempt, false));
  }

  #askWitnesses(peer: Peer): void {
    for (const witness of this.#deps.witnesses(peer.nodeId).slice(0, MAX_WITNESSES)) {
      peer.asked.add(toHex(witness));
      this.#send(witness, { type: "sight", node: peer.nodeId });
    }
  }

  #message(peer: Peer, attempt: number, isAnswer: boolean): PunchMessage {
    return {
      type: "punch",
      attempt,
      isAnswer,
      mapping: this.#deps.mapping(),
      supposes: peer.supposes,
      endpoints: this.#deps.own().slice(0, MAX_PUNCH_ENDPOINTS),
    };
  }

  #handlePunch(now: Now, from: Uint8Array, message: PunchMessage): void {
    const hex = toHex(from);
    const peer = this.#peers.get(hex) ?? this.#add(from, hex);
    if (peer === undefined) return;
    if (message.isAnswer) {
      if (peer.state !== "asking" || message.attempt !== peer.attempt) {
        this.counters.late++;
        return;
      }
      this.#learn(peer, message);
      this.#punch(now, peer);
      return;
    }
    // asked again because our answer was late or lost: the probes are under way already
    const isNew = message.attempt !== peer.attempt || peer.state !== "punching";
    // both asked at once: the lower number is the one that counts, on both sides
    const isOurs = peer.state === "asking" && message.attempt > peer.attempt;
    const begins = isNew && !isOurs && peer.reach !== "direct";
    if (begins && now.nowMs - peer.remoteAtMs < REMOTE_EVERY_MS) {
      this.counters.refused++;
      return;
    }
    this.#learn(peer, message);
    this.#send(from, this.#message(peer, message.attempt, true));
    if (!begins) return;
    peer.remoteAtMs = now.nowMs;
    peer.isInitiator = false;
    peer.attempt = message.attempt;
    peer.supposes = message.supposes;
    peer.attemptEndsMs = now.nowMs + ATTEMPT_MS;
    if (!message.supposes) peer.tried.clear();
    peer.asked.clear();
    this.#askWitnesses(peer);
    this.#punch(now, peer);
  }

  #learn(peer: Peer, message: PunchMessage): void {
    peer.peerMapping = message.mapping;
    peer.endpoints = message.endpoints.slice(0, MAX_PUNCH_ENDPOINTS);
    peer.answered = true;
  }

  #punch(now: Now, peer: Peer): void {
    peer.state = "punching";
    peer.dueMs = Math.min(peer.attemptEndsMs, now.nowMs + PLAIN_MS);
    this.#probePlainly(peer);
    this.#aim(peer);
  }

  #probePlainly(peer: Peer, everyMs: number = PLAIN_EVERY_MS, rounds: number = PLAIN_ROUNDS): void {
    const endpoints = [...peer.endpoints];
    for (const seen of peer.seenAt) if (!endpoints.some((one) => equal(one, seen))) endpoints.push(seen);
    if (endpoints.length === 0) return;
    peer.tried.add("plain");
    this.#outputs.push({
      kind: "plain",
      nodeId: peer.nodeId,
      endpoints: endpoints.slice(0, MAX_PUNCH_ENDPOINTS),
      everyMs,
      rounds,
    });
  }

  /** The many sockets, or the many ports: once per attempt, and only at an address that somebody else confirms. */
  #aim(peer: Peer): void {
    const { nodeId } = peer;
    const endpoint = peer.seenAt.find(isIpv4);
    if (peer.state !== "punching" || endpoint === undefined) return;
    const own = this.#deps.mapping();
    const mayBeHard = (mapping: Mapping): boolean =>
      isHardMapping(mapping) || (peer.supposes && mapping === Mapping.UNKNOWN);
    if (mayBeHard(own) && !isHardMapping(peer.peerMapping) && !peer.tried.has("fan")) {
      peer.tried.add("fan");
      this.#outputs.push({
        kind: "fan",
        nodeId,
        endpoint,
        sockets: FAN_SOCKETS,
        everyMs: FAN_EVERY_MS,
        rounds: FAN_ROUNDS,
      });
    }
    if (!isHardMapping(own) && mayBeHard(peer.peerMapping) && !peer.tried.has("guess")) {
      peer.tried.add("guess");
      this.#outputs.push({ kind: "guess", nodeId, endpoint, count: GUESSES, everyMs: GUESS_EVERY_MS });
    }
  }

  /** The plain stage or the whole attempt has not led anywhere. */
  #overdue(now: Now, peer: Peer): void {
    if (this.#suppose(now, peer)) return;
    if (now.nowMs >= peer.attemptEndsMs) return this.#fail(now, peer);
    peer.dueMs = peer.attemptEndsMs;
    this.#probePlainly(peer, SLOW_EVERY_MS, SLOW_ROUNDS);
  }

  #fail(now: Now, peer: Peer): void {
    this.counters.failures++;
    peer.state = "resting";
    peer.dueMs = now.nowMs + peer.restMs * (0.9 + 0.2 * this.#deps.random.unit());
    peer.restMs = Math.min(REST_MAX_MS, peer.restMs * 2);
  }

  #settle(peer: Peer): void {
    peer.state = "idle";
    peer.dueMs = Number.POSITIVE_INFINITY;
  }

  // ── witnesses ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #handleSight(from: Uint8Array, message: SightMessage): void {
    const endpoint = this.#deps.sight(message.node);
    if (endpoint !== undefined) this.#send(from, { type: "seen", node: message.node, endpoint });
  }

  #handleSeen(from: Uint8Array, message: SeenMessage): void {
    const peer = this.#peers.get(toHex(message.node));
    if (peer === undefined || !peer.asked.has(toHex(from))) {
      this.counters.late++;
      return;
    }
    if (!peer.seenAt.some((known) => equal(known, message.endpoint))) {
      peer.seenAt.unshift(message.endpoint);
      peer.seenAt.length = Math.min(peer.seenAt.length, MAX_SIGHTS);
      const isNamed = peer.endpoints.some((endpoint) => equal(endpoint, message.endpoint));
      if (peer.state === "punching" && !isNamed) this.#probePlainly(peer);
    }
    this.#aim(peer);
  }

  #send(nodeId: Uint8Array, message: PunchMessage | SightMessage | SeenMessage): void {
    this.#outputs.push({ kind: "send", nodeId, message });
  }
}

/** A NAT that gives another destination another port: the port that a third party sees is not the one to send to. */
export function isHardMapping(mapping: Mapping): boolean {
  return mapping === Mapping.ADDRESS_DEPENDENT || mapping === Mapping.PORT_DEPENDENT;
}

function isIpv4(endpoint: Uint8Array): boolean {
  if (endpoint.length !== ENDPOINT_BYTES || endpoint[10] !== 0xff || endpoint[11] !== 0xff) return false;
  for (let i = 0; i < 10; i++) if (endpoint[i] !== 0) return false;
  return true;
}
