/**
 * The receiving half of direct messages: judges what came, remembers the verdict, answers.
 *
 *   DATA ──► trust ──► window: seen? ──► judge ──► intake (inbox row, seen row) ──► on disk ──► ACK          seen, on disk ──► ACK at once
 *
 * Guarantees: a durable number is answered only after its verdict is on disk, accepted and refused alike, so no crash lets a refused one in or
 * an acknowledged one out; what is not durable is bound to one run of this node by the boot in its frame. The answer never waits for the
 * application: a full inbox is BUSY. A blocked sender costs one row per incarnation and BLOCKED_FRAMES_PER_S answers; trust and that rate come
 * before anything is remembered. Any sender has MAX_UNDECIDED_OPS on the way to the disk; what comes beyond is dropped, counted and asked again.
 * Source: docs/protocol.md, "Direct messages".
 */
import type { Now } from "../../base/clock.ts";
import type { StoreOp } from "../store-types.ts";
import { toHex } from "../../base/bytes.ts";
import { FrameChannel } from "../frames.ts";
import { SenderRates } from "../sender-rates.ts";
import {
  bodyHash,
  type DataEntry,
  decodeBody,
  isDurable,
  type DirectHeader,
  encodeAck,
  MAX_RANGES,
  type Body,
  type Mark,
  toRanges,
} from "./codec.ts";
import type { DirectCore } from "./core.ts";
import type { Inboxes } from "./inboxes.ts";
import type { Incoming } from "./incoming.ts";
import type { Sender, Senders, Window } from "./senders.ts";
import { type InboxEntry, MessageKind, Verdict, WINDOW } from "./types.ts";

const BLOCKED_FRAMES_PER_S = 20;
/** Of one sender on the way to the disk: two windows, so that who keeps to the protocol never meets it. */
const MAX_UNDECIDED_OPS = 8_192;
/** Messages that wait for the disk; beyond, the sender is told to ask again. */
const MAX_UNCOMMITTED_BYTES = 48 << 20;

interface Answers {
  readonly to: Uint8Array;
  readonly incarnation: number;
  readonly list: { number: number; verdict: number }[];
  admitMs: number;
  commitMs: number;
}

export class Receiver {
  readonly #core: DirectCore;
  readonly #senders: Senders;
  readonly #inboxes: Inboxes;
  readonly #incoming: Incoming;
  readonly #blockedRates: SenderRates = new SenderRates(BLOCKED_FRAMES_PER_S, BLOCKED_FRAMES_PER_S);
  /** By sender and incarnation, until the end of the turn. */
  readonly #answers = new Map<string, Answers>();
  #uncommittedBytes = 0;
  #nowMs = 0;

  constructor(core: DirectCore, senders: Senders, inboxes: Inboxes, incoming: Incoming) {
    this.#core = core;
    this.#senders = senders;
    this.#inboxes = inboxes;
    this.#incoming = incoming;
  }

  /** The time at which commits are decided. */
  turn(nowMs: number): void {
    this.#nowMs = nowMs;
  }

  handleData(now: Now, from: Uint8Array, header: DirectHeader, entries: readonly DataEntry[]): void {
    const found = this.#open(now, from, header, entries);
    if (found === undefined) return;
    const { sender, window, refusal } = found;
    const current: DataEntry[] = [];
    for (const entry of entries) {
      // whether it was delivered in another run of this node, nobody knows here
      if (header.boot === this.#core.boot || isDurable(entry.body)) current.push(entry);
      else this.#answer(from, window.incarnation, entry.number, Verdict.WRONG_BOOT);
    }
    if (refusal !== undefined) return this.#refuse(sender, window, current, refusal);
    for (const entry of current) this.#take(now, sender, window, entry);
  }

  /** The sender asks for numbers, and what has not come by now shall never count. */
  handleClose(now: Now, from: Uint8Array, header: DirectHeader, marks: readonly Mark[]): void {
    const found = this.#open(now, from, header, marks);
    if (found === undefined) return;
    const { sender, window, refusal } = found;
    const current: Mark[] = [];
    for (const mark of marks) {
      if (mark.boot === 0 || mark.boot === this.#core.boot) current.push(mark);
      else this.#answer(from, window.incarnation, mark.number, Verdict.FORGOTTEN);
    }
    if (refusal !== undefined) return this.#refuse(sender, window, current, refusal);
    for (const { number, boot } of current) {
      if (this.#answerSeen(sender, window, number, undefined)) continue;
      if (!this.#senders.hasRoom) {
        this.#core.counters.dropped++;
        this.#answer(sender.nodeId, window.incarnation, number, Verdict.LATER);
      } else if (boot !== 0) {
        this.#senders.remember(window, number, Verdict.EXPIRED, -1, false);
        this.#answer(sender.nodeId, window.incarnation, number, Verdict.EXPIRED);
      } else if (this.#mayCommit(sender)) this.#decide(window, number, Verdict.EXPIRED, -1, [], 0);
    }
  }

  /** Answers of this turn, as few frames as they fit in. */
  flush(): void {
    for (const { to, incarnation, list, admitMs, commitMs } of this.#answers.values()) {
      const ranges = toRanges(list);
      const head = { boot: this.#core.boot, incarnation, admitMs, commitMs };
      for (let at = 0; at < ranges.length; at += MAX_RANGES) {
        const some = ranges.slice(at, at + MAX_RANGES);
        const frame = encodeAck(head, some[0].first, some);
        this.#core.output({ kind: "frame", to, channel: FrameChannel.ACK, frame, token: 0 });
      }
    }
    this.#answers.clear();
  }

  /** Trust and rate first: who is not wanted moves nothing here beyond its rate. @returns undefined: nothing is left to do */
  #open(
    now: Now,
    from: Uint8Array,
    header: DirectHeader,
    entries: readonly { readonly number: number }[],
  ): { sender: Sender; window: Window; refusal: number | undefined } | undefined {
    const sender = this.#senders.find(from);
    const refusal = sender === undefined ? undefined : this.#refusal(sender);
    if (sender !== undefined && refusal !== undefined && !this.#mayAnswer(now, sender)) return undefined;
    const window =
      sender === undefined ? undefined : this.#senders.window(sender, header.incarnation, header.oldest, header.floor);
    if (sender !== undefined && window !== undefined) return { sender, window, refusal };
    this.#answerAll(from, header, entries, Verdict.TOO_OLD);
    return undefined;
  }

  #refusal(sender: Sender): number | undefined {
    if (sender.hex === this.#core.selfHex) return undefined;
    if (sender.trust === "blocked") return Verdict.BLOCKED;
    return sender.trust === "unknown" && this.#core.options.unknownSenders === "refuse" ? Verdict.NOT_KNOWN : undefined;
  }

  #mayAnswer(now: Now, sender: Sender): boolean {
    const isIn = this.#blockedRates.take(now.nowMs, sender.hex);
    if (!isIn) this.#core.counters.dropped++;
    return isIn;
  }

  /** @returns false when too much of that sender is on the way to the disk: it asks again */
  #mayCommit(sender: Sender): boolean {
    const isIn = sender.undecidedOps < MAX_UNDECIDED_OPS;
    if (!isIn) this.#core.counters.dropped++;
    return isIn;
  }

  #commit(sender: Sender, ops: readonly StoreOp[], decided: (isKept: boolean) => void): void {
    sender.undecidedOps += ops.length;
    this.#core.intake.add(ops, (isKept) => {
      sender.undecidedOps -= ops.length;
      decided(isKept);
    });
  }

  /** Writes what is closed. @param answered the numbers that are told then */
  #commitClosed(window: Window, answered: readonly number[]): void {
    const { sender, closed, closedVerdict } = window;
    window.closing++;
    this.#commit(sender, [window.op()], (isKept) => {
      window.closing--;
      if (isKept) window.closedOnDisk = Math.max(window.closedOnDisk, closed);
      for (const number of answered)
        this.#answer(sender.nodeId, window.incarnation, number, isKept ? closedVerdict : Verdict.LATER);
    });
  }

  /** All numbers up to the highest of these are closed by one row, so that a sender whom this node does not want fills nothing. */
  #refuse(sender: Sender, window: Window, entries: readonly { readonly number: number }[], refusal: number): void {
    const fresh = entries.filter(({ number }) => !this.#answerSeen(sender, window, number, undefined));
    const highest = fresh.reduce((max, { number }) => Math.max(max, number), -1);
    if (highest < 0 || !this.#mayCommit(sender)) return;
    this.#core.counters.refusedIncoming += fresh.length;
    window.closed = Math.max(window.closed, highest);
    window.closedVerdict = refusal;
    this.#commitClosed(
      window,
      fresh.map(({ number }) => number),
    );
  }

  #take(now: Now, sender: Sender, window: Window, entry: DataEntry): void {
    const { number, body: bytes } = entry;
    const hash = bodyHash(bytes);
    if (this.#answerSeen(sender, window, number, hash)) return;
    const body = decodeBody(bytes);
    if (body === undefined || (body.durable && body.kind !== MessageKind.MESSAGE)) {
      this.#core.counters.badFrames++;
      return;
    }
    const { nodeId } = sender;
    if (!this.#senders.hasRoom || this.#uncommittedBytes > MAX_UNCOMMITTED_BYTES) {
      this.#core.counters.dropped++;
      return this.#answer(nodeId, window.incarnation, number, Verdict.LATER);
    }
    if (body.durable && !this.#mayCommit(sender)) return;
    const verdict = this.#judge(sender, body);
    if (verdict !== Verdict.ACKNOWLEDGED) this.#core.counters.refusedIncoming++;
    if (body.durable) return this.#keep(now, window, number, verdict, hash, body);
    this.#senders.remember(window, number, verdict, hash, false);
    this.#answer(nodeId, window.incarnation, number, verdict);
    if (verdict !== Verdict.ACKNOWLEDGED) return;
    if (body.kind !== MessageKind.MESSAGE) return this.#incoming.take(now, sender, window.incarnation, entry, body);
    const inboxEntry = this.#entry(now, window, number, body);
    this.#inboxes.ready(inboxEntry.inbox, this.#inboxes.add(inboxEntry));
  }

  #judge(sender: Sender, { kind, fromAgent, toAgent, name, payload, durable }: Body): number {
    const { deps } = this.#core;
    if (deps.judgeAgents !== undefined) {
      const refusal = deps.judgeAgents(sender.nodeId, fromAgent, toAgent);
      if (refusal !== undefined) return refusal;
    } else if (fromAgent !== undefined) return Verdict.BLOCKED;
    if (kind === MessageKind.RESPONSE) return Verdict.ACKNOWLEDGED;
    if (kind === MessageKind.REQUEST) return this.#incoming.judge(sender, toAgent, name);
    const inbox = inboxName(toAgent);
    if (!this.#inboxes.isOpen(inbox)) return Verdict.NO_INBOX;
    return this.#inboxes.hasRoom(inbox, sender.hex, payload.length, !durable) ? Verdict.ACKNOWLEDGED : Verdict.BUSY;
  }

  #keep(now: Now, window: Window, number: number, verdict: number, hash: number, body: Body): void {
    if (verdict !== Verdict.ACKNOWLEDGED) return this.#decide(window, number, verdict, hash, [], now.nowMs);
    const entry = this.#entry(now, window, number, body);
    const slot = this.#inboxes.add(entry);
    this.#uncommittedBytes += slot.bytes;
    const { sequence, inbox, id, from, fromAgent, name, payload, sentWallMs, receivedWallMs } = entry;
    const values = [
      sequence,
      inbox,
      id,
      from,
      fromAgent ?? null,
      name,
      sentWallMs,
      receivedWallMs,
      slot.bytes,
      payload,
    ];
    this.#decide(window, number, verdict, hash, [{ name: "direct.inbox.insert", values }], now.nowMs, (isKept) => {
      this.#uncommittedBytes -= slot.bytes;
      if (isKept) this.#inboxes.ready(inbox, slot);
      else this.#inboxes.drop(inbox, slot);
    });
  }

  /** The verdict goes to disk, with `ops`, then to the sender. */
  #decide(
    window: Window,
    number: number,
    verdict: number,
    hash: number,
    ops: readonly StoreOp[],
    admittedAtMs: number,
    decided?: (isKept: boolean) => void,
  ): void {
    const { sender, incarnation } = window;
    const seen = this.#senders.remember(window, number, verdict, hash, true);
    const values = [sender.nodeId, incarnation, number, verdict, hash];
    this.#commit(sender, [{ name: "direct.seen.insert", values }, ...ops], (isKept) => {
      seen.isPending = false;
      if (!isKept) this.#senders.forget(window, number);
      decided?.(isKept);
      const commitMs = admittedAtMs > 0 ? this.#nowMs - admittedAtMs : 0;
      this.#answer(sender.nodeId, incarnation, number, isKept ? verdict : Verdict.LATER, commitMs);
    });
  }

  #entry(now: Now, window: Window, number: number, body: Body): InboxEntry {
    const { sender, incarnation } = window;
    return {
      sequence: this.#core.nextSequence(),
      inbox: inboxName(body.toAgent),
      id: this.#core.idOf(sender.nodeId, this.#core.deps.self, incarnation, number),
      from: sender.nodeId,
      fromAgent: body.fromAgent,
      name: body.name,
      payload: body.payload,
      sentWallMs: body.sentWallMs,
      receivedWallMs: Math.floor(now.wallMs),
      durable: body.durable,
    };
  }

  /** @param hash undefined: it is only asked for @returns true when nothing is left to do for this number */
  #answerSeen(sender: Sender, window: Window, number: number, hash: number | undefined): boolean {
    const answer = (verdict: number): true => {
      this.#answer(sender.nodeId, window.incarnation, number, verdict);
      return true;
    };
    if (number < window.floor) return answer(Verdict.TOO_OLD);
    if (number >= window.floor + WINDOW) return true;
    const seen = window.seen.get(number);
    if (seen !== undefined) {
      if (hash !== undefined) this.#core.counters.duplicates++;
      // it is answered as soon as it is on disk
      if (seen.isPending) return true;
      if (hash === undefined || seen.hash === hash || seen.hash < 0) return answer(seen.verdict);
      this.#core.counters.conflicts++;
      return answer(Verdict.CONFLICT);
    }
    if (number > window.closed) return false;
    if (number <= window.closedOnDisk) return answer(window.closedVerdict);
    // being written: whoever asks is told when it is on disk; otherwise that write has failed
    if (window.closing === 0 && this.#mayCommit(sender)) this.#commitClosed(window, [number]);
    return true;
  }

  #answerAll(
    from: Uint8Array,
    header: DirectHeader,
    entries: readonly { readonly number: number }[],
    verdict: number,
  ): void {
    for (const { number } of entries) this.#answer(from, header.incarnation, number, verdict);
  }

  #answer(to: Uint8Array, incarnation: number, number: number, verdict: number, commitMs = 0): void {
    const key = `${toHex(to)}:${incarnation}`;
    let answers = this.#answers.get(key);
    if (answers === undefined) {
      answers = { to, incarnation, list: [], admitMs: 0, commitMs: 0 };
      this.#answers.set(key, answers);
    }
    answers.list.push({ number, verdict });
    answers.commitMs = Math.max(answers.commitMs, commitMs);
  }
}

export function inboxName(agent: Uint8Array | undefined): string {
  return agent === undefined ? "" : toHex(agent);
}
