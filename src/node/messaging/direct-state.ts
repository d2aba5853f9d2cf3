/** What direct messages find on disk when the node starts. Pages of 10,000 rows; the tables are bounded by their machine. */
import type { DirectState } from "../../messaging/direct/machine.ts";
import type { MessageStore, Row, SqlValue } from "./store.ts";

const PAGE_ROWS = 10_000;

export async function loadDirectState(store: Pick<MessageStore, "query">): Promise<DirectState> {
  const meta = new Map((await store.query("direct.meta", [])).map((row) => [row["key"], row["value"] as number]));
  const cursors = await store.query("direct.cursors", []);
  const none = new Uint8Array(0);
  const [senders, windows, seen, slots, outbox] = [
    await pages(store, "direct.senders", ["sender"], [none]),
    await pages(store, "direct.windows", ["sender", "incarnation"], [none, -1]),
    await pages(store, "direct.seen", ["sender", "incarnation", "number"], [none, -1, -1]),
    await pages(store, "direct.slots", ["sequence"], [0]),
    await pages(store, "direct.outbox", ["id"], [""]),
  ];
  return {
    incarnation: meta.get("incarnation") ?? 0,
    sequence: meta.get("sequence") ?? 0,
    cursors: new Map(cursors.map((row) => [row["inbox"] as string, row["sequence"] as number])),
    senders: senders.map((row) => ({
      nodeId: bytes(row, "sender"),
      trust: int(row, "trust"),
      oldest: int(row, "oldest"),
    })),
    windows: windows.map((row) => ({
      sender: bytes(row, "sender"),
      incarnation: int(row, "incarnation"),
      floor: int(row, "floor"),
      closed: int(row, "closed"),
      closedVerdict: int(row, "verdict"),
    })),
    seen: seen.map((row) => ({
      sender: bytes(row, "sender"),
      incarnation: int(row, "incarnation"),
      number: int(row, "number"),
      verdict: int(row, "verdict"),
      hash: int(row, "hash"),
    })),
    slots: slots.map((row) => ({
      sequence: int(row, "sequence"),
      inbox: row["inbox"] as string,
      sender: bytes(row, "sender").toHex(),
      bytes: int(row, "bytes"),
    })),
    outbox: outbox.map((row) => ({
      id: row["id"] as string,
      peer: bytes(row, "peer"),
      incarnation: int(row, "incarnation"),
      number: int(row, "number"),
      state: int(row, "state"),
      createdWallMs: int(row, "created"),
      expiresWallMs: int(row, "expires"),
      attempts: int(row, "attempts"),
      outcome: row["outcome"] as string | null,
      reason: row["reason"] as string | null,
      sealed: row["sealed"] as Uint8Array | null,
    })),
  };
}

/** All rows of a statement that goes on behind the values of `columns`. */
async function pages(
  store: Pick<MessageStore, "query">,
  name: string,
  columns: readonly string[],
  start: readonly SqlValue[],
): Promise<Row[]> {
  const all: Row[] = [];
  let after = start;
  for (;;) {
    const rows = await store.query(name, after, PAGE_ROWS);
    for (const row of rows) all.push(row);
    const last = rows.at(-1);
    if (last === undefined) return all;
    after = columns.map((column) => last[column]);
  }
}

function bytes(row: Row, column: string): Uint8Array {
  return row[column] as Uint8Array;
}

function int(row: Row, column: string): number {
  return row[column] as number;
}
