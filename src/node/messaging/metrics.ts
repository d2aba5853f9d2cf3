/** Links and store as Prometheus samples: weft_frames_…, weft_messages_store_…; no labels, so their number is fixed. */
import type { MetricSample } from "../../api/control.ts";
import type { LinkCounters } from "./links.ts";
import type { MessageStoreCounters } from "./store.ts";

type Row = readonly [name: string, type: "counter" | "gauge", help: string, value: number];

export function messagingSamples(links: LinkCounters, store: MessageStoreCounters): MetricSample[] {
  const rows: readonly Row[] = [
    ["weft_frames_sent_total", "counter", "Frames that QUIC has taken.", links.framesOut],
    ["weft_frames_received_total", "counter", "Frames of peers.", links.framesIn],
    ["weft_frames_sent_bytes_total", "counter", "Bytes of frames that QUIC has taken.", links.bytesOut],
    ["weft_frames_received_bytes_total", "counter", "Bytes of streams of frames.", links.bytesIn],
    ["weft_frames_full_total", "counter", "Frames not taken because a queue was at its bound.", links.framesFull],
    [
      "weft_frames_lost_total",
      "counter",
      "Frames whose stream ended first, or that waited too long.",
      links.framesLost,
    ],
    ["weft_frames_expired_total", "counter", "Of the lost ones, those that waited too long.", links.framesExpired],
    [
      "weft_frames_refused_total",
      "counter",
      "Frames of peers that nobody takes, or that made their part fail.",
      links.framesRefused,
    ],
    ["weft_frame_streams_opened_total", "counter", "Streams of frames opened by this node.", links.streamsOpened],
    ["weft_frame_streams_failed_total", "counter", "Streams of frames that could not be opened.", links.opensFailed],
    [
      "weft_frame_streams_broken_total",
      "counter",
      "Streams of frames that ended before their end.",
      links.streamsBroken,
    ],
    [
      "weft_frames_queued_bytes",
      "gauge",
      "Bytes of frames that wait, with what keeping them costs.",
      links.queuedBytes,
    ],
    ["weft_frame_links", "gauge", "Pairs of peer and channel with something to send lately.", links.links],
    ["weft_messages_store_commits_total", "counter", "Commits to the message store.", store.commits],
    [
      "weft_messages_store_transactions_total",
      "counter",
      "Transactions of the message store; several commits share one.",
      store.transactions,
    ],
    [
      "weft_messages_store_transaction_seconds_total",
      "counter",
      "Time spent in transactions of the message store.",
      store.transactionSeconds,
    ],
    ["weft_messages_store_queries_total", "counter", "Queries to the message store.", store.queries],
    ["weft_messages_store_refused_total", "counter", "Requests refused because too many waited.", store.refused],
    ["weft_messages_store_failed_total", "counter", "Requests that failed.", store.failed],
    ["weft_messages_store_pending", "gauge", "Requests under way.", store.pending],
  ];
  return rows.map(([name, type, help, value]) => ({ name, type, help, labels: {}, value }));
}
