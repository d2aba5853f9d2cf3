/**
 * The state of a roster as a function of its statements, over random histories. A failure names its seed, which replays exactly:
 * `WEFT_HISTORY_SEED=N`. The suite runs a share of the seeds; `WEFT_HISTORIES=10000 bin/weft-node --test src/mesh/histories.test.ts` all.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toHex } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import { type Entry, isAncestor } from "./dag.ts";
import { isQuorum } from "./finality.ts";
import {
  admit,
  ancestry,
  fakeKeys,
  HistoryMaker,
  randomHistory,
  rosterOf,
  shuffled,
  snapshot,
  visible,
} from "./histories.ts";
import type { Signer } from "./keys.ts";
import { resolve, type ResolveContext } from "./resolve.ts";
import type { Roster } from "./roster.ts";
import {
  adminBody,
  checkpointBody,
  needsAdmin,
  Refusal,
  revokeBody,
  type Statement,
  unadminBody,
} from "./statement.ts";
import { nodeAddress } from "../crypto/node-id.ts";

const ONLY = Number(process.env["WEFT_HISTORY_SEED"] ?? 0);
const COUNT = Number(process.env["WEFT_HISTORIES"] ?? 1200);

function seeds(share: number): number[] {
  if (ONLY > 0) return [ONLY];
  return Array.from({ length: Math.max(1, Math.round(COUNT * share)) }, (_, i) => i + 1);
}

/** A failure says which seed it was. */
function eachSeed(share: number, body: (seed: number) => void): void {
  for (const seed of seeds(share)) {
    try {
      body(seed);
    } catch (error) {
      (error as Error).message += `\n(replay with WEFT_HISTORY_SEED=${seed})`;
      throw error;
    }
  }
}

test(`${seeds(1).length} random histories resolve to the same state in every order of arrival`, () => {
  const seen = {
    voids: 0,
    admins: 0,
    clashes: 0,
    merges: 0,
    finals: 0,
    routes: 0,
    policies: 0,
    demoted: 0,
    renamed: 0,
  };
  eachSeed(1, (seed) => {
    const { networkId, statements } = randomHistory(seed);
    const random = new SeededRandom(seed ^ 0x5eed);
    const reference = rosterOf(networkId, statements);
    const expected = snapshot(reference);
    for (let order = 0; order < 2; order++) {
      assert.equal(snapshot(rosterOf(networkId, shuffled(statements, random))), expected);
    }
    const { state } = reference;
    const unique = (values: readonly string[]): void =>
      assert.equal(new Set(values).size, values.length, values.join());
    unique(state.members.map((member) => member.name));
    unique(state.members.map((member) => member.ipv4));
    unique(state.members.map((member) => member.ipv6));
    unique(state.members.map((member) => toHex(member.staticKey)));
    for (const use of state.invites) assert.ok(use.used <= use.body.uses);
    for (const route of state.routes) {
      assert.ok(state.byNode.has(toHex(route.nodeId)));
      assert.notEqual(route.prefix, "10.0.0.0/26", "a route inside the overlay");
    }
    seen.voids += state.voids.size;
    seen.admins += state.admins.size > 1 ? 1 : 0;
    seen.clashes += state.members.some((member) => member.name !== member.requestedName) ? 1 : 0;
    seen.merges += statements.some((statement) => statement.parents.length > 1) ? 1 : 0;
    seen.finals += state.finals.length;
    seen.routes += state.routes.length;
    seen.policies += state.policy.version;
    seen.demoted += statements.some(({ body, hashHex }) => body.kind === "unadmin" && !state.voids.has(hashHex))
      ? 1
      : 0;
    seen.renamed += state.members.some((member) => member.tags.length > 0) ? 1 : 0;
  });
  // the histories really are about what they claim to be about
  if (ONLY === 0) for (const [what, count] of Object.entries(seen)) assert.ok(count > COUNT / 25, `${what}: ${count}`);
});

test("what was final stays final, and admins below a checkpoint keep what they said there, whatever is added", () => {
  let finals = 0;
  eachSeed(0.4, (seed) => {
    const { networkId, statements } = randomHistory(seed);
    const order = [...rosterOf(networkId, statements).statements()];
    let before = new Set<string>();
    for (let count = 1; count <= order.length; count++) {
      const { state } = rosterOf(networkId, order.slice(0, count));
      const now = new Set(state.finals.map((entry) => entry.statement.hashHex));
      for (const hash of before) assert.ok(now.has(hash), "a final checkpoint is none any more");
      for (const { signers, isFinal, entry } of state.proposals)
        assert.equal(isFinal, isQuorum(signers.size, entry.view?.electorate.size ?? 0));
      before = now;
    }
    finals += before.size;
  });
  assert.ok(ONLY > 0 || finals > 20, `${finals}`);
});

test("authority is that of the issuer in a roster of the statement's ancestors alone", () => {
  let accepted = 0;
  let refusals = 0;
  eachSeed(0.15, (seed) => {
    const { networkId, statements, refused } = randomHistory(seed);
    const all = new Map(statements.map((statement) => [statement.hashHex, statement]));
    for (const statement of statements) {
      if (statement.parents.length === 0 || !needsAdmin(statement)) continue;
      const before = rosterOf(networkId, ancestry(statement, all));
      assert.ok(before.state.admins.has(statement.issuerHex));
      accepted++;
    }
    for (const { statement, ancestors } of refused) {
      const before = rosterOf(networkId, ancestors);
      const result = before.addOpened(statement, Number.POSITIVE_INFINITY);
      assert.equal(result.status, "refused");
      if (result.status === "refused" && result.reason === Refusal.NOT_AUTHORISED && needsAdmin(statement)) {
        assert.ok(!before.state.admins.has(statement.issuerHex));
        refusals++;
      }
    }
  });
  assert.ok(ONLY > 0 || (accepted > 500 && refusals > 25), `${accepted} ${refusals}`);
});

test("control: statements resolved in order of arrival instead of clock give different states", () => {
  let differing = 0;
  for (let seed = 1; seed <= 200; seed++) {
    const { networkId, statements } = randomHistory(seed);
    const random = new SeededRandom(seed);
    const states = [0, 1, 2].map(() => {
      const entries = entriesOf(topological(shuffled(statements, random)));
      const context: ResolveContext = {
        networkId,
        maxMembers: 100,
        derive: (nodeId) => ({
          staticKey: fakeKeys.staticKeyOf(nodeId) as Uint8Array,
          ipv6: nodeAddress(networkId, nodeId),
        }),
        viewOf: () => ({ admins: new Map(), electorate: new Set() }),
      };
      const { members, policy } = resolve(entries, context);
      return JSON.stringify([members.map((m) => [m.name, m.ipv4, m.tags]).toSorted(), policy.rules]);
    });
    if (new Set(states).size > 1) differing++;
  }
  assert.ok(differing > 10, `${differing}`);
});

function topological(statements: readonly Statement[]): Statement[] {
  const done = new Set<string>();
  const out: Statement[] = [];
  for (let waiting = [...statements]; waiting.length > 0;) {
    waiting = waiting.filter((statement) => {
      if (!statement.parents.every((hash) => done.has(toHex(hash)))) return true;
      done.add(statement.hashHex);
      out.push(statement);
      return false;
    });
  }
  return out;
}

function entriesOf(statements: readonly Statement[]): Entry[] {
  const made = new Map<string, Entry>();
  for (const statement of statements) {
    const parents = statement.parents.map((hash) => made.get(toHex(hash)) as Entry);
    const depth = parents.reduce((deepest, parent) => Math.max(deepest, parent.depth + 1), 0);
    made.set(statement.hashHex, {
      statement,
      index: made.size,
      parents,
      depth,
      policyVersion: 0,
      touchesAdmins: true,
      ancestors: undefined,
      adminsAfter: undefined,
      view: undefined,
    });
  }
  return [...made.values()];
}

// Attacks with a stolen key

interface Stage {
  readonly maker: HistoryMaker;
  /** Holds everything. */
  readonly roster: Roster;
  readonly thief: Signer;
  readonly honest: readonly Signer[];
  /** Nothing before the first checkpoint is open to the thief. */
  readonly firstCheckpoint: Statement;
}

/** Four admins; the thief's key is removed by another one, and after some life on, a checkpoint may follow. */
function stolenKey(seed: number, thiefIs: "founder" | "deputy", isFinal: boolean, isSenior = false): Stage {
  const how = seed % 2 === 0 ? "revoke" : "unadmin";
  const maker = new HistoryMaker(seed, 9, false);
  const [roster] = maker.replicas;
  const [founder, y, z, w, m] = maker.signers;
  for (const [i, one] of [y, z, w].entries())
    maker.say(roster, founder, "admit", admit(one.nodeId, `d${i}`, 0x0a000002 + i, ["admin"]));
  const firstCheckpoint = maker.say(roster, founder, "checkpoint", checkpointBody(undefined));
  const thief = thiefIs === "founder" ? founder : y;
  const honest = [founder, y, z, w].filter((one) => one !== thief);
  maker.say(roster, thief, "admit", admit(m.nodeId, "m", 0x0a000009, []));
  const removal =
    how === "revoke"
      ? revokeBody({ node: thief.nodeId, invite: undefined, reason: "stolen" })
      : unadminBody(thief.nodeId, "stolen");
  maker.say(roster, isSenior ? founder : z, how, removal);
  maker.say(roster, w, "admin", adminBody(m.nodeId));
  if (isFinal) {
    const proposal = maker.say(roster, z, "checkpoint", checkpointBody(undefined));
    for (const one of honest) if (one !== z) maker.say(roster, one, "checkpoint", checkpointBody(proposal.hash));
  }
  return { maker, roster, thief, honest, firstCheckpoint };
}

/** Says whatever it likes on any parents from the first checkpoint on, with admins of its own making, who do the same. */
function attack(stage: Stage, isOpen: (statement: Statement) => boolean): void {
  const { maker, roster, thief, honest, firstCheckpoint } = stage;
  const gang = [thief, ...maker.signers.slice(5)];
  const open = (): Statement[] => [...roster.statements()].filter((one) => one === firstCheckpoint || isOpen(one));
  for (let step = 0; step < 14; step++) {
    const signer = maker.pick(gang);
    const parents = [...new Set([maker.pick(open()), maker.pick(open())])];
    const target = maker.pick(honest).nodeId;
    const friend = maker.pick(gang).nodeId;
    const proposals = open().filter(({ body }) => body.kind === "checkpoint" && body.of === undefined);
    const [kind, body] = maker.pick([
      ["revoke", revokeBody({ node: target, invite: undefined, reason: "" })] as const,
      ["unadmin", unadminBody(target, "")] as const,
      ["admit", admit(friend, "friend", 0x0a000010, ["admin"])] as const,
      ["admin", adminBody(friend)] as const,
      ["checkpoint", checkpointBody(undefined)] as const,
      ["checkpoint", checkpointBody(maker.pick(proposals)?.hash)] as const,
    ]);
    maker.say(roster, signer, kind, body, parents);
  }
}

for (const thiefIs of ["founder", "deputy"] as const) {
  test(`a stolen key of the ${thiefIs}, removed below a final checkpoint, changes nothing by statements on old parents`, () => {
    eachSeed(0.5, (seed) => {
      const stage = stolenKey(seed, thiefIs, true);
      const expected = visible(stage.roster);
      attack(stage, (statement) => statement.hlc > stage.firstCheckpoint.hlc);
      assert.equal(visible(stage.roster), expected);
      const { networkId, statements } = stage.maker.history();
      const again = rosterOf(networkId, shuffled(statements, new SeededRandom(seed)));
      assert.equal(snapshot(again), snapshot(stage.roster));
    });
  });
}

test("control: without the final checkpoint a stolen key of the founder does undo its removal", () => {
  let undone = 0;
  for (let seed = 1; seed <= 150; seed++) {
    const stage = stolenKey(seed, "founder", false);
    assert.equal(stage.roster.state.admins.has(toHex(stage.thief.nodeId)), false);
    attack(stage, (statement) => statement.hlc > stage.firstCheckpoint.hlc);
    if (stage.roster.state.admins.has(toHex(stage.thief.nodeId))) undone++;
  }
  assert.ok(undone > 5, `${undone}`);
});

test("a stolen key that a senior admin has removed changes nothing even before a checkpoint, by whatever parents", () => {
  eachSeed(0.4, (seed) => {
    const stage = stolenKey(seed, "deputy", false, true);
    const expected = visible(stage.roster);
    attack(stage, () => true);
    assert.equal(visible(stage.roster), expected);
  });
});

test("of admins that remove each other at once, those stay whom no senior one that stays removed", () => {
  eachSeed(0.3, (seed) => {
    const maker = new HistoryMaker(seed, 6, false);
    const [roster] = maker.replicas;
    const admins = maker.signers.slice(0, 2 + (seed % 5));
    for (const [i, one] of admins.slice(1).entries())
      maker.say(roster, admins[0], "admit", admit(one.nodeId, `d${i}`, 0x0a000002 + i, ["admin"]));
    const parents = [[...roster.statements()].at(-1) as Statement];
    const targets = admins.map((one) => admins.filter((other) => other !== one && maker.random.unit() < 0.4));
    // said in any order of issuers
    for (const i of shuffled([...admins.keys()], maker.random)) {
      for (const { nodeId } of targets[i]) {
        if (maker.random.unit() < 0.5)
          maker.say(roster, admins[i], "revoke", revokeBody({ node: nodeId, invite: undefined, reason: "" }), parents);
        else maker.say(roster, admins[i], "unadmin", unadminBody(nodeId, ""), parents);
      }
    }
    const gone = new Set<Signer>();
    for (const [i, one] of admins.entries()) if (!gone.has(one)) for (const target of targets[i]) gone.add(target);
    const staying = admins.filter((one) => !gone.has(one)).map((one) => toHex(one.nodeId));
    assert.deepEqual([...roster.state.admins.keys()].toSorted(), staying.toSorted());
    const { networkId, statements } = maker.history();
    assert.equal(snapshot(rosterOf(networkId, shuffled(statements, maker.random))), snapshot(roster));
  });
});

test("ancestors are found as by walking", () => {
  for (let seed = 1; seed <= 40; seed++) {
    const { statements } = randomHistory(seed);
    const all = new Map(statements.map((statement) => [statement.hashHex, statement]));
    const entries = entriesOf(topological(statements));
    for (const of of entries) {
      const below = new Set(ancestry(of.statement, all).map((statement) => statement.hashHex));
      for (const a of entries) assert.equal(isAncestor(a, of), below.has(a.statement.hashHex));
    }
  }
});
