/**
 * Who removed whom, and what of it counts. Three kinds of removal: `revoke` ends a membership or an invite, `unadmin` takes the role admin
 * away; the removal of an invite's issuer, too, ends the invite for all admissions that are not below it. They are applied in the order of checkpoints, then of their issuers' admission. A statement is void when its issuer had no standing for it:
 *
 *   it needs an effective admission (and, where it needs the role, an effective grant of the role) of its issuer below it, such that every
 *   applied removal of the issuer is either above the statement or below that admission (that grant); an admission also needs that its
 *   invite is not void and that every applied end of the invite is above the admission.
 *
 * So everything that a removed node says beside or after its removal is void, and so is what rests on it: whom a thief makes an admin on
 * old parents is none, and removes nobody. Removals of higher rank than the statement do not touch it (finality.ts).
 * Source: docs/protocol.md, "Roster".
 */
import { toHex } from "../base/bytes.ts";
import { append, compareSeniority, type Entry, isAncestor, type Seniority } from "./dag.ts";
import type { Finality } from "./finality.ts";
import { compareStatements, needsAdmin } from "./statement.ts";

/** By node id in hex of whom it is about, in the order they were applied. */
export interface Removals {
  readonly memberships: ReadonlyMap<string, readonly Entry[]>;
  readonly roles: ReadonlyMap<string, readonly Entry[]>;
}

/** Admins that made each other, one after the other, before the walk along them goes from the beginning instead of from the end. */
const MAX_RECURSION = 100;
const ISSUER_REMOVED = "its issuer was removed";
const INVITE_REVOKED = "its invite was revoked";
const GRANT_VOID = "its issuer was admitted or made an admin by a void statement";

/** @param entries in (hlc, hash) order @param admissions by node id in hex @param voids gains what has no effect */
export function resolveRemovals(
  entries: readonly Entry[],
  admissions: ReadonlyMap<string, readonly Entry[]>,
  seniority: Seniority,
  finality: Finality,
  voids: Map<string, string>,
): Removals {
  const memberships = new Map<string, Entry[]>();
  const roles = new Map<string, Entry[]>();
  /** By hash of the invite in hex. */
  const ends = new Map<string, Entry[]>();
  const invites = new Map<string, Entry>();
  for (const entry of entries) if (entry.statement.body.kind === "invite") invites.set(entry.statement.hashHex, entry);
  const inviteOf = ({ statement: { body } }: Entry): Entry | undefined =>
    body.kind === "admit" && body.invite !== undefined ? invites.get(toHex(body.invite)) : undefined;
  const grants = grantsByNode(entries);
  const { dependants, underInvite } = dependencies(entries, inviteOf);
  // what was found since the last removal was applied
  const found = new Map<Entry, string | undefined>();
  const rests = (entry: Entry, on: readonly Entry[], removed: readonly Entry[]): boolean => {
    const rank = finality.rank(entry);
    const open = removed.filter((removal) => finality.rank(removal) <= rank && !isAncestor(entry, removal));
    return on.some(
      (grant) =>
        isAncestor(grant, entry) && open.every((removal) => isAncestor(removal, grant)) && whyVoid(grant) === undefined,
    );
  };
  /** Nodes from which something was taken, or from somebody through whom they have what they have; others have the standing they entered with. */
  const touched = new Set<string>();
  const touch = (node: string): void => {
    const open = [node];
    for (let one = open.pop(); one !== undefined; one = open.pop()) {
      if (touched.has(one)) continue;
      touched.add(one);
      open.push(...(dependants.get(one) ?? []));
    }
  };
  const isEnded = (invite: Entry, admission: Entry): boolean => {
    const { hashHex, issuerHex } = invite.statement;
    const strikes = (end: Entry): boolean =>
      finality.rank(end) <= finality.rank(admission) && !isAncestor(admission, end);
    const ofIssuer = (removal: Entry): boolean => strikes(removal) && !isAncestor(removal, invite);
    return (
      ends.get(hashHex)?.some(strikes) === true ||
      memberships.get(issuerHex)?.some(ofIssuer) === true ||
      roles.get(issuerHex)?.some(ofIssuer) === true ||
      whyVoid(invite) !== undefined
    );
  };
  const whyVoid = (entry: Entry): string | undefined => {
    if (entry.statement.body.kind === "genesis") return undefined;
    if (found.has(entry)) return found.get(entry);
    const why = whyStruck(entry);
    found.set(entry, why);
    return why;
  };
  const whyStruck = (entry: Entry): string | undefined => {
    const { issuerHex } = entry.statement;
    const invite = inviteOf(entry);
    if (invite !== undefined && isEnded(invite, entry)) return INVITE_REVOKED;
    if (!touched.has(issuerHex)) return undefined;
    const ended = memberships.get(issuerHex) ?? [];
    if (!rests(entry, admissions.get(issuerHex) ?? [], ended)) return ended.length > 0 ? ISSUER_REMOVED : GRANT_VOID;
    if (!needsAdmin(entry.statement)) return undefined;
    const lost = roles.get(issuerHex) ?? [];
    if (rests(entry, grants.get(issuerHex) ?? [], [...ended, ...lost])) return undefined;
    return ended.length + lost.length > 0 ? ISSUER_REMOVED : GRANT_VOID;
  };
  // a long chain of admins that made each other would recurse as deep: then from its beginning on, so that each finds the one before known
  const chain = longestChain(entries) > MAX_RECURSION ? [...grants.values()].flat().toSorted(byClock) : [];
  const prepare = (): void => {
    for (const grant of chain) whyVoid(grant);
  };
  prepare();
  // the entries are in (hlc, hash) order and the sort is stable, so removals of one issuer stay in that order
  const ordered = entries
    .filter(isRemoval)
    .toSorted(
      (a, b) =>
        finality.rank(a) - finality.rank(b) ||
        compareSeniority(seniority(a.statement.issuerHex, a), seniority(b.statement.issuerHex, b)),
    );
  for (const removal of ordered) {
    const why = whyVoid(removal);
    if (why !== undefined) {
      voids.set(removal.statement.hashHex, why);
      continue;
    }
    const { body } = removal.statement;
    if (body.kind === "revoke" && body.node !== undefined) {
      append(memberships, toHex(body.node), removal);
      touch(toHex(body.node));
    } else if (body.kind === "revoke" && body.invite !== undefined) {
      append(ends, toHex(body.invite), removal);
      for (const node of underInvite.get(toHex(body.invite)) ?? []) touch(node);
    } else if (body.kind === "unadmin") {
      append(roles, toHex(body.node), removal);
      touch(toHex(body.node));
    }
    found.clear();
    prepare();
  }
  for (const entry of entries) {
    const why = isRemoval(entry) ? undefined : whyVoid(entry);
    if (why !== undefined) voids.set(entry.statement.hashHex, why);
  }
  return { memberships, roles };
}

/** Who has something through whom, and who was admitted under which invite; by node id and hash in hex. */
function dependencies(
  entries: readonly Entry[],
  inviteOf: (entry: Entry) => Entry | undefined,
): {
  readonly dependants: ReadonlyMap<string, readonly string[]>;
  readonly underInvite: ReadonlyMap<string, readonly string[]>;
} {
  const dependants = new Map<string, string[]>();
  const underInvite = new Map<string, string[]>();
  for (const entry of entries) {
    const { body, issuerHex } = entry.statement;
    if (body.kind !== "admit" && body.kind !== "admin") continue;
    const node = toHex(body.node);
    append(dependants, issuerHex, node);
    const invite = inviteOf(entry);
    if (invite === undefined) continue;
    append(dependants, invite.statement.issuerHex, node);
    append(underInvite, invite.statement.hashHex, node);
  }
  return { dependants, underInvite };
}

/** How many admins stand behind each other at most, from the founder on. */
function longestChain(entries: readonly Entry[]): number {
  const depths = new Map<string, number>([[entries[0].statement.issuerHex, 0]]);
  let longest = 0;
  for (const { statement } of entries) {
    const { body, issuerHex } = statement;
    if (body.kind !== "admin" && (body.kind !== "admit" || !body.roles.includes("admin"))) continue;
    const depth = Math.max(depths.get(toHex(body.node)) ?? 0, (depths.get(issuerHex) ?? 0) + 1);
    depths.set(toHex(body.node), depth);
    longest = Math.max(longest, depth);
  }
  return longest;
}

function byClock(a: Entry, b: Entry): number {
  return compareStatements(a.statement, b.statement);
}

/** Statements that made a node an admin, by its id in hex, in (hlc, hash) order. */
function grantsByNode(entries: readonly Entry[]): Map<string, Entry[]> {
  const grants = new Map<string, Entry[]>();
  for (const entry of entries) {
    const { body, issuerHex } = entry.statement;
    if (body.kind === "genesis") append(grants, issuerHex, entry);
    if (body.kind === "admin" || (body.kind === "admit" && body.roles.includes("admin")))
      append(grants, toHex(body.node), entry);
  }
  return grants;
}

function isRemoval(entry: Entry): boolean {
  const { kind } = entry.statement.body;
  return kind === "revoke" || kind === "unadmin";
}
