/** Whom this node watches, over restarts. Source: docs/protocol.md, "Presence". */
import type { TableSet } from "../store.ts";

export const PRESENCE_TABLES: TableSet = {
  schema: `
    CREATE TABLE IF NOT EXISTS presence_watched (node BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS presence_self (id INTEGER PRIMARY KEY CHECK (id = 1), state TEXT NOT NULL, note TEXT NOT NULL) STRICT;
  `,
  statements: {
    "presence.watch": "INSERT OR IGNORE INTO presence_watched (node) VALUES (?)",
    "presence.unwatch": "DELETE FROM presence_watched WHERE node = ?",
    "presence.watched": "SELECT node FROM presence_watched",
    "presence.set": "INSERT OR REPLACE INTO presence_self (id, state, note) VALUES (1, ?, ?)",
    "presence.self": "SELECT state, note FROM presence_self",
  },
};
