/**
 * A reading is a number or the reason why there is none. A measurement that could not be taken is never a zero: it stays visible as
 * "n/a" with its reason in every table and in the JSON.
 */

export type Reading = number | { readonly why: string };

/** Thrown by a measurement that cannot be taken; take() turns it, like every other failure, into a reason. */
export class Unavailable extends Error {
  constructor(why: string) {
    super(why);
    this.name = "Unavailable";
  }
}

export function isNumber(reading: Reading | undefined): reading is number {
  return typeof reading === "number" && Number.isFinite(reading);
}

/** The first two lines of an error as one, for people. */
export function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split("\n", 2).join(" — ").slice(0, 300);
}

/** Runs a measurement; its failure becomes the reason of every figure it should have given. */
export async function take(
  figures: readonly string[],
  measure: () => Promise<Record<string, Reading>>,
): Promise<Record<string, Reading>> {
  let readings: Record<string, Reading> = {};
  let why = "the measurement gave no such figure";
  try {
    readings = await measure();
  } catch (error) {
    why = reasonOf(error);
  }
  return Object.fromEntries(
    figures.map((figure) => {
      const reading = readings[figure];
      if (reading === undefined) return [figure, { why }];
      return [figure, typeof reading === "number" && !Number.isFinite(reading) ? { why: "not a number" } : reading];
    }),
  );
}
