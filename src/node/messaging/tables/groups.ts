/** Tables of groups: the charters that count, with the epoch keys that this node was given, when they came and who brought this node into the group. Source: docs/protocol.md, "Groups". */
import type { TableSet } from "../store.ts";

export const GROUP_TABLES: TableSet = {
  schema: `
    CREATE TABLE IF NOT EXISTS groups_chain (
      group_id BLOB NOT NULL, hash BLOB NOT NULL, network BLOB NOT NULL, epoch INTEGER NOT NULL, wire BLOB NOT NULL, key BLOB,
      taken INTEGER NOT NULL, brought_by BLOB NOT NULL, PRIMARY KEY (group_id, hash)) STRICT;
    CREATE TABLE IF NOT EXISTS groups_left (group_id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
  `,
  statements: {
    "groups.charter.put":
      "INSERT OR REPLACE INTO groups_chain (group_id, hash, network, epoch, wire, key, taken, brought_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "groups.charter.delete": "DELETE FROM groups_chain WHERE group_id = ? AND hash = ?",
    "groups.charter.trim": "DELETE FROM groups_chain WHERE group_id = ? AND epoch < ?",
    "groups.delete": "DELETE FROM groups_chain WHERE group_id = ?",
    "groups.left.put": "INSERT OR IGNORE INTO groups_left (group_id) VALUES (?)",
    "groups.left.delete": "DELETE FROM groups_left WHERE group_id = ?",
    "groups.left": "SELECT group_id FROM groups_left",
    "groups.charters":
      "SELECT group_id, hash, wire, key, taken, brought_by FROM groups_chain WHERE network = ? AND (group_id, hash) > (?, ?) ORDER BY group_id, hash",
    "groups.charters.foreign": "DELETE FROM groups_chain WHERE network <> ?",
  },
};
