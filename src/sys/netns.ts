/**
 * Network namespaces of the calling thread (setns(2), unshare(2)): the lab's programs put themselves into one before they open sockets.
 * Only this thread moves; threads and child processes it starts afterwards begin where it is then. Needs CAP_SYS_ADMIN.
 */
import { Errno, SysError } from "./errno.ts";
import { lastErrno, libc } from "./libc.ts";

const CLONE_NEWNET = 0x40000000;
const O_RDONLY_CLOEXEC = 0o2000000;
const DENIED = "run as root: moving between network namespaces needs CAP_SYS_ADMIN";

/** Enters a namespace that `ip netns add NAME` made. @throws SysError NETNS_MISSING, NETNS_DENIED, NETNS_FAILED */
export function enterNetworkNamespace(name: string): void {
  if (!/^[A-Za-z0-9_.-]{1,255}$/.test(name) || name === "." || name === "..") {
    throw new RangeError(`not a namespace name: ${JSON.stringify(name)}`);
  }
  const what = `cannot enter network namespace ${name}`;
  const fd = libc.open(`/var/run/netns/${name}`, O_RDONLY_CLOEXEC, 0);
  if (fd < 0) {
    const errno = lastErrno();
    if (errno === Errno.ENOENT) {
      throw new SysError("open", errno, { code: "NETNS_MISSING", what, remedy: `create it: ip netns add ${name}` });
    }
    throw new SysError("open", errno, { code: "NETNS_FAILED", what });
  }
  const result = libc.setns(fd, CLONE_NEWNET);
  const errno = result === 0 ? 0 : lastErrno();
  libc.close(fd);
  if (result === 0) return;
  if (errno === Errno.EPERM) throw new SysError("setns", errno, { code: "NETNS_DENIED", what, remedy: DENIED });
  throw new SysError("setns", errno, { code: "NETNS_FAILED", what });
}

/**
 * Moves this thread into a namespace of its own, empty but for a loopback that is down. It vanishes with the last thread and descriptor in it.
 * @returns a function that takes this thread back to where it was, once
 * @throws SysError NETNS_DENIED, NETNS_FAILED
 */
export function unshareNetwork(): () => void {
  const what = "cannot create a network namespace";
  const before = libc.open("/proc/thread-self/ns/net", O_RDONLY_CLOEXEC, 0);
  if (before < 0) throw new SysError("open", lastErrno(), { code: "NETNS_FAILED", what });
  if (libc.unshare(CLONE_NEWNET) !== 0) {
    const errno = lastErrno();
    libc.close(before);
    if (errno === Errno.EPERM) throw new SysError("unshare", errno, { code: "NETNS_DENIED", what, remedy: DENIED });
    throw new SysError("unshare", errno, { code: "NETNS_FAILED", what });
  }
  let away = true;
  return () => {
    if (!away) return;
    away = false;
    const result = libc.setns(before, CLONE_NEWNET);
    const errno = result === 0 ? 0 : lastErrno();
    libc.close(before);
    if (result !== 0)
      throw new SysError("setns", errno, { code: "NETNS_FAILED", what: "cannot return to the network namespace" });
  };
}
