/** Questions to the data plane about a peer's paths: at most 64 under way, each answered or given up after a second. */
import type { PlanePath } from "../dataplane/messages.ts";
import type { Clock } from "./clock.ts";

const MAX_QUERIES = 64;
const WAIT_MS = 1000;

export class PathQueries {
  readonly #clock: Clock;
  readonly #ask: (slot: number, token: number) => void;
  readonly #waiting = new Map<number, (paths: readonly PlanePath[]) => void>();
  #nextToken = 1;

  constructor(deps: { readonly clock: Clock; readonly ask: (slot: number, token: number) => void }) {
    this.#clock = deps.clock;
    this.#ask = deps.ask;
  }

  /** @returns nothing known when the data plane does not answer in time, or too many ask */
  start(slot: number): Promise<readonly PlanePath[]> {
    if (this.#waiting.size >= MAX_QUERIES) return Promise.resolve([]);
    const token = this.#nextToken;
    this.#nextToken = (token + 1) >>> 0;
    return new Promise((resolve) => {
      const cancel = this.#clock.schedule(this.#clock.now().nowMs + WAIT_MS, () => this.answered(token, []));
      this.#waiting.set(token, (paths) => {
        cancel();
        resolve(paths);
      });
      this.#ask(slot, token);
    });
  }

  answered(token: number, paths: readonly PlanePath[]): void {
    const done = this.#waiting.get(token);
    this.#waiting.delete(token);
    done?.(paths);
  }
}
