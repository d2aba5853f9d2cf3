/**
 * Statements in their places: every statement names its parents, so a set closed under parents is a directed acyclic graph. Here: who is
 * an ancestor of whom, in constant time from one bit set per statement that was asked about. Source: docs/protocol.md, "Roster".
 */
import { compare } from "../base/bytes.ts";
import type { Statement } from "./statement.ts";

/** A statement in its place in the DAG. */
export interface Entry {
  readonly statement: Statement;
  /** Place of arrival; above that of every parent. Says nothing else and decides nothing. */
  readonly index: number;
  readonly parents: readonly Entry[];
  /** Longest way to the genesis. */
  readonly depth: number;
  /** Highest version of a policy among this and its ancestors; 0: none. */
  readonly policyVersion: number;
  /** True when this or an ancestor may have changed who is an admin, compared with the genesis. */
  touchesAdmins: boolean;
  /** Set of the indices of all ancestors, one bit each; made on demand. */
  ancestors: Uint32Array | undefined;
  /** Admins after this statement; made on demand. */
  adminsAfter: Admins | undefined;
  /** Of a proposal to make a checkpoint: the state of its ancestors, as far as its quorum needs it. */
  view: CheckpointView | undefined;
}

/** Node id in hex → wall-clock end of its membership (Infinity: none). */
export type Admins = ReadonlyMap<string, number>;

export interface CheckpointView {
  /** Admins in the state of the proposal's ancestors. */
  readonly admins: Admins;
  /** Node ids in hex whose signatures are counted: the admins of the last final checkpoint below it, else the founder. */
  readonly electorate: ReadonlySet<string>;
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

/** Order of admission: by depth, then hash. Whoever was admitted earlier is senior. */
export function compareSeniority(a: Entry, b: Entry): number {
  return a.depth - b.depth || compare(a.statement.hash, b.statement.hash);
}

/** By issuer's node id in hex: its most senior admission. */
export type Seniority = (issuerHex: string, fallback: Entry) => Entry;

/** @param admissions by node id in hex; kept */
export function seniorityOf(admissions: ReadonlyMap<string, readonly Entry[]>): Seniority {
  const found = new Map<string, Entry>();
  return (issuerHex, fallback) => {
    let senior = found.get(issuerHex);
    if (senior === undefined) {
      senior = admissions.get(issuerHex)?.reduce((best, one) => (compareSeniority(one, best) < 0 ? one : best));
      senior ??= fallback;
      found.set(issuerHex, senior);
    }
    return senior;
  };
}

export function append<T>(map: Map<string, T[]>, key: string, value: T): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
