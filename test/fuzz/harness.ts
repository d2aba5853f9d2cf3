/**
 * The fuzzing harness: a saved corpus, and mutations of it from a seed, against decoders that must not throw on hostile input.
 * A corpus file is text, one input per line in hexadecimal; lines that begin with "#" say what the following ones are.
 * A failure names target, input and seed; put its line into the corpus to keep it.
 */
import { existsSync, readFileSync } from "node:fs";
import { fromHex, toHex, type Bytes } from "../../src/base/bytes.ts";
import { SeededRandom } from "../../src/base/random.ts";

export interface Target {
  readonly name: string;
  /** Valid inputs made by the project's own encoders, so that mutations start from the inside of a format. */
  readonly seeds: readonly Uint8Array[];
  /** Throws when the decoder misbehaves; errors that are part of its contract are caught in here. */
  readonly feed: (input: Bytes) => void;
  /** @default 2_000 */
  readonly mutations?: number;
}

/** Values at which length and counter fields break. */
const EDGES: readonly number[] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
const LONGEST = 4_096;

export function readCorpus(file: URL): Uint8Array[] {
  if (!existsSync(file)) return [];
  const inputs: Uint8Array[] = [];
  for (const line of readFileSync(file, "utf8").split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const bytes = fromHex(line.trim());
    if (bytes === undefined) throw new Error(`${file.pathname}: not hexadecimal: ${line.slice(0, 40)}`);
    inputs.push(bytes);
  }
  return inputs;
}

/** One to four random changes: bits, edge values, cuts, growth, repeats and splices with another input. */
export function mutate(random: SeededRandom, input: Uint8Array, other: Uint8Array): Uint8Array {
  let bytes = Uint8Array.from(input);
  for (let changes = 1 + (random.u32() & 3); changes > 0; changes--) {
    const at = bytes.length === 0 ? 0 : random.u32() % bytes.length;
    switch (random.u32() % 8) {
      case 0:
        if (bytes.length > 0) bytes[at] ^= 1 << (random.u32() & 7);
        break;
      case 1:
        if (bytes.length > 0) bytes[at] = EDGES[random.u32() % EDGES.length]!;
        break;
      case 2:
        bytes = bytes.slice(0, at);
        break;
      case 3:
        bytes = bytes.slice(at);
        break;
      case 4: {
        const grown = new Uint8Array(Math.min(LONGEST, bytes.length + (random.u32() % 64)));
        grown.set(bytes.subarray(0, grown.length));
        grown.set(random.bytes(Math.max(0, grown.length - bytes.length)), Math.min(bytes.length, grown.length));
        bytes = grown;
        break;
      }
      case 5:
        if (bytes.length > 0) bytes.copyWithin(at, random.u32() % bytes.length);
        break;
      case 6: {
        const cut = other.length === 0 ? 0 : random.u32() % other.length;
        const spliced = new Uint8Array(Math.min(LONGEST, at + other.length - cut));
        spliced.set(bytes.subarray(0, Math.min(at, spliced.length)));
        spliced.set(other.subarray(cut, cut + Math.max(0, spliced.length - at)), Math.min(at, spliced.length));
        bytes = spliced;
        break;
      }
      default:
        bytes.set(random.bytes(Math.min(4, bytes.length - at)), at);
    }
  }
  return bytes;
}

/** Feeds corpus, seeds, their mutations and plain noise. Throws an Error with the input in hexadecimal at the first misbehaviour. */
export function fuzz(target: Target, corpus: readonly Uint8Array[], seed: number): number {
  let fed = 0;
  const feed = (input: Uint8Array): void => {
    fed++;
    try {
      // A copy of exactly its length: whatever reads beyond it through a DataView throws.
      target.feed(Uint8Array.from(input));
    } catch (cause) {
      throw new Error(
        `${target.name} misbehaves (seed ${seed}) on\n${toHex(input)}\n${cause instanceof Error ? cause.message : String(cause)}`,
        { cause },
      );
    }
  };
  const inputs = [...corpus, ...target.seeds];
  for (const input of inputs) {
    feed(input);
    for (let length = 0; length < Math.min(input.length, 256); length++) feed(input.subarray(0, length));
  }
  const random = new SeededRandom(seed);
  const pick = (): Uint8Array => inputs[random.u32() % Math.max(1, inputs.length)] ?? new Uint8Array(0);
  for (let count = target.mutations ?? 2_000; count > 0; count--) {
    feed(mutate(random, pick(), pick()));
    if (count % 8 === 0) feed(random.bytes(random.u32() % 200));
  }
  return fed;
}
