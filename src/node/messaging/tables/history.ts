/** The message history with its full-text index (FTS5, external content). Source: docs/protocol.md, "History". */
import type { TableSet } from "../store.ts";

const COLUMNS = "id, ref, kind, conversation, agent, sender, sender_agent, recipient, at, payload";

export const HISTORY_TABLES: TableSet = {
  schema: `
    CREATE TABLE IF NOT EXISTS history_messages (
      id INTEGER PRIMARY KEY AUTOINCREMENT, ref TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, conversation TEXT NOT NULL, agent TEXT NOT NULL,
      sender BLOB NOT NULL, sender_agent TEXT NOT NULL, recipient BLOB, at INTEGER NOT NULL, payload BLOB NOT NULL, text TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS history_by_conversation ON history_messages (kind, conversation, id);
    CREATE VIRTUAL TABLE IF NOT EXISTS history_text USING fts5(text, content='history_messages', content_rowid='id', tokenize='unicode61');
    CREATE TRIGGER IF NOT EXISTS history_added AFTER INSERT ON history_messages BEGIN
      INSERT INTO history_text (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER IF NOT EXISTS history_gone AFTER DELETE ON history_messages BEGIN
      INSERT INTO history_text (history_text, rowid, text) VALUES ('delete', old.id, old.text);
    END;
  `,
  statements: {
    "history.insert":
      "INSERT OR IGNORE INTO history_messages (ref, kind, conversation, agent, sender, sender_agent, recipient, at, payload, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    // the text once more for its index
    "history.figures":
      "SELECT count(*) AS rows, coalesce(sum(length(payload) + 2 * length(CAST(text AS BLOB))), 0) AS bytes FROM history_messages",
    "history.trim": "DELETE FROM history_messages WHERE id IN (SELECT id FROM history_messages ORDER BY id LIMIT ?)",
    "history.forget": "DELETE FROM history_messages WHERE kind = ? AND conversation = ?",
    "history.after": `SELECT ${COLUMNS} FROM history_messages WHERE kind = ? AND conversation = ? AND id > ? ORDER BY id`,
    "history.latest": `SELECT ${COLUMNS} FROM history_messages WHERE kind = ? AND conversation = ? ORDER BY id DESC`,
    "history.all": `SELECT ${COLUMNS} FROM history_messages WHERE id < ? AND agent = ? ORDER BY id DESC`,
    "history.search": `SELECT ${COLUMNS} FROM history_messages WHERE id IN (SELECT rowid FROM history_text WHERE history_text MATCH ?) AND id < ? AND agent = ? ORDER BY id DESC`,
  },
};
