/**
 * Probes that wait for an answer, of all paths of one peer. 64 entries, reused in order: an answer to one that was displaced is
 * counted as late and changes nothing. Transaction ids are 64 random bits, so nobody off the path can answer.
 */
import type { Random } from "../base/random.ts";

const CAPACITY = 64;

export class ProbeTable {
  readonly #low: Uint32Array = new Uint32Array(CAPACITY);
  readonly #high: Uint32Array = new Uint32Array(CAPACITY);
  /** Path slot, −1 = free. */
  /** 1 = answered already: readable, but no answer to it counts again. */
  readonly #spent: Uint8Array = new Uint8Array(CAPACITY);
  readonly #slot: Int8Array = new Int8Array(CAPACITY).fill(-1);
  readonly #generation: Uint32Array = new Uint32Array(CAPACITY);
  readonly #sentMs: Float64Array = new Float64Array(CAPACITY);
  readonly #id: Float64Array = new Float64Array(CAPACITY);
  /** Underlay IP packet size of a PMTU probe, 0 for an ordinary one. */
  readonly #sizeBytes: Int32Array = new Int32Array(CAPACITY);
  readonly #random: Random;
  #next = 0;
  #nextId = 1;

  constructor(random: Random) {
    this.#random = random;
  }

  /** Remembers a probe. @returns its entry, valid until the next add() */
  add(nowMs: number, slot: number, generation: number, sizeBytes: number): number {
    const entry = this.#next;
    this.#next = (entry + 1) % CAPACITY;
    this.#low[entry] = this.#random.u32();
    this.#high[entry] = this.#random.u32();
    this.#slot[entry] = slot;
    this.#spent[entry] = 0;
    this.#generation[entry] = generation;
    this.#sentMs[entry] = nowMs;
    this.#sizeBytes[entry] = sizeBytes;
    this.#id[entry] = this.#nextId++;
    return entry;
  }

  /** Finds and frees the probe with this transaction id. @returns its entry, readable until the next add(), or −1 */
  take(low: number, high: number): number {
    for (let entry = 0; entry < CAPACITY; entry++) {
      if (
        this.#spent[entry] === 0 &&
        this.#low[entry] === low &&
        this.#high[entry] === high &&
        this.#slot[entry] >= 0
      ) {
        this.#spent[entry] = 1;
        return entry;
      }
    }
    return -1;
  }

  /** Forgets a probe that could not be sent. */
  drop(entry: number): void {
    this.#slot[entry] = -1;
  }

  low(entry: number): number {
    return this.#low[entry];
  }
  high(entry: number): number {
    return this.#high[entry];
  }
  slot(entry: number): number {
    return this.#slot[entry];
  }
  generation(entry: number): number {
    return this.#generation[entry];
  }
  sentMs(entry: number): number {
    return this.#sentMs[entry];
  }
  sizeBytes(entry: number): number {
    return this.#sizeBytes[entry];
  }
  /** Number of the probe, increasing from 1, never reused. */
  id(entry: number): number {
    return this.#id[entry];
  }
}
