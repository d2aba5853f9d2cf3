/**
 * The storage thread: owns the database and every fsync, so that neither handshakes nor traffic ever wait for a disk.
 *
 * requests (port, in order) → batch → one transaction → one answer each. Everything that arrived while a commit ran goes into the
 * next one (group commit). When the transaction as a whole fails, each request is tried alone, so one bad request harms no other.
 * The message store lives in this thread too (messaging/store-worker.ts), with a port, a queue and transactions of its own: a thread
 * costs 8 MB. Requests of one are never reordered by the other; they wait for each other's transaction at most.
 */
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { WeftError } from "../base/errors.ts";
import type { MessageStoreWorkerData } from "./messaging/store-worker.ts";
import type { Mutation, StoreContents } from "./store.ts";
import { Store } from "./store.ts";

export interface StorageWorkerData {
  readonly file: string;
  /** Test aid: every commit takes this much longer, as on a slow disk. 0 in production. */
  readonly commitDelayMs: number;
}

export type StorageRequest =
  | { readonly id: number; readonly op: "load" }
  | { readonly id: number; readonly op: "write"; readonly mutations: readonly Mutation[] }
  | { readonly id: number; readonly op: "close" }
  /** Not answered: the port is, and closes when the thread ends. */
  | { readonly op: "messages"; readonly port: MessagePort; readonly data: MessageStoreWorkerData };

export type StorageAnswer =
  | { readonly id: number; readonly ok: true; readonly contents?: StoreContents; readonly commitMs?: number }
  | {
      readonly id: number;
      readonly ok: false;
      readonly code: string;
      readonly message: string;
      readonly remedy: string;
    };

type WriteRequest = Extract<StorageRequest, { op: "write" }>;

const port = parentPort;
if (port !== null) run(workerData as StorageWorkerData);

function answer(value: StorageAnswer): void {
  port?.postMessage(value);
}

function refuse(id: number, error: unknown): void {
  const known =
    error instanceof WeftError
      ? error
      : new WeftError("STORE_FAILED", (error as Error).message, "see the daemon's log");
  answer({ id, ok: false, code: known.code, message: known.message, remedy: known.remedy });
}

function run(options: StorageWorkerData): void {
  let store: Store | undefined;
  let batch: WriteRequest[] = [];
  const sleep = new Int32Array(new SharedArrayBuffer(4));

  const open = (): Store => (store ??= new Store(options.file));

  const flush = (): void => {
    const requests = batch;
    batch = [];
    if (requests.length === 0) return;
    const startedMs = performance.now();
    try {
      open().apply(requests.flatMap((request) => request.mutations));
      if (options.commitDelayMs > 0) Atomics.wait(sleep, 0, 0, options.commitDelayMs);
      const commitMs = performance.now() - startedMs;
      for (const request of requests) answer({ id: request.id, ok: true, commitMs });
    } catch (error) {
      if (requests.length === 1) {
        refuse(requests[0].id, error);
        return;
      }
      for (const request of requests) {
        batch = [request];
        flush();
      }
    }
  };

  port?.on("message", (request: StorageRequest) => {
    if (request.op === "messages") {
      void serveMessages(request.port, request.data);
      return;
    }
    if (request.op === "write") {
      if (batch.length === 0) setImmediate(flush);
      batch.push(request);
      return;
    }
    flush();
    try {
      if (request.op === "load") {
        answer({ id: request.id, ok: true, contents: open().load() });
      } else {
        store?.close();
        store = undefined;
        answer({ id: request.id, ok: true });
        port.close();
      }
    } catch (error) {
      refuse(request.id, error);
    }
  });
}

/** A node without messages does not load it. What arrives at the port meanwhile waits there. */
async function serveMessages(messages: MessagePort, data: MessageStoreWorkerData): Promise<void> {
  const { serveMessageStore } = await import("./messaging/store-worker.ts");
  serveMessageStore(messages, data);
}
