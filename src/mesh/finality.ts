/**
 * Checkpoints: a proposal is final when more than half of the other admins stand behind it. Counted are the admins of the last final
 * checkpoint below the proposal (at the birth of the network its founder), so nobody adds voters to a history of its own making; a
 * signature counts when its admin still is one in the state of the proposal's ancestors. Both are properties of the proposal alone, and
 * consent is never taken back: what was final once stays final, whatever is added to the set.
 *
 * The *rank* of a statement is the number of the first final checkpoint that has it below. What has a lower rank is settled first:
 * a removal of higher rank voids nothing of it and precedes no removal in it. So a key that was removed below a checkpoint cannot undo
 * that by statements on old parents. Source: docs/protocol.md, "Roster" (checkpoints).
 */
import { toHex } from "../base/bytes.ts";
import { type CheckpointView, compareSeniority, type Entry, isAncestor, type Seniority } from "./dag.ts";
import { compareStatements } from "./statement.ts";

export interface Proposal {
  readonly entry: Entry;
  /** Node ids in hex whose signatures count. */
  readonly signers: ReadonlySet<string>;
  readonly isFinal: boolean;
}

export interface Finality {
  /** In (hlc, hash) order. */
  readonly proposals: readonly Proposal[];
  /** In order of rank: ancestors first, then by seniority of the issuers. */
  readonly finals: readonly Entry[];
  /** Number of the first final checkpoint that has the entry below it, or is it; finals.length: none. */
  rank(entry: Entry): number;
}

/** @param signers of a proposal @param electorate whose signatures are counted */
export function isQuorum(signers: number, electorate: number): boolean {
  return signers > 0 && signers * 2 > electorate - 1;
}

/**
 * @param entries a set closed under parents, in (hlc, hash) order
 * @param viewOf state of a proposal's ancestors
 */
export function resolveFinality(
  entries: readonly Entry[],
  seniority: Seniority,
  viewOf: (proposal: Entry) => CheckpointView,
): Finality {
  const voters = new Map<string, Set<string>>();
  const proposed: Entry[] = [];
  for (const entry of entries) {
    const { body } = entry.statement;
    if (body.kind !== "checkpoint") continue;
    const { of } = body;
    const key = of === undefined ? entry.statement.hashHex : toHex(of);
    if (of === undefined) proposed.push(entry);
    const set = voters.get(key) ?? new Set();
    voters.set(key, set.add(entry.statement.issuerHex));
  }
  const proposals = proposed.map((entry): Proposal => {
    const { admins, electorate } = viewOf(entry);
    const signers = new Set<string>();
    for (const voter of voters.get(entry.statement.hashHex) ?? [])
      if (electorate.has(voter) && admins.has(voter)) signers.add(voter);
    return { entry, signers, isFinal: isQuorum(signers.size, electorate.size) };
  });
  const finals = inOrder(
    proposals.filter((proposal) => proposal.isFinal).map((proposal) => proposal.entry),
    seniority,
  );
  const ranks = new Map<Entry, number>();
  if (finals.length > 0) {
    for (const entry of entries) {
      const rank = finals.findIndex((final) => final === entry || isAncestor(entry, final));
      if (rank >= 0) ranks.set(entry, rank);
    }
  }
  return { proposals, finals, rank: (entry) => ranks.get(entry) ?? finals.length };
}

function inOrder(finals: readonly Entry[], seniority: Seniority): Entry[] {
  const sorted = finals.toSorted(
    (a, b) =>
      compareSeniority(seniority(a.statement.issuerHex, a), seniority(b.statement.issuerHex, b)) ||
      compareStatements(a.statement, b.statement),
  );
  const done = new Set<Entry>();
  // ancestors have the lower clock, so walking each one's ancestors in order of clock puts every checkpoint behind those below it
  const byClock = finals.toSorted((a, b) => compareStatements(a.statement, b.statement));
  for (const final of sorted) {
    for (const below of byClock) if (isAncestor(below, final)) done.add(below);
    done.add(final);
  }
  return [...done];
}
