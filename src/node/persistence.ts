/**
 * What the control thread keeps on disk, without ever waiting for it: statements as they are accepted, the endpoint cache when it
 * changes. flush() is for those who must know that it is there.
 */
import type { Logger } from "../base/log.ts";
import type { Storage } from "./storage.ts";
import type { Mutation } from "./store.ts";

/** Name in the store of the endpoint cache. */
export const ENDPOINT_CACHE_KEY = "endpoint-cache";
/** Name in the store of the network id. */
export const NETWORK_KEY = "network";

/** The first change is written at once, so that even a node killed right after it joined finds its peers again; later ones this far apart. */
const CACHE_INTERVAL_MS = 250;

export interface PersistenceDeps {
  readonly storage: Storage;
  readonly log: Logger;
  /** 32 bytes; undefined while this node is in no network. */
  networkId(): Uint8Array | undefined;
  exportEndpoints(): Uint8Array;
}

export class Persistence {
  readonly #deps: PersistenceDeps;
  readonly #unwritten = new Set<Promise<void>>();
  readonly #gathered: Mutation[] = [];
  #isNetworkWritten = false;
  #cacheDueMs = Infinity;
  #cacheWrittenMs = -Infinity;

  constructor(deps: PersistenceDeps) {
    this.#deps = deps;
  }

  /** The network's id goes with its first statement, so that a store has both or neither. */
  statement(hash: Uint8Array, bytes: Uint8Array): void {
    const mutations: Mutation[] = [{ kind: "statement", hash, bytes }];
    const networkId = this.#deps.networkId();
    if (!this.#isNetworkWritten && networkId !== undefined) {
      this.#isNetworkWritten = true;
      mutations.push({ kind: "meta", key: NETWORK_KEY, value: networkId });
    }
    this.#gather(mutations);
  }

  endpointsChanged(nowMs: number): void {
    this.#cacheDueMs = Math.min(this.#cacheDueMs, Math.max(nowMs, this.#cacheWrittenMs + CACHE_INTERVAL_MS));
  }

  nextTimeout(): number {
    return this.#cacheDueMs;
  }

  handleTimeout(nowMs: number): void {
    if (nowMs < this.#cacheDueMs) return;
    this.#cacheWrittenMs = nowMs;
    this.#writeEndpoints();
  }

  /** Resolves when all statements handed over so far are on disk or have failed (which is logged and counted). */
  async settled(): Promise<void> {
    while (this.#unwritten.size > 0) await Promise.all(this.#unwritten);
  }

  /** The same with the endpoint cache as it is now. */
  flush(): Promise<void> {
    this.#writeEndpoints();
    return this.settled();
  }

  #writeEndpoints(): void {
    this.#cacheDueMs = Infinity;
    this.#write([{ kind: "meta", key: ENDPOINT_CACHE_KEY, value: this.#deps.exportEndpoints() }]);
  }

  /** Statements that come together, such as a whole roster after a join, go to disk together: one write, all or nothing. */
  #gather(mutations: readonly Mutation[]): void {
    this.#gathered.push(...mutations);
    if (this.#gathered.length > mutations.length) return;
    const writing = Promise.resolve().then(() => {
      this.#unwritten.delete(writing);
      this.#write(this.#gathered.splice(0));
    });
    this.#unwritten.add(writing);
  }

  #write(mutations: readonly Mutation[]): void {
    const writing = this.#deps.storage
      .write(mutations)
      .catch((error: Error) => this.#deps.log.error(`not written to disk: ${error.message}`))
      .finally(() => this.#unwritten.delete(writing));
    this.#unwritten.add(writing);
  }
}
