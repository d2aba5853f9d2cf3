import assert from "node:assert/strict";
import { test } from "node:test";
import { endpointToBytes } from "../../src/base/endpoint.ts";
import { nullLogger } from "../../src/base/log.ts";
import type { WeftError } from "../../src/base/errors.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { Identity } from "../../src/crypto/identity.ts";
import { MeshNode } from "../../src/mesh/mesh-node.ts";
import type { JoinResult } from "../../src/mesh/types.ts";
import type { Clock } from "../../src/node/clock.ts";
import { slotsFor } from "../../src/node/members.ts";
import { ENDPOINT_CACHE_KEY, NETWORK_KEY } from "../../src/node/persistence.ts";
import { NodeRuntime } from "../../src/node/runtime.ts";
import { OWN_TIMESTAMP_KEY, StoredTimestamps } from "../../src/node/timestamps.ts";
import { Capability } from "../../src/session/types.ts";
import type { MeshStream } from "../../src/stream/types.ts";
import { FakeNetwork } from "../support/fake-plane.ts";
import type { FakePlane } from "../support/fake-plane.ts";
import { MemoryStorage } from "../support/memory-storage.ts";
import { VirtualClock } from "../support/virtual-clock.ts";

/** One node over the fake plane; kill() and start() again keep identity and store, as a restart does. */
class TestNode {
  readonly clock: Clock;
  readonly network: FakeNetwork;
  readonly name: string;
  readonly endpoint: Uint8Array;
  readonly storage = new MemoryStorage();
  readonly random: SeededRandom;
  readonly identity: Identity;
  readonly removals: string[] = [];
  readonly failures: WeftError[] = [];
  endpointsDirty = 0;
  runtime!: NodeRuntime;
  plane!: FakePlane;

  constructor(network: FakeNetwork, name: string, host: number, clock: Clock = network.clock) {
    this.network = network;
    this.clock = clock;
    this.name = name;
    this.endpoint = endpointToBytes({ address: `192.0.2.${host}`, port: 9338 });
    this.random = new SeededRandom(host);
    this.identity = Identity.generate(this.random);
  }

  start(maxPeers = 8): void {
    const stored = this.storage.contents();
    const mesh = new MeshNode({ identity: this.identity, random: this.random }, { bulkStreams: true });
    const networkId = stored.meta.get(NETWORK_KEY);
    if (networkId !== undefined) {
      mesh.restore(
        this.clock.now(),
        networkId,
        stored.statements.map((row) => row.bytes),
      );
      const cache = stored.meta.get(ENDPOINT_CACHE_KEY);
      if (cache !== undefined) mesh.importEndpoints(cache);
    }
    this.runtime = new NodeRuntime(
      {
        identity: this.identity,
        mesh,
        storage: this.storage,
        timestamps: new StoredTimestamps(
          { persist: (mutations) => void this.storage.write(mutations) },
          { highWater: stored.meta.get(OWN_TIMESTAMP_KEY), peers: stored.timestamps },
        ),
        random: this.random,
        clock: this.clock,
        log: nullLogger,
      },
      {
        maxPeers,
        pq: "require",
        psk: new Map(),
        capabilities: Capability.HYBRID,
        underlayMtuBytes: 1500,
        bootId: this.random.u32(),
      },
      {
        pathChanged: () => undefined,
        endpointsDirty: () => this.endpointsDirty++,
        removed: (reason) => this.removals.push(reason),
        failed: (error) => this.failures.push(error),
      },
    );
    // the real plane says "ready" before anybody has its handle
    const runtime = this.runtime;
    this.plane = this.network.plane(this.endpoint, (event) => runtime.handleEvent(event));
    runtime.handleEvent({ kind: "ready", tunName: "", port4: 9338, port6: 0, offloads: 0 });
    runtime.attach(this.plane);
    runtime.setOwnEndpoints([this.endpoint]);
    if (networkId !== undefined) runtime.start();
  }

  async found(): Promise<void> {
    this.start();
    await this.runtime.operate((mesh, now) => mesh.createNetwork(now, { network: "home", name: this.name }));
    this.runtime.setOwnEndpoints([this.endpoint]);
    this.runtime.start();
  }

  async invite(options: { uses?: number; expiresMs?: number } = {}): Promise<string> {
    return (await this.runtime.operate((mesh, now) => mesh.createInvite(now, options))).token;
  }

  async join(token: string): Promise<JoinResult> {
    const results: JoinResult[] = [];
    void this.runtime.join(token, this.name).then((value) => results.push(value));
    for (let i = 0; i < 100 && results.length === 0; i++) await this.network.clock.advance(1000);
    const [result] = results;
    assert.ok(result !== undefined, "no result after 100 s");
    await this.runtime.flush();
    return result;
  }

  /** The process dies: nothing is said or written any more. */
  kill(): void {
    this.network.remove(this.plane);
    const dead = this.runtime;
    dead.handleEvent = () => undefined;
    this.plane.refuse = Infinity;
  }

  peer(name: string): ReturnType<NodeRuntime["peers"]["byKey"]> {
    const member = this.runtime.mesh.find(name);
    return member === undefined ? undefined : this.runtime.peers.byKey(member.staticKey);
  }

  reaches(name: string): boolean {
    const peer = this.peer(name);
    return peer !== undefined && this.plane.peerFigures(peer.slot).established;
  }
}

async function pair(): Promise<{ clock: VirtualClock; network: FakeNetwork; a: TestNode; b: TestNode }> {
  const clock = new VirtualClock();
  const network = new FakeNetwork(clock);
  const a = new TestNode(network, "a", 1);
  const b = new TestNode(network, "b", 2);
  await a.found();
  b.start();
  const result = await b.join(await a.invite());
  assert.equal(result.ok, true);
  await clock.advance(500);
  return { clock, network, a, b };
}

async function echo(clock: VirtualClock, from: TestNode, to: string, timeoutMs = 2000): Promise<number | undefined> {
  const peer = from.peer(to);
  assert.ok(peer !== undefined, `${from.name} does not know ${to}`);
  let rttMs: number | undefined;
  void from.runtime.ping(peer, timeoutMs).then((pong) => (rttMs = pong?.rttMs));
  await clock.advance(timeoutMs + 10);
  return rttMs;
}

test("a node joins with a token, both sides know each other and echoes go both ways", async () => {
  const { clock, a, b } = await pair();
  assert.deepEqual(
    a.runtime.mesh.members().map((member) => member.name),
    ["a", "b"],
  );
  assert.equal(await echo(clock, a, "b"), 2);
  assert.equal(await echo(clock, b, "a"), 2);
  const peer = b.peer("a");
  assert.ok(peer !== undefined && b.runtime.isOnline(peer));
  assert.equal(b.plane.peerFigures(peer.slot).hybrid, true);
});

test("routes and own addresses of every member reach the plane", async () => {
  const { a } = await pair();
  const routes = a.plane.commands.findLast((command) => command.kind === "routes");
  const local = a.plane.commands.findLast((command) => command.kind === "local");
  assert.equal(routes?.routes.length, 2);
  assert.equal(local?.prefixes.length, 2);
  assert.equal(routes?.routes[0]?.peer, a.peer("b")?.slot);
});

test("a killed node is back within two seconds of its start, without joining again", async () => {
  const { clock, a, b } = await pair();
  b.kill();
  await clock.advance(3000);
  b.start();
  await clock.advance(2000);
  assert.equal(b.reaches("a"), true);
  assert.equal(await echo(clock, a, "b"), 2);
  assert.deepEqual([...b.failures, ...b.removals], []);
});

test("a node that comes back holds user data until a member confirms its roster; a policy may refuse without one", async () => {
  const { clock, network, a, b } = await pair();
  const holds = (node: TestNode): boolean[] =>
    node.plane.commands.flatMap((command) => (command.kind === "hold" ? [command.held] : []));
  const routes = (node: TestNode): number | undefined =>
    node.plane.commands.findLast((command) => command.kind === "routes")?.routes.length;
  await a.runtime.operate((mesh, now) => mesh.setPolicy(now, { stale: "refuse" }));
  await clock.advance(1000);
  b.kill();
  await clock.advance(3000);
  b.start();
  assert.deepEqual(holds(b), [true]);
  await clock.advance(1000);
  assert.deepEqual(holds(b), [true, false], "a has confirmed it");
  assert.equal(routes(b), 2);
  network.loses = () => true;
  await clock.advance(75_000);
  assert.equal(b.runtime.mesh.userData, "refused");
  assert.equal(routes(b), 0);
  network.loses = () => false;
  await clock.advance(60_000);
  assert.equal(b.runtime.mesh.userData, "open");
  assert.equal(routes(b), 2);
});

test("a node that waits for approval keeps its slot, and loses it when it gives up", async () => {
  const { clock, network, a } = await pair();
  const c = new TestNode(network, "c", 3);
  c.start();
  const { token } = await a.runtime.operate((mesh, now) => mesh.createInvite(now, { approve: true }));
  let result: JoinResult | undefined;
  void c.runtime.join(token, "c").then((value) => (result = value));
  await clock.advance(90_000);
  assert.equal(a.runtime.mesh.requests(clock.now())[0]?.name, "c");
  assert.ok(a.runtime.peers.byKey(c.identity.staticKeys.publicKey) !== undefined);
  const later = new TestNode(network, "d", 4);
  later.start();
  void later.runtime.join(
    (await a.runtime.operate((mesh, now) => mesh.createInvite(now, { approve: true }))).token,
    "d",
  );
  await clock.advance(3000);
  later.kill();
  await a.runtime.operate((mesh, now) => mesh.approve(now, "c"));
  await clock.advance(3000);
  assert.ok(result?.ok === true);
  assert.equal(c.reaches("a"), true);
  await clock.advance(60_000);
  assert.equal(a.runtime.peers.byKey(later.identity.staticKeys.publicKey), undefined);
});

test("both killed at once find each other again from what they stored", async () => {
  const { clock, a, b } = await pair();
  a.kill();
  b.kill();
  a.start();
  b.start();
  await clock.advance(2000);
  assert.equal(a.reaches("b") && b.reaches("a"), true);
});

test("a used token is refused with its reason, and the refused node holds no slot afterwards", async () => {
  const { clock, network, a } = await pair();
  const token = await a.invite();
  const c = new TestNode(network, "c", 3);
  c.start();
  assert.equal((await c.join(token)).ok, true);
  const d = new TestNode(network, "d", 4);
  d.start();
  const result = await d.join(token);
  assert.ok(!result.ok);
  assert.equal(result.code, "invite-used-up");
  assert.match(result.text, /used/);
  await clock.advance(60_000);
  assert.equal(a.runtime.peers.size, 2);
});

test("a clock that is off by more than five minutes is the reason given", async () => {
  const clock = new VirtualClock();
  const network = new FakeNetwork(clock);
  const a = new TestNode(network, "a", 1);
  await a.found();
  const token = await a.invite({ expiresMs: 86_400_000 });
  const skewed: Clock = {
    now: () => ({ nowMs: clock.nowMs, wallMs: clock.now().wallMs + 400_000 }),
    schedule: (atMs, action) => clock.schedule(atMs, action),
  };
  const b = new TestNode(network, "b", 2, skewed);
  b.start();
  const result = await b.join(token);
  assert.ok(!result.ok);
  assert.equal(result.code, "clock-off");
});

test("a third node reaches the second directly, without the admin", async () => {
  const { clock, network, a, b } = await pair();
  const c = new TestNode(network, "c", 3);
  c.start();
  assert.equal((await c.join(await a.invite())).ok, true);
  await clock.advance(2000);
  a.kill();
  assert.equal(await echo(clock, b, "c"), 2);
  assert.equal(await echo(clock, c, "b"), 2);
});

test("a revoked node loses its sessions at once and is told", async () => {
  const { clock, a, b } = await pair();
  await a.runtime.operate((mesh, now) => mesh.revoke(now, "b", "lost"));
  assert.equal(a.runtime.peers.size, 0);
  assert.ok(a.plane.commands.some((command) => command.kind === "peerRemove"));
  await clock.advance(5000);
  assert.equal(a.runtime.mesh.members().length, 1);
  assert.equal(await b.runtime.ping(b.peer("a") as NonNullable<ReturnType<TestNode["peer"]>>, 0), undefined);
});

test("who leaves is removed on the others", async () => {
  const { clock, a, b } = await pair();
  let delivered: boolean | undefined;
  void b.runtime.leave().then((value) => (delivered = value));
  await clock.advance(1000);
  assert.equal(delivered, true);
  assert.equal(a.runtime.mesh.members().length, 1);
  assert.deepEqual(b.removals, []);
});

test("commands refused by a full ring arrive later, in order", async () => {
  const clock = new VirtualClock();
  const network = new FakeNetwork(clock);
  const a = new TestNode(network, "a", 1);
  const b = new TestNode(network, "b", 2);
  await a.found();
  b.start();
  const token = await a.invite();
  a.plane.refuse = 40;
  b.plane.refuse = 40;
  assert.equal((await b.join(token)).ok, true);
  await clock.advance(5000);
  assert.equal(await echo(clock, a, "b"), 2);
  assert.equal(a.runtime.commandsWaiting, 0);
});

test("joins go through a lossy network", async () => {
  const clock = new VirtualClock();
  const network = new FakeNetwork(clock);
  const dice = new SeededRandom(7);
  network.loses = () => dice.unit() < 0.2;
  const a = new TestNode(network, "a", 1);
  const b = new TestNode(network, "b", 2);
  await a.found();
  b.start();
  assert.equal((await b.join(await a.invite())).ok, true);
});

test("a node that joins with a foreign key and no invite leaves no state", async () => {
  const { clock, network, a } = await pair();
  const before = a.runtime.peers.size;
  const stranger = new TestNode(network, "stranger", 9);
  await stranger.found();
  stranger.plane.send({ kind: "peer", peer: 0, nodeId: new Uint8Array(32) });
  stranger.plane.send({ kind: "transmit", peer: 0, to: a.endpoint, datagram: new Uint8Array(176).fill(0x41) });
  await clock.advance(100);
  assert.equal(a.runtime.peers.size, before);
});

test("members beyond the limit are known, but hold no slot", async () => {
  const clock = new VirtualClock();
  const network = new FakeNetwork(clock);
  const a = new TestNode(network, "a", 1);
  await a.found();
  const token = await a.invite({ uses: 3 });
  const members = [2, 3].map((host) => new TestNode(network, `n${host}`, host));
  for (const member of members) {
    member.start();
    assert.equal((await member.join(token)).ok, true);
  }
  const small = new TestNode(network, "small", 4);
  small.start(1);
  assert.equal((await small.join(token)).ok, true);
  await clock.advance(1000);
  assert.equal(small.runtime.mesh.members().length, 4);
  assert.ok(small.runtime.peers.size <= slotsFor(1));
});

test("a change of interfaces asks for a new look at the own addresses; where a peer sees this node is announced at once", async () => {
  const { a } = await pair();
  const before = a.endpointsDirty;
  a.plane.emit({ kind: "netlink" });
  assert.equal(a.endpointsDirty, before + 1);
  const seen = endpointToBytes({ address: "198.51.100.7", port: 4000 });
  a.plane.emit({ kind: "observed", peer: 0, endpoint: seen });
  assert.ok(a.runtime.mesh.ownEndpoints.some((endpoint) => Buffer.compare(endpoint, seen) === 0));
});

test("a data plane that ends by itself is reported", async () => {
  const { a } = await pair();
  a.plane.emit({ kind: "failed", code: "X", text: "broken", remedy: "mend it" });
  assert.equal(a.failures[0]?.message, "broken");
});

/** Lets virtual and real time pass until the promise is settled: OpenSSL has a clock of its own. */
async function during<T>(clock: VirtualClock, promise: Promise<T>): Promise<T> {
  const state = { isSettled: false };
  const done = promise.finally(() => (state.isSettled = true));
  done.catch(() => undefined);
  for (let i = 0; i < 2_000 && !state.isSettled; i++) {
    await clock.advance(5);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(state.isSettled, "not settled after 10 s");
  return done;
}

async function ask(clock: VirtualClock, from: TestNode, to: TestNode, text: string): Promise<string> {
  const stream = await during(clock, from.runtime.streams.open(to.identity.nodeId, { kind: "echo" }));
  let heard = "";
  stream.on("data", (bytes: Buffer) => (heard += bytes.toString()));
  stream.end(text);
  await during(clock, new Promise((resolve, reject) => stream.on("end", resolve).on("error", reject)));
  return heard;
}

const serveEcho = (node: TestNode): (() => void) => node.runtime.streams.serve("echo", (stream) => stream.pipe(stream));

test("a stream carries bytes between members, both ways, and through a full plane", async () => {
  const { clock, a, b } = await pair();
  serveEcho(a);
  serveEcho(b);
  assert.equal(await ask(clock, a, b, "from a"), "from a");
  a.plane.refuse = 40;
  const long = "from b ".repeat(20_000);
  assert.equal(await ask(clock, b, a, long), long);
  assert.equal(a.runtime.streams.counters.connectionsEstablished, 1);
  assert.ok(a.runtime.streams.counters.datagramsDelayed > 0);
  await a.runtime.close();
  await b.runtime.close();
});

test("a restarted peer gets a new connection, and streams on the old one are told", async () => {
  const { clock, a, b } = await pair();
  serveEcho(b);
  b.runtime.streams.serve("held", () => undefined);
  const held: MeshStream = await during(clock, a.runtime.streams.open(b.identity.nodeId, { kind: "held" }));
  const told = new Promise<string>((resolve) => held.on("error", (error: WeftError) => resolve(error.code)));
  b.kill();
  b.start();
  serveEcho(b);
  held.write("anybody?");
  assert.equal(await during(clock, told), "CONNECTION_REPLACED");
  assert.equal(await ask(clock, a, b, "again"), "again");
});

test("a revoked member loses its streams", async () => {
  const { clock, a, b } = await pair();
  b.runtime.streams.serve("held", () => undefined);
  const held: MeshStream = await during(clock, a.runtime.streams.open(b.identity.nodeId, { kind: "held" }));
  const told = new Promise<string>((resolve) => held.on("error", (error: WeftError) => resolve(error.code)));
  void a.runtime.operate((mesh, now) => mesh.revoke(now, "b"));
  assert.equal(await during(clock, told), "PEER_GONE");
  await assert.rejects(a.runtime.streams.open(b.identity.nodeId, { kind: "held" }), { code: "PEER_GONE" });
});

test("a roster that is missing in large part comes in a stream, and as datagrams where there are none", async () => {
  for (const hasStreams of [true, false]) {
    const { clock, network, a, b } = await pair();
    b.kill();
    for (let i = 0; i < 80; i++) await a.invite();
    const statements = a.storage.contents().statements.length;
    b.start();
    // streams that lead nowhere
    if (!hasStreams) b.runtime.streams.close();
    for (let i = 0; i < 60 && b.storage.contents().statements.length < statements; i++) {
      await clock.advance(100);
      await new Promise((resolve) => setTimeout(resolve, hasStreams ? 5 : 60));
    }
    assert.equal(b.storage.contents().statements.length, statements, `with streams: ${hasStreams}`);
    assert.equal(b.runtime.streams.counters.streamsAccepted > 0, hasStreams);
    assert.ok(network.clock === clock);
  }
});
