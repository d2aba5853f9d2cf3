import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, test } from "node:test";
import type { NodeControl } from "../../../api/control.ts";
import { serveApi } from "../../../api/server.ts";
import { concat, utf8 } from "../../../base/bytes.ts";
import { nullLogger } from "../../../base/log.ts";
import { type AllowRule, parseTargetRule, type TargetRule } from "../../../messaging/services/targets.ts";
import type { ForwardServerOptions } from "./forward-server.ts";
import { ForwardsPart } from "./forwards.ts";
import { createTestPair, type TestNode } from "./testing.ts";

const toTarget = (text: string): AllowRule => ({
  peers: undefined,
  targets: [parseTargetRule(text) as TargetRule],
});
const LOOPBACK = [toTarget("loopback:*")];
const world = createTestPair();
const [one, two] = world.nodes;
const parts: ForwardsPart[] = [];
const servers: Server[] = [];
after(() => {
  for (const part of parts) part.close();
  for (const server of servers) server.close();
  world.close();
});

async function part(
  node: TestNode,
  allow: readonly AllowRule[] = LOOPBACK,
  options: Partial<ForwardServerOptions> = {},
): Promise<ForwardsPart> {
  const made = new ForwardsPart(node.context, { ...options, allow });
  parts.push(made);
  await made.start();
  return made;
}

async function listen(onConnection: (socket: Socket) => void, host = "127.0.0.1"): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, onConnection);
  servers.push(server);
  server.listen(0, host);
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

const portOf = (place: string): number => Number(place.slice(place.lastIndexOf(":") + 1));

const client = await part(one);
await part(two);
const echoPort = await listen((socket) => socket.pipe(socket));

test("a forwarded port carries megabytes both ways and passes the end of each half on", async () => {
  const { listen: place } = await client.addForward("0", `two:${echoPort}`);
  const sent = randomBytes(3 << 20);
  const socket = connect({ port: portOf(place), host: "127.0.0.1", allowHalfOpen: true });
  const got = buffer(socket);
  socket.end(sent);
  assert.ok(sent.equals(await got));
  assert.match(two.audit.join("\n"), new RegExp(`forward: one connects to 127.0.0.1:${echoPort}`));
  await client.removeForward(place);
  assert.deepEqual(client.forwards(), []);
});

test("a service that listens on IPv6 loopback alone is found as well", async (context) => {
  const port = await listen((socket) => socket.end("six"), "::1").catch(() => undefined);
  if (port === undefined) return context.skip("no IPv6 here");
  const { listen: place } = await client.addForward("0", `two:${port}`);
  assert.equal((await buffer(connect(portOf(place), "127.0.0.1"))).toString(), "six");
  await client.removeForward(place);
});

test("an abrupt end on one side is an abrupt end on the other", async () => {
  let served: Socket | undefined;
  const port = await listen((socket) => {
    served = socket;
    socket.on("error", () => undefined);
    socket.write("half of it");
  });
  const { listen: place } = await client.addForward("0", `two:${port}`);
  const socket = connect(portOf(place), "127.0.0.1");
  await once(socket, "data");
  const error = once(socket, "error") as Promise<[NodeJS.ErrnoException]>;
  served?.resetAndDestroy();
  assert.equal((await error)[0].code, "ECONNRESET");
  const second = connect(portOf(place), "127.0.0.1");
  await once(second, "data");
  const gone = new Promise((resolve) => served?.once("close", resolve));
  second.resetAndDestroy();
  await gone;
  await client.removeForward(place);
});

test("a program that nobody answers is reset, and the failure counted", async () => {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  const { listen: place } = await client.addForward("0", `two:${port}`);
  const socket = connect(portOf(place), "127.0.0.1");
  const [error] = (await once(socket, "error")) as [NodeJS.ErrnoException];
  assert.equal(error.code, "ECONNRESET");
  assert.equal(client.forwards()[0].failures, 1);
  await client.removeForward(place);
});

test("what no rule allows is refused, said in the audit log and counted", async () => {
  const { listen: place } = await client.addForward("0", "two:10.255.255.1:80");
  await once(connect(portOf(place), "127.0.0.1"), "error");
  const line = /: allow = \[\{ peers = \["one"\], targets = \["10\.255\.255\.1:80"\] \}\]$/;
  assert.match(two.audit.at(-1) ?? "", /^forward: one to 10\.255\.255\.1:80: not allowed/);
  assert.match(two.audit.at(-1) ?? "", line);
  // and whoever wanted to go there is told what is missing
  assert.match(client.forwards()[0].refusal ?? "", line);
  assert.match(client.forwards()[0].refusal ?? "", /^two does not allow it; its weft\.toml needs, in \[forward\]/);
  const refused = parts[1].metrics().find((one) => one.labels["result"] === "not_allowed");
  assert.equal(refused?.value, 1);
  await client.removeForward(place);
});

test("mistakes name what is wrong", async () => {
  await assert.rejects(client.addForward("0", "two"), { code: "FORWARD_BAD" });
  await assert.rejects(client.addForward("x", "two:80"), { code: "FORWARD_BAD" });
  await assert.rejects(client.addForward("0", "nobody:80"), { code: "NODE_UNKNOWN" });
  await assert.rejects(client.addForward("0", "one:80"), { code: "FORWARD_SELF" });
  await assert.rejects(client.removeForward("1"), { code: "FORWARD_UNKNOWN" });
  const { listen: place } = await client.addForward("0", "two:80");
  const port = String(portOf(place));
  assert.equal((await client.addForward(port, "two:80")).listen, place);
  await assert.rejects(client.addForward(port, "two:81"), { code: "FORWARD_TAKEN" });
  await client.removeForward(port);
  const taken = String(await listen(() => undefined));
  await assert.rejects(client.addForward(taken, "two:80"), { code: "FORWARD_LISTEN" });
});

test("forwards and proxies are there again after a restart", async () => {
  const forward = await client.addForward("0", `two:${echoPort}`);
  const proxy = await client.addProxy("0", "two");
  client.close();
  const again = await part(world.restart(0));
  assert.deepEqual(
    again.forwards().map(({ listen: place, node, port, listening }) => [place, node.name, port, listening]),
    [[forward.listen, "two", echoPort, true]],
  );
  assert.deepEqual(
    again.proxies().map(({ listen: place, via }) => [place, via?.name]),
    [[proxy.listen, "two"]],
  );
  await again.removeForward(forward.listen);
  await again.removeProxy(proxy.listen);
  assert.equal(again.forwards().length + again.proxies().length, 0);
});

/** A SOCKS5 client by hand. @returns the reply code and what came behind it */
async function socks(place: string, name: string, port: number, first: Uint8Array): Promise<[number, string]> {
  const socket = connect({ port: portOf(place), host: "127.0.0.1", allowHalfOpen: true });
  socket.on("error", () => undefined);
  const got = buffer(socket);
  const head = Uint8Array.of(5, 1, 0, 5, 1, 0, 3, name.length);
  // everything at once: what stands behind the request must not get lost
  socket.end(concat(head, utf8(name), Uint8Array.of(port >> 8, port & 255), first));
  const bytes = await got;
  assert.deepEqual([...bytes.subarray(0, 2)], [5, 0]);
  return [bytes[3], bytes.subarray(12).toString()];
}

test("a SOCKS proxy reaches members by name, and nothing else without a way", async () => {
  const node = await part(world.restart(0));
  const { listen: place } = await node.addProxy("0", undefined);
  assert.deepEqual(await socks(place, "two", echoPort, utf8("hello")), [0, "hello"]);
  assert.deepEqual(await socks(place, "two.home.weft", echoPort, utf8("again")), [0, "again"]);
  assert.equal((await socks(place, "example.org", 80, new Uint8Array(0)))[0], 4);
  assert.equal((await socks(place, "two", 1, new Uint8Array(0)))[0], 5);
  await node.removeProxy(place);
});

test("a SOCKS proxy with a way sends the rest there, where the rules decide", async () => {
  parts[1].close();
  const server = await part(world.restart(1), [toTarget("localhost.example:*"), ...LOOPBACK]);
  const node = await part(world.restart(0));
  const { listen: place } = await node.addProxy("0", "two");
  assert.deepEqual(await socks(place, "127.0.0.1", echoPort, utf8("there")), [0, "there"]);
  assert.equal((await socks(place, "192.0.2.1", 80, new Uint8Array(0)))[0], 2);
  await node.removeProxy(place);
  server.close();
});

/** @returns what a program gets there */
async function read(place: string): Promise<string> {
  const socket = connect(portOf(place), "127.0.0.1");
  socket.on("error", () => undefined);
  // whoever is there by mistake answers it
  socket.write("?\r\n\r\n");
  return (await buffer(socket).catch(() => "reset")).toString();
}

/** Opens a forward to `target` at two. @returns what a program gets through it, and what the client then knows */
async function through(node: ForwardsPart, target: string): Promise<{ got: string; refusal: string | null }> {
  const { listen: place } = await node.addForward("0", target);
  const got = await read(place);
  const [{ refusal }] = node.forwards();
  await node.removeForward(place);
  return { got, refusal };
}

test("without rules no member reaches a service of this machine", async () => {
  const server = await part(world.restart(1), []);
  const node = await part(world.restart(0));
  const port = await listen((socket) => socket.end("secret"));
  const { got, refusal } = await through(node, `two:${port}`);
  assert.equal(got, "reset");
  assert.match(refusal ?? "", new RegExp(`targets = \\["loopback:${port}"\\]`));
  server.close();
  const open = await part(world.restart(1), [toTarget(`loopback:${port}`)]);
  const again = await part(world.restart(0));
  assert.deepEqual(await through(again, `two:${port}`), { got: "secret", refusal: null });
  open.close();
});

test("what the other daemon itself listens on is refused whatever its rules say", async () => {
  const two = world.restart(1);
  const server = await part(two, [toTarget("loopback:*"), toTarget("127.0.0.0/8:*"), toTarget("[::1]:*")]);
  const node = await part(world.restart(0));
  const proxy = await server.addProxy("0", undefined);
  const forward = await server.addForward("0", "one:1");
  const everywhere = await server.addProxy("0.0.0.0:0", undefined);
  const socket = join(two.context.stateDirectory, "weft.sock");
  const api = await serveApi({} as NodeControl, socket, nullLogger, { listen: { address: "127.0.0.1", port: 0 } });
  try {
    for (const place of [proxy.listen, forward.listen, everywhere.listen, api.address ?? ""])
      for (const host of ["", "127.0.0.1:"])
        assert.equal((await through(node, `two:${host}${portOf(place)}`)).got, "reset", place);
    assert.equal(two.audit.filter((line) => line.endsWith("not allowed: this daemon itself listens there")).length, 8);
    // nothing came in
    assert.deepEqual(
      [...server.proxies(), ...server.forwards()].map(({ connections }) => connections),
      [0, 0, 0],
    );
    // the port of one that is closed is a port like any other
    await server.removeProxy(proxy.listen);
    const other = createServer((taken) => taken.end("another program"));
    servers.push(other);
    other.listen(portOf(proxy.listen), "127.0.0.1");
    await once(other, "listening");
    assert.equal((await through(node, `two:${portOf(proxy.listen)}`)).got, "another program");
  } finally {
    await api.close();
    server.close();
  }
});

test("a rule for any host leaves out this machine's own addresses, and its own listeners are not there either", async (context) => {
  const infos = Object.values(networkInterfaces()).flatMap((found) => found ?? []);
  const address = infos.find(({ family, internal }) => family === "IPv4" && !internal)?.address;
  if (address === undefined) return context.skip("this machine has loopback alone");
  const port = await listen((socket) => socket.end("found"), "0.0.0.0");
  const server = await part(world.restart(1), [toTarget("*:*")]);
  const node = await part(world.restart(0));
  assert.equal((await through(node, `two:${address}:${port}`)).got, "reset");
  server.close();
  const open = await part(world.restart(1), [toTarget(`${address}:*`)]);
  const again = await part(world.restart(0));
  assert.equal((await through(again, `two:${address}:${port}`)).got, "found");
  const everywhere = await open.addProxy("0.0.0.0:0", undefined);
  assert.equal((await through(again, `two:${address}:${portOf(everywhere.listen)}`)).got, "reset");
  open.close();
});

test("a name that is looked up for too long leads nowhere", async () => {
  const two = world.restart(1);
  const lookUp = (): Promise<never> => new Promise(() => undefined);
  const server = await part(two, [toTarget("*:*")], { lookUp, connectMs: 50 });
  const node = await part(world.restart(0));
  assert.equal((await through(node, "two:slow.example:80")).got, "reset");
  assert.deepEqual(two.audit, ["forward: one to slow.example:80: unreachable"]);
  server.close();
});

test("a member has two names looked up at once, and no more", async () => {
  const asked: string[] = [];
  const waiting: ((addresses: readonly string[]) => void)[] = [];
  const lookUp = (name: string): Promise<readonly string[]> => {
    asked.push(name);
    return new Promise((resolve) => waiting.push(resolve));
  };
  const port = await listen((socket) => socket.end("found"));
  const server = await part(world.restart(1), [toTarget("127.0.0.0/8:*")], { lookUp });
  const node = await part(world.restart(0));
  const busy = (): number => server.metrics().find((one) => one.labels["result"] === "busy")?.value ?? 0;
  const { listen: place } = await node.addForward("0", `two:slow.example:${port}`);
  const taken = [0, 1, 2, 3].map(() => read(place));
  while (busy() + asked.length < 4) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(asked.length, 2);
  for (const found of waiting) found(["127.0.0.1"]);
  assert.deepEqual((await Promise.all(taken)).toSorted(), ["found", "found", "reset", "reset"]);
  // the places are free again
  const next = read(place);
  while (waiting.length < 3) await new Promise((resolve) => setImmediate(resolve));
  waiting[2](["127.0.0.1"]);
  assert.equal(await next, "found");
  await node.removeForward(place);
  server.close();
});

test("diagnostics are counts: where forwards lead is not for everybody", async () => {
  const node = await part(world.restart(0));
  const { listen: place } = await node.addForward("0", "two:10.1.2.3:80");
  assert.deepEqual(node.diagnostics(), { forwards: 1, proxies: 0, waiting: 0, connections: 0, served: 0 });
  await node.removeForward(place);
});
