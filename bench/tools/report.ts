/**
 * One benchmark's result in its three forms: a table for the terminal, JSON for programs, and the section between the markers
 * `<!-- bench:NAME:begin -->` and `<!-- bench:NAME:end -->` of a Markdown file, which is replaced whole.
 */
import { readFileSync, writeFileSync } from "node:fs";
import type { Machine } from "./machine.ts";
import { machineLine } from "./machine.ts";

export interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export interface Report {
  /** Name of the section, as on the command line. */
  readonly name: string;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly machine: Machine;
  /** What was run, as typed. */
  readonly command: string;
  readonly tables: readonly Table[];
  /** Conditions, reasons of every "n/a", doubts. */
  readonly notes: readonly string[];
  readonly notCompared: readonly string[];
  /** Everything that was measured. */
  readonly data: unknown;
}

export interface OutputOptions {
  /** File; true = JSON on standard output in place of the tables. */
  readonly json?: string | true | undefined;
  readonly markdown?: string | undefined;
}

/** Prints the tables and writes the files that were asked for. */
export function publish(report: Report, options: OutputOptions): void {
  const json = `${JSON.stringify(report, undefined, 2)}\n`;
  process.stdout.write(options.json === true ? json : `${renderText(report)}\n`);
  if (typeof options.json === "string") writeFileSync(options.json, json);
  if (options.markdown !== undefined) {
    const text = readFileSync(options.markdown, "utf8");
    writeFileSync(options.markdown, replaceSection(text, report.name, renderMarkdown(report)));
  }
}

export function renderText(report: Report): string {
  const lines: string[] = [];
  for (const table of report.tables) {
    const rows = [table.columns, ...table.rows];
    const widths = table.columns.map((_, column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
    const line = (row: readonly string[]): string =>
      widths
        .map((width, column) =>
          column === 0 ? (row[column] ?? "").padEnd(width) : (row[column] ?? "").padStart(width),
        )
        .join("  ");
    lines.push("", table.title, line(table.columns), widths.map((width) => "-".repeat(width)).join("  "));
    for (const row of table.rows) lines.push(line(row));
  }
  lines.push("", `machine: ${machineLine(report.machine)}`);
  for (const note of report.notes) lines.push(`note: ${note}`);
  for (const note of report.notCompared) lines.push(`not compared: ${note}`);
  return lines.join("\n");
}

export function renderMarkdown(report: Report): string {
  const escape = (text: string): string => text.replaceAll("|", "\\|");
  const lines = [
    `Run of ${report.startedAt.slice(0, 10)}: \`${report.command}\``,
    "",
    `Machine: ${machineLine(report.machine)}.`,
  ];
  for (const table of report.tables) {
    const row = (cells: readonly string[]): string => `| ${cells.map(escape).join(" | ")} |`;
    lines.push("", `**${table.title}**`, "", row(table.columns));
    lines.push(`| ${table.columns.map((_, column) => (column === 0 ? "---" : "---:")).join(" | ")} |`);
    for (const cells of table.rows) lines.push(row(cells));
  }
  if (report.notes.length > 0) lines.push("", ...report.notes.map((note) => `- ${note}`));
  if (report.notCompared.length > 0)
    lines.push("", "Not compared:", "", ...report.notCompared.map((note) => `- ${note}`));
  return lines.join("\n");
}

/** @throws Error when the file has no such section */
export function replaceSection(text: string, name: string, body: string): string {
  const begin = `<!-- bench:${name}:begin -->`;
  const end = `<!-- bench:${name}:end -->`;
  const from = text.indexOf(begin);
  const to = text.indexOf(end, from);
  if (from < 0 || to < 0)
    throw new Error(
      `the Markdown file has no section between "${begin}" and "${end}": add both lines where the table belongs`,
    );
  return `${text.slice(0, from + begin.length)}\n${body}\n${text.slice(to)}`;
}

/** Three significant digits, with thousands separated: 7.61, 36,100, 0.0042. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return "n/a";
  const size = Math.abs(value);
  if (size >= 999.5) return Math.round(Number(value.toPrecision(3))).toLocaleString("en-US");
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  if (size >= 1 || size === 0) return value.toFixed(2);
  return value.toPrecision(2);
}
