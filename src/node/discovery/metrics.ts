/** Counters and states of the discovery sources as Prometheus samples; sources and counter names are closed lists. */
import type { MetricSample } from "../../api/control.ts";
import type { Discovery } from "./discovery.ts";

export function discoverySamples(discovery: Discovery | undefined): MetricSample[] {
  if (discovery === undefined) return [];
  const samples: MetricSample[] = [];
  for (const report of discovery.reports()) {
    const labels = { source: report.name };
    const help = "1 while the last look of the discovery source worked.";
    samples.push({
      name: "weft_discovery_working",
      type: "gauge",
      help,
      labels,
      value: report.state === "working" ? 1 : 0,
    });
    for (const [event, value] of Object.entries(report.counters)) samples.push(counter(report.name, event, value));
  }
  for (const [event, value] of Object.entries(discovery.counters)) samples.push(counter("all", event, value));
  return samples;
}

function counter(source: string, event: string, value: number): MetricSample {
  const help = "What happened in discovery, by source.";
  return { name: "weft_discovery_events_total", type: "counter", help, labels: { source, event }, value };
}
