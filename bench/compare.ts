/**
 * The interleaved comparison behind several benchmarks. In every round each measurement visits all contenders one after another, the
 * order rotating, so the two numbers of a ratio are seconds apart and see the same machine. Ratios to the reference are computed pair by
 * pair within a round; tables show medians with the lowest and highest value.
 */
import { sleep } from "../lab/process.ts";
import type { TwoHosts } from "../lab/topologies.ts";
import type { Figure, Measure } from "./measures.ts";
import type { Subject, Tunnel } from "./subjects/types.ts";
import { isAlive } from "./tools/proc.ts";
import { isNumber, reasonOf, take, type Reading } from "./tools/reading.ts";
import { figure, type Table } from "./tools/report.ts";
import { spread, type Spread } from "./tools/statistics.ts";

/** Lets queues drain and processor clocks settle between two measurements. */
const PAUSE_MS = 300;

export interface Contender {
  readonly name: string;
  readonly version: string;
  /** undefined: not measured, see `why`. */
  readonly tunnel: Tunnel | undefined;
  readonly why: string;
}

export interface Entry {
  readonly round: number;
  readonly subject: string;
  readonly measure: string;
  /** Seconds since the start of the rounds. */
  readonly atSeconds: number;
  readonly readings: Record<string, Reading>;
}

/** A promised ratio to the reference: lowest (more is better) or highest (less is better). */
export type Target = { readonly least: number } | { readonly most: number };

export interface Summary {
  readonly figure: string;
  readonly subject: string;
  readonly spread: Spread;
  /** To the reference, of the rounds in which both have the figure. */
  readonly ratio: Spread | undefined;
  /** Reasons of the rounds without a number. */
  readonly missing: readonly string[];
}

/** Starts a subject and sends the first packets through it. Never rejects: a failure becomes the reason why it is not measured. */
export async function launch(subject: Subject, hosts: TwoHosts, index: number): Promise<Contender> {
  const { name } = subject;
  let version = "";
  try {
    const found = await subject.find();
    if ("why" in found) return { name, version, tunnel: undefined, why: found.why };
    version = found.version;
    say(`starting ${name} ${version}`);
    const tunnel = await subject.start(hosts, index);
    // The first packets bring up sessions and fill caches; a tunnel that carries none is not measured at all.
    const reached = await tunnel.a.host.exec("ping", ["-n", "-c", "3", "-i", "0.2", "-w", "10", tunnel.b.address]);
    if (reached.code === 0) return { name, version, tunnel, why: "" };
    await tunnel.stop();
    return { name, version, tunnel: undefined, why: "it carried no ping" };
  } catch (error) {
    say(`${name} did not start: ${error instanceof Error ? error.message : String(error)}`);
    return { name, version, tunnel: undefined, why: `did not start: ${reasonOf(error)}` };
  }
}

export async function playRounds(
  contenders: readonly Contender[],
  measures: readonly Measure[],
  options: { readonly seconds: number; readonly rounds: number },
): Promise<Entry[]> {
  const entries: Entry[] = [];
  const start = performance.now();
  const running = contenders.filter((contender) => contender.tunnel !== undefined);
  for (let round = 0; round < options.rounds; round++) {
    for (const [number, measure] of measures.entries()) {
      const atSeconds = (performance.now() - start) / 1_000;
      const note = ({ name }: Contender, readings: Record<string, Reading>): void => {
        entries.push({ round, subject: name, measure: measure.id, atSeconds, readings });
        const main = readings[measure.figures[0].id];
        const shown = isNumber(main) ? figure(main) : `n/a: ${(main as { why: string }).why}`;
        say(`round ${round + 1}/${options.rounds} ${measure.id} ${name} ${shown}`);
      };
      const first = (round + number) % Math.max(1, running.length);
      const inTurn = [...running.slice(first), ...running.slice(0, first)];
      if (measure.takeTogether !== undefined) {
        const all = await readTogether(inTurn, measure, options.seconds);
        for (const [index, contender] of inTurn.entries()) note(contender, all[index]);
        await sleep(PAUSE_MS);
        continue;
      }
      for (const contender of inTurn) {
        note(contender, await readOne(contender, measure, options.seconds));
        await sleep(PAUSE_MS);
      }
    }
  }
  return entries;
}

/** One that cannot be taken makes those of all who live missing: they would not have had the same seconds. */
async function readTogether(
  contenders: readonly Contender[],
  measure: Measure,
  seconds: number,
): Promise<Record<string, Reading>[]> {
  const alive = contenders.filter((one) => !hasEnded(one));
  let taken: Record<string, Reading>[] = [];
  let why = "";
  try {
    const tunnels = alive.map(({ tunnel }) => tunnel as Tunnel);
    taken = (await measure.takeTogether?.(tunnels, { seconds })) ?? [];
  } catch (error) {
    why = reasonOf(error);
  }
  return contenders.map((one) => {
    const index = alive.indexOf(one);
    return index < 0 ? missing(measure, ended(one)) : (taken[index] ?? missing(measure, why));
  });
}

async function readOne(contender: Contender, measure: Measure, seconds: number): Promise<Record<string, Reading>> {
  if (hasEnded(contender)) return missing(measure, ended(contender));
  const ids = measure.figures.map((one) => one.id);
  return await take(ids, () => measure.take(contender.tunnel as Tunnel, { seconds }));
}

function hasEnded({ tunnel }: Contender): boolean {
  return [tunnel?.a.pid, tunnel?.b.pid].some((pid) => pid !== undefined && !isAlive(pid));
}

const ended = ({ name }: Contender): string => `${name} has ended`;

function missing({ figures }: Measure, why: string): Record<string, Reading> {
  return Object.fromEntries(figures.map(({ id }) => [id, { why }]));
}

/** Median of one figure of one contender, and of its pairwise ratios. */
export function summarise(id: string, subject: string, entries: readonly Entry[], reference: string): Summary {
  const of = (name: string): Map<number, Reading> => {
    const map = new Map<number, Reading>();
    for (const entry of entries) {
      const reading = entry.readings[id];
      if (entry.subject === name && reading !== undefined) map.set(entry.round, reading);
    }
    return map;
  };
  const own = of(subject);
  const other = of(reference);
  const ratios: number[] = [];
  for (const [round, reading] of own) {
    const base = other.get(round);
    if (isNumber(reading) && isNumber(base) && base > 0) ratios.push(reading / base);
  }
  const missing = [...own.values()].flatMap((reading) => (typeof reading === "number" ? [] : [reading.why]));
  return {
    figure: id,
    subject,
    spread: spread([...own.values()].filter(isNumber)),
    ratio: ratios.length === 0 ? undefined : spread(ratios),
    missing,
  };
}

export interface Comparison {
  readonly figures: readonly Figure[];
  /** In the order of the columns. */
  readonly names: readonly string[];
  readonly reference: string;
  /** Whose ratios were promised. */
  readonly promisedTo: string;
  /** undefined: no promise for that figure. */
  target(one: Figure): Target | undefined;
}

export interface Concluded {
  readonly summaries: readonly Summary[];
  readonly tables: readonly Table[];
  /** One line for every figure that lacks rounds, with the reasons. */
  readonly notes: readonly string[];
}

export function conclude(entries: readonly Entry[], comparison: Comparison): Concluded {
  const { figures, names, reference, promisedTo } = comparison;
  const rows = figures.map((one) => names.map((name) => summarise(one.id, name, entries, reference)));
  const notes = rows.flat().flatMap((summary) => {
    const why = [...new Set(summary.missing)];
    return why.length === 0
      ? []
      : [`${summary.figure} of ${summary.subject}: n/a in ${summary.missing.length} rounds: ${why.join("; ")}`];
  });
  const measured = figures.map((one, row) => [
    `${one.title}, ${one.unit}`,
    ...(rows[row] ?? []).map((summary) => cell(summary.spread)),
  ]);
  const tables: Table[] = [{ title: "Measured", columns: ["", ...names], rows: measured }];
  const others = names.filter((name) => name !== reference);
  if (names.includes(reference) && others.length > 0) {
    const ratios = figures.map((one, row) => {
      const own = others.map((name) => (rows[row] ?? []).find((summary) => summary.subject === name)?.ratio);
      return [one.title, ...own.map(cell), verdict(comparison.target(one), own[others.indexOf(promisedTo)])];
    });
    tables.push({
      title: `Ratio to ${reference}`,
      columns: ["", ...others, `promised for ${promisedTo}`],
      rows: ratios,
    });
  }
  return { summaries: rows.flat(), tables, notes };
}

function cell(values: Spread | undefined): string {
  if (values === undefined || values.count === 0) return "n/a";
  return values.count === 1
    ? figure(values.median)
    : `${figure(values.median)} (${figure(values.min)}–${figure(values.max)})`;
}

function verdict(target: Target | undefined, ratio: Spread | undefined): string {
  if (target === undefined) return "";
  const text = "least" in target ? `≥ ${target.least}` : `≤ ${target.most}`;
  if (ratio === undefined) return `${text}: not measured`;
  const met = "least" in target ? ratio.median >= target.least : ratio.median <= target.most;
  return `${text}: ${met ? "reached" : "missed"}`;
}

export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
