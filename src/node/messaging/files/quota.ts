/**
 * What received and unfinished files may take of the disk, and who may have how much of it. Counted are finished files that are still where
 * they were put, partial files by what they hold, and what running transfers have reserved; the sum never exceeds the quota.
 *
 *   room of a member = what the others leave free − what is kept back for the rest (half of that, at most a quarter of the quota) − what is its own
 *
 * so that a member's unfinished files never lock the others out. Sans-I/O; source: docs/protocol.md, "Files".
 */

/** What the quota must know of a transfer. */
export interface Held {
  /** It goes to a place that was chosen here, outside the quota. */
  readonly exact: boolean;
  readonly offeredBy: string | undefined;
  readonly state: "queued" | "running" | "done" | "failed" | "cancelled";
  readonly sizeBytes: number | undefined;
  /** For the whole file, while it runs. */
  readonly reservedBytes: number;
  /** What its partial file held when that was last looked at. */
  readonly diskBytes: number;
  /** Its finished file is not where it was put any more. */
  readonly isGone: boolean;
}

export interface QuotaLimits {
  readonly quotaBytes: number;
  /** Of an offered file. */
  readonly largestBytes: number;
}

export function heldBytes(job: Held): number {
  if (job.exact || job.state === "cancelled") return 0;
  if (job.state === "done") return job.isGone ? 0 : (job.sizeBytes ?? 0);
  return Math.max(job.reservedBytes, job.diskBytes);
}

function keptBack(freeBytes: number, quotaBytes: number): number {
  return Math.ceil(Math.min(freeBytes / 2, quotaBytes / 4));
}

/** The largest file that is taken from a member into an empty directory; a larger one never fits. */
export function largestOffer({ quotaBytes, largestBytes }: QuotaLimits): number {
  return Math.min(largestBytes, quotaBytes - keptBack(quotaBytes, quotaBytes));
}

/**
 * How large a file may be now.
 * @param offeredBy undefined: asked for here, which may take all that is free
 * @param others all transfers but the one in question @param keptBytes of finished files that are no transfers any more
 */
export function roomFor(
  offeredBy: string | undefined,
  others: Iterable<Held>,
  keptBytes: number,
  limits: QuotaLimits,
): number {
  let freeBytes = limits.quotaBytes - keptBytes;
  let ownBytes = 0;
  for (const job of others) {
    if (offeredBy !== undefined && job.offeredBy === offeredBy && job.state !== "done") ownBytes += heldBytes(job);
    else freeBytes -= heldBytes(job);
  }
  freeBytes = Math.max(0, freeBytes);
  if (offeredBy === undefined) return freeBytes;
  const share = freeBytes - keptBack(freeBytes, limits.quotaBytes) - ownBytes;
  return Math.max(0, Math.min(limits.largestBytes, share));
}
