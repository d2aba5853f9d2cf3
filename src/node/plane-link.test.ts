import assert from "node:assert/strict";
import { test } from "node:test";
import type { Command, DataplaneHandle } from "../dataplane/messages.ts";
import { PlaneLink } from "./plane-link.ts";

class FullPlane implements Pick<DataplaneHandle, "send"> {
  room = 0;
  readonly taken: Command[] = [];
  send(command: Command): boolean {
    if (this.room === 0) return false;
    this.room--;
    this.taken.push(command);
    return true;
  }
}

function setup(): { plane: FullPlane; link: PlaneLink; retry: () => void } {
  const plane = new FullPlane();
  const due: (() => void)[] = [];
  const clock = {
    now: () => ({ nowMs: 0, wallMs: 0 }),
    schedule: (_: number, action: () => void) => {
      due.push(action);
      return () => undefined;
    },
  };
  return { plane, link: new PlaneLink(plane as unknown as DataplaneHandle, clock), retry: () => due.shift()?.() };
}

const routes = (count: number): Command => ({
  kind: "routes",
  routes: Array.from({ length: count }, (_, peer) => ({ prefix: new Uint8Array(16), prefixBits: 128, peer })),
});
const transmit = (peer: number): Command => ({ kind: "transmit", peer, to: undefined, datagram: new Uint8Array(1) });
const peer = (slot: number): Command => ({ kind: "peer", peer: slot, nodeId: new Uint8Array(32) });

test("commands keep their order over a full ring, and later ones do not overtake", () => {
  const { plane, link, retry } = setup();
  link.send(peer(1));
  plane.room = 1;
  link.send(transmit(1));
  assert.equal(link.waiting, 2);
  retry();
  assert.deepEqual(
    plane.taken.map((command) => command.kind),
    ["peer"],
  );
  plane.room = 5;
  retry();
  assert.deepEqual(
    plane.taken.map((command) => command.kind),
    ["peer", "transmit"],
  );
  assert.equal(link.waiting, 0);
});

test("of whole tables only the newest waits", () => {
  const { plane, link, retry } = setup();
  for (let i = 0; i < 100; i++) link.send(routes(i));
  for (let i = 0; i < 100; i++) link.send({ kind: "candidates", peer: i % 2, endpoints: [] });
  assert.equal(link.waiting, 3);
  plane.room = 10;
  retry();
  assert.equal(plane.taken[0]?.kind === "routes" && plane.taken[0].routes.length, 99);
});

test("datagrams are dropped and counted when too many wait, state never", () => {
  const { link } = setup();
  for (let i = 0; i < 2000; i++) link.send(transmit(i));
  assert.equal(link.waiting, 1024);
  assert.equal(link.dropped, 976);
  for (let i = 0; i < 100; i++) link.send(peer(i));
  assert.equal(link.waiting, 1124);
});

test("datagrams to bare addresses are dropped like other datagrams once too much waits", () => {
  const { link } = setup();
  for (let slot = 0; slot < 1_024; slot++) link.send(peer(slot));
  link.send({ kind: "raw", to: new Uint8Array(18), datagram: new Uint8Array(1) });
  assert.deepEqual([link.waiting, link.dropped], [1_024, 1]);
});
