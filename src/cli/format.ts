/** Text for people: tables and units. */
import { stripVTControlCharacters, styleText } from "node:util";
import type { PathView } from "../api/control.ts";
import { oneLine } from "./terminal.ts";

type Style = Parameters<typeof styleText>[0];

/** Colours only on a terminal, and never against NO_COLOR. */
export function paint(style: Style, text: string): string {
  return styleText(style, text, { stream: process.stdout });
}

/** Left-aligned columns, two spaces apart; numbers may be aligned right by naming their column. */
export function table(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  right: readonly number[] = [],
): string {
  const lines = rows.map((row) => row.map(oneLine));
  const all = [header, ...lines];
  const widths = header.map((_, column) =>
    Math.max(...all.map((row) => stripVTControlCharacters(row[column] ?? "").length)),
  );
  const line = (row: readonly string[], style?: Style): string =>
    row
      .map((cell, column) => {
        const fill = " ".repeat(widths[column] - stripVTControlCharacters(cell).length);
        const text = style === undefined ? cell : paint(style, cell);
        return right.includes(column) ? fill + text : text + fill;
      })
      .join("  ")
      .trimEnd();
  return [line(header, "bold"), ...lines.map((row) => line(row))].join("\n");
}

/** "1.5 GB"; decimal units. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

/** "850 ms", "12 s", "3 min", "2 h", "5 d" */
export function age(ms: number | null): string {
  if (ms === null) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

export function milliseconds(ms: number | null): string {
  if (ms === null) return "–";
  return `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

export function path(view: PathView): string {
  if (view.kind === "direct") return `direct ${view.endpoint ?? ""}`.trim();
  if (view.kind === "none") return "–";
  return view.via === null ? `${view.kind} ${view.endpoint ?? ""}`.trim() : `${view.kind} via ${view.via}`;
}

export function shortId(id: string): string {
  return id.slice(0, 8);
}
