import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { equal } from "../base/bytes.ts";
import {
  adminBody,
  admitBody,
  checkpointBody,
  genesisBody,
  inviteBody,
  policyBody,
  readBody,
  revokeBody,
  routeBody,
  type StatementBody,
  unadminBody,
  updateBody,
} from "./bodies.ts";
import { type CborMap, decodeCanonicalCbor, encodeCbor } from "./cbor.ts";
import { fakeKeys, fakeSigner, foundWith } from "./histories.ts";
import {
  compareRoutePrefixes,
  containsPrefix,
  formatRoutePrefix,
  parseRoutePrefix,
  routePrefix,
  type RoutePrefix,
} from "./route-prefix.ts";
import { Roster } from "./roster.ts";
import { MAX_STATEMENT_BYTES, Refusal, signStatement } from "./statement.ts";
import type { Role } from "./types.ts";

const node = new Uint8Array(32).fill(5);
const prefix = parseRoutePrefix("10.20.0.0/16") as RoutePrefix;

function overTheWire(kind: string, body: CborMap): StatementBody | undefined {
  return readBody(kind, decodeCanonicalCbor(encodeCbor(body), 1024) as CborMap);
}

const SAMPLES: readonly (readonly [string, CborMap, Partial<StatementBody>])[] = [
  ["genesis", genesisBody("net", "n", { base: 0x0a000000, bits: 8 }, new Uint8Array(16)), { network: "net" }],
  [
    "admit",
    admitBody({ node, name: "n", ipv4: 0x0a000002, roles: ["beacon"], tags: ["t"], expiresAtMs: 5, invite: node }),
    { node, ipv4: 0x0a000002, roles: ["beacon"], tags: ["t"], expiresAtMs: 5 },
  ],
  [
    "invite",
    inviteBody({ key: node, uses: 3, expiresAtMs: 9, roles: [], tags: [], approve: true, lifeMs: 7 }),
    { uses: 3, approve: true, lifeMs: 7 },
  ],
  [
    "invite",
    inviteBody({ key: node, uses: 1, expiresAtMs: 9, roles: [], tags: [] }),
    { approve: false, lifeMs: undefined },
  ],
  ["revoke", revokeBody({ node, invite: undefined, reason: "r" }), { node, invite: undefined, reason: "r" }],
  ["admin", adminBody(node), { node }],
  ["unadmin", unadminBody(node, "why"), { node, reason: "why" }],
  [
    "update",
    updateBody({ node, name: "x", roles: ["exit", "admin"], tags: [], expiresAtMs: null }),
    { node, name: "x", roles: ["exit"], tags: [], expiresAtMs: null },
  ],
  ["update", updateBody({ node }), { name: undefined, roles: undefined, tags: undefined, expiresAtMs: undefined }],
  [
    "policy",
    policyBody({ version: 4, stale: "refuse", rules: { a: [1] } }),
    { version: 4, stale: "refuse", rules: { a: [1] } },
  ],
  ["route", routeBody(node, prefix, true), { node, prefix, approved: true }],
  ["checkpoint", checkpointBody(undefined), { of: undefined }],
  ["checkpoint", checkpointBody(node), { of: node }],
  ["merge", { anything: 1 }, { kind: "unknown" }],
];

test("every kind reads as it was written, and unknown fields change nothing", () => {
  for (const [kind, body, expected] of SAMPLES) {
    for (const extra of [{}, { later: [1, { deep: "x" }] }]) {
      const read = overTheWire(kind, { ...body, ...extra }) as Record<string, unknown> | undefined;
      assert.ok(read !== undefined, kind);
      assert.equal(read["kind"], kind === "merge" ? "unknown" : kind);
      for (const [field, value] of Object.entries(expected)) assert.deepEqual(read[field], value, `${kind}.${field}`);
    }
  }
});

test("a body with a field missing, of another type or out of range is none", () => {
  const wrong: readonly (readonly [string, CborMap])[] = [
    ["admin", {}],
    ["admin", { node: new Uint8Array(31) }],
    ["unadmin", { node }],
    ["unadmin", { node, reason: "x".repeat(201) }],
    ["update", {}],
    ["update", { node, name: "No" }],
    ["update", { node, roles: "admin" }],
    ["update", { node, tags: [1] }],
    ["update", { node, expires: "soon" }],
    ["update", { node, expires: -1 }],
    ["policy", { version: 0, stale: "allow", rules: {} }],
    ["policy", { version: 1, stale: "maybe", rules: {} }],
    ["policy", { version: 1, stale: "allow", rules: [] }],
    ["route", { node, prefix: [Uint8Array.of(10, 0, 0, 1), 24], approved: true }],
    ["route", { node, prefix: [Uint8Array.of(10, 0, 0, 0), 33], approved: true }],
    ["route", { node, prefix: [new Uint8Array(5), 0], approved: true }],
    ["route", { node, prefix: [new Uint8Array(4)], approved: true }],
    ["route", { node, prefix: [new Uint8Array(4), 0] }],
    ["checkpoint", { of: 7 }],
    ["checkpoint", { of: new Uint8Array(16) }],
    ["invite", { ...inviteBody({ key: node, uses: 1, expiresAtMs: 9, roles: [], tags: [] }), approve: 1 }],
    ["invite", { ...inviteBody({ key: node, uses: 1, expiresAtMs: 9, roles: [], tags: [] }), life: "long" }],
  ];
  for (const [kind, body] of wrong) assert.equal(overTheWire(kind, body), undefined, `${kind} ${JSON.stringify(body)}`);
});

test("hostile bodies never throw", () => {
  const value = fc.oneof(fc.integer(), fc.string(), fc.uint8Array({ maxLength: 40 }), fc.boolean(), fc.constant(null));
  const keys = ["node", "name", "roles", "tags", "expires", "version", "stale", "rules", "prefix", "approved", "of"];
  const kinds = ["admin", "unadmin", "update", "policy", "route", "checkpoint", "invite", "admit", "revoke", "genesis"];
  const any = fc.oneof(value, fc.array(value, { maxLength: 4 }), fc.dictionary(fc.string(), value, { maxKeys: 3 }));
  fc.assert(
    fc.property(fc.constantFrom(...kinds), fc.dictionary(fc.constantFrom(...keys), any), (kind, body) => {
      const read = readBody(kind, body);
      assert.ok(read === undefined || read.kind === kind);
    }),
    { numRuns: 3000 },
  );
});

test("the longest statement of every kind fits", () => {
  const signer = fakeSigner(new Uint8Array(32).fill(1));
  const parents = Array.from({ length: 8 }, (_, i) => new Uint8Array(32).fill(i));
  const tags = Array.from({ length: 16 }, () => "0123456789abcdef");
  const roles: Role[] = ["beacon", "router", "exit"];
  const hlc = Number.MAX_SAFE_INTEGER - 1;
  const long = "\u{1f9f5}".repeat(500);
  const wide = routePrefix(new Uint8Array(16).fill(255), 128) as RoutePrefix;
  const all: readonly (readonly [string, CborMap])[] = [
    ["update", updateBody({ node, name: "n".repeat(63), roles, tags, expiresAtMs: hlc })],
    ["unadmin", unadminBody(node, long)],
    ["route", routeBody(node, wide, false)],
    ["policy", policyBody({ version: 0xffffffff, stale: "refuse", rules: { x: "y".repeat(506) } })],
    ["checkpoint", checkpointBody(node)],
    ["invite", inviteBody({ key: node, uses: 10_000, expiresAtMs: hlc, roles, tags, approve: true, lifeMs: hlc })],
  ];
  for (const [kind, body] of all) {
    const wire = signStatement({ networkId: node, parents, hlc, kind, body }, signer);
    assert.ok(wire.length <= MAX_STATEMENT_BYTES, `${kind}: ${wire.length}`);
  }
});

test("a policy's version is one above the highest below it, and consent names a proposal below it", () => {
  const founder = fakeSigner(new Uint8Array(32).fill(1));
  const { roster } = foundWith(founder, fakeKeys);
  const say = (kind: string, body: CborMap, parents?: readonly Uint8Array[]): string => {
    const at = parents === undefined ? roster.parentsFor([], 0) : { parents, hlc: roster.maxHlc + 1 };
    const wire = signStatement({ networkId: roster.networkId, ...at, kind, body }, founder);
    const result = roster.add(wire, Number.POSITIVE_INFINITY);
    return result.status === "refused" ? result.reason : result.status;
  };
  const version = (number: number): CborMap => policyBody({ version: number, stale: "refuse", rules: {} });
  assert.equal(say("policy", version(2)), Refusal.POLICY_VERSION);
  assert.equal(say("policy", version(1)), "added");
  assert.equal(say("policy", version(1)), Refusal.POLICY_VERSION);
  assert.equal(say("policy", version(2)), "added");
  assert.equal(say("policy", version(1), [roster.networkId]), "added", "beside the others it is the first");
  assert.equal(roster.state.policy.version, 2);
  assert.equal(say("checkpoint", checkpointBody(node)), Refusal.UNKNOWN_CHECKPOINT);
  assert.equal(say("checkpoint", checkpointBody(roster.networkId)), Refusal.UNKNOWN_CHECKPOINT);
  assert.equal(say("checkpoint", checkpointBody(undefined)), "added");
  assert.equal(roster.state.finals.length, 1, "the founder alone is all the admins there are");
  const proposal = roster.state.finals[0].statement.hash;
  assert.equal(say("checkpoint", checkpointBody(proposal), [roster.networkId]), Refusal.UNKNOWN_CHECKPOINT);
  assert.equal(say("checkpoint", checkpointBody(proposal)), "added");
  const again = new Roster({ keys: fakeKeys, networkId: roster.networkId });
  for (const statement of roster.statements()) again.addOpened(statement, Number.POSITIVE_INFINITY);
  assert.equal(again.size, roster.size);
});

test("prefixes have one text, no host bits, and contain what they should", () => {
  for (const text of ["0.0.0.0/0", "10.20.0.0/16", "192.0.2.7/32", "::/0", "fd12:3400::/24", "2001:db8::1/128"])
    assert.equal(formatRoutePrefix(parseRoutePrefix(text) as RoutePrefix), text);
  for (const text of [
    "10.0.0.1/24",
    "10.0.0.0/33",
    "10.0.0.0",
    "::1/64",
    "::/129",
    "::ffff:10.0.0.0/104",
    "x/8",
    "/8",
    "",
  ])
    assert.equal(parseRoutePrefix(text), undefined, text);
  const family = fc.constantFrom(4, 16);
  const address = family.chain((length) => fc.uint8Array({ minLength: length, maxLength: length }));
  fc.assert(
    fc.property(address, address, fc.nat(128), fc.nat(128), (a, b, bitsA, bitsB) => {
      const outer = routePrefix(masked(a, bitsA), Math.min(bitsA, a.length * 8)) as RoutePrefix;
      const inner = routePrefix(masked(b, bitsB), Math.min(bitsB, b.length * 8)) as RoutePrefix;
      assert.deepEqual(parseRoutePrefix(formatRoutePrefix(outer)) ?? outer, outer);
      const expected =
        outer.family === inner.family &&
        outer.bits <= inner.bits &&
        equal(masked(inner.address, outer.bits), outer.address);
      assert.equal(containsPrefix(outer, inner), expected);
      assert.ok(containsPrefix(outer, outer));
      assert.equal(Math.sign(compareRoutePrefixes(outer, inner)) + Math.sign(compareRoutePrefixes(inner, outer)), 0);
    }),
  );
});

function masked(address: Uint8Array, bits: number): Uint8Array {
  return address.map((byte, i) => byte & (0xff << Math.min(8, Math.max(0, 8 * (i + 1) - bits))) & 0xff);
}
