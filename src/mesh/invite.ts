/**
 * Invites: an Ed25519 key whose holder may ask to join, and the token that carries it.
 *
 *   token = "weft1-" ‖ base32(body ‖ checksum 4); checksum = first bytes of SHA-256("weft invite token" ‖ body)
 *   body  = network id 32 | invite seed 32 | expiry u48 (ms since 1970, big-endian) | admins u8, each: node id 32 | endpoints u8,
 *           each: family u8 (4 or 6) | address 4 or 16 | port u16 big-endian | extensions, each: type u8 | length u16 big-endian | value
 *
 * An extension of an unknown type is skipped. Type 1 is a URL at which a channel to an admin can be opened: index of the admin u8 | text.
 * Whoever has the token can join: it is a secret. The invite id is the first 8 bytes of the public key.
 * Source: docs/protocol.md, "Join".
 */
import { createHash } from "node:crypto";
import { decodeBase32, encodeBase32 } from "../base/base32.ts";
import { concat, equal, utf8 } from "../base/bytes.ts";
import { parseChannelUrl } from "../base/channel-url.ts";
import { ENDPOINT_BYTES, isIPv4Mapped } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";

export const INVITE_ID_BYTES = 8;
export const TOKEN_PREFIX = "weft1-";
export const MAX_TOKEN_ADMINS = 4;
export const MAX_TOKEN_ENDPOINTS = 4;
/** URLs of all admins together; a token has to fit a QR code. */
export const MAX_TOKEN_URLS = 4;
const MAX_TOKEN_URL_BYTES = 400;
const MAX_EXTENSIONS = 16;
const URL_EXTENSION = 1;
const SEED_BYTES = 32;
const CHECKSUM_BYTES = 4;
const MAX_TOKEN_CHARACTERS = 2048;
const NEW_TOKEN = "ask the admin for a token: weft invite";

export interface TokenAdmin {
  readonly nodeId: Uint8Array;
  /** 18 bytes each, base/endpoint.ts */
  readonly endpoints: readonly Uint8Array[];
  /** Where a channel to the node can be opened (base/channel-url.ts); absent when nowhere. */
  readonly urls?: readonly string[];
}

export interface InviteToken {
  /** 32 bytes */
  readonly networkId: Uint8Array;
  /** 32 secret bytes: the invite's private key */
  readonly seed: Uint8Array;
  readonly expiresAtMs: number;
  readonly admins: readonly TokenAdmin[];
}

export function inviteIdOf(publicKey: Uint8Array): Uint8Array {
  return new Uint8Array(publicKey.subarray(0, INVITE_ID_BYTES));
}

/** What the holder of an invite signs: the node that shall be admitted and the name it asks for. */
export function joinProofBody(nodeId: Uint8Array, name: string): Uint8Array {
  return concat(nodeId, utf8(name));
}

/** Admins, endpoints and URLs beyond the limits are left out. */
export function encodeToken(token: InviteToken): string {
  const expiry = new Uint8Array(6);
  let rest = token.expiresAtMs;
  for (let i = 5; i >= 0; i--) {
    expiry[i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  const admins = token.admins.slice(0, MAX_TOKEN_ADMINS);
  const parts: Uint8Array[] = [token.networkId, token.seed, expiry, Uint8Array.of(admins.length)];
  for (const admin of admins) {
    const endpoints = admin.endpoints.slice(0, MAX_TOKEN_ENDPOINTS);
    parts.push(admin.nodeId, Uint8Array.of(endpoints.length), ...endpoints.map(encodeEndpoint));
  }
  const body = concat(...parts, ...encodeUrls(admins));
  return TOKEN_PREFIX + encodeBase32(concat(body, checksum(body)));
}

/**
 * @param text as typed, pasted or read from a file; white space and letter case do not matter
 * @throws WeftError TOKEN_INVALID, TOKEN_DAMAGED or TOKEN_VERSION
 */
export function decodeToken(text: string): InviteToken {
  const compact = text.replace(/\s+/g, "").toLowerCase();
  const prefix = /^weft(\d+)-/.exec(compact);
  if (prefix === null) {
    throw new WeftError("TOKEN_INVALID", `this is no invite token: a token begins with "${TOKEN_PREFIX}"`, NEW_TOKEN);
  }
  if (prefix[0] !== TOKEN_PREFIX) {
    throw new WeftError(
      "TOKEN_VERSION",
      `this token has format ${prefix[1]}, which this version of Weft cannot read`,
      "update Weft on this machine",
    );
  }
  const bytes = compact.length > MAX_TOKEN_CHARACTERS ? undefined : decodeBase32(compact.slice(TOKEN_PREFIX.length));
  if (bytes === undefined) throw damaged("it has characters that no token has, or was cut off");
  const body = bytes.subarray(0, Math.max(0, bytes.length - CHECKSUM_BYTES));
  if (!equal(bytes.subarray(body.length), checksum(body))) throw damaged("its checksum does not fit");
  const token = decodeBody(body);
  if (token === undefined) throw damaged("its fields do not fit");
  return token;
}

/**
 * What the joining node can judge by itself.
 * @param ownNetwork the network this node is a member of, if any
 * @throws WeftError TOKEN_EXPIRED or TOKEN_FOREIGN
 */
export function checkToken(token: InviteToken, wallMs: number, ownNetwork: Uint8Array | undefined): void {
  if (ownNetwork !== undefined && !equal(ownNetwork, token.networkId)) {
    throw new WeftError(
      "TOKEN_FOREIGN",
      "this token is for another network than the one this node belongs to",
      "leave the present network first (weft leave), or use another --state directory",
    );
  }
  if (wallMs >= token.expiresAtMs) {
    const seconds = Math.max(1, Math.round((wallMs - token.expiresAtMs) / 1000));
    throw new WeftError(
      "TOKEN_EXPIRED",
      `this token expired ${describeSeconds(seconds)} ago by this machine's clock (${new Date(wallMs).toISOString()})`,
      `if the clock is right, ${NEW_TOKEN}`,
    );
  }
}

/** "45 s", "12 min", "3 h", "9 d" */
export function describeSeconds(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

function checksum(body: Uint8Array): Uint8Array {
  return createHash("sha256").update("weft invite token").update(body).digest().subarray(0, CHECKSUM_BYTES);
}

function damaged(why: string): WeftError {
  return new WeftError(
    "TOKEN_DAMAGED",
    `this invite token is damaged: ${why}`,
    "copy the whole token again, or ask for another one",
  );
}

function encodeEndpoint(endpoint: Uint8Array): Uint8Array {
  const port = Uint8Array.of(endpoint[17], endpoint[16]);
  if (isIPv4Mapped(endpoint)) return concat(Uint8Array.of(4), endpoint.subarray(12, 16), port);
  return concat(Uint8Array.of(6), endpoint.subarray(0, 16), port);
}

/** One URL of every admin before the second ones. */
function encodeUrls(admins: readonly TokenAdmin[]): Uint8Array[] {
  const out: Uint8Array[] = [];
  let room = MAX_TOKEN_URL_BYTES;
  const longest = Math.max(0, ...admins.map((admin) => admin.urls?.length ?? 0));
  for (let rank = 0; rank < longest; rank++) {
    for (const [index, admin] of admins.entries()) {
      const text = utf8(admin.urls?.[rank] ?? "");
      if (text.length === 0 || text.length > room || out.length === MAX_TOKEN_URLS) continue;
      room -= text.length;
      out.push(concat(Uint8Array.of(URL_EXTENSION, (1 + text.length) >>> 8, (1 + text.length) & 255, index), text));
    }
  }
  return out;
}

/** Adds to `urls` (one list per admin) what an extension says. @returns false when it is malformed */
function decodeUrl(value: Uint8Array, urls: readonly string[][]): boolean {
  const list = urls[value[0] ?? -1];
  const text = String.fromCharCode(...value.subarray(1));
  if (list === undefined || parseChannelUrl(text) === undefined) return false;
  if (urls.reduce((total, each) => total + each.length, 0) < MAX_TOKEN_URLS) list.push(text);
  return true;
}

function decodeBody(body: Uint8Array): InviteToken | undefined {
  let at = 0;
  let short = false;
  const take = (length: number): Uint8Array => {
    if (at + length > body.length) short = true;
    at += length;
    return body.slice(at - length, at);
  };
  const networkId = take(32);
  const seed = take(SEED_BYTES);
  const expiresAtMs = take(6).reduce((value, byte) => value * 256 + byte, 0);
  const count = take(1)[0] ?? 0;
  if (short || count > MAX_TOKEN_ADMINS) return undefined;
  const admins: TokenAdmin[] = [];
  for (let i = 0; i < count; i++) {
    const nodeId = take(32);
    const endpointCount = take(1)[0] ?? 0;
    if (short || endpointCount > MAX_TOKEN_ENDPOINTS) return undefined;
    const endpoints: Uint8Array[] = [];
    for (let j = 0; j < endpointCount; j++) {
      const endpoint = new Uint8Array(ENDPOINT_BYTES);
      const family = take(1)[0];
      if (family !== 4 && family !== 6) return undefined;
      const address = take(family === 4 ? 4 : 16);
      const port = take(2);
      if (short) return undefined;
      if (family === 4) endpoint.fill(0xff, 10, 12);
      endpoint.set(address, family === 4 ? 12 : 0);
      endpoint[16] = port[1];
      endpoint[17] = port[0];
      endpoints.push(endpoint);
    }
    admins.push({ nodeId, endpoints });
  }
  if (short) return undefined;
  const urls: string[][] = admins.map(() => []);
  for (let extensions = 0; at < body.length; extensions++) {
    if (extensions === MAX_EXTENSIONS || at + 3 > body.length) return undefined;
    const [type, high, low] = take(3);
    const value = take(high * 256 + low);
    if (at > body.length || (type === URL_EXTENSION && !decodeUrl(value, urls))) return undefined;
  }
  return {
    networkId,
    seed,
    expiresAtMs,
    admins: admins.map((admin, i) => (urls[i].length === 0 ? admin : { ...admin, urls: urls[i] })),
  };
}
