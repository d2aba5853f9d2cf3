/**
 * What a discovery source is, and the cell that each one runs in. Sources look outside (a STUN server, a gateway, the LAN) and may be slow,
 * broken or lied to; the cell makes sure that none of it reaches anybody else:
 *
 *   a throw or rejection      counted, told in the state text, tried again after a back-off
 *   no end by the deadline    its signal is aborted; a moment later the round counts as hung and whatever it says later is ignored
 *   still there in the back   after MAX_ORPHANS hung rounds the source rests until one of them ends
 *   too many results          cut at MAX_FOUND and counted
 *   results that grow old     expire by themselves
 *   refresh after refresh     at most one round at a time, rounds at least `minGapMs` apart
 */
import { equal } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import type { Clock } from "../clock.ts";

export const SOURCE_NAMES = ["stun", "port-mapping", "lan"] as const;
export type SourceName = (typeof SOURCE_NAMES)[number];

/** What one look brought. */
export interface Look {
  /** Own endpoints as seen from outside, 18 bytes each, best first. */
  readonly endpoints: readonly Uint8Array[];
  /** How long they may be believed. */
  readonly lifeMs: number;
  /** One line for people. */
  readonly text: string;
  /** When to look again; undefined = after the source's period. */
  readonly againMs?: number;
}

export interface Source {
  readonly name: SourceName;
  /** One look around. Rejects with an Error whose message says why there is nothing. Ends soon after the signal. */
  look(signal: AbortSignal): Promise<Look>;
  /** Growing counters by name. */
  counters(): Readonly<Record<string, number>>;
  /** Takes back what it left outside (a port mapping, an announcement). Bounded by the cell. */
  close(): Promise<void>;
}

export type CellState = "waiting" | "looking" | "working" | "failing" | "hung" | "closed";

export interface SourceReport {
  readonly name: SourceName;
  readonly state: CellState;
  readonly text: string;
  /** 18 bytes each */
  readonly endpoints: readonly Uint8Array[];
  /** Since the last look that worked; undefined = none did. */
  readonly ageMs: number | undefined;
  readonly counters: Readonly<Record<string, number>>;
}

export interface CellDeps {
  readonly clock: Clock;
  readonly random: Random;
  /** What was found has changed. */
  changed(): void;
}

export interface CellOptions {
  readonly periodMs: number;
  readonly deadlineMs: number;
  /** Least time between the beginnings of two rounds. @default 1_000 */
  readonly minGapMs?: number;
}

const MAX_FOUND = 8;
const MAX_ORPHANS = 2;
/** How long a source may take to notice its signal. */
const GRACE_MS = 500;
const CLOSE_MS = 1_500;
const FIRST_RETRY_MS = 5_000;
const MAX_TEXT = 300;

export class SourceCell {
  readonly source: Source;
  readonly #deps: CellDeps;
  readonly #options: CellOptions;
  readonly #minGapMs: number;
  #state: CellState = "waiting";
  #text = "has not looked yet";
  #found: readonly Uint8Array[] = [];
  #expiresAtMs = -Infinity;
  #workedAtMs: number | undefined;
  #startedAtMs = -Infinity;
  #round = 0;
  #running = false;
  #again = false;
  #orphans = 0;
  #failuresInRow = 0;
  #cancelNext: (() => void) | undefined;
  #cancelExpiry: (() => void) | undefined;
  #abort: (() => void) | undefined;
  #waiters: (() => void)[] = [];
  readonly #counts = { rounds: 0, worked: 0, failed: 0, hung: 0, late: 0, cut: 0 };

  constructor(source: Source, deps: CellDeps, options: CellOptions) {
    this.source = source;
    this.#deps = deps;
    this.#options = options;
    this.#minGapMs = options.minGapMs ?? 1_000;
  }

  /** Looks as soon as the gap allows. @returns resolves when that round has ended, however */
  refresh(): Promise<void> {
    if (this.#state === "closed") return Promise.resolve();
    const done = new Promise<void>((resolve) => this.#waiters.push(resolve));
    if (this.#running) this.#again = true;
    else this.#schedule(Math.max(0, this.#startedAtMs + this.#minGapMs - this.#deps.clock.now().nowMs));
    return done;
  }

  /** What is believed now, 18 bytes each. */
  endpoints(): readonly Uint8Array[] {
    return this.#deps.clock.now().nowMs < this.#expiresAtMs ? this.#found : [];
  }

  report(): SourceReport {
    const nowMs = this.#deps.clock.now().nowMs;
    let own: Readonly<Record<string, number>> = {};
    try {
      own = this.source.counters();
    } catch {
      this.#counts.failed++;
    }
    return {
      name: this.source.name,
      state: this.#state,
      text: this.#text,
      endpoints: this.endpoints(),
      ageMs: this.#workedAtMs === undefined ? undefined : nowMs - this.#workedAtMs,
      counters: { ...this.#counts, ...own },
    };
  }

  /** Never rejects, and ends within CLOSE_MS. */
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#round++;
    this.#cancelNext?.();
    this.#cancelExpiry?.();
    this.#abort?.();
    this.#release();
    let cancel: (() => void) | undefined;
    const limit = new Promise<void>((resolve) => {
      cancel = this.#deps.clock.schedule(this.#deps.clock.now().nowMs + CLOSE_MS, resolve);
    });
    const closing = Promise.try(() => this.source.close()).catch(() => undefined);
    await Promise.race([closing, limit]);
    cancel?.();
  }

  #schedule(delayMs: number): void {
    this.#cancelNext?.();
    this.#cancelNext = this.#deps.clock.schedule(this.#deps.clock.now().nowMs + delayMs, () => this.#start());
  }

  #start(): void {
    if (this.#running || this.#state === "closed") return;
    if (this.#orphans >= MAX_ORPHANS) {
      this.#text = `rests: ${this.#orphans} rounds never ended`;
      this.#release();
      this.#schedule(this.#options.periodMs);
      return;
    }
    const { clock } = this.#deps;
    const round = ++this.#round;
    const controller = new AbortController();
    const startedAtMs = clock.now().nowMs;
    this.#running = true;
    this.#again = false;
    this.#startedAtMs = startedAtMs;
    this.#counts.rounds++;
    if (this.#state !== "working") this.#state = "looking";
    let isHung = false;
    const cancelAbort = clock.schedule(startedAtMs + this.#options.deadlineMs, () => controller.abort());
    const cancelHang = clock.schedule(startedAtMs + this.#options.deadlineMs + GRACE_MS, () => {
      isHung = true;
      this.#orphans++;
      this.#counts.hung++;
      this.#fail(round, "hung", `gave no answer within ${this.#options.deadlineMs / 1000} s`);
    });
    this.#abort = () => controller.abort();
    const settle = (act: () => void): void => {
      cancelAbort();
      cancelHang();
      if (isHung) {
        this.#orphans--;
        this.#counts.late++;
      } else {
        act();
      }
    };
    Promise.try(() => this.source.look(controller.signal)).then(
      (look) => settle(() => this.#succeed(round, look)),
      (error: unknown) =>
        settle(() => this.#fail(round, "failing", error instanceof Error ? error.message : String(error))),
    );
  }

  #succeed(round: number, look: Look): void {
    if (round !== this.#round) return;
    const nowMs = this.#deps.clock.now().nowMs;
    this.#counts.worked++;
    this.#counts.cut += Math.max(0, look.endpoints.length - MAX_FOUND);
    this.#failuresInRow = 0;
    this.#state = "working";
    this.#text = look.text.slice(0, MAX_TEXT);
    this.#workedAtMs = nowMs;
    const before = this.endpoints();
    this.#found = look.endpoints.slice(0, MAX_FOUND).map((endpoint) => endpoint.slice());
    this.#expiresAtMs = nowMs + look.lifeMs;
    this.#cancelExpiry?.();
    this.#cancelExpiry = undefined;
    if (this.#found.length > 0 && look.lifeMs < Infinity)
      this.#cancelExpiry = this.#deps.clock.schedule(this.#expiresAtMs, () => this.#deps.changed());
    this.#finish(look.againMs ?? this.#options.periodMs);
    if (before.length !== this.#found.length || before.some((one, i) => !equal(one, this.#found[i])))
      this.#deps.changed();
  }

  #fail(round: number, state: "failing" | "hung", text: string): void {
    if (round !== this.#round || this.#state === "closed") return;
    this.#counts.failed++;
    this.#state = state;
    this.#text = text.slice(0, MAX_TEXT);
    const backOffMs = FIRST_RETRY_MS * 2 ** Math.min(10, this.#failuresInRow++);
    // what was found before stays until it expires: one lost packet is no reason to forget a mapping
    this.#finish(Math.min(this.#options.periodMs, backOffMs));
  }

  #finish(nextMs: number): void {
    this.#round++;
    this.#running = false;
    this.#abort = undefined;
    const again = this.#again;
    if (again) {
      this.#schedule(Math.max(0, this.#startedAtMs + this.#minGapMs - this.#deps.clock.now().nowMs));
      return;
    }
    this.#release();
    this.#schedule(Math.max(this.#minGapMs, nextMs * (0.9 + 0.2 * this.#deps.random.unit())));
  }

  #release(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resolve of waiters) resolve();
  }
}
