/**
 * One file being fetched from one or several members, into a partial file that outlives the process.
 *
 *   sources ─► answers ─► hash (libuv's threads) ─► compare with the leaf ─► write ─► plan
 *   directory of the job: data (chunks at their places) | tree (leaves of proven pages at their places) | record.json (its owner's)
 *
 * Nothing is believed: size and page roots are proven by the id, pages by their roots, chunks by their leaves; a source that lies is not
 * asked again. After a restart every chunk on disk is hashed anew, so whatever a crash left is found or fetched again. The finished file is
 * synced before it gets its name. Full: at most VERIFY_MOST chunks are hashed or written at once; beyond, the sources are not read.
 * Source: docs/protocol.md, "Files".
 */
import { constants, type FileHandle, mkdir, open, stat } from "node:fs/promises";
import { join } from "node:path";
import { concat, equal, toHex } from "../../../base/bytes.ts";
import { WeftError } from "../../../base/errors.ts";
import {
  type Answer,
  AnswerReader,
  decodeDescription,
  encodeRequest,
  FileCode,
  FileRequest,
  FILES_KIND,
} from "../../../messaging/files/frames.ts";
import { FetchPlan } from "../../../messaging/files/plan.ts";
import {
  CHUNK_BYTES,
  chunkCount,
  chunkLength,
  type FileShape,
  HASH_BYTES,
  PAGE_CHUNKS,
  pageCount,
  pageLength,
  provesPage,
  provesShape,
} from "../../../messaging/files/tree.ts";
import { type MeshStream, StreamClass } from "../../../stream/types.ts";
import type { ServiceContext } from "../services/context.ts";
import { freeBytes, hashChunks, hashLeaf, readFully, writeFully } from "./disk.ts";

const VERIFY_MOST = 16;
const VERIFY_RESUME = 8;
const POOL_BUFFERS = 24;
/** Nothing came of what was asked for: the stream is given up. */
const STALL_MS = 20_000;
const TICK_MS = 250;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30_000;
/** Another source may be asked for the hashes of a page that one has had for so long. */
const PAGE_STEAL_MS = 3_000;

export type SourceState = "waiting" | "connecting" | "fetching" | "without" | "banned";

export interface FetchSource {
  readonly nodeId: Uint8Array;
  readonly key: string;
  state: SourceState;
  error: string | undefined;
  bytes: number;
  stream: MeshStream | undefined;
  /** It has been asked to describe the file and has not yet. */
  owesDescription: boolean;
  retryMs: number;
  wake: () => void;
}

export interface FetchFigures {
  /** Chunks that were not what they should be. */
  chunksBad: number;
  chunksLate: number;
  bytesFetched: number;
}

export interface FetchOptions {
  readonly id: Uint8Array;
  /** For data and tree; made when missing. */
  readonly directory: string;
  /** Known from before, proven. */
  readonly shape: FileShape | undefined;
  readonly figures: FetchFigures;
  /**
   * Called once a run when the shape is proven, before anything of it is written; what it reserves is reserved in that turn.
   * @param free bytes that the disk has @param onDisk bytes of the file that it holds already @throws what ends the run
   */
  reserve(shape: FileShape, free: number, onDisk: number): void;
  /** The shape is known and proven from now on. */
  onShape(shape: FileShape): Promise<void>;
}

export class Fetch {
  readonly sources: Map<string, FetchSource> = new Map();
  state: "starting" | "checking" | "fetching" = "starting";
  haveBytes = 0;
  readonly #context: ServiceContext;
  readonly #options: FetchOptions;
  readonly #ending = new AbortController();
  #shape: FileShape | undefined;
  #plan: FetchPlan | undefined;
  #data: FileHandle | undefined;
  #tree: FileHandle | undefined;
  /** Leaves by page; 128 KiB per GiB of file. */
  readonly #pages = new Map<number, Uint8Array>();
  /** By page: which sources were asked for its leaves, and when; in the order of asking. */
  readonly #pagesAsked = new Map<number, Map<string, number>>();
  readonly #pool: Uint8Array<ArrayBuffer>[] = [];
  #verifying = 0;
  #isPaused = false;
  #done: { readonly resolve: () => void; readonly reject: (error: Error) => void } | undefined;
  #preparing: Promise<void> | undefined;

  constructor(context: ServiceContext, options: FetchOptions) {
    this.#context = context;
    this.#options = options;
  }

  get dataFile(): string {
    return join(this.#options.directory, "data");
  }

  /** At most so much is on its way to the disk. */
  get pendingBytes(): number {
    return this.#verifying * CHUNK_BYTES;
  }

  get shape(): FileShape | undefined {
    return this.#shape;
  }

  /** All leaves; only of a complete file. */
  get leaves(): Uint8Array {
    const pages = [...this.#pages].toSorted(([a], [b]) => a - b);
    return concat(...pages.map(([, leaves]) => leaves));
  }

  addSource(nodeId: Uint8Array): void {
    const key = toHex(nodeId);
    if (this.sources.has(key)) return;
    const source: FetchSource = {
      nodeId,
      key,
      state: "waiting",
      error: undefined,
      bytes: 0,
      stream: undefined,
      owesDescription: false,
      retryMs: FIRST_RETRY_MS,
      wake: () => undefined,
    };
    this.sources.set(key, source);
    if (this.#done !== undefined) void this.#runSource(source);
  }

  /** A session with it came up: what waits for it tries at once. */
  wake(nodeId: Uint8Array): void {
    const source = this.sources.get(toHex(nodeId));
    if (source === undefined) return;
    source.retryMs = FIRST_RETRY_MS;
    source.wake();
  }

  /**
   * Resolves when the data file is whole, verified and on disk. May run for as long as no source can be reached.
   * @throws the signal's reason; what reserve() throws; WeftError DISK_FULL; system errors of the disk
   */
  async run(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    // it may fail before it is waited for
    promise.catch(() => undefined);
    const onAbort = (): void => reject(signal.reason as Error);
    signal.addEventListener("abort", onAbort, { once: true });
    const timer = setInterval(() => this.#tick(), TICK_MS);
    try {
      signal.throwIfAborted();
      this.#done = { resolve, reject };
      await mkdir(this.#options.directory, { recursive: true, mode: 0o700 });
      const { shape } = this.#options;
      if (shape !== undefined) await this.#prepare(shape, signal);
      this.#checkComplete();
      for (const source of this.sources.values()) void this.#runSource(source);
      await promise;
      await this.#data?.datasync();
    } finally {
      clearInterval(timer);
      signal.removeEventListener("abort", onAbort);
      this.#done = undefined;
      this.#ending.abort(new Error("it is over"));
      for (const source of this.sources.values()) {
        source.stream?.destroy();
        source.wake();
      }
      // writes that are under way end before their file is closed
      for (let i = 0; i < 500 && this.#verifying > 0; i++) await new Promise((resolved) => setTimeout(resolved, 10));
      await this.#data?.close().catch(() => undefined);
      await this.#tree?.close().catch(() => undefined);
    }
  }

  // ── the partial file ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Opens the files for a proven shape; what is in them from before is hashed. Single-flight. */
  #prepare(shape: FileShape, signal: AbortSignal): Promise<void> {
    this.#preparing ??= this.#open(shape, signal);
    return this.#preparing;
  }

  async #open(shape: FileShape, signal: AbortSignal): Promise<void> {
    const { directory } = this.#options;
    const before = await stat(this.dataFile).catch(() => undefined);
    const free = await freeBytes(directory);
    signal.throwIfAborted();
    this.#options.reserve(shape, free, Math.min(shape.sizeBytes, (before?.blocks ?? 0) * 512));
    const data = await open(this.dataFile, constants.O_RDWR | constants.O_CREAT, 0o600);
    this.#data = data;
    this.#tree = await open(join(directory, "tree"), constants.O_RDWR | constants.O_CREAT, 0o600);
    const { size } = await data.stat();
    await data.truncate(shape.sizeBytes);
    const plan = new FetchPlan(chunkCount(shape.sizeBytes));
    if (size > 0) await this.#check(shape, plan, signal);
    this.#shape = shape;
    this.#plan = plan;
    this.state = "fetching";
  }

  /** Pages that are proven, then chunks that are what their leaves say. */
  async #check(shape: FileShape, plan: FetchPlan, signal: AbortSignal): Promise<void> {
    this.state = "checking";
    for (let page = 0; page < pageCount(shape.sizeBytes); page++) {
      const leaves = new Uint8Array(pageLength(shape.sizeBytes, page) * HASH_BYTES);
      const at = page * PAGE_CHUNKS * HASH_BYTES;
      const isRead = await readFully(this.#tree as FileHandle, leaves, 0, leaves.length, at);
      if (!isRead || !provesPage(shape, page, leaves)) continue;
      this.#pages.set(page, leaves);
      plan.unlock(page * PAGE_CHUNKS, leaves.length / HASH_BYTES);
    }
    if (this.#pages.size === 0) return;
    await hashChunks(
      this.#data as FileHandle,
      shape.sizeBytes,
      (chunk, hash, bytes) => {
        const leaf = this.#leaf(chunk);
        if (leaf !== undefined && equal(hash, leaf) && plan.note(chunk)) this.haveBytes += bytes;
      },
      signal,
    );
  }

  #leaf(chunk: number): Uint8Array | undefined {
    const at = (chunk % PAGE_CHUNKS) * HASH_BYTES;
    return this.#pages.get(Math.floor(chunk / PAGE_CHUNKS))?.subarray(at, at + HASH_BYTES);
  }

  // ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #runSource(source: FetchSource): Promise<void> {
    const { random } = this.#context;
    while (!this.#ending.signal.aborted && source.state !== "banned") {
      try {
        source.state = "connecting";
        await this.#session(source);
      } catch (error) {
        source.error = error instanceof Error ? error.message : String(error);
      }
      source.stream?.destroy();
      source.stream = undefined;
      this.#plan?.removeSource(source.key);
      for (const holders of this.#pagesAsked.values()) holders.delete(source.key);
      this.#feedAll();
      if (this.#ending.signal.aborted || (source.state as SourceState) === "banned") return;
      if ((source.state as SourceState) !== "without") source.state = "waiting";
      await this.#pause(source, source.retryMs * (0.5 + random.unit()));
      source.retryMs = Math.min(LONGEST_RETRY_MS, source.retryMs * 2);
    }
  }

  #pause(source: FetchSource, forMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, forMs);
      source.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** One stream with a source, until the file is whole or the stream ends. Rejects in any case. */
  async #session(source: FetchSource): Promise<never> {
    const { id } = this.#options;
    const { signal } = this.#ending;
    const stream = await this.#context.streams.open(source.nodeId, {
      kind: FILES_KIND,
      class: StreamClass.BULK,
      signal,
    });
    source.stream = stream;
    const reader = new AnswerReader((bytes) => this.#buffer(bytes));
    return new Promise<never>((_, reject) => {
      const fail = (error: Error): void => {
        reject(error);
        stream.destroy();
      };
      const timer = setTimeout(() => {
        if (source.stream === stream && source.owesDescription) fail(new Error("it does not answer"));
      }, STALL_MS);
      stream.once("error", reject);
      stream.once("close", () => {
        clearTimeout(timer);
        reject(new Error("the stream has ended"));
      });
      stream.on("data", (bytes: Buffer) => {
        try {
          if (!reader.add(bytes, (answer) => this.#take(source, answer)))
            this.#ban(source, "what it says is no answer");
        } catch (error) {
          fail(error instanceof Error ? error : new Error(String(error)));
        }
      });
      if (this.#isPaused) stream.pause();
      source.owesDescription = true;
      stream.write(encodeRequest({ type: FileRequest.DESCRIBE, first: 0, count: 0, id }));
    });
  }

  #ban(source: FetchSource, why: string): void {
    if (source.state === "banned") return;
    source.state = "banned";
    source.error = why;
    this.#options.figures.chunksBad++;
    source.stream?.destroy(new Error(why));
  }

  #take(source: FetchSource, answer: Answer): void {
    const { type, code } = answer;
    // the rest of what came with the lie
    if (source.state === "banned") return this.#giveBack(answer.prefixed);
    if (code !== FileCode.OK) {
      source.state = "without";
      throw new Error(code === FileCode.BUSY ? "it serves too many at once" : "it does not have the file (any more)");
    }
    if (type === FileRequest.DESCRIBE) {
      // each costs a thousand hashes
      if (!source.owesDescription) return this.#ban(source, "it answers what was not asked");
      source.owesDescription = false;
      void this.#described(source, answer.prefixed.subarray(1));
    } else if (type === FileRequest.PAGE) this.#pageCame(source, answer.index, answer.prefixed.subarray(1));
    else this.#chunkCame(source, answer.index, answer.prefixed);
  }

  async #described(source: FetchSource, bytes: Uint8Array): Promise<void> {
    const { id } = this.#options;
    const { stream } = source;
    const found = decodeDescription(bytes);
    const shape = found === undefined ? undefined : { id, ...found };
    if (shape === undefined || !provesShape(shape)) return this.#ban(source, "what it says about the file is not true");
    try {
      if (this.#shape === undefined) {
        const isFirst = this.#preparing === undefined;
        await this.#prepare(shape, this.#ending.signal);
        if (isFirst) await this.#options.onShape(shape);
      }
    } catch (error) {
      this.#done?.reject(error instanceof Error ? error : new Error(String(error)));
      return;
    }
    // meanwhile it may have gone, come again or been banned
    if (stream === undefined || source.stream !== stream || stream.destroyed) return;
    source.state = "fetching";
    source.error = undefined;
    this.#plan?.addSource(source.key, this.#nowMs());
    this.#checkComplete();
    this.#feed(source);
  }

  /** Asks a source for what it has room for. */
  #feed(source: FetchSource): void {
    const { stream } = source;
    const plan = this.#plan;
    if (plan === undefined || stream === undefined || stream.destroyed || source.state !== "fetching") return;
    const { id } = this.#options;
    const page = this.#nextPage(plan, source.key);
    if (page !== undefined) {
      const holders = this.#pagesAsked.get(page) ?? new Map<string, number>();
      holders.set(source.key, this.#nowMs());
      this.#pagesAsked.set(page, holders);
      stream.write(encodeRequest({ type: FileRequest.PAGE, first: page, count: 0, id }));
    }
    for (;;) {
      const run = plan.next(source.key, this.#nowMs());
      if (run === undefined) return;
      stream.write(encodeRequest({ type: FileRequest.CHUNKS, ...run, id }));
    }
  }

  #feedAll(): void {
    for (const source of this.sources.values()) this.#feed(source);
  }

  /** The first page without leaves that this source may be asked for, up to one page ahead of as many as are fetched. */
  #nextPage(plan: FetchPlan, key: string): number | undefined {
    const pages = pageCount((this.#shape as FileShape).sizeBytes);
    const last = Math.min(pages - 1, Math.floor(plan.have / PAGE_CHUNKS) + 1);
    const latestMs = this.#nowMs() - PAGE_STEAL_MS;
    for (let page = 0; page <= last; page++) {
      if (this.#pages.has(page)) continue;
      const holders = this.#pagesAsked.get(page);
      // a source that keeps the hashes to itself does not keep them from the others
      if (holders === undefined || (!holders.has(key) && [...holders.values()].every((askedMs) => askedMs <= latestMs)))
        return page;
    }
    return undefined;
  }

  #pageCame(source: FetchSource, page: number, leaves: Uint8Array): void {
    const shape = this.#shape;
    if (shape === undefined || this.#pagesAsked.get(page)?.delete(source.key) !== true)
      return this.#ban(source, "it answers what was not asked");
    if (this.#pages.has(page)) return;
    if (!provesPage(shape, page, leaves)) return this.#ban(source, "its hashes are not the file's");
    const kept = leaves.slice();
    this.#pages.set(page, kept);
    this.#verifying++;
    writeFully(this.#tree as FileHandle, kept, page * PAGE_CHUNKS * HASH_BYTES)
      .catch((error: Error) => this.#done?.reject(error))
      .finally(() => this.#verifying--);
    this.#plan?.unlock(page * PAGE_CHUNKS, kept.length / HASH_BYTES);
    this.#feedAll();
  }

  #chunkCame(source: FetchSource, chunk: number, prefixed: Uint8Array<ArrayBuffer>): void {
    const plan = this.#plan;
    const shape = this.#shape;
    if (plan === undefined || shape === undefined) return this.#ban(source, "it answers what was not asked");
    const bytes = prefixed.length - 1;
    const what = plan.arrived(source.key, chunk, bytes, this.#nowMs());
    if (what === "unasked") return this.#ban(source, "it answers what was not asked");
    if (what === "late") {
      this.#options.figures.chunksLate++;
      this.#giveBack(prefixed);
    } else {
      this.#verifying++;
      if (this.#verifying >= VERIFY_MOST) this.#setPaused(true);
      void this.#verify(source, plan, chunk, prefixed, bytes === chunkLength(shape.sizeBytes, chunk));
    }
    this.#feed(source);
  }

  async #verify(
    source: FetchSource,
    plan: FetchPlan,
    chunk: number,
    prefixed: Uint8Array<ArrayBuffer>,
    isWhole: boolean,
  ): Promise<void> {
    try {
      const leaf = this.#leaf(chunk);
      if (!isWhole || leaf === undefined || !equal(await hashLeaf(prefixed), leaf)) {
        plan.failed(chunk);
        this.#ban(source, "it sent bytes that are not the file's");
        return;
      }
      const bytes = prefixed.subarray(1);
      await writeFully(this.#data as FileHandle, bytes, chunk * CHUNK_BYTES);
      if (plan.note(chunk)) {
        this.haveBytes += bytes.length;
        source.bytes += bytes.length;
        source.retryMs = FIRST_RETRY_MS;
        this.#options.figures.bytesFetched += bytes.length;
      }
    } catch (error) {
      plan.failed(chunk);
      this.#done?.reject(diskError(error));
    } finally {
      this.#verifying--;
      this.#giveBack(prefixed);
      if (this.#isPaused && this.#verifying <= VERIFY_RESUME) this.#setPaused(false);
      this.#checkComplete();
    }
  }

  #checkComplete(): void {
    if (this.#plan?.isComplete === true && this.#verifying === 0) this.#done?.resolve();
  }

  #setPaused(isPaused: boolean): void {
    this.#isPaused = isPaused;
    for (const { stream } of this.sources.values()) {
      if (isPaused) stream?.pause();
      else stream?.resume();
    }
  }

  #buffer(bytes: number): Uint8Array<ArrayBuffer> {
    if (bytes !== CHUNK_BYTES + 1) return new Uint8Array(bytes);
    return this.#pool.pop() ?? new Uint8Array(bytes);
  }

  #giveBack(prefixed: Uint8Array<ArrayBuffer>): void {
    if (prefixed.length === CHUNK_BYTES + 1 && this.#pool.length < POOL_BUFFERS) this.#pool.push(prefixed);
  }

  #tick(): void {
    const plan = this.#plan;
    if (plan === undefined) return;
    const nowMs = this.#nowMs();
    for (const source of this.sources.values()) {
      const oldestMs = Math.min(plan.oldestMs(source.key) ?? Infinity, this.#oldestPageMs(source.key));
      const isStalled = nowMs - Math.max(oldestMs, plan.lastMs(source.key)) > STALL_MS;
      if (isStalled && !this.#isPaused) source.stream?.destroy(new Error("nothing came for too long"));
      else this.#feed(source);
    }
  }

  #oldestPageMs(key: string): number {
    let oldestMs = Infinity;
    for (const holders of this.#pagesAsked.values()) oldestMs = Math.min(oldestMs, holders.get(key) ?? Infinity);
    return oldestMs;
  }

  #nowMs(): number {
    return this.#context.clock.now().nowMs;
  }
}

function diskError(error: unknown): Error {
  if ((error as NodeJS.ErrnoException).code === "ENOSPC")
    return new WeftError("DISK_FULL", "the disk is full", "make room, then start it again", { cause: error });
  return error instanceof Error ? error : new Error(String(error));
}
