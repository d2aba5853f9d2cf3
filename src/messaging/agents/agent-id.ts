/**
 * Text of an agent: its id "a1…", 58 characters, made like a node's (crypto/node-id.ts), and its secret form for moving it,
 * "weftagent1." ‖ base32(generation u32 ‖ seed 32 ‖ first 4 bytes of SHA-256("weft agent v1" ‖ what is before)).
 * Source: docs/protocol.md, "Agents".
 */
import { decodeBase32, encodeBase32 } from "../../base/base32.ts";
import { concat, equal, utf8 } from "../../base/bytes.ts";
import { sha256 } from "../../crypto/kdf.ts";
import { formatNodeId, parseNodeId } from "../../crypto/node-id.ts";
import { u32 } from "../fields.ts";

const PREFIX = "weftagent1.";
const LABEL = utf8("weft agent v1");
const SEED_BYTES = 32;
const CHECK_BYTES = 4;

/** @param agent 32 bytes */
export function formatAgentId(agent: Uint8Array): string {
  return `a1${formatNodeId(agent).slice(2)}`;
}

/** @returns 32 bytes, or undefined when the form or the checksum is wrong */
export function parseAgentId(text: string): Uint8Array | undefined {
  return text.slice(0, 2).toLowerCase() === "a1" ? parseNodeId(`w1${text.slice(2)}`) : undefined;
}

/** Secret. @param seed 32 bytes */
export function formatAgentSecret(seed: Uint8Array, generation: number): string {
  const body = concat(u32(generation), seed);
  return PREFIX + encodeBase32(concat(body, sha256(LABEL, body).subarray(0, CHECK_BYTES)));
}

export function parseAgentSecret(text: string): { readonly seed: Uint8Array; readonly generation: number } | undefined {
  const bytes = text.startsWith(PREFIX) && text.length < 128 ? decodeBase32(text.slice(PREFIX.length)) : undefined;
  if (bytes === undefined || bytes.length !== 4 + SEED_BYTES + CHECK_BYTES) return undefined;
  const body = bytes.subarray(0, 4 + SEED_BYTES);
  if (!equal(bytes.subarray(4 + SEED_BYTES), sha256(LABEL, body).subarray(0, CHECK_BYTES))) return undefined;
  const generation = (body[0] | (body[1] << 8) | (body[2] << 16) | (body[3] << 24)) >>> 0;
  return { seed: body.slice(4), generation };
}
