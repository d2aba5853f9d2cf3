import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAddress } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_PORT, NAME_SOCKET } from "../base/name.ts";
import { Slab } from "../base/slab.ts";
import { Ready } from "../dataplane/ports.ts";
import { Errno } from "./errno.ts";
import { libc } from "./libc.ts";
import { createPoll } from "./poll.ts";
import { openUdp, type Udp } from "./udp.ts";
import { EXTRA_SOCKETS } from "./udp-extra.ts";

const slab = new Slab(8 << 20);
const payload = slab.allocate(64);
const name = slab.allocate(NAME_BYTES);

function open(): Udp {
  return openUdp({ slab, sockets: [{ family: 4, address: "127.0.0.1", port: 0 }] });
}

function aim(port: number, socket = 0): number {
  slab.u8.fill(0, name, name + NAME_BYTES);
  slab.u8.set(parseAddress("127.0.0.1") as Uint8Array, name);
  slab.view.setUint16(name + NAME_PORT, port, true);
  slab.view.setUint8(name + NAME_FAMILY, 4);
  slab.view.setUint32(name + NAME_SOCKET, socket, true);
  return name;
}

/** What has arrived: sender's port and the socket it came to. */
function take(udp: Udp): { readonly port: number; readonly socket: number; readonly first: number }[] {
  const out = [];
  for (let count = udp.receive(4, 16); count > 0; count = udp.receive(4, 16)) {
    for (let i = 0; i < count; i++) {
      const at = udp.messageName[i];
      out.push({
        port: slab.view.getUint16(at + NAME_PORT, true),
        socket: slab.view.getUint32(at + NAME_SOCKET, true),
        first: slab.u8[udp.messageOffset[i]],
      });
    }
  }
  return out;
}

test("each extra socket sends from a port of its own, and what comes back to it says which one it was", () => {
  const here = open();
  const there = open();
  try {
    const ids: number[] = [];
    assert.equal(here.openExtra(5, ids), 5);
    assert.equal(new Set(ids).size, 5);
    for (const id of ids) {
      slab.u8[payload] = id;
      assert.equal(here.send(payload, 1, 1, aim(there.localPort(4), id)), 1);
    }
    const arrived = take(there);
    assert.equal(new Set(arrived.map(({ port }) => port)).size, 5);
    assert.ok(arrived.every(({ port }) => port !== here.localPort(4)));
    for (const { port, first } of arrived) {
      slab.u8[payload] = first;
      assert.equal(there.send(payload, 1, 1, aim(port)), 1);
    }
    slab.u8[payload] = 99;
    there.send(payload, 1, 1, aim(here.localPort(4)));
    const back = take(here);
    assert.deepEqual(
      back
        .filter(({ socket }) => socket !== 0)
        .map(({ socket }) => socket)
        .toSorted((a, b) => a - b),
      ids.toSorted((a, b) => a - b),
    );
    assert.ok(back.every(({ socket, first }) => (socket === 0 ? first === 99 : first === socket)));
    assert.equal(back.filter(({ socket }) => socket === 0).length, 1);
    assert.equal(here.overflowed[0], 0);
  } finally {
    here.close();
    there.close();
  }
});

test("the worker's sleep ends when an extra socket has something", () => {
  const here = open();
  const there = open();
  try {
    const ids: number[] = [];
    here.openExtra(1, ids);
    const poll = createPoll({ slab }, { udp4: here.fd4, udpExtra: here.fdExtra });
    assert.equal(poll.wait(Ready.UDP4, 0), 0);
    here.send(payload, 1, 1, aim(there.localPort(4), ids[0]));
    const [{ port }] = take(there);
    there.send(payload, 1, 1, aim(port));
    assert.equal(poll.wait(Ready.UDP4, 1_000), Ready.UDP4);
    assert.equal(take(here).length, 1);
    assert.equal(poll.wait(Ready.UDP4, 0), 0);
  } finally {
    here.close();
    there.close();
  }
});

test("there are never more than 256; a closed one sends nothing; opening again takes no more memory", () => {
  const here = open();
  try {
    const ids: number[] = [];
    assert.equal(here.openExtra(1_000, ids), EXTRA_SOCKETS);
    assert.equal(here.openExtra(1, []), 0);
    for (const id of ids) here.closeExtra(id);
    assert.equal(here.send(payload, 1, 1, aim(9, ids[0])), -Errno.EAFNOSUPPORT);
    const before = slab.usedBytes;
    const again: number[] = [];
    assert.equal(here.openExtra(256, again), 256);
    assert.equal(slab.usedBytes, before);
  } finally {
    here.close();
  }
  const probe = libc.eventfd(0, 0);
  libc.close(probe);
  assert.ok(probe < 64, `descriptors leaked: the next one is ${probe}`);
});
