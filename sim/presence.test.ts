/** Presence on many nodes in virtual time: states and time-outs, a beacon that reaches a thousand watchers through each other, hostile relays. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toHex, utf8 } from "../src/base/bytes.ts";
import {
  BEACON_PURPOSE,
  beaconBody,
  BeaconStatus,
  encodePresence,
  PresenceType,
} from "../src/messaging/presence/frames.ts";
import type { PresenceView } from "../src/messaging/presence/types.ts";
import type { Presence } from "../src/messaging/presence/presence.ts";
import { MembershipNet, type SimMember } from "./membership-net.ts";

const SECOND_MS = 1000;
const PRESENCE_FRAMES = 2;
const CALM = { probeMs: 600_000, shuffleMs: 600_000 };

function mesh(seed: number, nodes: number): MembershipNet {
  const net = new MembershipNet(seed, nodes, { presence: {}, overlay: CALM });
  net.startAll(1000);
  net.run(5000);
  return net;
}

function presenceOf(node: SimMember): Presence {
  assert.ok(node.presence !== undefined);
  return node.presence;
}

function watch(net: MembershipNet, watcher: SimMember, subject: SimMember): void {
  net.touch(watcher, () => presenceOf(watcher).watch(net.now, subject.id));
}

const view = (net: MembershipNet, watcher: SimMember, subject: SimMember): PresenceView =>
  presenceOf(watcher).view(net.now, subject.id);

test("a watched node is online within a second, away and back when it says so, offline at once when it stops", () => {
  const net = mesh(1, 2);
  const [a, b] = net.nodes;
  assert.equal(view(net, a, b).state, "unknown");
  watch(net, a, b);
  net.run(SECOND_MS);
  assert.equal(view(net, a, b).state, "online");
  net.run(60 * SECOND_MS);
  net.touch(b, () => presenceOf(b).set(net.now, "away", "at lunch"));
  net.run(2 * SECOND_MS);
  assert.equal(view(net, a, b).state, "away");
  assert.equal(view(net, a, b).note, "at lunch");
  net.touch(b, () => presenceOf(b).set(net.now, "online"));
  net.run(2 * SECOND_MS);
  assert.equal(view(net, a, b).state, "online");
  const seenMs = view(net, a, b).lastSeenMs;
  net.leave(b);
  net.run(SECOND_MS);
  assert.equal(view(net, a, b).state, "offline");
  assert.ok((view(net, a, b).lastSeenMs ?? 0) >= (seenMs ?? 0));
});

test("a node that falls silent is away after half of its time-out and offline after it, and it is told once each", () => {
  const net = mesh(2, 2);
  const [a, b] = net.nodes;
  const told: { readonly state: string; readonly atMs: number }[] = [];
  net.onPresence = (_, changed) => told.push({ state: changed.state, atMs: net.nowMs });
  watch(net, a, b);
  net.run(400 * SECOND_MS);
  assert.deepEqual(
    told.map((one) => one.state),
    ["online"],
  );
  const { timeoutMs } = view(net, a, b);
  assert.ok(timeoutMs >= 180_000 && timeoutMs <= 210_000, `${timeoutMs} ms`);
  const lastMs = (view(net, a, b).lastSeenMs ?? 0) - (net.now.wallMs - net.nowMs);
  net.kill(b);
  net.run(300 * SECOND_MS);
  assert.deepEqual(
    told.map((one) => one.state),
    ["online", "away", "offline"],
  );
  assert.ok(Math.abs(told[1].atMs - lastMs - timeoutMs / 2) < SECOND_MS, `away after ${told[1].atMs - lastMs} ms`);
  assert.ok(Math.abs(told[2].atMs - lastMs - timeoutMs) < SECOND_MS, `offline after ${told[2].atMs - lastMs} ms`);
  net.restart(b);
  net.run(130 * SECOND_MS);
  assert.equal(view(net, a, b).state, "online");
});

test("a node whose beacons come rarely gets a longer time-out, up to ten minutes", () => {
  const net = new MembershipNet(3, 2, { presence: { beaconMs: 90_000 }, overlay: CALM });
  net.startAll(1000);
  net.run(5000);
  const [a, b] = net.nodes;
  watch(net, a, b);
  net.run(60 * 60 * SECOND_MS);
  const { timeoutMs } = view(net, a, b);
  assert.ok(timeoutMs > 480_000 && timeoutMs <= 600_000, `${timeoutMs} ms`);
});

test("one node with 400 watchers sends 32 beacons a beat, and all of them are served through each other", () => {
  const net = mesh(4, 401);
  const [subject, ...watchers] = net.nodes;
  for (const node of watchers) net.at(net.nowMs + 60_000 * net.random.unit(), () => watch(net, node, subject));
  net.run(5 * 60 * SECOND_MS);
  assert.ok(watchers.every((node) => view(net, node, subject).state === "online"));
  net.resetCounts();
  const signedBefore = presenceOf(subject).counters.beaconsSigned;
  net.run(10 * 60 * SECOND_MS);
  const beats = presenceOf(subject).counters.beaconsSigned - signedBefore;
  assert.ok(beats >= 18 && beats <= 23, `${beats} beats in ten minutes`);
  // beacons to those it serves; the few that lost their relay are redirected now and then
  assert.ok(subject.framesOut < 1.5 * 32 * beats, `${subject.framesOut} frames`);
  const most = Math.max(...watchers.map((node) => node.framesOut));
  assert.ok(most < 1.5 * (32 * beats + 20), `one watcher sends ${most} frames`);
  assert.ok(watchers.every((node) => view(net, node, subject).state === "online"));
  // news travel the same way
  net.touch(subject, () => presenceOf(subject).set(net.now, "away"));
  net.run(5 * SECOND_MS);
  assert.ok(watchers.every((node) => view(net, node, subject).state === "away"));
});

test("watchers whose relays die are served again within two and a half minutes, before anybody counts as offline", () => {
  const net = new MembershipNet(5, 60, { presence: { maxWatchers: 4 }, overlay: CALM });
  net.startAll(1000);
  net.run(5000);
  const [subject, ...watchers] = net.nodes;
  for (const node of watchers) net.at(net.nowMs + 30_000 * net.random.unit(), () => watch(net, node, subject));
  net.run(4 * 60 * SECOND_MS);
  const dead = watchers.slice(0, 20);
  for (const node of dead) net.kill(node);
  let offline = 0;
  net.onPresence = (_, changed) => {
    if (changed.state === "offline") offline++;
  };
  const living = watchers.slice(20);
  net.run(150 * SECOND_MS);
  for (let i = 0; i < 20; i++) {
    assert.ok(living.every((node) => view(net, node, subject).state === "online"));
    net.run(60 * SECOND_MS);
  }
  assert.equal(offline, 0);
});

test("nobody in between can make up, change or bring back a beacon", () => {
  const net = mesh(6, 3);
  const [a, b, hostile] = net.nodes;
  watch(net, a, b);
  net.run(SECOND_MS);
  const send = (version: number, note: string, signer: SimMember): void => {
    const unsigned = { version, status: BeaconStatus.STOPPING, note: utf8(note) };
    const signature = net.sign(signer, BEACON_PURPOSE, beaconBody(unsigned));
    const frame = encodePresence({ type: PresenceType.BEACON, beacon: { node: b.id, ...unsigned, signature } });
    net.inject(hostile, a, frame, PRESENCE_FRAMES);
    net.run(100);
  };
  send(net.now.wallMs + 1000, "gone", hostile);
  assert.equal(view(net, a, b).state, "online");
  assert.equal(presenceOf(a).counters.signaturesRefused, 1);
  // its own word, but older than the last
  send(net.now.wallMs - 3_600_000, "gone", b);
  assert.equal(view(net, a, b).state, "online");
  // far ahead: it would silence the node for years
  send(net.now.wallMs + 3_600_000, "gone", b);
  assert.equal(view(net, a, b).state, "online");
  // negative control: a good one through another node does count
  send(net.now.wallMs + 1000, "gone", b);
  assert.equal(view(net, a, b).state, "offline");
});

test("forged beacons that one node brings do not keep the beacons of honest ones away", () => {
  const net = mesh(9, 40);
  const [a, b, ...hostile] = net.nodes;
  watch(net, a, b);
  net.run(SECOND_MS);
  const unsigned = { status: BeaconStatus.STOPPING, note: utf8("") };
  const versionMs = net.now.wallMs + 1000;
  for (const one of hostile) {
    for (let i = 0; i < 40; i++) {
      const forged = { version: versionMs + i, ...unsigned };
      const signature = net.sign(one, BEACON_PURPOSE, beaconBody(forged));
      const frame = encodePresence({ type: PresenceType.BEACON, beacon: { node: b.id, ...forged, signature } });
      net.inject(hostile[0], a, frame, PRESENCE_FRAMES);
    }
  }
  net.run(100);
  assert.equal(presenceOf(a).counters.signaturesRefused, 16);
  assert.equal(presenceOf(a).counters.peersCutOff, 1);
  const good = { version: versionMs + 100, ...unsigned };
  const signature = net.sign(b, BEACON_PURPOSE, beaconBody(good));
  const frame = encodePresence({ type: PresenceType.BEACON, beacon: { node: b.id, ...good, signature } });
  net.inject(hostile[1], a, frame, PRESENCE_FRAMES);
  net.run(100);
  assert.equal(view(net, a, b).state, "offline");
});

test("what one node makes another keep and do for it is bounded", () => {
  const net = mesh(7, 60);
  const [subject, ...others] = net.nodes;
  for (const node of others) {
    // everybody watches everybody through everybody, without a reason
    for (const about of net.nodes)
      net.inject(
        node,
        subject,
        encodePresence({ type: PresenceType.WATCH, subject: about.id, version: 0 }),
        PRESENCE_FRAMES,
      );
  }
  net.run(10 * SECOND_MS);
  assert.ok(presenceOf(subject).counters.watchers <= 32, `${presenceOf(subject).counters.watchers} watchers`);
  for (let i = 0; i < 2000; i++)
    net.inject(
      others[0],
      subject,
      encodePresence({ type: PresenceType.UNWATCH, subject: subject.id }),
      PRESENCE_FRAMES,
    );
  net.run(SECOND_MS);
  assert.ok(presenceOf(subject).counters.framesOverRate > 1000);
  assert.throws(() => {
    const small = new MembershipNet(8, 3, { presence: { maxWatched: 1 } });
    const [a, b, c] = small.nodes;
    watch(small, a, b);
    watch(small, a, c);
  }, /1 nodes are watched/);
  assert.equal(toHex(subject.id), subject.hex);
});
