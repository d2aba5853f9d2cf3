/**
 * Path MTU of one path, as underlay IP packet size. It starts at what both ends' interfaces allow, is used at once and verified at once with
 * padded probes (RFC 8899 in spirit: probes decide, ICMP only hints). When the wanted size stays unanswered the sizes of a table below
 * it are asked together, and the largest that was answered counts.
 *
 * A round: try 0 asks the target size; tries 1 and 2 ask target and table; after try 2 the answers decide. No answer at all proves
 * nothing about sizes (the path may just lose), so the value stays and the round is repeated later.
 */

/** Sizes to fall back to, largest first; none below the base of 1,280 is ever used. */
export const PMTU_TABLE: readonly number[] = [
  9000, 8166, 4352, 2002, 1500, 1492, 1480, 1460, 1420, 1400, 1380, 1350, 1320, 1280,
];
export const PMTU_BASE_BYTES = 1_280;
export const PMTU_MAX_BYTES = 9_000;

const TRIES = 3;
const VERIFY_AGAIN_MS = 30_000;
/** Doubts about the size in force start a round at most this often. */
const SUSPECT_MS = 1_000;
/** Mere loss is a weak reason: the pause doubles up to this while such rounds find the size right, and begins anew when it was quiet for as long again. */
const SUSPECT_MAX_MS = 16_000;
/** What a doubt has lowered may have been loss: tried again sooner. */
const RAISE_AFTER_DOUBT_MS = 60_000;
/** RFC 8899 §5.1.1, PMTU_RAISE_TIMER. */
const RAISE_MS = 600_000;
const INCONCLUSIVE_MIN_MS = 5_000;
const INCONCLUSIVE_MAX_MS = 60_000;
/** A round that was interrupted for longer knows nothing any more. */
const ROUND_MOST_MS = 5_000;
const MIN_TIMEOUT_MS = 50;
const MAX_TIMEOUT_MS = 1_000;
/** A hint that probes disproved makes further hints unbelievable for this long. */
const DISTRUST_MS = 60_000;

export class PathMtu {
  /** In force: the largest underlay IP packet to send, bytes. */
  mtuBytes: number = PMTU_BASE_BYTES;
  /** Largest size answered since reset(); 0 = none yet. */
  verifiedBytes = 0;
  /** When poll() has something to do; Infinity when idle. */
  nextMs: number = Infinity;
  #limitBytes = PMTU_BASE_BYTES;
  #targetBytes = 0;
  #beganMs = -Infinity;
  #try = 0;
  #best = 0;
  /** Position in the sizes of this try: 0 = target, then table entries. */
  #cursor = 0;
  /** Where the cursor stood before the last size. */
  #polled = 0;
  #raising = false;
  #nextRaiseMs = Infinity;
  #backoffMs = INCONCLUSIVE_MIN_MS;
  #hintedFrom = 0;
  #distrustUntilMs = 0;
  #suspectedMs = -Infinity;
  #suspectPauseMs = SUSPECT_MS;
  #isDoubt = false;

  /** A fresh path. @param limitBytes what both ends' interfaces allow; kept within 1,280–9,000 */
  reset(limitBytes: number): void {
    this.#limitBytes = clamp(limitBytes);
    this.mtuBytes = this.#limitBytes;
    this.verifiedBytes = 0;
    this.nextMs = Infinity;
    this.#targetBytes = 0;
    this.#nextRaiseMs = Infinity;
    this.#backoffMs = INCONCLUSIVE_MIN_MS;
    this.#hintedFrom = 0;
    this.#distrustUntilMs = 0;
    this.#suspectedMs = -Infinity;
    this.#suspectPauseMs = SUSPECT_MS;
  }

  /** The interfaces' limit changed: a larger one is taken on trust and verified, as at the start. */
  setLimit(nowMs: number, limitBytes: number): void {
    const limit = clamp(limitBytes);
    if (limit === this.#limitBytes) return;
    const wasAtLimit = this.mtuBytes === this.#limitBytes;
    this.#limitBytes = limit;
    if (this.mtuBytes > limit || wasAtLimit) this.mtuBytes = limit;
    if (this.verifiedBytes > 0) this.verify(nowMs);
  }

  /** Starts a round for the size in force. */
  verify(nowMs: number): void {
    this.#begin(nowMs, this.mtuBytes, false);
  }

  /**
   * Data does not come through as it should, perhaps because it is too large: a round now, unless one is under way or the last doubt is recent.
   * @param isWeak some packets were lost, as may happen on any path
   */
  suspect(nowMs: number, isWeak: boolean = false): void {
    const sinceMs = nowMs - this.#suspectedMs;
    if (sinceMs > 2 * this.#suspectPauseMs) this.#suspectPauseMs = SUSPECT_MS;
    if (this.#targetBytes > 0 || sinceMs < (isWeak ? this.#suspectPauseMs : SUSPECT_MS)) return;
    if (isWeak) this.#suspectPauseMs = Math.min(SUSPECT_MAX_MS, this.#suspectPauseMs * 2);
    this.#suspectedMs = nowMs;
    this.verify(nowMs);
    this.#isDoubt = true;
  }

  /**
   * The size to probe now, or 0. Call until it returns 0; each size returned is taken as sent.
   * @param rttMs −1 when unknown
   */
  poll(nowMs: number, rttMs: number): number {
    if (nowMs < this.nextMs) return 0;
    if (this.#targetBytes === 0) {
      if (nowMs >= this.#nextRaiseMs && this.mtuBytes < this.#limitBytes) this.#begin(nowMs, this.#limitBytes, true);
      else this.#begin(nowMs, this.mtuBytes, false);
    }
    if (this.#try === TRIES) {
      this.#conclude(nowMs);
      return 0;
    }
    const size = this.#nextSize();
    if (size > 0) return size;
    this.#try++;
    this.#cursor = 0;
    const timeoutMs = rttMs < 0 ? 300 : Math.min(MAX_TIMEOUT_MS, Math.max(MIN_TIMEOUT_MS, 2 * rttMs + 30));
    this.nextMs = nowMs + timeoutMs;
    return 0;
  }

  /** The size that poll() gave last could not be asked: it is given again at `atMs`, and the try goes on from there. */
  postpone(atMs: number): void {
    this.#cursor = this.#polled;
    this.nextMs = atMs;
  }

  /**
   * A path that was silent answers again: what is believed of it is checked, upwards where only a hint has lowered it. A round that began a
   * moment ago goes on: in a black hole for large packets its own answers are what revives the path.
   */
  revive(nowMs: number): void {
    if (this.#targetBytes > 0 && nowMs - this.#beganMs < ROUND_MOST_MS) return;
    if (this.#hintedFrom > 0) this.#begin(nowMs, this.#hintedFrom, true);
    else this.verify(nowMs);
  }

  /** The last round began because data did not come through. */
  get wasDoubted(): boolean {
    return this.#isDoubt;
  }

  /** True while answers are awaited or sizes remain to be asked. */
  get isAsking(): boolean {
    return this.#targetBytes > 0;
  }

  /** A probe of this size was answered. @returns true when the MTU in force changed */
  answered(nowMs: number, sizeBytes: number): boolean {
    if (sizeBytes > this.#limitBytes) return false;
    if (sizeBytes > this.verifiedBytes) this.verifiedBytes = sizeBytes;
    if (sizeBytes > this.#best) this.#best = sizeBytes;
    if (this.#hintedFrom > 0 && sizeBytes >= this.#hintedFrom) {
      // The size that a hint called too big has just passed.
      this.#hintedFrom = 0;
      this.#distrustUntilMs = nowMs + DISTRUST_MS;
    }
    const before = this.mtuBytes;
    if (sizeBytes > this.mtuBytes) this.mtuBytes = sizeBytes;
    if (this.#targetBytes > 0 && sizeBytes >= this.#targetBytes) this.#finish(nowMs);
    return this.mtuBytes !== before;
  }

  /** The kernel refused this size, so it cannot leave this machine: the next table size below it, verified. @returns true when changed */
  refused(nowMs: number, sizeBytes: number): boolean {
    if (sizeBytes > this.mtuBytes) return false;
    return this.#lower(nowMs, below(sizeBytes));
  }

  /**
   * Someone (ICMP, unauthenticated) says that only this much passes. Believed at once and checked at once by probing the old size;
   * when that is answered the old size is back and hints are ignored for a minute. @returns true when changed
   */
  hinted(nowMs: number, sizeBytes: number): boolean {
    if (sizeBytes < PMTU_BASE_BYTES || sizeBytes >= this.mtuBytes || nowMs < this.#distrustUntilMs) return false;
    const old = this.mtuBytes;
    this.mtuBytes = sizeBytes;
    this.#hintedFrom = old;
    this.#begin(nowMs, old, true);
    this.#nextRaiseMs = nowMs + RAISE_MS;
    return true;
  }

  #lower(nowMs: number, sizeBytes: number): boolean {
    const lowered = Math.max(PMTU_BASE_BYTES, sizeBytes);
    if (lowered >= this.mtuBytes) return false;
    this.mtuBytes = lowered;
    this.#nextRaiseMs = nowMs + RAISE_MS;
    this.verify(nowMs);
    return true;
  }

  #begin(nowMs: number, targetBytes: number, raising: boolean): void {
    this.#beganMs = nowMs;
    this.#targetBytes = targetBytes;
    this.#raising = raising;
    this.#isDoubt = false;
    this.#try = 0;
    this.#cursor = 0;
    this.#best = 0;
    this.nextMs = nowMs;
  }

  #nextSize(): number {
    this.#polled = this.#cursor;
    const position = this.#cursor++;
    if (position === 0) return this.#targetBytes;
    if (this.#try === 0) return 0;
    for (let i = position - 1; i < PMTU_TABLE.length; i++) {
      const size = PMTU_TABLE[i];
      // Sizes that this round has already seen pass need no second question.
      if (size >= this.#targetBytes || size <= this.#best || (this.#raising && size <= this.mtuBytes)) continue;
      this.#cursor = i + 2;
      return size;
    }
    return 0;
  }

  #conclude(nowMs: number): void {
    if (this.#raising) {
      this.#nextRaiseMs = nowMs + RAISE_MS;
      this.#hintedFrom = 0;
      this.#finish(nowMs);
      return;
    }
    if (this.#best === 0) {
      this.#targetBytes = 0;
      this.nextMs = nowMs + this.#backoffMs;
      this.#backoffMs = Math.min(INCONCLUSIVE_MAX_MS, this.#backoffMs * 2);
      return;
    }
    this.mtuBytes = this.#best;
    this.verifiedBytes = this.#best;
    this.#nextRaiseMs = nowMs + (this.#isDoubt ? RAISE_AFTER_DOUBT_MS : RAISE_MS);
    this.#suspectPauseMs = SUSPECT_MS;
    this.#finish(nowMs);
  }

  #finish(nowMs: number): void {
    this.#targetBytes = 0;
    this.#backoffMs = INCONCLUSIVE_MIN_MS;
    if (this.mtuBytes >= this.#limitBytes) this.#nextRaiseMs = Infinity;
    this.nextMs = nowMs + VERIFY_AGAIN_MS;
  }
}

function below(sizeBytes: number): number {
  for (const size of PMTU_TABLE) if (size < sizeBytes) return size;
  return PMTU_BASE_BYTES;
}

function clamp(sizeBytes: number): number {
  return Math.min(PMTU_MAX_BYTES, Math.max(PMTU_BASE_BYTES, Math.floor(sizeBytes)));
}
