/** Routing as the runtime uses it: when a way is looked for, who counts as direct, and what reaches the data plane. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Now } from "../base/clock.ts";
import { equal } from "../base/bytes.ts";
import { endpointToBytes, VirtualType, virtualEndpoint } from "../base/endpoint.ts";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import { formatNodeId } from "../crypto/node-id.ts";
import type { Command, PeerFigures } from "../dataplane/messages.ts";
import type { MeshNode } from "../mesh/mesh-node.ts";
import { foundBody, type Lookup, type RoutingMessage } from "../mesh/routing/messages.ts";
import type { Member } from "../mesh/types.ts";
import { type PeerRecord, PeerTable } from "./peer-table.ts";
import { Ways } from "./ways.ts";

const NETWORK = new Uint8Array(32).fill(4);
const ADDRESS = endpointToBytes({ address: "192.0.2.1", port: 9338 });
const random = new SeededRandom(21);
const [self, bob, carol, dave] = Array.from({ length: 4 }, () => Identity.generate(random));

class Bench {
  nowMs = 1000;
  readonly said: { readonly to: Uint8Array; readonly message: RoutingMessage }[] = [];
  readonly commands: Command[] = [];
  readonly changed: PeerRecord[] = [];
  readonly peers = new PeerTable(8);
  readonly ways: Ways;
  txBytes = 0;
  /** Whether addresses of bob are known. */
  hasAddress = true;

  constructor(options: ConstructorParameters<typeof Ways>[1] = {}, carolsName = "carol") {
    const members = [self, bob, carol, dave].map((one, i): Member => ({
      nodeId: one.nodeId,
      staticKey: one.staticKeys.publicKey,
      name: ["self", "bob", carolsName, "dave"][i],
      requestedName: "",
      ipv4: "",
      ipv6: "",
      roles: [],
      tags: [],
      expiresAtMs: undefined,
      admittedAtMs: 0,
      admission: one.nodeId,
    }));
    const mesh = {
      networkId: NETWORK,
      memberById: (nodeId: Uint8Array) => members.find((member) => equal(member.nodeId, nodeId)),
      candidates: () => (this.hasAddress ? [ADDRESS] : []),
      tell: (to: Uint8Array, message: RoutingMessage) => void this.said.push({ to, message }),
      noteRtt: () => undefined,
    } as unknown as MeshNode;
    this.ways = new Ways(
      {
        identity: self,
        mesh,
        random: new SeededRandom(2),
        peers: () => this.peers,
        send: (command) => void this.commands.push(command),
        figures: () => ({ txBytes: this.txBytes, rxBytes: 0, rttMs: 3 }) as PeerFigures,
        candidatesChanged: (_now, peer) => void this.changed.push(peer),
      },
      options,
    );
    for (const [i, one] of [bob, carol, dave].entries()) {
      const peer = this.peers.add(one.nodeId, one.staticKeys.publicKey, 0) as PeerRecord;
      peer.member = members[i + 1];
    }
  }

  get now(): Now {
    return { nowMs: this.nowMs, wallMs: 1_800_000_000_000 + this.nowMs };
  }

  peer(one: Identity): PeerRecord {
    return this.peers.byKey(one.staticKeys.publicKey) as PeerRecord;
  }

  connect(one: Identity, endpoint: Uint8Array = ADDRESS): void {
    const peer = this.peer(one);
    peer.established = true;
    peer.endpoint = endpoint;
    this.ways.changed(this.now, peer);
  }

  wait(durationMs: number): void {
    const endMs = this.nowMs + durationMs;
    while (this.ways.nextTimeoutMs <= endMs) {
      this.nowMs = Math.max(this.nowMs, this.ways.nextTimeoutMs);
      this.ways.handleTimeout(this.now);
    }
    this.nowMs = endMs;
  }

  lookups(): Lookup[] {
    return this.said.flatMap(({ message }) => (message.type === "lookup" ? [message] : []));
  }

  answer(lookup: Lookup, hop: Identity, target: Identity): void {
    const signature = target.sign("found", NETWORK, foundBody(lookup.id, target.nodeId, self.nodeId));
    this.ways.handle(this.now, hop.nodeId, {
      type: "found",
      id: lookup.id,
      label: 5,
      hops: 2,
      relay: false,
      signature,
    });
  }
}

test("a direct answer is waited for 300 ms, then a way is looked for", () => {
  const bench = new Bench();
  bench.connect(carol);
  bench.ways.wanted(bench.now, bench.peer(bob), true);
  bench.wait(290);
  assert.equal(bench.lookups().length, 0);
  bench.wait(20);
  assert.equal(bench.lookups().length, 1);
});

test("nothing is waited for without an address, or when what there is fell silent", () => {
  for (const isOverdue of [false, true]) {
    const bench = new Bench();
    bench.hasAddress = isOverdue;
    bench.connect(carol);
    bench.ways.wanted(bench.now, bench.peer(bob), true, isOverdue);
    assert.equal(bench.lookups().length, 1);
  }
});

test("an unanswered search says how it stands", () => {
  const bench = new Bench();
  bench.connect(carol);
  assert.deepEqual(bench.ways.describe(bench.now, bob.nodeId), []);
  bench.ways.wanted(bench.now, bench.peer(bob), true, true);
  bench.wait(200);
  const [way] = bench.ways.describe(bench.now, bob.nodeId);
  assert.equal(way.state, "looked for");
  assert.equal(way.reason, "1 lookups, the last one to 1 members; next in 1 s");
});

test("a session that comes in time makes the search needless", () => {
  const bench = new Bench();
  bench.connect(carol);
  bench.ways.wanted(bench.now, bench.peer(bob), true);
  bench.wait(100);
  bench.connect(bob);
  bench.wait(20_000);
  assert.equal(bench.lookups().length, 0);
});

test("a dial for which no traffic waits costs one small lookup, and no second one soon", () => {
  const bench = new Bench();
  bench.connect(carol);
  for (let i = 0; i < 10; i++) {
    bench.ways.wanted(bench.now, bench.peer(bob), false);
    bench.wait(1000);
  }
  assert.equal(bench.lookups().length, 1);
  bench.wait(15_000);
  bench.ways.wanted(bench.now, bench.peer(bob), false);
  bench.wait(1000);
  assert.equal(bench.lookups().length, 2);
});

test("an answer becomes a via of the hop's slot, a candidate, and a path with a name", () => {
  const bench = new Bench();
  bench.connect(carol);
  bench.ways.wanted(bench.now, bench.peer(bob), true, true);
  const [lookup] = bench.lookups();
  bench.answer(lookup, carol, bob);
  const via = bench.commands.find((command) => command.kind === "via");
  assert.deepEqual(via, { kind: "via", id: 1, hop: bench.peer(carol).slot, out: 5, in: lookup.label, pathKind: 2 });
  assert.deepEqual(bench.changed, [bench.peer(bob)]);
  const [endpoint] = bench.ways.candidates(bench.now, bob.nodeId);
  assert.deepEqual(endpoint, virtualEndpoint(VirtualType.LABEL, 2, 1));
  assert.deepEqual(bench.ways.through(endpoint), { kind: "transit", via: "carol" });
  assert.equal(bench.ways.through(ADDRESS), undefined);
  assert.deepEqual(bench.ways.describe(bench.now, bob.nodeId)[0].via, ["carol"]);
  assert.ok(bench.ways.isHop(carol.nodeId) && !bench.ways.isHop(dave.nodeId));
  bench.ways.viaFailed(bench.now, 1, 2);
  assert.equal(bench.ways.candidates(bench.now, bob.nodeId).length, 0);
});

test("who is reached through others is no hop for others", () => {
  const bench = new Bench();
  bench.connect(carol, virtualEndpoint(VirtualType.LABEL, 2, 9));
  bench.ways.wanted(bench.now, bench.peer(bob), true, true);
  assert.equal(bench.lookups().length, 0);
  // a channel is a direct session
  bench.connect(dave, virtualEndpoint(VirtualType.CHANNEL, 1, 3));
  bench.wait(9000);
  assert.ok(bench.lookups().length > 0);
});

test("a hop that leaves the direct path takes its ways with it", () => {
  const bench = new Bench();
  bench.connect(carol);
  bench.ways.wanted(bench.now, bench.peer(bob), true, true);
  bench.answer(bench.lookups()[0], carol, bob);
  bench.connect(carol, virtualEndpoint(VirtualType.LABEL, 2, 9));
  assert.ok(bench.commands.some((command) => command.kind === "viaRemove"));
  assert.equal(bench.ways.candidates(bench.now, bob.nodeId).length, 0);
});

test("lasting traffic on a direct path gets a way in reserve, a single ping does not", () => {
  for (const seconds of [1, 8]) {
    const bench = new Bench();
    bench.connect(carol);
    bench.connect(bob);
    for (let i = 0; i < 30; i++) {
      if (i < seconds) bench.txBytes += 100;
      bench.ways.tick(bench.now);
      bench.wait(1000);
    }
    assert.equal(bench.lookups().length > 0, seconds > 3, `${seconds} s of traffic`);
  }
});

test("paths of others: the allow-list decides, and slots and limits reach the data plane", () => {
  const lookup = (): Lookup => ({
    type: "lookup",
    id: random.bytes(16),
    target: bob.nodeId,
    path: [carol.nodeId],
    ttl: 1,
    label: 8,
    relay: false,
  });
  const closed = new Bench({ transit: ["dave"] });
  closed.connect(carol);
  closed.connect(bob);
  closed.ways.handle(closed.now, carol.nodeId, lookup());
  assert.equal(closed.lookups().length, 0);

  // a name in the form of an id opens the way to nobody but the node with that id
  const id = formatNodeId(dave.nodeId);
  const borrowed = new Bench({ transit: [id] }, id);
  borrowed.connect(carol);
  borrowed.connect(bob);
  borrowed.ways.handle(borrowed.now, carol.nodeId, lookup());
  assert.equal(borrowed.lookups().length, 0);

  const open = new Bench({ transit: ["carol"], forwardBytesPerSecond: 123 });
  open.connect(carol);
  open.connect(bob);
  open.ways.handle(open.now, carol.nodeId, lookup());
  const [passed] = open.lookups();
  const signature = bob.sign("found", NETWORK, foundBody(passed.id, bob.nodeId, carol.nodeId));
  const found = { type: "found", id: passed.id, label: 6, hops: 2, relay: false, signature } as const;
  open.ways.handle(open.now, bob.nodeId, found);
  const [b, c] = [open.peer(bob).slot, open.peer(carol).slot];
  const forwards = open.commands.filter((command) => command.kind === "forward");
  assert.deepEqual(
    forwards.map(({ from, to, out, bytesPerSecond }) => [from, to, out, bytesPerSecond]),
    [
      [c, b, 6, 123],
      [b, c, 8, 123],
    ],
  );
  open.ways.forwardExpired(open.now, forwards[0].label, c);
  assert.equal(open.ways.forwards, 0);
});
