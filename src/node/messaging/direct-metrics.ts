/** Direct messages as Prometheus samples: weft_direct_…; labels from closed lists only. */
import type { MetricSample } from "../../api/control.ts";
import type { DirectMachine } from "../../messaging/direct/machine.ts";
import type { DirectCounters } from "../../messaging/direct/types.ts";

const HELP: Readonly<Record<keyof DirectCounters, string>> = {
  sent: "Messages that callers of this node sent, responses included.",
  acknowledged: "Messages that their receivers have acknowledged.",
  refused: "Messages that were certainly not delivered.",
  unknown: "Messages whose callers were told that nobody knows.",
  resolvedLater: "Unknown ones whose fate became known later.",
  retries: "Times a message or a question about one was sent again.",
  delivered: "Messages that entered an inbox of this node.",
  duplicates: "Messages that came again and were not delivered again.",
  refusedIncoming: "Messages of peers that this node refused.",
  conflicts: "Messages with a known number and other bytes.",
  answersLate: "Answers to messages whose outcome was known already.",
  badFrames: "Frames that are none.",
  dropped: "Frames of blocked senders beyond their rate, and numbers for whose verdict there was no room.",
  commitsFailed: "Commits of direct messages that the store refused.",
  requestsOut: "Requests to peers.",
  requestsIn: "Requests of peers that ran here.",
  outboxStored: "Messages that went to the outbox because their answer took long.",
  outboxRefused: "Messages for which the outbox had no room.",
};

const GAUGES: Readonly<Record<string, string>> = {
  outgoing: "Messages without an outcome.",
  outgoingBytes: "Bytes of them.",
  outbox: "Messages without an outcome that are on disk.",
  requestsWaiting: "Requests of this node without an answer.",
  requestsRunning: "Requests of peers that run here.",
  numbersRemembered: "Numbers of senders whose verdict is remembered.",
  writesWaiting: "Operations of the message store that wait for a commit.",
};

export function directSamples(machine: DirectMachine): MetricSample[] {
  const samples: MetricSample[] = [];
  const counters = machine.counters;
  for (const [name, help] of Object.entries(HELP)) {
    const value = counters[name as keyof DirectCounters];
    samples.push({ name: `weft_direct_${snake(name)}_total`, type: "counter", help, labels: {}, value });
  }
  const gauges = machine.gauges();
  for (const [name, help] of Object.entries(GAUGES))
    samples.push({ name: `weft_direct_${snake(name)}`, type: "gauge", help, labels: {}, value: gauges[name] ?? 0 });
  for (const { stage, count, sumMs, buckets } of machine.stages()) {
    samples.push({
      name: "weft_direct_stage_seconds",
      type: "histogram",
      help: "How long each stage of an acknowledged message took.",
      labels: { stage },
      value: count,
      sum: sumMs / 1000,
      buckets,
    });
  }
  return samples;
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
