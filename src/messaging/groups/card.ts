/**
 * A card: an admin's signed word that a node belongs to a group until a time. It can be shown to anybody in the network and checked without
 * knowing the group. As text "weftcard1." ‖ base32(CBOR {g, n, m: node, r: role, e: epoch, u: until ms, i: issuer, s: signature}).
 * Signed as "card": the CBOR without s. Source: docs/protocol.md, "Groups" (cards).
 */
import { decodeBase32, encodeBase32 } from "../../base/base32.ts";
import { type Identity, verifySignature } from "../../crypto/identity.ts";
import { asBytes, asMap, asText, asUint, type CborMap, decodeCanonicalCbor, encodeCbor } from "../../mesh/cbor.ts";

const SIGN_KIND = "card";
const PREFIX = "weftcard1.";
const MAX_CARD_BYTES = 512;
const MAX_TEXT_CHARACTERS = 1024;

export interface Card {
  /** 32 bytes */
  readonly group: Uint8Array;
  readonly name: string;
  /** 32 bytes, whose card it is */
  readonly nodeId: Uint8Array;
  readonly role: number;
  readonly epoch: number;
  /** Wall-clock milliseconds */
  readonly untilMs: number;
  /** 32 bytes */
  readonly issuer: Uint8Array;
}

/** @returns 64 bytes */
export function signCard(networkId: Uint8Array, card: Card, signer: Pick<Identity, "sign">): Uint8Array {
  return signer.sign(SIGN_KIND, networkId, encodeCbor(fieldsOf(card)));
}

export function verifyCard(networkId: Uint8Array, card: Card, signature: Uint8Array): boolean {
  return verifySignature(card.issuer, SIGN_KIND, networkId, encodeCbor(fieldsOf(card)), signature);
}

export function formatCard(card: Card, signature: Uint8Array): string {
  return PREFIX + encodeBase32(encodeCbor({ ...fieldsOf(card), s: signature }));
}

/** @param text anything @returns undefined when it is malformed or not signed by its issuer; whether it has expired and whether the issuer may is for the caller */
export function parseCard(networkId: Uint8Array, text: string): Card | undefined {
  if (!text.startsWith(PREFIX) || text.length > MAX_TEXT_CHARACTERS) return undefined;
  const bytes = decodeBase32(text.slice(PREFIX.length));
  const map = bytes === undefined ? undefined : asMap(decodeCanonicalCbor(bytes, MAX_CARD_BYTES));
  const group = asBytes(map?.["g"], 32);
  const name = asText(map?.["n"], 64);
  const nodeId = asBytes(map?.["m"], 32);
  const role = asUint(map?.["r"], 1);
  const epoch = asUint(map?.["e"], 0xffffffff);
  const untilMs = asUint(map?.["u"]);
  const issuer = asBytes(map?.["i"], 32);
  const signature = asBytes(map?.["s"], 64);
  if (map === undefined || Object.keys(map).length !== 8) return undefined;
  if (group === undefined || name === undefined || nodeId === undefined || role === undefined) return undefined;
  if (epoch === undefined || untilMs === undefined || issuer === undefined || signature === undefined) return undefined;
  const card = { group, name, nodeId, role, epoch, untilMs, issuer };
  return verifyCard(networkId, card, signature) ? card : undefined;
}

function fieldsOf(card: Card): CborMap {
  return {
    g: card.group,
    n: card.name,
    m: card.nodeId,
    r: card.role,
    e: card.epoch,
    u: card.untilMs,
    i: card.issuer,
  };
}
