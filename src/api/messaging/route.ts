/**
 * What a route of the local API is. A route is a value: method, path, scope and the schemas that validate; the same schemas make the
 * OpenAPI document, so a limit is written once. Parts write `export const X_ROUTES: readonly AnyRoute[] = [defineRoute({…}), …]`
 * and add them to routes.ts; handlers reach the node through `call.control` alone.
 *
 * Input is validated before a handler runs: unknown fields of a body are refused, query and path values that the schema calls numbers or
 * booleans are converted strictly, nesting deeper than 32 is refused before it is parsed.
 * Source: docs/guide.md, "The local API".
 *
 *   defineRoute({
 *     method: "POST", path: "/v1/topics/:topic/messages", scope: "publish", summary: "Publishes one message.",
 *     params: z.strictObject({ topic: text(128, 1) }), body: publishBody, response: published,
 *     handler: ({ control, params, body }) => need(control.messaging?.pubsub, "publish/subscribe").publish(params.topic, body),
 *   })
 */
import type * as z from "zod/mini";
import { WeftError } from "../../base/errors.ts";
import type { NodeControl } from "../control.ts";

/** What a token may be allowed; "admin" includes everything, and so does the unix socket. */
export const SCOPES = [
  "read",
  "publish",
  "subscribe",
  "send",
  "inbox",
  "groups",
  "kv",
  "tasks",
  "history",
  "files",
  "forward",
  "exec",
  "agents",
  "admin",
] as const;
export type Scope = (typeof SCOPES)[number];

export type Schema = z.ZodMiniType;
type Output<S> = S extends Schema ? z.output<S> : undefined;
type DeepReadonly<T> = T extends readonly (infer U)[]
  ? readonly DeepReadonly<U>[]
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T;

/** Who calls. */
export interface Caller {
  readonly via: "socket" | "token";
  /** Id of the token; "socket" on the unix socket. */
  readonly id: string;
  readonly scopes: ReadonlySet<Scope>;
  /** The only agent this caller may act as; undefined: any of this node. */
  readonly agent: string | undefined;
}

export interface Call<P = undefined, Q = undefined, B = undefined> {
  readonly control: NodeControl;
  readonly caller: Caller;
  readonly params: P;
  readonly query: Q;
  readonly body: B;
  /** Aborted when the client goes away before it is answered. */
  readonly signal: AbortSignal;
}

export type Method = "GET" | "POST" | "PUT" | "DELETE";

/** What route and stream have in common; what the OpenAPI document is made of. */
interface Described {
  /** Below /v1/, parameters with a colon: "/v1/topics/:topic/messages". */
  readonly path: string;
  readonly scope: Scope;
  /** One sentence. */
  readonly summary: string;
  /** A strict object with one text field for each parameter of the path. */
  readonly params?: Schema | undefined;
  /** A strict object; its fields may be text, numbers, booleans or lists of text (repeated keys). */
  readonly query?: Schema | undefined;
}

export interface Route extends Described {
  readonly kind: "route";
  readonly method: Method;
  readonly body?: Schema | undefined;
  readonly response: Schema;
  /** Of the answer, when it is text and not JSON; the handler returns the text. */
  readonly mediaType?: string | undefined;
  /** @default 65536 */
  readonly maxBodyBytes: number;
  readonly handler: (call: Call<never, never, never>) => unknown;
}

/** One event as a part makes it. */
export interface StreamEvent {
  /** One of the names in `events`. */
  readonly event: string;
  readonly data: unknown;
}

export interface StoredEvent extends StreamEvent {
  /** The position right after it: a client that comes back with it gets the next one. At most 128 characters without line breaks. */
  readonly id: string;
}

/**
 * Events that exist only while somebody listens. Clients with the same key share one bounded ring; each has its position in it, so a
 * slow one loses its own oldest events and gets a `gap` event that says how many. The ring goes on for two minutes after the last
 * client left: one that comes back with Last-Event-ID misses nothing that is still in it, else it gets a `gap` event first.
 */
export interface LiveSource {
  readonly kind: "live";
  /** The path with its parameters and all that changes what is delivered, and the agent if it matters. */
  readonly key: string;
  /** How long it goes on after the last client left; short where somebody waits for a client. @default 120000 */
  readonly lingerMs?: number | undefined;
  /** Called once for all clients of the key, so rights are checked before it, in `open`. @returns what ends it */
  start(emit: (event: StreamEvent) => void): (() => void) | Promise<() => void>;
}

/** Events that are stored: pages are read as fast as the client takes them, nothing is kept here and nothing dropped. */
export interface StoredSource {
  readonly kind: "stored";
  /** @param after id of the last event the client has; undefined: where a new client begins @param limit most events to return */
  read(
    after: string | undefined,
    limit: number,
  ): Promise<{ readonly events: readonly StoredEvent[]; readonly gap?: Gap | undefined }>;
  /** @param more to be called when there may be something new @returns what ends it */
  watch(more: () => void): () => void;
}

/** Sent as event `gap`. */
export interface Gap {
  /** null: nobody knows. */
  readonly missed: number | null;
  /** "slow": the client did not read fast enough · "overrun": it stayed away too long · "restarted": the buffer it knew is gone */
  readonly reason: "slow" | "overrun" | "restarted";
}

export interface Stream extends Described {
  readonly kind: "stream";
  /** Data of each event by its name. */
  readonly events: Readonly<Record<string, Schema>>;
  readonly open: (call: Call<never, never>) => LiveSource | StoredSource | Promise<LiveSource | StoredSource>;
}

export type AnyRoute = Route | Stream;

export const DEFAULT_MAX_BODY_BYTES = 65536;

export function defineRoute<
  R extends Schema,
  P extends Schema | undefined = undefined,
  Q extends Schema | undefined = undefined,
  B extends Schema | undefined = undefined,
>(
  definition: Omit<Described, "params" | "query"> & {
    readonly method: Method;
    readonly params?: P;
    readonly query?: Q;
    readonly body?: B;
    readonly response: R;
    /** Of the answer, when it is text and not JSON; `response` is z.string() then. @default JSON */
    readonly mediaType?: string;
    /** @default 65536 */
    readonly maxBodyBytes?: number;
    readonly handler: (
      call: Call<Output<P>, Output<Q>, Output<B>>,
    ) => DeepReadonly<z.output<R>> | Promise<DeepReadonly<z.output<R>>>;
  },
): Route {
  return { kind: "route", ...definition, maxBodyBytes: definition.maxBodyBytes ?? DEFAULT_MAX_BODY_BYTES };
}

/** Served as Server-Sent Events under its path, and on the WebSocket by naming the path. */
export function defineStream<P extends Schema | undefined = undefined, Q extends Schema | undefined = undefined>(
  definition: Omit<Described, "params" | "query"> & {
    readonly params?: P;
    readonly query?: Q;
    readonly events: Readonly<Record<string, Schema>>;
    readonly open: (call: Call<Output<P>, Output<Q>>) => LiveSource | StoredSource | Promise<LiveSource | StoredSource>;
  },
): Stream {
  return { kind: "stream", ...definition };
}

/** @throws WeftError NOT_READY when this node has no such part */
export function need<T>(part: T | undefined, what: string): T {
  if (part === undefined) throw new WeftError("NOT_READY", `this node has no ${what}`, "start the node first");
  return part;
}

/** For what is not of one agent. @param what ends the message: "cannot make agents" @throws WeftError FORBIDDEN when the caller may act as one agent only */
export function checkUnbound(caller: Caller, what: string): void {
  if (caller.agent === undefined) return;
  throw new WeftError(
    "FORBIDDEN",
    `this token belongs to the agent "${caller.agent}" and ${what}`,
    "use a token that is not bound to an agent: weft token create without --agent",
  );
}

/**
 * The agent a caller acts as.
 * @param wanted what the request names; undefined: the caller's own, else "node" @throws WeftError FORBIDDEN when it may not be that one
 */
export function agentOf(caller: Caller, wanted: string | undefined): string {
  if (caller.agent !== undefined && wanted !== undefined && wanted !== caller.agent) {
    throw new WeftError(
      "FORBIDDEN",
      `this token belongs to the agent "${caller.agent}", not to "${wanted}"`,
      "use a token of that agent: weft token create --agent NAME",
    );
  }
  return wanted ?? caller.agent ?? "node";
}
