/** One routing machine by itself, driven message by message: who is heard, what is refused, what stays bounded. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Now } from "../../base/clock.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { virtualOf } from "../../base/endpoint.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity, verifySignature } from "../../crypto/identity.ts";
import { NeighbourDigest } from "./digest.ts";
import { type Found, foundBody, type Lookup, nearPayload, type RoutingMessage } from "./messages.ts";
import { Routing, type RoutingOptions, type RoutingOutput } from "./routing.ts";

const NETWORK = new Uint8Array(32).fill(9);
const random = new SeededRandom(3);
const people = Array.from({ length: 12 }, () => Identity.generate(random));
const [self, alice, bob, carol, dave, mallory] = people;

class Bench {
  nowMs = 1000;
  readonly routing: Routing;
  readonly strangers = new Set<string>();
  readonly beacons = new Set<string>();
  transit = true;

  constructor(options: RoutingOptions = {}) {
    this.routing = new Routing(
      {
        nodeId: self.nodeId,
        random: new SeededRandom(5),
        sign: (kind, body) => self.sign(kind, NETWORK, body),
        verify: (nodeId, kind, body, signature) => verifySignature(nodeId, kind, NETWORK, body, signature),
        isMember: (nodeId) => !this.strangers.has(toHex(nodeId)) && people.some((one) => equal(one.nodeId, nodeId)),
        isBeacon: (nodeId) => this.beacons.has(toHex(nodeId)),
        mayTransit: () => this.transit,
      },
      options,
    );
  }

  get now(): Now {
    return { nowMs: this.nowMs, wallMs: 1_800_000_000_000 + this.nowMs };
  }

  up(...nodes: readonly Identity[]): void {
    for (const node of nodes) this.routing.peerUp(this.now, node.nodeId, { rttMs: 5 });
  }

  say(from: Identity, message: RoutingMessage): RoutingOutput[] {
    this.routing.handle(this.now, from.nodeId, message);
    return this.drain();
  }

  drain(): RoutingOutput[] {
    const out: RoutingOutput[] = [];
    for (let one = this.routing.pollOutput(); one !== undefined; one = this.routing.pollOutput()) out.push(one);
    return out;
  }

  /** Lets time pass, timers included. */
  wait(durationMs: number): RoutingOutput[] {
    const endMs = this.nowMs + durationMs;
    const out: RoutingOutput[] = [];
    while (this.routing.nextTimeoutMs <= endMs) {
      this.nowMs = Math.max(this.nowMs, this.routing.nextTimeoutMs);
      this.routing.handleTimeout(this.now);
      out.push(...this.drain());
    }
    this.nowMs = endMs;
    return out;
  }
}

const messages = <T extends RoutingMessage["type"]>(outputs: readonly RoutingOutput[], type: T) =>
  outputs.flatMap((output) =>
    output.kind === "send" && output.message.type === type
      ? [{ to: output.nodeId, message: output.message as Extract<RoutingMessage, { type: T }> }]
      : [],
  );
const kinds = <K extends RoutingOutput["kind"]>(outputs: readonly RoutingOutput[], kind: K) =>
  outputs.filter((output): output is Extract<RoutingOutput, { kind: K }> => output.kind === kind);

function lookupFrom(requester: Identity, target: Identity, change: Partial<Lookup> = {}): Lookup {
  const path = [requester.nodeId];
  return {
    type: "lookup",
    id: random.bytes(16),
    target: target.nodeId,
    path,
    ttl: 1,
    label: 77,
    relay: false,
    ...change,
  };
}

function answer(lookup: Lookup, target: Identity, change: Partial<Found> = {}): Found {
  const body = foundBody(lookup.id, target.nodeId, lookup.path[0]);
  const signature = target.sign("found", NETWORK, body);
  return { type: "found", id: lookup.id, label: 99, hops: 2, relay: false, signature, ...change };
}

test("a lookup goes on to the target, and its answer installs both directions before it is passed back", () => {
  const bench = new Bench();
  bench.up(alice, bob, carol);
  const lookup = lookupFrom(alice, bob);
  const forwarded = messages(bench.say(alice, lookup), "lookup");
  assert.equal(forwarded.length, 1);
  const [{ to, message: passed }] = forwarded;
  assert.ok(equal(to, bob.nodeId));
  assert.deepEqual(passed.path, [alice.nodeId, self.nodeId]);
  assert.equal(passed.ttl, 0);
  const outputs = bench.say(bob, answer(passed, bob));
  assert.deepEqual(
    outputs.map((output) => output.kind),
    ["forward", "forward", "send"],
  );
  const [there, back] = kinds(outputs, "forward");
  const [{ to: asker, message: found }] = messages(outputs, "found");
  assert.ok(equal(asker, alice.nodeId));
  assert.ok(equal(there.from, alice.nodeId) && equal(there.to, bob.nodeId));
  assert.equal(there.label, found.label);
  assert.equal(there.out, 99);
  assert.ok(equal(back.from, bob.nodeId) && equal(back.to, alice.nodeId));
  assert.equal(back.label, passed.label);
  assert.equal(back.out, 77);
  assert.ok(there.bytesPerSecond > 0);
});

test("the target answers with a signature over lookup, target and requester, and waits before it uses the way", () => {
  const bench = new Bench();
  bench.up(carol);
  const lookup = lookupFrom(alice, self, { path: [alice.nodeId, carol.nodeId], ttl: 0 });
  const outputs = bench.say(carol, lookup);
  assert.deepEqual(
    outputs.map((output) => output.kind),
    ["via", "send"],
  );
  const [{ message: found }] = messages(outputs, "found");
  const body = foundBody(lookup.id, self.nodeId, alice.nodeId);
  assert.ok(verifySignature(self.nodeId, "found", NETWORK, body, found.signature));
  const [via] = kinds(outputs, "via");
  assert.ok(equal(via.target, alice.nodeId) && equal(via.hop, carol.nodeId));
  assert.equal(via.out, 77);
  assert.equal(via.in, found.label);
  assert.equal(bench.routing.candidates(bench.now, alice.nodeId).length, 0);
  assert.equal(bench.routing.describe(bench.now, alice.nodeId)[0].state, "settling");
  const settled = bench.wait(400);
  assert.equal(kinds(settled, "candidatesChanged").length, 1);
  assert.equal(virtualOf(bench.routing.candidates(bench.now, alice.nodeId)[0])?.id, via.id);
});

test("the requester takes an answer only with the target's signature over its own question", () => {
  const forgeries: readonly ((lookup: Lookup) => Found)[] = [
    (lookup) => answer(lookup, mallory),
    (lookup) => ({ ...answer(lookup, bob), signature: new Uint8Array(64) }),
    (lookup) => answer({ ...lookup, path: [mallory.nodeId] }, bob, { id: lookup.id }),
    (lookup) => ({ ...answer({ ...lookup, id: random.bytes(16) }, bob), id: lookup.id }),
  ];
  for (const forge of forgeries) {
    const bench = new Bench();
    bench.up(carol);
    bench.routing.seek(bench.now, bob.nodeId);
    const [{ message: lookup }] = messages(bench.drain(), "lookup");
    assert.deepEqual(bench.say(carol, forge(lookup)), []);
    assert.equal(bench.routing.counters.foundForged, 1);
    // and the same question is not answered twice
    bench.say(carol, answer(lookup, bob));
    assert.equal(bench.routing.counters.foundUnknown, 1);
  }
  const bench = new Bench();
  bench.up(carol);
  bench.routing.seek(bench.now, bob.nodeId);
  const [{ message: lookup }] = messages(bench.drain(), "lookup");
  const outputs = bench.say(carol, answer(lookup, bob));
  const [via] = kinds(outputs, "via");
  assert.equal(via.out, 99);
  assert.equal(via.in, lookup.label);
  assert.equal(bench.routing.candidates(bench.now, bob.nodeId).length, 1);
});

test("a member in the middle passes no forged answer back and keeps nothing for it", () => {
  const bench = new Bench();
  bench.up(alice, bob, mallory);
  const [{ message: passed }] = messages(bench.say(alice, lookupFrom(alice, bob)), "lookup");
  assert.deepEqual(bench.say(mallory, answer(passed, bob)), []);
  assert.equal(bench.routing.counters.foundUnknown, 1);
  assert.deepEqual(bench.say(bob, answer(passed, mallory)), []);
  assert.equal(bench.routing.counters.foundForged, 1);
  assert.equal(bench.routing.forwards, 0);
});

test("who is no member, or has no direct session, is not heard", () => {
  const bench = new Bench();
  bench.up(alice, bob);
  assert.deepEqual(bench.say(dave, lookupFrom(dave, bob)), []);
  bench.strangers.add(toHex(alice.nodeId));
  assert.deepEqual(bench.say(alice, lookupFrom(alice, bob)), []);
  assert.equal(bench.routing.counters.lookupsRefused, 2);
  assert.deepEqual(bench.say(alice, answer(lookupFrom(self, bob), bob)), []);
  assert.deepEqual(bench.say(dave, { type: "unlabel", label: 5 }), []);
  assert.equal(bench.routing.counters.foundUnknown, 1);
});

test("a path that cannot have been walked is refused", () => {
  const bench = new Bench();
  bench.up(alice, bob, carol);
  const outsider = new Uint8Array(32).fill(1);
  const paths: readonly (readonly Uint8Array[])[] = [
    [carol.nodeId],
    [alice.nodeId, carol.nodeId, carol.nodeId, alice.nodeId],
    [self.nodeId, alice.nodeId],
    [bob.nodeId, alice.nodeId],
    [outsider, alice.nodeId],
  ];
  for (const path of paths) assert.deepEqual(bench.say(alice, lookupFrom(alice, bob, { path })), []);
  assert.equal(bench.routing.counters.lookupsRefused, paths.length);
  assert.deepEqual(bench.say(alice, { ...lookupFrom(alice, bob), target: outsider }), []);
});

test("a lookup that comes again, by whatever way, is passed on once", () => {
  const bench = new Bench();
  bench.up(alice, bob, carol);
  const lookup = lookupFrom(alice, bob, { ttl: 3 });
  assert.equal(messages(bench.say(alice, lookup), "lookup").length, 1);
  assert.deepEqual(bench.say(alice, lookup), []);
  assert.deepEqual(bench.say(carol, { ...lookup, path: [alice.nodeId, carol.nodeId] }), []);
  assert.equal(bench.routing.counters.lookupsEnded, 2);
});

test("a lookup never goes back to where it was, and not beyond its hops", () => {
  const bench = new Bench();
  bench.up(alice, carol, dave);
  const onward = messages(
    bench.say(alice, lookupFrom(alice, bob, { path: [carol.nodeId, alice.nodeId], ttl: 2 })),
    "lookup",
  );
  assert.deepEqual(
    onward.map(({ to }) => toHex(to)),
    [toHex(dave.nodeId)],
  );
  assert.deepEqual(bench.say(alice, lookupFrom(alice, bob, { ttl: 1 })), []);
  assert.deepEqual(bench.say(alice, lookupFrom(alice, bob, { ttl: 0 })), []);
});

test("one neighbour gets few lookups for one target passed on, others are not held back by it", () => {
  const bench = new Bench();
  bench.up(alice, bob, carol);
  let passed = 0;
  for (let i = 0; i < 200; i++) {
    passed += messages(bench.say(alice, lookupFrom(alice, bob)), "lookup").length;
    bench.nowMs += 50;
  }
  assert.ok(passed >= 5 && passed <= 7, `${passed} in 10 s`);
  assert.equal(messages(bench.say(carol, lookupFrom(carol, bob)), "lookup").length, 1);
});

test("the allow-list keeps transit away, and a relay serves any two members", () => {
  const closed = new Bench();
  closed.transit = false;
  closed.up(alice, bob);
  assert.deepEqual(closed.say(alice, lookupFrom(alice, bob, { relay: true })), []);
  assert.equal(closed.routing.counters.lookupsForbidden, 1);
  const relay = new Bench({ relay: true, forwardBytesPerSecond: 1000 });
  relay.transit = false;
  relay.up(alice, bob);
  const [{ message: passed }] = messages(relay.say(alice, lookupFrom(alice, bob, { relay: true })), "lookup");
  assert.equal(passed.relay, true);
  const outputs = relay.say(bob, answer(passed, bob, { relay: true }));
  assert.equal(messages(outputs, "found")[0].message.relay, true);
  assert.deepEqual(
    kinds(outputs, "forward").map((one) => one.bytesPerSecond),
    [1000, 1000],
  );
  // behind another member the way counts as transit, which a relay carries too
  const behind = lookupFrom(alice, bob, { relay: true, path: [dave.nodeId, alice.nodeId] });
  assert.equal(messages(relay.say(alice, behind), "lookup")[0].message.relay, false);
});

test("the quotas hold: paths of one neighbour, and paths in all", () => {
  for (const options of [{ maxForwardsPerNode: 3 }, { maxForwards: 3 }]) {
    const bench = new Bench(options);
    bench.up(...people.slice(1));
    for (const target of people.slice(2)) {
      for (const { message } of messages(bench.say(alice, lookupFrom(alice, target)), "lookup"))
        bench.say(target, answer(message, target));
    }
    assert.equal(bench.routing.forwards, 3);
    assert.ok(bench.routing.counters.lookupsLimited > 0);
  }
});

test("a search repeats after 500 ms and backs off to 8 s while the target is wanted", () => {
  const bench = new Bench();
  bench.up(carol);
  const times: number[] = [];
  for (let i = 0; i < 600; i++) {
    bench.routing.seek(bench.now, bob.nodeId);
    const sent = [...bench.drain(), ...bench.wait(100)];
    if (messages(sent, "lookup").length > 0) times.push(bench.nowMs);
  }
  const gaps = times.slice(1).map((atMs, i) => atMs - times[i]);
  assert.ok(gaps.every((gap) => gap >= 400));
  assert.ok(
    gaps.slice(-3).every((gap) => gap >= 7900 && gap <= 9000),
    gaps.join(" "),
  );
  assert.ok(times.length < 15);
  // nobody wants it any more
  bench.wait(11_000);
  assert.equal(messages(bench.wait(60_000), "lookup").length, 0);
});

test("neighbours that have the target are asked first; rings follow", () => {
  const bench = new Bench();
  bench.up(alice, carol, dave);
  const payload = nearPayload({ atMs: 5, relay: false, digest: NeighbourDigest.of([bob.nodeId]) });
  bench.say(carol, { type: "near", payload, signature: carol.sign("near", NETWORK, payload) });
  bench.routing.seek(bench.now, bob.nodeId);
  const first = messages(bench.drain(), "lookup");
  assert.deepEqual(
    first.map(({ to, message }) => [toHex(to), message.ttl]),
    [[toHex(carol.nodeId), 1]],
  );
  const second = messages(bench.wait(700), "lookup");
  assert.equal(second.length, 3);
  assert.ok(second.every(({ message }) => message.ttl === 2));
});

test("a digest counts only with its author's signature, and not when it is older", () => {
  const bench = new Bench();
  bench.up(carol);
  const near = (atMs: number, signer: Identity): RoutingMessage => {
    const payload = nearPayload({ atMs, relay: true, digest: NeighbourDigest.of([bob.nodeId]) });
    return { type: "near", payload, signature: signer.sign("near", NETWORK, payload) };
  };
  bench.say(carol, near(10, mallory));
  bench.say(dave, near(10, dave));
  assert.equal(bench.routing.counters.neighbourDigestsReceived, 0);
  bench.say(carol, near(10, carol));
  bench.say(carol, near(10, carol));
  bench.say(carol, near(9, carol));
  assert.equal(bench.routing.counters.neighbourDigestsReceived, 1);
  assert.equal(bench.routing.counters.neighbourDigestsRefused, 4);
});

test("when a path breaks, whoever is on it is told and the requester looks again at once", () => {
  const middle = new Bench();
  middle.up(alice, bob);
  const [{ message: passed }] = messages(middle.say(alice, lookupFrom(alice, bob)), "lookup");
  middle.say(bob, answer(passed, bob));
  middle.routing.peerDown(middle.now, bob.nodeId);
  const outputs = middle.drain();
  assert.equal(kinds(outputs, "forwardRemove").length, 2);
  assert.deepEqual(
    messages(outputs, "unlabel").map(({ to, message }) => [toHex(to), message.label]),
    [[toHex(alice.nodeId), 77]],
  );
  assert.equal(middle.routing.forwards, 0);

  const end = new Bench();
  end.up(carol, dave);
  end.routing.seek(end.now, bob.nodeId);
  const [{ to, message: lookup }] = messages(end.drain(), "lookup");
  const hop = people.find((one) => equal(one.nodeId, to)) as Identity;
  const [via] = kinds(end.say(hop, answer(lookup, bob)), "via");
  end.routing.using(end.now, bob.nodeId, { via: via.id });
  end.nowMs += 4000;
  const lost = end.say(hop, { type: "unlabel", label: lookup.label });
  assert.equal(kinds(lost, "viaRemove").length, 1);
  assert.equal(messages(end.wait(1), "lookup").length > 0, true);
});

test("while a single member leads to the target in use, a second one is looked for", () => {
  const bench = new Bench();
  bench.up(carol, dave);
  bench.routing.seek(bench.now, bob.nodeId);
  const asked = messages(bench.drain(), "lookup");
  const [first] = asked;
  const hop = people.find((one) => equal(one.nodeId, first.to)) as Identity;
  const [via] = kinds(bench.say(hop, answer(first.message, bob)), "via");
  bench.routing.using(bench.now, bob.nodeId, { via: via.id });
  const spare = messages(bench.wait(12_000), "lookup");
  assert.ok(spare.length > 0 && spare.length < 6);
  assert.ok(spare.every(({ to }) => !equal(to, hop.nodeId)));
});

test("one requester cannot fill the table of ways: at most four at a time", () => {
  const bench = new Bench();
  bench.up(...people.slice(2));
  for (let round = 0; round < 50; round++) {
    for (const via of people.slice(2))
      bench.say(via, lookupFrom(alice, self, { path: [alice.nodeId, via.nodeId], ttl: 0 }));
    bench.nowMs += 1000;
  }
  assert.equal(bench.routing.describe(bench.now, alice.nodeId).length, 4);
});

test("what others ask for crowds out none of the ways that this node found itself", () => {
  const bench = new Bench();
  const hops = people.slice(2, 10);
  bench.up(...hops.slice(0, 4));
  bench.routing.seek(bench.now, alice.nodeId);
  for (const { to, message: lookup } of messages(bench.drain(), "lookup")) {
    const hop = people.find((one) => equal(one.nodeId, to)) as Identity;
    bench.say(hop, answer(lookup, alice));
  }
  const own = bench.routing.candidates(bench.now, alice.nodeId);
  assert.equal(own.length, 4);
  bench.up(...hops);
  // four that pretend to be relays
  for (const hop of hops.slice(4))
    bench.say(hop, lookupFrom(alice, self, { path: [alice.nodeId, hop.nodeId], ttl: 0, relay: true }));
  bench.wait(400);
  const both = bench.routing.candidates(bench.now, alice.nodeId);
  assert.equal(both.length, 4);
  assert.deepEqual(
    both.map((endpoint) => virtualOf(endpoint)?.pathKind),
    [1, 1, 2, 2],
  );
});

test("a removed member is no target, no hop and no requester any more", () => {
  const bench = new Bench();
  bench.up(carol);
  bench.routing.seek(bench.now, bob.nodeId);
  const [{ message: lookup }] = messages(bench.drain(), "lookup");
  bench.say(carol, answer(lookup, bob));
  bench.strangers.add(toHex(bob.nodeId));
  bench.routing.memberRemoved(bench.now, bob.nodeId);
  assert.equal(kinds(bench.drain(), "viaRemove").length, 1);
  assert.equal(bench.routing.candidates(bench.now, bob.nodeId).length, 0);
  bench.routing.seek(bench.now, bob.nodeId);
  assert.deepEqual(bench.drain(), []);
});
