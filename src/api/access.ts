/**
 * Who may call. On the unix socket access to the socket is the authorisation. On the TCP door, which is on loopback alone, every request
 * needs a bearer token, and a page of another origin gets nothing: the Host header must be one of the door's own names (a rebound DNS name
 * is none of them), an Origin must be the door's own or one that the configuration allows.
 *
 * The WebSocket takes the token as a subprotocol "weft.token.TOKEN", because browsers cannot set a header there; never in the URL, which
 * ends up in logs and histories.
 * Source: docs/guide.md, "The local API"; RFC 6750; RFC 6454.
 */
import { WeftError } from "../base/errors.ts";
import type { EventCursor } from "./event-hub.ts";
import { SCOPES } from "./messaging/route.ts";
import type { Caller, Scope } from "./messaging/route.ts";
import type { TokenControl } from "./token-control.ts";

export const WS_PROTOCOL = "weft.v1";
const WS_TOKEN_PREFIX = "weft.token.";

/** One listener. */
export interface Door {
  readonly via: "socket" | "token";
  /** Values of the Host header that are this door, lower case. */
  readonly hosts: ReadonlySet<string>;
  /** Origins that may read answers, lower case, besides `http://HOST` of the hosts above. */
  readonly origins: ReadonlySet<string>;
  readonly tokens: TokenControl | undefined;
}

/** "weft" is what our own client says; "localhost" what `curl --unix-socket … http://localhost/` says. */
export const SOCKET_DOOR: Door = Object.freeze({
  via: "socket",
  hosts: new Set(["weft", "localhost"]),
  origins: new Set<string>(),
  tokens: undefined,
});

const SOCKET_CALLER: Caller = Object.freeze({
  via: "socket",
  id: "socket",
  scopes: new Set<Scope>(SCOPES),
  agent: undefined,
});

/** Header lookups by lower-case name. */
export type Headers = (name: string) => string | undefined;

export interface Access {
  readonly caller: Caller;
  /** The origin that may read the answer; undefined when the request names none. */
  readonly origin: string | undefined;
}

function forbidden(message: string, remedy: string): WeftError {
  return new WeftError("FORBIDDEN", message, remedy);
}

/** Host and Origin alone. @returns the Origin of the request, if it has one @throws WeftError FORBIDDEN */
export function checkOrigin(door: Door, header: Headers): string | undefined {
  const host = (header("host") ?? "").toLowerCase();
  if (!door.hosts.has(host)) {
    throw forbidden(
      `unexpected Host header "${host.slice(0, 80)}"`,
      "use the weft command, its client library, or the address the daemon listens on",
    );
  }
  const origin = header("origin")?.toLowerCase();
  if (origin === undefined) return undefined;
  const own = door.via === "token" && origin === `http://${host}`;
  if (!own && !door.origins.has(origin)) {
    throw forbidden(
      `requests from the origin "${origin.slice(0, 80)}" are not allowed`,
      "name it in weft.toml: [api] origins",
    );
  }
  return origin;
}

function tokenOf(header: Headers): string | undefined {
  const bearer = /^Bearer +([A-Za-z0-9_-]{1,128})$/i.exec(header("authorization") ?? "");
  if (bearer !== null) return bearer[1];
  const offered = (header("sec-websocket-protocol") ?? "").split(",", 8).map((name) => name.trim());
  return offered.find((name) => name.startsWith(WS_TOKEN_PREFIX))?.slice(WS_TOKEN_PREFIX.length);
}

/** @throws WeftError FORBIDDEN or UNAUTHORIZED */
export function checkAccess(door: Door, header: Headers): Access {
  const origin = checkOrigin(door, header);
  if (door.via === "socket") return { caller: SOCKET_CALLER, origin };
  const token = tokenOf(header);
  const caller = token === undefined ? undefined : door.tokens?.verify(token);
  if (caller === undefined) {
    throw new WeftError(
      "UNAUTHORIZED",
      token === undefined ? "a bearer token is missing" : "the bearer token is not valid",
      "make one with `weft token create NAME` and send it as `Authorization: Bearer TOKEN`",
    );
  }
  return { caller, origin };
}

function isLive(door: Door, caller: Caller): boolean {
  return caller.via === "socket" || door.tokens?.isLive(caller.id) === true;
}

/** Of a caller whose access was checked before: the token may have ended since. @throws WeftError UNAUTHORIZED */
export function checkLive(door: Door, caller: Caller): void {
  if (isLive(door, caller)) return;
  throw new WeftError(
    "UNAUTHORIZED",
    "the bearer token is not valid any more",
    "make another one with `weft token create NAME`",
  );
}

/** @param ended called once, at once if the token has ended already @returns forgets it */
export function onAccessEnd(door: Door, caller: Caller, ended: () => void): () => void {
  if (caller.via === "token" && door.tokens !== undefined) return door.tokens.onEnd(caller.id, ended);
  return () => undefined;
}

/** The same events, as long as the caller's token is valid; then it throws UNAUTHORIZED. */
export function guardCursor(door: Door, caller: Caller, cursor: EventCursor): EventCursor {
  if (caller.via === "socket") return cursor;
  // what waits in next() is woken by it
  const forget = onAccessEnd(door, caller, () => cursor.close());
  return {
    async next(waitMs) {
      const events = await cursor.next(waitMs);
      checkLive(door, caller);
      return events;
    },
    close() {
      forget();
      cursor.close();
    },
  };
}

/** @throws WeftError FORBIDDEN */
export function checkScope(caller: Caller, scope: Scope): void {
  if (caller.scopes.has(scope) || caller.scopes.has("admin")) return;
  throw forbidden(
    `this token lacks the scope "${scope}"`,
    `make one that has it: weft token create NAME --scope ${scope}`,
  );
}
