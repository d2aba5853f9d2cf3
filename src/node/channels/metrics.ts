/** The figures of channels as Prometheus samples; every label comes from a closed list. */
import type { MetricSample } from "../../api/control.ts";
import type { ChannelFigures } from "./channels.ts";

export function channelSamples(figures: ChannelFigures): MetricSample[] {
  const sample = (
    name: string,
    type: "counter" | "gauge",
    help: string,
    labels: Record<string, string>,
    value: number,
  ): MetricSample => ({ name, type, help, labels, value });
  const open = "Channels over WebSocket that are open, by who opened them: this node or the other one.";
  const datagrams = "Datagrams through channels, by direction.";
  const drops =
    "Datagrams of channels that were dropped: the line was full or gone, or too many came before a session.";
  const refused = "Channels that others could not open here, by reason.";
  return [
    sample("weft_channels", "gauge", open, { opened_by: "self" }, figures.dialled),
    sample("weft_channels", "gauge", open, { opened_by: "other" }, figures.served),
    sample("weft_channel_datagrams_total", "counter", datagrams, { direction: "tx" }, figures.sent),
    sample("weft_channel_datagrams_total", "counter", datagrams, { direction: "rx" }, figures.received),
    sample("weft_channel_drops_total", "counter", drops, { reason: "full" }, figures.droppedFull),
    sample("weft_channel_drops_total", "counter", drops, { reason: "unproven" }, figures.droppedUnproven),
    sample(
      "weft_channel_failures_total",
      "counter",
      "Attempts of this node to open a channel that failed.",
      {},
      figures.failed,
    ),
    ...Object.entries(figures.refused).map(([reason, value]) =>
      sample("weft_channel_refused_total", "counter", refused, { reason }, value),
    ),
  ];
}
