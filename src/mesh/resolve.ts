/**
 * The state of a roster as a pure function of its statements: the same members, names and addresses in every order of arrival.
 *
 * Stages, each over the whole set in (hlc, hash) order:
 *  1. removals, in the order of their issuers' admission (DAG depth, then hash): a removal whose issuer was already removed by one that
 *     is concurrent to it is void; every statement of a removed node that is concurrent to the removal is void;
 *  2. invites: ended by a removal of the invite or of its issuer, for all admissions that are not ancestors of that removal;
 *  3. admissions: void without a live invite or above its uses (distinct nodes, in order); a node is a member while one admission
 *     descends from every removal of it, and the latest such admission counts;
 *  4. clashes, in order of admission: key and IPv6 address (the later one is no member), name (suffix), IPv4 (next free address).
 *
 * That a statement's issuer had authority is judged on its ancestors when it enters the roster (roster.ts), not here.
 * Source: docs/protocol.md, "Roster".
 */
import { compare, toHex } from "../base/bytes.ts";
import { formatAddress } from "../base/endpoint.ts";
import { type Ipv4Prefix, firstHost, formatIpv4, lastHost, nextFreeIpv4 } from "./addresses.ts";
import type { AdmitBody, GenesisBody, InviteBody, RevokeBody, Statement } from "./statement.ts";
import { wallFromHlc } from "./statement.ts";
import type { Member, Role } from "./types.ts";

/** A statement in its place in the DAG. */
export interface Entry {
  readonly statement: Statement;
  /** Place of arrival; above that of every parent. Says nothing else and decides nothing. */
  readonly index: number;
  readonly parents: readonly Entry[];
  /** Longest way to the genesis. */
  readonly depth: number;
  /** True when this or an ancestor may have changed who is an admin, compared with the genesis. */
  touchesAdmins: boolean;
  /** Set of the indices of all ancestors, one bit each; made on demand. */
  ancestors: Uint32Array | undefined;
  /** Admins after this statement, by node id; made on demand. */
  adminsAfter: Admins | undefined;
}

/** Node id in hex → wall-clock end of its membership (Infinity: none). */
export type Admins = ReadonlyMap<string, number>;

export interface ResolveContext {
  readonly networkId: Uint8Array;
  readonly maxMembers: number;
  /** Static key and overlay address of a node id; the roster remembers them. */
  derive(nodeId: Uint8Array): Derived;
}

export interface Derived {
  readonly staticKey: Uint8Array;
  readonly ipv6: Uint8Array;
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
  /** Hash in hex → why it has no effect. */
  readonly voids: ReadonlyMap<string, string>;
}

export function isAncestor(a: Entry, of: Entry): boolean {
  if (a.index >= of.index) return false;
  const bits = ancestorsOf(of);
  return ((bits[a.index >>> 5] >>> (a.index & 31)) & 1) === 1;
}

function ancestorsOf(entry: Entry): Uint32Array {
  if (entry.ancestors !== undefined) return entry.ancestors;
  const bits = new Uint32Array((entry.index >>> 5) + 1);
  const open: Entry[] = [entry];
  for (let current = open.pop(); current !== undefined; current = open.pop()) {
    for (const parent of current.parents) {
      const word = parent.index >>> 5;
      const bit = 1 << (parent.index & 31);
      if ((bits[word] & bit) !== 0) continue;
      bits[word] = bits[word] | bit;
      open.push(parent);
    }
  }
  entry.ancestors = bits;
  return bits;
}

function concurrent(a: Entry, b: Entry): boolean {
  return a !== b && !isAncestor(a, b) && !isAncestor(b, a);
}

/** @param entries a set closed under parents, in (hlc, hash) order; the first is the genesis */
export function resolve(entries: readonly Entry[], context: ResolveContext): Resolution {
  const first = entries[0];
  const genesis = first.statement.body as GenesisBody;
  const voids = new Map<string, string>();
  const admissions = admissionsByNode(entries);
  const removals = resolveRemovals(entries, admissions, voids);
  for (const entry of entries) {
    if (entry.statement.body.kind === "revoke") continue;
    const by = removals.get(entry.statement.issuerHex);
    if (by?.some((removal) => concurrent(removal, entry)) === true)
      voids.set(entry.statement.hashHex, "its issuer was removed");
  }
  const invites = resolveInvites(entries, removals, voids);
  const chosen = chooseAdmissions(admissions, removals, voids);
  const members = settleClashes(chosen, genesis, context, voids);
  const byNode = new Map<string, Member>();
  const admins = new Map<string, number>();
  for (const member of members) {
    const hex = toHex(member.nodeId);
    byNode.set(hex, member);
    if (member.roles.includes("admin")) admins.set(hex, member.expiresAtMs ?? Number.POSITIVE_INFINITY);
  }
  return { genesis, members, byNode, admins, invites, removals, voids };
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

function resolveRemovals(
  entries: readonly Entry[],
  admissions: ReadonlyMap<string, readonly Entry[]>,
  voids: Map<string, string>,
): Map<string, Entry[]> {
  const revokes = entries.filter((entry) => entry.statement.body.kind === "revoke");
  const seniority = new Map<string, Entry>();
  for (const revoke of revokes) {
    const issuer = revoke.statement.issuerHex;
    if (seniority.has(issuer)) continue;
    const senior = (admissions.get(issuer) ?? [revoke]).toSorted(compareSeniority)[0];
    seniority.set(issuer, senior);
  }
  // entries are in (hlc, hash) order and the sort is stable, so revokes of one issuer stay in that order
  revokes.sort((a, b) =>
    compareSeniority(seniority.get(a.statement.issuerHex) as Entry, seniority.get(b.statement.issuerHex) as Entry),
  );
  const removals = new Map<string, Entry[]>();
  for (const revoke of revokes) {
    const against = removals.get(revoke.statement.issuerHex);
    if (against?.some((removal) => concurrent(removal, revoke)) === true) {
      voids.set(revoke.statement.hashHex, "its issuer was removed");
      continue;
    }
    const target = (revoke.statement.body as RevokeBody).node;
    if (target !== undefined) append(removals, toHex(target), revoke);
  }
  return removals;
}

function compareSeniority(a: Entry, b: Entry): number {
  return a.depth - b.depth || compare(a.statement.hash, b.statement.hash);
}

/** Ends invites and voids admissions that rest on none, on an ended one, or on one with no uses left. */
function resolveInvites(
  entries: readonly Entry[],
  removals: ReadonlyMap<string, readonly Entry[]>,
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
    const issuerRemovals = (removals.get(issuerHex) ?? []).filter((removal) => !isAncestor(removal, entry));
    const endedBy = [...(ends.get(hashHex) ?? []), ...issuerRemovals];
    const isVoid = voids.has(hashHex);
    const nodes = new Set<string>();
    let usedUpHlc: number | undefined;
    for (const admit of admits.get(hashHex) ?? []) {
      const node = toHex((admit.statement.body as AdmitBody).node);
      if (isVoid || endedBy.some((end) => !isAncestor(admit, end))) {
        voids.set(admit.statement.hashHex, "its invite was revoked");
      } else if (!nodes.has(node) && nodes.size >= body.uses) {
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

/** At most one admission a node, in (hlc, hash) order. */
function chooseAdmissions(
  admissions: ReadonlyMap<string, readonly Entry[]>,
  removals: ReadonlyMap<string, readonly Entry[]>,
  voids: Map<string, string>,
): Entry[] {
  const chosen: Entry[] = [];
  for (const [node, candidates] of admissions) {
    const against = removals.get(node) ?? [];
    let latest: Entry | undefined;
    for (const admit of candidates) {
      if (voids.has(admit.statement.hashHex)) continue;
      if (against.every((removal) => isAncestor(removal, admit))) latest = admit;
    }
    if (latest !== undefined) chosen.push(latest);
  }
  return chosen.toSorted((a, b) => a.statement.hlc - b.statement.hlc || compare(a.statement.hash, b.statement.hash));
}

interface Claim {
  readonly statement: Statement;
  readonly node: Uint8Array;
  readonly derived: Derived;
  readonly wantedName: string;
  readonly wantedIpv4: number;
  readonly roles: readonly Role[];
  readonly tags: readonly string[];
  readonly expiresAtMs: number | undefined;
}

function settleClashes(
  chosen: readonly Entry[],
  genesis: GenesisBody,
  context: ResolveContext,
  voids: Map<string, string>,
): Member[] {
  const claims: Claim[] = [];
  const keys = new Set<string>();
  for (const { statement } of chosen) {
    const claim = claimOf(statement, context);
    const key = toHex(claim.derived.staticKey);
    const ipv6 = toHex(claim.derived.ipv6);
    if (keys.has(key) || keys.has(ipv6)) {
      voids.set(statement.hashHex, "another member has its key or address");
    } else if (claims.length >= context.maxMembers) {
      voids.set(statement.hashHex, "the network is full");
    } else {
      keys.add(key).add(ipv6);
      claims.push(claim);
    }
  }
  const names = settleNames(claims);
  const addresses = settleIpv4(claims, genesis.prefix);
  const members: Member[] = [];
  claims.forEach((claim, i) => {
    const ipv4 = addresses[i];
    if (ipv4 === undefined) {
      voids.set(claim.statement.hashHex, "no IPv4 address is left");
      return;
    }
    members.push({
      nodeId: claim.node,
      staticKey: claim.derived.staticKey,
      name: names[i],
      requestedName: claim.wantedName,
      ipv4: formatIpv4(ipv4),
      ipv6: formatAddress(claim.derived.ipv6),
      roles: claim.roles.length === 0 ? ["member"] : claim.roles,
      tags: claim.tags,
      expiresAtMs: claim.expiresAtMs,
      admittedAtMs: wallFromHlc(claim.statement.hlc),
      admission: claim.statement.hash,
    });
  });
  return members;
}

function claimOf(statement: Statement, context: ResolveContext): Claim {
  const body = statement.body;
  if (body.kind === "genesis") {
    return {
      statement,
      node: statement.issuer,
      derived: context.derive(statement.issuer),
      wantedName: body.name,
      wantedIpv4: firstHost(body.prefix),
      roles: ["admin"],
      tags: [],
      expiresAtMs: undefined,
    };
  }
  const admit = body as AdmitBody;
  return {
    statement,
    node: admit.node,
    derived: context.derive(admit.node),
    wantedName: admit.name,
    wantedIpv4: admit.ipv4,
    roles: admit.roles,
    tags: admit.tags,
    expiresAtMs: admit.expiresAtMs,
  };
}

/** First come, first served; the others get suffixes that nobody asked for. */
function settleNames(claims: readonly Claim[]): string[] {
  const taken = new Set<string>();
  const owners = new Map<string, Claim>();
  for (const claim of claims) if (!owners.has(claim.wantedName)) owners.set(claim.wantedName, claim);
  for (const name of owners.keys()) taken.add(name);
  return claims.map((claim) => {
    if (owners.get(claim.wantedName) === claim) return claim.wantedName;
    const name = suffixedName(claim.wantedName, taken);
    taken.add(name);
    return name;
  });
}

/** @returns "name-2", "name-3" …: the first that is not taken, at most 63 characters */
export function suffixedName(name: string, taken: { has(name: string): boolean }): string {
  for (let n = 2; ; n++) {
    const suffix = `-${n}`;
    const candidate = name.slice(0, 63 - suffix.length).replace(/-+$/, "") + suffix;
    if (!taken.has(candidate)) return candidate;
  }
}

function settleIpv4(claims: readonly Claim[], prefix: Ipv4Prefix): (number | undefined)[] {
  const taken = new Set<number>();
  const owners = new Map<number, Claim>();
  for (const claim of claims) {
    const wanted = claim.wantedIpv4;
    if (wanted < firstHost(prefix) || wanted > lastHost(prefix) || owners.has(wanted)) continue;
    owners.set(wanted, claim);
    taken.add(wanted);
  }
  return claims.map((claim) => {
    if (owners.get(claim.wantedIpv4) === claim) return claim.wantedIpv4;
    const free = nextFreeIpv4(prefix, claim.wantedIpv4, taken);
    if (free !== undefined) taken.add(free);
    return free;
  });
}

function append<T>(map: Map<string, T[]>, key: string, value: T): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
