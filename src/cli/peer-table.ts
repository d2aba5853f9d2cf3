/** The table of peers as `status` and `peers` print it. */
import type { PeerView } from "../api/control.ts";
import { age, bytes, milliseconds, paint, path, table } from "./format.ts";

/**
 * @param earlier figures of the refresh before and the time since then, for rates
 * @param presence by node id, of those whose presence is watched
 */
export function peerTable(
  peers: readonly PeerView[],
  earlier?: { readonly peers: readonly PeerView[]; readonly elapsedMs: number },
  presence: ReadonlyMap<string, string> = new Map(),
): string {
  if (peers.length === 0) return "no other member yet; `weft invite` on an admin prints a token for the next one";
  const rate = (peer: PeerView, field: "txBytes" | "rxBytes"): string => {
    const before = earlier?.peers.find((other) => other.id === peer.id);
    if (earlier === undefined || before === undefined || earlier.elapsedMs <= 0) return bytes(peer[field]);
    return `${bytes(Math.max(0, (peer[field] - before[field]) * (1000 / earlier.elapsedMs)))}/s`;
  };
  const rows = peers.map((peer) => [
    peer.name,
    peer.addresses[0] ?? "–",
    peer.online ? paint("green", "online") : paint("gray", peer.lastError === null ? "offline" : "failed"),
    path(peer.path),
    milliseconds(peer.rttMs),
    `${(peer.loss * 100).toFixed(peer.loss > 0 && peer.loss < 0.1 ? 1 : 0)} %`,
    peer.pmtu === null ? "–" : String(peer.pmtu),
    rate(peer, "txBytes"),
    rate(peer, "rxBytes"),
    age(peer.lastDeliveryMs),
    age(peer.epochAgeMs),
    peer.cipher === "none" ? "–" : peer.cipher,
    peer.cipher === "none" ? "–" : peer.hybrid ? "yes" : "no",
    ...(presence.size === 0 ? [] : [presence.get(peer.id) ?? "–"]),
  ]);
  return table(
    [
      "PEER",
      "ADDRESS",
      "STATE",
      "PATH",
      "RTT",
      "LOSS",
      "PMTU",
      "SENT",
      "RECEIVED",
      "HEARD",
      "KEYS",
      "CIPHER",
      "HYBRID",
      ...(presence.size === 0 ? [] : ["PRESENCE"]),
    ],
    rows,
    [4, 5, 6, 7, 8, 9, 10],
  );
}
