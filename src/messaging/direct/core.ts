/**
 * What the machines of direct messages share: who this node is, its pipelines to the disk, its outputs, its counters.
 * Source: docs/protocol.md, "Direct messages".
 */
import type { Now } from "../../base/clock.ts";
import type { Random } from "../../base/random.ts";
import { toHex } from "../../base/bytes.ts";
import { sha256 } from "../../crypto/kdf.ts";
import type { StoreOp } from "../store-types.ts";
import { CommitPipeline, type Decided } from "./pipeline.ts";
import {
  type AgentKey,
  type DirectCounters,
  type DirectOptions,
  type DirectOutput,
  newDirectCounters,
} from "./types.ts";

/** Sequence numbers of inboxes are reserved in advance, so that none is given twice across restarts. */
const SEQUENCE_STRIDE = 1 << 20;
/** A failed write of this node's own is tried again after this long. */
const RETRY_WRITE_MS = 1_000;
const ID_BYTES = 16;

export interface DirectDeps {
  /** 32 bytes. */
  readonly self: Uint8Array;
  readonly random: Random;
  isMember(nodeId: Uint8Array): boolean;
  /** undefined: not measured. */
  rttMs(nodeId: Uint8Array): number | undefined;
  /** There is a session. */
  isUp(nodeId: Uint8Array): boolean;
  /** Seals what lies in the outbox. @param id authenticated with it */
  seal(id: string, body: Uint8Array): Uint8Array;
  /** @returns undefined when it is not what was sealed */
  unseal(id: string, sealed: Uint8Array): Uint8Array | undefined;
  /** May this agent of that node write to that agent here? A final verdict when not. @default everybody may as the node itself, agents may not */
  judgeAgents?(from: Uint8Array, fromAgent: AgentKey, toAgent: AgentKey): number | undefined;
}

export class DirectCore {
  readonly deps: DirectDeps;
  readonly options: DirectOptions;
  readonly counters: DirectCounters = newDirectCounters();
  readonly selfHex: string;
  /** Of this run, not 0: what is not on disk counts in one run only. */
  readonly boot: number;
  /** Of this node as a sender: grows with every start. */
  readonly incarnation: number;
  /** What peers sent, and how it was judged. */
  readonly intake: CommitPipeline = new CommitPipeline();
  /** What this node wants to keep of its own: outbox, trust, cursors. Apart, so that a full inbox does not fail it. */
  readonly own: CommitPipeline = new CommitPipeline();
  readonly #outputs: DirectOutput[] = [];
  #outputAt = 0;
  #sequence: number;
  #reserved: number;
  #failed: { readonly ops: readonly StoreOp[]; readonly decided: (() => void) | undefined }[] = [];
  #retryWritesAtMs = Infinity;
  #nowMs = 0;

  /** @param lastIncarnation and @param reservedSequence as they were kept; 0 at the first start */
  constructor(deps: DirectDeps, options: DirectOptions, now: Now, lastIncarnation: number, reservedSequence: number) {
    this.deps = deps;
    this.options = options;
    this.selfHex = toHex(deps.self);
    this.boot = deps.random.u32() || 1;
    // seconds and 20 random bits: also larger than the last one when the database was lost or restored
    const fresh = Math.max(0, Math.floor(now.wallMs / 1000)) * 2 ** 20 + (deps.random.u32() >>> 12);
    this.incarnation = Math.max(fresh, lastIncarnation + 1);
    this.#sequence = reservedSequence;
    this.#reserved = reservedSequence + SEQUENCE_STRIDE;
    this.#nowMs = now.nowMs;
  }

  /** What must be on disk before anything else happens. */
  startOps(): StoreOp[] {
    return [
      { name: "direct.meta.set", values: ["incarnation", this.incarnation] },
      { name: "direct.meta.set", values: ["sequence", this.#reserved] },
    ];
  }

  nextSequence(): number {
    if (this.#sequence + SEQUENCE_STRIDE / 2 > this.#reserved) {
      this.#reserved += SEQUENCE_STRIDE;
      this.write([{ name: "direct.meta.set", values: ["sequence", this.#reserved] }]);
    }
    return ++this.#sequence;
  }

  output(output: DirectOutput): void {
    this.#outputs.push(output);
  }

  takeOutput(): DirectOutput | undefined {
    if (this.#outputAt >= this.#outputs.length) {
      this.#outputs.length = 0;
      this.#outputAt = 0;
      return undefined;
    }
    return this.#outputs[this.#outputAt++];
  }

  get hasOutput(): boolean {
    return this.#outputAt < this.#outputs.length;
  }

  /** Writes for this node's own use; tried again, in order, until it succeeds. @param decided called when it is on disk */
  write(ops: readonly StoreOp[], decided?: () => void): void {
    this.own.add(ops, this.#whenWritten(ops, decided));
  }

  /** The commit of the own pipeline is decided. */
  ownDecided(isDurable: boolean): void {
    this.own.decided(isDurable);
    for (const { ops, decided } of this.#failed.toReversed()) this.own.putBack(ops, this.#whenWritten(ops, decided));
    if (this.#failed.length === 0) return;
    this.#failed = [];
    this.own.isHeld = true;
    this.#retryWritesAtMs = this.#nowMs + RETRY_WRITE_MS;
  }

  get nextTimeoutMs(): number {
    return this.#retryWritesAtMs;
  }

  /** The time of the turn that begins; also does what was due. */
  turn(nowMs: number): void {
    this.#nowMs = nowMs;
    if (nowMs < this.#retryWritesAtMs) return;
    this.#retryWritesAtMs = Infinity;
    this.own.isHeld = false;
  }

  #whenWritten(ops: readonly StoreOp[], decided: (() => void) | undefined): Decided {
    return (isDurable) => {
      if (isDurable) decided?.();
      else this.#failed.push({ ops, decided });
    };
  }

  /** Both ends know a message by it. @returns 32 hexadecimal digits */
  idOf(from: Uint8Array, to: Uint8Array, incarnation: number, number: number): string {
    const numbers = new Uint8Array(16);
    const view = new DataView(numbers.buffer);
    view.setFloat64(0, incarnation);
    view.setFloat64(8, number);
    return toHex(sha256(from, to, numbers).subarray(0, ID_BYTES));
  }
}
