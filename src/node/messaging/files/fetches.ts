/**
 * The files that this node fetches: asked for here, or offered by members. Each has a directory in files/incoming of the state directory with a
 * record, so that all of them go on after a restart. A few run at once; one that finds no source gives its place to the next.
 * Bounds: MAX_JOBS records, of which the oldest ended one is forgotten; MAX_RUNNING at once. Source: docs/protocol.md, "Files".
 */
import { mkdir, readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { fromHex, toHex } from "../../../base/bytes.ts";
import { WeftError } from "../../../base/errors.ts";
import { safeFileName } from "../../../messaging/files/names.ts";
import { type FileShape, HASH_BYTES, provesShape } from "../../../messaging/files/tree.ts";
import type { ServiceContext } from "../services/context.ts";
import { place, saveDurably } from "./disk.ts";
import { Fetch, type FetchFigures } from "./fetch.ts";

const MAX_JOBS = 1_024;
const MAX_RUNNING = 8;
const MAX_SOURCES = 32;
const MAX_RECORD_BYTES = 262_144;
const TICK_MS = 1_000;
/** A job without a source gives way after so long when others wait. */
const FRUITLESS_MS = 30_000;

export type JobState = "queued" | "running" | "done" | "failed" | "cancelled";

export interface FetchJob {
  readonly key: string;
  readonly id: Uint8Array;
  readonly idHex: string;
  name: string;
  /** Where it goes: a directory, or with `exact` the whole path. */
  readonly target: string;
  readonly exact: boolean;
  /** Node id in hex of the member that offered it; undefined: asked for here. */
  readonly offeredBy: string | undefined;
  readonly sources: Set<string>;
  readonly startedAtMs: number;
  /** As offered, then as proven. */
  sizeBytes: number | undefined;
  shape: FileShape | undefined;
  state: JobState;
  error: string | undefined;
  path: string | undefined;
  finishedAtMs: number | undefined;
  // of this run alone
  fetch: Fetch | undefined;
  abort: AbortController | undefined;
  bytesPerSecond: number;
  lastBytes: number;
  fruitfulAtMs: number;
  /** Called when it ends, one way or the other. */
  ended: () => void;
}

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
  /** Of a file that nobody here has asked for, or that goes into the directory for received files. */
  largestBytes(job: FetchJob): number;
  /** A file is at its place. */
  onDone(job: FetchJob, leaves: Uint8Array): Promise<void>;
}

export class Fetches {
  readonly figures: FetchFigures = { chunksBad: 0, chunksLate: 0, bytesFetched: 0 };
  readonly #deps: FetchesDeps;
  readonly #jobs = new Map<string, FetchJob>();
  readonly #running = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(deps: FetchesDeps) {
    this.#deps = deps;
  }

  get all(): readonly FetchJob[] {
    return [...this.#jobs.values()];
  }

  get running(): number {
    return this.#running.size;
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
      if (job !== undefined && job.key === name) this.#jobs.set(job.key, job);
      else context.log.warn(`${join(directory, name)} is no transfer; it is left alone`);
    }
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
      const isSame = job.idHex === idHex && job.target === wanted.target && job.exact === wanted.exact;
      if (!isSame || (!isUnfinished(job) && job.state !== "failed")) continue;
      if (job.state === "failed") Object.assign(job, { state: "queued", error: undefined, finishedAtMs: undefined });
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
      ...freshState(),
    };
    this.#jobs.set(job.key, job);
    await mkdir(this.#directoryOf(job), { recursive: true, mode: 0o700 });
    await this.#save(job);
    this.#schedule();
    return job;
  }

  addSource(job: FetchJob, nodeId: Uint8Array): void {
    if (isUnfinished(job)) this.#addSource(job, nodeId);
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
    } else this.#jobs.delete(job.key);
    await rm(this.#directoryOf(job), { recursive: true, force: true });
  }

  peerUp(nodeId: Uint8Array): void {
    for (const job of this.#jobs.values()) job.fetch?.wake(nodeId);
  }

  // ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #schedule(): void {
    if (this.#isClosed) return;
    for (const job of this.#jobs.values()) {
      if (this.#running.size >= MAX_RUNNING) return;
      if (job.state !== "queued" || job.abort !== undefined) continue;
      const running: Promise<void> = this.#run(job)
        .catch((error: Error) => this.#deps.context.log.error(`files: ${error.message}`))
        .finally(() => {
          this.#running.delete(running);
          this.#schedule();
        });
      this.#running.add(running);
    }
  }

  async #run(job: FetchJob): Promise<void> {
    const { context } = this.#deps;
    const abort = new AbortController();
    const fetch = new Fetch(context, {
      id: job.id,
      directory: this.#directoryOf(job),
      shape: job.shape,
      largestBytes: this.#deps.largestBytes(job),
      figures: this.figures,
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
    for (const source of job.sources) fetch.addSource(fromHex(source) as Uint8Array);
    try {
      await fetch.run(abort.signal);
      job.path = await place(fetch.dataFile, job.target, job.exact ? undefined : job.name);
      await this.#deps.onDone(job, fetch.leaves);
      this.#finish(job, "done", undefined);
    } catch (error) {
      // stopping, cancelled or giving way is no failure
      if (!abort.signal.aborted) this.#finish(job, "failed", error instanceof Error ? error.message : String(error));
      else if (job.state === "running") job.state = "queued";
    } finally {
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
    const { nowMs } = this.#deps.context.clock.now();
    const isCrowded = this.#running.size >= MAX_RUNNING && this.all.some(({ state }) => state === "queued");
    for (const job of this.#jobs.values()) {
      const { fetch } = job;
      if (fetch === undefined) continue;
      const bytes = fetch.haveBytes - job.lastBytes;
      job.lastBytes = fetch.haveBytes;
      if (fetch.state !== "fetching") continue;
      job.bytesPerSecond += 0.5 * (bytes - job.bytesPerSecond);
      if (bytes > 0) job.fruitfulAtMs = nowMs;
      if (!isCrowded || nowMs - job.fruitfulAtMs < FRUITLESS_MS) continue;
      // to the end of the queue
      this.#jobs.delete(job.key);
      this.#jobs.set(job.key, job);
      job.abort?.abort(new Error("others wait"));
      return;
    }
  }

  #forgetOldest(): void {
    if (this.#jobs.size < MAX_JOBS) return;
    const ended = this.all.filter((job) => !isUnfinished(job));
    const [oldest] = ended.toSorted((a, b) => (a.finishedAtMs ?? 0) - (b.finishedAtMs ?? 0));
    if (oldest === undefined) return;
    this.#jobs.delete(oldest.key);
    void rm(this.#directoryOf(oldest), { recursive: true, force: true }).catch(() => undefined);
  }

  #directoryOf(job: FetchJob): string {
    return join(this.#deps.directory, job.key);
  }

  #save(job: FetchJob): Promise<void> {
    const { key, idHex, name, target, exact, offeredBy, sources, startedAtMs, sizeBytes, shape, state, error, path } =
      job;
    const record = {
      key,
      id: idHex,
      name,
      target,
      exact,
      offeredBy,
      sources: [...sources],
      startedAtMs,
      sizeBytes,
      pageRoots: shape === undefined ? undefined : toHex(shape.pageRoots),
      state: state === "running" ? "queued" : state,
      error,
      path,
      finishedAtMs: job.finishedAtMs,
    };
    return saveDurably(join(this.#directoryOf(job), "record.json"), `${JSON.stringify(record)}\n`);
  }
}

export function isUnfinished(job: FetchJob): boolean {
  return job.state === "queued" || job.state === "running";
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

type Fresh = Pick<FetchJob, "fetch" | "abort" | "bytesPerSecond" | "lastBytes" | "fruitfulAtMs" | "ended">;

function freshState(): Fresh {
  return {
    fetch: undefined,
    abort: undefined,
    bytesPerSecond: 0,
    lastBytes: 0,
    fruitfulAtMs: 0,
    ended: () => undefined,
  };
}

async function readRecordText(file: string): Promise<string | undefined> {
  try {
    return (await stat(file)).size > MAX_RECORD_BYTES ? undefined : await readFile(file, "utf8");
  } catch {
    return undefined;
  }
}

/** @returns undefined for what is no record */
function readJob(text: string): FetchJob | undefined {
  try {
    const value = JSON.parse(text) as Record<string, unknown>;
    const { key, id, name, target, exact, offeredBy, sources, startedAtMs, sizeBytes, pageRoots, state, error, path } =
      value;
    const idBytes = typeof id === "string" ? fromHex(id) : undefined;
    if (idBytes?.length !== HASH_BYTES || typeof key !== "string" || typeof name !== "string") return undefined;
    if (typeof target !== "string" || typeof startedAtMs !== "number" || !Array.isArray(sources)) return undefined;
    const states: readonly JobState[] = ["queued", "done", "failed", "cancelled"];
    const known = states.find((one) => one === state);
    if (known === undefined) return undefined;
    const size = typeof sizeBytes === "number" ? sizeBytes : undefined;
    const roots = typeof pageRoots === "string" ? fromHex(pageRoots) : undefined;
    const shape =
      roots === undefined || size === undefined ? undefined : { id: idBytes, sizeBytes: size, pageRoots: roots };
    return {
      key,
      id: idBytes,
      idHex: toHex(idBytes),
      name: safeFileName(name),
      target,
      exact: exact === true,
      offeredBy: typeof offeredBy === "string" ? offeredBy : undefined,
      sources: new Set(
        sources.filter((one) => typeof one === "string" && /^[0-9a-f]{64}$/.test(one)).slice(0, MAX_SOURCES),
      ),
      startedAtMs,
      sizeBytes: size,
      shape: shape !== undefined && provesShape(shape) ? shape : undefined,
      state: known,
      error: typeof error === "string" ? error : undefined,
      path: typeof path === "string" ? path : undefined,
      finishedAtMs: typeof value["finishedAtMs"] === "number" ? value["finishedAtMs"] : undefined,
      ...freshState(),
    };
  } catch {
    return undefined;
  }
}
