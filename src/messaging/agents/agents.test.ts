import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { equal, toHex } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import { NETWORK, START_WALL_MS } from "../kv/testing.ts";
import { formatAgentId, formatAgentSecret, parseAgentId, parseAgentSecret } from "./agent-id.ts";
import { AgentFrame, Agents, AgentVerdict } from "./agents.ts";
import { compareLeases, generationOf, LEASE_BYTES, MAX_LEASE_MS, openLease, readLease, signLease } from "./lease.ts";

const NODE = Identity.generate(new SeededRandom(1));
const AGENT = Identity.generate(new SeededRandom(2));
const WALL = START_WALL_MS;

class Host {
  readonly identity: Identity;
  readonly agents: Agents;
  /** Names of agents with an open inbox. */
  readonly open: Set<string> = new Set();
  readonly blocked: Set<string> = new Set();

  constructor(seed: number) {
    const random = new SeededRandom(seed);
    this.identity = Identity.generate(random);
    this.agents = new Agents({
      node: this.identity,
      random,
      networkId: NETWORK,
      isBlocked: (id) => this.blocked.has(toHex(id)),
    });
  }

  get id(): Uint8Array {
    return this.identity.nodeId;
  }

  get hex(): string {
    return toHex(this.id);
  }
}

class World {
  nowMs = 0;
  readonly hosts: Host[];
  /** Frames on their way. */
  readonly flying: { readonly from: Host; readonly to: Host; readonly frame: Uint8Array }[] = [];

  constructor(count: number) {
    this.hosts = Array.from({ length: count }, (_, i) => new Host(100 + i));
  }

  get now(): Now {
    return { nowMs: this.nowMs, wallMs: WALL + this.nowMs };
  }

  meet(a: Host, b: Host): void {
    a.agents.peerUp(b.id);
    b.agents.peerUp(a.id);
    this.collect();
  }

  part(a: Host, b: Host): void {
    a.agents.peerDown(b.id);
    b.agents.peerDown(a.id);
  }

  collect(): void {
    for (const host of this.hosts) {
      for (let output = host.agents.pollOutput(); output !== undefined; output = host.agents.pollOutput()) {
        if (output.kind === "hosts") host.open.add(output.agent.name);
        else if (output.kind === "stops") host.open.delete(output.agent.name);
        else if (output.kind === "send") {
          const to = this.hosts.find((one) => equal(one.id, output.to));
          if (to !== undefined) this.flying.push({ from: host, to, frame: output.frame });
        }
      }
    }
  }

  /** @param pick which of the frames on their way comes next */
  deliver(pick: (count: number) => number = () => 0): void {
    this.collect();
    while (this.flying.length > 0) {
      const [{ from, to, frame }] = this.flying.splice(pick(this.flying.length), 1);
      to.agents.handleFrame(this.now, from.id, frame);
      this.collect();
    }
  }
}

function code(run: () => unknown): string {
  try {
    run();
    return "none";
  } catch (error) {
    return error instanceof WeftError ? error.code : String(error);
  }
}

test("a lease holds when both have signed, for its network, until it expires; one changed bit and it does not", () => {
  const wire = signLease(NETWORK, AGENT, NODE, WALL, 60_000, 3);
  assert.equal(wire.length, LEASE_BYTES);
  const lease = openLease(NETWORK, wire, WALL)!;
  assert.equal(toHex(lease.agent), toHex(AGENT.nodeId));
  assert.equal(toHex(lease.nodeId), toHex(NODE.nodeId));
  assert.equal(generationOf(lease), 3);
  assert.equal(lease.expiresAtMs, WALL + 60_000);
  assert.ok(openLease(NETWORK, wire, WALL + 59_999));
  assert.equal(openLease(NETWORK, wire, WALL + 60_000), undefined, "expired");
  assert.equal(openLease(NETWORK, wire, WALL - 301_000), undefined, "from the future");
  assert.equal(openLease(new Uint8Array(32), wire, WALL), undefined, "of another network");
  for (let bit = 0; bit < LEASE_BYTES * 8; bit += 7) {
    const changed = Uint8Array.from(wire);
    changed[bit >> 3] = changed[bit >> 3] ^ (1 << (bit & 7));
    assert.equal(openLease(NETWORK, changed, WALL), undefined, `bit ${bit}`);
  }
  const other = Identity.generate(new SeededRandom(3));
  const alone = signLease(
    NETWORK,
    { nodeId: AGENT.nodeId, sign: (...args) => other.sign(...args) },
    NODE,
    WALL,
    60_000,
    0,
  );
  assert.equal(openLease(NETWORK, alone, WALL), undefined, "without the agent's key");
  const claimed = signLease(
    NETWORK,
    AGENT,
    { nodeId: NODE.nodeId, sign: (...args) => other.sign(...args) },
    WALL,
    60_000,
    0,
  );
  assert.equal(openLease(NETWORK, claimed, WALL), undefined, "without the node's key");
  assert.ok(readLease(signLease(NETWORK, AGENT, NODE, WALL, 10 * MAX_LEASE_MS, 0))!.expiresAtMs <= WALL + MAX_LEASE_MS);
});

test("leases have one order: a move beats any renewal, a later renewal an earlier one", () => {
  const renewed = signLease(NETWORK, AGENT, NODE, WALL + 86_400_000, 60_000, 1);
  const moved = signLease(NETWORK, AGENT, NODE, WALL, 60_000, 2);
  const first = signLease(NETWORK, AGENT, NODE, WALL, 60_000, 1);
  assert.ok(compareLeases(moved, renewed) > 0 && compareLeases(renewed, first) > 0 && compareLeases(first, moved) < 0);
  assert.equal(compareLeases(first, first), 0);
  const elsewhere = signLease(NETWORK, AGENT, Identity.generate(new SeededRandom(9)), WALL, 60_000, 1);
  assert.equal(Math.sign(compareLeases(first, elsewhere)), -Math.sign(compareLeases(elsewhere, first)));
  assert.notEqual(compareLeases(first, elsewhere), 0);
});

test("ids and secrets are read as they were written, and nothing else is", () => {
  assert.deepEqual(parseAgentId(formatAgentId(AGENT.nodeId)), Uint8Array.from(AGENT.nodeId));
  assert.equal(formatAgentId(AGENT.nodeId).slice(0, 2), "a1");
  assert.equal(parseAgentId(`w1${formatAgentId(AGENT.nodeId).slice(2)}`), undefined);
  const secret = formatAgentSecret(AGENT.seed, 7);
  assert.deepEqual(parseAgentSecret(secret), { seed: AGENT.seed, generation: 7 });
  assert.equal(
    parseAgentSecret(`${secret.slice(0, 20)}${secret[20] === "a" ? "b" : "a"}${secret.slice(21)}`),
    undefined,
  );
  fc.assert(fc.property(fc.string(), (text) => assert.equal(parseAgentSecret(`weftagent1.${text}`), undefined)));
});

test("an agent that moves stops on the old node as soon as that hears of it, and its renewal does not bring it back", () => {
  const world = new World(3);
  const [a, b, c] = world.hosts;
  a.agents.create(world.now, "bot");
  world.meet(a, c);
  world.deliver();
  assert.ok(a.open.has("bot"));
  const { key } = a.agents.find("bot");
  assert.equal(toHex(c.agents.placeOf(key, WALL)!), toHex(a.id));
  world.nowMs += 1000;
  b.agents.import(world.now, "worker", a.agents.export("bot"));
  world.collect();
  assert.ok(b.open.has("worker") && a.open.has("bot"), "they have not met");
  // the old node renews without knowing
  world.nowMs += 86_400_000 * 0.7;
  a.agents.handleTimeout(world.now);
  world.meet(a, b);
  world.deliver();
  assert.ok(!a.open.has("bot"));
  assert.equal(a.agents.judge(world.now, c.id, undefined, key), AgentVerdict.NO_INBOX);
  assert.equal(b.agents.judge(world.now, c.id, undefined, key), undefined);
  assert.equal(
    code(() => a.agents.find("bot")),
    "AGENT_MOVED",
  );
  world.meet(b, c);
  world.deliver();
  assert.equal(toHex(c.agents.placeOf(key, world.now.wallMs)!), toHex(b.id));
  // what the old node still says in its name is not believed
  assert.equal(c.agents.judge(world.now, a.id, key, undefined), AgentVerdict.BLOCKED);
  assert.equal(c.agents.judge(world.now, b.id, key, undefined), undefined);
  // and back again
  a.agents.import(world.now, "bot", b.agents.export("worker"));
  world.deliver();
  assert.ok(a.open.has("bot") && !b.open.has("worker"));
});

test("however leases travel, in the end exactly one node hosts an agent and all agree which", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ to: fc.nat(3), waits: fc.boolean(), picks: fc.nat(100), renews: fc.boolean() }), {
        maxLength: 12,
      }),
      (moves) => {
        const world = new World(4);
        const { hosts } = world;
        hosts[0].agents.create(world.now, "bot");
        const { key } = hosts[0].agents.find("bot");
        for (const a of hosts) for (const b of hosts) if (a !== b) world.meet(a, b);
        let at = hosts[0];
        for (const { to, waits, picks, renews } of moves) {
          world.nowMs += 2000;
          const secret = at.agents.export("bot");
          if (hosts[to] !== at) hosts[to].agents.import(world.now, "bot", secret);
          at = hosts[to];
          if (renews) {
            world.nowMs += 86_400_000 * 0.7;
            for (const host of hosts) host.agents.handleTimeout(world.now);
          }
          if (waits) world.deliver((count) => picks % count);
        }
        world.deliver((count) => count - 1);
        for (const a of hosts) for (const b of hosts) if (a !== b) world.meet(a, b);
        world.deliver();
        assert.equal(hosts.filter((host) => host.open.has("bot")).length, 1);
        assert.ok(at.open.has("bot"), "the last one it was moved to");
        for (const host of hosts) assert.equal(toHex(host.agents.placeOf(key, world.now.wallMs)!), toHex(at.id));
      },
    ),
    { numRuns: 60 },
  );
});

test("who may write to an agent: everybody, or those on its list, as nodes or as agents with a lease", () => {
  const world = new World(3);
  const [a, b, c] = world.hosts;
  a.agents.create(world.now, "bot");
  b.agents.create(world.now, "friend");
  c.agents.create(world.now, "stranger");
  for (const other of [b, c]) world.meet(a, other);
  world.deliver();
  const bot = a.agents.find("bot").key;
  const friend = b.agents.find("friend").key;
  const judge = (from: Host, agent?: Uint8Array): unknown => a.agents.judge(world.now, from.id, agent, bot);
  assert.equal(judge(c), undefined);
  a.agents.setAccess("bot", false, [friend]);
  assert.equal(judge(b, friend), undefined);
  assert.equal(judge(b), AgentVerdict.BLOCKED, "its node is not it");
  assert.equal(judge(c, friend), AgentVerdict.BLOCKED, "another node in its name");
  assert.equal(judge(c, c.agents.find("stranger").key), AgentVerdict.BLOCKED);
  assert.equal(judge(a), undefined, "this node");
  a.agents.setAccess("bot", false, [c.id]);
  assert.equal(judge(c), undefined);
  assert.equal(a.agents.judge(world.now, b.id, undefined, friend), AgentVerdict.NO_INBOX);
  assert.equal(
    a.agents.judge(world.now, b.id, undefined, undefined),
    undefined,
    "the node's own inbox is none of its business",
  );
});

test("forged, foreign and malformed frames are refused and counted, never an exception", () => {
  const world = new World(3);
  const [a, b, c] = world.hosts;
  b.agents.create(world.now, "bot");
  world.meet(a, b);
  world.collect();
  const frame = world.flying.find((one) => one.from === b && one.frame[0] === AgentFrame.AGENTS)!.frame;
  a.agents.handleFrame(world.now, c.id, frame);
  assert.equal(a.agents.counters.framesRefused, 1, "another node's lease in its own name");
  const forged = Uint8Array.from(frame);
  forged[2 + 100] = forged[2 + 100] ^ 1;
  a.agents.handleFrame(world.now, b.id, forged);
  assert.equal(a.agents.counters.leasesRefused, 1);
  assert.equal(a.agents.known().length, 0);
  a.agents.handleFrame(world.now, b.id, frame);
  assert.equal(a.agents.known().length, 1);
  assert.deepEqual(a.agents.named(b.id, "bot"), a.agents.known()[0].key);
  fc.assert(
    fc.property(fc.constantFrom(32, 33, 34), fc.uint8Array({ maxLength: 500 }), (type, rest) => {
      a.agents.handleFrame(world.now, c.id, Uint8Array.of(type, ...rest));
    }),
    { numRuns: 300 },
  );
  assert.ok(a.agents.counters.framesOverRate > 0);
  assert.equal(a.agents.known().length, 1);
});

test("one node cannot crowd out the agents of others, and a blocked one is not heard", () => {
  const world = new World(3);
  const [a, b, c] = world.hosts;
  c.agents.create(world.now, "quiet");
  world.meet(a, c);
  world.deliver();
  world.meet(a, b);
  for (let i = 0; i < 200; i++) {
    world.nowMs += 1000;
    b.agents.create(world.now, `bot-${i}`);
    world.deliver();
    b.agents.remove(`bot-${i}`);
  }
  assert.equal(a.agents.known().length, 65);
  assert.ok(a.agents.named(c.id, "quiet") !== undefined);
  a.blocked.add(b.hex);
  b.agents.create(world.now, "late");
  world.deliver();
  assert.equal(a.agents.named(b.id, "late"), undefined);
});

test("limits and names", () => {
  const world = new World(1);
  const [a] = world.hosts;
  for (const name of ["node", "Bot", "", "x".repeat(65), "-x"])
    assert.equal(
      code(() => a.agents.create(world.now, name)),
      "AGENT_NAME",
    );
  a.agents.create(world.now, "bot");
  assert.equal(
    code(() => a.agents.create(world.now, "bot")),
    "AGENT_EXISTS",
  );
  for (let i = 1; i < 64; i++) a.agents.create(world.now, `bot-${i}`);
  assert.equal(
    code(() => a.agents.create(world.now, "more")),
    "AGENTS_FULL",
  );
  assert.equal(
    code(() => a.agents.import(world.now, "x", "weftagent1.nonsense")),
    "AGENT_SECRET",
  );
  a.agents.remove("bot");
  world.collect();
  assert.ok(!a.open.has("bot"));
  assert.equal(
    code(() => a.agents.find("bot")),
    "AGENT_UNKNOWN",
  );
});
