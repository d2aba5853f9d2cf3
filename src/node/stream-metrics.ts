/** The counters of streams as Prometheus samples: weft_stream_…, without labels, so their number is fixed. */
import type { MetricSample } from "../api/control.ts";
import type { StreamCounters } from "../stream/types.ts";

const HELP: Readonly<Record<keyof StreamCounters, string>> = {
  connectionsEstablished: "QUIC connections with peers that came up.",
  connectionsReplaced: "Connections given up because an end had lost its state or nothing came back.",
  connectionsClosed: "Connections that ended otherwise: idle, succeeded, peer gone, stop.",
  connectionsFailed: "Handshakes that were never answered.",
  connectionsRefused: "Connections that a peer wanted beyond the limits.",
  keysRefused: "Handshakes with another key than the node's.",
  streamsOpened: "Streams opened by this node.",
  streamsAccepted: "Streams opened by peers.",
  streamsRefused: "Opens refused because too many waited.",
  streamsReset: "Streams that a peer ended abruptly.",
  openingsRefused: "Streams of peers with a bad opening or of a kind that is not served.",
  datagramsIn: "QUIC datagrams taken.",
  datagramsOut: "QUIC datagrams handed to the data plane.",
  datagramsDropped: "QUIC datagrams that belonged to no connection's state or found its buffer full.",
  datagramsDelayed: "Times a datagram waited because the data plane had no room.",
  resetsSent: "Answers to datagrams of connections that this node does not know.",
  resetsReceived: "Such answers from peers.",
  bytesIn: "Bytes of streams handed to applications.",
  bytesOut: "Bytes of streams taken from applications.",
  connections: "QUIC connections now.",
  streams: "Streams now.",
  opensWaiting: "Opens that wait for a connection or for room.",
};
const GAUGES: ReadonlySet<string> = new Set(["connections", "streams", "opensWaiting"]);

export function streamSamples(counters: StreamCounters): MetricSample[] {
  return Object.entries(HELP).map(([name, help]) => {
    const isGauge = GAUGES.has(name);
    const snake = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    return {
      name: isGauge ? `weft_stream_${snake}` : `weft_stream_${snake}_total`,
      type: isGauge ? "gauge" : "counter",
      help,
      labels: {},
      value: counters[name as keyof StreamCounters],
    };
  });
}
