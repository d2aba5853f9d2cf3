/**
 * Direct messages of a node: sending, receiving, requests, inboxes, trust. Runs in the control thread; frames, time and what the disk says
 * are arguments, what it wants done comes out of pollOutput(). After every call, the owner takes outputs until there are none.
 *
 *   shell ──► send · handleFrame · handleFate · handleCommitted · handleTimeout · peerUp        pollOutput ──► frame · commit · settled · delivered · request · …
 *
 * Guarantees: types.ts. It begins with a commit (its incarnation); nothing is sent or taken before that is on disk. Messages to this node
 * itself take the same way, without a wire. Source: docs/protocol.md, "Direct messages".
 */
import type { Now } from "../../base/clock.ts";
import { equal, toHex, utf8 } from "../../base/bytes.ts";
import { FrameChannel } from "../frames.ts";
import type { StoreOp } from "../store-types.ts";
import { Calls } from "./calls.ts";
import { decodeAck, decodeDirect, DirectType } from "./codec.ts";
import { DirectCore, type DirectDeps } from "./core.ts";
import { Incoming, requestKey } from "./incoming.ts";
import { Inboxes, type InboxView, type StoredSlot } from "./inboxes.ts";
import { MAX_COMMIT_OPS } from "./pipeline.ts";
import { inboxName, Receiver } from "./receiver.ts";
import { Senders, type StoredSeen, type StoredSender, type StoredWindow } from "./senders.ts";
import type { StoredOutgoing } from "./outbox.ts";
import { Sending } from "./sending.ts";
import type { StageFigures } from "./stages.ts";
import {
  type AgentKey,
  DIRECT_DEFAULTS,
  type DirectCounters,
  type DirectOptions,
  type DirectOutput,
  type Fate,
  type InboxEntry,
  MAX_PAYLOAD_BYTES,
  MessageKind,
  type SendRequest,
  type SendResult,
  type TrustLevel,
} from "./types.ts";

const INTAKE_TOKEN = 1;
const OWN_TOKEN = 2;
/** Outcomes that were told late are kept for so long, and so many. */
const KEEP_OUTCOMES_MS = 86_400_000;
const TRIM_EVERY_MS = 3_600_000;

/** What an earlier run of this node has left on disk. */
export interface DirectState {
  readonly incarnation: number;
  readonly sequence: number;
  readonly senders: readonly StoredSender[];
  readonly windows: readonly StoredWindow[];
  readonly seen: readonly StoredSeen[];
  /** In order of sequence. */
  readonly slots: readonly StoredSlot[];
  readonly cursors: ReadonlyMap<string, number>;
  readonly outbox: readonly StoredOutgoing[];
}

export class DirectMachine {
  readonly #core: DirectCore;
  readonly #senders: Senders;
  readonly #inboxes: Inboxes;
  readonly #incoming: Incoming;
  readonly #receiver: Receiver;
  readonly #calls: Calls;
  readonly #sending: Sending;
  #now: Now;
  #isStarted = false;
  #trimAtMs = 0;

  constructor(deps: DirectDeps, options: Partial<DirectOptions>, now: Now, state: DirectState) {
    this.#now = now;
    this.#core = new DirectCore(deps, { ...DIRECT_DEFAULTS, ...options }, now, state.incarnation, state.sequence);
    this.#senders = new Senders(this.#core);
    this.#inboxes = new Inboxes(this.#core);
    this.#calls = new Calls(this.#core);
    this.#sending = new Sending(this.#core, (nowMs, result) => this.#calls.settled(nowMs, result));
    this.#calls.attach(this.#sending);
    this.#incoming = new Incoming(this.#core, (at, from, body) => this.#calls.handleResponse(at, from, body));
    this.#receiver = new Receiver(this.#core, this.#senders, this.#inboxes, this.#incoming);
    this.#turn(now);
    this.#senders.load(state.senders, state.windows, state.seen);
    this.#inboxes.load(state.slots, state.cursors);
    this.#sending.load(state.outbox);
    this.#core.write(this.#core.startOps(), () => {
      this.#isStarted = true;
      this.#sending.start();
    });
  }

  // ── the owner's calls ────────────────────────────────────────────────────────────────────────────────────────────────

  /** @returns the id; the outcome comes as "settled", never from within this call */
  send(now: Now, request: SendRequest): string {
    this.#turn(now);
    this.#know(request.to);
    return this.#sending.send(now, request);
  }

  status(id: string): SendResult | undefined {
    return this.#sending.status(id);
  }

  /** Asks for an answer; `durable` and `keepMs` do not matter. @returns the id; "answered" follows */
  request(now: Now, request: SendRequest): string {
    this.#turn(now);
    this.#know(request.to);
    return this.#calls.call(now, request);
  }

  cancelRequest(now: Now, id: string): void {
    this.#turn(now);
    this.#calls.cancel(now.nowMs, id);
  }

  /** @returns false when that name is served already, or too many are */
  serve(agent: AgentKey, name: string): boolean {
    return this.#incoming.serve(agent, name);
  }

  unserve(agent: AgentKey, name: string): void {
    this.#incoming.unserve(agent, name);
  }

  /** Answers a request. @param payload beyond MAX_PAYLOAD_BYTES the answer is a failure @returns false when nobody waits for it any more */
  respond(now: Now, key: string, payload: Uint8Array, failed = false): boolean {
    this.#turn(now);
    const running = this.#incoming.finish(key);
    if (running === undefined) return false;
    const { from, fromAgent, toAgent, incarnation, number, deadlineAtMs } = running;
    const isTooBig = payload.length > MAX_PAYLOAD_BYTES;
    const answer = isTooBig ? utf8(`the answer has more than ${MAX_PAYLOAD_BYTES} bytes`) : payload;
    const deadlineMs = deadlineAtMs - now.nowMs;
    const request = { to: from, toAgent: fromAgent, fromAgent: toAgent, payload: answer, deadlineMs };
    const extra = { kind: MessageKind.RESPONSE, reference: { incarnation, number }, failed: failed || isTooBig };
    this.#sending.send(now, request, extra);
    return true;
  }

  openInbox(agent: AgentKey): boolean {
    return this.#inboxes.open(inboxName(agent));
  }

  closeInbox(agent: AgentKey): void {
    this.#inboxes.close(inboxName(agent));
  }

  inboxes(): InboxView[] {
    return this.#inboxes.views();
  }

  /** What a reader of an inbox needs besides the rows on disk. @param after sequence it has */
  inbox(name: string, after: number, limit: number): { cursor: number; frontier: number; transient: InboxEntry[] } {
    return {
      cursor: this.#inboxes.cursor(name),
      frontier: this.#inboxes.frontier(name),
      transient: this.#inboxes.transient(name, after, limit),
    };
  }

  /** The application has done with everything up to `upTo`. @param done called when that is on disk */
  acknowledge(now: Now, name: string, upTo: number, done?: () => void): void {
    this.#turn(now);
    this.#inboxes.acknowledge(name, upTo, done);
  }

  trustOf(nodeId: Uint8Array): TrustLevel {
    return this.#senders.trustOf(nodeId);
  }

  /** @param done called when it is on disk @returns false when too many nodes are remembered */
  setTrust(now: Now, nodeId: Uint8Array, level: TrustLevel, done?: () => void): boolean {
    this.#turn(now);
    const sender = this.#senders.find(nodeId);
    if (sender === undefined) return false;
    sender.trust = level;
    this.#core.write([sender.trustOp()], done);
    return true;
  }

  trusts(): { nodeId: Uint8Array; level: TrustLevel }[] {
    return [...this.#senders.all()].map(({ nodeId, trust }) => ({ nodeId, level: trust }));
  }

  // ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param frame anything, from an authenticated member @returns false when it is no frame of direct messages */
  handleFrame(now: Now, channel: number, from: Uint8Array, frame: Uint8Array): boolean {
    this.#turn(now);
    if (channel === FrameChannel.ACK) {
      const ack = decodeAck(frame);
      if (ack !== undefined) this.#sending.handleAck(from, ack);
      else this.#core.counters.badFrames++;
      return ack !== undefined;
    }
    const decoded = channel === FrameChannel.DIRECT ? decodeDirect(frame) : undefined;
    if (decoded === undefined) {
      this.#core.counters.badFrames++;
      return false;
    }
    // without an answer: the sender asks again
    if (!this.#isStarted) return true;
    const { header } = decoded;
    if (decoded.type === DirectType.DATA) this.#receiver.handleData(now, from, header, decoded.entries);
    else if (decoded.type === DirectType.CLOSE) this.#receiver.handleClose(now, from, header, decoded.marks);
    else for (const { number } of decoded.marks) this.#incoming.cancel(requestKey(from, header.incarnation, number));
    return true;
  }

  /**
   * What a mailbox has kept: a DATA frame that its sender has sealed for this node.
   * @param taken called when what it says is on disk, or says nothing
   */
  handleMailed(now: Now, sender: Uint8Array, frame: Uint8Array, taken: () => void): void {
    this.#turn(now);
    if (!this.#isStarted) return;
    const decoded = decodeDirect(frame);
    const { dropped } = this.#core.counters;
    if (decoded?.type === DirectType.DATA) this.#receiver.handleData(now, sender, decoded.header, decoded.entries);
    else this.#core.counters.badFrames++;
    // no room for it: the mailbox keeps it
    if (this.#core.counters.dropped !== dropped) return;
    this.#core.intake.after((isDurable) => {
      if (isDurable) taken();
    });
  }

  handleFate(now: Now, token: number, fate: Fate): void {
    this.#turn(now);
    this.#sending.handleFate(token, fate);
  }

  handleCommitted(now: Now, token: number, isDurable: boolean): void {
    this.#turn(now);
    if (!isDurable) this.#core.counters.commitsFailed++;
    if (token === INTAKE_TOKEN) this.#core.intake.decided(isDurable);
    else this.#core.ownDecided(isDurable);
  }

  peerUp(now: Now, nodeId: Uint8Array): void {
    this.#turn(now);
    this.#sending.peerUp(nodeId);
  }

  memberGone(now: Now, nodeId: Uint8Array): void {
    this.#turn(now);
    this.#sending.memberGone(nodeId);
  }

  /** Something is on the way to the disk, or waits for it. */
  get isWriting(): boolean {
    return this.#core.intake.isBusy || this.#core.own.isBusy;
  }

  /** The node is about to stop; commits that this asks for should still be made. */
  stop(now: Now): void {
    this.#turn(now);
    this.#sending.stop();
  }

  handleTimeout(now: Now): void {
    this.#turn(now);
    this.#sending.handleTimeout(now.nowMs);
    this.#calls.handleTimeout(now.nowMs);
    this.#incoming.handleTimeout(now.nowMs);
    if (now.nowMs < this.#trimAtMs) return;
    this.#trimAtMs = now.nowMs + TRIM_EVERY_MS;
    const before = Math.floor(now.wallMs - KEEP_OUTCOMES_MS);
    this.#core.write([{ name: "direct.outbox.trim", values: [before] }]);
  }

  /** Monotonic; Infinity: nothing is due. */
  get nextTimeoutMs(): number {
    return Math.min(
      this.#core.nextTimeoutMs,
      this.#sending.nextTimeoutMs,
      this.#calls.nextTimeoutMs,
      this.#incoming.nextTimeoutMs,
      this.#trimAtMs,
    );
  }

  pollOutput(): DirectOutput | undefined {
    for (;;) {
      const output = this.#core.takeOutput();
      if (output === undefined) {
        if (!this.#flush()) return this.#commit();
      } else if (output.kind !== "frame" || !equal(output.to, this.#core.deps.self)) {
        return output;
      } else {
        // to this node itself
        this.#sending.handleFate(output.token, "flushed");
        this.handleFrame(this.#now, output.channel, this.#core.deps.self, output.frame);
      }
    }
  }

  get counters(): DirectCounters {
    return this.#core.counters;
  }

  get boot(): number {
    return this.#core.boot;
  }

  stages(): StageFigures[] {
    return this.#sending.stages.figures();
  }

  /** What is held now. */
  gauges(): Readonly<Record<string, number>> {
    return {
      outgoing: this.#sending.openCount,
      outgoingBytes: this.#sending.openBytes,
      outbox: this.#sending.outboxRows,
      requestsWaiting: this.#calls.size,
      requestsRunning: this.#incoming.size,
      numbersRemembered: this.#senders.size,
      writesWaiting: this.#core.intake.waiting + this.#core.own.waiting,
    };
  }

  /** Messages without an outcome, for lists. */
  outgoing(): {
    id: string;
    to: Uint8Array;
    attempts: number;
    isClosing: boolean;
    createdWallMs: number;
    bytes: number;
  }[] {
    return this.#sending.open().map(({ id, lane, attempts, isClosing, createdWallMs, body }) => ({
      id,
      to: lane.peer,
      attempts,
      isClosing,
      createdWallMs,
      bytes: body?.length ?? 0,
    }));
  }

  // ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #turn(now: Now): void {
    this.#now = now;
    this.#core.turn(now.nowMs);
    this.#sending.turn(now);
    this.#receiver.turn(now.nowMs);
  }

  /** Whom this node writes to is known to it. */
  #know(to: Uint8Array): void {
    if (toHex(to) === this.#core.selfHex || !this.#core.deps.isMember(to)) return;
    const sender = this.#senders.find(to);
    if (sender === undefined || sender.trust !== "unknown") return;
    sender.trust = "known";
    this.#core.write([sender.trustOp()]);
  }

  /** @returns true when there are outputs now */
  #flush(): boolean {
    this.#sending.flush();
    this.#receiver.flush();
    return this.#core.hasOutput;
  }

  #commit(): DirectOutput | undefined {
    const { intake } = this.#core;
    if (intake.canTake && intake.waiting < MAX_COMMIT_OPS) this.#senders.flush();
    let ops: StoreOp[] | undefined = intake.take();
    if (ops !== undefined) return { kind: "commit", token: INTAKE_TOKEN, ops };
    ops = this.#core.own.take();
    return ops === undefined ? undefined : { kind: "commit", token: OWN_TOKEN, ops };
  }
}
