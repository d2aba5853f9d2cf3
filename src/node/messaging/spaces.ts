/**
 * The replicated spaces of this node, with its clock, its links and its store: what the key-value store (kv.ts) and the task lists (tasks.ts)
 * stand on. A local write resolves when it is on disk; what comes from others is written in the order it came.
 *
 *   frame ──► Replicas ──► links (news, comparison), store (one commit per batch), listeners
 *
 * Source: docs/protocol.md, "Replicated stores".
 */
import type { MetricSample } from "../../api/control.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { shortNodeId, formatNodeId } from "../../crypto/node-id.ts";
import { hlcFromWall } from "../../mesh/statement.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import { type Entry, SpaceKind } from "../../messaging/kv/entry.ts";
import { SYNC_FIRST, SYNC_LAST } from "../../messaging/kv/messages.ts";
import { Replicas, type ReplicasCounters } from "../../messaging/kv/replicas.ts";
import type { Space, SpaceRules } from "../../messaging/kv/space.ts";
import type { StoreOp } from "../../messaging/store-types.ts";
import { isTaskEntry } from "../../messaging/tasks/entries.ts";
import type { FrameTypes, PartContext } from "./part.ts";

const PAGE_ROWS = 400;
/** A space that was just opened waits so long for somebody who has it, and then so long for what that one has. */
const FIRST_WAIT_MS = 1_500;
const SETTLE_MS = 300;
/** Of all spaces together, and at most that part of the message store. */
const MAX_BYTES = 64 << 20;
const STORE_SHARE = 8;

type OpenKind = typeof SpaceKind.KV | typeof SpaceKind.TASKS;
const RULES: Readonly<Record<OpenKind, SpaceRules>> = {
  [SpaceKind.KV]: { allows: () => true },
  [SpaceKind.TASKS]: { allows: isTaskEntry },
};

/** Whoever opens spaces of the kind GROUP (groups.ts). */
export interface SpaceUser {
  /** Before the spaces are read. */
  prepare(replicas: Replicas, networkId: Uint8Array): Promise<void>;
  /** Undefined: the space is not wanted any more. */
  rulesOf(spaceName: string): SpaceRules | undefined;
  /** After the spaces were read. */
  resume(): void;
  entryChanged(space: Space, entry: Entry): void;
  /** @param ops to be stored with what else there is @param later to be done when that is on disk @returns false when there was nothing */
  drain(ops: StoreOp[], later: (() => void)[]): boolean;
}

const KIND_NAMES: Readonly<Record<SpaceKind, string>> = {
  [SpaceKind.KV]: "kv",
  [SpaceKind.TASKS]: "tasks",
  [SpaceKind.GROUP]: "group",
};

export interface SpacesDeps {
  /** Other nodes that follow the space in the directory. */
  candidates(space: Space, count: number): readonly Uint8Array[];
  /** This node has the space from now on, or not any more: for the directory. */
  follows(space: Space, isFollowed: boolean): void;
  isBlocked(nodeId: Uint8Array): boolean;
}

export type SpaceListener = (space: Space, entry: Entry) => void;

export class Spaces {
  readonly types: readonly FrameTypes[] = [
    [FrameChannel.DIRECT, SYNC_FIRST, SYNC_LAST],
    [FrameChannel.BULK, SYNC_FIRST, SYNC_LAST],
  ];
  readonly #context: PartContext;
  readonly #deps: SpacesDeps;
  readonly #listeners = new Set<SpaceListener>();
  #user: SpaceUser | undefined;
  #replicas: Replicas | undefined;
  #cancelTimer: (() => void) | undefined;
  #storeFailures = 0;
  #framesUnsent = 0;
  #isClosed = false;
  #isStarting = false;

  constructor(context: PartContext, deps: SpacesDeps) {
    this.#context = context;
    this.#deps = deps;
  }

  /** Before start(). */
  use(user: SpaceUser): void {
    this.#user = user;
  }

  get counters(): ReplicasCounters | undefined {
    return this.#replicas?.counters;
  }

  async start(): Promise<void> {
    const networkId = this.#context.networkId();
    if (networkId === undefined || this.#replicas !== undefined || this.#isStarting) return;
    this.#isStarting = true;
    try {
      await this.#start(networkId);
    } finally {
      this.#isStarting = false;
    }
  }

  async #start(networkId: Uint8Array): Promise<void> {
    const { clock, identity, random, store } = this.#context;
    const replicas = new Replicas(
      {
        signer: identity,
        random,
        networkId,
        others: () =>
          this.#context
            .members()
            .map((member) => member.nodeId)
            .filter((nodeId) => !equal(nodeId, identity.nodeId)),
        candidates: (space, count) => (space.kind === SpaceKind.GROUP ? [] : this.#deps.candidates(space, count)),
        isBlocked: (nodeId) => this.#deps.isBlocked(nodeId),
        mayWrite: (nodeId, hlc) => {
          if (this.#context.find(nodeId) !== undefined) return true;
          const untilMs = this.#context.memberUntilMs?.(nodeId);
          return untilMs !== undefined && hlc <= hlcFromWall(untilMs);
        },
      },
      { maxBytes: Math.min(MAX_BYTES, this.#context.config.storeBytes / STORE_SHARE) },
    );
    await this.#user?.prepare(replicas, networkId);
    for (const row of await store.query("kv.spaces", [])) {
      const id = row["id"] as Uint8Array;
      const kind = row["kind"] as SpaceKind;
      const name = row["name"] as string;
      const rules = kind === SpaceKind.GROUP ? this.#user?.rulesOf(name) : RULES[kind];
      if (rules === undefined || !equal(row["network"] as Uint8Array, networkId)) {
        await store.commit([
          { name: "kv.entries.delete", values: [id] },
          { name: "kv.space.delete", values: [id] },
        ]);
        continue;
      }
      if (replicas.find(kind, name) === undefined && !replicas.hasRoom(kind)) {
        this.#context.log.warn(
          `the ${KIND_NAMES[kind]} space "${name}" is not opened: this node has as many as it may`,
        );
        continue;
      }
      let space = replicas.restore(clock.now(), kind, name, rules, []);
      for (let after = ""; ;) {
        const rows = await store.query("kv.entries.after", [id, after], PAGE_ROWS);
        if (rows.length === 0) break;
        const wires = rows.map((one) => one["wire"] as Uint8Array);
        space = replicas.restore(clock.now(), kind, name, rules, wires);
        after = rows.at(-1)!["key"] as string;
      }
      if (kind !== SpaceKind.GROUP) this.#deps.follows(space, true);
    }
    this.#replicas = replicas;
    this.#user?.resume();
    this.flushSoon();
  }

  close(): void {
    this.#isClosed = true;
    this.#cancelTimer?.();
  }

  /** @throws WeftError NOT_READY before this node has joined */
  get replicas(): Replicas {
    if (this.#replicas === undefined)
      throw new WeftError("NOT_READY", "this node is in no network yet", "join one first: weft up --join TOKEN");
    return this.#replicas;
  }

  /** The space, opened if need be; a space opened just now has had the time to get what others have. */
  async open(kind: OpenKind, name: string): Promise<Space> {
    const { replicas } = this;
    const known = replicas.find(kind, name);
    if (known !== undefined) return known;
    const space = replicas.open(this.#context.clock.now(), kind, name, RULES[kind]);
    this.#context.log.info(`replicates the ${kind === SpaceKind.KV ? "key-value space" : "task list"} "${name}"`);
    this.#deps.follows(space, true);
    await this.flush();
    if (this.#context.members().length > 1) {
      const endMs = this.#context.clock.now().nowMs + FIRST_WAIT_MS;
      while (space.replicas === 0 && this.#context.clock.now().nowMs < endMs) await this.#sleep(50);
      if (space.replicas > 0) await this.#sleep(SETTLE_MS);
    }
    return space;
  }

  async closeSpace(space: Space): Promise<void> {
    this.replicas.close(space);
    this.#deps.follows(space, false);
    await this.flush();
  }

  /** Sends, stores and tells what there is. Resolves when it is on disk. @throws WeftError of the store */
  async flush(): Promise<void> {
    const replicas = this.#replicas;
    if (replicas === undefined || this.#isClosed) return;
    const ops: StoreOp[] = [];
    const later: (() => void)[] = [];
    do this.#drain(replicas, ops);
    while (this.#user?.drain(ops, later) === true);
    this.#arm();
    if (ops.length > 0) await this.#context.store.commit(ops);
    for (const tell of later) tell();
  }

  /** For what this node was told: nobody waits for the disk. */
  flushSoon(): void {
    this.flush().catch((error: unknown) => {
      this.#storeFailures++;
      if (this.#storeFailures === 1 || this.#storeFailures % 1000 === 0) {
        const why = error instanceof Error ? error.message : String(error);
        this.#context.log.warn(`entries are not on disk (${why}); after a restart they are fetched again from others`);
      }
    });
  }

  /** @returns stops it */
  onChange(listener: SpaceListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  handleFrame(from: Uint8Array, frame: Uint8Array): void {
    this.#replicas?.handleFrame(this.#context.clock.now(), from, frame);
    this.flushSoon();
  }

  peerUp(nodeId: Uint8Array): void {
    this.#replicas?.peerUp(this.#context.clock.now(), nodeId);
    this.flushSoon();
  }

  memberGone(nodeId: Uint8Array): void {
    this.#replicas?.memberGone(nodeId);
  }

  membersChanged(): void {
    if (this.#replicas !== undefined || this.#context.networkId() === undefined) return;
    this.start().catch((error: unknown) =>
      this.#context.log.error(`replicated spaces: ${error instanceof Error ? error.message : String(error)}`),
    );
  }

  /** How a node is shown. */
  nodeRef(nodeId: Uint8Array): { readonly id: string; readonly name: string } {
    return { id: formatNodeId(nodeId), name: this.#context.find(nodeId)?.name ?? shortNodeId(nodeId) };
  }

  metrics(): readonly MetricSample[] {
    const c = this.#replicas?.counters;
    if (c === undefined) return [];
    const counter = (name: string, help: string, value: number): MetricSample => ({
      name: `weft_replica_${name}_total`,
      type: "counter",
      help,
      labels: {},
      value,
    });
    const gauge = (name: string, help: string, value: number): MetricSample => ({
      name: `weft_replica_${name}`,
      type: "gauge",
      help,
      labels: {},
      value,
    });
    const refused = c.entriesMalformed + c.entriesAhead + c.entriesForbidden + c.signaturesRefused;
    return [
      counter("frames_received", "Frames of replicated spaces.", c.framesIn),
      counter("frames_refused", "Frames that are malformed.", c.framesRefused),
      counter("frames_over_rate", "Frames, checks or answers beyond what one sender may ask for.", c.framesOverRate),
      counter("frames_unsent", "Frames that a link had no room for.", this.#framesUnsent),
      counter("entries_written", "Entries written here.", c.entriesWritten),
      counter("entries_taken", "Entries of others that count now.", c.entriesTaken),
      counter("entries_old", "Entries that were known or outdated.", c.entriesOld),
      counter("entries_full", "Entries of others that found no room.", c.entriesFull),
      counter("entries_refused", "Entries malformed, ahead of time, forbidden or wrongly signed.", refused),
      counter("entries_blocked", "Frames and entries of blocked members.", c.entriesBlocked),
      counter("deletions_forgotten", "Deletions that have outlived 30 days.", c.deletionsForgotten),
      counter("comparisons", "Comparisons with other replicas.", c.comparisons),
      counter("store_failures", "Batches that could not be written to disk.", this.#storeFailures),
      gauge("spaces", "Spaces replicated here.", c.spaces),
      gauge("entries", "Entries kept, deletions included.", c.entries),
      gauge("bytes", "Bytes kept.", c.bytes),
    ];
  }

  diagnostics(): unknown {
    const replicas = this.#replicas;
    if (replicas === undefined) return {};
    const spaces = [SpaceKind.KV, SpaceKind.TASKS, SpaceKind.GROUP]
      .flatMap((kind) => replicas.spaces(kind))
      .map((space) => ({
        kind: KIND_NAMES[space.kind],
        name: space.name,
        entries: space.map.size,
        bytes: space.map.bytes,
        replicas: space.replicas,
        fingerprint: toHex(space.map.tree.fingerprint(0, 0)),
      }));
    return {
      counters: replicas.counters,
      framesUnsent: this.#framesUnsent,
      storeFailures: this.#storeFailures,
      spaces,
    };
  }

  #drain(replicas: Replicas, ops: StoreOp[]): void {
    for (let output = replicas.pollOutput(); output !== undefined; output = replicas.pollOutput()) {
      if (output.kind === "store") ops.push(output.op);
      else if (output.kind === "send") {
        if (this.#context.links.send(output.to, output.channel, output.frame) !== "accepted") this.#framesUnsent++;
      } else if (output.space.kind === SpaceKind.GROUP) this.#user?.entryChanged(output.space, output.entry);
      else for (const listener of this.#listeners) listener(output.space, output.entry);
    }
  }

  #arm(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const atMs = this.#replicas?.nextTimeoutMs() ?? Infinity;
    if (this.#isClosed || atMs === Infinity) return;
    this.#cancelTimer = this.#context.clock.schedule(atMs, () => {
      this.#replicas?.handleTimeout(this.#context.clock.now());
      this.flushSoon();
    });
  }

  #sleep(ms: number): Promise<void> {
    const { clock } = this.#context;
    return new Promise((resolve) => {
      clock.schedule(clock.now().nowMs + ms, resolve);
    });
  }
}
