/**
 * The message store as the control thread sees it: `messages.db` in the state directory, in a worker thread, so that no fsync
 * delays a packet. Every part has its tables and named statements (tables/<part>.ts); this file knows none of them.
 *
 *   commit(ops) ──► one message ──► worker: all commits that wait, one transaction, one fsync ──► one answer each
 *
 * Guarantees: a commit is applied whole or not at all, in the order of the calls, and is on disk (WAL, synchronous = FULL) when it resolves;
 * one that fails harms no other. A query sees every commit that was asked for before it. Bounds: MAX_PENDING requests and
 * MAX_PENDING_BYTES wait, beyond that STORE_BUSY; the file grows to the quota, beyond that STORE_FULL; a query gives MAX_ROWS rows and
 * MAX_ROWS_BYTES bytes at most. Source: docs/protocol.md, "The message store".
 */
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { WeftError } from "../../base/errors.ts";
import type { Row, SqlValue, StoreOp, TableSet } from "../../messaging/store-types.ts";
import type { MessageStoreAnswer, MessageStoreRequest, MessageStoreWorkerData, OwnThreadData } from "./store-worker.ts";

export type { Row, SqlValue, StoreOp, TableSet } from "../../messaging/store-types.ts";

const MAX_PENDING = 4_096;
const MAX_PENDING_BYTES = 64 << 20;
/** What a value costs besides its bytes. */
const VALUE_BYTES = 16;
const MAX_ROWS = 10_000;
const DEFAULT_QUOTA_BYTES = 1 << 30;

/** What parts use. Tests may keep it in memory (`new MessageStoreThread(":memory:", …)` is one too). */
export interface MessageStore {
  /**
   * One transaction, durable when it resolves. The values are copied before this returns.
   * @throws WeftError STORE_BUSY (too many wait), STORE_FULL (quota or disk), STORE_FAILED, STORE_CLOSED; nothing was applied then
   */
  commit(ops: readonly StoreOp[]): Promise<void>;
  /** The rows of a reading statement, at most `maxRows` of them (and 32 MiB). @param maxRows @default 1000, at most 10,000 */
  query(name: string, values: readonly SqlValue[], maxRows?: number): Promise<Row[]>;
}

/** A thread that the store lives in: it serves the port until its end. */
export interface MessageStoreHost {
  hostMessages(port: MessagePort, data: MessageStoreWorkerData): void;
}

export interface MessageStoreOptions {
  /** It must not end before the store is closed. @default a thread of its own */
  readonly host?: MessageStoreHost | undefined;
  /** The file never grows beyond it. @default 1 GiB */
  readonly quotaBytes?: number;
  /** Makes every transaction this much slower, to test that nothing waits for the disk. @default 0 */
  readonly commitDelayMs?: number;
}

/** Values only grow, except `pending` and `pendingBytes`. */
export interface MessageStoreCounters {
  readonly commits: number;
  readonly ops: number;
  readonly queries: number;
  /** Transactions, each with one fsync; commits ÷ transactions is what group commit saves. */
  readonly transactions: number;
  readonly transactionSeconds: number;
  readonly refused: number;
  readonly failed: number;
  readonly pending: number;
  readonly pendingBytes: number;
}

interface Waiting {
  readonly bytes: number;
  readonly resolve: (rows: Row[]) => void;
  readonly reject: (error: Error) => void;
}

export class MessageStoreThread implements MessageStore {
  readonly #thread: StoreThread;
  /** Statement name → its index, the same in the worker. */
  readonly #names: ReadonlyMap<string, number>;
  readonly #waiting = new Map<number, Waiting>();
  readonly #counters = { commits: 0, ops: 0, queries: 0, transactions: 0, transactionMs: 0, refused: 0, failed: 0 };
  #pendingBytes = 0;
  #nextId = 1;
  #dead: WeftError | undefined;

  /** Opens the file in the worker at the first request. @throws RangeError when two statements have one name */
  constructor(file: string, tables: readonly TableSet[], options: MessageStoreOptions = {}) {
    const entries = tables.flatMap((set) => Object.entries(set.statements));
    this.#names = new Map(entries.map(([name], index) => [name, index]));
    if (this.#names.size !== entries.length) throw new RangeError("two statements of the message store have one name");
    const data: MessageStoreWorkerData = {
      file,
      schemas: tables.map((set) => set.schema),
      statements: entries.map(([, sql]) => sql),
      quotaBytes: options.quotaBytes ?? DEFAULT_QUOTA_BYTES,
      commitDelayMs: options.commitDelayMs ?? 0,
    };
    const answered = (answer: MessageStoreAnswer): void => this.#answered(answer);
    const died = (error: Error): void => this.#died(error);
    this.#thread =
      options.host === undefined ? ownThread(data, answered, died) : hosted(options.host, data, answered, died);
  }

  async commit(ops: readonly StoreOp[]): Promise<void> {
    if (ops.length === 0) return;
    const indices: number[] = [];
    const arities: number[] = [];
    const values: SqlValue[] = [];
    let bytes = 0;
    for (const op of ops) {
      indices.push(this.#index(op.name));
      arities.push(op.values.length);
      for (const value of op.values) {
        bytes += VALUE_BYTES + lengthOf(value);
        values.push(owned(value));
      }
    }
    this.#counters.commits++;
    this.#counters.ops += ops.length;
    await this.#ask({ op: "commit", indices, arities, values }, bytes);
  }

  query(name: string, values: readonly SqlValue[], maxRows: number = 1_000): Promise<Row[]> {
    this.#counters.queries++;
    const limit = Math.max(0, Math.min(MAX_ROWS, maxRows));
    return this.#ask({ op: "query", index: this.#index(name), values: values.map(owned), maxRows: limit }, 0);
  }

  counters(): MessageStoreCounters {
    const { transactionMs, ...rest } = this.#counters;
    return {
      ...rest,
      transactionSeconds: transactionMs / 1000,
      pending: this.#waiting.size,
      pendingBytes: this.#pendingBytes,
    };
  }

  /** Everything asked for before is on disk then. */
  async close(): Promise<void> {
    if (this.#dead !== undefined) return;
    const closing = this.#ask({ op: "close" }, 0);
    this.#dead = new WeftError("STORE_CLOSED", "the message store is closed", "start the node again");
    await closing.catch(() => undefined);
    await this.#thread.end();
  }

  #index(name: string): number {
    const index = this.#names.get(name);
    if (index === undefined) throw new RangeError(`the message store has no statement "${name}"`);
    return index;
  }

  #ask(request: DistributiveOmit<MessageStoreRequest, "id">, bytes: number): Promise<Row[]> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    const isFull = this.#waiting.size >= MAX_PENDING || this.#pendingBytes + bytes > MAX_PENDING_BYTES;
    if (isFull && request.op !== "close") {
      this.#counters.refused++;
      const what = `${this.#waiting.size} requests with ${this.#pendingBytes} bytes wait for the message store`;
      return Promise.reject(new WeftError("STORE_BUSY", what, "check the disk of the state directory"));
    }
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { bytes, resolve, reject });
      this.#pendingBytes += bytes;
      this.#thread.post({ id, ...request });
    });
  }

  /** Commits of one transaction are answered by one message. */
  #answered(answer: MessageStoreAnswer): void {
    if (answer.kind === "rows") return this.#settle(answer.id)?.resolve(answer.rows as Row[]);
    if (answer.kind === "failed") {
      this.#counters.failed++;
      return this.#settle(answer.id)?.reject(new WeftError(answer.code, answer.message, answer.remedy));
    }
    this.#counters.transactions++;
    this.#counters.transactionMs += answer.tookMs;
    for (const id of answer.ids) this.#settle(id)?.resolve([]);
  }

  #settle(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    this.#pendingBytes -= waiting?.bytes ?? 0;
    return waiting;
  }

  #died(cause: Error): void {
    this.#dead ??= new WeftError(
      "STORE_FAILED",
      `the message store's thread ended: ${cause.message}`,
      "start the daemon again",
      { cause },
    );
    for (const waiting of this.#waiting.values()) waiting.reject(this.#dead);
    this.#waiting.clear();
    this.#pendingBytes = 0;
  }
}

interface StoreThread {
  post(request: MessageStoreRequest): void;
  end(): Promise<unknown> | void;
}

function ownThread(
  data: MessageStoreWorkerData,
  answered: (answer: MessageStoreAnswer) => void,
  died: (error: Error) => void,
): StoreThread {
  const workerData: OwnThreadData = { messageStore: data };
  const worker = new Worker(new URL("./store-worker.ts", import.meta.url), {
    workerData,
    name: "weft-messages",
    resourceLimits: { maxYoungGenerationSizeMb: 16, maxOldGenerationSizeMb: 256, stackSizeMb: 1 },
  });
  worker.on("message", answered);
  worker.on("error", (error) => died(error as Error));
  worker.on("exit", () => died(new Error("it stopped")));
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
  return { post: (request) => worker.postMessage(request), end: () => worker.terminate() };
}

function hosted(
  host: MessageStoreHost,
  data: MessageStoreWorkerData,
  answered: (answer: MessageStoreAnswer) => void,
  died: (error: Error) => void,
): StoreThread {
  const { port1: near, port2: far } = new MessageChannel();
  near.on("message", answered);
  near.on("close", () => died(new Error("it stopped")));
  host.hostMessages(far, data);
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
  return { post: (request) => near.postMessage(request), end: () => near.close() };
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

function lengthOf(value: SqlValue): number {
  return typeof value === "string" || value instanceof Uint8Array ? value.length : 0;
}

/** A view into a larger buffer is copied: the whole buffer would cross to the thread otherwise, and a Buffer's pool with it. */
function owned(value: SqlValue): SqlValue {
  if (!(value instanceof Uint8Array)) return value;
  return value.byteLength === value.buffer.byteLength && !Buffer.isBuffer(value) ? value : Uint8Array.from(value);
}
