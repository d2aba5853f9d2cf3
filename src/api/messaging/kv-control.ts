/** What the local API may ask of the replicated key-value store. Fields may be added, never renamed. */

/** A space or task list that this node replicates. */
export interface SpaceView {
  readonly name: string;
  /** Keys that have a value; of a task list, its entries of all kinds. */
  readonly keys: number;
  /** With what is remembered of deleted ones. */
  readonly bytes: number;
  /** Other nodes that are known to have it. */
  readonly replicas: number;
}

export interface KvEntryView {
  readonly key: string;
  /** base64 */
  readonly value: string;
  /** The value as text; null when it is not UTF-8. */
  readonly text: string | null;
  readonly author: { readonly id: string; readonly name: string };
  /** RFC 3339, by the author's clock */
  readonly changedAt: string;
}

export interface KvChange {
  readonly key: string;
  /** null: deleted */
  readonly value: string | null;
  readonly text: string | null;
  readonly author: { readonly id: string; readonly name: string };
  readonly changedAt: string;
}

/**
 * A space is replicated by the nodes on which it was used; its first use opens it. Every method may throw WeftError NOT_READY, SPACE_NAME,
 * SPACES_FULL.
 */
export interface KvControl {
  spaces(): readonly SpaceView[];
  /** Undefined: the key has no value here. */
  get(space: string, key: string): Promise<KvEntryView | undefined>;
  /** In the order of the keys' code units. @param after the last key of the page before; "" begins @param limit 1–1000 */
  list(
    space: string,
    prefix: string,
    after: string,
    limit: number,
  ): Promise<{ readonly entries: readonly KvEntryView[]; readonly more: boolean }>;
  /** Resolves when it is on disk here. @param value at most 64 KiB @throws WeftError KEY_INVALID, VALUE_TOO_LARGE, SPACE_FULL */
  set(space: string, key: string, value: Uint8Array): Promise<KvEntryView>;
  /** @returns false when it had no value */
  delete(space: string, key: string): Promise<boolean>;
  /** This node does not replicate it any more; others do. @throws WeftError SPACE_UNKNOWN */
  close(space: string): Promise<SpaceView>;
  /** @returns stops it */
  watch(space: string, prefix: string, listener: (change: KvChange) => void): Promise<() => void>;
}
