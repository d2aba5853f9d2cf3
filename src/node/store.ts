/**
 * The database `weft.db`: everything a node must still know after a restart, except its identity. Synchronous (node:sqlite, WAL,
 * synchronous = FULL: a commit that returned survives a power cut); the storage worker is the only thread that uses it in a daemon,
 * `weft init` uses it directly. A damaged file is an error, never replaced.
 *
 * Bounds: 65,536 peer timestamps; statements and named values are bounded by their owners (roster, endpoint cache).
 */
import { DatabaseSync } from "node:sqlite";
import type { StatementSync } from "node:sqlite";
import { WeftError } from "../base/errors.ts";

const SCHEMA_VERSION = 1;
const MAX_TIMESTAMPS = 65536;

/** One change; a list of them is applied in order and as a whole or not at all. The store copies what it is given. */
export type Mutation =
  /** A roster statement as it was signed; the same hash again changes nothing. */
  | { readonly kind: "statement"; readonly hash: Uint8Array; readonly bytes: Uint8Array }
  /** The newest handshake timestamp accepted from a static key. */
  | { readonly kind: "timestamp"; readonly key: Uint8Array; readonly value: Uint8Array; readonly atMs: number }
  /** A named value; undefined removes it. */
  | { readonly kind: "meta"; readonly key: string; readonly value: Uint8Array | undefined }
  /** Removes everything that belongs to the network. What belongs to the identity stays: peers remember its handshake timestamps. */
  | { readonly kind: "forget"; readonly except: readonly string[] };

/** Everything, as read at start; the caller owns the arrays. */
export interface StoreContents {
  /** In the order they were stored. */
  readonly statements: readonly { readonly hash: Uint8Array; readonly bytes: Uint8Array }[];
  readonly timestamps: readonly { readonly key: Uint8Array; readonly value: Uint8Array }[];
  readonly meta: ReadonlyMap<string, Uint8Array>;
}

const SCHEMA = `
  CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE statements (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, bytes BLOB NOT NULL) STRICT;
  CREATE TABLE timestamps (key BLOB PRIMARY KEY, value BLOB NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

export class Store {
  readonly #database: DatabaseSync;
  readonly #statements: Readonly<Record<string, StatementSync>>;

  /** @throws WeftError STORE_DAMAGED, STORE_NEWER or STORE_FAILED */
  constructor(file: string) {
    let database: DatabaseSync | undefined;
    try {
      database = new DatabaseSync(file, { timeout: 5000 });
      database.exec(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -1024; PRAGMA foreign_keys = ON;",
      );
      const version = database.prepare("PRAGMA user_version").get()?.["user_version"] as number;
      if (version > SCHEMA_VERSION) {
        throw new WeftError(
          "STORE_NEWER",
          `${file} was written by a newer weft (schema ${version})`,
          "run that version, or another state directory with --state",
        );
      }
      if (version === 0) database.exec(`BEGIN IMMEDIATE; ${SCHEMA} COMMIT;`);
      this.#statements = {
        statement: database.prepare("INSERT INTO statements (hash, bytes) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING"),
        timestamp: database.prepare("INSERT OR REPLACE INTO timestamps VALUES (?, ?, ?)"),
        timestampTrim: database.prepare(
          `DELETE FROM timestamps WHERE key IN (SELECT key FROM timestamps ORDER BY at DESC LIMIT -1 OFFSET ${MAX_TIMESTAMPS})`,
        ),
        meta: database.prepare("INSERT OR REPLACE INTO meta VALUES (?, ?)"),
        forget: database.prepare("DELETE FROM meta WHERE key NOT IN (SELECT value FROM json_each(?))"),
        metaRemove: database.prepare("DELETE FROM meta WHERE key = ?"),
      };
    } catch (cause) {
      try {
        database?.close();
      } catch {
        // the first error is the one to report
      }
      throw explain(cause, file);
    }
    this.#database = database;
  }

  load(): StoreContents {
    const all = (sql: string): Record<string, unknown>[] => this.#database.prepare(sql).all();
    return {
      statements: all("SELECT hash, bytes FROM statements ORDER BY seq").map((row) => ({
        hash: row["hash"] as Uint8Array,
        bytes: row["bytes"] as Uint8Array,
      })),
      timestamps: all("SELECT key, value FROM timestamps").map((row) => ({
        key: row["key"] as Uint8Array,
        value: row["value"] as Uint8Array,
      })),
      meta: new Map(all("SELECT * FROM meta").map((row) => [row["key"] as string, row["value"] as Uint8Array])),
    };
  }

  /** One transaction, durable when it returns. @throws WeftError; nothing of the list is applied then */
  apply(mutations: readonly Mutation[]): void {
    this.#database.exec("BEGIN IMMEDIATE");
    try {
      for (const mutation of mutations) this.#apply(mutation);
      this.#database.exec("COMMIT");
    } catch (cause) {
      if (this.#database.isTransaction) this.#database.exec("ROLLBACK");
      throw explain(cause, this.#database.location() ?? "weft.db");
    }
  }

  close(): void {
    this.#database.close();
  }

  #apply(mutation: Mutation): void {
    const run = (name: string, ...values: (Uint8Array | string | number)[]): void => {
      this.#statements[name].run(...values);
    };
    switch (mutation.kind) {
      case "statement":
        return run("statement", mutation.hash, mutation.bytes);
      case "timestamp":
        run("timestamp", mutation.key, mutation.value, Math.floor(mutation.atMs));
        return run("timestampTrim");
      case "meta":
        return mutation.value === undefined
          ? run("metaRemove", mutation.key)
          : run("meta", mutation.key, mutation.value);
      case "forget":
        this.#database.exec("DELETE FROM statements; DELETE FROM timestamps");
        return run("forget", JSON.stringify(mutation.except));
    }
  }
}

function explain(cause: unknown, file: string): WeftError {
  if (cause instanceof WeftError) return cause;
  const error = cause as Error & { errcode?: number };
  // SQLITE_CORRUPT 11, SQLITE_NOTADB 26 (the low byte is the primary code)
  const primary = (error.errcode ?? 0) & 255;
  if (primary === 11 || primary === 26) {
    return new WeftError(
      "STORE_DAMAGED",
      `${file} is damaged (${error.message}); it was left as it is`,
      "restore it from a backup, or move it away and join again with a new invite",
      {
        cause,
      },
    );
  }
  return new WeftError(
    "STORE_FAILED",
    `${file}: ${error.message}`,
    "check the free space and the permissions of the state directory",
    { cause },
  );
}
