/**
 * The narrow doors between the data-plane engine and the machine. src/sys implements them on Linux; the simulator and the tests
 * implement them in memory. No method throws or allocates; a negative result is -errno. All offsets are into the one slab.
 */

/** Bytes of the vnet header in front of every TUN packet (struct virtio_net_hdr without num_buffers, host endian). */
export const VNET_HEADER_BYTES = 10;

export interface TunPort {
  /** Bit set of TUN_F_* offloads in force; 0 when the device hands out and takes single packets only. */
  readonly offloads: number;
  /** Reads one packet with its vnet header. @returns bytes including the header, or -errno (-EAGAIN when empty) */
  read(offset: number, maxBytes: number): number;
  /** Gathered write of one packet: begin, add the vnet header and its parts in order (at most 128), commit. @returns bytes or -errno */
  beginWrite(): void;
  addPart(offset: number, bytes: number): void;
  commitWrite(): number;
}

export interface UdpPort {
  /** Receives up to `maxMessages` (≤ 64) datagrams or GRO trains of one family. @returns count or -errno */
  receive(family: 4 | 6, maxMessages: number): number;
  /** Of message i after receive(): where its bytes are, how many, and the segment size (= bytes when it is a single datagram). */
  readonly messageOffset: Int32Array;
  readonly messageBytes: Int32Array;
  readonly messageSegmentBytes: Int32Array;
  /** Slab offset of the name block of message i (remote and local address); valid until the next receive(). */
  readonly messageName: Int32Array;
  /** Datagrams the kernel threw away because the receive buffer was full, since start (SO_RXQ_OVFL). */
  readonly overflowed: Float64Array;
  /**
   * Sends `bytes` from `offset` as datagrams of `segmentBytes` each (the last may be shorter) with UDP_SEGMENT when there are several (≤ 64).
   * The name block's local address and interface are used as the source unless zero; its ECN bits go into the outer IP header.
   * @returns bytes accepted or -errno
   */
  send(offset: number, bytes: number, segmentBytes: number, name: number): number;
  /**
   * Opens up to `count` extra IPv4 sockets on random ports; what they receive comes out of receive(4), with the socket's number as NAME_SOCKET, and
   * send() uses the socket that the name block names. @param ids takes the numbers @returns how many were opened
   */
  openExtra(count: number, ids: number[]): number;
  closeExtra(id: number): void;
  /** Kill switch `gro`: whether the kernel may join datagrams of one flow. */
  setGro(enabled: boolean): void;
  /** Send buffer of the family's socket in bytes. */
  setSendBuffer(family: 4 | 6, bytes: number): void;
  /**
   * Takes one entry of the error queue. @returns 0 when empty, else 1 with the fields of `error` set.
   */
  takeError(family: 4 | 6): number;
  readonly error: UdpError;
}

/** One message of the socket's error queue (ICMP errors and local send errors), overwritten by takeError(). */
export interface UdpError {
  /** errno, e.g. EMSGSIZE */
  errno: number;
  /** SO_EE_ORIGIN_*: 1 local, 2 ICMP, 3 ICMPv6 */
  origin: number;
  /** ee_info: the next-hop MTU for EMSGSIZE */
  info: number;
  /** name block offset of the destination that failed */
  name: number;
}

/** Ready bits of PollPort.wait() and interest bits passed to it. */
export const Ready = {
  TUN: 1,
  UDP4: 2,
  UDP6: 4,
  WAKE: 8,
  NETLINK: 16,
  TUN_WRITABLE: 32,
  UDP4_WRITABLE: 64,
  UDP6_WRITABLE: 128,
  UDP4_ERROR: 256,
  UDP6_ERROR: 512,
} as const;

export interface PollPort {
  /** Sleeps until one of `interest` is ready or `timeoutMs` (fractional, bounded to 1,000) has passed. @returns ready bits (0 = time-out) */
  wait(interest: number, timeoutMs: number): number;
  /** Empties the eventfd after WAKE. */
  clearWake(): void;
  /** Drains the netlink socket after NETLINK. @returns true when an address, link or route changed */
  drainNetlink(): boolean;
}

export interface AeadPort {
  /** A context for one key and one direction. @param key 32 bytes, copied; the caller zeroises its own */
  create(cipher: number, key: Uint8Array, direction: "seal" | "open"): number;
  /** Frees and zeroises a context made by create(). */
  destroy(handle: number): void;
  /**
   * Seals `bytes` at `source` to `target` (same place or not overlapping) and writes the 16-byte tag behind the ciphertext.
   * Nonce = 4 zero bytes ‖ counter u64 little-endian.
   */
  seal(handle: number, counterLow: number, counterHigh: number, source: number, bytes: number, target: number): void;
  /** Opens `bytes` of ciphertext at `source`, whose tag follows it, to `target` (same place or not overlapping). @returns false when forged */
  open(handle: number, counterLow: number, counterHigh: number, source: number, bytes: number, target: number): boolean;
}

/** HMAC-SHA256 over slab memory for the handshake gate. */
export interface MacPort {
  /** @param key any length, copied @returns handle */
  create(key: Uint8Array): number;
  destroy(handle: number): void;
  /** Writes the full 32-byte HMAC of slab[source, source+bytes) to slab[target]. */
  compute(handle: number, source: number, bytes: number, target: number): void;
}
