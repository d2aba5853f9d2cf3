/**
 * Routes become handlers of one Hono application, which serves every door and the calls of WebSockets.
 *
 *   request → Host, Origin, token → route → scope → size → JSON, depth → schema → handler → JSON, or events at the client's pace
 *
 * Nothing is queued: a request is answered or refused. A stream holds a position in its source and one batch of events.
 */
import { Hono } from "hono";
import type { Context } from "hono";
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { checkAccess, checkLive, checkOrigin, checkScope, guardCursor, SOCKET_DOOR } from "./access.ts";
import type { Door } from "./access.ts";
import type { NodeControl } from "./control.ts";
import { errorBody, errorResponse } from "./errors.ts";
import type { EventCursor, EventHub, OutEvent } from "./event-hub.ts";
import { parseJson, validate, validateText } from "./input.ts";
import type {
  AnyRoute,
  Call,
  Caller,
  LiveSource,
  Route,
  Schema,
  StoredSource,
  Stream,
  StreamEvent,
} from "./messaging/route.ts";

/** Comments that keep proxies and dead connections honest. */
const HEARTBEAT_MS = 15_000;
/** When a browser comes back after the connection broke. */
const RETRY_MS = 1000;
const MAX_EVENT_ID_CHARACTERS = 128;

/** What a listener, or a WebSocket, hands to the application beside the request. */
export interface Bindings {
  readonly door?: Door | undefined;
  /** Set for calls of a WebSocket, whose access was checked when it was opened; its token may have ended since. */
  readonly caller?: Caller | undefined;
  /** Takes the events of a stream instead of an answer with them. */
  readonly takeCursor?: ((cursor: EventCursor) => void) | undefined;
}

export interface ApiEnv {
  readonly Bindings: Bindings;
  readonly Variables: { caller: Caller };
}

export interface ApiCounters {
  /** By HTTP status. */
  readonly answers: Map<number, number>;
  /** Requests without a valid Host, Origin or token. */
  refused: number;
}

export interface DispatchDeps {
  readonly control: NodeControl;
  readonly hub: EventHub;
  readonly log: Logger;
  readonly counters: ApiCounters;
  /** Answers and events that do not fit their own schema are defects; tests turn this on. */
  readonly checkOutput: boolean;
}

type ApiContext = Context<ApiEnv>;

/** Everything before a route is known, and what is said when there is none. */
export function createApp(deps: DispatchDeps, routes: readonly AnyRoute[]): Hono<ApiEnv> {
  const app = new Hono<ApiEnv>();
  const fail = (error: unknown, context: ApiContext): Response =>
    errorResponse(errorBody(error, `request ${context.req.method} ${context.req.path}`, deps.log));

  app.use(async (context, next) => {
    await next();
    const { status, headers } = context.res;
    // answers hold secrets and are nobody's page
    headers.set("cache-control", "no-store");
    headers.set("x-content-type-options", "nosniff");
    deps.counters.answers.set(status, (deps.counters.answers.get(status) ?? 0) + 1);
  });
  app.use(async (context, next) => {
    const { door = SOCKET_DOOR, caller } = context.env ?? {};
    if (caller !== undefined) {
      try {
        checkLive(door, caller);
      } catch (error) {
        deps.counters.refused++;
        return fail(error, context);
      }
      context.set("caller", caller);
      return next();
    }
    const header = (name: string): string | undefined => context.req.header(name);
    try {
      if (context.req.method === "OPTIONS") return preflight(checkOrigin(door, header));
      const access = checkAccess(door, header);
      context.set("caller", access.caller);
      await next();
      if (access.origin !== undefined) {
        context.header("access-control-allow-origin", access.origin);
        context.header("vary", "origin");
      }
      return undefined;
    } catch (error) {
      deps.counters.refused++;
      return fail(error, context);
    }
  });
  for (const route of routes) {
    if (route.kind === "route") app.on(route.method, route.path, (context) => call(deps, route, context));
    else app.get(route.path, (context) => stream(deps, route, context));
  }
  app.notFound((context) =>
    fail(
      new WeftError("NOT_FOUND", `no route ${context.req.method} ${context.req.path}`, "see /v1/openapi.json"),
      context,
    ),
  );
  app.onError(fail);
  return app;
}

/** The answer to a browser that asks before it calls; only origins that may call get this far. */
function preflight(origin: string | undefined): Response {
  if (origin === undefined) {
    return errorResponse({ code: "BAD_REQUEST", message: "OPTIONS without an Origin", remedy: "see /v1/openapi.json" });
  }
  return new Response(null, {
    status: 204,
    headers: {
      "access-control-allow-origin": origin,
      "access-control-allow-methods": "GET, POST, PUT, DELETE",
      "access-control-allow-headers": "authorization, content-type, last-event-id",
      "access-control-max-age": "600",
      vary: "origin",
    },
  });
}

/** @throws WeftError TOO_LARGE as soon as the limit is passed, BAD_REQUEST when it is not UTF-8 */
async function readBody(context: ApiContext, most: number): Promise<string> {
  const tooLarge = (): WeftError => new WeftError("TOO_LARGE", `the body is larger than ${most} bytes`, "send less");
  if (Number(context.req.header("content-length") ?? 0) > most) throw tooLarge();
  const { body } = context.req.raw;
  if (body === null) return "";
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  let total = 0;
  try {
    for await (const chunk of body as ReadableStream<Uint8Array>) {
      total += chunk.length;
      if (total > most) throw tooLarge();
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch (cause) {
    if (cause instanceof WeftError) throw cause;
    throw new WeftError("BAD_REQUEST", "the body is not UTF-8, or ended early", "send a JSON object", { cause });
  }
}

/** Scope and schemas; the body comes last, when it is known that the caller may send one. */
async function input(
  deps: DispatchDeps,
  route: AnyRoute,
  context: ApiContext,
): Promise<Call<unknown, unknown, unknown>> {
  const caller = context.get("caller");
  checkScope(caller, route.scope);
  const params = route.params === undefined ? undefined : validateText(route.params, context.req.param());
  const query = route.query === undefined ? undefined : validateText(route.query, context.req.queries());
  const schema = route.kind === "route" ? route.body : undefined;
  const body =
    schema === undefined
      ? undefined
      : validate(schema, parseJson(await readBody(context, (route as Route).maxBodyBytes)));
  return {
    control: deps.control,
    caller,
    params,
    query,
    body,
    // made when somebody asks for it
    get signal() {
      return context.req.raw.signal;
    },
  };
}

async function call(deps: DispatchDeps, route: Route, context: ApiContext): Promise<Response> {
  const handler = route.handler as (call: Call<unknown, unknown, unknown>) => unknown;
  const answer = await handler(await input(deps, route, context));
  if (deps.checkOutput) checkOutput(route.response, answer, `${route.method} ${route.path}`);
  return route.mediaType === undefined
    ? context.json(answer)
    : context.body(answer as string, 200, { "content-type": route.mediaType });
}

async function stream(deps: DispatchDeps, route: Stream, context: ApiContext): Promise<Response> {
  // a HEAD request would open a stream that nobody reads
  if (context.req.raw.method !== "GET") {
    throw new WeftError("BAD_REQUEST", `${context.req.path.slice(0, 80)} is a stream`, "read it with GET");
  }
  const given = await input(deps, route, context);
  const after = context.req.header("last-event-id");
  if (after !== undefined && after.length > MAX_EVENT_ID_CHARACTERS) {
    throw new WeftError("BAD_REQUEST", "Last-Event-ID is too long", "send the id of the last event as it came");
  }
  const open = route.open as (call: Call<unknown, unknown, unknown>) => ReturnType<Stream["open"]>;
  const source = withKey(route, given.params, await open(given));
  const checked =
    deps.checkOutput && source.kind === "live"
      ? {
          ...source,
          start: (emit: (event: StreamEvent) => void) => source.start((event) => emit(checkEvent(route, event))),
        }
      : source;
  const opened = await deps.hub.open(checked, after === "" ? undefined : after);
  const cursor = guardCursor(context.env?.door ?? SOCKET_DOOR, given.caller, opened);
  const take = context.env?.takeCursor;
  if (take !== undefined) {
    take(cursor);
    return new Response(null, { status: 204 });
  }
  return new Response(sseBody(cursor, deps.log), {
    headers: { "content-type": "text/event-stream", "x-accel-buffering": "no" },
  });
}

/** Rings of different routes, or of different parameters, are different ones whatever the route calls them. */
function withKey(route: Stream, params: unknown, source: LiveSource | StoredSource): LiveSource | StoredSource {
  if (source.kind === "stored") return source;
  return {
    kind: "live",
    lingerMs: source.lingerMs,
    key: `${route.path} ${JSON.stringify(params ?? null)} ${source.key}`,
    start: (emit) => source.start(emit),
  };
}

function checkEvent(route: Stream, event: StreamEvent): StreamEvent {
  const schema = Object.hasOwn(route.events, event.event) ? route.events[event.event] : undefined;
  if (schema === undefined) throw new Error(`${route.path} has no event "${event.event}"`);
  checkOutput(schema, event.data, `event ${event.event} of ${route.path}`);
  return event;
}

/** @throws Error, which becomes INTERNAL */
function checkOutput(schema: Schema, value: unknown, what: string): void {
  try {
    validate(schema, value);
  } catch (error) {
    throw new Error(`${what} does not fit its own schema: ${(error as Error).message}`, { cause: error });
  }
}

/** @returns the text of one event as Server-Sent Events have it */
function sseText({ id, event, json }: OutEvent): string {
  return `${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${json}\n\n`;
}

/** Asks for the next events only when the connection has taken the ones before. */
function sseBody(cursor: EventCursor, log: Logger): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let isFirst = true;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const events = await cursor.next(HEARTBEAT_MS);
          const head = isFirst ? `retry: ${RETRY_MS}\n` : "";
          isFirst = false;
          if (events === undefined) {
            cursor.close();
            controller.close();
          } else
            controller.enqueue(encoder.encode(head + (events.length === 0 ? ":\n\n" : events.map(sseText).join(""))));
        } catch (error) {
          cursor.close();
          const body = errorBody(error, "an event stream", log);
          controller.enqueue(encoder.encode(sseText({ id: undefined, event: "error", json: JSON.stringify(body) })));
          controller.close();
        }
      },
      cancel: () => cursor.close(),
    },
    { highWaterMark: 0 },
  );
}
