/**
 * The message store's side in a thread: owns `messages.db` and every fsync of it. In a daemon that is the storage thread
 * (node/storage-worker.ts); a store that has no host runs this file as a thread of its own.
 *
 *   requests (port, in order) → batch → one transaction with all its commits → one answer; then its queries, in order
 *
 * What arrives while a transaction runs goes into the next one (group commit over all callers). When a transaction fails as a whole, each
 * commit is tried alone, so that a bad one harms no other. A damaged file is an error and stays as it is.
 * Source: docs/protocol.md, "The message store".
 */
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { WeftError } from "../../base/errors.ts";
import type { Row, SqlValue } from "../../messaging/store-types.ts";

export interface MessageStoreWorkerData {
  readonly file: string;
  readonly schemas: readonly string[];
  /** SQL by index. */
  readonly statements: readonly string[];
  readonly quotaBytes: number;
  /** Test aid: every transaction takes this much longer, as on a slow disk. 0 in production. */
  readonly commitDelayMs: number;
}

export type MessageStoreRequest =
  | {
      readonly id: number;
      readonly op: "commit";
      /** Which statement, how many values, and all values one after the other. */
      readonly indices: readonly number[];
      readonly arities: readonly number[];
      readonly values: readonly SqlValue[];
    }
  | {
      readonly id: number;
      readonly op: "query";
      readonly index: number;
      readonly values: readonly SqlValue[];
      readonly maxRows: number;
    }
  | { readonly id: number; readonly op: "close" };

export type MessageStoreAnswer =
  | { readonly kind: "committed"; readonly ids: readonly number[]; readonly tookMs: number }
  | { readonly kind: "rows"; readonly id: number; readonly rows: readonly Row[] }
  | {
      readonly kind: "failed";
      readonly id: number;
      readonly code: string;
      readonly message: string;
      readonly remedy: string;
    };

type Commit = Extract<MessageStoreRequest, { op: "commit" }>;
type Query = Extract<MessageStoreRequest, { op: "query" }>;

const SCHEMA_VERSION = 1;
const PAGE_BYTES = 4_096;
const CHECKPOINT_PAGES = 4_096;
const MAX_ROWS_BYTES = 32 << 20;
/** Requests of one transaction; more wait for the next, so that its answers do not wait for theirs. */
const MAX_BATCH = 1_024;

class MessageDatabase {
  readonly #database: DatabaseSync;
  readonly #file: string;
  readonly #sql: readonly string[];
  readonly #prepared: (StatementSync | undefined)[];

  constructor(data: MessageStoreWorkerData) {
    this.#file = data.file;
    this.#sql = data.statements;
    this.#prepared = data.statements.map(() => undefined);
    let database: DatabaseSync | undefined;
    try {
      database = new DatabaseSync(data.file, { timeout: 5000 });
      database.exec(`PRAGMA page_size = ${PAGE_BYTES}; PRAGMA journal_mode = WAL;
        PRAGMA synchronous = FULL; PRAGMA cache_size = -8192; PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES};
        PRAGMA journal_size_limit = ${CHECKPOINT_PAGES * PAGE_BYTES * 4};
        PRAGMA max_page_count = ${Math.max(256, Math.floor(data.quotaBytes / PAGE_BYTES))};`);
      const version = database.prepare("PRAGMA user_version").get()?.["user_version"] as number;
      if (version > SCHEMA_VERSION) {
        throw new WeftError(
          "STORE_NEWER",
          `${data.file} was written by a newer weft (schema ${version})`,
          "run that version, or another state directory with --state",
        );
      }
      database.exec(`BEGIN IMMEDIATE; ${data.schemas.join(";\n")}; PRAGMA user_version = ${SCHEMA_VERSION}; COMMIT;`);
    } catch (cause) {
      try {
        database?.close();
      } catch {
        // the first error is the one to report
      }
      throw explain(cause, data.file);
    }
    this.#database = database;
  }

  /** All of them or none. */
  apply(commits: readonly Commit[]): void {
    this.#database.exec("BEGIN IMMEDIATE");
    try {
      for (const { indices, arities, values } of commits) {
        let at = 0;
        for (let i = 0; i < indices.length; i++) {
          const next = at + arities[i];
          this.#statement(indices[i]).run(...(values.slice(at, next) as SQLInputValue[]));
          at = next;
        }
      }
      this.#database.exec("COMMIT");
    } catch (cause) {
      if (this.#database.isTransaction) this.#database.exec("ROLLBACK");
      throw explain(cause, this.#file);
    }
  }

  query({ index, values, maxRows }: Query): Row[] {
    const rows: Row[] = [];
    let bytes = 0;
    try {
      for (const row of this.#statement(index).iterate(...(values as SQLInputValue[]))) {
        if (rows.length >= maxRows || bytes > MAX_ROWS_BYTES) break;
        rows.push(row as Row);
        for (const value of Object.values(row)) if (value instanceof Uint8Array) bytes += value.length;
      }
    } catch (cause) {
      throw explain(cause, this.#file);
    }
    return rows;
  }

  close(): void {
    this.#database.close();
  }

  #statement(index: number): StatementSync {
    return (this.#prepared[index] ??= this.#database.prepare(this.#sql[index]));
  }
}

/** Of a thread of its own; another thread that loads this file has other data. */
export interface OwnThreadData {
  readonly messageStore: MessageStoreWorkerData;
}

const own = workerData as Partial<OwnThreadData> | null;
if (parentPort !== null && own?.messageStore !== undefined) serveMessageStore(parentPort, own.messageStore);

/** Answers what comes to `port` until it is asked to close. */
export function serveMessageStore(port: MessagePort, data: MessageStoreWorkerData): void {
  const answer = (value: MessageStoreAnswer): void => {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
    port.postMessage(value);
  };
  const refuse = (id: number, error: unknown): void => {
    const known =
      error instanceof WeftError
        ? error
        : new WeftError("STORE_FAILED", (error as Error).message, "see the daemon's log");
    answer({ kind: "failed", id, code: known.code, message: known.message, remedy: known.remedy });
  };
  let database: MessageDatabase | undefined;
  let queue: (Commit | Query)[] = [];
  const sleep = new Int32Array(new SharedArrayBuffer(4));
  const open = (): MessageDatabase => (database ??= new MessageDatabase(data));

  const commit = (commits: readonly Commit[]): void => {
    if (commits.length === 0) return;
    const startedMs = performance.now();
    try {
      open().apply(commits);
      if (data.commitDelayMs > 0) Atomics.wait(sleep, 0, 0, data.commitDelayMs);
      answer({ kind: "committed", ids: commits.map(({ id }) => id), tookMs: performance.now() - startedMs });
    } catch (error) {
      if (commits.length === 1) refuse(commits[0].id, error);
      else for (const one of commits) commit([one]);
    }
  };

  const flush = (): void => {
    const batch = queue.slice(0, MAX_BATCH);
    queue = queue.slice(MAX_BATCH);
    if (queue.length > 0) setImmediate(flush);
    commit(batch.filter((request) => request.op === "commit"));
    for (const request of batch) {
      if (request.op !== "query") continue;
      try {
        answer({ kind: "rows", id: request.id, rows: open().query(request) });
      } catch (error) {
        refuse(request.id, error);
      }
    }
  };

  port.on("message", (request: MessageStoreRequest) => {
    if (request.op !== "close") {
      if (queue.length === 0) setImmediate(flush);
      queue.push(request);
      return;
    }
    while (queue.length > 0) flush();
    database?.close();
    database = undefined;
    answer({ kind: "committed", ids: [request.id], tookMs: 0 });
    port.close();
  });
}

/** SQLite's primary codes: CORRUPT 11, FULL 13, NOTADB 26 (the low byte of the extended code). */
function explain(cause: unknown, file: string): WeftError {
  if (cause instanceof WeftError) return cause;
  const error = cause as Error & { errcode?: number };
  const primary = (error.errcode ?? 0) & 255;
  if (primary === 11 || primary === 26) {
    return new WeftError(
      "STORE_DAMAGED",
      `${file} is damaged (${error.message}); it was left as it is`,
      "restore it from a backup, or move it away: what it held is lost then",
      { cause },
    );
  }
  if (primary === 13) {
    return new WeftError(
      "STORE_FULL",
      `${file} has reached its quota or the disk is full`,
      "read and acknowledge inboxes, raise the quota in [messaging], or make room on the disk",
      { cause },
    );
  }
  return new WeftError(
    "STORE_FAILED",
    `${file}: ${error.message}`,
    "check the free space and the permissions of the state directory",
    { cause },
  );
}
