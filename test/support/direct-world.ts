/**
 * Nodes with direct messages in a world that loses, repeats and reorders frames, loses connections, delays and fails commits, and kills
 * nodes at any moment, with or without what they were just committing; in virtual time from a seed. The tables are the real ones, in
 * memory. It notices at once when somebody is told "acknowledged" and the message is not in the inbox, and when sequences do not grow.
 */
import assert from "node:assert/strict";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { SeededRandom } from "../../src/base/random.ts";
import { toHex, utf8 } from "../../src/base/bytes.ts";
import { loadDirectState } from "../../src/node/messaging/direct-state.ts";
import { DIRECT_TABLES } from "../../src/node/messaging/tables/direct.ts";
import type { Row, SqlValue, StoreOp } from "../../src/messaging/store-types.ts";
import { DirectMachine } from "../../src/messaging/direct/machine.ts";
import { openFromOutbox, sealForOutbox } from "../../src/messaging/direct/seal.ts";
import type {
  DirectOptions,
  DirectOutput,
  IncomingRequest,
  InboxEntry,
  RequestResult,
  SendRequest,
  SendResult,
} from "../../src/messaging/direct/types.ts";

const START_WALL_MS = 1_800_000_000_000;

/** What is wrong with this world; shares are 0–1. */
export interface Troubles {
  readonly loss: number;
  readonly duplicates: number;
  /** A link loses what it was writing, and does not know whether it went. */
  readonly lostWrites: number;
  readonly failedCommits: number;
  readonly maxDelayMs: number;
  readonly maxCommitMs: number;
}

export const PEACE: Troubles = {
  loss: 0,
  duplicates: 0,
  lostWrites: 0,
  failedCommits: 0,
  maxDelayMs: 5,
  maxCommitMs: 2,
};

export class Database {
  readonly #database = new DatabaseSync(":memory:");
  readonly #statements = new Map<string, StatementSync>();
  /** Inbox rows that were ever inserted, by id. */
  readonly inserted: Map<string, number> = new Map();
  /** Negative controls: what the disk keeps of what it was given. */
  keeps: (op: StoreOp) => boolean = () => true;

  constructor() {
    this.#database.exec(DIRECT_TABLES.schema);
  }

  apply(ops: readonly StoreOp[]): void {
    this.#database.exec("BEGIN");
    for (const op of ops) {
      const { name, values } = op;
      if (!this.keeps(op)) continue;
      this.#statement(name).run(...(values as SQLInputValue[]));
      const id = values[2] as string;
      if (name === "direct.inbox.insert") this.inserted.set(id, (this.inserted.get(id) ?? 0) + 1);
    }
    this.#database.exec("COMMIT");
  }

  query(name: string, values: readonly SqlValue[], maxRows = 1000): Promise<Row[]> {
    return Promise.resolve(
      this.#statement(name)
        .all(...(values as SQLInputValue[]))
        .slice(0, maxRows) as Row[],
    );
  }

  close(): void {
    this.#database.close();
  }

  #statement(name: string): StatementSync {
    let statement = this.#statements.get(name);
    if (statement === undefined) {
      statement = this.#database.prepare(DIRECT_TABLES.statements[name]);
      this.#statements.set(name, statement);
    }
    return statement;
  }
}

export class Host {
  readonly id: Uint8Array;
  readonly database: Database = new Database();
  machine: DirectMachine | undefined;
  /** Of its process: what belongs to an earlier one does not reach it. */
  run = 0;
  /** Commits that the disk has and the process has not heard of. */
  readonly committing: Map<number, readonly StoreOp[]> = new Map();
  /** What callers were told, by id. */
  readonly told: Map<string, SendResult[]> = new Map();
  readonly sent: Map<string, { to: number; durable: boolean }> = new Map();
  readonly transient: Map<string, number> = new Map();
  lastDelivered = 0;
  readonly delivered: InboxEntry[] = [];
  readonly requests: IncomingRequest[] = [];
  readonly cancelled: string[] = [];
  readonly answers: RequestResult[] = [];

  constructor(index: number) {
    this.id = new Uint8Array(32).fill(index + 1);
  }
}

export class World {
  readonly random: SeededRandom;
  readonly hosts: Host[];
  troubles: Troubles;
  readonly hadFailingDisks: boolean;
  nowMs = 1000;
  readonly #options: Partial<DirectOptions>;
  readonly #events: { atMs: number; order: number; run: () => void }[] = [];
  #order = 0;

  constructor(seed: number, count: number, troubles: Troubles, options: Partial<DirectOptions> = {}) {
    this.random = new SeededRandom(seed);
    this.troubles = troubles;
    this.hadFailingDisks = troubles.failedCommits > 0;
    this.#options = options;
    this.hosts = Array.from({ length: count }, (_, i) => new Host(i));
  }

  get now(): { nowMs: number; wallMs: number } {
    return { nowMs: this.nowMs, wallMs: START_WALL_MS + this.nowMs };
  }

  async start(index: number): Promise<void> {
    const host = this.hosts[index];
    const state = await loadDirectState(host.database);
    const random = new SeededRandom(this.random.u32());
    const seed = host.id;
    host.run++;
    host.machine = new DirectMachine(
      {
        self: host.id,
        random,
        isMember: (nodeId) => this.hosts.some(({ id }) => toHex(id) === toHex(nodeId)),
        rttMs: () => 10,
        isUp: (nodeId) => this.hosts.some(({ id, machine }) => machine !== undefined && toHex(id) === toHex(nodeId)),
        seal: (id, body) => sealForOutbox(seed, random, id, body),
        unseal: (id, sealed) => openFromOutbox(seed, id, sealed),
      },
      this.#options,
      this.now,
      state,
    );
    host.lastDelivered = Math.max(host.lastDelivered, state.cursors.get("") ?? 0);
    this.drain(index);
    for (const [other, { machine }] of this.hosts.entries()) {
      if (other === index || machine === undefined) continue;
      machine.peerUp(this.now, host.id);
      host.machine.peerUp(this.now, this.hosts[other].id);
      this.drain(other);
    }
    this.drain(index);
  }

  /** The process is gone; of the commits under way the disk may have some, in order. */
  crash(index: number): void {
    const host = this.hosts[index];
    if (host.machine === undefined) return;
    host.machine = undefined;
    host.run++;
    for (const ops of host.committing.values()) if (this.random.unit() < 0.5) host.database.apply(ops);
    host.committing.clear();
  }

  send(from: number, to: number, request: Partial<SendRequest> = {}): string {
    const host = this.hosts[from];
    const machine = host.machine as DirectMachine;
    const payload = utf8(`${from}>${to} ${this.random.u32()}`);
    const id = machine.send(this.now, { to: this.hosts[to].id, payload, ...request });
    host.sent.set(id, { to, durable: request.durable ?? true });
    this.drain(from);
    return id;
  }

  at(inMs: number, run: () => void): void {
    const event = { atMs: this.nowMs + inMs, order: this.#order++, run };
    let low = 0;
    let high = this.#events.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = this.#events[middle];
      if (other.atMs < event.atMs || (other.atMs === event.atMs && other.order < event.order)) low = middle + 1;
      else high = middle;
    }
    this.#events.splice(low, 0, event);
  }

  /** Everything that happens within so many milliseconds. */
  pass(forMs: number): void {
    const endMs = this.nowMs + forMs;
    for (;;) {
      const event = this.#events[0];
      let dueMs = Infinity;
      let due = -1;
      for (const [i, { machine }] of this.hosts.entries()) {
        const atMs = machine?.nextTimeoutMs ?? Infinity;
        if (atMs < dueMs) {
          dueMs = atMs;
          due = i;
        }
      }
      const nextMs = Math.min(event?.atMs ?? Infinity, dueMs);
      if (nextMs > endMs) break;
      this.nowMs = Math.max(this.nowMs, nextMs);
      if (event !== undefined && event.atMs <= dueMs) {
        this.#events.shift();
        event.run();
      } else {
        this.hosts[due].machine?.handleTimeout(this.now);
        this.drain(due);
      }
    }
    this.nowMs = endMs;
  }

  drain(index: number): void {
    const host = this.hosts[index];
    for (;;) {
      const output = host.machine?.pollOutput();
      if (output === undefined) return;
      this.#take(index, host, output);
    }
  }

  #take(index: number, host: Host, output: DirectOutput): void {
    const { run } = host;
    const { random, troubles } = this;
    switch (output.kind) {
      case "frame": {
        const to = this.hosts.findIndex(({ id }) => toHex(id) === toHex(output.to));
        const { token, channel, frame } = output;
        const isLost = random.unit() < troubles.lostWrites;
        if (token !== 0) {
          this.at(random.unit() * 5, () => {
            if (host.run !== run) return;
            host.machine?.handleFate(this.now, token, isLost ? "lost" : "flushed");
            this.drain(index);
          });
        }
        const copies = random.unit() < troubles.loss ? 0 : random.unit() < troubles.duplicates ? 2 : 1;
        for (let i = 0; i < copies; i++) {
          // some copies are very late
          const slow = random.unit() < 0.1 ? 40 : 1;
          this.at(random.unit() * troubles.maxDelayMs * slow, () => {
            this.hosts[to].machine?.handleFrame(this.now, channel, host.id, frame);
            this.drain(to);
          });
        }
        return;
      }
      case "commit": {
        const { token, ops } = output;
        host.committing.set(token, ops);
        this.at(random.unit() * troubles.maxCommitMs, () => {
          if (host.run !== run) return;
          const isDurable = random.unit() >= troubles.failedCommits;
          host.committing.delete(token);
          if (isDurable) host.database.apply(ops);
          // the answer takes a moment: the process may be gone by then
          this.at(random.unit(), () => {
            if (host.run !== run) return;
            host.machine?.handleCommitted(this.now, token, isDurable);
            this.drain(index);
          });
        });
        return;
      }
      case "settled": {
        const list = host.told.get(output.result.id) ?? [];
        list.push(output.result);
        host.told.set(output.result.id, list);
        this.#checkTold(host, output.result);
        return;
      }
      case "delivered": {
        const { sequence, id, durable } = output.entry;
        assert.ok(sequence > host.lastDelivered, "sequences grow, also across restarts");
        host.lastDelivered = sequence;
        host.delivered.push(output.entry);
        if (durable) assert.equal(host.database.inserted.get(id), 1, "delivered before it was on disk");
        else host.transient.set(id, (host.transient.get(id) ?? 0) + 1);
        return;
      }
      case "deposit": {
        const to = this.hosts.findIndex(({ id }) => toHex(id) === toHex(output.to));
        // a mailbox has it, and gives it when it likes, as often as it likes
        for (let i = 0; i < 3; i++) {
          this.at(random.unit() * 20_000, () => {
            this.hosts[to].machine?.handleMailed(this.now, host.id, output.frame, () => undefined);
            this.drain(to);
          });
        }
        return;
      }
      case "request":
        host.requests.push(output.request);
        return;
      case "cancelled":
        host.cancelled.push(output.key);
        return;
      case "answered":
        host.answers.push(output.result);
    }
  }

  /** An acknowledged one is there at once, not later. */
  #checkTold(host: Host, { id, outcome }: SendResult): void {
    const sent = host.sent.get(id);
    if (outcome !== "acknowledged" || sent?.durable !== true) return;
    const count = this.hosts[sent.to].database.inserted.get(id);
    assert.equal(count, 1, "acknowledged, and not in the inbox exactly once");
  }

  check(): void {
    for (const host of this.hosts) {
      for (const counts of [host.database.inserted, host.transient])
        for (const [id, count] of counts) assert.equal(count, 1, `${id} entered an inbox twice`);
      for (const [id, results] of host.told) {
        const sent = host.sent.get(id);
        const finals = results.filter(({ isFinal }) => isFinal);
        // a kill may hide that it was told; then it is told again
        assert.ok(finals.length <= 1 || host.run > 1, "two final outcomes");
        for (const { outcome } of finals) assert.equal(outcome, finals[0].outcome, "two different outcomes");
        assert.ok(results.filter(({ isFinal }) => !isFinal).length <= 1, "told twice that nothing is known");
        if (sent === undefined) continue;
        const target = this.hosts[sent.to];
        // what is not durable ends with the receiver's process
        if (finals[0]?.outcome === "acknowledged" && !sent.durable && target.run === 1)
          assert.equal(target.transient.get(id), 1, "acknowledged, and not delivered exactly once");
        if (finals[0]?.outcome !== "refused") continue;
        assert.equal(target.database.inserted.get(id), undefined, `refused (${finals[0].reason}) and in the inbox`);
        assert.equal(target.transient.get(id), undefined, `refused (${finals[0].reason}) and delivered`);
      }
    }
  }

  /** After a long quiet time nothing is open, and whoever was told "unknown" can know. @returns how many were told so */
  checkResolved(): number {
    let unknown = 0;
    for (const host of this.hosts) {
      assert.equal(host.machine?.gauges()["outgoing"], 0, "still without an outcome");
      for (const [id, results] of host.told) {
        if (results[0].outcome === "unknown" && !results[0].isFinal) unknown++;
        else continue;
        const durable = host.sent.get(id)?.durable;
        const status = host.machine?.status(id);
        // what a failing disk did not take is forgotten by a kill
        if (durable !== true || (status === undefined && this.hadFailingDisks)) continue;
        assert.ok(status !== undefined && status.isFinal, `told unknown, and nobody knows ${id} any more`);
        assert.notEqual(status.outcome, "unknown");
        const sent = host.sent.get(id);
        const count = this.hosts[sent?.to ?? 0].database.inserted.get(id);
        assert.equal(count, status.outcome === "acknowledged" ? 1 : undefined, `status says ${status.outcome}`);
      }
    }
    return unknown;
  }

  close(): void {
    for (const host of this.hosts) host.database.close();
  }
}
