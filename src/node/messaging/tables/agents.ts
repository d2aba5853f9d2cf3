/** Table of this node's agents: keys, leases, access lists. Source: docs/protocol.md, "Agents". */
import type { TableSet } from "../store.ts";

export const AGENT_TABLES: TableSet = {
  schema: `
    CREATE TABLE IF NOT EXISTS agents_local (
      name TEXT PRIMARY KEY, seed BLOB NOT NULL, lease BLOB NOT NULL, access TEXT NOT NULL, moved_to BLOB, network BLOB NOT NULL) STRICT, WITHOUT ROWID;
  `,
  statements: {
    "agents.put":
      "INSERT OR REPLACE INTO agents_local (name, seed, lease, access, moved_to, network) VALUES (?, ?, ?, ?, ?, ?)",
    "agents.delete": "DELETE FROM agents_local WHERE name = ?",
    "agents.all": "SELECT name, seed, lease, access, moved_to, network FROM agents_local ORDER BY name",
  },
};
