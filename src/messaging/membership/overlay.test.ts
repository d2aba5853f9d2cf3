/** The overlay's rules one by one, and what must hold after any course of events on a few nodes. Many nodes: sim/membership.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MembershipNet, type SimMember } from "../../../sim/membership-net.ts";
import { toHex } from "../../base/bytes.ts";
import { encodeOverlay, NeighbourFlag, OverlayType, RumourKind, rumourBody, type Rumour } from "./frames.ts";
import { activeViewSize, Liveness, PASSIVE_FACTOR } from "./types.ts";

const NODES = 14;

test("the active view grows with the logarithm of the members, between 8 and 12", () => {
  assert.deepEqual([1, 2, 50, 55, 100, 245, 403, 10_000].map(activeViewSize), [8, 8, 8, 9, 10, 12, 12, 12]);
});

function checkViews(node: SimMember, size: number): void {
  const active = node.overlay.active().map(toHex);
  const passive = node.overlay.passive().map(toHex);
  assert.ok(active.length <= size);
  assert.ok(passive.length <= size * PASSIVE_FACTOR);
  assert.equal(new Set(active).size, active.length);
  assert.equal(new Set(passive).size, passive.length);
  assert.ok(!active.includes(node.hex) && !passive.includes(node.hex));
  assert.ok(!passive.some((hex) => active.includes(hex)));
}

const step = fc.record({
  what: fc.constantFrom("kill", "restart", "leave", "start", "stick", "unstick", "part", "heal", "slow"),
  node: fc.nat(NODES - 1),
  waitMs: fc.nat(40_000),
});

test("whatever happens, views keep their rules; and when it ends, all that are up are one symmetric overlay", () => {
  fc.assert(
    fc.property(fc.nat(1_000_000), fc.array(step, { maxLength: 25 }), (seed, steps) => {
      // fewer places than nodes, so that they are fought for
      const net = new MembershipNet(seed, NODES, { overlay: { activeSize: 5 } });
      net.startAll(3000);
      for (const { what, node: index, waitMs } of steps) {
        const node = net.nodes[index];
        if (what === "kill") net.kill(node);
        else if (what === "restart") net.restart(node);
        else if (what === "leave" && node.isUp) net.leave(node);
        else if (what === "start" && !node.isUp) net.restart(node);
        else if (what === "stick") node.isStuck = true;
        else if (what === "unstick") node.isStuck = false;
        else if (what === "part") net.partition((one) => one.index % 2);
        else if (what === "heal") net.heal();
        else if (what === "slow") node.extraDelayMs = 700;
        net.run(waitMs);
        for (const one of net.up) checkViews(one, 5);
      }
      net.heal();
      for (const node of net.nodes) node.isStuck = false;
      const isWhole = (): boolean => net.isConnected(net.up) && net.asymmetries() === 0;
      assert.ok(net.runUntilEvery(isWhole, 600_000, 1000), `seed ${seed}: not one overlay after ten minutes`);
      for (const one of net.up) checkViews(one, 5);
    }),
    {
      numRuns: 60,
      // two full cliques that no longer believe anything bad of each other
      examples: [
        [
          0,
          [
            { what: "part", node: 0, waitMs: 6037 },
            { what: "kill", node: 0, waitMs: 20_415 },
            { what: "kill", node: 13, waitMs: 5265 },
          ],
        ],
      ],
    },
  );
});

/** Two nodes of which only the first is up: what reaches it is what the test sends. */
function lonely(): { net: MembershipNet; node: SimMember; peers: readonly SimMember[] } {
  const net = new MembershipNet(3, 40, { overlay: { activeSize: 3 } });
  const [node, ...peers] = net.nodes;
  net.start(node);
  return { net, node, peers };
}

const ask = (flags: number): Uint8Array =>
  encodeOverlay({ type: OverlayType.NEIGHBOUR, flags, incarnation: 1_800_000_000_000 });

test("a full view refuses who has enough neighbours and makes room for who has few", () => {
  const { net, node, peers } = lonely();
  for (const peer of peers.slice(0, 3)) net.inject(peer, node, ask(0));
  net.run(100);
  assert.equal(node.overlay.active().length, 3);
  net.inject(peers[3], node, ask(0));
  net.run(100);
  assert.ok(!node.overlay.active().map(toHex).includes(peers[3].hex));
  assert.ok(node.overlay.passive().map(toHex).includes(peers[3].hex), "but it is remembered");
  net.inject(peers[4], node, ask(NeighbourFlag.FEW));
  net.run(100);
  assert.ok(node.overlay.active().map(toHex).includes(peers[4].hex));
  assert.equal(node.overlay.counters.evictions, 1);
});

test("one that forces its way in again and again throws out ten and then one a second", () => {
  const { net, node, peers } = lonely();
  for (const peer of peers) net.inject(peer, node, ask(NeighbourFlag.FEW));
  net.run(50);
  assert.ok(node.overlay.counters.evictions <= 11, `${node.overlay.counters.evictions} evictions`);
});

test("a yes that was not asked for, and a walk's end that this node did not begin, push nobody out", () => {
  const { net, node, peers } = lonely();
  for (const peer of peers.slice(0, 3)) net.inject(peer, node, ask(0));
  net.run(40_000);
  for (const peer of peers.slice(0, 3)) net.inject(peer, node, ask(0));
  net.run(100);
  const before = node.overlay.active().map(toHex);
  const yes = { type: OverlayType.NEIGHBOUR_REPLY, flags: 1, incarnation: 1, nodes: [] } as const;
  net.inject(peers[20], node, encodeOverlay(yes));
  net.inject(peers[21], node, ask(NeighbourFlag.WALK));
  net.run(100);
  assert.deepEqual(node.overlay.active().map(toHex), before);
});

test("noise, strangers and a flood are refused, counted and change nothing", () => {
  const { net, node, peers } = lonely();
  const [peer] = peers;
  net.inject(peer, node, Uint8Array.of(99, 1, 2));
  net.inject(peer, node, new Uint8Array(0));
  net.run(100);
  assert.equal(node.overlay.counters.framesRefused, 2);
  for (let i = 0; i < 500; i++) net.inject(peer, node, encodeOverlay({ type: OverlayType.NACK, sequence: i }));
  net.run(200);
  assert.ok(node.overlay.counters.framesOverRate >= 430, `${node.overlay.counters.framesOverRate} over the rate`);
});

test("one accuser makes a suspect, two different ones a dead one, its own word or any frame of it a living one", () => {
  const { net, node, peers } = lonely();
  const [victim, first, second, third] = peers;
  const incarnation = net.now.wallMs;
  const say = (by: SimMember, kind: RumourKind, about: SimMember, at = incarnation): void => {
    const claim = { kind, node: about.id, incarnation: at };
    const { purpose, body } = rumourBody(claim);
    const rumour: Rumour = { ...claim, accuser: by.id, signature: net.sign(by, purpose, body) };
    const frame = { type: OverlayType.PING, flags: 0, sequence: 1, incarnation: 1, rumours: [rumour] } as const;
    // carried by a third: who signs matters, not who brings it
    net.inject(third, node, encodeOverlay(frame));
    net.run(100);
  };
  const belief = (): Liveness => node.overlay.liveness(victim.id);
  assert.equal(belief(), Liveness.UNKNOWN);
  say(first, RumourKind.DEAD, victim);
  assert.equal(belief(), Liveness.SUSPECT);
  say(first, RumourKind.DEAD, victim);
  assert.equal(belief(), Liveness.SUSPECT);
  say(second, RumourKind.DEAD, victim);
  assert.equal(belief(), Liveness.DEAD);
  // an old word of its own does not help, a new one does, and then old accusations do not harm
  say(victim, RumourKind.ALIVE, victim, incarnation - 1);
  assert.equal(belief(), Liveness.DEAD);
  say(victim, RumourKind.ALIVE, victim, incarnation + 1);
  assert.equal(belief(), Liveness.ALIVE);
  say(second, RumourKind.SUSPECT, victim);
  assert.equal(belief(), Liveness.ALIVE);
  say(second, RumourKind.SUSPECT, victim, incarnation + 2);
  assert.equal(belief(), Liveness.SUSPECT);
  net.inject(victim, node, encodeOverlay({ type: OverlayType.NACK, sequence: 1 }));
  net.run(100);
  assert.equal(belief(), Liveness.ALIVE);
  // nobody else says that it left, nobody comes from a day ahead
  say(first, RumourKind.LEFT, victim, incarnation + 3);
  assert.equal(belief(), Liveness.ALIVE);
  assert.ok(node.overlay.counters.signaturesRefused >= 1);
  say(first, RumourKind.DEAD, victim, incarnation + 200_000_000);
  say(second, RumourKind.DEAD, victim, incarnation + 200_000_000);
  assert.equal(belief(), Liveness.ALIVE);
  say(victim, RumourKind.LEFT, victim, incarnation + 3);
  assert.equal(belief(), Liveness.LEFT);
});

test("forged words cost who brings them, not who is named in them: honest ones are heard, also through a hostile flood", () => {
  const { net, node, peers } = lonely();
  const [victim, first, second, third, hostile] = peers;
  const incarnation = net.now.wallMs;
  const say = (from: SimMember, by: SimMember, signer: SimMember, kind: RumourKind, at: number, count = 1): void => {
    const claim = { kind, node: victim.id, incarnation: at };
    const { purpose, body } = rumourBody(claim);
    const rumour: Rumour = { ...claim, accuser: by.id, signature: net.sign(signer, purpose, body) };
    const rumours = Array.from({ length: count }, () => rumour);
    net.inject(from, node, encodeOverlay({ type: OverlayType.PING, flags: 0, sequence: 1, incarnation: 1, rumours }));
  };
  // within one second: the victim speaks, two others accuse, all of it made up
  for (let i = 0; i < 20; i++) {
    say(hostile, victim, hostile, RumourKind.ALIVE, incarnation + i, 6);
    say(hostile, first, hostile, RumourKind.DEAD, incarnation + i, 6);
    say(hostile, second, hostile, RumourKind.DEAD, incarnation + i, 6);
  }
  net.run(100);
  assert.equal(node.overlay.counters.signaturesRefused, 16);
  assert.equal(node.overlay.counters.peersCutOff, 1);
  say(third, first, first, RumourKind.DEAD, incarnation);
  say(third, second, second, RumourKind.DEAD, incarnation);
  net.run(100);
  assert.equal(node.overlay.liveness(victim.id), Liveness.DEAD);
  say(third, victim, victim, RumourKind.ALIVE, incarnation + 1);
  net.run(100);
  assert.equal(node.overlay.liveness(victim.id), Liveness.ALIVE);
});
