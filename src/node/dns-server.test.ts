import assert from "node:assert/strict";
import { createSocket, type Socket } from "node:dgram";
import { createConnection, createServer, type Server } from "node:net";
import { test, type TestContext } from "node:test";
import { decode, encode, type DecodedPacket } from "dns-packet";
import { parseAddress } from "../base/endpoint.ts";
import { nullLogger } from "../base/log.ts";
import { ownListeners } from "../base/own-listeners.ts";
import { SeededRandom } from "../base/random.ts";
import { Zone } from "../mesh/dns/zone.ts";
import { DnsServer } from "./dns-server.ts";

const zone = new Zone({
  network: "home",
  ipv4Prefix: "100.64.0.0/16",
  ipv6Prefix: "fd12:3456:789a::/48",
  hosts: [{ name: "nas", ipv4: "100.64.0.1", ipv6: "fd12:3456:789a::1" }],
  services: [],
  serial: 1,
});

async function start(t: TestContext, isAllowed = true): Promise<DnsServer> {
  const server = new DnsServer({ log: nullLogger, random: new SeededRandom(1), isAllowed: () => isAllowed }, 0);
  server.setZone(zone);
  assert.equal(await server.listen("127.0.0.1"), undefined);
  t.after(() => server.close());
  return server;
}

function question(name: string, id = 7): Buffer {
  return encode({ id, type: "query", flags: 0x0100, questions: [{ name, type: "A" }] });
}

function askUdp(port: number, message: Buffer, waitMs = 6_000): Promise<DecodedPacket | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket("udp4");
    const done = (value: DecodedPacket | undefined): void => {
      clearTimeout(timer);
      socket.close();
      resolve(value);
    };
    const timer = setTimeout(() => done(undefined), waitMs);
    socket.once("message", (reply) => done(decode(reply)));
    socket.send(message, port, "127.0.0.1");
  });
}

/** Sends raw bytes over TCP and reads until the other side closes or `count` messages have come. */
function askTcp(port: number, bytes: Buffer, count: number): Promise<DecodedPacket[]> {
  return new Promise((resolve) => {
    const connection = createConnection({ host: "127.0.0.1", port });
    let received = Buffer.alloc(0);
    const found: DecodedPacket[] = [];
    const done = (): void => {
      connection.destroy();
      resolve(found);
    };
    connection.on("error", done);
    connection.on("close", done);
    connection.on("data", (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        found.push(decode(received.subarray(2, 2 + received.readUInt16BE(0))));
        received = received.subarray(2 + received.readUInt16BE(0));
      }
      if (found.length >= count) done();
    });
    connection.write(bytes);
  });
}

function framed(...messages: Buffer[]): Buffer {
  return Buffer.concat(
    messages.flatMap((message) => {
      const size = Buffer.alloc(2);
      size.writeUInt16BE(message.length);
      return [size, message];
    }),
  );
}

/** A server out there, over UDP; `answer` may give several datagrams, or none. */
function upstream(t: TestContext, answer: (query: DecodedPacket, raw: Buffer) => Buffer[]): Promise<string> {
  const socket: Socket = createSocket("udp4");
  t.after(() => socket.close());
  socket.on("message", (message, from) => {
    for (const reply of answer(decode(message), message)) socket.send(reply, from.port, from.address);
  });
  return new Promise((resolve) => socket.bind(0, "127.0.0.1", () => resolve(`127.0.0.1#${socket.address().port}`)));
}

const answerWith = (query: DecodedPacket, data: string, id = query.id): Buffer =>
  encode({
    id: id ?? 0,
    type: "response",
    questions: query.questions ?? [],
    answers: [{ type: "A", name: query.questions?.[0]?.name ?? "", ttl: 1, data }],
  });

const addressOf = (packet: DecodedPacket | undefined): unknown => {
  const answer = packet?.answers?.[0];
  return answer?.type === "A" ? answer.data : undefined;
};

const codeOf = (packet: DecodedPacket | undefined): number => (packet?.flags ?? 0) & 15;

test("a member's name is answered over UDP and TCP, several questions on one connection", async (t) => {
  const server = await start(t);
  assert.equal(addressOf(await askUdp(server.port, question("nas.home.weft"))), "100.64.0.1");
  const replies = await askTcp(
    server.port,
    framed(question("nas.home.weft", 1), question("no.home.weft", 2), question("nas.home.weft", 3)),
    3,
  );
  assert.deepEqual(
    replies.map(({ id }) => id),
    [1, 2, 3],
  );
  assert.equal(server.counters.answered, 4);
  // no forward of a member leads here
  assert.ok(ownListeners.takes(parseAddress("127.0.0.1") as Uint8Array, server.port));
});

test("who has no overlay address gets nothing, over UDP and TCP", async (t) => {
  const server = await start(t, false);
  assert.equal(await askUdp(server.port, question("nas.home.weft"), 200), undefined);
  assert.deepEqual(await askTcp(server.port, framed(question("nas.home.weft")), 1), []);
  assert.equal(server.counters.strangers, 2);
});

test("other names are refused, until there is somebody to ask", async (t) => {
  const server = await start(t);
  assert.equal(codeOf(await askUdp(server.port, question("example.org"))), 5);
  server.setForwarders([await upstream(t, (query) => [answerWith(query, "192.0.2.1")])]);
  const reply = await askUdp(server.port, question("example.org", 99));
  assert.equal(reply?.id, 99);
  assert.equal(addressOf(reply), "192.0.2.1");
  assert.equal(addressOf(await askUdp(server.port, question("nas.home.weft"))), "100.64.0.1", "own names stay own");
});

test("a forged answer (another id, another question) does not count", async (t) => {
  const server = await start(t);
  const forged = (query: DecodedPacket): Buffer[] => [
    answerWith(query, "203.0.113.66", (query.id ?? 0) ^ 1),
    answerWith({ ...query, questions: [{ name: "example.com", type: "A", class: "IN" }] }, "203.0.113.66"),
    answerWith(query, "192.0.2.1"),
  ];
  server.setForwarders([await upstream(t, forged)]);
  assert.equal(addressOf(await askUdp(server.port, question("example.org"))), "192.0.2.1");
});

test("the second server is asked when the first is silent; SERVFAIL when all are", async (t) => {
  const server = await start(t);
  const silent = await upstream(t, () => []);
  server.setForwarders([silent, await upstream(t, (query) => [answerWith(query, "192.0.2.2")])]);
  assert.equal(addressOf(await askUdp(server.port, question("example.org"))), "192.0.2.2");
  server.setForwarders([silent]);
  assert.equal(codeOf(await askUdp(server.port, question("example.org"))), 2);
  assert.equal(server.counters.forwardFailed, 1);
});

test("a long answer is fetched again over TCP", async (t) => {
  const server = await start(t);
  const long = (query: DecodedPacket): Buffer =>
    encode({
      id: query.id ?? 0,
      type: "response",
      questions: query.questions ?? [],
      answers: Array.from({ length: 60 }, (_, i) => ({ type: "A", name: "example.org", ttl: 1, data: `192.0.2.${i}` })),
    });
  const place = await upstream(t, (query) => [long(query)]);
  const tcp: Server = createServer((connection) =>
    connection.once("data", (chunk: Buffer) => connection.write(framed(long(decode(chunk.subarray(2)))))),
  );
  t.after(() => tcp.close());
  await new Promise<void>((resolve) => tcp.listen(Number(place.split("#")[1]), "127.0.0.1", resolve));
  server.setForwarders([place]);
  const short = await askUdp(server.port, question("example.org"));
  assert.deepEqual([short?.flag_tc, short?.answers?.length], [true, 0]);
  const [whole] = await askTcp(server.port, framed(question("example.org")), 1);
  assert.equal(whole?.answers?.length, 60);
});

test("garbage closes a connection and is not answered over UDP", async (t) => {
  const server = await start(t);
  assert.deepEqual(await askTcp(server.port, framed(Buffer.alloc(2)), 1), []);
  assert.deepEqual(await askTcp(server.port, Buffer.from([0xff, 0xff, 1]), 1), []);
  assert.deepEqual(await askTcp(server.port, Buffer.alloc(100_000, 0x41), 1), []);
  assert.equal(await askUdp(server.port, Buffer.from("hello"), 200), undefined);
  assert.equal(addressOf(await askUdp(server.port, question("nas.home.weft"))), "100.64.0.1");
});

test("a server that cannot even be connected to is passed over", async (t) => {
  const server = await start(t);
  // a connected UDP socket may not be for the broadcast address, nor for a link-local one without its link
  const unreachable = ["255.255.255.255", "fe80::1"];
  server.setForwarders([...unreachable, await upstream(t, (query) => [answerWith(query, "192.0.2.3")])]);
  assert.equal(addressOf(await askUdp(server.port, question("example.org"))), "192.0.2.3");
  server.setForwarders(unreachable);
  assert.equal(codeOf(await askUdp(server.port, question("example.org"))), 2);
  assert.equal(server.counters.forwardFailed, 1);
});

test("an answer without the question does not count", async (t) => {
  const server = await start(t);
  const bare = (query: DecodedPacket): Buffer => {
    const reply = answerWith({ ...query, questions: [] }, "203.0.113.66");
    assert.equal(reply.readUInt16BE(4), 0);
    return reply;
  };
  server.setForwarders([await upstream(t, (query) => [bare(query), answerWith(query, "192.0.2.1")])]);
  assert.equal(addressOf(await askUdp(server.port, question("example.org"))), "192.0.2.1");
});

test("who asks over TCP and does not read is cut off", async (t) => {
  const server = await start(t);
  const services = Array.from({ length: 1_200 }, (_, i) => ({ label: "_x._tcp", host: "nas", port: i + 1 }));
  server.setZone(
    new Zone({
      network: "home",
      ipv4Prefix: "100.64.0.0/16",
      ipv6Prefix: "fd12:3456:789a::/48",
      hosts: [{ name: "nas", ipv4: "100.64.0.1", ipv6: "fd12:3456:789a::1" }],
      services,
      serial: 1,
    }),
  );
  const asked = encode({ id: 1, type: "query", questions: [{ name: "_x._tcp.home.weft", type: "SRV" }] });
  const connection = createConnection({ host: "127.0.0.1", port: server.port });
  t.after(() => connection.destroy());
  connection.pause();
  connection.on("error", () => undefined);
  let sent = 0;
  while (server.counters.overload === 0 && !connection.destroyed && sent < 390) {
    connection.write(framed(asked));
    sent++;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert.equal(server.counters.overload, 1);
  assert.equal(server.counters.limited, 0);
  assert.equal(addressOf(await askUdp(server.port, question("nas.home.weft"))), "100.64.0.1", "others are served");
});

test("a source beyond its rate is not answered, over UDP and TCP", async (t) => {
  const server = await start(t);
  const flood = framed(...Array.from({ length: 30 }, (_, i) => question("nas.home.weft", i)));
  let answered = 0;
  // 400 at once, 200 more each second: a thousand in much less than three seconds are too many
  for (let i = 0; i < 40; i++) answered += (await askTcp(server.port, flood, 30)).length;
  assert.ok(answered >= 300 && answered < 1_200, `${answered} answers`);
  assert.ok(server.counters.limited > 0);
  const socket = createSocket("udp4");
  t.after(() => socket.close());
  const { limited } = server.counters;
  for (let i = 0; i < 1_000; i++) {
    socket.send(question("nas.home.weft"), server.port, "127.0.0.1");
    if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  assert.ok(server.counters.limited > limited);
});

test("a port that is taken is told, not thrown", async (t) => {
  const server = await start(t);
  const second = new DnsServer({ log: nullLogger, random: new SeededRandom(1), isAllowed: () => true }, server.port);
  t.after(() => second.close());
  assert.match((await second.listen("127.0.0.1")) ?? "", /EADDRINUSE/);
  assert.deepEqual(second.serving, []);
});
