/**
 * The data plane's counters as Prometheus samples: weft_…_total, _bytes and _seconds. Drops carry direction and reason as labels, both
 * from closed lists; peers are bounded by the roster and named by it.
 */
import type { MetricSample, PeerView } from "../api/control.ts";

interface Family {
  readonly name: string;
  readonly type: "counter" | "gauge";
  readonly help: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const counter = (name: string, help: string, labels?: Readonly<Record<string, string>>): Family =>
  labels === undefined ? { name, type: "counter", help } : { name, type: "counter", help, labels };

/** Counter of dataplane/stats.ts → metric. One that is not listed is exported as weft_plane_NAME_total, so that none gets lost. */
const PLANE: Readonly<Record<string, Family>> = {
  tunRxReads: counter("weft_tun_calls_total", "Reads from and writes to the interface.", { direction: "rx" }),
  tunTxWrites: counter("weft_tun_calls_total", "Reads from and writes to the interface.", { direction: "tx" }),
  tunRxPackets: counter(
    "weft_tun_packets_total",
    "IP packets read from (rx) and written to (tx) the interface, segments counted one by one.",
    { direction: "rx" },
  ),
  tunTxPackets: counter(
    "weft_tun_packets_total",
    "IP packets read from (rx) and written to (tx) the interface, segments counted one by one.",
    { direction: "tx" },
  ),
  tunRxBytes: counter("weft_tun_bytes_total", "Bytes of those packets.", { direction: "rx" }),
  tunTxBytes: counter("weft_tun_bytes_total", "Bytes of those packets.", { direction: "tx" }),
  udpRxCalls: counter("weft_udp_calls_total", "Receive and send calls on the underlay sockets.", { direction: "rx" }),
  udpTxCalls: counter("weft_udp_calls_total", "Receive and send calls on the underlay sockets.", { direction: "tx" }),
  udpRxDatagrams: counter("weft_udp_datagrams_total", "Datagrams on the underlay.", { direction: "rx" }),
  udpTxDatagrams: counter("weft_udp_datagrams_total", "Datagrams on the underlay.", { direction: "tx" }),
  udpRxBytes: counter("weft_udp_bytes_total", "UDP payload bytes on the underlay.", { direction: "rx" }),
  udpTxBytes: counter("weft_udp_bytes_total", "UDP payload bytes on the underlay.", { direction: "tx" }),
  txPackets: counter("weft_packets_total", "User packets sealed and sent (tx), opened and delivered (rx).", {
    direction: "tx",
  }),
  rxPackets: counter("weft_packets_total", "User packets sealed and sent (tx), opened and delivered (rx).", {
    direction: "rx",
  }),
  txInternal: counter(
    "weft_internal_datagrams_total",
    "Datagrams of Weft's own: handshakes, probes, reports, keepalives, control.",
    { direction: "tx" },
  ),
  rxInternal: counter(
    "weft_internal_datagrams_total",
    "Datagrams of Weft's own: handshakes, probes, reports, keepalives, control.",
    { direction: "rx" },
  ),
  queued: { name: "weft_queued_packets", type: "gauge", help: "Packets standing in queues now." },
  receiveOverflow: counter(
    "weft_udp_receive_overflow_total",
    "Datagrams the kernel dropped because the receive buffer was full.",
  ),
  gsoFallbacks: counter("weft_gso_fallbacks_total", "Times segmentation offload was switched off for a family."),
  cookieReplies: counter("weft_cookie_replies_total", "Handshakes answered with a cookie under load."),
};

const STAGE_HELP = "Time in one stage of the data plane, one clock reading per batch.";
const BUCKETS = 16;

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`).replace(/[^a-z0-9_]/g, "_");
}

/** @param counters DataplaneHandle.counters() */
export function planeSamples(counters: ReadonlyMap<string, number>): MetricSample[] {
  const samples: MetricSample[] = [];
  for (const [name, value] of counters) {
    const drop = /^drop_(?:(tx|rx)_)?(.+)$/.exec(name);
    const stage = /^hist_(.+)_count$/.exec(name);
    if (drop !== null) {
      samples.push({
        name: "weft_drops_total",
        type: "counter",
        help: "Packets dropped, by direction and reason.",
        labels: { direction: drop[1] ?? "any", reason: drop[2].toLowerCase() },
        value,
      });
    } else if (stage !== null) {
      samples.push(histogram(counters, stage[1], value), ...stageGauges(counters, stage[1], value));
    } else if (!name.startsWith("hist_")) {
      const family = PLANE[name] ?? counter(`weft_plane_${snake(name)}_total`, `Data-plane counter ${name}.`);
      samples.push({ name: family.name, type: family.type, help: family.help, labels: family.labels ?? {}, value });
    }
  }
  return samples;
}

/** Mean and 95th percentile (the upper bound of its bucket) since start, for those who look without a query language. */
function stageGauges(counters: ReadonlyMap<string, number>, stage: string, count: number): MetricSample[] {
  let seen = 0;
  let p95 = 0;
  for (let i = 0; i < BUCKETS && seen < count * 0.95; i++) {
    seen += counters.get(`hist_${stage}_bucket_${i}`) ?? 0;
    p95 = 2 ** i / 1e6;
  }
  const mean = count === 0 ? 0 : (counters.get(`hist_${stage}_sum_us`) ?? 0) / count / 1e6;
  const labels = { stage };
  return [
    {
      name: "weft_stage_mean_seconds",
      type: "gauge",
      help: "Mean time in one stage since start.",
      labels,
      value: mean,
    },
    {
      name: "weft_stage_p95_seconds",
      type: "gauge",
      help: "95th percentile, as the bound of its bucket.",
      labels,
      value: p95,
    },
  ];
}

/** Buckets of base/histogram.ts: the i-th counts values below 2^i µs, the last all others. */
function histogram(counters: ReadonlyMap<string, number>, stage: string, count: number): MetricSample {
  const buckets: [number, number][] = [];
  let cumulative = 0;
  for (let i = 0; i < BUCKETS - 1; i++) {
    cumulative += counters.get(`hist_${stage}_bucket_${i}`) ?? 0;
    buckets.push([2 ** i / 1e6, cumulative]);
  }
  buckets.push([Infinity, count]);
  return {
    name: "weft_stage_seconds",
    type: "histogram",
    help: STAGE_HELP,
    labels: { stage },
    value: count,
    buckets,
    sum: (counters.get(`hist_${stage}_sum_us`) ?? 0) / 1e6,
  };
}

export function peerSamples(peers: readonly PeerView[]): MetricSample[] {
  const samples: MetricSample[] = [];
  for (const peer of peers) {
    const labels = { peer: peer.name };
    const gauge = (name: string, help: string, value: number | null): void => {
      if (value !== null) samples.push({ name, type: "gauge", help, labels, value });
    };
    gauge("weft_peer_online", "1 when payload can be exchanged with the peer.", peer.online ? 1 : 0);
    gauge(
      "weft_peer_rtt_seconds",
      "Round-trip time of the active path.",
      peer.rttMs === null ? null : peer.rttMs / 1000,
    );
    gauge("weft_peer_loss_ratio", "Share of packets lost on the active path.", peer.loss);
    gauge("weft_peer_path_mtu_bytes", "Largest underlay packet of the active path.", peer.pmtu);
    gauge(
      "weft_peer_key_age_seconds",
      "Age of the keys in use.",
      peer.epochAgeMs === null ? null : peer.epochAgeMs / 1000,
    );
    for (const [direction, value] of [
      ["tx", peer.txBytes],
      ["rx", peer.rxBytes],
    ] as const) {
      samples.push({
        name: "weft_peer_bytes_total",
        type: "counter",
        help: "Bytes exchanged with the peer.",
        labels: { ...labels, direction },
        value,
      });
    }
    gauge("weft_peer_queued_packets", "Packets waiting to be sent to the peer.", peer.queuedPackets);
    gauge("weft_peer_delivery_bits_per_second", "Delivery rate that the peer reports.", peer.deliveryBps ?? 0);
    for (const [direction, value] of [
      ["tx", peer.dropped.tx],
      ["rx", peer.dropped.rx],
    ] as const) {
      samples.push({
        name: "weft_peer_drops_total",
        type: "counter",
        help: "Packets to or from the peer that were dropped.",
        labels: { ...labels, direction },
        value,
      });
    }
    samples.push({
      name: "weft_peer_spoofed_total",
      type: "counter",
      help: "Packets from the peer with another member's source address, dropped.",
      labels,
      value: peer.dropped.spoofed,
    });
    samples.push({
      name: "weft_peer_forwarded_bytes_total",
      type: "counter",
      help: "Bytes of the peer that this node handed on to others.",
      labels,
      value: peer.forwarded.bytes,
    });
    samples.push({
      name: "weft_peer_forward_drops_total",
      type: "counter",
      help: "Datagrams of the peer for others that were more than its quota, dropped.",
      labels,
      value: peer.forwarded.dropped,
    });
  }
  return samples;
}

export interface ProcessFigures {
  readonly version: string;
  readonly bootId: string;
  readonly uptimeSeconds: number;
  readonly residentBytes: number;
  readonly cpuSeconds: number;
  readonly storeCommits: number;
  readonly storeCommitSeconds: number;
  readonly storeRefused: number;
  readonly commandsWaiting: number;
  readonly commandsDropped: number;
  readonly loopDelaySeconds: number;
  /** Growing counters of the mesh by name; those ending in "Now" are gauges. */
  readonly mesh: Readonly<Record<string, number>>;
}

export function processSamples(figures: ProcessFigures): MetricSample[] {
  const one = (
    name: string,
    type: "counter" | "gauge",
    help: string,
    value: number,
    labels: Record<string, string> = {},
  ): MetricSample => ({ name, type, help, labels, value });
  const samples = [
    one("weft_build_info", "gauge", "Version and boot id of this run; counters begin at 0 with each boot id.", 1, {
      version: figures.version,
      boot_id: figures.bootId,
    }),
    one("weft_uptime_seconds", "gauge", "Time since the node started.", figures.uptimeSeconds),
    one(
      "weft_resident_memory_bytes",
      "gauge",
      "Resident memory of the process with all threads.",
      figures.residentBytes,
    ),
    one("weft_cpu_seconds_total", "counter", "CPU time of the process with all threads.", figures.cpuSeconds),
    one(
      "weft_control_loop_delay_seconds",
      "gauge",
      "Longest delay of the control thread's event loop since the scrape before.",
      figures.loopDelaySeconds,
    ),
    one("weft_store_commits_total", "counter", "Write requests that reached the disk.", figures.storeCommits),
    one(
      "weft_store_commit_seconds_total",
      "counter",
      "Time those requests waited for their commit.",
      figures.storeCommitSeconds,
    ),
    one("weft_store_refused_total", "counter", "Writes refused because the queue was full.", figures.storeRefused),
    one(
      "weft_plane_commands_waiting",
      "gauge",
      "Commands waiting for room in the ring to the data plane.",
      figures.commandsWaiting,
    ),
    one(
      "weft_plane_commands_dropped_total",
      "counter",
      "Commands dropped because too many waited.",
      figures.commandsDropped,
    ),
  ];
  for (const [name, value] of Object.entries(figures.mesh)) {
    const now = name.endsWith("Now");
    const base = `weft_mesh_${snake(now ? name.slice(0, -3) : name)}`;
    samples.push(one(now ? base : `${base}_total`, now ? "gauge" : "counter", `Mesh counter ${name}.`, value));
  }
  return samples;
}
