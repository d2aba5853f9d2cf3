import assert from "node:assert/strict";
import { test } from "node:test";
import { endpointToBytes } from "../base/endpoint.ts";
import { decodeToken } from "./invite.ts";
import { TestWorld } from "./testing.ts";

const URL = "wss://relay.example.org/weft";

test("URLs of an admin are in its tokens and reach every member; a change replaces them", () => {
  const world = new TestWorld(11);
  const [founder, second] = world.network(2);
  assert.deepEqual(second.mesh.urls(founder.identity.nodeId), []);
  founder.mesh.setOwnUrls(world.now(founder), [URL]);
  world.run(5_000);
  assert.deepEqual(second.mesh.urls(founder.identity.nodeId), [URL]);
  const { token } = founder.mesh.createInvite(world.now(founder));
  assert.deepEqual(decodeToken(token).admins[0].urls, [URL]);
  const third = world.add();
  third.mesh.startJoin(world.now(third), token, { name: "third" });
  assert.deepEqual(third.mesh.urls(founder.identity.nodeId), [URL], "known before anybody is reached");
  world.runUntil(() => third.joinResult !== undefined);
  assert.deepEqual(third.mesh.urls(founder.identity.nodeId), [URL]);
  founder.mesh.setOwnUrls(world.now(founder), []);
  world.run(5_000);
  assert.deepEqual(second.mesh.urls(founder.identity.nodeId), []);
});

test("URLs count only from nodes that the network trusts to serve others: admins and beacons", () => {
  const world = new TestWorld(12);
  const [founder] = world.network(1);
  for (const [name, roles] of [
    ["plain", []],
    ["tower", ["beacon"]],
  ] as const) {
    const node = world.add();
    const { token } = founder.mesh.createInvite(world.now(founder), { roles });
    node.mesh.startJoin(world.now(node), token, { name });
    world.runUntil(() => node.joinResult !== undefined);
    node.mesh.setOwnUrls(world.now(node), [URL]);
  }
  world.run(5_000);
  const urls = (name: string): readonly string[] => founder.mesh.urls(founder.mesh.find(name)?.nodeId as Uint8Array);
  assert.deepEqual(urls("plain"), []);
  assert.deepEqual(urls("tower"), [URL]);
});

test("a member without an address but with a URL is dialled", () => {
  const world = new TestWorld(13);
  const [founder, second] = world.network(2);
  second.mesh.setOwnUrls(world.now(second), [URL]);
  founder.mesh.setOwnEndpoints(world.now(founder), []);
  founder.mesh.setOwnUrls(world.now(founder), [URL]);
  world.run(5_000);
  world.disconnect(founder, second);
  const before = second.outputs("dial").length;
  world.runUntil(() => second.outputs("dial").length > before);
});

test("virtual endpoints are neither announced nor kept as places where a node was reached", () => {
  const world = new TestWorld(14);
  const [founder, second] = world.network(2);
  const virtual = new Uint8Array(18);
  virtual.set([1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 7, 1, 0]);
  founder.mesh.setOwnEndpoints(world.now(founder), [virtual, founder.endpoint]);
  second.mesh.noteReached(world.now(second), founder.identity.nodeId, virtual);
  world.run(5_000);
  assert.deepEqual(second.mesh.candidates(founder.identity.nodeId, world.now(second).wallMs), [founder.endpoint]);
  const real = endpointToBytes({ address: "2001:db8::1", port: 9 });
  second.mesh.noteReached(world.now(second), founder.identity.nodeId, real);
  assert.equal(second.mesh.candidates(founder.identity.nodeId, world.now(second).wallMs).length, 2);
});
