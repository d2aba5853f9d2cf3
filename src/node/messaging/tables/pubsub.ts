/**
 * The retained log of publish/subscribe: messages of the topics of this node as they came, by cursor (the order of their arrival), frames
 * with their signatures. Source: docs/protocol.md, "Publish/subscribe".
 */
import type { TableSet } from "../store.ts";

export const PUBSUB_TABLES: TableSet = {
  schema: `
    CREATE TABLE IF NOT EXISTS pubsub_log (cursor INTEGER PRIMARY KEY, topic TEXT NOT NULL, ref TEXT NOT NULL, sequence INTEGER NOT NULL,
      bytes INTEGER NOT NULL, frame BLOB NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS pubsub_log_message ON pubsub_log (topic, ref, sequence);
    CREATE INDEX IF NOT EXISTS pubsub_log_topic ON pubsub_log (topic, cursor);
  `,
  statements: {
    "pubsub.log.put":
      "INSERT OR IGNORE INTO pubsub_log (cursor, topic, ref, sequence, bytes, frame) VALUES (?, ?, ?, ?, ?, ?)",
    "pubsub.log.read":
      "SELECT frame FROM pubsub_log WHERE topic = ? AND ref = ? AND sequence BETWEEN ? AND ? ORDER BY sequence",
    "pubsub.log.after": "SELECT cursor, frame FROM pubsub_log WHERE topic = ? AND cursor > ? ORDER BY cursor LIMIT ?",
    "pubsub.log.size": "SELECT coalesce(sum(bytes), 0) AS bytes, count(*) AS messages FROM pubsub_log",
    "pubsub.log.trim":
      "DELETE FROM pubsub_log WHERE cursor <= (SELECT cursor FROM pubsub_log ORDER BY cursor LIMIT 1 OFFSET ?)",
  },
};
