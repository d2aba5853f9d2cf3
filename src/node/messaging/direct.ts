/**
 * Direct messages of a running node: the machine (messaging/direct) with the real links, store and clock.
 *
 *   frames, fates, commits, timers ──► machine ──► outputs, taken once per turn of the event loop, so that what comes together goes together
 *
 * Source: docs/protocol.md, "Direct messages".
 */
import type { MetricSample } from "../../api/control.ts";
import type { DeliveryFact } from "../../api/messaging/control.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { DirectMachine } from "../../messaging/direct/machine.ts";
import { openFromOutbox, sealForOutbox } from "../../messaging/direct/seal.ts";
import {
  type AgentKey,
  type DirectOptions,
  type DirectOutput,
  type InboxEntry,
  type IncomingRequest,
  type RequestResult,
  type SendRequest,
  type SendResult,
  type TrustLevel,
  Verdict,
} from "../../messaging/direct/types.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import { createDirectControl } from "./direct-control.ts";
import { directSamples } from "./direct-metrics.ts";
import { loadDirectState } from "./direct-state.ts";
import { Mailboxes } from "./mailbox.ts";
import type { FrameTypes, MessagingPart, PartContext } from "./part.ts";
import type { Row } from "./store.ts";

/** What other parts know of agents; without it, only nodes send and receive. */
export interface DirectAgents {
  /** The key of an agent of this node. @throws WeftError AGENT_UNKNOWN */
  local(name: string): Uint8Array;
  nameOf(key: Uint8Array): string | undefined;
  /** "AGENT@NODE" and whatever else names an agent; undefined: it names a node. */
  target(text: string): { readonly nodeId: Uint8Array; readonly agent: Uint8Array } | undefined;
  /** A final verdict (messaging/direct/types.ts) when that agent may not write to that inbox. */
  judge(from: Uint8Array, fromAgent: AgentKey, toAgent: AgentKey): number | undefined;
  /** A message of this agent goes to that node: its lease goes first. */
  present(agent: Uint8Array, to: Uint8Array): void;
}

/** Members that keep sealed messages for others. */
export interface MailboxVolunteers {
  sample(count: number): readonly Uint8Array[];
  /** Begins to look for them. @param isKeeper this node is one of them */
  start(isKeeper: boolean): void;
}

export interface ServiceListener {
  request(request: IncomingRequest): void;
  cancelled(key: string): void;
}

const PAGE_ROWS = 1_000;
/** Share of the message store that inboxes, and what waits to be sent, may take each. */
const STORE_SHARE = 4;
const MAX_LAST_COMMITS = 64;
const MAX_SENT_AS = 16_384;
const MOST_OUTGOING_BYTES = 64 << 20;

export class DirectPart implements MessagingPart {
  readonly name = "direct";
  readonly types: readonly FrameTypes[] = [
    [FrameChannel.ACK, 1, 15],
    [FrameChannel.DIRECT, 1, 15],
    [FrameChannel.BULK, 1, 15],
  ];
  readonly channels: NonNullable<MessagingPart["channels"]> = {
    [FrameChannel.ACK]: (from, frame) => this.#handle(FrameChannel.ACK, from, frame),
    [FrameChannel.DIRECT]: (from, frame) => this.#handle(FrameChannel.DIRECT, from, frame),
    [FrameChannel.BULK]: (from, frame) => this.#mailboxes.handleFrame(from, frame),
  };
  readonly control: NonNullable<MessagingPart["control"]>;
  readonly context: PartContext;
  agents: DirectAgents | undefined = undefined;
  #machine: DirectMachine | undefined;
  #isClosed = false;
  #isPlanned = false;
  #cancelTimer: (() => void) | undefined;
  #timerAtMs = Infinity;
  readonly #senders = new Map<string, (result: SendResult) => void>();
  readonly #callers = new Map<string, (result: RequestResult) => void>();
  readonly #services = new Map<string, ServiceListener>();
  /** Key of a running request → who runs it. */
  readonly #running = new Map<string, { readonly listener: ServiceListener; readonly toAgent: AgentKey }>();
  /** Id of a message → key of the agent that sent it in hex, "" for the node; the oldest are forgotten. */
  readonly #sentAs = new Map<string, string>();
  readonly #watchers = new Map<string, Set<() => void>>();
  readonly #listeners = new Set<(entry: InboxEntry) => void>();
  readonly #sentListeners = new Set<(request: SendRequest, result: SendResult) => void>();

  readonly #volunteers: MailboxVolunteers;
  readonly #mailboxes: Mailboxes;

  constructor(context: PartContext, volunteers: MailboxVolunteers) {
    this.context = context;
    this.#volunteers = volunteers;
    this.#mailboxes = new Mailboxes({
      context,
      keepers: (count) => volunteers.sample(count),
      isBlocked: (nodeId) => this.isBlocked(nodeId),
      take: (sender, frame, taken) => {
        this.#machine?.handleMailed(context.clock.now(), sender, frame, taken);
        this.#plan();
      },
    });
    this.control = { direct: createDirectControl(this) };
  }

  async start(): Promise<void> {
    const { identity, random, clock, config, store } = this.context;
    const state = await loadDirectState(store);
    const share = Math.floor(config.storeBytes / STORE_SHARE);
    const options: Partial<DirectOptions> = {
      inboxBytes: share,
      outgoingBytes: Math.min(MOST_OUTGOING_BYTES, share),
      maxKeepMs: config.outboxMs,
      unknownSenders: config.acceptUnknown ? "accept" : "refuse",
    };
    this.#machine = new DirectMachine(
      {
        self: identity.nodeId,
        random,
        isMember: (nodeId) => this.context.find(nodeId) !== undefined,
        rttMs: (nodeId) => this.context.rttMs(nodeId),
        isUp: (nodeId) => this.context.isUp(nodeId),
        seal: (id, body) => sealForOutbox(identity.seed, random, id, body),
        unseal: (id, sealed) => openFromOutbox(identity.seed, id, sealed),
        judgeAgents: (from, fromAgent, toAgent) => this.#judge(from, fromAgent, toAgent),
      },
      options,
      clock.now(),
      state,
    );
    this.#drain();
    // its first commit is on disk then: no frame comes too early
    await store.query("direct.meta", []);
    await this.#mailboxes.start();
    this.#volunteers.start(config.mailbox);
  }

  /** What came is on disk and answered, what has no outcome is in the outbox; then callers are told that nobody knows. */
  async close(): Promise<void> {
    const machine = this.#machine;
    this.#mailboxes.close();
    if (machine !== undefined) {
      machine.stop(this.context.clock.now());
      this.#drain();
      // several, because what came during one commit waits for the next, and a commit is bounded
      for (let i = 0; i < MAX_LAST_COMMITS && (i < 2 || machine.isWriting); i++)
        await this.context.store.query("direct.meta", []).catch(() => undefined);
    }
    this.#isClosed = true;
    this.#cancelTimer?.();
    for (const [id, end] of this.#senders) end(machine?.status(id) ?? stopped(id));
    for (const [id, end] of this.#callers) end({ id, outcome: "unknown", reason: "no-answer", totalMs: 0 });
    this.#senders.clear();
    this.#callers.clear();
  }

  // ── what other parts and the API use ─────────────────────────────────────────────────────────────────────────────────

  /** @throws WeftError NOT_READY */
  get machine(): DirectMachine {
    if (this.#machine === undefined || this.#isClosed)
      throw new WeftError("NOT_READY", "direct messages are not running", "start the node first");
    return this.#machine;
  }

  /** Resolves at the deadline at the latest. */
  send(request: SendRequest): Promise<SendResult> {
    const id = this.machine.send(this.context.clock.now(), request);
    this.#noteSender(id, request.fromAgent);
    this.#plan();
    return new Promise((resolve) => {
      this.#senders.set(id, (result) => {
        for (const listener of this.#sentListeners) listener(request, result);
        resolve(result);
      });
    });
  }

  /** @param signal cancels it, here and there */
  request(request: SendRequest, signal?: AbortSignal): Promise<RequestResult> {
    const { clock } = this.context;
    const id = this.machine.request(clock.now(), request);
    const cancel = (): void => {
      this.#machine?.cancelRequest(clock.now(), id);
      this.#plan();
    };
    signal?.addEventListener("abort", cancel, { once: true });
    if (signal?.aborted === true) cancel();
    this.#plan();
    return new Promise((resolve) => {
      this.#callers.set(id, (result) => {
        signal?.removeEventListener("abort", cancel);
        resolve(result);
      });
    });
  }

  /** @returns ends it; undefined when the name is taken */
  serve(agent: AgentKey, name: string, listener: ServiceListener): (() => void) | undefined {
    if (!this.machine.serve(agent, name)) return undefined;
    const key = serviceKey(agent, name);
    this.#services.set(key, listener);
    return () => {
      if (this.#services.get(key) !== listener) return;
      this.#services.delete(key);
      this.#machine?.unserve(agent, name);
    };
  }

  /** @returns the agent's key in hex, "" for the node; undefined: not in this run, or too long ago */
  sentAs(id: string): string | undefined {
    return this.#sentAs.get(id);
  }

  /** Whom a running request is to. @returns the agent's key in hex, "" for the node; undefined: it does not run here */
  servedAs(key: string): string | undefined {
    const running = this.#running.get(key);
    return running === undefined ? undefined : hexOf(running.toAgent);
  }

  #noteSender(id: string, agent: AgentKey): void {
    this.#sentAs.set(id, hexOf(agent));
    if (this.#sentAs.size > MAX_SENT_AS) this.#sentAs.delete(this.#sentAs.keys().next().value as string);
  }

  /** @returns false when nobody waits for it any more */
  respond(key: string, payload: Uint8Array, failed: boolean): boolean {
    this.#running.delete(key);
    const isTaken = this.machine.respond(this.context.clock.now(), key, payload, failed);
    this.#plan();
    return isTaken;
  }

  /** Everything up to `upTo` is forgotten; resolves when that is on disk. @param inbox "" or an agent's key in hex */
  acknowledge(inbox: string, upTo: number): Promise<void> {
    const { machine } = this;
    return new Promise((resolve) => {
      machine.acknowledge(this.context.clock.now(), inbox, upTo, resolve);
      this.#plan();
    });
  }

  /** A page in order, from disk and memory. @param limit at most 1,000 */
  async read(inbox: string, after: number, limit: number): Promise<InboxEntry[]> {
    const { frontier, transient } = this.machine.inbox(inbox, after, limit);
    const rows = await this.context.store.query("direct.inbox.read", [inbox, after, frontier, limit], PAGE_ROWS);
    const all = [...rows.map((row) => entryOf(inbox, row)), ...transient];
    return all.toSorted((a, b) => a.sequence - b.sequence).slice(0, limit);
  }

  /** @param more called when the inbox has got something @returns ends it */
  watch(inbox: string, more: () => void): () => void {
    const watchers = this.#watchers.get(inbox) ?? new Set();
    this.#watchers.set(inbox, watchers);
    watchers.add(more);
    return () => {
      watchers.delete(more);
      if (watchers.size === 0 && this.#watchers.get(inbox) === watchers) this.#watchers.delete(inbox);
    };
  }

  /** Every message that enters an inbox, once. @returns ends it */
  onDelivered(listener: (entry: InboxEntry) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Every message that this node sent, when its sender is told the outcome. @returns ends it */
  onSent(listener: (request: SendRequest, result: SendResult) => void): () => void {
    this.#sentListeners.add(listener);
    return () => this.#sentListeners.delete(listener);
  }

  isBlocked(nodeId: Uint8Array): boolean {
    return this.#machine?.trustOf(nodeId) === "blocked";
  }

  /** Resolves when it is on disk. */
  setTrust(nodeId: Uint8Array, level: TrustLevel): Promise<void> {
    const { machine } = this;
    return new Promise((resolve, reject) => {
      const isKept = machine.setTrust(this.context.clock.now(), nodeId, level, resolve);
      if (!isKept) reject(new WeftError("TRUST_FULL", "too many nodes are remembered", "see weft trust"));
      this.#plan();
    });
  }

  openInbox(agent: AgentKey): boolean {
    return this.machine.openInbox(agent);
  }

  closeInbox(agent: AgentKey): void {
    this.#machine?.closeInbox(agent);
  }

  // ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────────

  peerUp(nodeId: Uint8Array): void {
    this.#machine?.peerUp(this.context.clock.now(), nodeId);
    this.#mailboxes.peerUp(nodeId);
    this.#plan();
  }

  /** What the old connection may have lost goes again, without waiting for its time. */
  connectionReplaced(nodeId: Uint8Array): void {
    this.peerUp(nodeId);
  }

  memberGone(nodeId: Uint8Array): void {
    this.#machine?.memberGone(this.context.clock.now(), nodeId);
    this.#mailboxes.memberGone(nodeId);
    this.#plan();
  }

  metrics(): readonly MetricSample[] {
    return this.#machine === undefined ? [] : [...directSamples(this.#machine), ...this.#mailboxes.metrics()];
  }

  delivery(nodeId: Uint8Array): readonly DeliveryFact[] {
    const machine = this.#machine;
    if (machine === undefined) return [];
    const waiting = machine.outgoing().filter(({ to }) => equal(to, nodeId));
    const asking = waiting.filter(({ isClosing }) => isClosing).length;
    const isBlocked = this.isBlocked(nodeId);
    return [
      {
        part: "direct",
        stage: "answer",
        ok: asking === 0,
        code: asking === 0 ? "answered" : "no-answer",
        text:
          asking === 0
            ? `${waiting.length} messages are on their way`
            : `${asking} messages have passed their deadline without an answer`,
        remedy: asking === 0 ? "" : "they are resolved when the peer is back: weft send --status ID",
        figures: { waiting: waiting.length, asking },
      },
      {
        part: "direct",
        stage: "admit",
        ok: true,
        code: isBlocked ? "blocked-here" : "not-blocked",
        text: isBlocked ? "this node takes no messages of it" : "this node takes its messages",
        remedy: isBlocked ? "weft trust NODE known" : "",
        figures: {},
      },
    ];
  }

  diagnostics(): unknown {
    const machine = this.#machine;
    if (machine === undefined) return {};
    const stages = machine
      .stages()
      .map(({ stage, count, meanMs, p50Ms, p99Ms }) => ({ stage, count, meanMs, p50Ms, p99Ms }));
    return {
      ...machine.counters,
      ...machine.gauges(),
      stages,
      inboxes: machine.inboxes(),
      mailboxes: this.#mailboxes.counters,
    };
  }

  #handle(channel: FrameChannel, from: Uint8Array, frame: Uint8Array): void {
    this.#machine?.handleFrame(this.context.clock.now(), channel, from, frame);
    this.#plan();
  }

  #judge(from: Uint8Array, fromAgent: AgentKey, toAgent: AgentKey): number | undefined {
    if (this.agents !== undefined) return this.agents.judge(from, fromAgent, toAgent);
    // nobody here vouches for an agent
    return fromAgent === undefined ? undefined : Verdict.BLOCKED;
  }

  /** Outputs are taken at the end of this turn: what came together is answered together. */
  #plan(): void {
    if (this.#isPlanned || this.#machine === undefined) return;
    this.#isPlanned = true;
    queueMicrotask(() => {
      this.#isPlanned = false;
      if (!this.#isClosed) this.#drain();
    });
  }

  #drain(): void {
    const machine = this.#machine as DirectMachine;
    for (let output = machine.pollOutput(); output !== undefined; output = machine.pollOutput()) this.#take(output);
    const dueMs = machine.nextTimeoutMs;
    if (dueMs === this.#timerAtMs || this.#isClosed) return;
    this.#cancelTimer?.();
    this.#timerAtMs = dueMs;
    this.#cancelTimer = undefined;
    if (dueMs === Infinity) return;
    const { clock } = this.context;
    this.#cancelTimer = clock.schedule(dueMs, () => {
      this.#timerAtMs = Infinity;
      machine.handleTimeout(clock.now());
      this.#plan();
    });
  }

  #take(output: DirectOutput): void {
    const { clock, links, store, log } = this.context;
    const machine = this.#machine as DirectMachine;
    switch (output.kind) {
      case "frame": {
        const { to, channel, frame, token } = output;
        const done = (fate: "flushed" | "lost"): void => {
          machine.handleFate(clock.now(), token, fate);
          this.#plan();
        };
        const taken = links.send(to, channel as FrameChannel, frame, token === 0 ? undefined : done);
        if (taken !== "accepted" && token !== 0) machine.handleFate(clock.now(), token, taken);
        return;
      }
      case "commit": {
        const decided = (isDurable: boolean): void => {
          machine.handleCommitted(clock.now(), output.token, isDurable);
          this.#plan();
        };
        store.commit(output.ops).then(
          () => decided(true),
          (error: Error) => {
            log.debug(`direct messages were not written: ${error.message}`);
            decided(false);
          },
        );
        return;
      }
      case "settled":
        this.#senders.get(output.result.id)?.(output.result);
        this.#senders.delete(output.result.id);
        return;
      case "delivered":
        for (const listener of this.#listeners) listener(output.entry);
        for (const more of this.#watchers.get(output.entry.inbox) ?? []) more();
        return;
      case "deposit":
        return this.#mailboxes.deposit(output.to, output.frame, output.expiresWallMs);
      case "request": {
        const { key, toAgent, name } = output.request;
        const listener = this.#services.get(serviceKey(toAgent, name));
        if (listener === undefined) return;
        this.#running.set(key, { listener, toAgent });
        return listener.request(output.request);
      }
      case "cancelled":
        this.#running.get(output.key)?.listener.cancelled(output.key);
        this.#running.delete(output.key);
        return;
      case "answered":
        this.#callers.get(output.result.id)?.(output.result);
        this.#callers.delete(output.result.id);
    }
  }
}

function serviceKey(agent: AgentKey, name: string): string {
  return `${hexOf(agent)}\n${name}`;
}

function hexOf(agent: AgentKey): string {
  return agent === undefined ? "" : toHex(agent);
}

function stopped(id: string): SendResult {
  const stages = { openMs: NaN, writeMs: NaN, admitMs: NaN, commitMs: NaN, answerMs: NaN, totalMs: NaN };
  const fixed = { isFinal: false, isQueued: false, attempts: 0, stages, clippedDeadlineMs: undefined };
  return { id, to: new Uint8Array(32), outcome: "unknown", reason: "no-answer", ...fixed };
}

function entryOf(inbox: string, row: Row): InboxEntry {
  return {
    sequence: row["sequence"] as number,
    inbox,
    id: row["id"] as string,
    from: row["sender"] as Uint8Array,
    fromAgent: (row["agent"] as Uint8Array | null) ?? undefined,
    name: row["name"] as string,
    payload: row["payload"] as Uint8Array,
    sentWallMs: row["sent"] as number,
    receivedWallMs: row["received"] as number,
    durable: true,
  };
}
