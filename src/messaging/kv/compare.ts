/**
 * Both sides of the comparison of one space, as functions of the map and what came: what to say next. Nothing is remembered between two
 * frames, so a lost one costs only the time until the next round.
 *
 *   hello, fingerprints differ ──► tree (16 children) ──► tree (their children, where they differ) … ──► items, where few are left ──► want, entries
 *
 * Where one side has nothing the other sends everything at once. The answer to a frame is bounded as a whole; what does not fit is found again in the next
 * comparison, which follows at once when this one has brought something. Source: docs/protocol.md, "Replicated stores" (comparison).
 */
import { equal, toHex } from "../../base/bytes.ts";
import { fingerprintOf, LEAF_DEPTH } from "./fingerprints.ts";
import type { LwwMap } from "./lww-map.ts";
import {
  MAX_IDS,
  MAX_ITEM_NODES,
  MAX_TREE_NODES,
  type NodeItems,
  type NodeSummary,
  type SpaceSummary,
} from "./messages.ts";
import type { Entry } from "./entry.ts";

/** So few on both sides together are named one by one. */
const FEW = 48;
/** Of items in one answer, bytes stay far below a frame's limit. */
const ANSWER_IDS: number = MAX_IDS / 4;
/** Entries in one answer. */
const ANSWER_BYTES = 786_432;
const NO_IDS: readonly Uint8Array[] = [];

export interface Reply {
  readonly nodes: NodeSummary[];
  readonly items: NodeItems[];
  readonly want: Uint8Array[];
  readonly entries: Entry[];
}

export function summaryOf(space: Uint8Array, map: LwwMap): SpaceSummary {
  return { space, count: map.tree.count, fingerprint: map.tree.fingerprint(0, 0) };
}

export function isSame(map: LwwMap, theirs: SpaceSummary): boolean {
  return map.tree.count === theirs.count && equal(map.tree.fingerprint(0, 0), theirs.fingerprint);
}

export function answerHello(map: LwwMap, theirs: SpaceSummary, budget: Budget): Reply {
  const reply = newReply();
  compareNode(map, { depth: 0, prefix: 0, count: theirs.count, fingerprint: theirs.fingerprint }, reply, budget);
  return reply;
}

export function answerTree(map: LwwMap, nodes: readonly NodeSummary[], budget: Budget): Reply {
  const reply = newReply();
  for (const node of nodes) compareNode(map, node, reply, budget);
  return reply;
}

/** `theirs` is everything that the other side has under each node. */
export function answerItems(map: LwwMap, theirs: readonly NodeItems[], budget: Budget): Reply {
  const reply = newReply();
  for (const { depth, prefix, ids } of theirs) {
    const has = new Set<string>();
    for (const id of ids) {
      const hex = toHex(id);
      has.add(hex);
      if (map.byId(hex) === undefined && reply.want.length < ANSWER_IDS) reply.want.push(id);
    }
    for (const [hex] of map.tree.ids(depth, prefix)) {
      if (!has.has(hex) && !give(map.byId(hex), reply, budget)) break;
    }
  }
  return reply;
}

export function answerWant(map: LwwMap, ids: readonly Uint8Array[], budget: Budget): Reply {
  const reply = newReply();
  for (const id of ids) if (!give(map.byId(toHex(id)), reply, budget)) break;
  return reply;
}

/** What one frame may cost, for all spaces in it together. */
export interface Budget {
  ids: number;
  bytes: number;
  /** Asked before the first entry is given; false: none is. */
  readonly mayGive: () => boolean;
  isAsked: boolean;
}

export function newBudget(mayGive: () => boolean): Budget {
  return { ids: ANSWER_IDS, bytes: ANSWER_BYTES, mayGive, isAsked: false };
}

function newReply(): Reply {
  return { nodes: [], items: [], want: [], entries: [] };
}

function compareNode(map: LwwMap, theirs: NodeSummary, reply: Reply, budget: Budget): void {
  const { depth, prefix } = theirs;
  const mine = map.tree.node(depth, prefix);
  if (mine.count === theirs.count && equal(fingerprintOf(mine), theirs.fingerprint)) return;
  if (theirs.count === 0) {
    for (const [hex] of map.tree.ids(depth, prefix)) if (!give(map.byId(hex), reply, budget)) return;
    return;
  }
  if (mine.count === 0 || mine.count + theirs.count <= FEW || depth === LEAF_DEPTH) {
    if (reply.items.length >= MAX_ITEM_NODES || budget.ids < mine.count) return;
    budget.ids -= mine.count;
    const ids = mine.count === 0 ? NO_IDS : [...map.tree.ids(depth, prefix)].map(([, id]) => id);
    reply.items.push({ depth, prefix, ids });
    return;
  }
  if (reply.nodes.length + 16 > MAX_TREE_NODES) return;
  for (let digit = 0; digit < 16; digit++) {
    const child = { depth: depth + 1, prefix: prefix * 16 + digit };
    const node = map.tree.node(child.depth, child.prefix);
    reply.nodes.push({ ...child, count: node.count, fingerprint: fingerprintOf(node) });
  }
}

/** @returns false when no more fits */
function give(entry: Entry | undefined, reply: Reply, budget: Budget): boolean {
  if (entry === undefined) return true;
  if (!budget.isAsked) {
    budget.isAsked = true;
    if (!budget.mayGive()) budget.bytes = 0;
  }
  if (entry.wire.length + 4 > budget.bytes) return false;
  budget.bytes -= entry.wire.length + 4;
  reply.entries.push(entry);
  return true;
}
