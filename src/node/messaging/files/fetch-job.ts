/** One file being fetched, and the record of it that outlives the process. Source: docs/protocol.md, "Files". */
import { readFile, stat } from "node:fs/promises";
import { fromHex, toHex } from "../../../base/bytes.ts";
import { safeFileName } from "../../../messaging/files/names.ts";
import { type FileShape, HASH_BYTES, provesShape } from "../../../messaging/files/tree.ts";
import type { Fetch } from "./fetch.ts";
import type { Held } from "./quota.ts";

export const MAX_SOURCES = 32;
const MAX_RECORD_BYTES = 262_144;

export type JobState = "queued" | "running" | "done" | "failed" | "cancelled";

export interface FetchJob extends Held {
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
  /** Of the WeftError that it failed with; not kept over a restart. */
  errorCode: string | undefined;
  path: string | undefined;
  finishedAtMs: number | undefined;
  /** Wall clock: when it was offered last, or brought something. */
  heardAtMs: number;
  reservedBytes: number;
  diskBytes: number;
  isGone: boolean;
  // of this run alone
  fetch: Fetch | undefined;
  abort: AbortController | undefined;
  bytesPerSecond: number;
  lastBytes: number;
  fruitfulAtMs: number;
  /** What it had then. */
  fruitfulBytes: number;
  /** Called when it ends, one way or the other. */
  ended: () => void;
}

export function isUnfinished(job: FetchJob): boolean {
  return job.state === "queued" || job.state === "running";
}

/** What is kept of it; JSON. */
export function recordOf(job: FetchJob): unknown {
  const { key, idHex, name, target, exact, offeredBy, sources, startedAtMs, sizeBytes, shape, state, error, path } =
    job;
  return {
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
    heardAtMs: job.heardAtMs,
  };
}

type Fresh = Pick<
  FetchJob,
  | "errorCode"
  | "reservedBytes"
  | "diskBytes"
  | "isGone"
  | "fetch"
  | "abort"
  | "bytesPerSecond"
  | "lastBytes"
  | "fruitfulAtMs"
  | "fruitfulBytes"
  | "ended"
>;

export function freshState(): Fresh {
  return {
    errorCode: undefined,
    reservedBytes: 0,
    diskBytes: 0,
    isGone: false,
    fetch: undefined,
    abort: undefined,
    bytesPerSecond: 0,
    lastBytes: 0,
    fruitfulAtMs: 0,
    fruitfulBytes: 0,
    ended: () => undefined,
  };
}

export async function readRecordText(file: string): Promise<string | undefined> {
  try {
    return (await stat(file)).size > MAX_RECORD_BYTES ? undefined : await readFile(file, "utf8");
  } catch {
    return undefined;
  }
}

/** @returns undefined for what is no record */
export function readJob(text: string): FetchJob | undefined {
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
      heardAtMs: typeof value["heardAtMs"] === "number" ? value["heardAtMs"] : startedAtMs,
      ...freshState(),
    };
  } catch {
    return undefined;
  }
}
