/**
 * How the demo looks: check lines, and the table of paths, at most 100 columns wide. On a terminal the table is redrawn in place;
 * elsewhere every picture is printed once and nothing moves. Colours follow NO_COLOR and the stream.
 */
import { stripVTControlCharacters, styleText } from "node:util";

export interface CheckLine {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

export interface PairRow {
  readonly from: string;
  readonly to: string;
  /** "direct 10.64.0.1:9338" */
  readonly path: string;
  readonly rttMs: number | null;
  readonly rateBps: number;
  readonly loss: number;
  readonly cipher: string;
  readonly hybrid: boolean;
}

const COLUMNS = ["from", "to", "path", "RTT", "sending", "loss", "cipher", "hybrid"] as const;

export function formatRate(bps: number): string {
  if (bps >= 1e9) return `${(bps / 1e9).toFixed(2)} Gbit/s`;
  if (bps >= 1e6) return `${(bps / 1e6).toFixed(1)} Mbit/s`;
  return `${(bps / 1e3).toFixed(1)} kbit/s`;
}

export function formatMs(ms: number | null): string {
  return ms === null ? "–" : `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)} ms`;
}

/** Lines of the table, header first. */
export function renderTable(rows: readonly PairRow[]): string[] {
  const cells = rows.map((row) => [
    row.from,
    row.to,
    row.path,
    formatMs(row.rttMs),
    formatRate(row.rateBps),
    `${(row.loss * 100).toFixed(2)} %`,
    row.cipher,
    row.hybrid ? "yes" : "no",
  ]);
  const widths = COLUMNS.map((title, index) => Math.max(title.length, ...cells.map((row) => row[index]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    `  ${row.map((cell, index) => cell.padEnd(widths[index] ?? 0)).join("  ")}`.trimEnd();
  return [styleText("bold", line(COLUMNS)), ...cells.map((row) => line(row))];
}

/** Prints lines, and keeps the last picture in place on a terminal. */
export class Screen {
  readonly isLive: boolean;
  readonly #out: NodeJS.WriteStream;
  #pictureLines = 0;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
    this.isLive = out.isTTY;
  }

  line(text = ""): void {
    this.#pictureLines = 0;
    this.#out.write(`${text}\n`);
  }

  check(check: CheckLine): void {
    const mark = check.ok ? styleText("green", "✓") : styleText("red", "✗");
    this.line(`  ${mark} ${check.name.padEnd(34)} ${check.detail}`);
  }

  /** Replaces the picture drawn before, in one write so that nothing flickers; long lines are cut at the terminal's width. */
  picture(lines: readonly string[]): void {
    const width = this.isLive ? this.#out.columns : 0;
    const cut = lines.map((line) =>
      width > 0 && stripVTControlCharacters(line).length > width
        ? stripVTControlCharacters(line).slice(0, width - 1)
        : line,
    );
    const back = this.isLive && this.#pictureLines > 0 ? `\x1b[${this.#pictureLines}A\r` : "";
    const body = cut.map((line) => (this.isLive ? `\x1b[2K${line}` : line)).join("\n");
    this.#out.write(`${back}${body}\n`);
    this.#pictureLines = lines.length;
  }
}
