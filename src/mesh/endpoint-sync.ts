/**
 * How two members bring each other's endpoint messages up to date: lists of (node id prefix, clock) over consecutive parts of the id space.
 * Whoever gets a list sends what is newer or missing there and asks for what is newer or missing here. Stateless, like the roster's.
 * Source: docs/protocol.md, "Discovery and candidates".
 */
import { compare, toHex } from "../base/bytes.ts";
import { type ControlMessage, ID_PREFIX_BYTES, MAX_KNOWN, MAX_SEEK } from "./control.ts";
import type { EndpointMessage } from "./endpoints.ts";

/** @param messages in order of node id */
export function listEndpoints(messages: readonly EndpointMessage[]): ControlMessage[] {
  const out: ControlMessage[] = [];
  let from: Uint8Array = new Uint8Array(ID_PREFIX_BYTES);
  let at = 0;
  do {
    const part = messages.slice(at, at + MAX_KNOWN);
    at += MAX_KNOWN;
    const next = messages[at];
    const below = next === undefined ? undefined : prefixOf(next);
    out.push({
      type: "known",
      from,
      below,
      entries: part.map((message) => ({ idPrefix: prefixOf(message), hlc: message.hlc })),
    });
    from = below ?? from;
  } while (at < messages.length);
  return out;
}

/** @param messages in order of node id */
export function compareEndpoints(
  messages: readonly EndpointMessage[],
  list: Extract<ControlMessage, { type: "known" }>,
): { readonly send: readonly EndpointMessage[]; readonly seek: readonly Uint8Array[] } {
  const theirs = new Map<string, number>();
  for (const entry of list.entries) theirs.set(toHex(entry.idPrefix), entry.hlc);
  const send: EndpointMessage[] = [];
  for (const message of messages) {
    const prefix = prefixOf(message);
    if (compare(prefix, list.from) < 0 || (list.below !== undefined && compare(prefix, list.below) >= 0)) continue;
    const hex = toHex(prefix);
    const hlc = theirs.get(hex) ?? -1;
    if (message.hlc > hlc) send.push(message);
    if (message.hlc >= hlc) theirs.delete(hex);
  }
  const seek = list.entries.filter((entry) => theirs.has(toHex(entry.idPrefix))).map((entry) => entry.idPrefix);
  return { send, seek: seek.slice(0, MAX_SEEK) };
}

export function prefixOf(message: EndpointMessage): Uint8Array {
  return message.nodeId.subarray(0, ID_PREFIX_BYTES);
}
