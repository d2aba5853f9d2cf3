/** Tables of the replicated spaces: which there are, and their entries as they were signed. Source: docs/protocol.md, "Replicated stores". */
import type { TableSet } from "../store.ts";

export const KV_TABLES: TableSet = {
  schema: `
    CREATE TABLE IF NOT EXISTS kv_spaces (id BLOB PRIMARY KEY, network BLOB NOT NULL, kind INTEGER NOT NULL, name TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS kv_entries (space BLOB NOT NULL, key TEXT NOT NULL, wire BLOB NOT NULL, PRIMARY KEY (space, key)) STRICT;
  `,
  statements: {
    "kv.space.put": "INSERT OR REPLACE INTO kv_spaces (id, network, kind, name) VALUES (?, ?, ?, ?)",
    "kv.space.delete": "DELETE FROM kv_spaces WHERE id = ?",
    "kv.spaces": "SELECT id, network, kind, name FROM kv_spaces",
    "kv.entry.put": "INSERT OR REPLACE INTO kv_entries (space, key, wire) VALUES (?, ?, ?)",
    "kv.entry.delete": "DELETE FROM kv_entries WHERE space = ? AND key = ?",
    "kv.entries.delete": "DELETE FROM kv_entries WHERE space = ?",
    "kv.entries.after": "SELECT key, wire FROM kv_entries WHERE space = ? AND key > ? ORDER BY key",
  },
};
