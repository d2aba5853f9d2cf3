/**
 * Keys of the directory and the members that meet at them. A topic is named on the wire by
 *
 *   SHA-256("weft topic v1" ‖ network id 32 ‖ name in UTF-8)
 *
 * and the meeting nodes of a key are the members with the highest weight of (key, node id): rendezvous hashing over the roster, which every member
 * holds anyway, so that all agree without a message. The weight need not resist those who choose their key: members are admitted one by one, and
 * one of three can only withhold, because records are signed. Source: docs/protocol.md, "Directory".
 */
import { compare, utf8 } from "../../base/bytes.ts";
import { sha256 } from "../../crypto/kdf.ts";

const TOPIC_LABEL = utf8("weft topic v1");

/** @param networkId 32 bytes @returns 32 bytes */
export function topicKey(networkId: Uint8Array, topic: string): Uint8Array {
  return sha256(TOPIC_LABEL, networkId, utf8(topic));
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

/** The finaliser of MurmurHash3 (Appleby), over both words. @returns 0 … 2^32 − 1 */
function weight(key: Uint8Array, nodeId: Uint8Array): number {
  let x = word(key, 0) ^ Math.imul(word(nodeId, 4), 0x9e3779b1) ^ word(nodeId, 8);
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b) ^ word(key, 4);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35) ^ word(key, 8);
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** @param members node ids in any order @returns up to `count` of them, the heaviest first; the same on every node with the same roster */
export function meetingNodes(key: Uint8Array, members: readonly Uint8Array[], count: number): Uint8Array[] {
  const best: { readonly nodeId: Uint8Array; readonly weight: number }[] = [];
  for (const nodeId of members) {
    const one = { nodeId, weight: weight(key, nodeId) };
    if (best.length === count && !isBefore(one, best[count - 1])) continue;
    let at = best.length;
    while (at > 0 && isBefore(one, best[at - 1])) at--;
    best.splice(at, 0, one);
    if (best.length > count) best.pop();
  }
  return best.map((one) => one.nodeId);
}

/** @returns whether `self` is one of the first `count` meeting nodes; cheap for most keys of others, because it stops at the count */
export function isMeetingNode(
  key: Uint8Array,
  members: readonly Uint8Array[],
  self: Uint8Array,
  count: number,
): boolean {
  const own = { nodeId: self, weight: weight(key, self) };
  let before = 0;
  for (const nodeId of members)
    if (isBefore({ nodeId, weight: weight(key, nodeId) }, own) && ++before >= count) return false;
  return true;
}

interface Weighed {
  readonly nodeId: Uint8Array;
  readonly weight: number;
}

function isBefore(a: Weighed, b: Weighed): boolean {
  return a.weight !== b.weight ? a.weight > b.weight : compare(a.nodeId, b.nodeId) < 0;
}
