/**
 * SOCKS version 5 (RFC 1928), the server's side up to the request: no authentication, CONNECT alone.
 *   greeting  05 | methods u8 | method …             → 05 00, or 05 ff when the client offers no "no authentication"
 *   request   05 | 01 connect | 00 | type 01 address 4, 03 length u8 ‖ name, 04 address 16 | port u16, big-endian
 *   reply     05 | reply | 00 | 01 | 0.0.0.0 | 0
 * Holds at most one request; what comes behind it is given back untouched. Sans-I/O.
 */
import { concat } from "../../base/bytes.ts";
import { formatAddress } from "../../base/endpoint.ts";
import { isHost, type Target } from "./targets.ts";

/** RFC 1928 section 6. */
export const SocksReply = {
  GRANTED: 0,
  FAILURE: 1,
  NOT_ALLOWED: 2,
  NETWORK_UNREACHABLE: 3,
  HOST_UNREACHABLE: 4,
  REFUSED: 5,
  COMMAND_NOT_SUPPORTED: 7,
  ADDRESS_NOT_SUPPORTED: 8,
} as const;
export type SocksReply = (typeof SocksReply)[keyof typeof SocksReply];

const VERSION = 5;
const CONNECT = 1;
const NO_METHOD = 255;
const Type = { IPV4: 1, NAME: 3, IPV6: 4 } as const;

export type SocksStep =
  /** More bytes are needed; `reply` goes out first unless it is empty. */
  | { readonly kind: "more"; readonly reply: Uint8Array }
  /** @property reply goes out first unless it is empty @property rest bytes behind the request */
  | { readonly kind: "request"; readonly reply: Uint8Array; readonly target: Target; readonly rest: Uint8Array }
  /** The connection ends after `reply`. */
  | { readonly kind: "end"; readonly reply: Uint8Array };

const NOTHING = new Uint8Array(0);

export function encodeReply(reply: SocksReply): Uint8Array {
  return Uint8Array.of(VERSION, reply, 0, Type.IPV4, 0, 0, 0, 0, 0, 0);
}

export class SocksHandshake {
  #held: Uint8Array = NOTHING;
  #isGreeted = false;

  /** @param bytes as they come; not to be called again after a request or an end */
  add(bytes: Uint8Array): SocksStep {
    this.#held = this.#held.length === 0 ? bytes : concat(this.#held, bytes);
    let reply: Uint8Array = NOTHING;
    if (!this.#isGreeted) {
      const held = this.#held;
      if (held.length > 0 && held[0] !== VERSION) return { kind: "end", reply: NOTHING };
      const greetingBytes = 2 + (held[1] ?? 0);
      if (held.length < 2 || held.length < greetingBytes) return this.#more(NOTHING);
      const isOpen = held.subarray(2, greetingBytes).includes(0);
      reply = Uint8Array.of(VERSION, isOpen ? 0 : NO_METHOD);
      if (!isOpen) return { kind: "end", reply };
      this.#isGreeted = true;
      this.#held = held.subarray(greetingBytes);
    }
    return this.#request(reply);
  }

  #request(reply: Uint8Array): SocksStep {
    const held = this.#held;
    const refuse = (code: SocksReply): SocksStep => ({ kind: "end", reply: concat(reply, encodeReply(code)) });
    if (held.length > 0 && held[0] !== VERSION) return { kind: "end", reply };
    if (held.length < 5) return this.#more(reply);
    if (held[1] !== CONNECT) return refuse(SocksReply.COMMAND_NOT_SUPPORTED);
    const type = held[3];
    const at = type === Type.NAME ? 5 : 4;
    const length = type === Type.IPV4 ? 4 : type === Type.IPV6 ? 16 : type === Type.NAME ? held[4] : -1;
    if (length < 0) return refuse(SocksReply.ADDRESS_NOT_SUPPORTED);
    const end = at + length + 2;
    if (held.length < end) return this.#more(reply);
    const host = hostOf(type, held.subarray(at, at + length));
    const port = (held[end - 2] << 8) | held[end - 1];
    if (host === undefined || port === 0) return refuse(SocksReply.FAILURE);
    return { kind: "request", reply, target: { host, port }, rest: held.slice(end) };
  }

  #more(reply: Uint8Array): SocksStep {
    // a copy of the little that is held: a piece of a larger buffer would keep all of it alive
    this.#held = this.#held.slice();
    return { kind: "more", reply };
  }
}

function hostOf(type: number, bytes: Uint8Array): string | undefined {
  if (type === Type.NAME) {
    const name = String.fromCharCode(...bytes);
    return isHost(name) ? name : undefined;
  }
  if (type === Type.IPV6) return formatAddress(bytes);
  return bytes.join(".");
}
