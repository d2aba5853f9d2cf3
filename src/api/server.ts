/**
 * The local API: JSON over HTTP, events over SSE and WebSocket, on two doors: the unix socket `weft.sock` (mode 0660, inside the 0700
 * state directory; access to it is the authorisation) and, where configured, a TCP address of loopback with bearer tokens. Every error
 * is {code, message, remedy} with a fitting HTTP status. What a request passes through is drawn in dispatch.ts.
 */
import { randomBytes } from "node:crypto";
import { chmodSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import type { Hono } from "hono";
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { ownListeners } from "../base/own-listeners.ts";
import { SOCKET_DOOR } from "./access.ts";
import type { Door } from "./access.ts";
import type { MetricSample, NodeControl } from "./control.ts";
import { createApp } from "./dispatch.ts";
import type { ApiCounters, ApiEnv } from "./dispatch.ts";
import { EventHub } from "./event-hub.ts";
import type { HubLimits } from "./event-hub.ts";
import { HOST_ROUTES } from "./host-routes.ts";
import { DEFAULT_MAX_BODY_BYTES, defineRoute } from "./messaging/route.ts";
import type { AnyRoute } from "./messaging/route.ts";
import { MESSAGING_ROUTES } from "./messaging/routes.ts";
import { NODE_ROUTES } from "./node-routes.ts";
import { openApiDocument } from "./openapi.ts";
import { weftVersion } from "./paths.ts";
import { formatPrometheus, PROMETHEUS_CONTENT_TYPE } from "./prometheus.ts";
import { ROSTER_ROUTES } from "./roster-routes.ts";
import type { TokenControl } from "./token-control.ts";
import { tokenRoutes } from "./token-routes.ts";
import { serveWebSockets } from "./web-socket.ts";

export const MAX_BODY_BYTES: number = DEFAULT_MAX_BODY_BYTES;
/** sun_path is 108 bytes with its terminating zero (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;
/** Of each door: more than the streams and WebSockets that the hub admits. */
const MAX_CONNECTIONS = 320;

export interface ApiOptions {
  /** Loopback address for clients with tokens; undefined = the unix socket alone. */
  readonly listen?: { readonly address: string; readonly port: number } | undefined;
  /** Origins of pages that may call with a token, besides pages of the door itself. @default none */
  readonly origins?: readonly string[] | undefined;
  readonly tokens?: TokenControl | undefined;
  /** Answers that do not fit their own schema become errors; for tests. @default false */
  readonly checkOutput?: boolean | undefined;
  readonly hub?: Partial<HubLimits> | undefined;
  /** Instead of the routes of the product; for tests. */
  readonly routes?: readonly AnyRoute[] | undefined;
}

export interface Api {
  readonly app: Hono<ApiEnv>;
  readonly hub: EventHub;
  readonly counters: ApiCounters;
  readonly routes: readonly AnyRoute[];
}

/** The application alone, so that tests can call it without a socket. */
export function createApi(
  control: NodeControl,
  log: Logger,
  options: ApiOptions = {},
  address: () => string | null = () => null,
): Api {
  const counters: ApiCounters = { answers: new Map(), refused: 0 };
  const hub = new EventHub(
    { nowMs: () => performance.now(), token: () => randomBytes(6).toString("hex") },
    options.hub ?? {},
  );
  const routes: AnyRoute[] = [
    ...NODE_ROUTES,
    ...HOST_ROUTES,
    ...ROSTER_ROUTES,
    ...MESSAGING_ROUTES,
    ...tokenRoutes(options.tokens, address),
    ...(options.routes ?? []),
  ];
  let document: Readonly<Record<string, unknown>> | undefined;
  routes.push(
    defineRoute({
      method: "GET",
      path: "/metrics",
      scope: "read",
      summary: "Figures in the text format of Prometheus.",
      response: z.string(),
      mediaType: PROMETHEUS_CONTENT_TYPE,
      handler: () => formatPrometheus([...control.metrics(), ...apiMetrics(counters, hub)]),
    }),
    defineRoute({
      method: "GET",
      path: "/v1/openapi.json",
      scope: "read",
      summary: "This document.",
      response: z.record(z.string(), z.unknown()),
      handler: () => (document ??= openApiDocument(routes, weftVersion())),
    }),
  );
  const app = createApp({ control, hub, log, counters, checkOutput: options.checkOutput ?? false }, routes);
  return { app, hub, counters, routes };
}

function apiMetrics(counters: ApiCounters, hub: EventHub): readonly MetricSample[] {
  const one = (name: string, type: "counter" | "gauge", help: string, value: number): MetricSample => ({
    name: `weft_api_${name}`,
    type,
    help,
    labels: {},
    value,
  });
  const answers = [...counters.answers].map(([status, value]): MetricSample => ({
    name: "weft_api_answers_total",
    type: "counter",
    help: "Answers of the local API by HTTP status.",
    labels: { status: String(status) },
    value,
  }));
  return [
    ...answers,
    one("refused_total", "counter", "Requests without a valid Host, Origin or token.", counters.refused),
    one("streams", "gauge", "Clients that read events now.", hub.clients),
    one("stream_rings", "gauge", "Live event buffers, lingering ones included.", hub.ringCount),
    one("stream_buffered_bytes", "gauge", "Characters of events in live buffers.", hub.bufferedBytes),
    one("stream_events_total", "counter", "Events offered to clients.", hub.counters.events),
    one(
      "stream_missed_total",
      "counter",
      "Events that slow or absent clients lost, as they were told.",
      hub.counters.missed,
    ),
    one("stream_gaps_total", "counter", "Gap events sent.", hub.counters.gaps),
    one("stream_refused_total", "counter", "Streams refused at a limit.", hub.counters.refused),
  ];
}

export interface ApiServer {
  /** "127.0.0.1:9339" of the TCP door; null = there is none. */
  readonly address: string | null;
  close(): Promise<void>;
}

/**
 * Listens on `socketPath` and, if the options say so, on loopback. The caller holds the lock of the state directory, so a socket that is
 * there already is a dead one.
 * @throws WeftError SOCKET_PATH when the path is too long for a unix socket, API_LISTEN when the TCP address cannot be had
 */
export async function serveApi(
  control: NodeControl,
  socketPath: string,
  log: Logger,
  options: ApiOptions = {},
): Promise<ApiServer> {
  if (Buffer.byteLength(socketPath) > MAX_SOCKET_PATH_BYTES) {
    throw new WeftError(
      "SOCKET_PATH",
      `${socketPath} is longer than the ${MAX_SOCKET_PATH_BYTES} bytes a unix socket may have`,
      "choose a shorter directory with --state",
    );
  }
  rmSync(socketPath, { force: true });
  let address: string | null = null;
  const api = createApi(control, log, options, () => address);
  const doors: OpenDoor[] = [];
  const open = async (server: Server, door: () => Door, listen: () => void): Promise<void> => {
    const opened = await openDoor(server, door, listen, api, log);
    doors.push(opened);
  };
  const close = async (): Promise<void> => {
    api.hub.close();
    await Promise.all(doors.map((door) => door.close()));
  };
  try {
    const unix = newServer();
    await open(
      unix,
      () => SOCKET_DOOR,
      () => unix.listen(socketPath),
    );
    chmodSync(socketPath, 0o660);
    const { listen } = options;
    if (listen !== undefined) {
      const tcp = newServer();
      await open(
        tcp,
        () => tcpDoor(addressOf(tcp), options),
        () => tcp.listen(listen.port, listen.address),
      ).catch((cause: Error) => {
        throw new WeftError(
          "API_LISTEN",
          `cannot listen on ${listen.address} port ${listen.port} for the local API: ${cause.message}`,
          "choose another [api] listen in weft.toml",
          { cause },
        );
      });
      address = addressOf(tcp);
      log.info(`listening on ${address} for clients with a token`);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    get address() {
      return address;
    },
    close,
  };
}

function addressOf(server: Server): string {
  const { address, port } = server.address() as AddressInfo;
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Every name that a program on this machine may use for the door. */
function tcpDoor(address: string, { origins = [], tokens }: ApiOptions): Door {
  const port = address.slice(address.lastIndexOf(":"));
  return {
    via: "token",
    hosts: new Set([address, `127.0.0.1${port}`, `localhost${port}`, `[::1]${port}`]),
    origins: new Set(origins.map((origin) => origin.toLowerCase())),
    tokens,
  };
}

function newServer(): Server {
  const server = createServer({ requestTimeout: 90_000, maxHeaderSize: 16_384 });
  server.maxConnections = MAX_CONNECTIONS;
  return server;
}

interface OpenDoor {
  close(): Promise<void>;
}

async function openDoor(
  server: Server,
  door: () => Door,
  listen: () => void,
  api: Api,
  log: Logger,
): Promise<OpenDoor> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.once("listening", () => {
      server.off("error", reject);
      resolve();
    });
    listen();
  });
  ownListeners.claim(server);
  // the port of a TCP door is known only now
  const bound = door();
  const listener = getRequestListener((request) => api.app.fetch(request, { door: bound }), {
    overrideGlobalObjects: false,
  });
  server.on("request", (request, response) => void listener(request, response));
  server.on("error", (error) => log.warn(`local API: ${error.message}`));
  const closeSockets = serveWebSockets(server, bound, { app: api.app, log, counters: api.counters });
  return {
    close: () =>
      new Promise((resolve) => {
        closeSockets();
        server.close(() => resolve());
        // idle keep-alive connections would hold it open; the one that asked for `down` has got its answer by then
        server.closeIdleConnections();
        setTimeout(() => server.closeAllConnections(), 200).unref();
      }),
  };
}
