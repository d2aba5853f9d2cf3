/**
 * The spaces that this node replicates (key-value maps, task lists): local writes, news from others, comparison with them. Sans-I/O.
 *
 *   write ──► sign ──► merge ──► store ──► news to 8 replicas ──► each hands on what was new to it to 3 more, 6 hops at most
 *   every 30 s, and when a session comes up: compare with a replica (compare.ts); what was missed comes then
 *
 * Who else has a space: whoever speaks of it; asked are the directory's sample of the space and members at random. An entry is taken when its
 * form, its space's rule, its clock (at most 5 minutes ahead) and its author's signature are right and the author was a member then, whoever delivers it.
 *
 * Full: a local write is refused with an error; a remote entry is not taken, counted, and offered again in later comparisons. One author
 * takes a quarter of a space at most. Frames, comparisons, signature checks and answers with entries are bounded per sender.
 * Source: docs/protocol.md, "Replicated stores".
 */
import { equal, toHex } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import { FrameChannel } from "../frames.ts";
import { SenderRates } from "../sender-rates.ts";
import type { StoreOp } from "../store-types.ts";
import {
  answerHello,
  answerItems,
  answerTree,
  answerWant,
  type Budget,
  isSame,
  newBudget,
  type Reply,
  summaryOf,
} from "./compare.ts";
import {
  type Entry,
  type EntrySigner,
  isKey,
  isSpaceName,
  MAX_VALUE_BYTES,
  readEntry,
  signEntry,
  SpaceKind,
  verifyEntry,
} from "./entry.ts";
import { HybridClock, isAhead } from "./hlc.ts";
import { Merge } from "./lww-map.ts";
import {
  ASKED,
  decodeSync,
  encodeSync,
  MAX_HELLO_SPACES,
  MAX_SYNC_FRAME_BYTES,
  type SpaceSummary,
  type SyncMessage,
} from "./messages.ts";
import { Space, type SpaceRules } from "./space.ts";

const WRITE_FANOUT = 8;
const FORWARD_FANOUT = 3;
const MAX_HOPS = 6;
const ROUND_MS = 30_000;
/** While a young space knows nobody. */
const SEARCH_MS = 5_000;
const SEARCH_FOR_MS = 60_000;
const SEARCH_MEMBERS = 16;
const PARTNERS_PER_ROUND = 16;
/** After a comparison that has brought something. */
const AGAIN_MS = 100;
/** The same when this node could not check all of it. */
const LATER_MS = 1_500;
const MAX_AGAIN = 64;
const SWEEP_MS = 3_600_000;
/** Of the spaces, the part that groups may take: others bring this node into them. */
const GROUPS_SHARE = 0.75;
const AUTHOR_SHARE = 0.25;

export type ReplicasOutput =
  | { readonly kind: "send"; readonly to: Uint8Array; readonly channel: FrameChannel; readonly frame: Uint8Array }
  | { readonly kind: "store"; readonly op: StoreOp }
  | { readonly kind: "changed"; readonly space: Space; readonly entry: Entry };

export interface ReplicasDeps {
  readonly signer: EntrySigner;
  readonly random: Random;
  /** 32 bytes */
  readonly networkId: Uint8Array;
  /** Node ids of the other members. */
  others(): readonly Uint8Array[];
  /** Nodes that may have the space. */
  candidates(space: Space, count: number): readonly Uint8Array[];
  /** Nothing is taken from it, neither from its hands nor of its making. */
  isBlocked(nodeId: Uint8Array): boolean;
  /** It was a member of the network then. */
  mayWrite(nodeId: Uint8Array, hlc: number): boolean;
}

export interface ReplicasOptions {
  /** @default 64 */
  readonly maxSpaces?: number;
  /** Keys of a space, deleted ones included. @default 65536 */
  readonly maxEntries?: number;
  /** @default 16777216 */
  readonly maxSpaceBytes?: number;
  /** Of all spaces together. @default 67108864 */
  readonly maxBytes?: number;
}

/** Everything counted; values only grow, except the last three. */
export interface ReplicasCounters {
  framesIn: number;
  framesRefused: number;
  framesOverRate: number;
  entriesWritten: number;
  entriesTaken: number;
  entriesOld: number;
  entriesFull: number;
  entriesMalformed: number;
  entriesAhead: number;
  entriesForbidden: number;
  entriesBlocked: number;
  signaturesRefused: number;
  deletionsForgotten: number;
  comparisons: number;
  spaces: number;
  entries: number;
  bytes: number;
}

interface Again {
  readonly to: Uint8Array;
  readonly spaces: Set<Space>;
  dueMs: number;
}

export class Replicas {
  readonly #deps: ReplicasDeps;
  readonly #options: Required<ReplicasOptions>;
  readonly #spaces = new Map<string, Space>();
  readonly #clock = new HybridClock();
  readonly #outputs: ReplicasOutput[] = [];
  readonly #frameRates = new SenderRates(1_000, 4_000);
  readonly #signatureRates = new SenderRates(2_000, 8_000);
  /** Frames that ask for a comparison: each costs at most some milliseconds. */
  readonly #compareRates = new SenderRates(50, 300);
  readonly #answerRates = new SenderRates(10, 60);
  readonly #again = new Map<string, Again>();
  readonly #counts = {
    framesIn: 0,
    framesRefused: 0,
    framesOverRate: 0,
    entriesWritten: 0,
    entriesTaken: 0,
    entriesOld: 0,
    entriesFull: 0,
    entriesMalformed: 0,
    entriesAhead: 0,
    entriesForbidden: 0,
    entriesBlocked: 0,
    signaturesRefused: 0,
    deletionsForgotten: 0,
    comparisons: 0,
  };
  #bytes = 0;
  #roundDueMs = Infinity;
  #sweepDueMs = Infinity;

  constructor(deps: ReplicasDeps, options: ReplicasOptions = {}) {
    this.#deps = deps;
    this.#options = {
      maxSpaces: options.maxSpaces ?? 64,
      maxEntries: options.maxEntries ?? 65_536,
      maxSpaceBytes: options.maxSpaceBytes ?? 16 * 1024 * 1024,
      maxBytes: options.maxBytes ?? 64 * 1024 * 1024,
    };
  }

  get counters(): ReplicasCounters {
    let entries = 0;
    for (const space of this.#spaces.values()) entries += space.map.size;
    return { ...this.#counts, spaces: this.#spaces.size, entries, bytes: this.#bytes };
  }

  spaces(kind: SpaceKind): Space[] {
    return [...this.#spaces.values()].filter((space) => space.kind === kind);
  }

  find(kind: SpaceKind, name: string): Space | undefined {
    for (const space of this.#spaces.values()) if (space.kind === kind && space.name === name) return space;
    return undefined;
  }

  /** The space of that name, which this node replicates from now on. @throws WeftError SPACE_NAME, SPACES_FULL */
  open(now: Now, kind: SpaceKind, name: string, rules: SpaceRules): Space {
    const known = this.find(kind, name);
    if (known !== undefined) return known;
    const space = this.#create(now, kind, name, rules);
    this.#store("kv.space.put", [space.id, this.#deps.networkId, kind, name]);
    this.#search(space);
    return space;
  }

  /** May a space of that kind be opened? Groups leave some to keys and tasks. */
  hasRoom(kind: SpaceKind): boolean {
    const { maxSpaces } = this.#options;
    const groups = this.spaces(SpaceKind.GROUP).length;
    return this.#spaces.size < maxSpaces && (kind !== SpaceKind.GROUP || groups < GROUPS_SHARE * maxSpaces);
  }

  /** At start, from the store: the space and the entries that this node has checked before. */
  restore(now: Now, kind: SpaceKind, name: string, rules: SpaceRules, wires: readonly Uint8Array[]): Space {
    const space = this.find(kind, name) ?? this.#create(now, kind, name, rules);
    for (const wire of wires) {
      const entry = readEntry(space.id, wire);
      if (entry !== undefined) this.#merge(space, entry, now.wallMs);
    }
    return space;
  }

  /** Not replicated here any more; what is stored here is gone. Other nodes keep it. */
  close(space: Space): void {
    if (!this.#spaces.delete(space.idHex)) return;
    this.#bytes -= space.map.bytes;
    this.#store("kv.space.delete", [space.id]);
    this.#store("kv.entries.delete", [space.id]);
  }

  /**
   * @param value undefined: deletes the key
   * @throws WeftError KEY_INVALID, VALUE_TOO_LARGE, SPACE_FULL
   */
  write(now: Now, space: Space, key: string, value: Uint8Array | undefined): Entry {
    if (!isKey(key)) {
      throw new WeftError("KEY_INVALID", "a key has 1 to 256 bytes of UTF-8", "choose a shorter key");
    }
    if (value !== undefined && value.length > MAX_VALUE_BYTES) {
      throw new WeftError(
        "VALUE_TOO_LARGE",
        `the value has ${value.length} bytes, at most ${MAX_VALUE_BYTES} fit`,
        "put it into a file: weft files",
      );
    }
    const { signer, networkId } = this.#deps;
    // above what it replaces, even where this node's clock does not follow that far
    const hlc = Math.max(this.#clock.tick(now.wallMs), (space.map.get(key)?.hlc ?? 0) + 1);
    const entry = signEntry(networkId, space.id, key, value, hlc, signer);
    if (!space.rules.allows(entry)) throw new RangeError(`an entry of the key ${key} breaks the rule of its space`);
    const isOver = value !== undefined && this.#isOver(entry);
    if (isOver || this.#merge(space, entry, now.wallMs) !== Merge.TAKEN) {
      throw new WeftError(
        "SPACE_FULL",
        `"${space.name}", or this node's part of it, is full: ${space.map.size} keys, ${space.map.bytes} bytes`,
        "delete what is not needed, or use another space",
      );
    }
    this.#counts.entriesWritten++;
    this.#publish(space, entry);
    this.#sendNews(space, [entry.wire], 0, WRITE_FANOUT, undefined);
    return entry;
  }

  /** The stamp that the next write would at least have; above everything seen. */
  tick(now: Now): number {
    return this.#clock.tick(now.wallMs);
  }

  // ── others ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  peerUp(now: Now, nodeId: Uint8Array): void {
    if (this.#spaces.size > 0) this.#hello(nodeId, [...this.#spaces.values()]);
    this.#plan(now.nowMs);
  }

  /** Removes here, without telling anybody, what the rules of the space do not want any more. */
  prune(space: Space, isUnwanted: (entry: Entry) => boolean): void {
    const before = space.map.bytes;
    const gone = [...space.map.entries()].filter(isUnwanted);
    for (const { key } of gone) {
      space.map.remove(key);
      this.#store("kv.entry.delete", [space.id, key]);
    }
    this.#bytes += space.map.bytes - before;
  }

  /** Entries of an author that the space does not trust any more go, and so does that node as a replica. */
  expel(space: Space): void {
    this.prune(space, (entry) => !space.isTrusted(entry.author));
    for (const nodeId of space.replicaIds()) if (!space.isTrusted(nodeId)) space.forget(toHex(nodeId));
  }

  memberGone(nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    this.#again.delete(hex);
    for (const space of this.#spaces.values()) space.forget(hex);
  }

  /** @param from 32 bytes, the authenticated sender @param frame anything */
  handleFrame(now: Now, from: Uint8Array, frame: Uint8Array): void {
    const fromHex = toHex(from);
    this.#counts.framesIn++;
    if (!this.#frameRates.take(now.nowMs, fromHex)) {
      this.#counts.framesOverRate++;
      return;
    }
    if (this.#deps.isBlocked(from)) {
      this.#counts.entriesBlocked++;
      return;
    }
    const message = decodeSync(frame);
    if (message === undefined) {
      this.#counts.framesRefused++;
      return;
    }
    if (message.type !== "entries" && !this.#compareRates.take(now.nowMs, fromHex)) {
      this.#counts.framesOverRate++;
      return;
    }
    const budget = newBudget(() => this.#mayAnswer(now.nowMs, fromHex));
    if (message.type === "hello") return this.#takeHello(now, from, message.wantsAnswer, message.spaces, budget);
    const space = this.#spaces.get(toHex(message.space));
    if (space === undefined) return;
    if (!space.isTrusted(from)) {
      this.#counts.framesRefused++;
      return;
    }
    space.heardOf(from, now.nowMs);
    switch (message.type) {
      case "tree":
        return this.#answer(from, space, answerTree(space.map, message.nodes, budget));
      case "items":
        return this.#answer(from, space, answerItems(space.map, message.nodes, budget));
      case "want":
        return this.#answer(from, space, answerWant(space.map, message.ids, budget));
      case "entries":
        return this.#takeEntries(now, from, space, message.hops, message.entries);
    }
  }

  #takeHello(now: Now, from: Uint8Array, wantsAnswer: boolean, theirs: readonly SpaceSummary[], budget: Budget): void {
    const equals: Space[] = [];
    for (const summary of theirs) {
      const space = this.#spaces.get(toHex(summary.space));
      if (space?.isTrusted(from) !== true) continue;
      space.heardOf(from, now.nowMs);
      this.#counts.comparisons++;
      if (isSame(space.map, summary)) equals.push(space);
      else this.#answer(from, space, answerHello(space.map, summary, budget));
    }
    if (wantsAnswer && equals.length > 0) this.#hello(from, equals, false);
  }

  #mayAnswer(nowMs: number, toHexId: string): boolean {
    const isWithin = this.#answerRates.take(nowMs, toHexId);
    if (!isWithin) this.#counts.framesOverRate++;
    return isWithin;
  }

  #answer(to: Uint8Array, space: Space, reply: Reply): void {
    if (reply.nodes.length > 0) this.#send(to, { type: "tree", space: space.id, nodes: reply.nodes });
    if (reply.items.length > 0) this.#send(to, { type: "items", space: space.id, nodes: reply.items });
    if (reply.want.length > 0) this.#send(to, { type: "want", space: space.id, ids: reply.want });
    for (const wires of chunks(reply.entries)) {
      this.#send(to, { type: "entries", space: space.id, hops: ASKED, entries: wires }, FrameChannel.BULK);
    }
  }

  #takeEntries(now: Now, from: Uint8Array, space: Space, hops: number, wires: readonly Uint8Array[]): void {
    const fresh: Uint8Array[] = [];
    const fromHex = toHex(from);
    const before = this.#counts.framesOverRate;
    for (const wire of wires) {
      const entry = readEntry(space.id, wire);
      if (entry === undefined) {
        this.#counts.entriesMalformed++;
        break;
      }
      if (!this.#judge(now, fromHex, space, entry)) continue;
      this.#merge(space, entry, now.wallMs);
      this.#counts.entriesTaken++;
      this.#publish(space, entry);
      fresh.push(entry.wire);
    }
    if (fresh.length === 0) return;
    const isOver = this.#counts.framesOverRate > before;
    if (hops === ASKED) this.#compareAgain(now, from, fromHex, space, isOver ? LATER_MS : AGAIN_MS);
    else if (hops < MAX_HOPS) this.#sendNews(space, fresh, hops + 1, FORWARD_FANOUT, new Set([fromHex]));
  }

  /** All spaces together are full, or half full and this author has its part of that. */
  #isOver(entry: Entry): boolean {
    const { maxBytes } = this.#options;
    const added = entry.wire.length;
    if (this.#bytes + added > maxBytes) return true;
    if (this.#bytes + added <= maxBytes / 2) return false;
    let bytes = added;
    for (const space of this.#spaces.values()) bytes += space.map.bytesOf(entry.author);
    return bytes > AUTHOR_SHARE * maxBytes;
  }

  /** Cheap reasons first, the signature last. */
  #judge(now: Now, fromHex: string, space: Space, entry: Entry): boolean {
    const verdict = space.map.judge(entry, now.wallMs);
    if (verdict === Merge.FULL || this.#isOver(entry)) {
      this.#counts.entriesFull++;
      return false;
    }
    if (verdict !== Merge.TAKEN || entry.hlc < (space.rules.floor?.() ?? 0)) {
      this.#counts.entriesOld++;
      return false;
    }
    if (isAhead(entry.hlc, now.wallMs)) {
      this.#counts.entriesAhead++;
      return false;
    }
    const isWriter = space.isTrusted(entry.author) && this.#deps.mayWrite(entry.author, entry.hlc);
    if (!isWriter || !space.rules.allows(entry)) {
      this.#counts.entriesForbidden++;
      return false;
    }
    if (this.#deps.isBlocked(entry.author)) {
      this.#counts.entriesBlocked++;
      return false;
    }
    if (!this.#signatureRates.take(now.nowMs, fromHex)) {
      this.#counts.framesOverRate++;
      return false;
    }
    if (!verifyEntry(this.#deps.networkId, space.id, entry)) {
      this.#counts.signaturesRefused++;
      return false;
    }
    return true;
  }

  // ── time and outputs ─────────────────────────────────────────────────────────────────────────────────────────────────

  nextTimeoutMs(): number {
    let next = Math.min(this.#roundDueMs, this.#sweepDueMs);
    for (const again of this.#again.values()) next = Math.min(next, again.dueMs);
    return next;
  }

  handleTimeout(now: Now): void {
    for (const [hex, again] of this.#again) {
      if (again.dueMs > now.nowMs) continue;
      this.#again.delete(hex);
      this.#hello(
        again.to,
        [...again.spaces].filter((space) => this.#spaces.get(space.idHex) === space),
      );
    }
    if (now.nowMs >= this.#sweepDueMs) {
      this.#sweepDueMs = now.nowMs + SWEEP_MS;
      for (const space of this.#spaces.values()) this.#sweep(space, now.wallMs);
    }
    if (now.nowMs < this.#roundDueMs) return;
    this.#roundDueMs = Infinity;
    this.#round();
    this.#plan(now.nowMs);
  }

  pollOutput(): ReplicasOutput | undefined {
    return this.#outputs.shift();
  }

  #plan(nowMs: number): void {
    if (this.#spaces.size === 0) return;
    let isSearching = false;
    for (const space of this.#spaces.values()) {
      if (space.replicas === 0 && nowMs - space.openedMs < SEARCH_FOR_MS) isSearching = true;
    }
    const intervalMs = (isSearching ? SEARCH_MS : ROUND_MS) * (0.75 + 0.5 * this.#deps.random.unit());
    this.#roundDueMs = Math.min(this.#roundDueMs, nowMs + intervalMs);
    if (this.#sweepDueMs === Infinity) this.#sweepDueMs = nowMs + SWEEP_MS;
  }

  /** Every space is compared with one replica that is known, and now and then with somebody who might be one. */
  #round(): void {
    const { random } = this.#deps;
    const partners = new Map<string, { readonly to: Uint8Array; readonly spaces: Space[] }>();
    const spaces = [...this.#spaces.values()];
    const offset = spaces.length === 0 ? 0 : random.u32() % spaces.length;
    for (let i = 0; i < spaces.length; i++) {
      const space = spaces[(i + offset) % spaces.length];
      const chosen = space.sample(1, random);
      if (chosen.length === 0 || random.u32() % 4 === 0) chosen.push(...this.#strangers(space, 1));
      for (const to of chosen) {
        const hex = toHex(to);
        const known = partners.get(hex);
        if (known !== undefined) known.spaces.push(space);
        else if (partners.size < PARTNERS_PER_ROUND) partners.set(hex, { to, spaces: [space] });
      }
    }
    for (const { to, spaces } of partners.values()) this.#hello(to, spaces);
  }

  #search(space: Space): void {
    for (const to of this.#strangers(space, SEARCH_MEMBERS)) this.#hello(to, [space]);
  }

  /** Nodes that may have the space: what the directory knows, else anybody. */
  #strangers(space: Space, count: number): Uint8Array[] {
    const chosen = new Map<string, Uint8Array>();
    const self = this.#deps.signer.nodeId;
    for (const nodeId of this.#deps.candidates(space, count)) {
      if (!equal(nodeId, self)) chosen.set(toHex(nodeId), nodeId);
    }
    const others = this.#deps.others();
    for (let tries = 0; chosen.size < count && tries < 2 * count && others.length > 0; tries++) {
      const nodeId = others[this.#deps.random.u32() % others.length];
      if (!equal(nodeId, self) && space.isTrusted(nodeId)) chosen.set(toHex(nodeId), nodeId);
    }
    return [...chosen.values()].slice(0, count);
  }

  #compareAgain(now: Now, to: Uint8Array, hex: string, space: Space, inMs: number): void {
    const dueMs = now.nowMs + inMs * (0.5 + this.#deps.random.unit());
    const known = this.#again.get(hex);
    if (known !== undefined) {
      known.spaces.add(space);
      known.dueMs = Math.max(known.dueMs, dueMs);
    } else if (this.#again.size < MAX_AGAIN) this.#again.set(hex, { to, spaces: new Set([space]), dueMs });
  }

  #hello(to: Uint8Array, spaces: readonly Space[], wantsAnswer = true): void {
    const shown = spaces.filter((space) => space.isTrusted(to));
    for (let at = 0; at < shown.length; at += MAX_HELLO_SPACES) {
      const part = shown.slice(at, at + MAX_HELLO_SPACES).map((space) => summaryOf(space.id, space.map));
      this.#send(to, { type: "hello", wantsAnswer, spaces: part });
    }
  }

  #sendNews(
    space: Space,
    wires: readonly Uint8Array[],
    hops: number,
    fanout: number,
    except: ReadonlySet<string> | undefined,
  ): void {
    for (const to of space.sample(fanout, this.#deps.random, except)) {
      this.#send(to, { type: "entries", space: space.id, hops, entries: wires });
    }
  }

  #send(to: Uint8Array, message: SyncMessage, channel: FrameChannel = FrameChannel.DIRECT): void {
    this.#outputs.push({ kind: "send", to, channel, frame: encodeSync(message) });
  }

  #store(name: string, values: StoreOp["values"]): void {
    this.#outputs.push({ kind: "store", op: { name, values } });
  }

  #publish(space: Space, entry: Entry): void {
    this.#store("kv.entry.put", [space.id, entry.key, entry.wire]);
    this.#outputs.push({ kind: "changed", space, entry });
  }

  #create(now: Now, kind: SpaceKind, name: string, rules: SpaceRules): Space {
    if (!isSpaceName(name)) {
      throw new WeftError(
        "SPACE_NAME",
        `"${name}" is no name for a space`,
        "use 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
      );
    }
    if (!this.hasRoom(kind)) {
      throw new WeftError(
        "SPACES_FULL",
        `this node has ${this.#spaces.size} spaces already`,
        "close one that is not needed",
      );
    }
    const limits = {
      maxEntries: this.#options.maxEntries,
      maxBytes: Math.min(this.#options.maxSpaceBytes, rules.maxBytes ?? Infinity),
      authorShare: rules.authorShare ?? AUTHOR_SHARE,
    };
    const space = new Space(kind, name, limits, now.nowMs, rules);
    this.#spaces.set(space.idHex, space);
    this.#plan(now.nowMs);
    return space;
  }

  #merge(space: Space, entry: Entry, wallMs: number): Merge {
    const before = space.map.bytes;
    const verdict = space.map.merge(entry, wallMs);
    this.#bytes += space.map.bytes - before;
    this.#clock.observe(entry.hlc, wallMs);
    return verdict;
  }

  #sweep(space: Space, wallMs: number): void {
    const before = space.map.bytes;
    for (const key of space.map.sweep(wallMs)) {
      this.#counts.deletionsForgotten++;
      this.#store("kv.entry.delete", [space.id, key]);
    }
    this.#bytes += space.map.bytes - before;
  }
}

/** Frames' worth of entries, each below the frame's limit. */
function* chunks(entries: readonly Entry[]): Generator<Uint8Array[]> {
  let wires: Uint8Array[] = [];
  let bytes = 0;
  for (const { wire } of entries) {
    if (bytes + wire.length + 4 > MAX_SYNC_FRAME_BYTES - 64) {
      yield wires;
      wires = [];
      bytes = 0;
    }
    wires.push(wire);
    bytes += wire.length + 4;
  }
  if (wires.length > 0) yield wires;
}
