/**
 * Keeps TCP from using segments that the path does not take: the MSS of a SYN or SYN-ACK, coming or going, is lowered to what fits the active path.
 * The route's own `mtu` does that for this host's connections; this is for those of hosts behind it. Source: docs/protocol.md, "Packets that do not fit".
 */
import { clampMss } from "../wire/tcp.ts";
import type { PeerState } from "./peer.ts";

const TCP_HEADER_BYTES = 20;
const MIN_IPV6_MTU_BYTES = 1_280;

/**
 * Changes nothing but a SYN.
 * @param ip slab offset of an IPv4 or IPv6 packet @param ipBytes header length @param bytes of the whole packet
 * @param partial its checksum field holds only the pseudo-header sum
 */
export function clampSyn(
  view: DataView,
  ip: number,
  ipBytes: number,
  bytes: number,
  partial: boolean,
  peer: PeerState,
): void {
  const tcp = ip + ipBytes;
  if (bytes < ipBytes + TCP_HEADER_BYTES) return;
  // without a path nothing is known, and the peer's side lowers what is too much
  if (peer.paths.active < 0) return;
  const isSix = view.getUint8(ip) >>> 4 === 6;
  if (!isSix && (view.getUint16(ip + 6) & 0x1fff) !== 0) return;
  const headerBytes = (view.getUint8(tcp + 12) >>> 4) * 4;
  if (headerBytes < TCP_HEADER_BYTES || bytes < ipBytes + headerBytes) return;
  const fits = isSix ? Math.max(MIN_IPV6_MTU_BYTES, peer.maxPacketBytes) : peer.maxPacketBytes;
  clampMss(view, tcp, headerBytes, fits - (isSix ? 40 : 20) - TCP_HEADER_BYTES, partial);
}
