/**
 * What a part of messaging wants to keep, as data: named statements with values, and tables. No database here; the shell
 * (node/messaging/store.ts) has one, in its own thread. Source: docs/protocol.md, "The message store".
 */

/** A value of a column. Numbers are safe integers (or a float for a REAL column); bytes are copied when they are handed over. */
export type SqlValue = null | number | string | Uint8Array;

/** A row of an answer, by column name. */
export type Row = Readonly<Record<string, SqlValue>>;

/** One call of a named statement; `values` go to its question marks in order. */
export interface StoreOp {
  /** As in a TableSet: "direct.inbox.insert". */
  readonly name: string;
  readonly values: readonly SqlValue[];
}

/** The tables of one part and everything it ever does with them. */
export interface TableSet {
  /** Run at every start: `CREATE TABLE IF NOT EXISTS part_…` (STRICT), indices, triggers; names start with the part's. */
  readonly schema: string;
  /** Name → one SQL statement with `?` parameters; names start with "part.". Reading or writing alike. */
  readonly statements: Readonly<Record<string, string>>;
}
