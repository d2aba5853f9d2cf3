/**
 * The files that this node fetches: asked for here, or offered by members. Each has a directory in files/incoming of the state directory with a
 * record, so that all of them go on after a restart. A few run at once, of which some places are for what was asked for here; one that brings
 * nothing gives its place to the next, and what it has reserved of the quota to whoever needs it. What a member has offered and does not bring
 * is given up after days.
 * Bounds: MAX_JOBS records, of which the oldest ended ones are forgotten; MAX_RUNNING at once, MAX_RUNNING_OFFERED of them for members,
 * MAX_RUNNING_PER_PEER for each. Source: docs/protocol.md, "Files".
 */
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { fromHex, toHex } from "../../../base/bytes.ts";
import { WeftError } from "../../../base/errors.ts";
import { safeFileName } from "../../../messaging/files/names.ts";
import type { FileShape } from "../../../messaging/files/tree.ts";
import type { ServiceContext } from "../services/context.ts";
import { place, saveDurably } from "./disk.ts";
import { Fetch, type FetchFigures } from "./fetch.ts";
import {
  type FetchJob,
  freshState,
  isUnfinished,
  type JobState,
  MAX_SOURCES,
  readJob,
  readRecordText,
  recordOf,
} from "./fetch-job.ts";
import { isMissing, KeptFiles } from "./kept-files.ts";
import { heldBytes, type QuotaLimits, roomFor } from "./quota.ts";

const MAX_JOBS = 1_024;
/** Ended ones that are forgotten at once when there is no place. */
const FORGET_JOBS = 64;
/** The rest is for what is asked for here. */
const MAX_UNFINISHED_OFFERED = 512;
const MAX_RUNNING = 8;
const MAX_RUNNING_OFFERED = 6;
const MAX_RUNNING_PER_PEER = 2;
const TICK_MS = 1_000;
/** A job that has brought less than FRUITFUL_BYTES for so long gives way when others wait. */
const FRUITLESS_MS = 30_000;
const FRUITFUL_BYTES = 1 << 20;
const EXPIRY_EVERY_MS = 60_000;
/** Nobody has heard of an offer for so long: given up. */
const EXPIRY_MS = 7 * 86_400_000;
/** As long as not even its size is proven. */
const EXPIRY_UNPROVEN_MS = 86_400_000;
/** After a start its sender has this time to come back, however long this node was away. */
const EXPIRY_GRACE_MS = 600_000;
const HEARD_SAVE_MS = 3_600_000;
const LOOK_AGAIN_MS = 10_000;
const LOOK_EVERY_MS = 600_000;

export interface NewJob {
  readonly id: Uint8Array;
  readonly name: string;
  readonly target: string;
  readonly exact: boolean;
  readonly offeredBy: string | undefined;
  readonly sources: readonly Uint8Array[];
  readonly sizeBytes: number | undefined;
}

export interface FetchesDeps {
  readonly context: ServiceContext;
  /** Absolute: files/incoming. */
  readonly directory: string;
  /** Absolute: files/kept.json. */
  readonly keptFile: string;
  readonly limits: QuotaLimits;
  /** A file is at its place. */
  onDone(job: FetchJob, leaves: Uint8Array): Promise<void>;
}

export class Fetches {
  readonly figures: FetchFigures = { chunksBad: 0, chunksLate: 0, bytesFetched: 0 };
  readonly #deps: FetchesDeps;
  readonly #jobs = new Map<string, FetchJob>();
  readonly #running = new Set<Promise<void>>();
  readonly #kept: KeptFiles;
  #startedMs = 0;
  #expiredAtMs = 0;
  #lookedAtMs = -Infinity;
  #looking: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(deps: FetchesDeps) {
    this.#deps = deps;
    this.#kept = new KeptFiles(deps.keptFile);
  }

  get all(): readonly FetchJob[] {
    return [...this.#jobs.values()];
  }

  get running(): number {
    return this.#running.size;
  }

  /** Of the quota: on disk, or reserved. */
  get usedBytes(): number {
    let bytes = this.#kept.bytes;
    for (const job of this.#jobs.values()) bytes += heldBytes(job);
    return bytes;
  }

  /** Whether one more offered file has a place among the records. */
  get hasPlaceForOffer(): boolean {
    let count = 0;
    for (const job of this.#jobs.values()) if (job.offeredBy !== undefined && isUnfinished(job)) count++;
    return (
      count < MAX_UNFINISHED_OFFERED && (this.#jobs.size < MAX_JOBS || this.all.some((job) => this.#mayForget(job)))
    );
  }

  /** How large a file of a member may be now. What others hold and do not use is not in the way. */
  roomFor(offeredBy: string): number {
    if (this.#kept.isFull) return 0;
    const others = this.all.map((job) =>
      this.#isIdle(job) ? { ...job, reservedBytes: this.#writtenBytes(job) } : job,
    );
    return roomFor(offeredBy, others, this.#kept.bytes, this.#deps.limits);
  }

  /** Looks which finished files are still where they were put; not more often than every LOOK_AGAIN_MS. */
  look(): Promise<void> {
    const { nowMs } = this.#deps.context.clock.now();
    if (this.#looking === undefined && nowMs - this.#lookedAtMs < LOOK_AGAIN_MS) return Promise.resolve();
    this.#lookedAtMs = nowMs;
    this.#looking ??= this.#look().finally(() => (this.#looking = undefined));
    return this.#looking;
  }

  async #look(): Promise<void> {
    for (const job of this.all)
      if (job.state === "done" && !job.exact && job.path !== undefined) job.isGone = await isMissing(job.path);
    await this.#kept.refresh();
  }

  byKey(key: string): FetchJob | undefined {
    return this.#jobs.get(key);
  }

  async start(): Promise<void> {
    const { directory, context } = this.#deps;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    for (const name of (await readdir(directory)).slice(0, 4 * MAX_JOBS)) {
      const file = join(directory, name, "record.json");
      const text = await readRecordText(file);
      const job = text === undefined ? undefined : readJob(text);
      if (job === undefined || job.key !== name) {
        context.log.warn(`${join(directory, name)} is no transfer; it is left alone`);
        continue;
      }
      if (job.state !== "done") job.diskBytes = await this.#partialBytes(job);
      this.#jobs.set(job.key, job);
    }
    await this.#kept.load();
    // a crash between the list and the record leaves both
    for (const job of this.#jobs.values()) if (job.path !== undefined) this.#kept.delete(job.path);
    this.#startedMs = context.clock.now().nowMs;
    await this.look();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#schedule();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#timer);
    for (const job of this.#jobs.values()) job.abort?.abort(new Error("this node is stopping"));
    await Promise.allSettled(this.#running);
  }

  /** @throws WeftError FILES_FULL */
  async add(wanted: NewJob): Promise<FetchJob> {
    const idHex = toHex(wanted.id);
    for (const job of this.#jobs.values()) {
      // each member's offers are its own: nobody's lies or limits become another one's
      const isSame =
        job.idHex === idHex &&
        job.target === wanted.target &&
        job.exact === wanted.exact &&
        job.offeredBy === wanted.offeredBy;
      if (!isSame || (!isUnfinished(job) && job.state !== "failed")) continue;
      if (job.state === "failed") {
        Object.assign(job, { state: "queued", error: undefined, errorCode: undefined, finishedAtMs: undefined });
        if (job.shape === undefined) job.sizeBytes = wanted.sizeBytes;
      }
      job.heardAtMs = this.#deps.context.clock.now().wallMs;
      for (const source of wanted.sources) this.#addSource(job, source);
      await this.#save(job);
      this.#schedule();
      return job;
    }
    this.#forgetOldest();
    if (this.#jobs.size >= MAX_JOBS)
      throw new WeftError("FILES_FULL", `${MAX_JOBS} transfers are under way`, "cancel one: weft files cancel KEY");
    const { random, clock } = this.#deps.context;
    const job: FetchJob = {
      ...wanted,
      key: toHex(random.bytes(4)),
      idHex,
      name: safeFileName(wanted.name),
      sources: new Set(wanted.sources.slice(0, MAX_SOURCES).map(toHex)),
      startedAtMs: clock.now().wallMs,
      shape: undefined,
      state: "queued",
      error: undefined,
      path: undefined,
      finishedAtMs: undefined,
      heardAtMs: clock.now().wallMs,
      ...freshState(),
    };
    this.#jobs.set(job.key, job);
    await mkdir(this.#directoryOf(job), { recursive: true, mode: 0o700 });
    await this.#save(job);
    this.#schedule();
    return job;
  }

  /** Its sender has offered it again. */
  async heard(job: FetchJob): Promise<void> {
    const { wallMs } = this.#deps.context.clock.now();
    const isLongAgo = wallMs - job.heardAtMs >= HEARD_SAVE_MS;
    job.heardAtMs = wallMs;
    if (isLongAgo && this.#jobs.has(job.key)) await this.#save(job);
  }

  #addSource(job: FetchJob, nodeId: Uint8Array): void {
    if (job.sources.size >= MAX_SOURCES) return;
    job.sources.add(toHex(nodeId));
    job.fetch?.addSource(nodeId);
  }

  /** Ends it, and its partial file goes. One that has ended is forgotten, its file stays. */
  async cancel(job: FetchJob): Promise<void> {
    if (isUnfinished(job)) {
      this.#finish(job, "cancelled", undefined);
      job.abort?.abort(new Error("it was cancelled"));
      await settled(job);
    } else {
      this.#jobs.delete(job.key);
      if (this.#keep(job)) await this.#kept.save();
    }
    await rm(this.#directoryOf(job), { recursive: true, force: true });
  }

  peerUp(nodeId: Uint8Array): void {
    for (const job of this.#jobs.values()) job.fetch?.wake(nodeId);
  }

  // ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #schedule(): void {
    for (;;) {
      const job = this.#isClosed ? undefined : this.#next(undefined);
      if (job === undefined) return;
      const running: Promise<void> = this.#run(job)
        .catch((error: Error) => this.#deps.context.log.error(`files: ${error.message}`))
        .finally(() => {
          this.#running.delete(running);
          this.#schedule();
        });
      this.#running.add(running);
    }
  }

  /**
   * Who is next: of whom the fewest run, then in the order of the queue. @param without as if this one did not run
   * @returns undefined when nobody waits, or there is no place for whoever does
   */
  #next(without: FetchJob | undefined): FetchJob | undefined {
    let running = 0;
    let offered = 0;
    const byPeer = new Map<string, number>();
    for (const job of this.#jobs.values()) {
      if (job.abort === undefined || job === without) continue;
      running++;
      if (job.offeredBy !== undefined) offered++;
      byPeer.set(job.offeredBy ?? "", (byPeer.get(job.offeredBy ?? "") ?? 0) + 1);
    }
    if (running >= MAX_RUNNING) return undefined;
    let best: FetchJob | undefined;
    let fewest = Infinity;
    for (const job of this.#jobs.values()) {
      if (job.state !== "queued" || job.abort !== undefined || job === without) continue;
      const theirs = byPeer.get(job.offeredBy ?? "") ?? 0;
      const isFull = job.offeredBy !== undefined && (offered >= MAX_RUNNING_OFFERED || theirs >= MAX_RUNNING_PER_PEER);
      if (isFull || theirs >= fewest) continue;
      best = job;
      fewest = theirs;
    }
    return best;
  }

  // ── what it may take ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Checks and reserves in one turn: what two transfers may take is never promised to both. */
  #reserve(job: FetchJob, shape: FileShape, free: number, onDisk: number): void {
    const { sizeBytes } = shape;
    if (job.offeredBy !== undefined && job.sizeBytes !== sizeBytes)
      throw new WeftError(
        "FILE_SIZE",
        `it has ${sizeBytes} bytes, and ${job.sizeBytes} were offered`,
        "offer it again with its size",
      );
    const others = this.all.filter((one) => one !== job);
    const promised = others.reduce((sum, one) => sum + Math.max(0, one.reservedBytes - this.#writtenBytes(one)), 0);
    if (sizeBytes - onDisk > free - promised)
      throw new WeftError("DISK_FULL", `the disk has no room for ${sizeBytes} bytes`, "make room, then start it again");
    if (!job.exact) {
      const { limits } = this.#deps;
      const room = (): number => roomFor(job.offeredBy, others, this.#kept.bytes, limits);
      for (const other of others) if (sizeBytes > room() && this.#isIdle(other)) this.#giveWay(other);
      if (sizeBytes > room())
        throw new WeftError(
          "FILES_QUOTA",
          `it has ${sizeBytes} bytes, and ${room()} may be taken now`,
          "remove received files, or raise quota_mb in [files]",
        );
    }
    job.diskBytes = onDisk;
    job.reservedBytes = sizeBytes;
  }

  /** It runs for a member and brings nothing. */
  #isIdle(job: FetchJob): boolean {
    const { nowMs } = this.#deps.context.clock.now();
    return job.abort !== undefined && job.offeredBy !== undefined && nowMs - job.fruitfulAtMs >= FRUITLESS_MS;
  }

  /** At most so many bytes of it are on disk. */
  #writtenBytes(job: FetchJob): number {
    const { fetch } = job;
    if (fetch === undefined) return job.diskBytes;
    return Math.min(job.sizeBytes ?? 0, Math.max(job.diskBytes, fetch.haveBytes) + fetch.pendingBytes);
  }

  /** To the end of the queue, without its reservation. */
  #giveWay(job: FetchJob): void {
    this.#jobs.delete(job.key);
    this.#jobs.set(job.key, job);
    job.diskBytes = this.#writtenBytes(job);
    job.reservedBytes = 0;
    job.abort?.abort(new Error("others wait"));
  }

  async #partialBytes(job: FetchJob): Promise<number> {
    const found = await stat(join(this.#directoryOf(job), "data")).catch(() => undefined);
    return (found?.blocks ?? 0) * 512;
  }

  async #run(job: FetchJob): Promise<void> {
    const { context } = this.#deps;
    const abort = new AbortController();
    const fetch = new Fetch(context, {
      id: job.id,
      directory: this.#directoryOf(job),
      shape: job.shape,
      figures: this.figures,
      reserve: (shape, free, onDisk) => {
        abort.signal.throwIfAborted();
        this.#reserve(job, shape, free, onDisk);
      },
      onShape: async (shape) => {
        job.shape = shape;
        job.sizeBytes = shape.sizeBytes;
        await this.#save(job);
      },
    });
    job.abort = abort;
    job.fetch = fetch;
    job.state = "running";
    job.fruitfulAtMs = context.clock.now().nowMs;
    job.fruitfulBytes = 0;
    job.lastBytes = 0;
    for (const source of job.sources) fetch.addSource(fromHex(source) as Uint8Array);
    try {
      await fetch.run(abort.signal);
      job.path = await place(fetch.dataFile, job.target, job.exact ? undefined : job.name);
      await this.#deps.onDone(job, fetch.leaves);
      this.#finish(job, "done", undefined);
    } catch (error) {
      // stopping, cancelled or giving way is no failure
      job.errorCode = error instanceof WeftError ? error.code : undefined;
      if (!abort.signal.aborted) this.#finish(job, "failed", error instanceof Error ? error.message : String(error));
      else if (job.state === "running") job.state = "queued";
    } finally {
      // the reservation stands until it is known what is left on disk
      job.diskBytes = await this.#partialBytes(job);
      job.reservedBytes = 0;
      job.abort = undefined;
      job.fetch = undefined;
      job.bytesPerSecond = 0;
    }
    const state = job.state as JobState;
    if (state === "queued" || state === "cancelled" || !this.#jobs.has(job.key)) return;
    await this.#save(job);
    // what is left of a failed one is of use when it is started again
    if (state === "done")
      for (const name of ["data", "tree"]) await rm(join(this.#directoryOf(job), name), { force: true });
  }

  #finish(job: FetchJob, state: "done" | "failed" | "cancelled", error: string | undefined): void {
    job.state = state;
    job.error = error;
    job.finishedAtMs = this.#deps.context.clock.now().wallMs;
    job.ended();
  }

  #tick(): void {
    const { nowMs, wallMs } = this.#deps.context.clock.now();
    this.#expire(nowMs, wallMs);
    if (nowMs - this.#lookedAtMs >= LOOK_EVERY_MS)
      void this.look().catch((error: Error) => this.#deps.context.log.error(`files: ${error.message}`));
    for (const job of this.#jobs.values()) {
      const { fetch } = job;
      if (fetch === undefined) continue;
      const bytes = fetch.haveBytes - job.lastBytes;
      job.lastBytes = fetch.haveBytes;
      if (fetch.state === "fetching") job.bytesPerSecond += 0.5 * (bytes - job.bytesPerSecond);
      if (fetch.state === "checking" || fetch.haveBytes - job.fruitfulBytes >= FRUITFUL_BYTES) {
        job.fruitfulAtMs = nowMs;
        job.fruitfulBytes = fetch.haveBytes;
        job.heardAtMs = wallMs;
      }
    }
    for (const job of this.#jobs.values()) {
      const isRunning = job.state === "running" && job.abort?.signal.aborted === false;
      if (!isRunning || nowMs - job.fruitfulAtMs < FRUITLESS_MS || this.#next(job) === undefined) continue;
      // there may be a place without that
      if (this.#next(undefined) === undefined) this.#giveWay(job);
      else this.#schedule();
      return;
    }
  }

  /** Gives up what members have offered and do not bring. */
  #expire(nowMs: number, wallMs: number): void {
    if (nowMs - this.#startedMs < EXPIRY_GRACE_MS || nowMs - this.#expiredAtMs < EXPIRY_EVERY_MS) return;
    this.#expiredAtMs = nowMs;
    for (const job of this.#jobs.values()) {
      if (job.offeredBy === undefined || (!isUnfinished(job) && job.state !== "failed")) continue;
      if (wallMs - job.heardAtMs < (job.shape === undefined ? EXPIRY_UNPROVEN_MS : EXPIRY_MS)) continue;
      this.#deps.context.log.info(`files: "${job.name}" was offered and never came; it is given up`);
      void this.#drop(job).catch((error: Error) => this.#deps.context.log.error(`files: ${error.message}`));
    }
  }

  async #drop(job: FetchJob): Promise<void> {
    if (isUnfinished(job)) await this.cancel(job);
    this.#jobs.delete(job.key);
    await rm(this.#directoryOf(job), { recursive: true, force: true });
  }

  #mayForget(job: FetchJob): boolean {
    return !isUnfinished(job) && job.abort === undefined && !(this.#kept.isFull && this.#isKept(job));
  }

  #isKept(job: FetchJob): boolean {
    return job.state === "done" && !job.exact && !job.isGone && job.path !== undefined;
  }

  /** A finished file outlives its transfer, and counts on. @returns whether there is one */
  #keep(job: FetchJob): boolean {
    if (!this.#isKept(job)) return false;
    this.#kept.add(job.path as string, job.sizeBytes ?? 0);
    return true;
  }

  #forgetOldest(): void {
    if (this.#jobs.size < MAX_JOBS) return;
    const ended = this.all.filter((job) => this.#mayForget(job));
    const oldest = ended.toSorted((a, b) => (a.finishedAtMs ?? 0) - (b.finishedAtMs ?? 0)).slice(0, FORGET_JOBS);
    const forgotten = oldest.filter((job) => {
      if (!this.#mayForget(job)) return false;
      this.#keep(job);
      return this.#jobs.delete(job.key);
    });
    const remove = async (): Promise<void> => {
      // first the list: a crash in between must not lose what a file takes
      await this.#kept.save();
      for (const job of forgotten) await rm(this.#directoryOf(job), { recursive: true, force: true });
    };
    void remove().catch((error: Error) => this.#deps.context.log.error(`files: ${error.message}`));
  }

  #directoryOf(job: FetchJob): string {
    return join(this.#deps.directory, job.key);
  }

  #save(job: FetchJob): Promise<void> {
    return saveDurably(join(this.#directoryOf(job), "record.json"), `${JSON.stringify(recordOf(job))}\n`);
  }
}

function settled(job: FetchJob): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (job.fetch === undefined) resolve();
      else setTimeout(look, 10);
    };
    look();
  });
}
