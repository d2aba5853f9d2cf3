/**
 * Mailboxes: a member that volunteers keeps sealed messages for members that are away, and gives them to them when they are up.
 *
 *   sender ── DEPOSIT ──► keeper: row, KEPT ── GIVE when the recipient is up ──► recipient: opens, takes it as if it had come from the sender ── TAKEN ──► forgotten
 *
 * What a keeper gives is a copy like any other: it has the sender's number, so it is delivered once at most, and not at all after the
 * sender was told "refused". Bounds of a keeper: BYTES_SHARE of the store, MAX_KEPT messages, PER_SENDER of both for one sender,
 * MAX_KEEP_MS, GIVEN_AT_ONCE on the way to one recipient, GIVES_PER_S to it; what is refused is answered so. Of a recipient: opening is work
 * that anybody may ask for, so a keeper has TAKES_PER_S; whose copies were forged is not opened again (mailbox-gives.ts).
 * Source: docs/protocol.md, "Mailboxes".
 */
import type { MetricSample } from "../../api/control.ts";
import { equal, toHex } from "../../base/bytes.ts";
import {
  decodeMailbox,
  encodeMailbox,
  MailboxType,
  MAX_MAILED_BYTES,
  ticketOf,
} from "../../messaging/direct/mailbox-codec.ts";
import { openFromMailbox, sealForMailbox } from "../../messaging/direct/mailbox-seal.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import { SenderRates } from "../../messaging/sender-rates.ts";
import { GiveGuard } from "./mailbox-gives.ts";
import type { PartContext } from "./part.ts";

const BYTES_SHARE = 8;
const MAX_KEPT = 16_384;
const PER_SENDER = 8;
const MAX_KEEP_MS = 7 * 86_400_000;
const GIVEN_AT_ONCE = 16;
/** Of a keeper to one recipient; below what a recipient takes (mailbox-gives.ts). */
const GIVES_PER_S = 16;
const GIVES_BURST = 48;
const GIVE_AGAIN_MS = 500;
/** Keepers that get a copy. */
const COPIES = 2;
const SWEEP_MS = 60_000;
const PAGE_ROWS = 10_000;

interface Kept {
  readonly ticket: Uint8Array;
  readonly sender: string;
  readonly recipient: string;
  readonly bytes: number;
  readonly expiresWallMs: number;
  isGiven: boolean;
}

interface MailboxCounters {
  deposited: number;
  depositsKept: number;
  kept: number;
  refused: number;
  given: number;
  taken: number;
  received: number;
  /** Copies that were not opened: too many, or of a node that is blocked or gave forged ones. */
  unopened: number;
  badFrames: number;
}

export interface MailboxDeps {
  readonly context: PartContext;
  /** Members that keep messages for others, this node not among them. */
  keepers(count: number): readonly Uint8Array[];
  isBlocked(nodeId: Uint8Array): boolean;
  /** A frame of that sender that came by a keeper. @param taken called when it is on disk */
  take(sender: Uint8Array, frame: Uint8Array, taken: () => void): void;
}

export class Mailboxes {
  readonly counters: MailboxCounters = {
    deposited: 0,
    depositsKept: 0,
    kept: 0,
    refused: 0,
    given: 0,
    taken: 0,
    received: 0,
    unopened: 0,
    badFrames: 0,
  };
  readonly #deps: MailboxDeps;
  /** What this node keeps for others, by ticket in hex. */
  readonly #kept = new Map<string, Kept>();
  readonly #byRecipient = new Map<string, Set<Kept>>();
  readonly #bytesOf = new Map<string, { messages: number; bytes: number }>();
  readonly #guard = new GiveGuard();
  readonly #giveRates = new SenderRates(GIVES_PER_S, GIVES_BURST);
  /** Recipients in hex whose turn was not over when their rate was. */
  readonly #delayed = new Set<string>();
  #cancelDelayed: (() => void) | undefined;
  #bytes = 0;
  #cancelSweep: (() => void) | undefined;

  constructor(deps: MailboxDeps) {
    this.#deps = deps;
  }

  async start(): Promise<void> {
    const { store } = this.#deps.context;
    for (let after = new Uint8Array(0); ;) {
      const rows = await store.query("direct.mailbox.index", [after], PAGE_ROWS);
      for (const row of rows) {
        after = row["ticket"] as Uint8Array<ArrayBuffer>;
        this.#count({
          ticket: after,
          sender: toHex(row["sender"] as Uint8Array),
          recipient: toHex(row["recipient"] as Uint8Array),
          bytes: row["bytes"] as number,
          expiresWallMs: row["expires"] as number,
          isGiven: false,
        });
      }
      if (rows.length === 0) break;
    }
    this.#sweep();
  }

  close(): void {
    this.#cancelSweep?.();
    this.#cancelDelayed?.();
  }

  /** Gives a copy of a frame to those that volunteer. */
  deposit(recipient: Uint8Array, frame: Uint8Array, expiresWallMs: number): void {
    if (frame.length > MAX_MAILED_BYTES) return;
    const { identity, random, links } = this.#deps.context;
    const keepers = this.#deps.keepers(COPIES + 1).filter((keeper) => !equal(keeper, recipient));
    for (const keeper of keepers.slice(0, COPIES)) {
      const sealed = sealForMailbox(identity, recipient, random, frame);
      if (sealed === undefined) return;
      this.counters.deposited++;
      const deposit = encodeMailbox({ type: MailboxType.DEPOSIT, expiresWallMs, recipient, sealed });
      links.send(keeper, FrameChannel.BULK, deposit);
    }
  }

  handleFrame(from: Uint8Array, bytes: Uint8Array): void {
    const frame = decodeMailbox(bytes);
    if (frame === undefined) {
      this.counters.badFrames++;
      return;
    }
    switch (frame.type) {
      case MailboxType.DEPOSIT:
        return this.#keep(from, frame.recipient, frame.expiresWallMs, frame.sealed);
      case MailboxType.KEPT:
        if (frame.isKept) this.counters.depositsKept++;
        return;
      case MailboxType.GIVE:
        return this.#receive(from, frame.sender, frame.sealed);
      case MailboxType.TAKEN:
        return this.#taken(from, frame.ticket);
    }
  }

  peerUp(nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    const waiting = this.#byRecipient.get(hex) ?? new Set();
    for (const kept of waiting) {
      if (!kept.isGiven) continue;
      kept.isGiven = false;
      // what was not taken lets the others pass; it comes by once more below, not given
      waiting.delete(kept);
      waiting.add(kept);
    }
    this.#give(nodeId);
  }

  /** What was kept for a member that left, and by it, is forgotten. */
  memberGone(nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    this.#guard.memberGone(hex);
    this.#forget([...this.#kept.values()].filter(({ recipient, sender }) => recipient === hex || sender === hex));
  }

  metrics(): MetricSample[] {
    const help = "Sealed messages that are kept for members that are away.";
    return [
      { name: "weft_mailbox_messages", type: "gauge", help, labels: {}, value: this.#kept.size },
      { name: "weft_mailbox_bytes", type: "gauge", help: "Bytes of them.", labels: {}, value: this.#bytes },
      ...Object.entries(this.counters).map(([name, value]) => ({
        name: "weft_mailbox_events_total",
        type: "counter" as const,
        help: "What happened to mailbox messages.",
        labels: { event: name },
        value,
      })),
    ];
  }

  #keep(sender: Uint8Array, recipient: Uint8Array, expiresWallMs: number, sealed: Uint8Array): void {
    const { context } = this.#deps;
    const ticket = ticketOf(sealed);
    const answer = (isKept: boolean): void => {
      if (!isKept) this.counters.refused++;
      context.links.send(sender, FrameChannel.BULK, encodeMailbox({ type: MailboxType.KEPT, isKept, ticket }));
    };
    if (this.#kept.has(toHex(ticket))) return answer(true);
    const { wallMs } = context.clock.now();
    const untilMs = Math.min(expiresWallMs, Math.floor(wallMs) + MAX_KEEP_MS);
    const isWanted =
      context.config.mailbox &&
      untilMs > wallMs &&
      !this.#deps.isBlocked(sender) &&
      !equal(recipient, context.identity.nodeId) &&
      context.find(recipient) !== undefined;
    if (!isWanted || !this.#hasRoom(toHex(sender), sealed.length)) return answer(false);
    const kept = {
      ticket,
      sender: toHex(sender),
      recipient: toHex(recipient),
      bytes: sealed.length,
      expiresWallMs: untilMs,
      isGiven: false,
    };
    this.#count(kept);
    const values = [ticket, sender, recipient, untilMs, sealed.length, sealed];
    context.store.commit([{ name: "direct.mailbox.insert", values }]).then(
      () => {
        this.counters.kept++;
        answer(true);
        if (context.isUp(recipient)) this.#give(recipient);
      },
      () => {
        this.#uncount(kept);
        answer(false);
      },
    );
  }

  #hasRoom(sender: string, bytes: number): boolean {
    const most = Math.floor(this.#deps.context.config.storeBytes / BYTES_SHARE);
    const share = this.#bytesOf.get(sender) ?? { messages: 0, bytes: 0 };
    if (this.#kept.size >= MAX_KEPT || this.#bytes + bytes > most) return false;
    return share.messages < MAX_KEPT / PER_SENDER && share.bytes + bytes <= most / PER_SENDER;
  }

  #giveLater(recipient: string): void {
    const { clock } = this.#deps.context;
    this.#delayed.add(recipient);
    this.#cancelDelayed ??= clock.schedule(clock.now().nowMs + GIVE_AGAIN_MS, () => {
      const all = [...this.#delayed];
      this.#delayed.clear();
      this.#cancelDelayed = undefined;
      for (const hex of all) this.#give(Uint8Array.fromHex(hex));
    });
  }

  /** Up to GIVEN_AT_ONCE to a recipient; the next when it has taken one. */
  #give(recipient: Uint8Array): void {
    const { context } = this.#deps;
    const hex = toHex(recipient);
    const { nowMs } = context.clock.now();
    // those that are given come first, because what is taken goes and the order is that of coming
    let room = GIVEN_AT_ONCE;
    for (const kept of this.#byRecipient.get(hex) ?? []) {
      if (room-- <= 0) return;
      if (kept.isGiven) continue;
      if (!this.#giveRates.take(nowMs, hex)) return this.#giveLater(hex);
      kept.isGiven = true;
      const lost = (): void => void (kept.isGiven = false);
      context.store.query("direct.mailbox.get", [kept.ticket]).then(([row]) => {
        if (row === undefined) return lost();
        const [sender, sealed] = [row["sender"] as Uint8Array, row["sealed"] as Uint8Array];
        const frame = encodeMailbox({ type: MailboxType.GIVE, sender, sealed });
        const taken = context.links.send(recipient, FrameChannel.BULK, frame, (fate) => {
          if (fate === "lost") lost();
        });
        if (taken === "accepted") this.counters.given++;
        else lost();
      }, lost);
    }
  }

  #receive(keeper: Uint8Array, sender: Uint8Array, sealed: Uint8Array): void {
    const { context } = this.#deps;
    const ticket = ticketOf(sealed);
    const taken = (): void => {
      context.links.send(keeper, FrameChannel.BULK, encodeMailbox({ type: MailboxType.TAKEN, ticket }));
    };
    const { nowMs } = context.clock.now();
    const [giver, author] = [toHex(keeper), toHex(sender)];
    if (this.#deps.isBlocked(keeper) || !this.#guard.mayGive(nowMs, giver)) {
      this.counters.unopened++;
      return;
    }
    // perhaps this node has not heard of it yet; the keeper forgets what is of nobody
    if (context.find(sender) === undefined) return;
    if (this.#deps.isBlocked(sender) || this.#guard.isForger(nowMs, giver, author)) {
      // nobody ever takes it: the keeper need not keep it
      this.counters.unopened++;
      return taken();
    }
    const key = this.#guard.staticKey(author, sender);
    const frame = key === undefined ? undefined : openFromMailbox(context.identity, sender, sealed, key);
    if (frame === undefined) {
      this.#guard.noteForged(nowMs, giver, author);
      this.counters.badFrames++;
      return taken();
    }
    this.counters.received++;
    this.#deps.take(sender, frame, taken);
  }

  #taken(from: Uint8Array, ticket: Uint8Array): void {
    const kept = this.#kept.get(toHex(ticket));
    if (kept === undefined || kept.recipient !== toHex(from)) return;
    this.counters.taken++;
    this.#forget([kept]);
    this.#give(from);
  }

  #sweep(): void {
    const { context } = this.#deps;
    const { clock } = context;
    const { nowMs, wallMs } = clock.now();
    this.#forget([...this.#kept.values()].filter(({ expiresWallMs }) => expiresWallMs <= wallMs));
    // once more for those that are up and have not answered
    for (const hex of this.#byRecipient.keys()) {
      const recipient = Uint8Array.fromHex(hex);
      if (context.isUp(recipient)) this.peerUp(recipient);
    }
    const jitter = 0.9 + 0.2 * context.random.unit();
    this.#cancelSweep = clock.schedule(nowMs + SWEEP_MS * jitter, () => this.#sweep());
  }

  #forget(all: readonly Kept[]): void {
    if (all.length === 0) return;
    for (const kept of all) this.#uncount(kept);
    const ops = all.map(({ ticket }) => ({ name: "direct.mailbox.delete", values: [ticket] }));
    this.#deps.context.store.commit(ops).catch((error: Error) => {
      this.#deps.context.log.debug(`mailbox: ${error.message}; the rows go at the next start or their end`);
    });
  }

  #count(kept: Kept): void {
    this.#kept.set(toHex(kept.ticket), kept);
    const waiting = this.#byRecipient.get(kept.recipient) ?? new Set();
    this.#byRecipient.set(kept.recipient, waiting.add(kept));
    this.#bytes += kept.bytes;
    const share = this.#bytesOf.get(kept.sender) ?? { messages: 0, bytes: 0 };
    share.messages++;
    share.bytes += kept.bytes;
    this.#bytesOf.set(kept.sender, share);
  }

  #uncount(kept: Kept): void {
    if (!this.#kept.delete(toHex(kept.ticket))) return;
    const waiting = this.#byRecipient.get(kept.recipient);
    waiting?.delete(kept);
    if (waiting?.size === 0) this.#byRecipient.delete(kept.recipient);
    this.#bytes -= kept.bytes;
    const share = this.#bytesOf.get(kept.sender);
    if (share === undefined) return;
    share.messages--;
    share.bytes -= kept.bytes;
    if (share.messages <= 0) this.#bytesOf.delete(kept.sender);
  }
}
