/**
 * Who removed whom, and what of it counts. Two kinds of removal: `revoke` ends a membership, `unadmin` takes the role admin away. They are
 * applied in the order of checkpoints, then of their issuers' admission. A statement is void when its issuer had no standing for it:
 *
 *   it needs an effective admission (and, where it needs the role, an effective grant of the role) of its issuer below it, such that every
 *   applied removal of the issuer is either above the statement or below that admission (that grant).
 *
 * So everything that a removed node says beside or after its removal is void, and so is what rests on it: whom a thief makes an admin on
 * old parents is none, and removes nobody. Removals of higher rank than the statement do not touch it (finality.ts).
 * Source: docs/protocol.md, "Roster".
 */
import { toHex } from "../base/bytes.ts";
import { append, compareSeniority, type Entry, isAncestor, type Seniority } from "./dag.ts";
import type { Finality } from "./finality.ts";
import { needsAdmin } from "./statement.ts";

/** By node id in hex of whom it is about, in the order they were applied. */
export interface Removals {
  readonly memberships: ReadonlyMap<string, readonly Entry[]>;
  readonly roles: ReadonlyMap<string, readonly Entry[]>;
}

const ISSUER_REMOVED = "its issuer was removed";
const GRANT_VOID = "its issuer was made an admin by a void statement";

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
  const grants = grantsByNode(entries);
  // what was found since the last removal was applied
  const found = new Map<Entry, string | undefined>();
  const untouched = new Map<string, boolean>();
  const rests = (entry: Entry, on: readonly Entry[], removed: readonly Entry[]): boolean => {
    const rank = finality.rank(entry);
    const open = removed.filter((removal) => finality.rank(removal) <= rank && !isAncestor(entry, removal));
    return on.some(
      (grant) =>
        isAncestor(grant, entry) && open.every((removal) => isAncestor(removal, grant)) && whyVoid(grant) === undefined,
    );
  };
  /** Nothing was taken from it, nor from anybody through whom it has what it has: then it has the standing with which it entered. */
  const isUntouched = (node: string): boolean => {
    const known = untouched.get(node);
    if (known !== undefined) return known;
    const reached = new Set([node]);
    for (const one of reached) {
      for (const grant of [...(admissions.get(one) ?? []), ...(grants.get(one) ?? [])])
        reached.add(grant.statement.issuerHex);
    }
    const is = reached.values().every((one) => !memberships.has(one) && !roles.has(one));
    untouched.set(node, is);
    return is;
  };
  const whyVoid = (entry: Entry): string | undefined => {
    if (entry.statement.body.kind === "genesis") return undefined;
    if (found.has(entry)) return found.get(entry);
    const { issuerHex } = entry.statement;
    if (isUntouched(issuerHex)) return undefined;
    const ended = memberships.get(issuerHex) ?? [];
    let why = rests(entry, admissions.get(issuerHex) ?? [], ended) ? undefined : ISSUER_REMOVED;
    if (why === undefined && needsAdmin(entry.statement)) {
      const lost = roles.get(issuerHex) ?? [];
      if (!rests(entry, grants.get(issuerHex) ?? [], [...ended, ...lost]))
        why = ended.length + lost.length > 0 ? ISSUER_REMOVED : GRANT_VOID;
    }
    found.set(entry, why);
    return why;
  };
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
    if (body.kind === "revoke" && body.node !== undefined) append(memberships, toHex(body.node), removal);
    if (body.kind === "unadmin") append(roles, toHex(body.node), removal);
    found.clear();
    untouched.clear();
  }
  for (const entry of entries) {
    const why = isRemoval(entry) ? undefined : whyVoid(entry);
    if (why !== undefined) voids.set(entry.statement.hashHex, why);
  }
  return { memberships, roles };
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
