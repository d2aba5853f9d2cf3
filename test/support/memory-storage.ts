/** A store in memory that behaves like the storage thread: what was written is there for the next run. */
import { toHex } from "../../src/base/bytes.ts";
import type { Storage, StorageCounters } from "../../src/node/storage.ts";
import type { Mutation, StoreContents } from "../../src/node/store.ts";

export class MemoryStorage implements Storage {
  readonly #statements = new Map<string, { hash: Uint8Array; bytes: Uint8Array }>();
  readonly #timestamps = new Map<string, { key: Uint8Array; value: Uint8Array }>();
  readonly #meta = new Map<string, Uint8Array>();
  #commits = 0;

  load(): Promise<StoreContents> {
    return Promise.resolve(this.contents());
  }

  contents(): StoreContents {
    return {
      statements: [...this.#statements.values()],
      timestamps: [...this.#timestamps.values()],
      meta: new Map(this.#meta),
    };
  }

  write(mutations: readonly Mutation[]): Promise<void> {
    this.#commits++;
    for (const mutation of mutations) {
      if (mutation.kind === "statement")
        this.#statements.set(toHex(mutation.hash), { hash: mutation.hash, bytes: mutation.bytes });
      else if (mutation.kind === "timestamp")
        this.#timestamps.set(toHex(mutation.key), { key: mutation.key, value: mutation.value });
      else if (mutation.kind === "meta" && mutation.value !== undefined) this.#meta.set(mutation.key, mutation.value);
      else if (mutation.kind === "meta") this.#meta.delete(mutation.key);
      else {
        this.#statements.clear();
        this.#timestamps.clear();
        for (const key of this.#meta.keys()) if (!mutation.except.includes(key)) this.#meta.delete(key);
      }
    }
    return Promise.resolve();
  }

  counters(): StorageCounters {
    return { commits: this.#commits, commitSeconds: 0, refused: 0, failed: 0, pending: 0 };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
