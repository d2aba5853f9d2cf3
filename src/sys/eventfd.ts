/**
 * eventfd(2): how one thread wakes another that sleeps in ppoll. The number of the descriptor is valid in every thread of the process.
 */
import { SysError } from "./errno.ts";
import { lastErrno, libc } from "./libc.ts";
import { slabAddress, type SlabMemory } from "./memory.ts";

const EFD_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000;

/** @returns a descriptor; whoever made it closes it with closeEventFd() after every thread is done with it @throws SysError */
export function createEventFd(): number {
  const fd = libc.eventfd(0, EFD_NONBLOCK_CLOEXEC);
  if (fd < 0) throw new SysError("eventfd", lastErrno(), { what: "cannot create the wake-up descriptor" });
  return fd;
}

/** Wakes whoever polls `fd`; any thread may call it. @returns false when the descriptor is closed */
export function signalEventFd(fd: number): boolean {
  return libc.eventfd_write(fd, 1) === 0;
}

/** Empties it. @param scratch offset of 8 bytes of the slab @returns signals since the last time, 0 when there were none */
export function readEventFd(fd: number, slab: SlabMemory, scratch: number): number {
  if (libc.eventfd_read(fd, slabAddress(slab) + scratch) !== 0) return 0;
  return slab.view.getUint32(scratch, true);
}

export function closeEventFd(fd: number): void {
  libc.close(fd);
}
