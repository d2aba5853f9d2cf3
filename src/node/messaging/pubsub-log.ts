/**
 * The retained log of publish/subscribe in the message store: written in batches, read for peers that missed something and for programs that
 * go on where they were. Bound: QUOTA_BYTES over all topics, the oldest messages go first; what waits for the disk is bounded too, and when
 * the disk does not keep up the log has holes (counted), never the delivery a delay.
 */
import type { Logger } from "../../base/log.ts";
import type { LogRead, ReceivedMessage } from "../../messaging/pubsub/types.ts";
import type { Clock } from "../clock.ts";
import type { MessageStore, StoreOp } from "./store.ts";

const BATCH_MS = 250;
const BATCH_MESSAGES = 256;
const MAX_WAITING_BYTES = 8 * 1_048_576;
/** What a row costs beyond its frame. */
const ROW_BYTES = 120;
/** Trimmed to this share of the quota, so that not every write trims. */
const KEEP_SHARE = 0.95;

export class PubSubLog {
  readonly #store: MessageStore;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #quotaBytes: number;
  #waiting: StoreOp[] = [];
  #waitingBytes = 0;
  #storedBytes = 0;
  #cancelTimer: (() => void) | undefined;
  #writing: Promise<void> | undefined;
  /** Messages that are not in the log because the disk did not keep up. */
  dropped = 0;
  trimmed = 0;

  constructor(store: MessageStore, clock: Clock, log: Logger, quotaBytes: number) {
    this.#store = store;
    this.#clock = clock;
    this.#log = log;
    this.#quotaBytes = quotaBytes;
  }

  get storedBytes(): number {
    return this.#storedBytes;
  }

  async start(): Promise<void> {
    this.#storedBytes = await this.#measure();
  }

  put(message: ReceivedMessage, frame: Uint8Array): void {
    if (this.#waitingBytes + frame.length > MAX_WAITING_BYTES) {
      this.dropped++;
      return;
    }
    const bytes = frame.length + ROW_BYTES;
    this.#waiting.push({
      name: "pubsub.log.put",
      values: [message.cursor, message.topic, message.ref, message.sequence, bytes, frame],
    });
    this.#waitingBytes += bytes;
    if (this.#waiting.length >= BATCH_MESSAGES) void this.#flush();
    else
      this.#cancelTimer ??= this.#clock.schedule(this.#clock.now().nowMs + BATCH_MS, () => {
        this.#cancelTimer = undefined;
        void this.#flush();
      });
  }

  /** Frames of one stream, ascending. Never rejects. */
  async read(read: LogRead): Promise<Uint8Array[]> {
    try {
      const rows = await this.#store.query("pubsub.log.read", [read.topic, read.ref, read.from, read.to], 64);
      return rows.map((row) => row["frame"] as Uint8Array);
    } catch (error) {
      this.#log.debug(`the retained log cannot be read: ${error instanceof Error ? error.message : String(error)}`);
      return [];
    }
  }

  /** A page in the order of arrival, what waits for the disk included. */
  async after(topic: string, cursor: number, limit: number): Promise<{ cursor: number; frame: Uint8Array }[]> {
    await this.#flush();
    const rows = await this.#store.query("pubsub.log.after", [topic, cursor, limit], limit);
    return rows.map((row) => ({ cursor: Number(row["cursor"]), frame: row["frame"] as Uint8Array }));
  }

  async close(): Promise<void> {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    await this.#flush();
  }

  /** One write at a time. Never rejects. */
  async #flush(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
    if (this.#waiting.length === 0) return;
    const ops = this.#waiting;
    const bytes = this.#waitingBytes;
    this.#waiting = [];
    this.#writing = this.#write(ops, bytes);
    await this.#writing;
  }

  async #write(ops: readonly StoreOp[], bytes: number): Promise<void> {
    try {
      await this.#store.commit(ops);
      this.#storedBytes += bytes;
      if (this.#storedBytes > this.#quotaBytes) await this.#trim();
    } catch (error) {
      this.dropped += ops.length;
      this.#log.warn(`messages are not in the retained log: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      this.#waitingBytes -= bytes;
      this.#writing = undefined;
    }
  }

  async #trim(): Promise<void> {
    const [row] = await this.#store.query("pubsub.log.size", []);
    // as if all were of the same size: what is still too much goes next time
    const tooMuch = 1 - (KEEP_SHARE * this.#quotaBytes) / Math.max(1, Number(row?.["bytes"] ?? 0));
    const gone = Math.ceil(Number(row?.["messages"] ?? 0) * Math.max(0, tooMuch));
    this.trimmed += gone;
    if (gone > 0) await this.#store.commit([{ name: "pubsub.log.trim", values: [gone - 1] }]);
    this.#storedBytes = await this.#measure();
  }

  async #measure(): Promise<number> {
    const [row] = await this.#store.query("pubsub.log.size", []);
    return Number(row?.["bytes"] ?? 0);
  }
}
