/**
 * The IP packet as the data plane looks at it: one object that the IPv4 and IPv6 decoders fill, reused between packets.
 * Nothing in a packet is believed beyond the length it came with: offsets in here always lie within it.
 */
import { Drop } from "../base/drop.ts";
import { decodeIpv4 } from "./ipv4.ts";
import { decodeIpv6 } from "./ipv6.ts";

/** IANA protocol numbers that are looked at. */
export const Protocol = { ICMP: 1, TCP: 6, UDP: 17, ICMPV6: 58, NONE: 59 } as const;

/** Every field is overwritten when a decoder returns `Drop.NONE`; after another result the content means nothing. */
export class IpPacket {
  /** Offset of the IP header in the view. */
  offset = 0;
  /** 4 or 6. */
  version = 0;
  /** IP header with options or extension headers, bytes. */
  headerBytes = 0;
  /** Whole packet by its own length field, ≤ the bytes that were there. */
  totalBytes = 0;
  /** The transport protocol behind any extension headers; NONE (59) when the chain cannot be walked. */
  protocol = 0;
  /** Offset of the transport header in the view (or of the fragment's payload). */
  transportOffset = 0;
  /** Bytes from transportOffset to the end of the packet. */
  transportBytes = 0;
  /** True for every fragment, first ones included. */
  fragment = false;
  /** Position of a fragment's payload in the original, bytes; > 0 means that no transport header is here. */
  fragmentOffsetBytes = 0;
  /** True when IPv4 options or IPv6 extension headers are present. */
  extended = false;
  /** IPv4 DF; always true for IPv6. */
  dontFragment = false;
  /** TOS or traffic class: DSCP << 2 | ECN. */
  trafficClass = 0;
  /** TTL or hop limit. */
  hopLimit = 0;
}

/** Decodes either version. @param length bytes present from `offset` @returns BAD_IP or NONE */
export function decodeIp(view: DataView, offset: number, length: number, out: IpPacket): Drop {
  if (length < 1) return Drop.BAD_IP;
  const version = view.getUint8(offset) >>> 4;
  if (version === 4) return decodeIpv4(view, offset, length, out);
  if (version === 6) return decodeIpv6(view, offset, length, out);
  return Drop.BAD_IP;
}
