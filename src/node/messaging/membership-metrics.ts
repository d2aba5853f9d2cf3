/** Membership, directory and presence as Prometheus samples; the labels are from closed lists. */
import type { MetricSample } from "../../api/control.ts";
import type { DirectoryCounters } from "../../messaging/directory/types.ts";
import type { OverlayCounters } from "../../messaging/membership/types.ts";
import type { PresenceCounters } from "../../messaging/presence/types.ts";

const HELP: Readonly<Record<string, string>> = {
  membership: "Counter of the membership overlay.",
  directory: "Counter of the directory of topics and agents.",
  presence: "Counter of presence.",
};
/** Values of now, the others only grow. */
const GAUGES: ReadonlySet<string> = new Set(["topics", "records", "meetings", "agents", "watched", "watchers"]);

export function membershipSamples(
  overlay: OverlayCounters,
  directory: DirectoryCounters,
  presence: PresenceCounters,
  views: { readonly active: number; readonly passive: number },
): MetricSample[] {
  const samples: MetricSample[] = Object.entries(views).map(([view, value]) => ({
    name: "weft_membership_view_nodes",
    type: "gauge",
    help: "Members in the views of the overlay.",
    labels: { view },
    value,
  }));
  for (const [part, counters] of Object.entries({ membership: overlay, directory, presence })) {
    for (const [counter, value] of Object.entries(counters)) {
      const isGauge = part !== "membership" && GAUGES.has(counter);
      const name = `weft_${part}_${counter.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`;
      samples.push({
        name: isGauge ? name : `${name}_total`,
        type: isGauge ? "gauge" : "counter",
        help: `${HELP[part]} ${counter}.`,
        labels: {},
        value: value as number,
      });
    }
  }
  return samples;
}
