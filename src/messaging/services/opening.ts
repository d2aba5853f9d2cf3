/**
 * The first bytes of a forwarded connection, after which both ways carry what the two programs say.
 *   opener → server  0 version u8 = 1 | 1 bytes of the host u8, 0 = loopback of the server | 2 port u16 | 4 host, ASCII
 *   server → opener  0 answer u8
 * Little-endian. Source: docs/protocol.md, "Forwards"; sans-I/O.
 */
import { isHost, MAX_HOST_BYTES, type Target } from "./targets.ts";

export const FORWARD_KIND = "forward/1";
export const OPENING_BYTES = 4;
const VERSION = 1;

/** What the server says once, before any byte of the connection. */
export const ForwardAnswer = {
  CONNECTED: 0,
  /** No rule of the server lets this member go there. */
  NOT_ALLOWED: 1,
  /** Nobody listens there. */
  REFUSED: 2,
  /** No way there, no such name, no answer in time. */
  UNREACHABLE: 3,
  /** Too many connections at once. */
  BUSY: 4,
  /** The opening is malformed. */
  BAD: 5,
} as const;
export type ForwardAnswer = (typeof ForwardAnswer)[keyof typeof ForwardAnswer];

const NAMES: readonly string[] = ["connected", "not allowed", "refused", "unreachable", "busy", "malformed"];

export function answerName(answer: number): string {
  return NAMES[answer] ?? `unknown answer ${answer}`;
}

/** @param target a host of at most 253 ASCII characters */
export function encodeOpening(target: Target): Uint8Array {
  const out = new Uint8Array(OPENING_BYTES + target.host.length);
  out[0] = VERSION;
  out[1] = target.host.length;
  out[2] = target.port & 255;
  out[3] = target.port >>> 8;
  for (let i = 0; i < target.host.length; i++) out[OPENING_BYTES + i] = target.host.charCodeAt(i);
  return out;
}

/** @param head the first OPENING_BYTES @returns bytes that follow, undefined when it cannot become an opening */
export function hostBytes(head: Uint8Array): number | undefined {
  if (head.length < OPENING_BYTES || head[0] !== VERSION || head[1] > MAX_HOST_BYTES) return undefined;
  return head[2] === 0 && head[3] === 0 ? undefined : head[1];
}

/** @param host the bytes that follow the head; anything may be in them @returns undefined when they are no host */
export function decodeOpening(head: Uint8Array, host: Uint8Array): Target | undefined {
  if (hostBytes(head) !== host.length) return undefined;
  const text = String.fromCharCode(...host);
  if (text !== "" && !isHost(text)) return undefined;
  return { host: text, port: head[2] | (head[3] << 8) };
}
