/**
 * Signatures of published messages are checked here: at once while there are few, in threads when there are many. The number of threads
 * follows the work (messaging/pubsub/pool-size.ts). Jobs of one lane (publisher and topic) go to one thread, in order; a thread that dies is
 * replaced and its jobs are checked at once. Bound: the caller's, by what it has under way.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { verifySignature } from "../../crypto/identity.ts";
import { PoolSize } from "../../messaging/pubsub/pool-size.ts";
import type { Clock } from "../clock.ts";
import type { VerifyBatch, VerifyJob, VerifyVerdict } from "./verify-worker.ts";

const UPDATE_MS = 250;
const LATE_MS = 1000;
const SAMPLES = 64;

interface Thread {
  readonly worker: Worker;
  readonly jobs: Map<number, { readonly job: VerifyJob; readonly atMs: number; readonly lane: number }>;
  batch: VerifyJob[];
  isLeaving: boolean;
}

export interface VerifyPoolCounters {
  inline: number;
  inThreads: number;
  threadsStarted: number;
  threadsDied: number;
}

export class VerifyPool {
  readonly counters: VerifyPoolCounters = { inline: 0, inThreads: 0, threadsStarted: 0, threadsDied: 0 };
  readonly #kind: string;
  readonly #clock: Clock;
  readonly #networkId: () => Uint8Array | undefined;
  readonly #verdict: (id: number, isGood: boolean) => void;
  readonly #size: PoolSize;
  readonly #threads: Thread[] = [];
  /** Lane → the thread that has jobs of it. */
  readonly #lanes = new Map<number, { readonly thread: Thread; jobs: number }>();
  readonly #dispatchMs: number[] = [];
  #checks = 0;
  #updatedMs = 0;
  #isFlushing = false;
  #isClosed = false;

  /** @param kind purpose of the signatures */
  constructor(
    kind: string,
    clock: Clock,
    networkId: () => Uint8Array | undefined,
    verdict: (id: number, isGood: boolean) => void,
    maxThreads: number = Math.min(4, Math.max(1, availableParallelism() - 1)),
  ) {
    this.#kind = kind;
    this.#clock = clock;
    this.#networkId = networkId;
    this.#verdict = verdict;
    this.#size = new PoolSize(maxThreads);
  }

  get threads(): number {
    return this.#size.size;
  }

  get backlog(): number {
    let jobs = 0;
    for (const thread of this.#threads) jobs += thread.jobs.size;
    return jobs;
  }

  /** @param lane jobs of the same lane keep their order @returns the verdict, or undefined when it comes later */
  check(job: VerifyJob, lane: number): boolean | undefined {
    const networkId = this.#networkId();
    if (networkId === undefined) return false;
    this.#checks++;
    const { nowMs } = this.#clock.now();
    if (nowMs - this.#updatedMs >= UPDATE_MS) this.#update(nowMs);
    const busy = this.#lanes.get(lane);
    const able = this.#threads.filter((thread) => !thread.isLeaving);
    const thread = busy?.thread ?? able[lane % Math.max(1, able.length)];
    if (thread === undefined) {
      this.counters.inline++;
      return verifySignature(job.publisher, this.#kind, networkId, job.body, job.signature);
    }
    this.counters.inThreads++;
    // copies: the views would take the whole frame along, and it is still needed here
    const owned: VerifyJob = {
      id: job.id,
      publisher: Uint8Array.from(job.publisher),
      body: Uint8Array.from(job.body),
      signature: Uint8Array.from(job.signature),
    };
    thread.jobs.set(job.id, { job: owned, atMs: nowMs, lane });
    thread.batch.push(owned);
    if (busy === undefined) this.#lanes.set(lane, { thread, jobs: 1 });
    else busy.jobs++;
    if (!this.#isFlushing) {
      this.#isFlushing = true;
      queueMicrotask(() => this.#flush());
    }
    return undefined;
  }

  close(): void {
    this.#isClosed = true;
    for (const thread of this.#threads) void thread.worker.terminate();
    this.#threads.length = 0;
    this.#lanes.clear();
  }

  #flush(): void {
    this.#isFlushing = false;
    const networkId = this.#networkId();
    for (const thread of this.#threads) {
      if (thread.batch.length === 0 || networkId === undefined) continue;
      const batch: VerifyBatch = { kind: this.#kind, networkId, jobs: thread.batch };
      thread.batch = [];
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
      thread.worker.postMessage(batch);
    }
  }

  #update(nowMs: number): void {
    const lastedMs = nowMs - this.#updatedMs;
    const sorted = this.#dispatchMs.toSorted((a, b) => a - b);
    let timeouts = 0;
    for (const thread of this.#threads)
      for (const { atMs } of thread.jobs.values()) if (nowMs - atMs > LATE_MS) timeouts++;
    const size = this.#size.update(nowMs, {
      backlog: this.backlog,
      ratePerSecond: lastedMs > 10 * UPDATE_MS ? 0 : (this.#checks * 1000) / lastedMs,
      dispatchMs: sorted[Math.floor(sorted.length * 0.95)] ?? 0,
      timeouts,
    });
    this.#checks = 0;
    this.#updatedMs = nowMs;
    this.#dispatchMs.length = 0;
    const able = this.#threads.filter((thread) => !thread.isLeaving);
    for (let i = able.length; i < size; i++) this.#start();
    for (const thread of able.slice(size)) {
      thread.isLeaving = true;
      if (thread.jobs.size === 0) this.#stop(thread);
    }
  }

  #start(): void {
    const worker = new Worker(new URL("./verify-worker.ts", import.meta.url), {
      name: "weft-verify",
      resourceLimits: { maxYoungGenerationSizeMb: 8, maxOldGenerationSizeMb: 64, stackSizeMb: 1 },
    });
    worker.unref();
    const thread: Thread = { worker, jobs: new Map(), batch: [], isLeaving: false };
    this.counters.threadsStarted++;
    this.#threads.push(thread);
    worker.on("message", (verdicts: readonly VerifyVerdict[]) => {
      const { nowMs } = this.#clock.now();
      for (const { id, isGood } of verdicts) {
        const done = thread.jobs.get(id);
        if (done === undefined) continue;
        if (this.#dispatchMs.length < SAMPLES) this.#dispatchMs.push(nowMs - done.atMs);
        this.#finish(thread, id, done.lane);
        this.#verdict(id, isGood);
      }
      if (thread.isLeaving && thread.jobs.size === 0) this.#stop(thread);
    });
    worker.on("error", () => undefined);
    worker.on("exit", () => this.#died(thread));
  }

  #finish(thread: Thread, id: number, lane: number): void {
    thread.jobs.delete(id);
    const busy = this.#lanes.get(lane);
    if (busy === undefined || busy.thread !== thread) return;
    busy.jobs--;
    if (busy.jobs === 0) this.#lanes.delete(lane);
  }

  #stop(thread: Thread): void {
    const at = this.#threads.indexOf(thread);
    if (at >= 0) this.#threads.splice(at, 1);
    void thread.worker.terminate();
  }

  #died(thread: Thread): void {
    const at = this.#threads.indexOf(thread);
    if (at < 0 || this.#isClosed) return;
    this.#threads.splice(at, 1);
    this.counters.threadsDied++;
    const networkId = this.#networkId();
    for (const [id, { job, lane }] of thread.jobs) {
      this.#finish(thread, id, lane);
      const isGood =
        networkId !== undefined && verifySignature(job.publisher, this.#kind, networkId, job.body, job.signature);
      this.#verdict(id, isGood);
    }
  }
}
