/**
 * What passed on a device, as UDP payloads: tcpdump writes, this reads (libpcap's classic format, microsecond or nanosecond stamps,
 * either byte order). Watch a device that shows single packets, such as those of the impairment router: on a veth a train of
 * segments (GSO) appears as one packet that is longer than any datagram was.
 * Source: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html
 */
import { readFileSync, statSync } from "node:fs";
import { Drop } from "../src/base/drop.ts";
import { decodeIp, IpPacket } from "../src/wire/ip.ts";
import type { Host } from "./namespaces.ts";
import { LabError, until, type Daemon } from "./process.ts";

const FILE_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;
const LINKTYPE_ETHERNET = 1;
const LINKTYPE_RAW = 101;
const UDP = 17;
const UDP_HEADER_BYTES = 8;
const QUIET_POLLS = 5;

export interface CapturedDatagram {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly payload: Uint8Array;
}

/** @returns the UDP payloads of whole, unfragmented datagrams in order. Throws LabError for another file format. */
export function readPcap(file: string): CapturedDatagram[] {
  const bytes = readFileSync(file);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = view.getUint32(0, true);
  const little = magic === 0xa1b2c3d4 || magic === 0xa1b23c4d;
  if (!little && magic !== 0xd4c3b2a1 && magic !== 0x4d3cb2a1) throw new LabError("PCAP", `${file} is no pcap file`);
  const linkType = view.getUint32(20, little) & 0xffff;
  if (linkType !== LINKTYPE_ETHERNET && linkType !== LINKTYPE_RAW)
    throw new LabError("PCAP", `${file} has link type ${linkType}`);
  const skip = linkType === LINKTYPE_ETHERNET ? 14 : 0;
  const found: CapturedDatagram[] = [];
  const packet = new IpPacket();
  for (let at = FILE_HEADER_BYTES; at + RECORD_HEADER_BYTES <= bytes.length;) {
    const length = view.getUint32(at + 8, little);
    const start = at + RECORD_HEADER_BYTES;
    at = start + length;
    // The last record may be cut off when the writer was stopped.
    if (at > bytes.length) break;
    if (length <= skip || decodeIp(view, start + skip, length - skip, packet) !== Drop.NONE) continue;
    if (packet.protocol !== UDP || packet.fragment || packet.transportBytes < UDP_HEADER_BYTES) continue;
    const udp = packet.transportOffset;
    found.push({
      sourcePort: view.getUint16(udp),
      destinationPort: view.getUint16(udp + 2),
      payload: new Uint8Array(bytes.subarray(udp + UDP_HEADER_BYTES, udp + packet.transportBytes)),
    });
  }
  return found;
}

/** A running tcpdump. */
export class Capture {
  readonly #daemon: Daemon;
  readonly #file: string;

  private constructor(daemon: Daemon, file: string) {
    this.#daemon = daemon;
    this.#file = file;
  }

  /** Watches `device` of a host into `file` from the moment this resolves. @param filter in tcpdump's language */
  static async start(host: Host, device: string, file: string, filter = "udp"): Promise<Capture> {
    // -U writes every packet at once, -B is the kernel's buffer in KiB: nothing may be missing.
    const args = ["-i", device, "-w", file, "-U", "-B", "65536", "-Z", "root", "--immediate-mode", filter];
    const daemon = host.spawn("tcpdump", args, { name: `${host.name}:tcpdump` });
    await daemon.waitFor(/listening on/, 10_000);
    return new Capture(daemon, file);
  }

  /** Ends the capture. Rejects with LabError when the kernel dropped packets: then the picture is not whole. */
  async stop(): Promise<CapturedDatagram[]> {
    // tcpdump writes a moment behind the packets: wait until nothing has come for a while.
    let size = -1;
    let quiet = 0;
    await until("the capture is written", 10_000, () => {
      const now = statSync(this.#file).size;
      quiet = now === size ? quiet + 1 : 0;
      size = now;
      return Promise.resolve(quiet >= QUIET_POLLS ? true : undefined);
    });
    await this.#daemon.stop("SIGINT");
    const dropped = /(\d+) packets? dropped by kernel/.exec(this.#daemon.lines.join("\n"));
    if (dropped !== null && dropped[1] !== "0")
      throw new LabError("CAPTURE", `${dropped[1]} packets missing in the capture`);
    return readPcap(this.#file);
  }
}
