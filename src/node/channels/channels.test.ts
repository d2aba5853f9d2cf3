/** Channels over real WebSockets on loopback; only the clock is virtual. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { get } from "node:http";
import { test, type TestContext } from "node:test";
import { WebSocket } from "ws";
import { VirtualClock } from "../../../test/support/virtual-clock.ts";
import { ENDPOINT_BYTES, parseAddress, virtualEndpoint, virtualOf, VirtualType } from "../../base/endpoint.ts";
import type { Logger } from "../../base/log.ts";
import { ownListeners } from "../../base/own-listeners.ts";
import { SeededRandom } from "../../base/random.ts";
import type { Command } from "../../dataplane/messages.ts";
import { Channels } from "./channels.ts";
import { MAX_DATAGRAM_BYTES, SUBPROTOCOL } from "./connection.ts";
import { Dialer } from "./dial.ts";
import type { ChannelPeer } from "./policy.ts";

/** One node's channels, and everything they asked for. */
class Side {
  readonly clock = new VirtualClock();
  readonly commands: Command[] = [];
  readonly changes: string[] = [];
  readonly lines: string[] = [];
  peers: ChannelPeer[] = [];
  readonly channels: Channels;

  constructor(t: TestContext, options: { serves?: boolean; mark?: number; ca?: string } = {}) {
    const dialer = new Dialer({ ca: options.ca, mark: options.mark ?? 0, allowLocal: true });
    const note = (level: string) => (message: string) => void this.lines.push(`${level} ${message}`);
    const log: Logger = {
      debug: note("debug"),
      info: note("info"),
      warn: note("warn"),
      error: note("error"),
      child: () => log,
    };
    this.channels = new Channels(
      {
        clock: this.clock,
        random: new SeededRandom(3),
        log,
        dial: options.serves === true ? undefined : (url, signal) => dialer.dial(url, signal),
        send: (command) => void this.commands.push(command),
        peers: () => this.peers,
        changed: (key, opened) => void this.changes.push(`${key} ${opened ? "opened" : "lost"}`),
      },
      {
        server:
          options.serves === true
            ? { listen: { address: "127.0.0.1", port: 0 }, trustedProxies: ["127.0.0.0/8"] }
            : undefined,
      },
    );
    t.after(() => this.channels.close());
  }

  get url(): string {
    return `ws://127.0.0.1:${this.channels.port}/weft`;
  }

  /** Wants a channel to that URL, and lets the second of patience pass. */
  async want(url: string, key = "peer"): Promise<void> {
    this.peers = [{ key, urls: [url], isBeacon: true, wanted: true, direct: false, overdue: false }];
    this.channels.review();
    await this.clock.advance(1_000);
  }

  open(): number[] {
    const ids = new Set<number>();
    for (const command of this.commands) {
      if (command.kind !== "channel") continue;
      if (command.open) ids.add(command.id);
      else ids.delete(command.id);
    }
    return [...ids];
  }

  received(): string[] {
    return this.commands
      .filter((command) => command.kind === "channelIn")
      .map((command) => Buffer.from(command.datagram).toString());
  }
}

async function soon(what: string, holds: () => boolean): Promise<void> {
  for (let i = 0; i < 1_000; i++) {
    if (holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.fail(`not within 5 s: ${what}`);
}

async function pair(t: TestContext, mark = 0): Promise<{ server: Side; client: Side }> {
  const server = new Side(t, { serves: true });
  await server.channels.start();
  const client = new Side(t, { mark });
  await client.want(server.url);
  await soon("both ends are open", () => client.open().length === 1 && server.open().length === 1);
  return { server, client };
}

/** A client that is not Weft. @returns its socket, or the status with which it was refused */
function stranger(url: string, headers: Record<string, string> = {}): Promise<WebSocket | number> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, [SUBPROTOCOL], { headers });
    socket.once("open", () => resolve(socket));
    socket.once("unexpected-response", (_request, response) => resolve(response.statusCode ?? 0));
    socket.once("error", reject);
  });
}

for (const mark of [0, 0x57]) {
  test(`datagrams cross a channel in both directions, whole and in order${mark === 0 ? "" : ", from a marked socket"}`, async (t) => {
    const { server, client } = await pair(t, mark);
    const [candidate] = client.channels.candidates("peer");
    assert.ok(candidate?.length === ENDPOINT_BYTES);
    assert.deepEqual(virtualOf(candidate), { type: 2, pathKind: 1, id: client.open()[0] });
    assert.equal(client.channels.hostOf(candidate), "127.0.0.1");
    assert.deepEqual(client.changes, ["peer opened"]);
    for (let i = 0; i < 100; i++) client.channels.handleOut(client.open()[0], Buffer.from(`to ${i}`));
    for (let i = 0; i < 100; i++) server.channels.handleOut(server.open()[0], Buffer.from(`from ${i}`));
    await soon("all arrived", () => server.received().length === 100 && client.received().length === 100);
    assert.deepEqual(
      server.received(),
      Array.from({ length: 100 }, (_, i) => `to ${i}`),
    );
    assert.deepEqual(
      client.received(),
      Array.from({ length: 100 }, (_, i) => `from ${i}`),
    );
    assert.equal(client.channels.figures().sent, 100);
    assert.deepEqual([client.channels.figures().dialled, server.channels.figures().served], [1, 1]);
  });
}

test("once UDP has worked for a while the channel is closed at both ends and is no candidate any more", async (t) => {
  const { server, client } = await pair(t);
  client.peers = client.peers.map((peer) => ({ ...peer, direct: true }));
  client.channels.review();
  await client.clock.advance(9_999);
  assert.equal(client.open().length, 1);
  await client.clock.advance(1);
  assert.deepEqual(client.open(), []);
  assert.deepEqual(client.channels.candidates("peer"), []);
  assert.deepEqual(client.changes, ["peer opened", "peer lost"]);
  await soon("the server has noticed", () => server.open().length === 0);
  client.channels.handleOut(1, Buffer.from("late"));
  assert.equal(client.channels.figures().droppedFull, 1);
});

test("a channel that breaks is opened again, and one that cannot be opened is said once", async (t) => {
  const { server, client } = await pair(t);
  const { port } = server.channels;
  await server.channels.close();
  await soon("the loss is noticed", () => client.open().length === 0);
  assert.equal(client.lines.filter((line) => /^warn .*127\.0\.0\.1.*tried again/.test(line)).length, 1);
  for (let i = 0; i < 4; i++) {
    const before = client.channels.figures().failed;
    await client.clock.advance(20_000);
    await soon("an attempt has failed", () => client.channels.figures().failed > before);
  }
  assert.equal(client.lines.filter((line) => line.startsWith("warn")).length, 1);
  const again = new Side(t, { serves: true });
  await again.channels.start();
  client.peers = client.peers.map((peer) => ({ ...peer, urls: [again.url] }));
  await client.clock.advance(60_000);
  await soon("it is open again", () => client.open().length === 1);
  assert.notEqual(again.channels.port, port);
});

test("a server that accepts and says nothing is given up", async (t) => {
  const { client } = await pair(t);
  // the virtual clock runs on while nothing moves on the wire: pings at 20 s and 40 s are not answered in its time
  await client.clock.advance(61_000);
  await soon("given up", () => client.changes.includes("peer lost"));
  assert.match(client.lines.join("\n"), /no sign of life for 60 s/);
});

test("a stranger gets 10 s to come to a session, and no more than a handshake's worth of datagrams", async (t) => {
  const server = new Side(t, { serves: true });
  await server.channels.start();
  const idle = await stranger(server.url);
  const greedy = await stranger(server.url);
  const member = await stranger(server.url);
  assert.ok(idle instanceof WebSocket && greedy instanceof WebSocket && member instanceof WebSocket);
  await soon("three are open", () => server.open().length === 3);
  const third = server.open()[2];
  server.channels.noteProven(virtualEndpoint(VirtualType.CHANNEL, 1, third), "member");
  for (let i = 0; i < 300; i++) {
    greedy.send(Buffer.from("x"));
    member.send(Buffer.from("m"));
  }
  await once(greedy, "close");
  await soon("the member's all arrived", () => server.received().filter((text) => text === "m").length === 300);
  assert.equal(server.received().filter((text) => text === "x").length, 256);
  assert.equal(server.channels.figures().droppedUnproven, 1);
  await server.clock.advance(10_001);
  await once(idle, "close");
  assert.deepEqual(server.open(), [third]);
  member.terminate();
});

test("text, oversized messages, other protocols and plain requests are refused", async (t) => {
  const server = new Side(t, { serves: true });
  await server.channels.start();
  for (const [message, code] of [
    ["text", 1003],
    [Buffer.alloc(MAX_DATAGRAM_BYTES + 1), 1009],
  ] as const) {
    const socket = await stranger(server.url);
    assert.ok(socket instanceof WebSocket);
    socket.send(message);
    const [closed] = (await once(socket, "close")) as [number];
    assert.equal(closed, code);
  }
  const other = new WebSocket(server.url, ["chat"]);
  const [, refusal] = (await once(other, "unexpected-response")) as [unknown, { statusCode: number }];
  assert.equal(refusal.statusCode, 400);
  const status = await new Promise((resolve) => {
    get(server.url.replace("ws:", "http:"), (response) => resolve(response.resume().statusCode));
  });
  assert.equal(status, 426);
  assert.equal(server.received().length, 0);
  assert.deepEqual(server.open(), []);
});

test("one address gets 8 channels without a session; through a proxy each client counts for itself", async (t) => {
  const server = new Side(t, { serves: true });
  await server.channels.start();
  // no forward of a member leads here
  assert.ok(ownListeners.takes(parseAddress("127.0.0.1") as Uint8Array, server.channels.port));
  const from = (address: string): Promise<WebSocket | number> =>
    stranger(server.url, { "x-forwarded-for": `203.0.113.77, ${address}` });
  for (let i = 0; i < 8; i++) assert.ok((await from("192.0.2.1")) instanceof WebSocket);
  assert.equal(await from("192.0.2.1"), 429);
  assert.ok((await from("192.0.2.2")) instanceof WebSocket);
  assert.equal(server.channels.figures().refused.address, 1);
});

test("when all places are taken, the oldest without a session makes room; when all have one, 503", async (t) => {
  const server = new Side(t, { serves: true });
  await server.channels.start();
  const first = await stranger(server.url, { "x-forwarded-for": "198.51.100.1" });
  assert.ok(first instanceof WebSocket);
  const gone = once(first, "close");
  for (let i = 0; i < 191; i++) await stranger(server.url, { "x-forwarded-for": `192.0.2.${1 + (i >> 2)}` });
  assert.equal(server.open().length, 192);
  assert.ok((await stranger(server.url, { "x-forwarded-for": "198.51.100.2" })) instanceof WebSocket);
  await gone;
  await soon("one for one", () => server.open().length === 192);
  for (const id of server.open())
    server.channels.noteProven(virtualEndpoint(VirtualType.CHANNEL, 1, id), `member ${id}`);
  assert.equal(await stranger(server.url, { "x-forwarded-for": "198.51.100.3" }), 503);
  assert.equal(server.channels.figures().refused.full, 1);
});

test("a peer holds two channels here at most, and none once it is removed", async (t) => {
  const server = new Side(t, { serves: true });
  await server.channels.start();
  const prove = (id: number | undefined, key: string): void =>
    server.channels.noteProven(virtualEndpoint(VirtualType.CHANNEL, 1, id ?? 0), key);
  for (let i = 1; i <= 4; i++) {
    await stranger(server.url);
    prove(server.open().at(-1), "one");
  }
  await stranger(server.url);
  prove(server.open().at(-1), "two");
  assert.deepEqual(server.open(), [3, 4, 5]);
  server.channels.forget("one");
  assert.deepEqual(server.open(), [5]);
});

test("a line that nobody reads holds a bounded number of bytes; the rest is dropped and counted", async (t) => {
  const server = new Side(t, { serves: true });
  await server.channels.start();
  const socket = await stranger(server.url);
  assert.ok(socket instanceof WebSocket);
  await soon("it is open", () => server.open().length === 1);
  socket.pause();
  const datagram = Buffer.alloc(1_400);
  const before = process.memoryUsage().external;
  for (let i = 0; i < 30_000; i++) {
    server.channels.handleOut(server.open()[0], datagram);
    if (i % 1_000 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  const { sent, droppedFull } = server.channels.figures();
  assert.equal(sent + droppedFull, 30_000);
  assert.ok(droppedFull > 0, "42 MB do not fit a line");
  assert.ok(process.memoryUsage().external - before < 16e6);
  socket.terminate();
});

test("a taken address is an error that names it", async (t) => {
  const one = new Side(t, { serves: true });
  await one.channels.start();
  const { port } = one.channels;
  const two = new Channels(
    {
      clock: one.clock,
      random: new SeededRandom(1),
      log: { debug() {}, info() {}, warn() {}, error() {}, child: () => assert.fail() },
      dial: undefined,
      send: () => undefined,
      peers: () => [],
      changed: () => undefined,
    },
    { server: { listen: { address: "127.0.0.1", port }, trustedProxies: [] } },
  );
  await assert.rejects(two.start(), { code: "CHANNEL_LISTEN", message: new RegExp(`127\\.0\\.0\\.1:${port}`) });
});
