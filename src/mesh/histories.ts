/**
 * For tests: random histories of a roster from a seed. Several people with copies of their own, exchanged now and then; concurrent
 * admissions, invites with few uses, removals of admins by each other, loss and return of admin rights, leaving, changes of members,
 * routes, policies, checkpoints with and without a quorum, statements on old parents, unknown kinds, clashes. Signatures are hashes, so
 * that thousands of histories stay quick.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { equal, toHex } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import type { CborMap } from "./cbor.ts";
import type { MeshKeys, Signer } from "./keys.ts";
import { parseRoutePrefix, type RoutePrefix } from "./route-prefix.ts";
import { Roster } from "./roster.ts";
import {
  adminBody,
  admitBody,
  checkpointBody,
  compareStatements,
  genesisBody,
  hlcFromWall,
  inviteBody,
  openStatement,
  policyBody,
  revokeBody,
  routeBody,
  signStatement,
  type Statement,
  statementHash,
  unadminBody,
  updateBody,
} from "./statement.ts";
import type { Role } from "./types.ts";

export const WALL_MS = 1_800_000_000_000;
export const PREFIX = { base: 0x0a000000, bits: 24 } as const;
const MAX_PARENTS = 8;

function mac(nodeId: Uint8Array, kind: string, networkId: Uint8Array, body: Uint8Array): Uint8Array {
  return createHash("sha512").update(nodeId).update(kind).update(networkId).update(body).digest();
}

/** Signatures by hashing. Two ids that differ in the first bit only have one static key. */
export const fakeKeys: MeshKeys = {
  verify: (nodeId, kind, networkId, body, signature) => equal(mac(nodeId, kind, networkId, body), signature),
  staticKeyOf: (nodeId) => Uint8Array.from(nodeId, (byte, i) => (i === 0 ? byte & 0x7f : byte)),
  signerFromSeed: (seed) => fakeSigner(seed),
  formatNodeId: toHex,
};

export function fakeSigner(nodeId: Uint8Array): Signer {
  return { nodeId, sign: (kind, networkId, body) => mac(nodeId, kind, networkId, body) };
}

export function foundWith(signer: Signer, keys: MeshKeys, name = "founder"): { roster: Roster; genesis: Uint8Array } {
  const body = genesisBody("net", name, PREFIX, new Uint8Array(16));
  const genesis = signStatement(
    { networkId: undefined, parents: [], hlc: hlcFromWall(WALL_MS), kind: "genesis", body },
    signer,
  );
  const roster = new Roster({ keys, networkId: statementHash(genesis) });
  assert.equal(roster.add(genesis, WALL_MS).status, "added");
  return { roster, genesis };
}

export function admit(node: Uint8Array, name: string, ipv4: number, roles: Role[], invite?: Uint8Array): CborMap {
  return admitBody({ node, name, ipv4, roles, tags: [], expiresAtMs: undefined, invite });
}

export interface History {
  readonly networkId: Uint8Array;
  readonly statements: Statement[];
  readonly refused: { readonly statement: Statement; readonly ancestors: Statement[] }[];
  /** Signers by node id in hex. */
  readonly signers: ReadonlyMap<string, Signer>;
}

export class HistoryMaker {
  readonly random: SeededRandom;
  readonly signers: readonly Signer[];
  readonly networkId: Uint8Array;
  readonly replicas: Roster[];
  readonly everything: Map<string, Statement> = new Map();
  readonly refused: History["refused"] = [];
  #step = 0;

  /** @param nodes how many different nodes take part @param clashing pairs of them have one static key */
  constructor(seed: number, nodes = 7, clashing = true) {
    this.random = new SeededRandom(seed);
    this.signers = Array.from({ length: nodes }, (_, i) => {
      const id = createHash("sha256")
        .update(`${seed}/${clashing ? i >> 1 : i}`)
        .digest();
      id[0] = clashing ? (id[0] & 0x7f) | ((i & 1) << 7) : id[0] & 0x7f;
      return fakeSigner(new Uint8Array(id));
    });
    const { roster, genesis } = foundWith(this.signers[0], fakeKeys);
    this.networkId = roster.networkId;
    this.replicas = [roster];
    for (let i = 0; i < 2; i++) {
      const copy = new Roster({ keys: fakeKeys, networkId: this.networkId });
      copy.add(genesis, Number.POSITIVE_INFINITY);
      this.replicas.push(copy);
    }
    for (const statement of roster.statements()) this.everything.set(statement.hashHex, statement);
  }

  pick<T>(list: readonly T[]): T {
    return list[this.random.u32() % list.length];
  }

  /** @param parents undefined: the heads of that copy @returns the statement, whether it was taken or not */
  say(roster: Roster, signer: Signer, kind: string, body: CborMap, parents?: readonly Statement[]): Statement {
    this.#step++;
    const at =
      parents === undefined
        ? roster.parentsFor([], WALL_MS + this.#step)
        : {
            parents: parents.map((one) => one.hash),
            hlc: Math.max(...parents.map((one) => one.hlc)) + 1 + (this.random.u32() % 5),
          };
    const wire = signStatement({ networkId: this.networkId, ...at, kind, body }, signer);
    const statement = openStatement(wire, this.networkId, fakeKeys);
    if (typeof statement === "string") throw new Error(`${kind}: ${statement}`);
    const result = roster.addOpened(statement, Number.POSITIVE_INFINITY);
    if (result.status === "added") this.everything.set(statement.hashHex, statement);
    else if (result.status === "refused")
      this.refused.push({ statement, ancestors: ancestry(statement, this.everything) });
    return statement;
  }

  /** One copy takes most of what another has. */
  exchange(share = 0.9): void {
    const to = this.pick(this.replicas);
    for (const statement of this.pick(this.replicas).statements())
      if (this.random.unit() < share) to.addOpened(statement, Number.POSITIVE_INFINITY);
  }

  /** Somebody says something, perhaps without the right to, perhaps on old parents. */
  act(roster: Roster): void {
    const { random } = this;
    const oldParents = random.unit() < 0.25;
    const known = [...roster.statements()];
    const admins = this.signers.filter((one) => roster.state.admins.has(toHex(one.nodeId)));
    const signer = random.unit() < 0.8 && admins.length > 0 ? this.pick(admins) : this.pick(this.signers);
    const [kind, body] = this.#something(roster, known, signer);
    const count = 1 + (random.u32() % 2);
    const parents = oldParents ? [...new Set(Array.from({ length: count }, () => this.pick(known)))] : undefined;
    this.say(roster, signer, kind, body, parents?.slice(0, MAX_PARENTS));
  }

  #something(roster: Roster, known: readonly Statement[], signer: Signer): [string, CborMap] {
    const { random } = this;
    const node = this.pick(this.signers).nodeId;
    const { members } = roster.state;
    const member = members.length > 0 && random.unit() < 0.85 ? this.pick(members).nodeId : node;
    const admin = Uint8Array.fromHex(this.pick([...roster.state.admins.keys(), toHex(node)]));
    const invites = known.filter((statement) => statement.body.kind === "invite");
    const proposals = known.filter(({ body }) => body.kind === "checkpoint" && body.of === undefined);
    const roles: Role[] = random.unit() < 0.6 ? ["admin"] : this.pick([[], ["beacon"], ["router", "exit"]]);
    const invite = invites.length > 0 && random.unit() < 0.7 ? this.pick(invites).hash : undefined;
    const name = this.pick(["a", "b", "a-2"]);
    const expiresAtMs = this.pick([undefined, null, WALL_MS + 50_000_000]);
    const policies = known.filter((statement) => statement.body.kind === "policy").length;
    const prefix = parseRoutePrefix(this.pick(["10.9.0.0/16", "10.0.0.0/26", "fd77::/64", "0.0.0.0/0"])) as RoutePrefix;
    if (random.unit() < 0.08)
      return ["revoke", revokeBody({ node: signer.nodeId, invite: undefined, reason: "leaving" })];
    return this.pick<() => [string, CborMap]>([
      () => ["admit", admit(node, name, 0x0a000000 + (random.u32() % 5), roles, invite)],
      () => ["admit", admit(node, "a", 0x0a000003, ["admin"])],
      () => ["admit", admit(node, "b", 0x0a000004, ["admin"])],
      () => ["admit", admit(node, name, 0x0a000002, roles, invite)],
      () => [
        "invite",
        inviteBody({ key: node, uses: 1 + (random.u32() % 2), expiresAtMs: WALL_MS + 1e9, roles, tags: [] }),
      ],
      () => ["revoke", revokeBody({ node: admin, invite: undefined, reason: "r" })],
      () => ["revoke", revokeBody({ node: undefined, invite: invite ?? this.networkId, reason: "r" })],
      () => ["admin", adminBody(member)],
      () => ["unadmin", unadminBody(admin, "r")],
      () => [
        "update",
        updateBody({ node: member, name: random.unit() < 0.5 ? name : undefined, roles, tags: [name], expiresAtMs }),
      ],
      () => ["route", routeBody(member, prefix, random.unit() < 0.7)],
      () => ["route", routeBody(member, prefix, random.unit() < 0.7)],
      () => ["policy", policyBody({ version: 1 + (random.u32() % (policies + 1)), stale: "refuse", rules: { name } })],
      () => ["checkpoint", checkpointBody(undefined)],
      () => ["checkpoint", checkpointBody(proposals.length > 0 ? this.pick(proposals).hash : undefined)],
      () => ["checkpoint", checkpointBody(proposals.at(-1)?.hash)],
      () => ["weather", { sunny: true }],
    ])();
  }

  history(): History {
    const signers = new Map(this.signers.map((signer) => [toHex(signer.nodeId), signer]));
    return { networkId: this.networkId, statements: [...this.everything.values()], refused: this.refused, signers };
  }
}

export function randomHistory(seed: number): History {
  const maker = new HistoryMaker(seed);
  const steps = 8 + (maker.random.u32() % 20);
  for (let step = 0; step < steps; step++) {
    if (maker.random.unit() < 0.3) maker.exchange();
    else maker.act(maker.pick(maker.replicas));
  }
  return maker.history();
}

/** @param all by hash in hex @returns in (hlc, hash) order */
export function ancestry(statement: Statement, all: ReadonlyMap<string, Statement>): Statement[] {
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

/** @param statements in any order; all must enter */
export function rosterOf(networkId: Uint8Array, statements: readonly Statement[]): Roster {
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

function byKey(a: readonly [string, unknown], b: readonly [string, unknown]): number {
  return a[0] < b[0] ? -1 : Number(a[0] > b[0]);
}

/** What people see of a state. */
export function visible(roster: Roster): string {
  const { members, admins, routes, policy } = roster.state;
  return JSON.stringify([
    members.map((m) => [
      toHex(m.nodeId),
      m.name,
      m.requestedName,
      m.ipv4,
      m.ipv6,
      m.roles,
      m.tags,
      m.expiresAtMs,
      m.admittedAtMs,
      toHex(m.admission),
    ]),
    [...admins].toSorted(byKey),
    routes.map((route) => [route.prefix, toHex(route.nodeId), route.approvedAtMs, toHex(route.approvedBy)]),
    [policy.version, policy.stale, policy.rules],
  ]);
}

/** Everything in a state. */
export function snapshot(roster: Roster): string {
  const { invites, removals, voids, finals, proposals, electorate, unsettled, aboveFinals } = roster.state;
  return JSON.stringify([
    visible(roster),
    invites.map((use) => [use.entry.statement.hashHex, use.used, use.usedUpHlc, use.revokedHlc]),
    [...removals].map(([node, by]) => [node, by.map((entry) => entry.statement.hashHex)] as const).toSorted(byKey),
    [...voids].toSorted(byKey),
    finals.map((entry) => entry.statement.hashHex),
    proposals.map((one) => [one.entry.statement.hashHex, [...one.signers].toSorted(), one.isFinal]),
    [...electorate].toSorted(),
    unsettled.map((entry) => entry.statement.hashHex),
    aboveFinals,
    roster.fingerprint(0, Number.MAX_SAFE_INTEGER),
  ]);
}

export function shuffled<T>(list: readonly T[], random: SeededRandom): T[] {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) {
    const j = random.u32() % (i + 1);
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}
