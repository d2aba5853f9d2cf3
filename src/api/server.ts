/**
 * The local HTTP API: JSON over the unix socket `weft.sock` (mode 0660, inside the 0700 state directory). Access to the socket is
 * the authorisation. Bodies are at most 64 KiB and validated; every error is {code, message, remedy} with a fitting HTTP status.
 *
 * request → size limit → Host check → route → schema → NodeControl → JSON. Nothing is queued here: a request is answered or refused.
 */
import { chmodSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { Server } from "node:http";
import { getRequestListener } from "@hono/node-server";
import { Hono } from "hono";
import type { Context } from "hono";
import { bodyLimit } from "hono/body-limit";
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { NodeControl } from "./control.ts";
import { addHostRoutes } from "./host-routes.ts";
import { addRosterRoutes } from "./roster-routes.ts";
import { formatPrometheus, PROMETHEUS_CONTENT_TYPE } from "./prometheus.ts";
import { emptyBody, inviteBody, netcheckBody, pingBody, revokeBody, whoisQuery } from "./schemas.ts";

export const MAX_BODY_BYTES = 65536;
/** sun_path is 108 bytes with its terminating zero (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;
const MAX_CONNECTIONS = 64;

type ErrorStatus = 400 | 404 | 409 | 413 | 500 | 503;

const STATUS_OF_CODE: Readonly<Record<string, ErrorStatus>> = {
  BAD_REQUEST: 400,
  NOT_FOUND: 404,
  NODE_UNKNOWN: 404,
  REQUEST_UNKNOWN: 404,
  INVITE_UNKNOWN: 404,
  TOO_LARGE: 413,
  INTERNAL: 500,
  NOT_READY: 503,
};

function errorResponse(context: Context, code: string, message: string, remedy: string): Response {
  return context.json({ code, message, remedy }, STATUS_OF_CODE[code] ?? 409);
}

/** Reads and validates a JSON body; an absent one counts as {}. */
async function body<T extends z.ZodMiniType>(context: Context, schema: T): Promise<z.output<T>> {
  const text = await context.req.text();
  let value: unknown;
  try {
    value = text === "" ? {} : JSON.parse(text);
  } catch (cause) {
    throw new WeftError("BAD_REQUEST", "the body is not JSON", "send a JSON object", { cause });
  }
  return check(schema, value);
}

function check<T extends z.ZodMiniType>(schema: T, value: unknown): z.output<T> {
  const result = z.safeParse(schema, value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue?.path.join(".") || "body";
  const what = issue?.code === "unrecognized_keys" ? `unknown field "${issue.keys[0]}"` : issue?.message;
  throw new WeftError("BAD_REQUEST", `${where}: ${what}`, "see `weft COMMAND --help` for what is accepted");
}

/** The routes alone, so that tests can call them without a socket. */
export function createApi(control: NodeControl, log: Logger): Hono {
  const app = new Hono();

  app.use(
    bodyLimit({
      maxSize: MAX_BODY_BYTES,
      onError: (context) =>
        errorResponse(context, "TOO_LARGE", `the body is larger than ${MAX_BODY_BYTES} bytes`, "send less"),
    }),
  );
  app.use(async (context, next) => {
    // a browser that was led here by a rebound name or a form sends one of these; our own client never does
    const host = context.req.header("host") ?? "";
    if (host !== "weft" || context.req.header("origin") !== undefined) {
      return errorResponse(
        context,
        "BAD_REQUEST",
        `unexpected Host or Origin header (${host})`,
        "use the weft command or its client library",
      );
    }
    return next();
  });

  app.get("/v1/status", (context) => context.json(control.status()));
  app.get("/v1/peers", (context) => context.json({ peers: control.peers() }));
  app.get("/v1/members", (context) => context.json({ members: control.members() }));
  app.get("/v1/health", (context) => context.json({ health: control.health() }));
  app.get("/v1/doctor", (context) => context.json({ facts: control.doctor() }));
  app.get("/v1/whois", (context) => {
    const { query } = check(whoisQuery, context.req.query());
    const found = control.whois(query);
    if (found === undefined) {
      throw new WeftError("NODE_UNKNOWN", `no member has the name, id or address "${query}"`, "see `weft members`");
    }
    return context.json(found);
  });
  app.get("/v1/explain", async (context) => {
    const { query } = check(whoisQuery, context.req.query());
    return context.json(await control.explain(query));
  });
  app.post("/v1/netcheck", async (context) => {
    const { timeoutMs } = await body(context, netcheckBody);
    const view = await control.netcheck?.(timeoutMs ?? 10_000);
    if (view === undefined) throw new WeftError("NOT_READY", "this node does not look around", "start it first");
    return context.json(view);
  });
  app.post("/v1/invite", async (context) => context.json(await control.invite(await body(context, inviteBody))));
  app.post("/v1/revoke", async (context) => {
    const { node, reason } = await body(context, revokeBody);
    return context.json(await control.revoke(node, reason ?? ""));
  });
  app.post("/v1/ping", async (context) => {
    const { peer, timeoutMs } = await body(context, pingBody);
    return context.json(await control.ping(peer, timeoutMs ?? 2000));
  });
  addHostRoutes(app, () => control.host, body);
  addRosterRoutes(app, () => control.roster, body);
  app.post("/v1/leave", async (context) => {
    await body(context, emptyBody);
    await control.leave();
    return context.json({});
  });
  app.post("/v1/down", async (context) => {
    await body(context, emptyBody);
    await control.down();
    return context.json({});
  });
  app.get("/metrics", (context) =>
    context.body(formatPrometheus(control.metrics()), 200, { "content-type": PROMETHEUS_CONTENT_TYPE }),
  );

  app.notFound((context) =>
    errorResponse(context, "NOT_FOUND", `no route ${context.req.method} ${context.req.path}`, "see docs/guide.md"),
  );
  app.onError((error, context) => {
    if (error instanceof WeftError) return errorResponse(context, error.code, error.message, error.remedy);
    log.error(`request ${context.req.method} ${context.req.path} failed: ${error.message}`, { stack: error.stack });
    return errorResponse(context, "INTERNAL", error.message, "see the daemon's log; this is a defect worth reporting");
  });
  return app;
}

export interface ApiServer {
  close(): Promise<void>;
}

/**
 * Listens on `socketPath`. The caller holds the lock of the state directory, so a socket that is there already is a dead one.
 * @throws WeftError SOCKET_PATH when the path is too long for a unix socket
 */
export async function serveApi(control: NodeControl, socketPath: string, log: Logger): Promise<ApiServer> {
  if (Buffer.byteLength(socketPath) > MAX_SOCKET_PATH_BYTES) {
    throw new WeftError(
      "SOCKET_PATH",
      `${socketPath} is longer than the ${MAX_SOCKET_PATH_BYTES} bytes a unix socket may have`,
      "choose a shorter directory with --state",
    );
  }
  rmSync(socketPath, { force: true });
  const listener = getRequestListener(createApi(control, log).fetch, { overrideGlobalObjects: false });
  const server: Server = createServer(
    { requestTimeout: 90_000 },
    (request, response) => void listener(request, response),
  );
  server.maxConnections = MAX_CONNECTIONS;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socketPath, () => {
      server.off("error", reject);
      resolve();
    });
  });
  chmodSync(socketPath, 0o660);
  server.on("error", (error) => log.warn(`local API: ${error.message}`));
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        // idle keep-alive connections would hold it open; the one that asked for `down` has got its answer by then
        server.closeIdleConnections();
        setTimeout(() => server.closeAllConnections(), 200).unref();
      }),
  };
}
