/**
 * The presence machine. Sans-I/O: frames and time are arguments, outputs are polled.
 *
 *   watcher ── WATCH ──► subject ── BEACON, now and every 30 s ──► watcher              (renewed every minute, good for 100 s)
 *   watcher ── WATCH ──► subject ── REDIRECT ──► watcher ── WATCH ──► one of its watchers ── BEACON ──► …
 *
 * A watcher that gets no answer from another node in 10 s, or nothing new for 60 s, turns to the subject again. So a chain that broke, or ran in a circle, mends itself.
 * The time-out of a subject is six times the mean of its last ten intervals, 180–600 s. An interval is measured between beacons that follow
 * each other within 600 s; those closer than half of the beacon's distance are news, not the beat, and do not count.
 * Bounds: 1,024 watched, 32 watchers per subject, 1,024 watchers over all, 50 frames a second per sender (burst 200), 100 signatures a second, 25 of what
 * one peer delivers (one that delivered 16 bad ones is cut off for a minute), 8 redirects a minute followed per subject. Source: docs/protocol.md, "Presence".
 */
import type { Now } from "../../base/clock.ts";
import { toHex, utf8 } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { CheckBudget } from "../check-budget.ts";
import { SenderRates } from "../sender-rates.ts";
import {
  type Beacon,
  BEACON_PURPOSE,
  beaconBody,
  BeaconStatus,
  decodePresence,
  encodePresence,
  MAX_NOTE_BYTES,
  MAX_REDIRECTS,
  type PresenceFrame,
  PresenceType,
} from "./frames.ts";
import {
  newPresenceCounters,
  type PresenceCounters,
  type PresenceDeps,
  type PresenceOptions,
  type PresenceOutput,
  PresenceState,
  type PresenceView,
} from "./types.ts";

const MIN_TIMEOUT_MS = 180_000;
const MAX_TIMEOUT_MS = 600_000;
const INTERVALS = 10;
const TIMEOUT_INTERVALS = 6;
const RENEW_MS = 60_000;
const LEASE_MS = 100_000;
/** Beats without a beacon before a watcher leaves the node that passes it on. */
const PATIENCE_BEATS = 2;
/** A node that shall pass a beacon on sends the last one at once; who does not in this time is not there. */
const ANSWER_MS = 10_000;
const MAX_AHEAD_MS = 600_000;
const MAX_ALL_WATCHERS = 1024;
const REDIRECTS_PER_MINUTE = 8;
const SCAN_MS = 50;
/** A session that comes up is a reason to ask again, but not more often than this. */
const ALIVE_MS = 2000;
/** A note or a state that changes faster than this waits. */
const NEWS_MS = 1000;
const MAX_OUTPUTS = 16_384;

interface Watched {
  readonly nodeId: Uint8Array;
  readonly hex: string;
  /** Who sends its beacons here: itself, or one that passes them on. */
  parent: Uint8Array;
  parentHex: string;
  parentSinceMs: number;
  /** The parent has sent something. */
  isServed: boolean;
  beacon: Beacon | undefined;
  /** Monotonic and wall time of the last valid beacon. */
  seenMs: number;
  seenWallMs: number;
  readonly intervals: number[];
  renewAtMs: number;
  askedMs: number;
  told: PresenceState;
}

interface Watcher {
  readonly nodeId: Uint8Array;
  dueMs: number;
}

export class Presence {
  readonly counters: PresenceCounters = newPresenceCounters();
  readonly #deps: PresenceDeps;
  readonly #options: Required<PresenceOptions>;
  readonly #selfHex: string;
  readonly #watched = new Map<string, Watched>();
  /** By subject, then by watcher. */
  readonly #watchers = new Map<string, Map<string, Watcher>>();
  readonly #rates = new SenderRates(50, 200);
  readonly #checks = new CheckBudget({ perSecond: 100, burst: 200, peerPerSecond: 25, peerBurst: 50 });
  readonly #redirects = new SenderRates(REDIRECTS_PER_MINUTE / 60, REDIRECTS_PER_MINUTE, MAX_ALL_WATCHERS);
  #status: BeaconStatus = BeaconStatus.ONLINE;
  #note: Uint8Array = new Uint8Array(0);
  #own: Beacon | undefined;
  #ownAtMs: number = Number.NEGATIVE_INFINITY;
  #beatAtMs: number = Number.POSITIVE_INFINITY;
  #outputs: PresenceOutput[] = [];
  #outputAt = 0;
  /** No watched node and no watcher is due before. */
  #scanAtMs: number = Number.POSITIVE_INFINITY;
  #scannedMs: number = Number.NEGATIVE_INFINITY;

  constructor(deps: PresenceDeps, options: PresenceOptions = {}) {
    this.#deps = deps;
    this.#options = {
      beaconMs: options.beaconMs ?? 30_000,
      maxWatchers: options.maxWatchers ?? 32,
      maxWatched: options.maxWatched ?? 1024,
    };
    this.#selfHex = toHex(deps.signing.nodeId);
  }

  /** @throws WeftError PRESENCE_FULL */
  watch(now: Now, nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    if (hex === this.#selfHex || this.#watched.has(hex)) return;
    if (this.#watched.size >= this.#options.maxWatched)
      throw new WeftError("PRESENCE_FULL", `${this.#watched.size} nodes are watched`, "stop watching one first");
    this.#watched.set(hex, {
      nodeId,
      hex,
      parent: nodeId,
      parentHex: hex,
      parentSinceMs: now.nowMs,
      isServed: false,
      beacon: undefined,
      seenMs: now.nowMs,
      seenWallMs: 0,
      intervals: [],
      // many at once are spread over the first seconds
      renewAtMs: now.nowMs + 10 * this.#watched.size * this.#deps.random.unit(),
      askedMs: Number.NEGATIVE_INFINITY,
      told: PresenceState.UNKNOWN,
    });
    this.counters.watched = this.#watched.size;
    this.#due(now.nowMs);
  }

  unwatch(nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    const watched = this.#watched.get(hex);
    if (watched === undefined) return;
    this.#watched.delete(hex);
    this.counters.watched = this.#watched.size;
    // what was passed on is not any more; those who lose it find out and ask the subject
    this.#forgetWatchers(hex);
    this.#send(watched.parent, { type: PresenceType.UNWATCH, subject: nodeId });
  }

  isWatched(nodeId: Uint8Array): boolean {
    return this.#watched.has(toHex(nodeId));
  }

  view(now: Now, nodeId: Uint8Array): PresenceView {
    const watched = this.#watched.get(toHex(nodeId));
    if (watched === undefined)
      return { nodeId, state: PresenceState.UNKNOWN, lastSeenMs: undefined, note: "", timeoutMs: MIN_TIMEOUT_MS };
    return viewOf(now, watched);
  }

  views(now: Now): PresenceView[] {
    return [...this.#watched.values()].map((watched) => viewOf(now, watched));
  }

  /** @throws WeftError PRESENCE_INVALID */
  set(now: Now, state: "online" | "away", note = ""): void {
    const bytes = utf8(note);
    if (bytes.length > MAX_NOTE_BYTES)
      throw new WeftError("PRESENCE_INVALID", `the note has ${bytes.length} bytes`, `use at most ${MAX_NOTE_BYTES}`);
    this.#status = state === "away" ? BeaconStatus.AWAY : BeaconStatus.ONLINE;
    this.#note = bytes;
    this.#own = undefined;
    this.#beatAtMs = Math.min(this.#beatAtMs, Math.max(now.nowMs, this.#ownAtMs + NEWS_MS));
  }

  /** Tells the watchers that this node stops. */
  stop(now: Now): void {
    this.#status = BeaconStatus.STOPPING;
    this.#own = undefined;
    this.#beat(now);
    this.#beatAtMs = Number.POSITIVE_INFINITY;
  }

  /** It may have been away and have forgotten who watches it: it is asked now. */
  alive(now: Now, nodeId: Uint8Array): void {
    const watched = this.#watched.get(toHex(nodeId));
    if (watched === undefined || now.nowMs - watched.askedMs < ALIVE_MS) return;
    watched.renewAtMs = now.nowMs;
    this.#due(now.nowMs);
  }

  memberGone(nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    this.#watched.delete(hex);
    this.counters.watched = this.#watched.size;
    this.#forgetWatchers(hex);
    for (const watchers of this.#watchers.values()) if (watchers.delete(hex)) this.counters.watchers--;
  }

  /** @param bytes anything, from the authenticated peer `from` */
  handleFrame(now: Now, from: Uint8Array, bytes: Uint8Array): void {
    const hex = toHex(from);
    const isMember = hex !== this.#selfHex && this.#deps.isMember(from);
    if (isMember && !this.#rates.take(now.nowMs, hex)) {
      this.counters.framesOverRate++;
      return;
    }
    const frame = isMember ? decodePresence(bytes) : undefined;
    if (frame === undefined) {
      this.counters.framesRefused++;
      return;
    }
    this.counters.framesIn++;
    this.counters.bytesIn += bytes.length;
    switch (frame.type) {
      case PresenceType.WATCH:
        return this.#handleWatch(now, from, hex, frame.subject, frame.version);
      case PresenceType.UNWATCH:
        if (this.#watchers.get(toHex(frame.subject))?.delete(hex) === true) this.counters.watchers--;
        return;
      case PresenceType.BEACON:
        return this.#handleBeacon(now, hex, frame.beacon, bytes);
      case PresenceType.REDIRECT:
        return this.#handleRedirect(now, hex, frame.subject, frame.nodes);
    }
  }

  handleTimeout(now: Now): void {
    if (now.nowMs >= this.#beatAtMs) this.#beat(now);
    if (now.nowMs < Math.max(this.#scanAtMs, this.#scannedMs + SCAN_MS)) return;
    this.#scannedMs = now.nowMs;
    this.#scanAtMs = Number.POSITIVE_INFINITY;
    for (const watched of this.#watched.values()) this.#look(now, watched);
    for (const [subject, watchers] of this.#watchers) {
      for (const [hex, watcher] of watchers) {
        if (now.nowMs < watcher.dueMs) this.#due(watcher.dueMs);
        else if (watchers.delete(hex)) this.counters.watchers--;
      }
      if (watchers.size === 0) this.#watchers.delete(subject);
    }
  }

  nextTimeoutMs(): number {
    return Math.min(this.#beatAtMs, Math.max(this.#scanAtMs, this.#scannedMs + SCAN_MS));
  }

  pollOutput(): PresenceOutput | undefined {
    if (this.#outputAt < this.#outputs.length) return this.#outputs[this.#outputAt++];
    this.#outputs = [];
    this.#outputAt = 0;
    return undefined;
  }

  #handleWatch(now: Now, from: Uint8Array, hex: string, subject: Uint8Array, version: number): void {
    const subjectHex = toHex(subject);
    const isOwn = subjectHex === this.#selfHex;
    const source = this.#watched.get(subjectHex);
    const watchers = this.#watchers.get(subjectHex) ?? new Map<string, Watcher>();
    const known = watchers.get(hex);
    const isFull = watchers.size >= this.#options.maxWatchers || this.counters.watchers >= MAX_ALL_WATCHERS;
    // who gets beacons from the asker, or gets none, cannot pass them on
    const canServe =
      isOwn ||
      (source?.beacon !== undefined && source.parentHex !== hex && now.nowMs - source.seenMs <= this.#patienceMs());
    if (!canServe || (known === undefined && isFull)) {
      this.#redirect(from, hex, subject, canServe ? watchers : undefined);
      return;
    }
    const beacon = isOwn ? this.#current(now) : source?.beacon;
    if (known === undefined) {
      watchers.set(hex, { nodeId: from, dueMs: now.nowMs + LEASE_MS });
      this.#watchers.set(subjectHex, watchers);
      this.counters.watchers++;
      if (isOwn && this.#beatAtMs === Number.POSITIVE_INFINITY && this.#status !== BeaconStatus.STOPPING)
        this.#beatAtMs = this.#ownAtMs + this.#options.beaconMs;
    } else known.dueMs = now.nowMs + LEASE_MS;
    if (beacon !== undefined && (known === undefined || version < beacon.version))
      this.#send(from, { type: PresenceType.BEACON, beacon });
    this.#due(now.nowMs + LEASE_MS);
  }

  /** To some of those who are served here; when this node serves nobody, to the subject. */
  #redirect(to: Uint8Array, hex: string, subject: Uint8Array, watchers: Map<string, Watcher> | undefined): void {
    this.counters.watchersRedirected++;
    const others = [...(watchers?.entries() ?? [])].filter(([other]) => other !== hex).map(([, one]) => one.nodeId);
    const nodes: Uint8Array[] = [];
    while (nodes.length < MAX_REDIRECTS && others.length > 0)
      nodes.push(others.splice(this.#deps.random.u32() % others.length, 1)[0]);
    if (nodes.length === 0) nodes.push(subject);
    this.#send(to, { type: PresenceType.REDIRECT, subject, nodes });
  }

  #handleRedirect(now: Now, hex: string, subject: Uint8Array, nodes: readonly Uint8Array[]): void {
    const watched = this.#watched.get(toHex(subject));
    if (watched === undefined || watched.parentHex !== hex) return;
    const usable = nodes.filter((nodeId) => toHex(nodeId) !== this.#selfHex && this.#deps.isMember(nodeId));
    if (usable.length === 0 || !this.#redirects.take(now.nowMs, watched.hex)) return;
    this.#turnTo(now, watched, usable[this.#deps.random.u32() % usable.length]);
  }

  #handleBeacon(now: Now, fromHex: string, beacon: Beacon, bytes: Uint8Array): void {
    const hex = toHex(beacon.node);
    const watched = this.#watched.get(hex);
    if (watched === undefined) return;
    if (fromHex === watched.parentHex) watched.isServed = true;
    if (beacon.version <= (watched.beacon?.version ?? 0) || beacon.version > now.wallMs + MAX_AHEAD_MS) {
      this.counters.beaconsOld++;
      return;
    }
    if (!this.#checks.take(now.nowMs, fromHex)) {
      this.counters.framesOverRate++;
      return;
    }
    if (!this.#deps.signing.verify(beacon.node, BEACON_PURPOSE, beaconBody(beacon), beacon.signature)) {
      this.counters.signaturesRefused++;
      if (this.#checks.failed(now.nowMs, fromHex)) this.counters.peersCutOff++;
      return;
    }
    this.counters.beaconsTaken++;
    if (watched.beacon !== undefined) this.#measure(watched, now.nowMs - watched.seenMs);
    watched.beacon = beacon;
    watched.seenMs = now.nowMs;
    watched.seenWallMs = now.wallMs;
    this.#tell(now, watched);
    this.#due(now.nowMs + timeoutMs(watched) / 2);
    for (const { nodeId } of this.#watchers.get(hex)?.values() ?? []) {
      this.counters.framesOut++;
      this.counters.bytesOut += bytes.length;
      this.#push({ kind: "send", to: nodeId, frame: bytes });
    }
  }

  #measure(watched: Watched, intervalMs: number): void {
    if (intervalMs < this.#options.beaconMs / 2 || intervalMs > MAX_TIMEOUT_MS) return;
    watched.intervals.push(intervalMs);
    if (watched.intervals.length > INTERVALS) watched.intervals.shift();
  }

  /** What is due for one watched node. */
  #look(now: Now, watched: Watched): void {
    if (watched.parentHex !== watched.hex) {
      const { parentSinceMs, seenMs, isServed } = watched;
      const dueMs = isServed ? Math.max(seenMs, parentSinceMs) + this.#patienceMs() : parentSinceMs + ANSWER_MS;
      if (now.nowMs >= dueMs) this.#turnTo(now, watched, watched.nodeId);
      else this.#due(dueMs);
    }
    if (now.nowMs >= watched.renewAtMs) {
      watched.renewAtMs = now.nowMs + RENEW_MS * (0.8 + 0.4 * this.#deps.random.unit());
      watched.askedMs = now.nowMs;
      const version = watched.beacon?.version ?? 0;
      this.#send(watched.parent, { type: PresenceType.WATCH, subject: watched.nodeId, version });
    }
    this.#due(watched.renewAtMs);
    this.#tell(now, watched);
    const ageMs = now.nowMs - watched.seenMs;
    const limitMs = timeoutMs(watched);
    if (ageMs < limitMs) this.#due(watched.seenMs + (ageMs < limitMs / 2 ? limitMs / 2 : limitMs));
  }

  #turnTo(now: Now, watched: Watched, parent: Uint8Array): void {
    watched.parent = parent;
    watched.parentHex = toHex(parent);
    watched.parentSinceMs = now.nowMs;
    watched.isServed = false;
    watched.renewAtMs = now.nowMs;
    this.#due(now.nowMs);
  }

  #tell(now: Now, watched: Watched): void {
    const view = viewOf(now, watched);
    if (view.state === watched.told) return;
    watched.told = view.state;
    this.#push({ kind: "presence", view });
  }

  #beat(now: Now): void {
    const watchers = this.#watchers.get(this.#selfHex);
    if (watchers === undefined || watchers.size === 0) {
      this.#beatAtMs = Number.POSITIVE_INFINITY;
      return;
    }
    this.#own = undefined;
    const beacon = this.#current(now);
    for (const { nodeId } of watchers.values()) this.#send(nodeId, { type: PresenceType.BEACON, beacon });
    this.#beatAtMs = now.nowMs + this.#options.beaconMs * (0.9 + 0.2 * this.#deps.random.unit());
  }

  /** Signed at most once a beat, however many ask. */
  #current(now: Now): Beacon {
    if (this.#own !== undefined && now.nowMs - this.#ownAtMs < 2 * this.#options.beaconMs) return this.#own;
    const { signing } = this.#deps;
    const version = Math.max((this.#own?.version ?? 0) + 1, Math.floor(now.wallMs));
    const unsigned = { version, status: this.#status, note: this.#note };
    this.#own = { node: signing.nodeId, ...unsigned, signature: signing.sign(BEACON_PURPOSE, beaconBody(unsigned)) };
    this.#ownAtMs = now.nowMs;
    this.counters.beaconsSigned++;
    return this.#own;
  }

  #forgetWatchers(subjectHex: string): void {
    this.counters.watchers -= this.#watchers.get(subjectHex)?.size ?? 0;
    this.#watchers.delete(subjectHex);
  }

  #patienceMs(): number {
    return PATIENCE_BEATS * this.#options.beaconMs;
  }

  #due(atMs: number): void {
    if (atMs < this.#scanAtMs) this.#scanAtMs = atMs;
  }

  #send(to: Uint8Array, frame: PresenceFrame): void {
    const bytes = encodePresence(frame);
    this.counters.framesOut++;
    this.counters.bytesOut += bytes.length;
    this.#push({ kind: "send", to, frame: bytes });
  }

  /** Who polls after every input never comes near the bound; above it frames are lost as on a wire. */
  #push(output: PresenceOutput): void {
    if (output.kind !== "send" || this.#outputs.length - this.#outputAt < MAX_OUTPUTS) this.#outputs.push(output);
  }
}

const decoder = new TextDecoder();

function timeoutMs(watched: Watched): number {
  const { intervals } = watched;
  if (intervals.length === 0) return MIN_TIMEOUT_MS;
  const mean = intervals.reduce((sum, one) => sum + one, 0) / intervals.length;
  return Math.min(MAX_TIMEOUT_MS, Math.max(MIN_TIMEOUT_MS, TIMEOUT_INTERVALS * mean));
}

function viewOf(now: Now, watched: Watched): PresenceView {
  const { nodeId, beacon } = watched;
  const limitMs = timeoutMs(watched);
  return {
    nodeId,
    state: beacon === undefined ? PresenceState.UNKNOWN : stateOf(beacon, now.nowMs - watched.seenMs, limitMs),
    lastSeenMs: beacon === undefined ? undefined : watched.seenWallMs,
    note: beacon === undefined ? "" : decoder.decode(beacon.note),
    timeoutMs: limitMs,
  };
}

function stateOf(beacon: Beacon, ageMs: number, limitMs: number): PresenceState {
  if (beacon.status === BeaconStatus.STOPPING || ageMs >= limitMs) return PresenceState.OFFLINE;
  return beacon.status === BeaconStatus.AWAY || ageMs >= limitMs / 2 ? PresenceState.AWAY : PresenceState.ONLINE;
}
