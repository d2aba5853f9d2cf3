import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { compare, equal, toHex, utf8 } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import { admit, fakeKeys, fakeSigner, foundWith, PREFIX, snapshot, WALL_MS } from "./histories.ts";
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
  statementHash,
  toName,
  unadminBody,
} from "./statement.ts";
import type { CborMap } from "./cbor.ts";
import type { Role } from "./types.ts";

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

test("whoever became an admin through an invite that was ended meanwhile removes nobody", () => {
  const { roster, signers, say } = stage(4);
  const [founder, deputy, late] = signers as [Identity, Identity, Identity];
  roster.add(say(founder, "admit", admit(deputy.nodeId, "deputy", 0x0a000002, ["admin"])), WALL_MS);
  const body = inviteBody({ key: late.nodeId, uses: 5, expiresAtMs: WALL_MS + 1e9, roles: ["admin"], tags: [] });
  const invite = say(founder, "invite", body);
  roster.add(invite, WALL_MS);
  const { parents } = roster.parentsFor([], WALL_MS);
  const admission = say(
    deputy,
    "admit",
    admit(late.nodeId, "late", 0x0a000003, ["admin"], statementHash(invite)),
    parents,
  );
  assert.equal(reasonOf(roster, admission), "added");
  const removal = revokeBody({ node: deputy.nodeId, invite: undefined, reason: "" });
  assert.equal(reasonOf(roster, say(late, "revoke", removal, [statementHash(admission)])), "added");
  assert.equal(roster.member(deputy.nodeId), undefined);
  const end = revokeBody({ node: undefined, invite: statementHash(invite), reason: "leaked" });
  assert.equal(reasonOf(roster, say(founder, "revoke", end, parents)), "added");
  assert.ok(roster.member(deputy.nodeId) !== undefined);
  assert.equal(roster.member(late.nodeId), undefined);
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
  const deputy = fakeSigner(new Uint8Array(32).fill(2));
  const results: string[] = [];
  for (let i = 2; i < 8; i++) {
    const { parents, hlc } = roster.parentsFor([], WALL_MS);
    const body = admit(new Uint8Array(32).fill(i), `n${i}`, 0x0a000000 + i, i === 2 ? ["admin"] : []);
    const signer = i < 4 ? founder : deputy;
    results.push(
      reasonOf(roster, signStatement({ networkId: roster.networkId, parents, hlc, kind: "admit", body }, signer)),
    );
  }
  assert.deepEqual(results, ["added", "added", "added", "added", "added", Refusal.ROSTER_FULL]);
  assert.equal(roster.state.members.length, 3);
  assert.equal([...roster.state.voids.values()].filter((why) => why === "the network is full").length, 3);
});

/** Two admins, of whom `thief` says what it likes until the roster takes no more of it. */
function filled(maxStatements: number): {
  roster: Roster;
  honest: Signer;
  thief: Signer;
  wires: Uint8Array[];
  say(by: Signer, kind: string, body: CborMap): string;
} {
  const honest = fakeSigner(new Uint8Array(32).fill(1));
  const thief = fakeSigner(new Uint8Array(32).fill(2));
  const { genesis } = foundWith(honest, fakeKeys);
  const roster = new Roster({ keys: fakeKeys, networkId: statementHash(genesis) }, { maxStatements });
  const wires = [genesis];
  roster.add(genesis, WALL_MS);
  const say = (by: Signer, kind: string, body: CborMap): string => {
    const { parents, hlc } = roster.parentsFor([], WALL_MS);
    const wire = signStatement({ networkId: roster.networkId, parents, hlc, kind, body }, by);
    const reason = reasonOf(roster, wire);
    if (reason === "added") wires.push(wire);
    return reason;
  };
  assert.equal(say(honest, "admit", admit(thief.nodeId, "thief", 0x0a000002, ["admin"])), "added");
  let reason = "";
  for (let n = 0; reason !== Refusal.ISSUER_QUOTA; n++) {
    reason = say(thief, "merge", { n });
    assert.ok(reason === "added" || reason === Refusal.ISSUER_QUOTA, reason);
  }
  return { roster, honest, thief, wires, say };
}

test("one admin fills half of the roster at most", () => {
  const { roster, honest, thief, say } = filled(40);
  assert.equal([...roster.statements()].filter((one) => one.issuerHex === toHex(thief.nodeId)).length, 20);
  assert.equal(say(honest, "merge", {}), "added");
});

test("a full roster still takes each admin's first removal of each node, bounded, and takes all of it back from the store", () => {
  const { roster, honest, thief, wires, say } = filled(40);
  while (say(honest, "merge", { size: roster.size }) === "added");
  const accomplice = new Uint8Array(32).fill(3);
  const isGone = (): boolean => roster.member(thief.nodeId) === undefined;
  const revoke = (node: Uint8Array): CborMap => revokeBody({ node, invite: undefined, reason: "stolen" });
  assert.equal(roster.isFull, true);
  assert.equal(say(thief, "admit", admit(accomplice, "x", 0x0a000003, [])), Refusal.ROSTER_FULL);
  assert.equal(isGone(), false);
  // said on old parents: from the store it comes before what had filled the roster
  const admission = [...roster.statements()][1];
  const at = { networkId: roster.networkId, parents: [admission.hash], hlc: admission.hlc + 1 };
  const early = signStatement({ ...at, kind: "unadmin", body: unadminBody(thief.nodeId, "") }, honest);
  assert.equal(reasonOf(roster, early), "added");
  wires.push(early);
  assert.equal(say(honest, "revoke", revoke(thief.nodeId)), "added");
  assert.equal(isGone(), true);
  assert.equal(say(honest, "revoke", revoke(thief.nodeId)), Refusal.ROSTER_FULL, "the second one of the same node");
  assert.equal(say(thief, "unadmin", unadminBody(honest.nodeId, "")), Refusal.NOT_AUTHORISED);
  let more = 0;
  while (say(honest, "revoke", revoke(new Uint8Array(32).fill(10 + more))) === "added") more++;
  assert.equal(roster.size, 40 + 10, "the room for removals has a bound");
  // from the store in (hlc, hash) order, which is not the order of arrival
  const again = new Roster({ keys: fakeKeys, networkId: roster.networkId }, { maxStatements: 40 });
  const opened = wires.map((wire) => openStatement(wire, roster.networkId, fakeKeys));
  const inOrder = opened.filter((one) => typeof one !== "string").toSorted(compareStatements);
  for (const one of inOrder) assert.equal(again.addOpened(one, WALL_MS, true).status, "added");
  assert.equal(snapshot(again), snapshot(roster));
});

test("a long row of what members said, above a change of admins, does not exhaust the stack", () => {
  const founder = fakeSigner(new Uint8Array(32).fill(1));
  const { genesis } = foundWith(founder, fakeKeys);
  const roster = new Roster({ keys: fakeKeys, networkId: statementHash(genesis) }, { maxStatements: 40_000 });
  roster.add(genesis, WALL_MS);
  const say = (by: Signer, kind: string, body: CborMap): string => {
    const { parents, hlc } = roster.parentsFor([], WALL_MS);
    return reasonOf(roster, signStatement({ networkId: roster.networkId, parents, hlc, kind, body }, by));
  };
  const ids = Array.from({ length: 100 }, (_, i) => createHash("sha256").update(`${i}`).digest());
  for (const [i, id] of ids.entries())
    assert.equal(say(founder, "admit", admit(id, `n${i}`, 0x0a000002 + i, i === 0 ? ["admin"] : [])), "added");
  for (const id of ids.slice(1))
    for (let n = 0; n < 64; n++) assert.equal(say(fakeSigner(id), "weather", { n }), "added");
  assert.equal(say(founder, "merge", {}), "added");
});

test("what a plain member says without the right to is refused without finding out who is an admin", () => {
  const founder = fakeSigner(new Uint8Array(32).fill(1));
  const member = fakeSigner(new Uint8Array(32).fill(2));
  const { genesis } = foundWith(founder, fakeKeys);
  let derived = 0;
  const keys: MeshKeys = {
    ...fakeKeys,
    staticKeyOf(nodeId) {
      derived++;
      return fakeKeys.staticKeyOf(nodeId);
    },
  };
  const roster = new Roster({ keys, networkId: statementHash(genesis) });
  roster.add(genesis, WALL_MS);
  const say = (by: Signer, kind: string, body: CborMap, parents?: readonly Uint8Array[]): string => {
    const at = parents === undefined ? roster.parentsFor([], WALL_MS) : { parents, hlc: roster.maxHlc + 1 };
    return reasonOf(roster, signStatement({ networkId: roster.networkId, ...at, kind, body }, by));
  };
  const hashes = (): Uint8Array[] => [...roster.statements()].map((one) => one.hash);
  assert.equal(say(founder, "admit", admit(member.nodeId, "m", 0x0a000002, [])), "added");
  const base = hashes();
  for (let i = 3; i < 5; i++)
    assert.equal(say(founder, "admit", admit(new Uint8Array(32).fill(i), "a", i, ["admin"]), base.slice(-1)), "added");
  const heads = hashes().slice(-2);
  // the only ones that resolve the ancestry ask for the static keys of the nodes admitted in it
  derived = 0;
  const unknown = new Uint8Array(32).fill(9);
  assert.equal(say(member, "unadmin", unadminBody(founder.nodeId, ""), heads), Refusal.NOT_AUTHORISED);
  assert.equal(
    say(member, "revoke", revokeBody({ node: unknown, invite: undefined, reason: "" }), heads),
    Refusal.NOT_AUTHORISED,
  );
  assert.equal(derived, 0);
  assert.equal(say(founder, "unadmin", unadminBody(unknown, ""), heads), "added");
  assert.ok(derived > 0, "control: for somebody who was made an admin the ancestry is resolved");
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

test("hundreds of admins that made each other, and the first of them removed, resolve without running out of stack", () => {
  const founder = fakeSigner(new Uint8Array(32).fill(1));
  const body = genesisBody("net", "founder", { base: 0x0a000000, bits: 16 }, new Uint8Array(16));
  const fields = { networkId: undefined, parents: [], hlc: hlcFromWall(WALL_MS), kind: "genesis", body };
  const genesis = signStatement(fields, founder);
  const roster = new Roster({ keys: fakeKeys, networkId: statementHash(genesis) });
  roster.add(genesis, WALL_MS);
  const say = (by: Signer, kind: string, said: CborMap, parents?: readonly Uint8Array[]): void => {
    const at = parents === undefined ? roster.parentsFor([], WALL_MS) : { parents, hlc: roster.maxHlc + 1 };
    const wire = signStatement({ networkId: roster.networkId, ...at, kind, body: said }, by);
    assert.equal(reasonOf(roster, wire), "added");
  };
  let by = founder;
  let second: readonly Uint8Array[] = [];
  const chain: Signer[] = [];
  for (let i = 0; i < 600; i++) {
    const next = fakeSigner(new Uint8Array(createHash("sha256").update(`link ${i}`).digest()));
    next.nodeId[0] = next.nodeId[0] & 0x7f;
    say(by, "admit", admit(next.nodeId, `n${i}`, 0x0a000002 + i, ["admin"]));
    if (i === 0) second = roster.parentsFor([], WALL_MS).parents;
    chain.push((by = next));
  }
  say(founder, "revoke", revokeBody({ node: chain[0].nodeId, invite: undefined, reason: "" }), second);
  assert.deepEqual([...roster.state.admins.keys()], [toHex(founder.nodeId)]);
  say(founder, "revoke", revokeBody({ node: chain[599].nodeId, invite: undefined, reason: "" }));
  assert.equal(roster.state.members.length, 1);
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
