/**
 * Tables of direct messages. Source: docs/protocol.md, "Direct messages".
 *   direct_meta     this node's last incarnation, reserved inbox sequence
 *   direct_senders  trust, oldest incarnation that counts
 *   direct_windows  per incarnation of a sender: floor, closed numbers · direct_seen: verdict and hash of each number above the floor
 *   direct_inbox    admitted messages until the cursor passes them · direct_cursors: how far the application is
 *   direct_outbox   messages without an outcome (state 0 being delivered, 1 being asked for), and outcomes told late (2)
 *   direct_mailbox  sealed messages that this node keeps for members that are away
 */
import type { TableSet } from "../store.ts";

const MAX_OUTCOMES = 10_000;

export const DIRECT_TABLES: TableSet = {
  schema: `
    CREATE TABLE IF NOT EXISTS direct_meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS direct_senders (sender BLOB PRIMARY KEY, trust INTEGER NOT NULL, oldest INTEGER NOT NULL)
      STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS direct_windows (sender BLOB NOT NULL, incarnation INTEGER NOT NULL, floor INTEGER NOT NULL,
      closed INTEGER NOT NULL, verdict INTEGER NOT NULL, PRIMARY KEY (sender, incarnation)) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS direct_seen (sender BLOB NOT NULL, incarnation INTEGER NOT NULL, number INTEGER NOT NULL,
      verdict INTEGER NOT NULL, hash INTEGER NOT NULL, PRIMARY KEY (sender, incarnation, number)) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS direct_inbox (sequence INTEGER PRIMARY KEY, inbox TEXT NOT NULL, id TEXT NOT NULL,
      sender BLOB NOT NULL, agent BLOB, name TEXT NOT NULL, sent INTEGER NOT NULL, received INTEGER NOT NULL,
      bytes INTEGER NOT NULL, payload BLOB NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS direct_inbox_order ON direct_inbox (inbox, sequence);
    CREATE TABLE IF NOT EXISTS direct_cursors (inbox TEXT PRIMARY KEY, sequence INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS direct_outbox (id TEXT PRIMARY KEY, peer BLOB NOT NULL, incarnation INTEGER NOT NULL,
      number INTEGER NOT NULL, state INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL,
      attempts INTEGER NOT NULL, outcome TEXT, reason TEXT, settled INTEGER, sealed BLOB) STRICT;
    CREATE INDEX IF NOT EXISTS direct_outbox_settled ON direct_outbox (settled) WHERE state = 2;
    CREATE TABLE IF NOT EXISTS direct_mailbox (ticket BLOB PRIMARY KEY, sender BLOB NOT NULL, recipient BLOB NOT NULL,
      expires INTEGER NOT NULL, bytes INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;`,
  statements: {
    "direct.meta": "SELECT key, value FROM direct_meta",
    "direct.meta.set": "INSERT OR REPLACE INTO direct_meta VALUES (?, ?)",
    "direct.senders": "SELECT sender, trust, oldest FROM direct_senders WHERE sender > ? ORDER BY sender",
    "direct.sender.trust":
      "INSERT INTO direct_senders VALUES (?, ?, 0) ON CONFLICT (sender) DO UPDATE SET trust = excluded.trust",
    "direct.sender.oldest":
      "INSERT INTO direct_senders VALUES (?, 1, ?) ON CONFLICT (sender) DO UPDATE SET oldest = excluded.oldest",
    "direct.sender.forget": "DELETE FROM direct_senders WHERE sender = ?",
    "direct.windows":
      "SELECT sender, incarnation, floor, closed, verdict FROM direct_windows WHERE (sender, incarnation) > (?, ?) ORDER BY sender, incarnation",
    "direct.window.set": "INSERT OR REPLACE INTO direct_windows VALUES (?, ?, ?, ?, ?)",
    "direct.window.trim": "DELETE FROM direct_windows WHERE sender = ? AND incarnation < ?",
    "direct.seen":
      "SELECT sender, incarnation, number, verdict, hash FROM direct_seen WHERE (sender, incarnation, number) > (?, ?, ?) ORDER BY sender, incarnation, number",
    "direct.seen.insert": "INSERT OR REPLACE INTO direct_seen VALUES (?, ?, ?, ?, ?)",
    "direct.seen.trim": "DELETE FROM direct_seen WHERE sender = ? AND incarnation = ? AND number < ?",
    "direct.seen.forget": "DELETE FROM direct_seen WHERE sender = ? AND incarnation < ?",
    "direct.slots": "SELECT sequence, inbox, sender, bytes FROM direct_inbox WHERE sequence > ? ORDER BY sequence",
    "direct.inbox.insert": "INSERT INTO direct_inbox VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "direct.inbox.read":
      "SELECT sequence, id, sender, agent, name, sent, received, payload FROM direct_inbox WHERE inbox = ? AND sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
    "direct.inbox.delete": "DELETE FROM direct_inbox WHERE inbox = ? AND sequence <= ?",
    "direct.cursors": "SELECT inbox, sequence FROM direct_cursors",
    "direct.cursor.set": "INSERT OR REPLACE INTO direct_cursors VALUES (?, ?)",
    "direct.outbox":
      "SELECT id, peer, incarnation, number, state, created, expires, attempts, outcome, reason, sealed FROM direct_outbox WHERE id > ? ORDER BY id",
    "direct.outbox.insert":
      "INSERT OR REPLACE INTO direct_outbox (id, peer, incarnation, number, state, created, expires, attempts, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "direct.outbox.close": "UPDATE direct_outbox SET state = 1, sealed = NULL WHERE id = ?",
    "direct.outbox.settle":
      "UPDATE direct_outbox SET state = 2, sealed = NULL, outcome = ?, reason = ?, settled = ? WHERE id = ?",
    "direct.outbox.delete": "DELETE FROM direct_outbox WHERE id = ?",
    "direct.mailbox.index":
      "SELECT ticket, sender, recipient, expires, bytes FROM direct_mailbox WHERE ticket > ? ORDER BY ticket",
    "direct.mailbox.get": "SELECT sender, sealed FROM direct_mailbox WHERE ticket = ?",
    "direct.mailbox.insert": "INSERT OR REPLACE INTO direct_mailbox VALUES (?, ?, ?, ?, ?, ?)",
    "direct.mailbox.delete": "DELETE FROM direct_mailbox WHERE ticket = ?",
    "direct.outbox.trim": `DELETE FROM direct_outbox WHERE state = 2 AND (settled < ? OR id IN
      (SELECT id FROM direct_outbox WHERE state = 2 ORDER BY settled DESC LIMIT -1 OFFSET ${MAX_OUTCOMES}))`,
  },
};
