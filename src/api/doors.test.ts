/** The doors of the local API as programs outside use them: real sockets, SSE, WebSocket, tokens, other origins. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { EventSource } from "eventsource";
import { WebSocket } from "ws";
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import { nullLogger } from "../base/log.ts";
import { WeftClient } from "../client/client.ts";
import type { NodeControl } from "./control.ts";
import { OBJECT, text } from "./fields.ts";
import { defineRoute, defineStream } from "./messaging/route.ts";
import type { AnyRoute, Caller, StreamEvent } from "./messaging/route.ts";
import { serveApi } from "./server.ts";
import type { ApiOptions, ApiServer } from "./server.ts";
import type { TokenControl } from "./token-control.ts";

const root = mkdtempSync(join(tmpdir(), "weft-doors-"));
after(() => rmSync(root, { recursive: true }));
let sockets = 0;

const CALLERS: Readonly<Record<string, Caller>> = {
  reader: { via: "token", id: "reader", scopes: new Set(["read"]), agent: undefined },
  chief: { via: "token", id: "chief", scopes: new Set(["admin"]), agent: undefined },
};

/** Token and id are the same; what ends tells those who hold something open, or says nothing, as a clock that was set. */
class Tokens implements TokenControl {
  readonly ended = new Set<string>();
  readonly waiting = new Set<{ readonly id: string; readonly ended: () => void }>();

  list(): readonly [] {
    return [];
  }

  create(): Promise<never> {
    return Promise.reject(new Error("not here"));
  }

  revoke(): Promise<never> {
    return Promise.reject(new Error("not here"));
  }

  verify(token: string): Caller | undefined {
    return Object.hasOwn(CALLERS, token) && this.isLive(token) ? CALLERS[token] : undefined;
  }

  isLive(id: string): boolean {
    return !this.ended.has(id);
  }

  onEnd(id: string, ended: () => void): () => void {
    const one = { id, ended };
    this.waiting.add(one);
    return () => this.waiting.delete(one);
  }

  end(id: string): void {
    this.ended.add(id);
    for (const one of this.waiting) if (one.id === id) one.ended();
  }
}
const tokens = new Tokens();

/** Topics that the test speaks on, and calls that never end by themselves. */
class World {
  readonly topics = new Map<string, (event: StreamEvent) => void>();
  readonly stopped: string[] = [];
  aborted = 0;
  readonly routes: readonly AnyRoute[] = [
    defineStream({
      path: "/v1/test/:topic/events",
      scope: "read",
      summary: "What is said.",
      params: z.strictObject({ topic: text(100, 1) }, OBJECT),
      events: { message: z.object({ n: z.number() }) },
      open: ({ params: { topic } }) => {
        if (topic === "forbidden") throw new WeftError("TOPIC_DENIED", "not this one", "take another");
        return {
          kind: "live",
          key: topic,
          start: (emit) => {
            this.topics.set(topic, emit);
            return () => void this.stopped.push(topic);
          },
        };
      },
    }),
    defineRoute({
      method: "POST",
      path: "/v1/test/wait",
      scope: "read",
      summary: "Waits until its caller gives up.",
      response: z.object({}),
      handler: ({ signal }) =>
        new Promise((resolve) => {
          const give = (): void => {
            this.aborted++;
            resolve({});
          };
          // it may have given up before this runs
          if (signal.aborted) give();
          else signal.addEventListener("abort", give);
        }),
    }),
    defineRoute({
      method: "POST",
      path: "/v1/test/secret",
      scope: "send",
      summary: "Needs a scope.",
      body: z.strictObject({ text: text(10) }, OBJECT),
      response: z.object({ text: z.string() }),
      handler: ({ body }) => body,
    }),
  ];

  say(topic: string, n: number): void {
    this.topics.get(topic)?.({ event: "message", data: { n } });
  }
}

async function serve(
  world: World,
  options: ApiOptions = {},
  port = 0,
): Promise<{ api: ApiServer; socket: string; url: string }> {
  const socket = join(root, `s${++sockets}.sock`);
  const api = await serveApi({ metrics: () => [] } as unknown as NodeControl, socket, nullLogger, {
    listen: { address: "127.0.0.1", port },
    tokens,
    routes: world.routes,
    checkOutput: true,
    ...options,
  });
  return { api, socket, url: `http://${api.address}` };
}

async function until(ready: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await ready())) await new Promise((resolve) => setTimeout(resolve, 2));
}

/** Any headers, also those that fetch does not let one set. */
function ask(
  url: string,
  headers: Record<string, string>,
  method = "GET",
): Promise<{ status: number; headers: Record<string, unknown>; body: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { method, headers, agent: false }, (response) => {
      let body = "";
      response.on("data", (chunk: Buffer) => (body += chunk.toString()));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
    });
    outgoing.on("error", reject);
    outgoing.end();
  });
}

test("over TCP only a valid token gets an answer, and its scopes are enforced", async () => {
  const { api, url } = await serve(new World());
  try {
    assert.equal((await ask(`${url}/v1/openapi.json`, {})).status, 401);
    assert.equal((await ask(`${url}/v1/openapi.json`, { authorization: "Bearer wrong" })).status, 401);
    assert.equal((await ask(`${url}/v1/openapi.json`, { authorization: "Basic reader" })).status, 401);
    assert.equal((await ask(`${url}/v1/nothing`, {})).status, 401);
    const answer = await ask(`${url}/v1/openapi.json`, { authorization: "Bearer reader" });
    assert.equal(answer.status, 200);
    assert.equal(answer.headers["cache-control"], "no-store");
    const reader = new WeftClient({ url, token: "reader" });
    const chief = new WeftClient({ url, token: "chief" });
    const body = { text: "hi" };
    await assert.rejects(reader.call("POST", "/v1/test/secret", { body }), {
      code: "FORBIDDEN",
      remedy: /--scope send/,
    });
    assert.deepEqual(await chief.call("POST", "/v1/test/secret", { body }), body);
  } finally {
    await api.close();
  }
});

test("a page of another origin gets nothing: not by its origin, not by a rebound name, not by asking first", async () => {
  const { api, url } = await serve(new World(), { origins: ["http://localhost:3000"] });
  const port = new URL(url).port;
  const bearer = { authorization: "Bearer chief" };
  const target = `${url}/v1/openapi.json`;
  try {
    for (const headers of [
      { origin: "https://evil.example" },
      { origin: "null" },
      { origin: `http://127.0.0.1.evil.example:${port}` },
      { host: "evil.example" },
      { host: `evil.example:${port}`, origin: `http://evil.example:${port}` },
      { host: "weft" },
      { host: `127.0.0.1:${Number(port) + 1}` },
    ]) {
      const answer = await ask(target, { ...bearer, ...headers });
      assert.equal(answer.status, 403, JSON.stringify(headers));
      assert.equal(answer.headers["access-control-allow-origin"], undefined);
      const first = await ask(target, { ...headers, "access-control-request-method": "GET" }, "OPTIONS");
      assert.equal(first.status >= 400, true);
      assert.equal(first.headers["access-control-allow-origin"], undefined);
    }
    const allowed = await ask(target, { ...bearer, origin: "http://localhost:3000" });
    assert.equal(allowed.status, 200);
    assert.equal(allowed.headers["access-control-allow-origin"], "http://localhost:3000");
    assert.equal((await ask(target, { ...bearer, origin: url })).status, 200);
    assert.equal((await ask(target, { origin: "http://localhost:3000" }, "OPTIONS")).status, 204);
    // the one that may ask still needs the token
    assert.equal((await ask(target, { origin: "http://localhost:3000" })).status, 401);
  } finally {
    await api.close();
  }
});

test("an EventSource reconnects and misses nothing within the buffer", async () => {
  const world = new World();
  const { api, url } = await serve(world);
  const heard: number[] = [];
  const gaps: string[] = [];
  let opened = 0;
  let cut: () => void = () => undefined;
  const source = new EventSource(`${url}/v1/test/news/events`, {
    fetch: async (input, init) => {
      const abort = new AbortController();
      const headers = { ...init.headers, authorization: "Bearer reader" };
      const response = await fetch(input, { ...init, signal: abort.signal, headers });
      const cable = new TransformStream<Uint8Array, Uint8Array>({
        start(controller) {
          cut = () => {
            controller.error(new TypeError("the cable is cut"));
            abort.abort();
          };
        },
      });
      return new Response(response.body?.pipeThrough(cable), response);
    },
  });
  source.addEventListener("ready", () => opened++);
  source.addEventListener("message", (event) => heard.push((JSON.parse(event.data as string) as { n: number }).n));
  source.addEventListener("gap", (event) => gaps.push(event.data as string));
  try {
    await until(() => opened === 1);
    world.say("news", 1);
    await until(() => heard.length === 1);
    cut();
    world.say("news", 2);
    world.say("news", 3);
    await until(() => opened === 2);
    world.say("news", 4);
    await until(() => heard.length === 4);
    assert.deepEqual(heard, [1, 2, 3, 4]);
    assert.deepEqual(gaps, []);
  } finally {
    source.close();
    await api.close();
  }
});

test("after a restart of the daemon the client is subscribed again and told of the gap", async () => {
  const world = new World();
  const socket = join(root, "again.sock");
  const start = (): Promise<ApiServer> =>
    serveApi({} as NodeControl, socket, nullLogger, { routes: world.routes, checkOutput: true });
  let api = await start();
  const abort = new AbortController();
  const events: string[] = [];
  const reading = (async () => {
    const stream = new WeftClient(socket).events("/v1/test/:topic/events", {
      params: { topic: "a/b c" },
      signal: abort.signal,
    });
    for await (const { event, data } of stream) events.push(`${event} ${JSON.stringify(data)}`);
  })();
  try {
    await until(() => events.length === 1);
    world.say("a/b c", 1);
    await until(() => events.length === 2);
    await api.close();
    world.topics.clear();
    api = await start();
    await until(() => events.length === 4);
    world.say("a/b c", 9);
    await until(() => events.length === 5);
    assert.deepEqual(events, [
      'ready {"resumed":false}',
      'message {"n":1}',
      'ready {"resumed":false}',
      'gap {"missed":null,"reason":"restarted"}',
      'message {"n":9}',
    ]);
  } finally {
    abort.abort();
    await reading;
    await api.close();
  }
});

test("a client that does not read loses its own oldest events and is told; the memory of the daemon stays bounded", async () => {
  const world = new World();
  const { api, socket } = await serve(world, { hub: { ringEvents: 16 } });
  const slow = request({ socketPath: socket, path: "/v1/test/flood/events", headers: { host: "weft" } });
  slow.end();
  const [response] = (await once(slow, "response")) as [NodeJS.ReadableStream & { destroy(): void }];
  const fast: number[] = [];
  const abort = new AbortController();
  const reading = (async () => {
    const stream = new WeftClient(socket).events<{ n: number }>("/v1/test/flood/events", { signal: abort.signal });
    for await (const { event, data } of stream) if (event === "message") fast.push(data.n);
  })();
  try {
    await until(() => world.topics.has("flood"));
    // more than the kernel's and the server's buffers hold of a client that reads nothing
    const total = 60_000;
    for (let n = 0; n < total; n++) {
      world.say("flood", n);
      if (n % 8 === 0) await new Promise((turn) => setImmediate(turn));
    }
    const seenBySlow = new Promise<{ gaps: number; messages: number }>((resolve) => {
      let rest = "";
      let missed = 0;
      let messages = 0;
      response.on("data", (chunk: Buffer) => {
        const parts = (rest + chunk.toString()).split("\n\n");
        rest = parts.pop() ?? "";
        for (const part of parts) {
          if (part.includes("event: message")) messages++;
          const gap = /event: gap\ndata: (.*)/.exec(part);
          if (gap !== null) missed += (JSON.parse(gap[1]) as { missed: number }).missed;
        }
        if (missed + messages === total) resolve({ gaps: missed, messages });
      });
    });
    const { gaps, messages } = await seenBySlow;
    assert.ok(gaps > 0, `nothing was lost: ${messages} were buffered somewhere`);
    await until(() => fast.at(-1) === total - 1);
  } finally {
    abort.abort();
    response.destroy();
    await reading;
    await api.close();
  }
});

/** A WebSocket whose messages can be awaited. */
class Talk {
  readonly socket: WebSocket;
  readonly heard: Record<string, unknown>[] = [];

  constructor(url: string, protocols: string[], headers: Record<string, string> = {}) {
    this.socket = new WebSocket(`${url.replace("http:", "ws:")}/v1/ws`, protocols, { headers });
    this.socket.on("message", (data: Buffer) =>
      this.heard.push(JSON.parse(data.toString()) as Record<string, unknown>),
    );
  }

  say(message: unknown): void {
    this.socket.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  async hear(count: number): Promise<Record<string, unknown>[]> {
    await until(() => this.heard.length >= count);
    return this.heard;
  }
}

test("one WebSocket carries calls and streams with the rights of its token, resumes and cancels", async () => {
  const world = new World();
  const { api, url } = await serve(world);
  const talk = new Talk(url, ["weft.v1", "weft.token.reader"]);
  await once(talk.socket, "open");
  try {
    assert.equal(talk.socket.protocol, "weft.v1");
    talk.say({ id: 1, path: "/v1/openapi.json" });
    talk.say({ id: 2, method: "POST", path: "/v1/test/secret", body: { text: "x" } });
    const answers = await talk.hear(2);
    assert.equal(answers.find(({ id }) => id === 1)?.["status"], 200);
    assert.equal(answers.find(({ id }) => id === 2)?.["status"], 403);
    talk.heard.length = 0;
    talk.say({ id: 3, subscribe: "/v1/test/news/events" });
    await talk.hear(2);
    world.say("news", 1);
    world.say("news", 2);
    const events = await talk.hear(4);
    assert.deepEqual(
      events.slice(2).map(({ id, event, data }) => [id, event, data]),
      [
        [3, "message", { n: 1 }],
        [3, "message", { n: 2 }],
      ],
    );
    const last = events[2]["eventId"];
    talk.say({ id: 3, cancel: true });
    assert.deepEqual((await talk.hear(5))[4], { id: 3, end: true });
    talk.heard.length = 0;
    talk.say({ id: 4, subscribe: "/v1/test/news/events", lastEventId: last });
    const again = await talk.hear(3);
    assert.deepEqual([again[1]["event"], again[1]["data"]], ["ready", { resumed: true }]);
    assert.deepEqual(again[2]["data"], { n: 2 });
    talk.heard.length = 0;
    talk.say({ id: 5, subscribe: "/v1/test/forbidden/events" });
    assert.equal((await talk.hear(1))[0]["status"], 403);
    talk.say({ id: 6, method: "POST", path: "/v1/test/wait" });
    talk.say({ id: 6, cancel: true });
    assert.deepEqual((await talk.hear(2))[1], { id: 6, end: true });
    await until(() => world.aborted === 1);
  } finally {
    talk.socket.terminate();
    await api.close();
  }
});

test("a WebSocket of a foreign page, without a token, or elsewhere is refused; nonsense on one is answered, not obeyed", async () => {
  const world = new World();
  const { api, url } = await serve(world);
  const refused = async (protocols: string[], headers: Record<string, string>): Promise<number> => {
    const talk = new Talk(url, protocols, headers);
    talk.socket.on("error", () => undefined);
    const [, response] = (await once(talk.socket, "unexpected-response")) as [unknown, { statusCode: number }];
    talk.socket.terminate();
    return response.statusCode;
  };
  try {
    assert.equal(await refused(["weft.v1"], {}), 401);
    assert.equal(await refused(["weft.v1", "weft.token.nobody"], {}), 401);
    assert.equal(await refused(["weft.v1", "weft.token.chief"], { origin: "https://evil.example" }), 403);
    assert.equal(await refused(["weft.v1", "weft.token.chief"], { host: "evil.example" }), 403);
    const talk = new Talk(url, ["weft.v1"], { authorization: "Bearer reader" });
    await once(talk.socket, "open");
    const nonsense = [
      "",
      "{",
      "[]",
      "null",
      '{"id":-1,"path":"/"}',
      '{"id":1}',
      '{"id":2,"path":"x"}',
      '{"id":3,"cancel":false}',
    ];
    nonsense.push(
      "[".repeat(100),
      '{"id":4,"path":"/v1/status","surprise":1}',
      '{"id":5,"subscribe":"/v1/openapi.json"}',
    );
    for (const message of nonsense) talk.say(message);
    const answers = await talk.hear(nonsense.length);
    assert.ok(
      answers.every(({ status }) => status === 400),
      JSON.stringify(answers),
    );
    for (let id = 10; id < 50; id++) talk.say({ id, method: "POST", path: "/v1/test/wait" });
    const busy = (await talk.hear(nonsense.length + 8)).filter(({ status }) => status === 429);
    assert.equal(busy.length, 8);
    talk.socket.terminate();
    await until(() => world.aborted === 32);
  } finally {
    await api.close();
  }
});

test(
  "when a token ends, its WebSocket and its streams end with it, and those of others go on",
  { timeout: 30_000 },
  async () => {
    const world = new World();
    const own = new Tokens();
    const { api, url } = await serve(world, { tokens: own });
    const talk = new Talk(url, ["weft.v1", "weft.token.reader"]);
    const other = new Talk(url, ["weft.v1", "weft.token.chief"]);
    await Promise.all([once(talk.socket, "open"), once(other.socket, "open")]);
    const sse = new WeftClient({ url, token: "reader" }).events("/v1/test/news/events");
    try {
      await sse.next();
      for (const one of [talk, other]) {
        one.say({ id: 1, subscribe: "/v1/test/news/events" });
        await one.hear(2);
      }
      talk.say({ id: 2, method: "POST", path: "/v1/test/wait" });
      talk.say({ id: 3, path: "/v1/openapi.json" });
      await talk.hear(3);
      const closed = once(talk.socket, "close");
      own.end("reader");
      world.say("news", 1);
      await assert.rejects(sse.next(), { code: "UNAUTHORIZED" });
      assert.equal((await closed)[0], 1008);
      assert.equal(talk.heard.filter(({ event }) => event === "message").length, 0);
      await until(() => world.aborted === 1);
      assert.deepEqual((await other.hear(3))[2]["data"], { n: 1 });
      await until(() => ![...own.waiting].some(({ id }) => id === "reader"));
    } finally {
      talk.socket.terminate();
      other.socket.terminate();
      await api.close();
    }
  },
);

test("a token that has ended without a word makes no call and reads no event on a connection that is open", async () => {
  const world = new World();
  const own = new Tokens();
  const { api, url } = await serve(world, { tokens: own });
  const talk = new Talk(url, ["weft.v1", "weft.token.reader"]);
  await once(talk.socket, "open");
  try {
    talk.say({ id: 1, subscribe: "/v1/test/news/events" });
    await talk.hear(2);
    own.ended.add("reader");
    talk.say({ id: 2, path: "/v1/openapi.json" });
    talk.say({ id: 3, subscribe: "/v1/test/news/events" });
    world.say("news", 1);
    const answers = (await talk.hear(5)).slice(2);
    assert.deepEqual(answers.map(({ id, status }) => [id, status]).toSorted(), [
      [1, 401],
      [2, 401],
      [3, 401],
    ]);
  } finally {
    talk.socket.terminate();
    await api.close();
  }
});

test(
  "a refused upgrade whose client keeps its half open is cut, and no connection holds up the end",
  { timeout: 30_000 },
  async () => {
    const { api, url } = await serve(new World());
    const { hostname, port } = new URL(url);
    const half = async (lines: readonly string[]): Promise<Socket> => {
      const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
      socket.on("error", () => undefined);
      socket.write(`GET /v1/ws HTTP/1.1\r\nhost: ${hostname}:${port}\r\nconnection: upgrade\r\nupgrade: websocket\r\n`);
      socket.write(`${lines.join("\r\n")}\r\n\r\n`);
      await once(socket, "data");
      return socket;
    };
    const refused = await half(["sec-websocket-version: 13"]);
    // it never ends its half; only a connection that is gone answers what it writes with a reset
    let isGone = false;
    refused.on("close", () => (isGone = true));
    await until(() => {
      refused.write("x");
      return isGone;
    });
    const key = Buffer.alloc(16).toString("base64");
    const mute = await half([
      "sec-websocket-version: 13",
      `sec-websocket-key: ${key}`,
      "sec-websocket-protocol: weft.v1, weft.token.chief",
    ]);
    const silent = await half(["sec-websocket-version: 13"]);
    await api.close();
    for (const socket of [refused, mute, silent]) socket.destroy();
  },
);

test("a call whose client goes away is told to give up", async () => {
  const world = new World();
  const { api, socket } = await serve(world);
  const abort = new AbortController();
  try {
    const call = new WeftClient(socket).call("POST", "/v1/test/wait", { signal: abort.signal });
    setTimeout(() => abort.abort(), 20);
    await assert.rejects(call, { code: "ABORTED" });
    await until(() => world.aborted === 1);
  } finally {
    await api.close();
  }
});

test("clients that come and go leave no stream open, and one too many is refused until another has gone", async () => {
  const world = new World();
  const { api, socket } = await serve(world, { hub: { cursors: 3 } });
  const client = new WeftClient(socket);
  const open = async (): Promise<AsyncGenerator> => {
    const stream = client.events("/v1/test/news/events", { reconnect: false });
    await stream.next();
    return stream;
  };
  try {
    for (let round = 0; round < 20; round++) {
      const head = await ask(`http://${api.address}/v1/test/news/events`, { authorization: "Bearer reader" }, "HEAD");
      assert.equal(head.status, 400);
      const streams = await Promise.all([open(), open(), open()]);
      await assert.rejects(open(), { code: "STREAMS_FULL" });
      for (const stream of streams) await stream.return(undefined);
      await until(async () => /weft_api_streams 0$/m.test(await client.metrics()));
    }
  } finally {
    await api.close();
  }
});

test("an address that is taken is an error with a remedy, and nothing stays open", async () => {
  const { api, url } = await serve(new World());
  try {
    await assert.rejects(serve(new World(), {}, Number(new URL(url).port)), {
      code: "API_LISTEN",
      remedy: /\[api\] listen/,
    });
  } finally {
    await api.close();
  }
});
