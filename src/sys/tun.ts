/**
 * TUN device with offload (Linux Documentation/networking/tuntap.rst, drivers/net/tun.c): IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, so that one
 * read or write carries a super-packet behind a 10-byte vnet header. Numbers only on the hot path; nothing allocates.
 */
import type { TunPort } from "../dataplane/ports.ts";
import { VNET_HEADER_BYTES } from "../dataplane/ports.ts";
import { Errno, SysError } from "./errno.ts";
import { lastErrno, libc } from "./libc.ts";
import { slabAddress, type SlabMemory } from "./memory.ts";

/** Bits of TunPort.offloads (linux/if_tun.h). */
export const TunOffload = { CSUM: 0x01, TSO4: 0x02, TSO6: 0x04, USO4: 0x20, USO6: 0x40 } as const;

/** Parts of one gathered write. */
export const TUN_MAX_PARTS = 130;

const DEVICE = "/dev/net/tun";
const O_RDWR_NONBLOCK_CLOEXEC = 0o2 | 0o4000 | 0o2000000;
const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;
const IFF_TUN = 0x0001;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
/** struct ifreq: name 16 ‖ flags u16 ‖ … */
const IFREQ_BYTES = 40;
const IFNAMSIZ = 16;
const IOVEC_BYTES = 16;

export interface TunOptions {
  /** 1–15 bytes of [A-Za-z0-9_.-], optionally with %d for the kernel to number. */
  readonly name: string;
  readonly slab: SlabMemory;
  /** False: single packets only (kill switch `tso`). */
  readonly offload: boolean;
  /** IFF_MULTI_QUEUE: several opens of one name, one per worker. @default false */
  readonly multiQueue?: boolean;
}

export interface Tun extends TunPort {
  readonly fd: number;
  /** As the kernel gave it. */
  readonly name: string;
  /** Interface index in this network namespace. */
  readonly index: number;
  /** Closes the descriptor, which removes a device that is not persistent. Idempotent; afterwards every call answers −EBADF. */
  close(): void;
}

/**
 * Opens or creates the device; the caller sets its addresses, MTU and state. Takes about 2.2 kB of the slab.
 * @throws SysError TUN_MISSING, TUN_DENIED, TUN_BUSY, TUN_MISMATCH, TUN_NAME, TUN_FAILED
 */
export function openTun(options: TunOptions): Tun {
  const { name, slab } = options;
  if (!/^[A-Za-z0-9_.%-]{1,15}$/.test(name)) {
    throw new SysError("TUNSETIFF", 0, {
      code: "TUN_NAME",
      what: `"${name}" is no interface name`,
      remedy: "use 1 to 15 letters, digits, dots, dashes or underscores",
    });
  }
  const fd = libc.open(DEVICE, O_RDWR_NONBLOCK_CLOEXEC, 0);
  if (fd < 0) throw openFailure(lastErrno());
  try {
    const request = slab.allocate(IFREQ_BYTES);
    const address = slabAddress(slab) + request;
    slab.u8.fill(0, request, request + IFREQ_BYTES);
    for (let i = 0; i < name.length; i++) slab.u8[request + i] = name.charCodeAt(i);
    const flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (options.multiQueue === true ? IFF_MULTI_QUEUE : 0);
    slab.view.setUint16(request + IFNAMSIZ, flags, true);
    if (libc.ioctl(fd, TUNSETIFF, address) < 0) throw attachFailure(name, lastErrno());
    let givenName = "";
    for (let i = 0; i < IFNAMSIZ && slab.u8[request + i] !== 0; i++) {
      givenName += String.fromCharCode(slab.u8[request + i]);
    }
    slab.view.setInt32(request, VNET_HEADER_BYTES, true);
    if (libc.ioctl(fd, TUNSETVNETHDRSZ, address) < 0) {
      throw new SysError("TUNSETVNETHDRSZ", lastErrno(), { code: "TUN_FAILED", what: `cannot set up ${givenName}` });
    }
    return new TunDevice(fd, givenName, setOffload(fd, options.offload), slab);
  } catch (error) {
    libc.close(fd);
    throw error;
  }
}

/** Asks for most first and keeps what the kernel grants (USO needs Linux 6.2). @returns TUN_F_* bits in force */
function setOffload(fd: number, wanted: boolean): number {
  const { CSUM, TSO4, TSO6, USO4, USO6 } = TunOffload;
  const tcp = CSUM | TSO4 | TSO6;
  for (const bits of wanted ? [tcp | USO4 | USO6, tcp, CSUM] : []) {
    if (libc.ioctl(fd, TUNSETOFFLOAD, bits) === 0) return bits;
  }
  libc.ioctl(fd, TUNSETOFFLOAD, 0);
  return 0;
}

class TunDevice implements Tun {
  fd: number;
  readonly name: string;
  readonly index: number;
  readonly offloads: number;
  readonly #view: DataView;
  readonly #base: number;
  readonly #iov: number;
  readonly #iovAddress: number;
  #parts = 0;
  /** Slab offset behind the last part, to join parts that touch. */
  #end = 0;
  #lastBytes = 0;
  #first = 0;
  #tooMany = false;

  constructor(fd: number, name: string, offloads: number, slab: SlabMemory) {
    this.fd = fd;
    this.name = name;
    this.index = libc.if_nametoindex(name);
    this.offloads = offloads;
    this.#view = slab.view;
    this.#base = slabAddress(slab);
    this.#iov = slab.allocate(TUN_MAX_PARTS * IOVEC_BYTES);
    this.#iovAddress = this.#base + this.#iov;
  }

  read(offset: number, maxBytes: number): number {
    const bytes = libc.read(this.fd, this.#base + offset, maxBytes);
    return bytes >= 0 ? bytes : -lastErrno();
  }

  beginWrite(): void {
    this.#parts = 0;
    this.#end = -1;
    this.#tooMany = false;
  }

  addPart(offset: number, bytes: number): void {
    const view = this.#view;
    if (offset === this.#end) {
      this.#lastBytes += bytes;
      this.#end += bytes;
      view.setUint32(this.#iov + (this.#parts - 1) * IOVEC_BYTES + 8, this.#lastBytes, true);
      return;
    }
    if (this.#parts === TUN_MAX_PARTS) {
      this.#tooMany = true;
      return;
    }
    const at = this.#iov + this.#parts * IOVEC_BYTES;
    const address = this.#base + offset;
    view.setUint32(at, address >>> 0, true);
    view.setUint32(at + 4, (address / 4294967296) >>> 0, true);
    view.setUint32(at + 8, bytes, true);
    if (this.#parts === 0) this.#first = offset;
    this.#parts++;
    this.#lastBytes = bytes;
    this.#end = offset + bytes;
  }

  /** @returns bytes; -EMSGSIZE when more than TUN_MAX_PARTS were added (nothing is written), else -errno */
  commitWrite(): number {
    const parts = this.#parts;
    if (this.#tooMany) return -Errno.EMSGSIZE;
    const bytes =
      parts === 1
        ? libc.write(this.fd, this.#base + this.#first, this.#lastBytes)
        : libc.writev(this.fd, this.#iovAddress, parts);
    return bytes >= 0 ? bytes : -lastErrno();
  }

  close(): void {
    if (this.fd < 0) return;
    libc.close(this.fd);
    this.fd = -1;
  }
}

function openFailure(errno: number): SysError {
  if (errno === Errno.ENOENT || errno === Errno.ENODEV) {
    return new SysError("open", errno, {
      code: "TUN_MISSING",
      what: `cannot open ${DEVICE}`,
      remedy: "load the module (modprobe tun); for a container add --device /dev/net/tun",
    });
  }
  if (errno === Errno.EPERM || errno === Errno.EACCES) {
    return new SysError("open", errno, {
      code: "TUN_DENIED",
      what: `cannot open ${DEVICE}`,
      remedy: "run as root, or run as an agent node without a network interface",
    });
  }
  return new SysError("open", errno, { code: "TUN_FAILED", what: `cannot open ${DEVICE}` });
}

function attachFailure(name: string, errno: number): SysError {
  switch (errno) {
    case Errno.EPERM:
      return new SysError("TUNSETIFF", errno, {
        code: "TUN_DENIED",
        what: `cannot create interface ${name}`,
        remedy: "run as root or grant CAP_NET_ADMIN, or run as an agent node without a network interface",
      });
    case Errno.EBUSY:
      return new SysError("TUNSETIFF", errno, {
        code: "TUN_BUSY",
        what: `interface ${name} is in use by another process`,
        remedy: "stop that process, or choose another interface name",
      });
    case Errno.EINVAL:
      return new SysError("TUNSETIFF", errno, {
        code: "TUN_MISMATCH",
        what: `interface ${name} exists and is of another kind`,
        remedy: `choose another interface name, or remove it (ip link delete ${name})`,
      });
    default:
      return new SysError("TUNSETIFF", errno, { code: "TUN_FAILED", what: `cannot create interface ${name}` });
  }
}
