/**
 * The WebSocket of the local API, at /v1/ws with the subprotocol "weft.v1": calls and streams over one connection, as JSON messages. What
 * a call may do, and what it is checked against, is what it is over HTTP: it goes through the same application.
 *
 *   → {"id": 1, "method": "POST", "path": "/v1/topics/news/messages", "body": {"text": "hi"}}   ← {"id": 1, "status": 200, "body": {…}}
 *   → {"id": 2, "subscribe": "/v1/topics/news/events", "lastEventId": "…"}                      ← {"id": 2, "status": 200}, then
 *                                                        ← {"id": 2, "event": "message", "eventId": "…", "data": {…}}, and at its end
 *   → {"id": 2, "cancel": true}  ends a stream, or gives up a call                              ← {"id": 2, "end": true}
 *
 * `id` is any whole number the client chooses, unique among what it has open. A connection has at most 32 calls and 32 streams open; more
 * are answered with BUSY. Events wait in their source until the connection has taken the ones before. When the token is revoked or expires,
 * calls and streams end and the connection is closed with 1008.
 * Source: RFC 6455; docs/guide.md, "The local API".
 */
import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import type { Hono } from "hono";
import { WebSocketServer } from "ws";
import type { WebSocket } from "ws";
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { checkAccess, onAccessEnd, WS_PROTOCOL } from "./access.ts";
import type { Door } from "./access.ts";
import type { ApiCounters, ApiEnv } from "./dispatch.ts";
import { errorBody, statusOf } from "./errors.ts";
import type { ErrorBody } from "./errors.ts";
import type { EventCursor } from "./event-hub.ts";
import { oneOf, text, whole } from "./fields.ts";
import { parseJson, validate } from "./input.ts";
import type { Caller } from "./messaging/route.ts";

export const WS_PATH = "/v1/ws";
const MAX_MESSAGE_BYTES = 2 << 20;
const MAX_OPEN = 32;
const MAX_SOCKETS = 64;
const PING_MS = 30_000;
/** For a client to answer the end of the connection; then it is cut. */
const CLOSE_MS = 200;
/** Answers wait for nothing; a client that asks and never reads is closed here. */
const MAX_BUFFERED_BYTES = 8 << 20;

const id = whole(0, 2 ** 53 - 1);
const callMessage = z.strictObject({
  id,
  method: z.optional(oneOf(["GET", "POST", "PUT", "DELETE"])),
  path: text(2048, 1),
  body: z.optional(z.unknown()),
});
const subscribeMessage = z.strictObject({ id, subscribe: text(2048, 1), lastEventId: z.optional(text(128)) });
const cancelMessage = z.strictObject({ id, cancel: z.literal(true) });

interface Deps {
  readonly app: Hono<ApiEnv>;
  readonly log: Logger;
  readonly counters: ApiCounters;
}

/** @returns what closes every connection */
export function serveWebSockets(server: Server, door: Door, deps: Deps): () => void {
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE_BYTES,
    perMessageDeflate: false,
    clientTracking: true,
    handleProtocols: (offered) => (offered.has(WS_PROTOCOL) ? WS_PROTOCOL : false),
  });
  /** The server forgets a connection that is upgraded, so nobody else would end it. */
  const upgraded = new Set<Duplex>();
  const upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer): void => {
    upgraded.add(socket);
    socket.on("close", () => upgraded.delete(socket));
    socket.on("error", () => socket.destroy());
    try {
      if (request.url !== WS_PATH) {
        throw new WeftError("NOT_FOUND", "no WebSocket here", `use ${WS_PATH}`);
      }
      const { caller } = checkAccess(door, (name) => {
        const value = request.headers[name];
        return Array.isArray(value) ? value.join(",") : value;
      });
      if (sockets.clients.size >= MAX_SOCKETS) {
        throw new WeftError("STREAMS_FULL", "too many WebSockets are open", "close some of them, then try again");
      }
      sockets.handleUpgrade(request, socket, head, (client) => new Connection(client, door, caller, deps).start());
    } catch (error) {
      deps.counters.refused++;
      refuse(socket, errorBody(error, "a WebSocket upgrade", deps.log));
    }
  };
  server.on("upgrade", upgrade);
  return () => {
    server.off("upgrade", upgrade);
    for (const client of sockets.clients) client.close(1001, "the daemon is stopping");
    const impatient = setTimeout(() => {
      for (const socket of upgraded) socket.destroy();
    }, CLOSE_MS);
    impatient.unref();
    sockets.close();
  };
}

function refuse(socket: Duplex, body: ErrorBody): void {
  const text = JSON.stringify(body);
  // the other side may leave its half open for ever
  socket.once("finish", () => socket.destroy());
  socket.end(
    `HTTP/1.1 ${statusOf(body.code)} Refused\r\nconnection: close\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
}

class Connection {
  readonly #socket: WebSocket;
  readonly #door: Door;
  readonly #caller: Caller;
  readonly #deps: Deps;
  readonly #calls = new Map<number, AbortController>();
  /** undefined: it is being opened. */
  readonly #streams = new Map<number, EventCursor | undefined>();
  #isAlive = true;

  constructor(socket: WebSocket, door: Door, caller: Caller, deps: Deps) {
    this.#socket = socket;
    this.#door = door;
    this.#caller = caller;
    this.#deps = deps;
  }

  start(): void {
    const timer = setInterval(() => {
      if (!this.#isAlive) return this.#socket.terminate();
      this.#isAlive = false;
      this.#socket.ping();
    }, PING_MS);
    timer.unref();
    this.#socket.on("pong", () => (this.#isAlive = true));
    this.#socket.on("error", (error) => this.#deps.log.debug(`a WebSocket ended: ${error.message}`));
    this.#socket.on("message", (data, isBinary) => this.#message(isBinary ? "" : (data as Buffer).toString("utf8")));
    let forget: () => void = () => undefined;
    this.#socket.on("close", () => {
      clearInterval(timer);
      forget();
      this.#endAll();
    });
    forget = onAccessEnd(this.#door, this.#caller, () => {
      this.#endAll();
      this.#socket.close(1008, "the token is not valid any more");
      setTimeout(() => this.#socket.terminate(), CLOSE_MS).unref();
    });
  }

  #endAll(): void {
    for (const call of this.#calls.values()) call.abort();
    for (const cursor of this.#streams.values()) cursor?.close();
  }

  #message(json: string): void {
    // it may go on talking while it is being closed
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    this.#isAlive = true;
    let given: unknown;
    try {
      given = parseJson(json);
      if (typeof given === "object" && given !== null && "subscribe" in given) {
        const wanted = validate(subscribeMessage, given);
        this.#needRoom(wanted.id, this.#streams.size);
        void this.#subscribe(wanted.id, wanted.subscribe, wanted.lastEventId);
      } else if (typeof given === "object" && given !== null && "cancel" in given) {
        this.#cancel(validate(cancelMessage, given).id);
      } else {
        const wanted = validate(callMessage, given);
        this.#needRoom(wanted.id, this.#calls.size);
        void this.#call(wanted.id, wanted.method ?? "GET", wanted.path, wanted.body);
      }
    } catch (error) {
      const number = (given as { id?: unknown } | undefined)?.id;
      this.#refuse(typeof number === "number" ? number : null, error);
    }
  }

  #needRoom(number: number, open: number): void {
    if (this.#calls.has(number) || this.#streams.has(number)) {
      throw new WeftError("BAD_REQUEST", `id: ${number} is open already`, "number calls and streams apart");
    }
    if (open >= MAX_OPEN) {
      throw new WeftError("BUSY", `${MAX_OPEN} are open on this connection`, "wait for answers, or end a stream");
    }
  }

  async #call(number: number, method: string, path: string, body: unknown): Promise<void> {
    const abort = new AbortController();
    this.#calls.set(number, abort);
    try {
      const request = this.#request(path, {
        method,
        signal: abort.signal,
        ...(method === "GET" || body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const response = await this.#deps.app.fetch(request, {
        door: this.#door,
        caller: this.#caller,
        takeCursor: (cursor) => cursor.close(),
      });
      if (response.status === 204) {
        throw new WeftError("BAD_REQUEST", `path: ${path.slice(0, 80)} is a stream`, "subscribe to it");
      }
      const isJson = response.headers.get("content-type")?.startsWith("application/json") === true;
      const answer: unknown = isJson ? await response.json() : await response.text();
      if (!abort.signal.aborted) this.#send({ id: number, status: response.status, body: answer });
    } catch (error) {
      if (!abort.signal.aborted) this.#refuse(number, error);
    } finally {
      this.#calls.delete(number);
    }
  }

  async #subscribe(number: number, path: string, lastEventId: string | undefined): Promise<void> {
    this.#streams.set(number, undefined);
    const taken: { cursor?: EventCursor } = {};
    try {
      const request = this.#request(
        path,
        lastEventId === undefined ? {} : { headers: { "last-event-id": lastEventId } },
      );
      const response = await this.#deps.app.fetch(request, {
        door: this.#door,
        caller: this.#caller,
        takeCursor: (opened) => (taken.cursor = opened),
      });
      const { cursor } = taken;
      if (cursor === undefined) {
        if (response.ok) throw new WeftError("BAD_REQUEST", `subscribe: ${path.slice(0, 80)} is no stream`, "call it");
        return this.#send({ id: number, status: response.status, body: await response.json() });
      }
      // it may have been cancelled, or the connection closed, while it was opened
      if (!this.#streams.has(number) || this.#socket.readyState !== this.#socket.OPEN) return;
      this.#streams.set(number, cursor);
      this.#send({ id: number, status: 200 });
      await this.#pump(number, cursor);
    } catch (error) {
      this.#refuse(number, error);
    } finally {
      taken.cursor?.close();
      this.#streams.delete(number);
    }
  }

  /** At the pace of the connection: the next events are asked for when these are written. */
  async #pump(number: number, cursor: EventCursor): Promise<void> {
    for (;;) {
      const events = await cursor.next(PING_MS);
      if (events === undefined) return this.#send({ id: number, end: true });
      for (const { id: eventId, event, json } of events) {
        const head = JSON.stringify({ id: number, event, ...(eventId === undefined ? {} : { eventId }) });
        await this.#write(`${head.slice(0, -1)},"data":${json}}`);
      }
    }
  }

  #cancel(number: number): void {
    const call = this.#calls.get(number);
    const cursor = this.#streams.get(number);
    if (call !== undefined) {
      call.abort();
      this.#send({ id: number, end: true });
    } else if (cursor !== undefined) cursor.close();
    else if (this.#streams.delete(number)) this.#send({ id: number, end: true });
  }

  #request(path: string, init: RequestInit): Request {
    if (!path.startsWith("/")) throw new WeftError("BAD_REQUEST", "path: must begin with /", "see /v1/openapi.json");
    return new Request(new URL(`http://weft${path}`), init);
  }

  #refuse(number: number | null, error: unknown): void {
    const body = errorBody(error, "a message on a WebSocket", this.#deps.log);
    this.#send({ id: number, status: statusOf(body.code), body });
  }

  #send(message: object): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    if (this.#socket.bufferedAmount > MAX_BUFFERED_BYTES) return this.#socket.terminate();
    this.#socket.send(JSON.stringify(message));
  }

  #write(text: string): Promise<void> {
    return new Promise((resolve, reject) =>
      this.#socket.send(text, (error) => (error === undefined || error === null ? resolve() : reject(error))),
    );
  }
}
