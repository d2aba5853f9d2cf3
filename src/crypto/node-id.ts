/**
 * Node ids: the 32-byte Ed25519 public key, its text form and its overlay IPv6 address. Source: docs/protocol.md, "Identity".
 *   text    "w1" ‖ base32(id 32 ‖ checksum 3), 58 characters; checksum = first 3 bytes of SHA-256("weft node id v1" ‖ id)
 *   address fd ‖ first 40 bits of the network id ‖ subnet 0 (16 bits) ‖ 64 bits of SHA-256("weft address v1" ‖ network id ‖ id)
 */
import { decodeBase32, encodeBase32 } from "../base/base32.ts";
import { concat, equal, utf8 } from "../base/bytes.ts";
import { sha256 } from "./kdf.ts";

export const NODE_ID_BYTES = 32;
export const NODE_ID_TEXT_LENGTH = 58;

const PREFIX = "w1";
const CHECKSUM_BYTES = 3;
const SHORT_LENGTH = 8;
const CHECKSUM_LABEL = utf8("weft node id v1");
const ADDRESS_LABEL = utf8("weft address v1");

function checksum(nodeId: Uint8Array): Uint8Array {
  return sha256(CHECKSUM_LABEL, nodeId).subarray(0, CHECKSUM_BYTES);
}

/** @param nodeId 32 bytes @returns "w1…", 58 characters */
export function formatNodeId(nodeId: Uint8Array): string {
  return PREFIX + encodeBase32(concat(nodeId, checksum(nodeId)));
}

/** For people only, never to identify a node: the first 8 characters of the text form. */
export function shortNodeId(nodeId: Uint8Array): string {
  return formatNodeId(nodeId).slice(0, SHORT_LENGTH);
}

/** Upper case is accepted. @returns 32 bytes, or undefined when the form or the checksum is wrong */
export function parseNodeId(text: string): Uint8Array | undefined {
  if (text.length !== NODE_ID_TEXT_LENGTH || text.slice(0, 2).toLowerCase() !== PREFIX) return undefined;
  const bytes = decodeBase32(text.slice(2));
  if (bytes === undefined || bytes.length !== NODE_ID_BYTES + CHECKSUM_BYTES) return undefined;
  const nodeId = bytes.slice(0, NODE_ID_BYTES);
  return equal(bytes.subarray(NODE_ID_BYTES), checksum(nodeId)) ? nodeId : undefined;
}

/** The network's unique local prefix (RFC 4193): 16 bytes, of which the first 6 are set. */
export function networkPrefix(networkId: Uint8Array): Uint8Array {
  const prefix = new Uint8Array(16);
  prefix[0] = 0xfd;
  prefix.set(networkId.subarray(0, 5), 1);
  return prefix;
}

/** @param networkId 32 bytes @param nodeId 32 bytes @returns the node's overlay IPv6 address, 16 bytes */
export function nodeAddress(networkId: Uint8Array, nodeId: Uint8Array): Uint8Array {
  const address = networkPrefix(networkId);
  address.set(sha256(ADDRESS_LABEL, networkId, nodeId).subarray(0, 8), 8);
  return address;
}
