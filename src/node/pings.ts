/** Echoes under way: at most 1,024, each with its own deadline. An echo to a peer without a session waits for one first. */
import { WeftError } from "../base/errors.ts";
import type { Clock } from "./clock.ts";

const MAX_PINGS = 1024;
/** How often an echo looks whether its session is there. */
const WAIT_MS = 10;

export interface Pong {
  readonly rttMs: number;
  /** 18 bytes: the path that answered. */
  readonly endpoint: Uint8Array;
}

export interface PingDeps {
  readonly clock: Clock;
  /** True when the peer has a session. */
  isReady(slot: number): boolean;
  /** Sends the echo; handlePong() follows when it comes back. */
  send(slot: number, token: number): void;
}

export class Pings {
  readonly #deps: PingDeps;
  readonly #waiting = new Map<number, { readonly slot: number; readonly done: (pong: Pong | undefined) => void }>();
  #nextToken = 1;

  constructor(deps: PingDeps) {
    this.#deps = deps;
  }

  /** @returns undefined when nothing came back in time @throws WeftError BUSY */
  start(slot: number, timeoutMs: number): Promise<Pong | undefined> {
    if (this.#waiting.size >= MAX_PINGS) {
      throw new WeftError("BUSY", `${MAX_PINGS} echoes are under way`, "wait a moment");
    }
    const { clock } = this.#deps;
    const deadlineMs = clock.now().nowMs + timeoutMs;
    const token = this.#nextToken;
    this.#nextToken = (token + 1) >>> 0;
    return new Promise((resolve) => {
      let isSent = false;
      let cancel = (): void => undefined;
      const done = (pong: Pong | undefined): void => {
        this.#waiting.delete(token);
        cancel();
        resolve(pong);
      };
      const attempt = (): void => {
        const leftMs = deadlineMs - clock.now().nowMs;
        if (leftMs <= 0) {
          done(undefined);
          return;
        }
        if (!isSent && this.#deps.isReady(slot)) {
          isSent = true;
          this.#deps.send(slot, token);
        }
        cancel = clock.schedule(clock.now().nowMs + (isSent ? leftMs : Math.min(leftMs, WAIT_MS)), attempt);
      };
      this.#waiting.set(token, { slot, done });
      attempt();
    });
  }

  /** A late or foreign answer changes nothing. */
  handlePong(slot: number, token: number, pong: Pong): void {
    const ping = this.#waiting.get(token);
    if (ping?.slot === slot) ping.done(pong);
  }

  /** Ends the echoes to one peer, or all of them. */
  cancel(slot?: number): void {
    for (const ping of this.#waiting.values()) if (slot === undefined || ping.slot === slot) ping.done(undefined);
  }
}
