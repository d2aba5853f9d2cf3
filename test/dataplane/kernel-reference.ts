/**
 * What the kernel does with a vnet header, written plainly: splits a super-packet into its segments and completes partial checksums.
 * Slow and independent of src/, so that it can judge the data plane. Source: virtio 1.2 section 5.1.6, RFC 793, 768, 791, 8200.
 */

export function checksum(bytes: Uint8Array, initial: number): number {
  let sum = initial;
  for (let i = 0; i < bytes.length; i++) sum += i % 2 === 0 ? bytes[i] * 256 : bytes[i];
  while (sum > 0xffff) sum = (sum % 65536) + Math.floor(sum / 65536);
  return 0xffff - sum;
}

export function headerBytesOf(packet: Uint8Array): { ip: number; transport: number; protocol: number } {
  const version = packet[0] >> 4;
  const ip = version === 4 ? (packet[0] & 15) * 4 : 40;
  const protocol = version === 4 ? packet[9] : packet[6];
  const transport = protocol === 6 ? (packet[ip + 12] >> 4) * 4 : 8;
  return { ip, transport, protocol };
}

function pseudo(packet: Uint8Array, ip: number, protocol: number): number {
  let sum = protocol + (packet.length - ip);
  const addresses = packet[0] >> 4 === 4 ? packet.subarray(12, 20) : packet.subarray(8, 40);
  for (let i = 0; i < addresses.length; i += 2) sum += addresses[i] * 256 + addresses[i + 1];
  return sum;
}

/** Sets lengths, the IPv4 header checksum and the transport checksum of a packet, all of them from scratch. */
export function finish(packet: Uint8Array): Uint8Array {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  const { ip, protocol } = headerBytesOf(packet);
  if (packet[0] >> 4 === 4) {
    view.setUint16(2, packet.length);
    view.setUint16(10, 0);
    view.setUint16(10, checksum(packet.subarray(0, ip), 0));
  } else {
    view.setUint16(4, packet.length - 40);
  }
  const field = ip + (protocol === 6 ? 16 : 6);
  if (protocol === 17) view.setUint16(ip + 4, packet.length - ip);
  view.setUint16(field, 0);
  const sum = checksum(packet.subarray(ip), pseudo(packet, ip, protocol));
  view.setUint16(field, protocol === 17 && sum === 0 ? 0xffff : sum);
  return packet;
}

export function transportOk(packet: Uint8Array): boolean {
  const { ip, protocol } = headerBytesOf(packet);
  return checksum(packet.subarray(ip), pseudo(packet, ip, protocol)) === 0;
}

/** @param framed vnet header (10 bytes, little-endian) and packet @returns the packets that go on a wire */
export function segment(framed: Uint8Array): Uint8Array[] {
  const vnet = new DataView(framed.buffer, framed.byteOffset, 10);
  const packet = framed.slice(10);
  const needsChecksum = (vnet.getUint8(0) & 1) !== 0;
  const type = vnet.getUint8(1) & 0x7f;
  const size = vnet.getUint16(4, true);
  if (type === 0) {
    if (!needsChecksum) return [packet];
    const start = vnet.getUint16(6, true);
    const offset = vnet.getUint16(8, true);
    const view = new DataView(packet.buffer);
    // the field holds the pseudo-header sum; the kernel sums from csum_start over it
    const sum = checksum(packet.subarray(start), 0);
    view.setUint16(start + offset, sum === 0 ? 0xffff : sum);
    return [packet];
  }
  const { ip, transport, protocol } = headerBytesOf(packet);
  const head = ip + transport;
  const payload = packet.subarray(head);
  const out: Uint8Array[] = [];
  for (let at = 0, i = 0; at < payload.length; at += size, i++) {
    const part = payload.subarray(at, at + size);
    const one = new Uint8Array(head + part.length);
    one.set(packet.subarray(0, head));
    one.set(part, head);
    const view = new DataView(one.buffer);
    const last = at + size >= payload.length;
    if (packet[0] >> 4 === 4) view.setUint16(4, (view.getUint16(4) + i) & 0xffff);
    if (protocol === 6) {
      view.setUint32(ip + 4, (view.getUint32(ip + 4) + at) >>> 0);
      let flags = one[ip + 13];
      if (!last) flags &= ~0x09;
      if (i > 0) flags &= ~0x80;
      one[ip + 13] = flags;
    }
    out.push(finish(one));
  }
  return out;
}
