/**
 * Loss of one path from cumulative counts: an exponential average over about 128 packets for choosing paths, and a verdict per window of
 * at least 32 packets for failing one. A packet that arrives late is credited to the window it arrives in.
 */

const AVERAGE_PACKETS = 128;
const WINDOW_PACKETS = 32;
const FAILING_RATIO = 0.3;
/** One probe says as much as this many packets: an idle path has nothing else to go by. */
const PROBE_WEIGHT = 16;

export class LossMeter {
  /** 0–1. */
  ratio = 0;
  /** True while the last complete window lost more than 30 %. */
  failing = false;
  /** Of the last complete window, 0–1. */
  windowRatio = 0;
  #expected = 0;
  #received = 0;
  #carry = 0;

  reset(): void {
    this.ratio = 0;
    this.restart();
  }

  /** Begins a window anew and forgives the past verdict; the average stays. */
  restart(): void {
    this.failing = false;
    this.windowRatio = 0;
    this.#expected = 0;
    this.#received = 0;
    this.#carry = 0;
  }

  /** Of `expected` packets sent since the last call `received` arrived (more is possible: late ones). */
  add(expected: number, received: number): void {
    this.#expected += Math.max(0, expected);
    this.#received += Math.max(0, received);
    if (this.#expected < WINDOW_PACKETS) return;
    const arrived = this.#received + this.#carry;
    const loss = Math.min(1, Math.max(0, 1 - arrived / this.#expected));
    // More arrived than were expected: late packets of the last window, or ones to come early of the next.
    this.#carry = Math.min(WINDOW_PACKETS, Math.max(0, arrived - this.#expected));
    this.failing = loss > FAILING_RATIO;
    this.windowRatio = loss;
    this.#average(loss, this.#expected);
    this.#expected = 0;
    this.#received = 0;
  }

  addProbe(answered: boolean): void {
    this.#average(answered ? 0 : 1, PROBE_WEIGHT);
  }

  #average(loss: number, packets: number): void {
    this.ratio += (loss - this.ratio) * (1 - Math.exp(-packets / AVERAGE_PACKETS));
    if (this.ratio < 1e-6) this.ratio = 0;
  }
}
