/**
 * Prometheus text exposition format 0.0.4 of a list of samples. The figures live in shared typed arrays and are read at scrape,
 * so there is no registry to keep: this writes what it is given.
 * Source: https://prometheus.io/docs/instrumenting/exposition_formats/
 */
import type { MetricSample } from "./control.ts";

export const PROMETHEUS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

function escapeLabel(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function formatLabels(labels: Readonly<Record<string, string>>, extra = ""): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  if (extra !== "") parts.push(extra);
  return parts.length === 0 ? "" : `{${parts.join(",")}}`;
}

function formatNumber(value: number): string {
  if (value === Infinity) return "+Inf";
  if (value === -Infinity) return "-Inf";
  return String(value);
}

/** Samples of one name may be anywhere in the list; they are printed together under one HELP and TYPE line. */
export function formatPrometheus(samples: readonly MetricSample[]): string {
  const families = new Map<string, MetricSample[]>();
  for (const sample of samples) {
    const family = families.get(sample.name);
    if (family === undefined) families.set(sample.name, [sample]);
    else family.push(sample);
  }
  const lines: string[] = [];
  for (const [name, family] of families) {
    const first = family[0];
    lines.push(
      `# HELP ${name} ${first.help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")}`,
      `# TYPE ${name} ${first.type}`,
    );
    for (const sample of family) {
      if (sample.type === "histogram") {
        for (const [upper, count] of sample.buckets ?? []) {
          lines.push(
            `${name}_bucket${formatLabels(sample.labels, `le="${formatNumber(upper)}"`)} ${formatNumber(count)}`,
          );
        }
        lines.push(`${name}_sum${formatLabels(sample.labels)} ${formatNumber(sample.sum ?? 0)}`);
        lines.push(`${name}_count${formatLabels(sample.labels)} ${formatNumber(sample.value)}`);
      } else {
        lines.push(`${name}${formatLabels(sample.labels)} ${formatNumber(sample.value)}`);
      }
    }
  }
  return `${lines.join("\n")}\n`;
}
