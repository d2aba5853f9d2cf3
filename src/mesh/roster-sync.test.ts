import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { equal } from "../base/bytes.ts";
import { type ControlMessage, decodeControl, encodeControl } from "./control.ts";
import type { MeshKeys, Signer } from "./keys.ts";
import { neighboursOf, NEIGHBOURS } from "./neighbours.ts";
import { Roster } from "./roster.ts";
import { answerRanges, compareList, openingMoves, rosterDigest, sameFingerprint } from "./roster-sync.ts";
import { genesisBody, openStatement, signStatement, type Statement, statementHash } from "./statement.ts";
import type { Member } from "./types.ts";

function mac(nodeId: Uint8Array, body: Uint8Array): Uint8Array {
  return createHash("sha512").update(nodeId).update(body).digest();
}
const keys: MeshKeys = {
  verify: (nodeId, _kind, _network, body, signature) => equal(mac(nodeId, body), signature),
  staticKeyOf: (nodeId) => nodeId,
  signerFromSeed: (seed) => signerOf(seed),
  formatNodeId: (nodeId) => nodeId.toHex(),
};
function signerOf(nodeId: Uint8Array): Signer {
  return { nodeId, sign: (_kind, _network, body) => mac(nodeId, body) };
}

const founder = signerOf(new Uint8Array(32).fill(1));
const prefix = { base: 0x0a000000, bits: 16 };
const genesis = signStatement(
  {
    networkId: undefined,
    parents: [],
    hlc: 1,
    kind: "genesis",
    body: genesisBody("n", "f", prefix, new Uint8Array(16)),
  },
  founder,
);
const networkId = statementHash(genesis);

/** Notes that all hang on the genesis, so that any subset is a roster. */
function note(number: number, hlc: number): Statement {
  const wire = signStatement({ networkId, parents: [networkId], hlc, kind: "note", body: { number } }, founder);
  const opened = openStatement(wire, networkId, keys);
  assert.ok(typeof opened !== "string");
  return opened;
}

function rosterWith(statements: readonly Statement[]): Roster {
  const roster = new Roster({ keys, networkId });
  assert.equal(roster.add(genesis, Number.POSITIVE_INFINITY).status, "added");
  for (const statement of statements) roster.addOpened(statement, Number.POSITIVE_INFINITY);
  return roster;
}

/** Lets two rosters talk until they are silent. @returns how many messages it took */
function reconcile(a: Roster, b: Roster): number {
  let messages = 0;
  const open: { readonly to: Roster; readonly from: Roster; readonly message: ControlMessage }[] = [];
  const say = (from: Roster, to: Roster, list: readonly ControlMessage[]): void => {
    for (const message of list) open.push({ from, to, message });
  };
  const hand = (from: Roster, to: Roster, statements: readonly Statement[]): void => {
    for (const statement of statements) {
      assert.ok(from.has(statement.hash));
      to.addOpened(statement, Number.POSITIVE_INFINITY);
    }
  };
  say(a, b, openingMoves(a));
  for (let next = open.shift(); next !== undefined; next = open.shift()) {
    const message = decodeControl(encodeControl(next.message));
    messages++;
    assert.ok(messages < 5000, "no end");
    const { from, to } = next;
    if (typeof message === "string") assert.fail(message);
    if (message.type === "ranges") say(to, from, answerRanges(to, message.lower, message.ranges));
    if (message.type === "have") {
      const { send, want } = compareList(to, (hash) => to.has(hash), message);
      hand(to, from, send);
      hand(
        from,
        to,
        want.map((hash) => from.get(hash) as Statement),
      );
    }
  }
  return messages;
}

const notes: readonly Statement[] = Array.from({ length: 600 }, (_, i) => note(i, 2 + Math.floor(i / 3)));
const sameClock: readonly Statement[] = Array.from({ length: 120 }, (_, i) => note(1000 + i, 100));

test("two rosters with any difference end with the union of both", () => {
  const subset = fc
    .tuple(fc.nat(600), fc.nat(600), fc.array(fc.nat(599), { maxLength: 30 }))
    .map(([from, to, holes]) => {
      const gone = new Set(holes);
      return notes.filter((_, i) => i >= from && i < to && !gone.has(i));
    });
  fc.assert(
    fc.property(subset, subset, fc.nat(120), fc.nat(120), (left, right, sameLeft, sameRight) => {
      const a = rosterWith([...left, ...sameClock.slice(0, sameLeft)]);
      const b = rosterWith([...right, ...sameClock.slice(120 - sameRight)]);
      const union = new Set([...a.statements(), ...b.statements()].map((statement) => statement.hashHex));
      reconcile(a, b);
      assert.equal(a.size, union.size);
      assert.equal(b.size, union.size);
      assert.ok(sameFingerprint(rosterDigest(a), rosterDigest(b)));
    }),
    { numRuns: 150 },
  );
});

test("one missing statement among hundreds is found in a handful of messages", () => {
  const a = rosterWith(notes);
  const b = rosterWith(notes.filter((_, i) => i !== 317));
  const messages = reconcile(a, b);
  assert.equal(b.size, a.size);
  assert.ok(messages <= 6, `${messages} messages`);
});

test("an empty roster gets everything", () => {
  const a = new Roster({ keys, networkId });
  const b = rosterWith(notes);
  reconcile(a, b);
  assert.equal(a.size, b.size);
});

test("every member can reach every other along neighbours, and small networks are whole", () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(0xffffff), { minLength: 1, maxLength: 60 }), (ids) => {
      const members = ids.map((id): Member => {
        const nodeId = createHash("sha256").update(String(id)).digest();
        return { nodeId, staticKey: nodeId, roles: [] } as unknown as Member;
      });
      // whoever is near, the successors keep the graph connected
      const rttMs = (own: Member): Map<string, number> =>
        new Map(
          members
            .filter((other) => (own.nodeId[0] ^ other.nodeId[1]) % 3 === 0)
            .map((other) => [other.nodeId.toHex(), 1 + (other.nodeId[2] % 50)]),
        );
      const edges = new Map(members.map((member) => [member, neighboursOf(members, member.nodeId, rttMs(member))]));
      for (const [member, list] of edges) {
        assert.equal(list.length, Math.min(NEIGHBOURS, members.length - 1));
        assert.equal(new Set(list).size, list.length);
        assert.ok(!list.includes(member));
      }
      const reached = new Set<Member>([members[0]]);
      for (const member of reached) for (const next of edges.get(member) ?? []) reached.add(next);
      assert.equal(reached.size, members.length);
    }),
  );
});
