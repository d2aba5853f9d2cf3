/**
 * The state of a roster as a pure function of its statements: the same members, names, addresses, routes and rules in every order of
 * arrival.
 *
 * Stages, each over the whole set in (hlc, hash) order:
 *  1. checkpoints that are final, and with them the rank of every statement (finality.ts); lower ranks come first in all that follows;
 *  2. removals of members, rights and invites, and what is void because of them (removals.ts);
 *  3. invites: admissions above the uses (distinct nodes, in order) are void;
 *  4. admissions: a node is a member while one admission
 *     descends from every removal of it, and the latest such admission counts;
 *  5. what was said about members since their admission: updates (the latest per field), admin rights (held while one grant descends from
 *     every removal of the right), routes (the latest per node and prefix); the policy with the highest version;
 *  6. clashes (clashes.ts).
 *
 * That a statement's issuer had authority is judged on its ancestors when it enters the roster (roster.ts), not here.
 * Source: docs/protocol.md, "Roster".
 */
import { toHex } from "../base/bytes.ts";
import { formatAddress } from "../base/endpoint.ts";
import { networkPrefix } from "../crypto/node-id.ts";
import { firstHost, formatIpv4, ipv4Bytes } from "./addresses.ts";
import { type Claim, type Derived, settleIpv4, settleKeys, settleNames } from "./clashes.ts";
import { type Admins, append, type CheckpointView, type Entry, isAncestor, seniorityOf } from "./dag.ts";
import { type Finality, type Proposal, resolveFinality } from "./finality.ts";
import { type Removals, resolveRemovals } from "./removals.ts";
import {
  compareRoutePrefixes,
  containsPrefix,
  formatRoutePrefix,
  routePrefix,
  type RoutePrefix,
} from "./route-prefix.ts";
import { compareStatements, wallFromHlc } from "./statement.ts";
import type { AdmitBody, GenesisBody, InviteBody, RouteBody, Statement, UpdateBody } from "./statement.ts";
import type { ApprovedRoute, Member, NetworkPolicy } from "./types.ts";

export interface ResolveContext {
  readonly networkId: Uint8Array;
  readonly maxMembers: number;
  /** Static key and overlay address of a node id; the roster remembers them. */
  derive(nodeId: Uint8Array): Derived;
  /** State of the ancestors of a proposal to make a checkpoint. */
  viewOf(proposal: Entry): CheckpointView;
}

/** What became of one invite. */
export interface InviteUse {
  readonly entry: Entry;
  readonly body: InviteBody;
  /** Distinct nodes admitted under it. */
  readonly used: number;
  /** Clock of the admission that used it up; undefined while uses are left. */
  readonly usedUpHlc: number | undefined;
  /** Clock of the earliest removal that ended it. */
  readonly revokedHlc: number | undefined;
}

export interface Resolution {
  readonly genesis: GenesisBody;
  /** In order of admission. */
  readonly members: readonly Member[];
  readonly byNode: ReadonlyMap<string, Member>;
  readonly admins: Admins;
  readonly invites: readonly InviteUse[];
  /** Effective removals by removed node, in order; a node in here may be a member again. */
  readonly removals: ReadonlyMap<string, readonly Entry[]>;
  /** Of members, by prefix, then node id. */
  readonly routes: readonly ApprovedRoute[];
  readonly policy: NetworkPolicy;
  readonly proposals: readonly Proposal[];
  /** Final checkpoints in order. */
  readonly finals: readonly Entry[];
  /** Statements with effect on who is an admin that no final checkpoint has below it, in (hlc, hash) order. */
  readonly unsettled: readonly Entry[];
  /** Statements of any kind that no final checkpoint has below it. */
  readonly aboveFinals: number;
  /** Whose signatures a checkpoint on top of this state is counted by, node ids in hex. */
  readonly electorate: ReadonlySet<string>;
  /** Hash in hex → why it has no effect. */
  readonly voids: ReadonlyMap<string, string>;
}

export const NO_POLICY: NetworkPolicy = { version: 0, stale: "allow", rules: {} };

/** @param entries a set closed under parents, in (hlc, hash) order; the first is the genesis */
export function resolve(entries: readonly Entry[], context: ResolveContext): Resolution {
  const first = entries[0];
  const genesis = first.statement.body as GenesisBody;
  const voids = new Map<string, string>();
  const admissions = admissionsByNode(entries);
  const seniority = seniorityOf(admissions);
  const finality = resolveFinality(entries, seniority, (proposal) => context.viewOf(proposal));
  const removals = resolveRemovals(entries, admissions, seniority, finality, voids);
  const invites = resolveInvites(entries, removals, finality, voids);
  const chosen = chooseAdmissions(admissions, removals, finality, voids);
  const said = statementsAbout(entries, voids);
  const members = settle(chosen, said, removals, finality, genesis, context, voids);
  const byNode = new Map<string, Member>();
  const admins = new Map<string, number>();
  for (const member of members) {
    const hex = toHex(member.nodeId);
    byNode.set(hex, member);
    if (member.roles.includes("admin")) admins.set(hex, member.expiresAtMs ?? Number.POSITIVE_INFINITY);
  }
  const last = finality.finals.at(-1);
  return {
    genesis,
    members,
    byNode,
    admins,
    invites,
    removals: removals.memberships,
    routes: approvedRoutes(said.routes, chosen, byNode, genesis, context.networkId),
    policy: policyOf(entries, voids),
    proposals: finality.proposals,
    finals: finality.finals,
    unsettled: unsettledOf(entries, finality, voids),
    aboveFinals: entries.reduce((count, entry) => count + (finality.rank(entry) === finality.finals.length ? 1 : 0), 0),
    electorate: new Set(last === undefined ? [first.statement.issuerHex] : context.viewOf(last).admins.keys()),
    voids,
  };
}

/** The genesis admits the founder. Lists are in order. */
function admissionsByNode(entries: readonly Entry[]): Map<string, Entry[]> {
  const out = new Map<string, Entry[]>();
  for (const entry of entries) {
    const body = entry.statement.body;
    const node =
      body.kind === "admit" ? toHex(body.node) : body.kind === "genesis" ? entry.statement.issuerHex : undefined;
    if (node !== undefined) append(out, node, entry);
  }
  return out;
}

function unsettledOf(entries: readonly Entry[], finality: Finality, voids: ReadonlyMap<string, string>): Entry[] {
  const everAdmins = new Set<string>([entries[0].statement.issuerHex]);
  return entries.filter((entry) => {
    const { body, hashHex } = entry.statement;
    const isGrant = body.kind === "admin" || (body.kind === "admit" && body.roles.includes("admin"));
    if (isGrant) everAdmins.add(toHex(body.node));
    const isLoss = body.kind === "unadmin" || (body.kind === "revoke" && body.node !== undefined);
    if (!isGrant && !(isLoss && everAdmins.has(toHex(body.node as Uint8Array)))) return false;
    return finality.rank(entry) === finality.finals.length && !voids.has(hashHex);
  });
}

/** Order in which claims count: what is below an earlier checkpoint first, then (hlc, hash). */
function inRank(finality: Finality): (a: Entry, b: Entry) => number {
  return (a, b) => finality.rank(a) - finality.rank(b) || compareStatements(a.statement, b.statement);
}

/** What became of each invite; voids admissions under one with no uses left. Those under an ended one are void already (removals.ts). */
function resolveInvites(
  entries: readonly Entry[],
  removals: Removals,
  finality: Finality,
  voids: Map<string, string>,
): InviteUse[] {
  const ends = new Map<string, Entry[]>();
  const admits = new Map<string, Entry[]>();
  for (const entry of entries) {
    const body = entry.statement.body;
    if (voids.has(entry.statement.hashHex)) continue;
    if (body.kind === "revoke" && body.invite !== undefined) append(ends, toHex(body.invite), entry);
    if (body.kind === "admit" && body.invite !== undefined) append(admits, toHex(body.invite), entry);
  }
  const out: InviteUse[] = [];
  for (const entry of entries) {
    const { body, hashHex, issuerHex } = entry.statement;
    if (body.kind !== "invite") continue;
    const ofIssuer = [...(removals.memberships.get(issuerHex) ?? []), ...(removals.roles.get(issuerHex) ?? [])];
    const endedBy = [...(ends.get(hashHex) ?? []), ...ofIssuer.filter((removal) => !isAncestor(removal, entry))];
    const isVoid = voids.has(hashHex);
    const nodes = new Set<string>();
    let usedUpHlc: number | undefined;
    for (const admit of (admits.get(hashHex) ?? []).toSorted(inRank(finality))) {
      const node = toHex((admit.statement.body as AdmitBody).node);
      if (!nodes.has(node) && nodes.size >= body.uses) {
        voids.set(admit.statement.hashHex, "its invite was used up");
      } else {
        nodes.add(node);
        if (nodes.size === body.uses) usedUpHlc ??= admit.statement.hlc;
      }
    }
    let revokedHlc = isVoid ? entry.statement.hlc : undefined;
    for (const end of endedBy) revokedHlc = Math.min(revokedHlc ?? end.statement.hlc, end.statement.hlc);
    out.push({ entry, body, used: nodes.size, usedUpHlc, revokedHlc });
  }
  return out;
}

/** At most one admission a node, in the order in which they count. */
function chooseAdmissions(
  admissions: ReadonlyMap<string, readonly Entry[]>,
  removals: Removals,
  finality: Finality,
  voids: Map<string, string>,
): Entry[] {
  const chosen: Entry[] = [];
  for (const [node, candidates] of admissions) {
    const against = removals.memberships.get(node) ?? [];
    let latest: Entry | undefined;
    for (const admit of candidates) {
      if (voids.has(admit.statement.hashHex)) continue;
      if (against.every((removal) => isAncestor(removal, admit))) latest = admit;
    }
    if (latest !== undefined) chosen.push(latest);
  }
  return chosen.toSorted(inRank(finality));
}

/** What is not void, by node id in hex of whom it is about, in (hlc, hash) order. */
interface Said {
  readonly updates: ReadonlyMap<string, readonly Entry[]>;
  readonly grants: ReadonlyMap<string, readonly Entry[]>;
  readonly routes: readonly Entry[];
}

function statementsAbout(entries: readonly Entry[], voids: ReadonlyMap<string, string>): Said {
  const updates = new Map<string, Entry[]>();
  const grants = new Map<string, Entry[]>();
  const routes: Entry[] = [];
  for (const entry of entries) {
    const { body, hashHex } = entry.statement;
    if (body.kind !== "update" && body.kind !== "admin" && body.kind !== "route") continue;
    if (voids.has(hashHex)) continue;
    if (body.kind === "route") routes.push(entry);
    else append(body.kind === "update" ? updates : grants, toHex(body.node), entry);
  }
  return { updates, grants, routes };
}

function settle(
  chosen: readonly Entry[],
  said: Said,
  removals: Removals,
  finality: Finality,
  genesis: GenesisBody,
  context: ResolveContext,
  voids: Map<string, string>,
): Member[] {
  const named = new Map<Claim, Entry>();
  const all = chosen.map((admission) => {
    const [claim, namedBy] = claimOf(admission, said, removals, context);
    named.set(claim, namedBy);
    return claim;
  });
  const order = [...named.values()].toSorted(inRank(finality));
  const place = new Map(order.map((entry, i) => [entry, i]));
  const claims = settleKeys(
    all.map((claim) => ({ ...claim, nameOrder: place.get(named.get(claim) as Entry) as number })),
    context.maxMembers,
    voids,
  );
  const names = settleNames(claims);
  const addresses = settleIpv4(claims, genesis.prefix);
  const members: Member[] = [];
  claims.forEach((claim, i) => {
    const ipv4 = addresses[i];
    if (ipv4 === undefined) {
      voids.set(claim.statement.hashHex, "no IPv4 address is left");
      return;
    }
    const roles = claim.isAdmin ? (["admin", ...claim.roles] as const) : claim.roles;
    members.push({
      nodeId: claim.node,
      staticKey: claim.derived.staticKey,
      name: names[i],
      requestedName: claim.wantedName,
      ipv4: formatIpv4(ipv4),
      ipv6: formatAddress(claim.derived.ipv6),
      roles: roles.length === 0 ? ["member"] : roles,
      tags: claim.tags,
      expiresAtMs: claim.expiresAtMs,
      admittedAtMs: wallFromHlc(claim.statement.hlc),
      admission: claim.statement.hash,
    });
  });
  return members;
}

/** @returns the claim, and the statement that gave it its name */
function claimOf(admission: Entry, said: Said, removals: Removals, context: ResolveContext): [Claim, Entry] {
  const { statement } = admission;
  const admitted = admittedBy(statement);
  const hex = toHex(admitted.node);
  let { wantedName, roles, tags, expiresAtMs } = admitted;
  let namedBy = admission;
  for (const entry of said.updates.get(hex) ?? []) {
    if (!isAncestor(admission, entry)) continue;
    const update = entry.statement.body as UpdateBody;
    if (update.name !== undefined && update.name !== wantedName) namedBy = entry;
    wantedName = update.name ?? wantedName;
    roles = update.roles ?? roles;
    tags = update.tags ?? tags;
    if (update.expiresAtMs !== undefined) expiresAtMs = update.expiresAtMs ?? undefined;
  }
  const grants = (said.grants.get(hex) ?? []).filter((grant) => isAncestor(admission, grant));
  if (admitted.isAdmin) grants.push(admission);
  const losses = removals.roles.get(hex) ?? [];
  const isAdmin = grants.some((grant) => losses.every((loss) => isAncestor(loss, grant)));
  const derived = context.derive(admitted.node);
  return [{ ...admitted, statement, derived, wantedName, nameOrder: 0, roles, isAdmin, tags, expiresAtMs }, namedBy];
}

type Admitted = Pick<Claim, "node" | "wantedName" | "wantedIpv4" | "roles" | "isAdmin" | "tags" | "expiresAtMs">;

function admittedBy(statement: Statement): Admitted {
  const body = statement.body as GenesisBody | AdmitBody;
  if (body.kind === "genesis") {
    return {
      node: statement.issuer,
      wantedName: body.name,
      wantedIpv4: firstHost(body.prefix),
      roles: [],
      isAdmin: true,
      tags: [],
      expiresAtMs: undefined,
    };
  }
  return {
    node: body.node,
    wantedName: body.name,
    wantedIpv4: body.ipv4,
    roles: body.roles.filter((role) => role !== "admin"),
    isAdmin: body.roles.includes("admin"),
    tags: body.tags,
    expiresAtMs: body.expiresAtMs,
  };
}

/** Prefixes inside the overlay's own are never routed to a member: those addresses have owners. */
function approvedRoutes(
  routes: readonly Entry[],
  chosen: readonly Entry[],
  byNode: ReadonlyMap<string, Member>,
  genesis: GenesisBody,
  networkId: Uint8Array,
): ApprovedRoute[] {
  if (routes.length === 0) return [];
  const admissions = new Map(chosen.map((entry) => [entry.statement.hashHex, entry]));
  const latest = new Map<string, Entry>();
  for (const entry of routes) {
    const { node, prefix } = entry.statement.body as RouteBody;
    const member = byNode.get(toHex(node));
    const admission = member === undefined ? undefined : admissions.get(toHex(member.admission));
    // said about an earlier membership, or about none
    if (admission === undefined || !isAncestor(admission, entry)) continue;
    latest.set(`${toHex(node)} ${formatRoutePrefix(prefix)}`, entry);
  }
  const overlays = overlayPrefixes(genesis, networkId);
  const out: { readonly route: ApprovedRoute; readonly prefix: RoutePrefix }[] = [];
  for (const { statement } of latest.values()) {
    const { node, prefix, approved } = statement.body as RouteBody;
    if (!approved || overlays.some((overlay) => containsPrefix(overlay, prefix))) continue;
    const { family, address, bits } = prefix;
    const text = formatRoutePrefix(prefix);
    const approvedAtMs = wallFromHlc(statement.hlc);
    const route = { nodeId: node, prefix: text, family, address, bits, approvedAtMs, approvedBy: statement.issuer };
    out.push({ route, prefix });
  }
  return out
    .toSorted(
      (a, b) => compareRoutePrefixes(a.prefix, b.prefix) || (toHex(a.route.nodeId) < toHex(b.route.nodeId) ? -1 : 1),
    )
    .map(({ route }) => route);
}

/** The network's IPv4 prefix and its IPv6 /48. */
export function overlayPrefixes(genesis: GenesisBody, networkId: Uint8Array): RoutePrefix[] {
  return [
    routePrefix(ipv4Bytes(genesis.prefix.base), genesis.prefix.bits) as RoutePrefix,
    routePrefix(networkPrefix(networkId), 48) as RoutePrefix,
  ];
}

function policyOf(entries: readonly Entry[], voids: ReadonlyMap<string, string>): NetworkPolicy {
  let policy = NO_POLICY;
  for (const { statement } of entries) {
    const { body, hashHex } = statement;
    if (body.kind !== "policy" || voids.has(hashHex) || body.version < policy.version) continue;
    policy = { version: body.version, stale: body.stale, rules: body.rules };
  }
  return policy;
}
