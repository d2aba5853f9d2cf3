import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { compare, equal, toHex, utf8 } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import { type MeshKeys, type Signer, SignKind, systemKeys } from "./keys.ts";
import { Roster } from "./roster.ts";
import {
  admitBody,
  compareStatements,
  genesisBody,
  hlcFromWall,
  inviteBody,
  isName,
  openStatement,
  Refusal,
  revokeBody,
  signStatement,
  type Statement,
  statementHash,
  toName,
} from "./statement.ts";
import type { CborMap } from "./cbor.ts";
import type { Role } from "./types.ts";

const WALL_MS = 1_800_000_000_000;
const PREFIX = { base: 0x0a000000, bits: 24 };

/** Signatures by hashing: histories by the thousand stay quick. Two ids that differ in the first bit only have one static key. */
function mac(nodeId: Uint8Array, kind: string, networkId: Uint8Array, body: Uint8Array): Uint8Array {
  return createHash("sha512").update(nodeId).update(kind).update(networkId).update(body).digest();
}
const fakeKeys: MeshKeys = {
  verify: (nodeId, kind, networkId, body, signature) => equal(mac(nodeId, kind, networkId, body), signature),
  staticKeyOf: (nodeId) => Uint8Array.from(nodeId, (byte, i) => (i === 0 ? byte & 0x7f : byte)),
  signerFromSeed: (seed) => fakeSigner(seed),
  formatNodeId: toHex,
};
function fakeSigner(nodeId: Uint8Array): Signer {
  return { nodeId, sign: (kind, networkId, body) => mac(nodeId, kind, networkId, body) };
}

function foundWith(signer: Signer, keys: MeshKeys, name = "founder"): { roster: Roster; genesis: Uint8Array } {
  const body = genesisBody("net", name, PREFIX, new Uint8Array(16));
  const genesis = signStatement(
    { networkId: undefined, parents: [], hlc: hlcFromWall(WALL_MS), kind: "genesis", body },
    signer,
  );
  const roster = new Roster({ keys, networkId: statementHash(genesis) });
  assert.equal(roster.add(genesis, WALL_MS).status, "added");
  return { roster, genesis };
}

/** One person with an own copy of the roster. */
interface Replica {
  readonly roster: Roster;
}

interface History {
  readonly networkId: Uint8Array;
  readonly statements: Statement[];
  readonly refused: { readonly statement: Statement; readonly ancestors: Statement[] }[];
}

function admit(node: Uint8Array, name: string, ipv4: number, roles: Role[], invite?: Uint8Array): CborMap {
  return admitBody({ node, name, ipv4, roles, tags: [], expiresAtMs: undefined, invite });
}

/** Concurrent admissions, invites with few uses, removals of admins by each other, leaving, back-dating, unknown kinds, clashes. */
function randomHistory(seed: number): History {
  const random = new SeededRandom(seed);
  const pick = <T>(list: readonly T[]): T => list[random.u32() % list.length];
  const signers = Array.from({ length: 7 }, (_, i) =>
    fakeSigner(
      createHash("sha256")
        .update(`${seed}/${i >> 1}`)
        .digest()
        .map((b, j) => (j === 0 ? (b & 0x7f) | ((i & 1) << 7) : b)),
    ),
  );
  const { roster: first, genesis } = foundWith(signers[0], fakeKeys);
  const networkId = first.networkId;
  const replicas: Replica[] = [{ roster: first }];
  for (let i = 0; i < 2; i++) {
    const roster = new Roster({ keys: fakeKeys, networkId });
    roster.add(genesis, Number.POSITIVE_INFINITY);
    replicas.push({ roster });
  }
  const refused: History["refused"] = [];
  const everything = new Map<string, Statement>();
  for (const statement of first.statements()) everything.set(statement.hashHex, statement);
  const steps = 8 + (random.u32() % 16);
  for (let step = 0; step < steps; step++) {
    const { roster } = pick(replicas);
    if (random.unit() < 0.3) {
      const other = pick(replicas).roster;
      for (const statement of other.statements())
        if (random.unit() < 0.9) roster.addOpened(statement, Number.POSITIVE_INFINITY);
      continue;
    }
    const known = [...roster.statements()];
    const invites = known.filter((statement) => statement.body.kind === "invite");
    const node = pick(signers).nodeId;
    const issuer =
      random.unit() < 0.8 ? signers.find((one) => roster.state.admins.has(toHex(one.nodeId))) : pick(signers);
    const adminNodes = [...roster.state.admins.keys(), toHex(node)].map((hex) => Uint8Array.fromHex(hex));
    const roles: Role[] = random.unit() < 0.6 ? ["admin"] : [];
    const invite = invites.length > 0 && random.unit() < 0.7 ? pick(invites).hash : undefined;
    const body = pick<() => [string, CborMap]>([
      () => ["admit", admit(node, pick(["a", "b", "a-2"]), 0x0a000000 + (random.u32() % 5), roles, invite)],
      () => ["admit", admit(node, "a", 0x0a000003, ["admin"])],
      () => ["admit", admit(node, "b", 0x0a000004, ["admin"])],
      () => ["admit", admit(node, pick(["a", "b", "a-2"]), 0x0a000002, roles, invite)],
      () => [
        "invite",
        inviteBody({ key: node, uses: 1 + (random.u32() % 2), expiresAtMs: WALL_MS + 1e9, roles, tags: [] }),
      ],
      () => ["revoke", revokeBody({ node: pick(adminNodes), invite: undefined, reason: "r" })],
      () => ["revoke", revokeBody({ node: undefined, invite: invite ?? networkId, reason: "r" })],
      () => ["weather", { sunny: true }],
    ])();
    const signer = issuer ?? signers[0];
    if (random.unit() < 0.1) body[1] = revokeBody({ node: signer.nodeId, invite: undefined, reason: "leaving" });
    // sometimes from the past: any earlier statements as parents
    const isBackdated = random.unit() < 0.25;
    const parents = isBackdated ? [...new Set([pick(known), pick(known)])] : undefined;
    const at =
      parents === undefined
        ? roster.parentsFor([], WALL_MS + step)
        : {
            parents: parents.map((one) => one.hash),
            hlc: Math.max(...parents.map((one) => one.hlc)) + 1 + (random.u32() % 5),
          };
    const kind = "node" in body[1] && !("name" in body[1]) ? "revoke" : body[0];
    const wire = signStatement({ networkId, parents: at.parents, hlc: at.hlc, kind, body: body[1] }, signer);
    const statement = openStatement(wire, networkId, fakeKeys);
    assert.ok(typeof statement !== "string", String(statement));
    const result = roster.addOpened(statement, Number.POSITIVE_INFINITY);
    if (result.status === "added") everything.set(statement.hashHex, statement);
    else if (result.status === "refused") refused.push({ statement, ancestors: ancestry(statement, everything) });
  }
  return { networkId, statements: [...everything.values()], refused };
}

function ancestry(statement: Statement, all: ReadonlyMap<string, Statement>): Statement[] {
  const found = new Map<string, Statement>();
  const open = [...statement.parents];
  for (let hash = open.pop(); hash !== undefined; hash = open.pop()) {
    const parent = all.get(toHex(hash));
    if (parent === undefined || found.has(parent.hashHex)) continue;
    found.set(parent.hashHex, parent);
    open.push(...parent.parents);
  }
  return [...found.values()].toSorted(compareStatements);
}

function rosterOf(networkId: Uint8Array, statements: readonly Statement[]): Roster {
  const roster = new Roster({ keys: fakeKeys, networkId });
  let waiting = [...statements];
  for (let before = -1; waiting.length > 0 && waiting.length !== before;) {
    before = waiting.length;
    waiting = waiting.filter((statement) => {
      const { status } = roster.addOpened(statement, Number.POSITIVE_INFINITY);
      assert.notEqual(status, "refused");
      return status === "missing";
    });
  }
  assert.equal(waiting.length, 0);
  return roster;
}

function snapshot(roster: Roster): string {
  const { members, admins, invites, removals, voids } = roster.state;
  return JSON.stringify([
    members.map((m) => [toHex(m.nodeId), m.name, m.ipv4, m.ipv6, m.roles, m.admittedAtMs, toHex(m.admission)]),
    [...admins].toSorted(),
    invites.map((use) => [use.entry.statement.hashHex, use.used, use.usedUpHlc, use.revokedHlc]),
    [...removals].map(([node, by]) => [node, by.map((entry) => entry.statement.hashHex)]).toSorted(),
    [...voids].toSorted(),
    roster.fingerprint(0, Number.MAX_SAFE_INTEGER),
  ]);
}

function shuffled<T>(list: readonly T[], random: SeededRandom): T[] {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) {
    const j = random.u32() % (i + 1);
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

test("2,000 random histories resolve to the same state in every order of arrival", () => {
  let voids = 0;
  let admins = 0;
  let clashes = 0;
  let merges = 0;
  for (let seed = 1; seed <= 2000; seed++) {
    const { networkId, statements } = randomHistory(seed);
    const random = new SeededRandom(seed ^ 0x5eed);
    const reference = rosterOf(networkId, statements);
    const expected = snapshot(reference);
    for (let order = 0; order < 2; order++) {
      assert.equal(snapshot(rosterOf(networkId, shuffled(statements, random))), expected, `seed ${seed}`);
    }
    const { state } = reference;
    const unique = (values: readonly string[]): void =>
      assert.equal(new Set(values).size, values.length, `seed ${seed}: ${values.join()}`);
    unique(state.members.map((member) => member.name));
    unique(state.members.map((member) => member.ipv4));
    unique(state.members.map((member) => member.ipv6));
    unique(state.members.map((member) => toHex(member.staticKey)));
    for (const use of state.invites) assert.ok(use.used <= use.body.uses, `seed ${seed}`);
    voids += state.voids.size;
    admins += state.admins.size > 1 ? 1 : 0;
    clashes += state.members.some((member) => member.name !== member.requestedName) ? 1 : 0;
    merges += statements.some((statement) => statement.parents.length > 1) ? 1 : 0;
  }
  // the histories really are about what they claim to be about
  assert.ok(voids > 1000 && admins > 300 && clashes > 100 && merges > 1000, `${voids} ${admins} ${clashes} ${merges}`);
});

test("authority is that of the issuer in a roster of the statement's ancestors alone", () => {
  let accepted = 0;
  let refusals = 0;
  for (let seed = 1; seed <= 300; seed++) {
    const { networkId, statements, refused } = randomHistory(seed);
    const all = new Map(statements.map((statement) => [statement.hashHex, statement]));
    const isAdminKind = ({ body, issuer }: Statement): boolean =>
      body.kind === "revoke" ? body.node === undefined || !equal(body.node, issuer) : body.kind !== "unknown";
    for (const statement of statements) {
      if (statement.parents.length === 0 || !isAdminKind(statement)) continue;
      const before = rosterOf(networkId, ancestry(statement, all));
      assert.ok(before.state.admins.has(statement.issuerHex), `seed ${seed}`);
      accepted++;
    }
    for (const { statement, ancestors } of refused) {
      const before = rosterOf(networkId, ancestors);
      const result = before.addOpened(statement, Number.POSITIVE_INFINITY);
      assert.equal(result.status, "refused");
      if (result.status === "refused" && result.reason === Refusal.NOT_AUTHORISED && isAdminKind(statement)) {
        assert.ok(!before.state.admins.has(statement.issuerHex), `seed ${seed}`);
        refusals++;
      }
    }
  }
  assert.ok(accepted > 1000 && refusals > 50, `${accepted} ${refusals}`);
});

/** A founder and named signers with real keys, and a way to say things on given parents. */
function stage(count: number): {
  roster: Roster;
  signers: Identity[];
  say(by: Identity, kind: string, body: CborMap, parents?: readonly Uint8Array[], hlc?: number): Uint8Array;
} {
  const random = new SeededRandom(99);
  const signers = Array.from({ length: count }, () => Identity.generate(random));
  const { roster } = foundWith(signers[0], systemKeys);
  return {
    roster,
    signers,
    say(by, kind, body, parents, hlc) {
      const at = parents === undefined ? roster.parentsFor([], WALL_MS) : { parents, hlc: roster.maxHlc + 1 };
      return signStatement({ networkId: roster.networkId, parents: at.parents, hlc: hlc ?? at.hlc, kind, body }, by);
    },
  };
}

function reasonOf(roster: Roster, wire: Uint8Array, wallMs: number = WALL_MS): string {
  const result = roster.add(wire, wallMs);
  return result.status === "refused" ? result.reason : result.status;
}

test("forged, foreign, tampered and unauthorised statements are refused by name", () => {
  const { roster, signers, say } = stage(4);
  const [founder, member, outsider] = signers as [Identity, Identity, Identity];
  assert.equal(reasonOf(roster, say(founder, "admit", admit(member.nodeId, "m", 0x0a000002, []))), "added");
  const good = say(founder, "admit", admit(outsider.nodeId, "o", 0x0a000003, []));

  // the last byte belongs to a parent's hash, the clock's is in the middle: every changed byte of the payload spoils something
  for (let at = 64; at < good.length; at++) {
    const tampered = good.slice();
    tampered[at] = tampered[at] ^ 1;
    const reason = reasonOf(roster, tampered);
    assert.ok(["malformed", "bad-signature", "another-network", "bad-key"].includes(reason), `${at}: ${reason}`);
  }
  const forged = good.slice();
  forged[3] = forged[3] ^ 1;
  assert.equal(reasonOf(roster, forged), Refusal.BAD_SIGNATURE);

  const elsewhere = signStatement(
    {
      networkId: new Uint8Array(32).fill(7),
      parents: [roster.networkId],
      hlc: roster.maxHlc + 1,
      kind: "note",
      body: {},
    },
    founder,
  );
  assert.equal(reasonOf(roster, elsewhere), Refusal.FOREIGN);
  const secondGenesis = signStatement(
    {
      networkId: undefined,
      parents: [],
      hlc: 5,
      kind: "genesis",
      body: genesisBody("net", "x", PREFIX, new Uint8Array(16).fill(1)),
    },
    founder,
  );
  assert.equal(reasonOf(roster, secondGenesis), Refusal.FOREIGN);

  assert.equal(
    reasonOf(roster, say(member, "admit", admit(outsider.nodeId, "o", 0x0a000003, []))),
    Refusal.NOT_AUTHORISED,
  );
  assert.equal(
    reasonOf(
      roster,
      say(member, "invite", inviteBody({ key: outsider.nodeId, uses: 1, expiresAtMs: 1, roles: [], tags: [] })),
    ),
    Refusal.NOT_AUTHORISED,
  );
  assert.equal(
    reasonOf(roster, say(member, "revoke", revokeBody({ node: founder.nodeId, invite: undefined, reason: "" }))),
    Refusal.NOT_AUTHORISED,
  );
  assert.equal(reasonOf(roster, say(outsider, "weather", {})), Refusal.NOT_AUTHORISED);
  assert.equal(
    reasonOf(roster, say(outsider, "revoke", revokeBody({ node: outsider.nodeId, invite: undefined, reason: "" }))),
    Refusal.NOT_AUTHORISED,
  );

  assert.equal(
    reasonOf(roster, say(founder, "admit", admit(new Uint8Array(32), "zero", 0x0a000003, []))),
    Refusal.BAD_KEY,
  );
  assert.equal(
    reasonOf(roster, say(founder, "admit", admit(outsider.nodeId, "o", 0x0a000003, [], roster.networkId))),
    Refusal.UNKNOWN_INVITE,
  );
  assert.equal(reasonOf(roster, say(founder, "note", {}, [roster.networkId], 1)), Refusal.CLOCK_ORDER);
  assert.equal(reasonOf(roster, say(founder, "note", {}, undefined, hlcFromWall(WALL_MS + 301_000))), Refusal.FUTURE);
  assert.equal(reasonOf(roster, say(founder, "note", {}, [new Uint8Array(32)])), "missing");
  assert.equal(reasonOf(roster, new Uint8Array(1025)), Refusal.TOO_LONG);
  assert.equal(reasonOf(roster, new Uint8Array(64)), Refusal.MALFORMED);
  assert.equal(roster.size, 2);
  assert.equal(reasonOf(roster, good), "added");
  assert.equal(reasonOf(roster, good), "known");
});

test("an admission after the invite's expiry or above its uses has no effect", () => {
  const { roster, signers, say } = stage(4);
  const [founder, a, b] = signers as [Identity, Identity, Identity];
  const invite = say(
    founder,
    "invite",
    inviteBody({ key: a.nodeId, uses: 1, expiresAtMs: WALL_MS + 1000, roles: [], tags: [] }),
  );
  assert.equal(reasonOf(roster, invite), "added");
  const late = say(
    founder,
    "admit",
    admit(a.nodeId, "a", 0x0a000002, [], statementHash(invite)),
    undefined,
    hlcFromWall(WALL_MS + 2000),
  );
  assert.equal(reasonOf(roster, late), Refusal.INVITE_EXPIRED);
  assert.equal(
    reasonOf(roster, say(founder, "admit", admit(a.nodeId, "a", 0x0a000002, [], statementHash(invite)))),
    "added",
  );
  assert.equal(
    reasonOf(roster, say(founder, "admit", admit(a.nodeId, "a", 0x0a000002, [], statementHash(invite)))),
    "added",
  );
  assert.equal(
    reasonOf(roster, say(founder, "admit", admit(b.nodeId, "b", 0x0a000003, [], statementHash(invite)))),
    "added",
  );
  assert.ok(roster.member(a.nodeId) !== undefined);
  assert.equal(roster.member(b.nodeId), undefined);
  assert.deepEqual([...roster.state.voids.values()], ["its invite was used up"]);
  assert.equal(roster.state.invites[0]?.used, 1);
});

test("of two admins that remove each other at once the senior one stays", () => {
  const { roster, signers, say } = stage(3);
  const [founder, deputy] = signers as [Identity, Identity];
  roster.add(say(founder, "admit", admit(deputy.nodeId, "deputy", 0x0a000002, ["admin"])), WALL_MS);
  const { parents } = roster.parentsFor([], WALL_MS);
  const byDeputy = say(deputy, "revoke", revokeBody({ node: founder.nodeId, invite: undefined, reason: "" }), parents);
  const byFounder = say(
    founder,
    "revoke",
    revokeBody({ node: deputy.nodeId, invite: undefined, reason: "" }),
    parents,
    roster.maxHlc + 50,
  );
  assert.equal(reasonOf(roster, byDeputy), "added");
  assert.equal(roster.member(founder.nodeId), undefined);
  assert.equal(reasonOf(roster, byFounder), "added");
  assert.ok(roster.member(founder.nodeId) !== undefined);
  assert.equal(roster.member(deputy.nodeId), undefined);
});

test("a circle of removals among admins admitted at once ends the same in every order of arrival", () => {
  const { roster, signers, say } = stage(4);
  const [founder, ...deputies] = signers as [Identity, Identity, Identity, Identity];
  const base = roster.maxHlc;
  const admissions = deputies.map((deputy, i) =>
    say(founder, "admit", admit(deputy.nodeId, `d${i}`, 0x0a000002 + i, ["admin"]), [roster.networkId], base + 10 - i),
  );
  const parents = admissions.map(statementHash).toSorted(compare);
  const removals = deputies.map((deputy, i) => {
    const target = deputies[(i + 1) % 3].nodeId;
    return say(deputy, "revoke", revokeBody({ node: target, invite: undefined, reason: "" }), parents, base + 20);
  });
  const outcomes = new Set<string>();
  const permutations = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ];
  for (const order of permutations) {
    for (const other of permutations) {
      const copy = new Roster({ keys: systemKeys, networkId: roster.networkId });
      for (const statement of roster.statements()) copy.addOpened(statement, WALL_MS);
      for (const i of order) assert.equal(reasonOf(copy, admissions[i]), "added");
      for (const i of other) assert.equal(reasonOf(copy, removals[i]), "added");
      outcomes.add(snapshot(copy));
      // the senior's removal comes first, so its target's counts for nothing; the third one's removal of the senior does count
      const senior = admissions.findIndex((one) => equal(statementHash(one), parents[0]));
      assert.deepEqual(
        deputies.map((deputy) => copy.member(deputy.nodeId) !== undefined),
        deputies.map((_, i) => i === (senior + 2) % 3),
      );
    }
  }
  assert.equal(outcomes.size, 1);
});

test("an invite that is revoked admits nobody whose admission the revocation does not know", () => {
  const { roster, signers, say } = stage(4);
  const [founder, early, late] = signers as [Identity, Identity, Identity];
  const invite = say(
    founder,
    "invite",
    inviteBody({ key: early.nodeId, uses: 5, expiresAtMs: WALL_MS + 1e9, roles: [], tags: [] }),
  );
  roster.add(invite, WALL_MS);
  const hash = statementHash(invite);
  roster.add(say(founder, "admit", admit(early.nodeId, "early", 0x0a000002, [], hash)), WALL_MS);
  const { parents } = roster.parentsFor([], WALL_MS);
  roster.add(say(founder, "admit", admit(late.nodeId, "late", 0x0a000003, [], hash), parents), WALL_MS);
  assert.ok(roster.member(late.nodeId) !== undefined);
  roster.add(say(founder, "revoke", revokeBody({ node: undefined, invite: hash, reason: "" }), parents), WALL_MS);
  assert.ok(roster.member(early.nodeId) !== undefined);
  assert.equal(roster.member(late.nodeId), undefined);
  assert.deepEqual([...roster.state.voids.values()], ["its invite was revoked"]);
});

test("what a removed admin says on old parents has no effect, what it said before stays", () => {
  const { roster, signers, say } = stage(5);
  const [founder, deputy, early, sneaky] = signers as [Identity, Identity, Identity, Identity];
  roster.add(say(founder, "admit", admit(deputy.nodeId, "deputy", 0x0a000002, ["admin"])), WALL_MS);
  const { parents } = roster.parentsFor([], WALL_MS);
  roster.add(say(deputy, "admit", admit(early.nodeId, "early", 0x0a000003, [])), WALL_MS);
  const invite = say(
    deputy,
    "invite",
    inviteBody({ key: sneaky.nodeId, uses: 9, expiresAtMs: WALL_MS + 1e9, roles: [], tags: [] }),
  );
  roster.add(invite, WALL_MS);
  roster.add(say(founder, "revoke", revokeBody({ node: deputy.nodeId, invite: undefined, reason: "" })), WALL_MS);
  assert.equal(
    reasonOf(roster, say(deputy, "admit", admit(sneaky.nodeId, "sneaky", 0x0a000004, []), parents)),
    "added",
  );
  assert.equal(roster.member(sneaky.nodeId), undefined);
  assert.ok(roster.member(early.nodeId) !== undefined);
  assert.equal(roster.inviteState(roster.state.invites[0] as never, WALL_MS).state, "revoked");
  assert.equal(
    reasonOf(roster, say(deputy, "admit", admit(sneaky.nodeId, "sneaky", 0x0a000004, []))),
    Refusal.NOT_AUTHORISED,
  );
});

test("name and address clashes of concurrent admissions settle by the lower clock", () => {
  const { roster, signers, say } = stage(4);
  const [founder, a, b, c] = signers as [Identity, Identity, Identity, Identity];
  const parents = [roster.networkId];
  const base = roster.maxHlc;
  roster.add(say(founder, "admit", admit(b.nodeId, "box", 0x0a000002, []), parents, base + 20), WALL_MS);
  roster.add(say(founder, "admit", admit(a.nodeId, "box", 0x0a000002, []), parents, base + 10), WALL_MS);
  roster.add(say(founder, "admit", admit(c.nodeId, "box-2", 0x0b000001, []), parents, base + 30), WALL_MS);
  const shown = [a, b, c].map((one) => roster.member(one.nodeId)).map((member) => [member?.name, member?.ipv4]);
  assert.deepEqual(shown, [
    ["box", "10.0.0.2"],
    ["box-3", "10.0.0.3"],
    ["box-2", "10.0.0.4"],
  ]);
});

test("statements of kinds that this version does not know are kept, bounded for plain members, and change nothing", () => {
  const { roster, signers, say } = stage(2);
  const [founder, member] = signers as [Identity, Identity];
  roster.add(say(founder, "admit", admit(member.nodeId, "m", 0x0a000002, [])), WALL_MS);
  const before = JSON.stringify(roster.state.members);
  for (let i = 0; i < 64; i++) assert.equal(reasonOf(roster, say(member, "weather", { n: i })), "added");
  assert.equal(reasonOf(roster, say(member, "weather", { n: 64 })), Refusal.ISSUER_QUOTA);
  assert.equal(reasonOf(roster, say(founder, "weather", { n: 65 })), "added");
  assert.equal(JSON.stringify(roster.state.members), before);
});

test("the bounds on statements and members have names", () => {
  const founder = fakeSigner(new Uint8Array(32).fill(1));
  const { genesis } = foundWith(founder, fakeKeys);
  const roster = new Roster({ keys: fakeKeys, networkId: statementHash(genesis) }, { maxMembers: 3, maxStatements: 6 });
  roster.add(genesis, WALL_MS);
  const results: string[] = [];
  for (let i = 2; i < 8; i++) {
    const { parents, hlc } = roster.parentsFor([], WALL_MS);
    const body = admit(new Uint8Array(32).fill(i), `n${i}`, 0x0a000000 + i, []);
    results.push(
      reasonOf(roster, signStatement({ networkId: roster.networkId, parents, hlc, kind: "admit", body }, founder)),
    );
  }
  assert.deepEqual(results, ["added", "added", "added", "added", "added", Refusal.ROSTER_FULL]);
  assert.equal(roster.state.members.length, 3);
  assert.equal([...roster.state.voids.values()].filter((why) => why === "the network is full").length, 3);
});

test("a thousand members resolve, each with its own name and addresses", () => {
  const founder = fakeSigner(new Uint8Array(32).fill(1));
  const body = genesisBody("net", "founder", { base: 0x0a000000, bits: 16 }, new Uint8Array(16));
  const genesis = signStatement(
    { networkId: undefined, parents: [], hlc: hlcFromWall(WALL_MS), kind: "genesis", body },
    founder,
  );
  const roster = new Roster({ keys: fakeKeys, networkId: statementHash(genesis) });
  roster.add(genesis, WALL_MS);
  for (let i = 0; i < 1000; i++) {
    const { parents, hlc } = roster.parentsFor([], WALL_MS);
    const node = createHash("sha256").update(`node ${i}`).digest();
    const admission = admit(node, `n${i % 500}`, 0x0a000002 + (i % 700), []);
    const wire = signStatement({ networkId: roster.networkId, parents, hlc, kind: "admit", body: admission }, founder);
    assert.equal(reasonOf(roster, wire), "added");
  }
  const { members } = roster.state;
  assert.equal(members.length, 1001);
  assert.equal(new Set(members.map((member) => member.name)).size, 1001);
  assert.equal(new Set(members.map((member) => member.ipv4)).size, 1001);
});

test("hostile bytes never throw, and nothing but the canonical form of a statement is taken", () => {
  const { roster, signers, say } = stage(2);
  const good = say(signers[0], "note", { a: 1, b: [1, "x", new Uint8Array(3)] });
  const keys: MeshKeys = { ...systemKeys, verify: () => true };
  assert.ok(typeof openStatement(good, roster.networkId, keys) === "object");
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1100 }), (bytes) => {
      assert.equal(typeof openStatement(bytes, roster.networkId, keys), "string");
    }),
    { numRuns: 2000 },
  );
  fc.assert(
    fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, value, cut) => {
      const bytes = good.slice(0, cut < good.length / 2 ? good.length : cut);
      bytes[at % bytes.length] = value;
      const opened = openStatement(bytes, roster.networkId, keys);
      if (typeof opened === "string") return;
      // whatever is accepted encodes to exactly these bytes again
      const again = signStatement(
        { networkId: roster.networkId, parents: opened.parents, hlc: opened.hlc, kind: opened.kind, body: {} },
        signers[0],
      );
      assert.ok(again.length <= bytes.length);
      assert.deepEqual(opened.wire, bytes);
    }),
    { numRuns: 2000 },
  );
});

test("the longest statement that this node can make fits", () => {
  const signer = fakeSigner(new Uint8Array(32).fill(1));
  const parents = Array.from({ length: 8 }, (_, i) => new Uint8Array(32).fill(i));
  const tags = Array.from({ length: 16 }, () => "0123456789abcdef");
  const roles: Role[] = ["admin", "beacon", "router", "exit"];
  const hlc = Number.MAX_SAFE_INTEGER - 1;
  const networkId = new Uint8Array(32);
  const body = admitBody({
    node: networkId,
    name: "n".repeat(63),
    ipv4: 0xffffffff,
    roles,
    tags,
    expiresAtMs: hlc,
    invite: networkId,
  });
  assert.ok(signStatement({ networkId, parents, hlc, kind: "admit", body }, signer).length <= 1024);
  const reason = "\u{1f9f5}".repeat(500);
  const revoke = revokeBody({ node: networkId, invite: undefined, reason });
  assert.ok(signStatement({ networkId, parents, hlc, kind: "revoke", body: revoke }, signer).length <= 1024);
});

test("any host name becomes a valid node name", () => {
  fc.assert(fc.property(fc.string({ maxLength: 100 }), (text) => assert.ok(isName(toName(text)), toName(text))));
  assert.equal(toName("My Laptop.local"), "my-laptop");
  assert.equal(toName("…"), "node");
});

test("range fingerprints differ exactly when the statements in the range differ", () => {
  const { roster, signers, say } = stage(1);
  const founder = signers[0];
  for (let i = 0; i < 20; i++) roster.add(say(founder, "note", { i }), WALL_MS);
  const half = new Roster({ keys: systemKeys, networkId: roster.networkId });
  const all = [...roster.statements()];
  for (const statement of all.slice(0, 11)) half.addOpened(statement, WALL_MS);
  const boundary = all[11].hlc;
  assert.deepEqual(half.fingerprint(0, boundary), roster.fingerprint(0, boundary));
  assert.notDeepEqual(half.fingerprint(0, boundary + 1), roster.fingerprint(0, boundary + 1));
  assert.equal(roster.fingerprint(boundary, Number.MAX_SAFE_INTEGER).count, 10);
});

test("signature purposes are separate", () => {
  const random = new SeededRandom(5);
  const identity = Identity.generate(random);
  const networkId = random.bytes(32);
  const signature = identity.sign(SignKind.JOIN, networkId, utf8("body"));
  assert.ok(systemKeys.verify(identity.nodeId, SignKind.JOIN, networkId, utf8("body"), signature));
  assert.ok(!systemKeys.verify(identity.nodeId, SignKind.STATEMENT, networkId, utf8("body"), signature));
});
