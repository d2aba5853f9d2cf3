/**
 * The Internet checksum: bulk sums, pseudo headers, completing and verifying transport checksums, incremental updates.
 * Source: RFC 1071 (algorithm), RFC 1624 eqn. 3 (incremental update), RFC 768 (UDP: 0 is sent as 0xFFFF), RFC 8200 §8.1.
 *
 * A "sum" is a non-negative number below 2^32 whose value modulo 0xFFFF counts; `fold` brings it to 16 bits. Sums of parts may be added
 * as plain numbers when every part but the last has an even length. Nothing here allocates.
 */

/** IP protocol numbers whose checksum this file knows. */
const ICMP = 1;
const TCP = 6;
const UDP = 17;
const ICMPV6 = 58;

/**
 * Ones' complement sum of `bytes` octets at `offset`, taken as big-endian 16-bit words; an odd last octet is padded with zero.
 * The words are read little-endian, 32 bits at a time, into doubles (exact below 2^53) and swapped once at the end (RFC 1071 §2 B).
 * @param bytes 0 to 2^22; the caller guarantees that they lie within both views, which show the same memory
 * @param initial another sum to add, below 2^32
 * @returns a sum below 2^32
 */
export function sum16(u8: Uint8Array, view: DataView, offset: number, bytes: number, initial: number = 0): number {
  const end = offset + bytes;
  let position = offset;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (; position + 32 <= end; position += 32) {
    a += view.getUint32(position, true) + view.getUint32(position + 16, true);
    b += view.getUint32(position + 4, true) + view.getUint32(position + 20, true);
    c += view.getUint32(position + 8, true) + view.getUint32(position + 24, true);
    d += view.getUint32(position + 12, true) + view.getUint32(position + 28, true);
  }
  for (; position + 4 <= end; position += 4) a += view.getUint32(position, true);
  if (position + 2 <= end) {
    b += view.getUint16(position, true);
    position += 2;
  }
  if (position < end) c += u8[position];
  const sum = fold(a + b + c + d);
  return fold(initial) + (((sum & 0xff) << 8) | (sum >>> 8));
}

/** @param sum any non-negative integer below 2^53 @returns the same sum in 16 bits (0 only for 0) */
export function fold(sum: number): number {
  const low = sum >>> 0;
  const high = (sum - low) / 4294967296;
  let folded = (low & 0xffff) + (low >>> 16) + (high & 0xffff) + (high >>> 16);
  folded = (folded & 0xffff) + (folded >>> 16);
  return (folded & 0xffff) + (folded >>> 16);
}

/**
 * Sum of the pseudo header of the IPv4 or IPv6 packet at `ipOffset` (the version nibble decides).
 * The caller has checked that the fixed header is there (20 or 40 bytes).
 * @param transportBytes length of the transport header and its payload
 */
export function pseudoHeaderSum(view: DataView, ipOffset: number, protocol: number, transportBytes: number): number {
  let sum = protocol + (transportBytes & 0xffff) + (transportBytes >>> 16);
  const ipv4 = view.getUint8(ipOffset) >>> 4 === 4;
  const start = ipv4 ? ipOffset + 12 : ipOffset + 8;
  const end = ipv4 ? ipOffset + 20 : ipOffset + 40;
  for (let position = start; position < end; position += 4) {
    const word = view.getUint32(position);
    sum += (word >>> 16) + (word & 0xffff);
  }
  return sum;
}

/** @param headerBytes 20–60 @returns what belongs into the header's checksum field, whatever is in it now */
export function ipv4HeaderChecksum(view: DataView, offset: number, headerBytes: number): number {
  let sum = -view.getUint16(offset + 10);
  for (let position = offset; position < offset + headerBytes; position += 4) {
    const word = view.getUint32(position);
    sum += (word >>> 16) + (word & 0xffff);
  }
  return ~fold(sum) & 0xffff;
}

/** True when the IPv4 header's own checksum is right. */
export function ipv4HeaderOk(view: DataView, offset: number, headerBytes: number): boolean {
  return ipv4HeaderChecksum(view, offset, headerBytes) === view.getUint16(offset + 10);
}

/** @returns offset of the checksum within the transport header, or −1 for a protocol without one that we know */
export function checksumOffset(protocol: number): number {
  if (protocol === TCP) return 16;
  if (protocol === UDP) return 6;
  if (protocol === ICMP || protocol === ICMPV6) return 2;
  return -1;
}

/** The checksum that the transport header should carry (as it goes on the wire), taking its checksum field as zero. */
function transportChecksum(
  u8: Uint8Array,
  view: DataView,
  ipOffset: number,
  transportOffset: number,
  transportBytes: number,
  protocol: number,
): number {
  const field = checksumOffset(protocol);
  const pseudo = protocol === ICMP ? 0 : pseudoHeaderSum(view, ipOffset, protocol, transportBytes);
  // Adding the complement of the present value takes the field out of the sum without writing to the packet.
  const withoutField = pseudo + (~view.getUint16(transportOffset + field) & 0xffff);
  const checksum = ~fold(sum16(u8, view, transportOffset, transportBytes, withoutField)) & 0xffff;
  return checksum === 0 && protocol === UDP ? 0xffff : checksum;
}

/**
 * Writes the whole transport checksum, whatever the field holds now (a partial one of the kernel included). UDP 0 becomes 0xFFFF.
 * @param transportBytes transport header and payload of this packet
 * @returns false when the protocol has no checksum we know or the packet ends before the field; nothing is written then
 */
export function completeTransportChecksum(
  u8: Uint8Array,
  view: DataView,
  ipOffset: number,
  transportOffset: number,
  transportBytes: number,
  protocol: number,
): boolean {
  const field = checksumOffset(protocol);
  if (field < 0 || transportBytes < field + 2) return false;
  view.setUint16(
    transportOffset + field,
    transportChecksum(u8, view, ipOffset, transportOffset, transportBytes, protocol),
  );
  return true;
}

/**
 * Writes the partial checksum that a vnet header with NEEDS_CSUM expects: the folded pseudo-header sum, not complemented.
 * @returns as completeTransportChecksum; only TCP and UDP can be partial
 */
export function writePartialChecksum(
  view: DataView,
  ipOffset: number,
  transportOffset: number,
  transportBytes: number,
  protocol: number,
): boolean {
  if (protocol !== TCP && protocol !== UDP) return false;
  const field = checksumOffset(protocol);
  if (transportBytes < field + 2) return false;
  view.setUint16(transportOffset + field, fold(pseudoHeaderSum(view, ipOffset, protocol, transportBytes)));
  return true;
}

/**
 * True when the transport checksum is present and right. A UDP checksum of 0 ("none", RFC 768) is not verified and so not ok: a
 * packet without one must never be merged with others under one that we made up.
 */
export function transportChecksumOk(
  u8: Uint8Array,
  view: DataView,
  ipOffset: number,
  transportOffset: number,
  transportBytes: number,
  protocol: number,
): boolean {
  const field = checksumOffset(protocol);
  if (field < 0 || transportBytes < field + 2) return false;
  if (protocol === UDP && view.getUint16(transportOffset + field) === 0) return false;
  const pseudo = protocol === ICMP ? 0 : pseudoHeaderSum(view, ipOffset, protocol, transportBytes);
  return fold(sum16(u8, view, transportOffset, transportBytes, pseudo)) === 0xffff;
}

/**
 * RFC 1624 eqn. 3: the checksum after one aligned 16-bit word of the covered bytes changed.
 * @returns 16 bits; for UDP the caller leaves a checksum of 0 ("none") alone and writes 0xFFFF for a result of 0
 */
export function updateChecksum(checksum: number, oldWord: number, newWord: number): number {
  return ~fold((~checksum & 0xffff) + (~oldWord & 0xffff) + newWord) & 0xffff;
}

/** The same for an aligned 32-bit value, for example an IPv4 address. @param oldValue @param newValue 0 to 2^32 − 1 */
export function updateChecksum32(checksum: number, oldValue: number, newValue: number): number {
  const changed = updateChecksum(checksum, oldValue >>> 16, newValue >>> 16);
  return updateChecksum(changed, oldValue & 0xffff, newValue & 0xffff);
}
