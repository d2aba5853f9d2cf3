/**
 * The history of what came to this node and its groups, and what it sent: kept in the message store, searchable, within a quota. What is recorded with a group's
 * entry goes to disk with it. Direct messages wait here and go in small batches, so that the index never holds up an acknowledgement: 1,280 a
 * second at most; in a longer flood the oldest that wait are left out of the history (not out of the inbox) and counted.
 * Source: docs/protocol.md, "History".
 */
import type { MetricSample } from "../../api/control.ts";
import type { HistoryControl, HistoryFigures, HistoryMessageView } from "../../api/messaging/history-control.ts";
import { shortNodeId, formatNodeId } from "../../crypto/node-id.ts";
import { searchQuery } from "../../messaging/history/query.ts";
import { HistoryQuota } from "../../messaging/history/quota.ts";
import type { Row, StoreOp } from "../../messaging/store-types.ts";
import type { PartContext } from "./part.ts";

const MAX_PAYLOAD_BYTES = 65_536;
const MAX_TEXT_CHARACTERS = 16_384;
const MAX_ROWS = 200_000;
/** A text is kept beside its bytes, and about once more in the index. */
const TEXT_COPIES = 2;
/** Of the message store. */
const STORE_SHARE = 8;
const BATCH_RECORDS = 64;
const BATCH_MS = 50;
const MAX_WAITING = 4_096;
const MAX_WAITING_BYTES = 16 << 20;
const EVERYTHING = Number.MAX_SAFE_INTEGER;

export interface HistoryRecord {
  /** The same message always has the same one, so that it is kept once. */
  readonly ref: string;
  readonly kind: "direct" | "group";
  readonly conversation: string;
  readonly agent: string;
  readonly sender: Uint8Array;
  readonly senderAgent: string;
  /** Node id; undefined: this node, or the group. */
  readonly recipient: Uint8Array | undefined;
  readonly atMs: number;
  readonly payload: Uint8Array;
}

const decoder = new TextDecoder("utf-8", { fatal: true });

export class History {
  readonly control: HistoryControl;
  readonly #context: PartContext;
  readonly #maxBytes: number;
  readonly #quota: HistoryQuota;
  #recorded = 0;
  #trimmed = 0;
  #failures = 0;
  #isMeasuring = false;
  #shed = 0;
  #waiting: HistoryRecord[] = [];
  #waitingBytes = 0;
  #cancelTimer: (() => void) | undefined;
  /** Name of a conversation for people. */
  readonly #nameOf: (kind: string, conversation: string) => string;

  constructor(context: PartContext, nameOf: (kind: string, conversation: string) => string) {
    this.#context = context;
    this.#nameOf = nameOf;
    this.#maxBytes = Math.floor(context.config.storeBytes / STORE_SHARE);
    this.#quota = new HistoryQuota({ maxRows: MAX_ROWS, maxBytes: this.#maxBytes });
    this.control = {
      search: (typed, agent, before, limit) => this.#search(typed, agent, before, limit),
      figures: () => this.#figures(),
    };
  }

  async start(): Promise<void> {
    await this.#measure();
  }

  /** What keeps it; to be committed by the caller. */
  opsFor(record: HistoryRecord): StoreOp[] {
    const payload = record.payload.subarray(0, MAX_PAYLOAD_BYTES);
    const text = textOf(payload) ?? "";
    const { ref, kind, conversation, agent, sender, senderAgent, recipient, atMs } = record;
    const head = [ref, kind, conversation, agent, sender, senderAgent, recipient ?? null];
    const values = [...head, Math.floor(atMs), payload];
    const ops: StoreOp[] = [{ name: "history.insert", values: [...values, text.slice(0, MAX_TEXT_CHARACTERS)] }];
    this.#recorded++;
    const surplus = this.#quota.add(
      payload.length + TEXT_COPIES * Buffer.byteLength(text.slice(0, MAX_TEXT_CHARACTERS)),
    );
    if (surplus === 0 || this.#isMeasuring) return ops;
    this.#trimmed += surplus;
    this.#isMeasuring = true;
    // after the commit that the caller begins now
    queueMicrotask(() => void this.#measure());
    return [{ name: "history.trim", values: [surplus] }, ...ops];
  }

  /** For whoever has no commit of its own: soon. */
  record(record: HistoryRecord): void {
    const payload = record.payload.slice(0, MAX_PAYLOAD_BYTES);
    this.#waiting.push({ ...record, payload });
    this.#waitingBytes += payload.length;
    while (this.#waiting.length > MAX_WAITING || this.#waitingBytes > MAX_WAITING_BYTES) {
      this.#waitingBytes -= this.#waiting.shift()!.payload.length;
      this.#shed++;
    }
    this.#arm();
  }

  /** What waits is written. */
  async close(): Promise<void> {
    this.#cancelTimer?.();
    await this.#write(this.#waiting.length);
  }

  /** A page of one conversation in the order in which it came. */
  async page(kind: string, conversation: string, after: number, limit: number): Promise<HistoryMessageView[]> {
    const rows = await this.#context.store.query("history.after", [kind, conversation, after], limit);
    return rows.map((row) => this.#view(row));
  }

  /** The latest ones of a conversation, oldest first. */
  async latest(kind: string, conversation: string, limit: number): Promise<HistoryMessageView[]> {
    const rows = await this.#context.store.query("history.latest", [kind, conversation], limit);
    return rows.map((row) => this.#view(row)).toReversed();
  }

  metrics(): readonly MetricSample[] {
    const sample = (name: string, type: "counter" | "gauge", help: string, value: number): MetricSample => ({
      name,
      type,
      help,
      labels: {},
      value,
    });
    return [
      sample("weft_history_recorded_total", "counter", "Messages handed to the history.", this.#recorded),
      sample("weft_history_trimmed_total", "counter", "Messages removed to keep within the quota.", this.#trimmed),
      sample("weft_history_failures_total", "counter", "Messages that could not be kept.", this.#failures),
      sample("weft_history_shed_total", "counter", "Messages left out because more came than is indexed.", this.#shed),
      sample("weft_history_messages", "gauge", "Messages kept.", this.#quota.rows),
      sample("weft_history_bytes", "gauge", "Bytes that they take, about.", this.#quota.bytes),
    ];
  }

  #arm(): void {
    const { clock } = this.#context;
    this.#cancelTimer ??= clock.schedule(clock.now().nowMs + BATCH_MS, () => {
      this.#cancelTimer = undefined;
      if (this.#waiting.length > BATCH_RECORDS) this.#arm();
      void this.#write(BATCH_RECORDS);
    });
  }

  async #write(count: number): Promise<void> {
    const records = this.#waiting.splice(0, count);
    for (const { payload } of records) this.#waitingBytes -= payload.length;
    if (records.length === 0) return;
    try {
      await this.#context.store.commit(records.flatMap((record) => this.opsFor(record)));
    } catch {
      // the store is full or closing: the inbox has them all the same
      this.#failures += records.length;
    }
  }

  #figures(): HistoryFigures {
    return { messages: this.#quota.rows, bytes: this.#quota.bytes, maxMessages: MAX_ROWS, maxBytes: this.#maxBytes };
  }

  async #search(
    typed: string,
    agent: string,
    before: number | undefined,
    limit: number,
  ): Promise<readonly HistoryMessageView[]> {
    const query = searchQuery(typed);
    if (query === undefined && typed.trim() !== "") return [];
    const rows =
      query === undefined
        ? await this.#context.store.query("history.all", [before ?? EVERYTHING, agent], limit)
        : await this.#context.store.query("history.search", [query, before ?? EVERYTHING, agent], limit);
    return rows.map((row) => this.#view(row));
  }

  async #measure(): Promise<void> {
    try {
      const [row] = await this.#context.store.query("history.figures", []);
      this.#quota.measured(Number(row?.["rows"] ?? 0), Number(row?.["bytes"] ?? 0));
    } catch {
      // the store is closing or full: counted, and measured again with the next surplus
      this.#failures++;
    } finally {
      this.#isMeasuring = false;
    }
  }

  #view(row: Row): HistoryMessageView {
    const sender = row["sender"] as Uint8Array;
    const payload = row["payload"] as Uint8Array;
    const recipient = row["recipient"] as Uint8Array | null;
    const kind = row["kind"] as string;
    const nodeRef = (nodeId: Uint8Array): { readonly id: string; readonly name: string } => ({
      id: formatNodeId(nodeId),
      name: this.#context.find(nodeId)?.name ?? shortNodeId(nodeId),
    });
    return {
      id: row["id"] as number,
      kind,
      conversation: this.#nameOf(kind, row["conversation"] as string),
      agent: row["agent"] as string,
      from: nodeRef(sender),
      to: recipient === null ? null : nodeRef(recipient),
      fromAgent: row["sender_agent"] as string,
      at: new Date(row["at"] as number).toISOString(),
      text: textOf(payload),
      payload: Buffer.from(payload).toString("base64"),
    };
  }
}

function textOf(bytes: Uint8Array): string | null {
  try {
    return decoder.decode(bytes);
  } catch {
    // not text: found by its sender and time only
    return null;
  }
}
