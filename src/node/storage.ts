/**
 * The storage worker as the control thread sees it: asynchronous, in order, bounded. A write resolves when it is on disk; callers
 * that need no durability simply do not wait. At most 1,024 requests wait; the next one is refused and counted, never queued.
 */
import { type MessagePort, Worker } from "node:worker_threads";
import { WeftError } from "../base/errors.ts";
import type { MessageStoreHost } from "./messaging/store.ts";
import type { MessageStoreWorkerData } from "./messaging/store-worker.ts";
import type { StorageAnswer, StorageRequest, StorageWorkerData } from "./storage-worker.ts";
import type { Mutation, StoreContents } from "./store.ts";

const MAX_PENDING = 1024;

export interface StorageOptions {
  /** Makes every commit this much slower, to test that nothing waits for the disk. @default 0 */
  readonly commitDelayMs?: number;
}

export interface StorageCounters {
  readonly commits: number;
  readonly commitSeconds: number;
  readonly refused: number;
  readonly failed: number;
  readonly pending: number;
}

/** What the runtime needs of it; tests may keep it in memory. */
export interface Storage {
  load(): Promise<StoreContents>;
  /** @throws WeftError STORE_BUSY when the queue is full, STORE_… when the disk refuses */
  write(mutations: readonly Mutation[]): Promise<void>;
  counters(): StorageCounters;
  close(): Promise<void>;
}

interface Waiting {
  readonly resolve: (answer: Extract<StorageAnswer, { ok: true }>) => void;
  readonly reject: (error: Error) => void;
}

export class StorageThread implements Storage, MessageStoreHost {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #dead: Error | undefined;
  #commits = 0;
  #commitMs = 0;
  #refused = 0;
  #failed = 0;

  constructor(file: string, options: StorageOptions = {}) {
    const data: StorageWorkerData = { file, commitDelayMs: options.commitDelayMs ?? 0 };
    this.#worker = new Worker(new URL("./storage-worker.ts", import.meta.url), {
      workerData: data,
      name: "weft-storage",
      resourceLimits: { maxYoungGenerationSizeMb: 6, maxOldGenerationSizeMb: 256, stackSizeMb: 1 },
    });
    this.#worker.on("message", (answer: StorageAnswer) => this.#answered(answer));
    this.#worker.on("error", (error) => this.#died(error as Error));
    this.#worker.on("exit", () => this.#died(new Error("the storage thread ended")));
  }

  async load(): Promise<StoreContents> {
    const answer = await this.#ask({ op: "load" });
    return answer.contents as StoreContents;
  }

  async write(mutations: readonly Mutation[]): Promise<void> {
    if (mutations.length === 0) return;
    const answer = await this.#ask({ op: "write", mutations });
    this.#commits++;
    this.#commitMs += answer.commitMs ?? 0;
  }

  hostMessages(port: MessagePort, data: MessageStoreWorkerData): void {
    const message: StorageRequest = { op: "messages", port, data };
    if (this.#dead === undefined) this.#worker.postMessage(message, [port]);
    else port.close();
  }

  counters(): StorageCounters {
    return {
      commits: this.#commits,
      commitSeconds: this.#commitMs / 1000,
      refused: this.#refused,
      failed: this.#failed,
      pending: this.#waiting.size,
    };
  }

  async close(): Promise<void> {
    if (this.#dead !== undefined) return;
    await this.#ask({ op: "close" }).catch(() => undefined);
    this.#dead = new WeftError("STORE_CLOSED", "the store is closed", "start the node again");
    await this.#worker.terminate();
  }

  #ask(
    request: { op: "load" | "close" } | { op: "write"; mutations: readonly Mutation[] },
  ): Promise<Extract<StorageAnswer, { ok: true }>> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    if (this.#waiting.size >= MAX_PENDING && request.op === "write") {
      this.#refused++;
      return Promise.reject(
        new WeftError("STORE_BUSY", `${MAX_PENDING} writes wait for the disk`, "check the disk of the state directory"),
      );
    }
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      const message: StorageRequest = { id, ...request };
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
      this.#worker.postMessage(message);
    });
  }

  #answered(answer: StorageAnswer): void {
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if (answer.ok) {
      waiting?.resolve(answer);
    } else {
      this.#failed++;
      waiting?.reject(new WeftError(answer.code, answer.message, answer.remedy));
    }
  }

  #died(cause: Error): void {
    this.#dead ??= new WeftError(
      "STORE_FAILED",
      `the storage thread ended: ${cause.message}`,
      "start the daemon again",
      { cause },
    );
    for (const waiting of this.#waiting.values()) waiting.reject(this.#dead);
    this.#waiting.clear();
  }
}
