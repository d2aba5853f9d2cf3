/**
 * The closed list of reasons for which a packet, datagram or message is thrown away. Each is counted; none is ever an exception.
 * Numbers are positions in the counters, stable only within one build; names are what people and metrics see.
 */
export const Drop = {
  NONE: 0,
  /** Shorter than its format's fixed part, or lengths inside that do not fit. */
  SHORT: 1,
  /** First byte names no protocol we speak. */
  BAD_TYPE: 2,
  /** Receiver index that no live epoch has. */
  UNKNOWN_INDEX: 3,
  /** Counter seen before under this epoch. */
  REPLAY: 4,
  /** Counter below the replay window. */
  OLD: 5,
  /** AEAD tag or signature is wrong. */
  AUTH: 6,
  /** Authenticated, but the inner header or message is malformed. */
  BAD_INNER: 7,
  /** Inner source address belongs to another member. */
  SPOOFED: 8,
  /** Inner destination is neither ours nor a prefix we serve. */
  NOT_FOR_US: 9,
  /** No member owns the destination. */
  NO_ROUTE: 10,
  /** Waited for a session and was displaced or outlived. */
  NO_SESSION: 11,
  /** A bounded queue was full. */
  QUEUE_FULL: 12,
  /** Stood too long in a queue (sojourn-based dropping). */
  SOJOURN: 13,
  /** Does not fit the path; an ICMP error was due. */
  TOO_BIG: 14,
  /** Not a well-formed IPv4 or IPv6 packet. */
  BAD_IP: 15,
  /** Handshake whose mac1 is wrong. */
  MAC1: 16,
  /** Under load and without a valid mac2: a cookie was sent instead. */
  COOKIE_REQUIRED: 17,
  /** Source prefix over its handshake rate. */
  RATE_LIMIT: 18,
  /** The ring to the control thread was full. */
  CONTROL_FULL: 19,
  /** Key past its age or block limit. */
  KEY_EXPIRED: 20,
  /** The TUN refused the packet. */
  TUN_WRITE: 21,
  /** The kernel refused the datagram. */
  UDP_SEND: 22,
  /** Handshake timestamp not newer than the last from that key. */
  STALE_TIMESTAMP: 23,
  /** Static key neither in the roster nor with a live invite. */
  UNKNOWN_PEER: 24,
  /** Too many unproven joins or handshakes at once. */
  TOO_MANY_PENDING: 25,
  /** Fragment that never completed, or fragments over the bound. */
  FRAGMENT: 26,
  /** Valid but unexpected in this state (late, duplicate). */
  UNEXPECTED: 27,
  /** No usable path to the peer. */
  NO_PATH: 28,
  /** User data under an epoch that carries none yet. */
  NOT_READY: 29,
  /** Multicast, broadcast or link-local from the TUN that the mesh does not carry. */
  NOT_UNICAST: 30,
  /** Super-packet whose offload fields contradict its headers. */
  BAD_OFFLOAD: 31,
  /** The node was stopping or the peer was removed while it waited. */
  REMOVED: 32,
  /** Marked as congested on the way, and the packet inside cannot carry the mark (RFC 6040). */
  CONGESTION: 33,
  /** Transit under a label that this node did not give to its sender. */
  UNKNOWN_LABEL: 34,
  /** Transit beyond what its sender may send through this node. */
  QUOTA: 35,
} as const;
export type Drop = (typeof Drop)[keyof typeof Drop];

export const DROP_NAMES: readonly string[] = Object.keys(Drop);
export const DROP_COUNT: number = DROP_NAMES.length;
