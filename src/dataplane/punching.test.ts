import assert from "node:assert/strict";
import { test } from "node:test";
import { endpointToBytes } from "../base/endpoint.ts";
import { NAME_PORT, NAME_SOCKET } from "../base/name.ts";
import { SeededRandom } from "../base/random.ts";
import { Slab } from "../base/slab.ts";
import { Drop } from "../base/drop.ts";
import { decodeProbe, Probe } from "../wire/probe.ts";
import type { UdpPort } from "./ports.ts";
import { Punching } from "./punching.ts";

interface Shot {
  readonly peer: number;
  readonly port: number;
  readonly socket: number;
  readonly atMs: number;
}

function range(used: ReadonlySet<number> = new Set()) {
  const slab = new Slab(4096);
  const shots: Shot[] = [];
  const open = new Set<number>();
  const state = { direct: false, nowMs: 0 };
  const punching = new Punching({
    slab,
    random: new SeededRandom(5),
    udp: {
      openExtra: (count: number, ids: number[]) => {
        for (let id = 1; id <= count; id++) {
          open.add(id);
          ids.push(id);
        }
        return count;
      },
      closeExtra: (id: number) => open.delete(id),
    } as unknown as UdpPort,
    shoot: (peer, name, payload, bytes) => {
      assert.equal(decodeProbe(slab.view, payload, bytes, new Probe()), Drop.NONE);
      const port = slab.view.getUint16(name + NAME_PORT, true);
      shots.push({ peer, port, socket: slab.view.getUint32(name + NAME_SOCKET, true), atMs: state.nowMs });
      return true;
    },
    isDirect: () => state.direct,
    usesSocket: (id) => used.has(id),
  });
  const run = (untilMs: number): void => {
    while (punching.nextMs <= untilMs) {
      state.nowMs = Math.max(state.nowMs, punching.nextMs);
      punching.handleTimeout(state.nowMs);
    }
    state.nowMs = untilMs;
  };
  return { punching, shots, open, state, run };
}

const target = endpointToBytes({ address: "203.0.113.5", port: 4000 });

test("plain: every address once a round, and nothing after the last one", () => {
  const { punching, shots, run } = range();
  punching.plain(0, 3, [target, endpointToBytes({ address: "2001:db8::1", port: 7 })], 250, 4);
  run(60_000);
  assert.equal(shots.length, 8);
  assert.deepEqual([...new Set(shots.map(({ atMs }) => atMs))], [0, 250, 500, 750]);
  assert.equal(punching.nextMs, Infinity);
});

test("a path that has become direct ends it", () => {
  const { punching, shots, state, run } = range();
  punching.plain(0, 3, [target], 250, 20);
  run(500);
  const before = shots.length;
  state.direct = true;
  run(60_000);
  assert.equal(shots.length, before);
});

test("guess: the known port first, then other ports, each once, never faster than 200 a second", () => {
  const { punching, shots, run } = range();
  punching.guess(0, 1, target, 5_000, 0.1);
  run(60_000);
  assert.equal(shots.length, 1024);
  assert.equal(shots[0].port, 4000);
  assert.equal(new Set(shots.slice(1).map(({ port }) => port)).size, 1023);
  assert.ok(shots.every(({ port }) => port >= 1024));
  for (let i = 200; i < shots.length; i++) assert.ok(shots[i].atMs - shots[i - 200].atMs >= 999);
});

test("fan: one probe from each socket a round; sockets that no path uses are closed afterwards, the others stay", () => {
  const { punching, shots, open, run } = range(new Set([17]));
  punching.fan(0, 1, target, 256, 2_000, 2);
  run(1_000);
  assert.equal(new Set(shots.map(({ socket }) => socket)).size, 256);
  assert.equal(open.size, 256);
  run(30_000);
  assert.equal(shots.length, 512);
  assert.deepEqual([...open], [17]);
  punching.close();
  assert.equal(open.size, 0);
});

test("there are never more than 16 campaigns; a newer one about the same replaces the older", () => {
  const { punching, shots, run } = range();
  for (let peer = 0; peer < 40; peer++) punching.plain(0, peer, [target], 250, 1);
  run(1_000);
  assert.equal(shots.length, 16);
  punching.plain(2_000, 1, [target], 250, 10);
  punching.plain(2_000, 1, [target], 250, 1);
  run(10_000);
  assert.equal(shots.length, 17);
});
