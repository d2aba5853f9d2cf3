/**
 * A stream under test, for stream-peer.ts: one side sends random bytes at a rate, the other answers with how many have come (u64, little-endian, one after the
 * other), and at the end with their SHA-256.
 */
import { createHash, type Hash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { finished } from "node:stream/promises";
import type { MeshStream } from "../src/node/index.ts";

const COUNT_BYTES = 8;
const HASH_BYTES = 32;
const TICK_MS = 10;
const MAX_CATCH_UP_MS = 250;

/** The sending side of one stream. */
export class Flow {
  sent = 0;
  failure: string | null = null;
  readonly to: string;
  readonly stream: MeshStream;
  readonly #hash: Hash = createHash("sha256");
  #isEnding = false;
  #answer: Buffer = Buffer.alloc(0);
  #answered = 0;
  readonly #done: Promise<void>;

  constructor(to: string, stream: MeshStream, bytesPerSecond: number) {
    this.to = to;
    this.stream = stream;
    stream.on("data", (chunk: Buffer) => {
      // the last count and a hash are all that is ever of interest
      const all = Buffer.concat([this.#answer, chunk]);
      const spare = Math.max(0, Math.floor((all.length - COUNT_BYTES - HASH_BYTES) / COUNT_BYTES)) * COUNT_BYTES;
      this.#answered += spare;
      this.#answer = all.subarray(spare);
    });
    stream.on("error", (error) => (this.failure ??= error.message));
    this.#done = finished(stream).catch((error: Error) => void (this.failure ??= error.message));
    void this.#pump(bytesPerSecond);
  }

  get arrived(): number {
    const at = Math.floor(this.#answer.length / COUNT_BYTES) * COUNT_BYTES - COUNT_BYTES;
    return at < 0 ? 0 : Number(this.#answer.readBigUInt64LE(at));
  }

  async finish(): Promise<{ arrived: number; arrivedHash: string; sentHash: string }> {
    this.#isEnding = true;
    await this.#done;
    const { length } = this.#answer;
    if (this.failure !== null) throw new Error(this.failure);
    if (length < COUNT_BYTES + HASH_BYTES) throw new Error(`an answer of ${this.#answered + length} bytes`);
    return {
      arrived: Number(this.#answer.readBigUInt64LE(length - HASH_BYTES - COUNT_BYTES)),
      arrivedHash: this.#answer.subarray(length - HASH_BYTES).toString("hex"),
      sentHash: this.#hash.digest("hex"),
    };
  }

  async #pump(bytesPerSecond: number): Promise<void> {
    let lastMs = performance.now();
    while (!this.#isEnding && !this.stream.destroyed) {
      // what a busy machine kept back is made up for, but not all at once
      const elapsedMs = Math.min(MAX_CATCH_UP_MS, performance.now() - lastMs);
      lastMs = performance.now();
      const bytes = randomBytes(Math.ceil((bytesPerSecond * elapsedMs) / 1_000));
      this.#hash.update(bytes);
      this.sent += bytes.length;
      if (!this.stream.write(bytes)) await once(this.stream, "drain").catch(() => undefined);
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    }
    this.stream.end();
  }
}

/** The other side. */
export function take(stream: MeshStream): void {
  const hash = createHash("sha256");
  let bytes = 0;
  const answerCount = (): void => {
    const count = Buffer.alloc(COUNT_BYTES);
    count.writeBigUInt64LE(BigInt(bytes));
    stream.write(count);
  };
  stream.on("data", (chunk: Buffer) => {
    hash.update(chunk);
    bytes += chunk.length;
    answerCount();
  });
  stream.on("error", (error) => process.stderr.write(`incoming stream: ${error.message}\n`));
  stream.on("end", () => {
    answerCount();
    stream.end(hash.digest());
  });
}
