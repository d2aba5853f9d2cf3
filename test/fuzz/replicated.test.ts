/** Decoders of replicated spaces, groups and agents, fed with mutations of valid inputs and noise: none may throw, and what is read is written alike. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { equal, utf8 } from "../../src/base/bytes.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { Identity } from "../../src/crypto/identity.ts";
import {
  formatAgentId,
  formatAgentSecret,
  parseAgentId,
  parseAgentSecret,
} from "../../src/messaging/agents/agent-id.ts";
import { AgentFrame, Agents } from "../../src/messaging/agents/agents.ts";
import { openLease, signLease } from "../../src/messaging/agents/lease.ts";
import { formatCard, parseCard } from "../../src/messaging/groups/card.ts";
import { cardFrom, GroupRole, openEnvelope, readCharter, signCharter } from "../../src/messaging/groups/charter.ts";
import { isGroupEntry } from "../../src/messaging/groups/group-message.ts";
import { readEntry, signEntry, SpaceKind, spaceId } from "../../src/messaging/kv/entry.ts";
import { decodeSync, encodeSync } from "../../src/messaging/kv/messages.ts";
import { encodeClaim, encodeTag, isTaskEntry, stateKey, tagKey } from "../../src/messaging/tasks/entries.ts";
import { fuzz, type Target } from "./harness.ts";

const SEED = Number(process.env["WEFT_FUZZ_SEED"] ?? 20_261_120);
const RUNS = Number(process.env["WEFT_FUZZ_RUNS"] ?? 0);
const WALL_MS = 1_800_000_000_000;
const random = new SeededRandom(1);
const network = random.bytes(32);
const node = Identity.generate(random);
const agent = Identity.generate(random);
const space = spaceId(SpaceKind.TASKS, "work");
const hlc = WALL_MS * 1024;
const authorHex = node.nodeId.toHex();
const taskId = "0123456789abcdef";

const entries = [
  signEntry(network, space, "key", utf8("value"), hlc, node),
  signEntry(network, space, "key", undefined, hlc, node),
  signEntry(network, space, tagKey(taskId, authorHex, taskId), encodeTag({ title: "t", body: "b" }), hlc, node),
  signEntry(network, space, `c/${taskId}/${authorHex}/x`, encodeClaim({ since: hlc, untilMs: WALL_MS + 1 }), hlc, node),
  signEntry(network, space, stateKey(taskId), undefined, hlc, node),
];
const members = [{ nodeId: node.nodeId, role: GroupRole.ADMIN, untilMs: WALL_MS + 1e9 }];
const charter = signCharter(
  network,
  {
    origin: { founder: node.nodeId, nonce: random.bytes(16) },
    name: "team",
    epoch: 1,
    parent: undefined,
    hlc,
    members,
  },
  random.bytes(32),
  random.bytes(32),
  node,
);
const card = cardFrom(charter, node.nodeId)!;
const lease = signLease(network, agent, node, WALL_MS, 60_000, 1);
const fingerprint = random.bytes(16);
const agents = new Agents({ node, random, networkId: network, isBlocked: () => false });

const targets: readonly Target[] = [
  {
    name: "entry",
    seeds: entries.map((entry) => entry.wire),
    feed: (input) => {
      const entry = readEntry(space, input);
      if (entry === undefined) return;
      assert.ok(equal(entry.wire, input));
      isTaskEntry(entry);
      isGroupEntry(entry);
    },
  },
  {
    name: "sync",
    seeds: [
      encodeSync({ type: "hello", wantsAnswer: true, spaces: [{ space, count: 3, fingerprint }] }),
      encodeSync({ type: "tree", space, nodes: [{ depth: 2, prefix: 17, count: 3, fingerprint }] }),
      encodeSync({ type: "items", space, nodes: [{ depth: 3, prefix: 4095, ids: [fingerprint, fingerprint] }] }),
      encodeSync({ type: "want", space, ids: [fingerprint] }),
      encodeSync({ type: "entries", space, hops: 2, entries: entries.map((entry) => entry.wire) }),
    ],
    feed: (input) => {
      const message = decodeSync(input);
      if (message !== undefined) assert.ok(equal(encodeSync(message), input));
    },
  },
  {
    name: "charter",
    seeds: [charter.wire],
    feed: (input) => {
      const read = readCharter(network, input);
      if (read !== undefined) openEnvelope(read, node.nodeId, node.staticKeys);
    },
  },
  {
    name: "lease and agents",
    seeds: [lease, Uint8Array.of(AgentFrame.AGENTS, 1, ...lease, 3, ...utf8("bot")), Uint8Array.of(AgentFrame.ASK)],
    feed: (input) => {
      openLease(network, input, WALL_MS);
      if (input.length > 0) agents.handleFrame({ nowMs: random.u32(), wallMs: WALL_MS }, node.nodeId, input);
    },
  },
  {
    name: "texts",
    seeds: [
      utf8(formatCard(card.card, card.signature)),
      utf8(formatAgentSecret(agent.seed, 3)),
      utf8(formatAgentId(agent.nodeId)),
    ],
    feed: (input) => {
      const text = Buffer.from(input).toString("latin1");
      parseCard(network, text);
      parseAgentSecret(text);
      parseAgentId(text);
    },
  },
];

for (const target of targets) {
  test(`${target.name}: mutations and noise are decoded or refused, never an exception`, () => {
    const runs = RUNS > 0 ? { ...target, mutations: RUNS } : target;
    assert.ok(fuzz(runs, [], SEED) > 100);
  });
}
