/**
 * What the paths of all peers share of one slab: a scratch area to write payloads in, and name blocks, which go back to a free list when a
 * peer is removed, so that peers coming and going do not use the slab up.
 */
import { NAME_BYTES } from "../base/name.ts";
import type { Slab } from "../base/slab.ts";

export const MAX_PATHS = 8;
/** Room for the payload of the largest PMTU probe. */
export const PATH_SCRATCH_BYTES = 9_216;

const memories: WeakMap<Slab, PathMemory> = new WeakMap();

export class PathMemory {
  readonly u8: Uint8Array;
  readonly view: DataView;
  /** PATH_SCRATCH_BYTES; its content lives until the sink's emit() returns. */
  readonly scratch: number;
  /** 16 zero bytes. */
  readonly zeros: number;
  /** One name block for lookups. */
  readonly scratchName: number;
  readonly #slab: Slab;
  readonly #free: number[] = [];

  private constructor(slab: Slab) {
    this.#slab = slab;
    this.u8 = slab.u8;
    this.view = slab.view;
    this.scratch = slab.allocate(PATH_SCRATCH_BYTES);
    this.zeros = slab.allocate(16);
    this.scratchName = slab.allocate(NAME_BYTES);
  }

  /** The one memory of a slab. @throws WeftError SLAB_FULL when it is made and there is no room */
  static of(slab: Slab): PathMemory {
    let memory = memories.get(slab);
    if (memory === undefined) {
      memory = new PathMemory(slab);
      memories.set(slab, memory);
    }
    return memory;
  }

  /** @returns offset of MAX_PATHS name blocks in a row @throws WeftError SLAB_FULL */
  takeNames(): number {
    return this.#free.pop() ?? this.#slab.allocate(MAX_PATHS * NAME_BYTES);
  }

  giveNames(offset: number): void {
    this.#free.push(offset);
  }
}
