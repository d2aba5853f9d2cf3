import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Worker } from "node:worker_threads";
import { parseAddress } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_PORT } from "../base/name.ts";
import { Slab } from "../base/slab.ts";
import { type PollPort, Ready } from "../dataplane/ports.ts";
import { closeEventFd, createEventFd, readEventFd, signalEventFd } from "./eventfd.ts";
import { openNetlink } from "./netlink.ts";
import { createPoll } from "./poll.ts";
import { ip, ipBatch, privateNetwork, skipWithoutNamespaces } from "./testing.ts";
import { openUdp } from "./udp.ts";

const slab = new Slab(16 << 20);
const scratch = slab.allocate(64);

describe("eventfd", () => {
  it("counts signals until it is read", () => {
    const fd = createEventFd();
    assert.equal(readEventFd(fd, slab, scratch), 0);
    assert.equal(signalEventFd(fd), true);
    assert.equal(signalEventFd(fd), true);
    assert.equal(readEventFd(fd, slab, scratch), 2);
    assert.equal(readEventFd(fd, slab, scratch), 0);
    closeEventFd(fd);
    assert.equal(signalEventFd(fd), false);
  });

  it("wakes a thread that sleeps in wait(), from another thread", async () => {
    const wake = createEventFd();
    const poll = createPoll({ slab }, { wake });
    const url = new URL("./eventfd.ts", import.meta.url).href;
    const code = `import(${JSON.stringify(url)}).then((m) => m.signalEventFd(${wake}))`;
    const worker = new Worker(code, { eval: true });
    // a Worker's thread starts without this thread's event loop, which now blocks; each wait() is bounded by one second
    let ready = 0;
    for (let i = 0; i < 30 && ready === 0; i++) ready = poll.wait(Ready.WAKE, Infinity);
    assert.equal(ready, Ready.WAKE);
    poll.clearWake();
    assert.equal(poll.wait(Ready.WAKE, 0), 0);
    await worker.terminate();
    closeEventFd(wake);
  });
});

describe("poll", () => {
  it("returns 0 when nothing happens, for any time-out", () => {
    const wake = createEventFd();
    const poll = createPoll({ slab }, { wake });
    for (const timeoutMs of [0, -5, 0.05, 1.5, NaN])
      assert.equal(poll.wait(Ready.WAKE | Ready.TUN | Ready.UDP4, timeoutMs), 0);
    closeEventFd(wake);
  });

  it("sleeps for about as long as it was told, fractions included", () => {
    const poll = createPoll({ slab }, {});
    const start = performance.now();
    for (let i = 0; i < 20; i++) poll.wait(0, 0.5);
    // a lower bound only: what a busy machine adds decides nothing
    assert.ok(performance.now() - start >= 10);
  });

  it("never reports what nobody is interested in", () => {
    const wake = createEventFd();
    signalEventFd(wake);
    const poll = createPoll({ slab }, { wake });
    assert.equal(poll.wait(Ready.UDP4, 0), 0);
    assert.equal(poll.wait(Ready.WAKE, 0), Ready.WAKE);
    assert.equal(poll.wait(Ready.UDP4, 0), 0);
    closeEventFd(wake);
  });

  it("tells readable, writable and failed sockets apart", () => {
    const udp = openUdp({ slab, sockets: [{ family: 4, address: "127.0.0.1", port: 0 }] });
    const closed = openUdp({ slab, sockets: [{ family: 4, address: "127.0.0.1", port: 0 }] });
    const deadPort = closed.localPort(4);
    closed.close();
    const name = slab.allocate(NAME_BYTES);
    slab.u8.set(parseAddress("127.0.0.1") as Uint8Array, name);
    slab.view.setUint8(name + NAME_FAMILY, 4);
    const poll = createPoll({ slab }, { udp4: udp.fd4, udp6: udp.fd6 });
    const all = Ready.UDP4 | Ready.UDP6 | Ready.UDP4_WRITABLE;
    assert.equal(poll.wait(Ready.UDP4, 0), 0);
    assert.equal(poll.wait(all, 0), Ready.UDP4_WRITABLE);
    slab.view.setUint16(name + NAME_PORT, udp.localPort(4), true);
    udp.send(scratch, 8, 8, name);
    assert.equal(poll.wait(all, 1000), Ready.UDP4 | Ready.UDP4_WRITABLE);
    assert.equal(poll.wait(Ready.UDP4, 0), Ready.UDP4);
    udp.receive(4, 1);
    assert.equal(poll.wait(Ready.UDP4, 0), 0);
    slab.view.setUint16(name + NAME_PORT, deadPort, true);
    udp.send(scratch, 8, 8, name);
    assert.equal(poll.wait(Ready.UDP4, 1000) & Ready.UDP4_ERROR, Ready.UDP4_ERROR, "asked for or not");
    assert.equal(udp.takeError(4), 1);
    assert.equal(poll.wait(Ready.UDP4, 0), 0);
    udp.close();
  });
});

/** Drains until nothing waits. @returns whether anything changed */
function settle(poll: PollPort): boolean {
  let changed = false;
  while (poll.wait(Ready.NETLINK, 0) !== 0) changed = poll.drainNetlink() || changed;
  return changed;
}

function renew(lifetimeSeconds: string): void {
  ip("address", "replace", "10.79.0.1/32", "dev", "d0", "valid_lft", lifetimeSeconds, "preferred_lft", lifetimeSeconds);
}

describe("netlink", { skip: skipWithoutNamespaces }, () => {
  let back: () => void;
  before(() => {
    back = privateNetwork();
    for (const name of ["d0", "d1"]) ip("link", "add", name, "type", "veth", "peer", "name", `${name}x`);
    // no link-local address whose duplicate detection ends in the middle of a test
    for (const name of ["d0x", "d1x", "d0", "d1"]) ip("link", "set", name, "addrgenmode", "none", "up");
    // the kernel tells of a link's carrier from a work queue, some time after the command
    const isUp = (name: string): boolean => ip("-o", "link", "show", "dev", name).includes("state UP");
    for (let tries = 0; tries < 500 && !(isUp("d0") && isUp("d1")); tries++);
  });
  after(() => back());

  it("tells of addresses, routes and links that come and go, and of nothing when nothing changed", () => {
    const netlink = openNetlink({ slab });
    const poll = createPoll({ slab }, { netlink });
    settle(poll);
    assert.equal(settle(poll), false);
    assert.equal(poll.drainNetlink(), false);
    const changes: readonly (readonly string[])[] = [
      ["address", "add", "10.77.1.1/24", "dev", "d0"],
      ["route", "add", "10.78.0.0/16", "via", "10.77.1.2"],
      ["route", "delete", "10.78.0.0/16"],
      ["link", "set", "d0", "mtu", "1400"],
      ["address", "delete", "10.77.1.1/24", "dev", "d0"],
      ["address", "add", "fd77::1/64", "dev", "d0", "nodad"],
      ["route", "add", "fd78::/64", "dev", "d0"],
      ["link", "set", "d0", "down"],
      ["link", "set", "d0", "up"],
    ];
    for (const change of changes) {
      ip(...change);
      assert.equal(poll.wait(Ready.NETLINK, 1000), Ready.NETLINK, change.join(" "));
      assert.equal(settle(poll), true, change.join(" "));
    }
    netlink.close();
    netlink.close();
  });

  it("does not take a renewed address for a change", () => {
    const netlink = openNetlink({ slab });
    const poll = createPoll({ slab }, { netlink });
    renew("1000");
    assert.equal(settle(poll), true);
    const ignored = netlink.ignored;
    renew("2000");
    assert.equal(settle(poll), false);
    assert.ok(netlink.ignored > ignored);
    ip("address", "delete", "10.79.0.1/32", "dev", "d0");
    assert.equal(settle(poll), true);
    netlink.close();
  });

  it("leaves out the interface that it is told to ignore", () => {
    const index = Number(/^(\d+):/.exec(ip("-o", "link", "show", "dev", "d1"))?.[1]);
    ip("link", "set", "d1", "addrgenmode", "none");
    const netlink = openNetlink({ slab, ignoreInterface: index });
    const poll = createPoll({ slab }, { netlink });
    settle(poll);
    ip("address", "add", "10.80.0.1/24", "dev", "d1");
    ip("route", "add", "10.81.0.0/16", "dev", "d1");
    ip("link", "set", "d1", "mtu", "1300");
    assert.equal(poll.wait(Ready.NETLINK, 1000), Ready.NETLINK);
    assert.equal(settle(poll), false);
    ip("address", "add", "10.82.0.1/24", "dev", "d0");
    assert.equal(settle(poll), true);
    netlink.close();
  });

  it("says that something changed when the kernel had to drop messages", () => {
    const netlink = openNetlink({ slab });
    const poll = createPoll({ slab }, { netlink });
    settle(poll);
    // the default receive buffer holds some hundreds of messages
    const batch: string[] = [];
    for (let i = 0; i < 4000; i++) batch.push(`route add 10.90.${i >> 8}.${i & 255}/32 dev lo`);
    ipBatch(batch);
    assert.equal(settle(poll), true);
    assert.equal(settle(poll), false);
    netlink.close();
  });
});
