import assert from "node:assert/strict";
import { once } from "node:events";
import { buffer } from "node:stream/consumers";
import { finished } from "node:stream/promises";
import { setImmediate as tick, setTimeout as sleep } from "node:timers/promises";
import { type TestContext, test } from "node:test";
import { SeededRandom } from "../base/random.ts";
import { QUIC_DATAGRAM_BYTES } from "../sys/quic.ts";
import { type ChannelModel, StreamPair } from "./testing.ts";
import {
  type MeshStream,
  StreamClass,
  StreamCode,
  StreamError,
  StreamFlag,
  type StreamEndpointOptions,
} from "./types.ts";

function pairFor(t: TestContext, model: ChannelModel = {}, options: StreamEndpointOptions = {}, seed = 1): StreamPair {
  const pair = new StreamPair(model, options, seed);
  for (const end of [pair.client, pair.server]) end.serve("echo", (stream) => stream.pipe(stream));
  t.after(() => pair.close());
  return pair;
}

async function echo(stream: MeshStream, bytes: Uint8Array): Promise<Buffer> {
  stream.end(bytes);
  return buffer(stream);
}

/** @returns the streams of that kind that come in, in order */
function incoming(end: StreamPair["client"], kind: string): { next(): Promise<MeshStream> } {
  const come: MeshStream[] = [];
  const wait: ((stream: MeshStream) => void)[] = [];
  end.serve(kind, (stream) => {
    const first = wait.shift();
    if (first === undefined) come.push(stream);
    else first(stream);
  });
  return {
    next: () => {
      const first = come.shift();
      return first === undefined ? new Promise((resolve) => wait.push(resolve)) : Promise.resolve(first);
    },
  };
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 2_000; i++) {
    if (condition()) return;
    await sleep(5);
  }
  assert.fail(`never happened: ${what}`);
}

const isError =
  (code: string, resetCode?: number) =>
  (error: unknown): boolean =>
    error instanceof StreamError && error.code === code && (resetCode === undefined || error.resetCode === resetCode);

test("streams of both sides carry the same bytes through loss, duplication and reordering", async (t) => {
  for (const seed of [1, 2]) {
    const random = new SeededRandom(seed);
    const pair = pairFor(t, { loss: 0.03, duplicate: 0.05, delayMs: 1, jitterMs: 3 }, {}, seed);
    const jobs = Array.from({ length: 6 }, async (_, i) => {
      const [end, peer] = i % 2 === 0 ? [pair.client, pair.serverId] : [pair.server, pair.clientId];
      const sent = random.bytes(1 + (random.u32() % 60_000));
      const got = await echo(await end.open(peer, { kind: "echo" }), sent);
      assert.ok(got.equals(sent), `seed ${seed}, stream ${i}`);
    });
    await Promise.all(jobs);
    assert.ok(pair.largestBytes <= QUIC_DATAGRAM_BYTES, `a datagram of ${pair.largestBytes} bytes`);
    assert.equal(pair.client.generation(pair.serverId), 1);
    pair.close();
  }
});

test("the node with the larger id gets its connection by asking for it", async (t) => {
  const pair = pairFor(t);
  // the first question is lost
  let asked = 0;
  pair.filter = ({ flags }) => (flags & StreamFlag.CONNECT) === 0 || ++asked > 1;
  const stream = await pair.server.open(pair.clientId, { kind: "echo" });
  assert.equal((await echo(stream, Buffer.from("hello"))).toString(), "hello");
  assert.ok(asked > 1);
});

test("who does not read holds the writer, and loses nothing", async (t) => {
  const pair = pairFor(t);
  const sinks = incoming(pair.server, "sink");
  const stream = await pair.client.open(pair.serverId, { kind: "sink", class: StreamClass.BULK });
  const chunk = Buffer.alloc(65_536);
  let sent = 0;
  let isBlocked = false;
  while (sent < 64 << 20 && !isBlocked) {
    chunk.fill(sent >>> 16);
    sent += chunk.length;
    if (stream.write(Buffer.from(chunk))) continue;
    isBlocked = !(await Promise.race([once(stream, "drain").then(() => true), sleep(400).then(() => false)]));
  }
  assert.ok(isBlocked, "the writer was never held");
  assert.ok(sent < 8 << 20, `${sent} bytes were taken without a reader`);
  stream.end();
  const sink = await sinks.next();
  sink.end();
  const got = await buffer(sink);
  assert.equal(got.length, sent);
  for (let at = 0; at < sent; at += 65_536) assert.equal(got[at], (at >>> 16) & 0xff);
  stream.resume();
  await finished(stream);
});

test("streams that nobody reads stand in nobody's way", async (t) => {
  const pair = pairFor(t, { loss: 0.01 });
  pair.server.serve("hold", () => undefined);
  const fill = async (stream: MeshStream): Promise<void> => {
    while (!stream.destroyed) if (!stream.write(Buffer.alloc(65_536))) await once(stream, "drain");
  };
  for (let i = 0; i < 40; i++) {
    const held = await pair.client.open(pair.serverId, { kind: "hold", class: i % 4 === 0 ? 0 : 1 });
    fill(held).catch(() => undefined);
  }
  for (const streamClass of [0, 1, 2, 3] as const) {
    const stream = await pair.client.open(pair.serverId, { kind: "echo", class: streamClass });
    const bytes = Buffer.alloc(300_000, streamClass);
    assert.ok((await echo(stream, bytes)).equals(bytes));
  }
  assert.ok(pair.client.counters.bytesOut < 40 * 65_536 + 4 * 300_000 + 1, "nobody got more than the first credit");
});

test("credit that gets lost is asked for", async (t) => {
  const pair = pairFor(t);
  let lost = 0;
  pair.filter = ({ flags }) => (flags & StreamFlag.CREDIT) === 0 || ++lost % 3 === 0;
  const stream = await pair.client.open(pair.serverId, { kind: "echo" });
  const bytes = new SeededRandom(8).bytes(150_000);
  assert.ok((await echo(stream, bytes)).equals(bytes));
  assert.ok(lost > 1);
});

test("who sends more than its credit loses the stream, and only that", async (t) => {
  const pair = pairFor(t);
  let tag = 0;
  pair.filter = ({ aux }) => {
    tag = aux;
    return true;
  };
  pair.server.serve("hold", () => undefined);
  const held = await pair.client.open(pair.serverId, { kind: "hold" });
  const forged = Buffer.alloc(16);
  forged.writeBigUInt64LE(1n << 40n, 8);
  held.write(Buffer.alloc(1_000));
  await sleep(10);
  pair.client.handleDatagram(pair.serverId, StreamFlag.CREDIT, tag, forged);
  held.write(Buffer.alloc(200_000));
  await assert.rejects(buffer(held), isError("STREAM_RESET", StreamCode.TOO_MUCH));
  const stream = await pair.client.open(pair.serverId, { kind: "echo" });
  assert.equal((await echo(stream, Buffer.from("fine"))).toString(), "fine");
  assert.equal(pair.client.generation(pair.serverId), 1);
});

test("one half ends while the other goes on", async (t) => {
  const pair = pairFor(t);
  const asked = incoming(pair.server, "ask");
  const stream = await pair.client.open(pair.serverId, { kind: "ask" });
  stream.end("question");
  const other = await asked.next();
  // not by iteration, which destroys a stream at the end of its readable half
  let heard = "";
  other.on("data", (bytes: Buffer) => (heard += bytes.toString()));
  await once(other, "end");
  assert.equal(heard, "question");
  await sleep(20);
  other.write("ans");
  await sleep(20);
  other.end("wer");
  assert.equal((await buffer(stream)).toString(), "answer");
  await until(() => pair.client.counters.streams + pair.server.counters.streams === 0, "both ends are given back");
});

test("a reset reaches the other side with its code, in both directions", async (t) => {
  const pair = pairFor(t);
  const got = incoming(pair.server, "cut");
  const first = await pair.client.open(pair.serverId, { kind: "cut" });
  first.write("x");
  const otherFirst = await got.next();
  first.reset(StreamCode.APPLICATION + 7);
  await assert.rejects(buffer(otherFirst), isError("STREAM_RESET", 263));
  const second = await pair.client.open(pair.serverId, { kind: "cut" });
  second.write("y");
  (await got.next()).reset(StreamCode.APPLICATION + 8);
  await assert.rejects(buffer(second), isError("STREAM_RESET", 264));
  assert.throws(() => second.reset(-1), RangeError);
});

test("a kind that nobody serves is refused, and a bad one is not even sent", async (t) => {
  const pair = pairFor(t);
  const stream = await pair.client.open(pair.serverId, { kind: "nobody" });
  await assert.rejects(buffer(stream), isError("STREAM_RESET", StreamCode.UNKNOWN_KIND));
  await assert.rejects(pair.client.open(pair.serverId, { kind: "two words" }), RangeError);
  assert.throws(() => pair.server.serve("echo", () => {}), RangeError);
});

test("a signal ends the waiting, and later the stream", async (t) => {
  const pair = pairFor(t);
  pair.filter = () => false;
  const waiting = new AbortController();
  const opening = pair.client.open(pair.serverId, { kind: "echo", signal: waiting.signal });
  waiting.abort();
  await assert.rejects(opening, { name: "AbortError" });
  assert.equal(pair.client.counters.opensWaiting, 0);
  pair.filter = () => true;
  pair.client.peerUp(pair.serverId);
  const got = incoming(pair.server, "long");
  const working = new AbortController();
  const stream = await pair.client.open(pair.serverId, { kind: "long", signal: working.signal });
  stream.write("x");
  const other = await got.next();
  working.abort();
  await assert.rejects(buffer(stream), { name: "AbortError" });
  await assert.rejects(buffer(other), isError("STREAM_RESET", StreamCode.CANCELLED));
});

test("a failing stream that nobody listens to is not the end of the process", async (t) => {
  const pair = pairFor(t);
  const stream = await pair.client.open(pair.serverId, { kind: "nobody" });
  await until(() => stream.destroyed, "the reset has come");
  await tick();
  assert.equal(pair.client.counters.streamsReset, 1);
});

test("a listener that throws loses its stream, and nobody else does", async (t) => {
  const pair = pairFor(t);
  const failure = new Promise<Error>((resolve) => {
    pair.server.serve("broken", (stream) => {
      stream.on("error", resolve).on("data", () => {
        throw new Error("a bug");
      });
    });
  });
  const stream = await pair.client.open(pair.serverId, { kind: "broken" });
  stream.write("x");
  await assert.rejects(buffer(stream), isError("STREAM_RESET", StreamCode.CANCELLED));
  assert.equal((await failure).message, "a bug");
  const other = await pair.client.open(pair.serverId, { kind: "echo" });
  assert.equal((await echo(other, Buffer.from("fine"))).toString(), "fine");
});

for (const loser of ["client", "server"] as const) {
  test(`the ${loser} loses everything: the other's streams are told, and new ones work`, async (t) => {
    const pair = pairFor(t);
    const [keeperId, loserId] = loser === "client" ? [pair.serverId, pair.clientId] : [pair.clientId, pair.serverId];
    const keeper = loser === "client" ? pair.server : pair.client;
    const held = incoming(loser === "client" ? pair.client : pair.server, "held");
    const waiting = await keeper.open(loserId, { kind: "held" });
    waiting.write("question");
    await held.next();
    const fresh = pair.replace(loser);
    fresh.serve("echo", (stream) => stream.pipe(stream));
    const told = assert.rejects(buffer(waiting), isError("CONNECTION_REPLACED"));
    // idle until now: the first use shows it
    const startedMs = performance.now();
    waiting.write("more");
    await told;
    const again = await keeper.open(loserId, { kind: "echo" });
    assert.equal((await echo(again, Buffer.from("again"))).toString(), "again");
    t.diagnostic(`whole again after ${(performance.now() - startedMs).toFixed(1)} ms`);
    assert.ok(again.generation > waiting.generation);
    const kinds = pair.events.filter(({ peerId }) => Buffer.from(peerId).equals(loserId)).map(({ kind }) => kind);
    assert.deepEqual(kinds, ["established", "replaced", "established"]);
    // and the other way round, without anybody being told
    const back = await fresh.open(keeperId, { kind: "echo" });
    assert.equal((await echo(back, Buffer.from("back"))).toString(), "back");
  });
}

test("the side that lost everything begins anew, and the other one's streams are told", async (t) => {
  for (const loser of ["client", "server"] as const) {
    const pair = pairFor(t);
    const [keeperId, loserId] = loser === "client" ? [pair.serverId, pair.clientId] : [pair.clientId, pair.serverId];
    const keeper = loser === "client" ? pair.server : pair.client;
    incoming(loser === "client" ? pair.client : pair.server, "held");
    const waiting = await keeper.open(loserId, { kind: "held" });
    waiting.write("question");
    await sleep(10);
    const told = assert.rejects(buffer(waiting), isError("CONNECTION_REPLACED"));
    const stream = await pair.replace(loser).open(keeperId, { kind: "echo" });
    assert.equal((await echo(stream, Buffer.from("new"))).toString(), "new");
    await told;
    pair.close();
  }
});

test("a peer that is gone ends its streams and its waiting opens", async (t) => {
  const pair = pairFor(t);
  incoming(pair.server, "held");
  const stream = await pair.client.open(pair.serverId, { kind: "held" });
  const ended = assert.rejects(buffer(stream), isError("PEER_GONE"));
  pair.client.peerGone(pair.serverId, "revoked");
  await ended;
  pair.filter = () => false;
  const opening = assert.rejects(pair.client.open(pair.serverId, { kind: "echo" }), isError("PEER_GONE"));
  pair.client.peerGone(pair.serverId, "revoked");
  await opening;
  assert.equal(pair.client.counters.connections, 0);
});

test("opens have limits and an end", async (t) => {
  const pair = pairFor(t, {}, { maxWaitingPerPeer: 2, openTimeoutMs: 150 });
  pair.filter = () => false;
  const opens = [1, 2].map(() => pair.client.open(pair.serverId, { kind: "echo" }));
  const ends = opens.map((open) => assert.rejects(open, isError("STREAM_TIMEOUT")));
  await assert.rejects(pair.client.open(pair.serverId, { kind: "echo" }), isError("STREAM_LIMIT"));
  await Promise.all(ends);
  assert.equal(pair.client.counters.opensWaiting, 0);
});

test("streams beyond the limits wait for their turn", async (t) => {
  const pair = pairFor(t, {}, { maxOutgoingPerPeer: 4, maxIncomingPerPeer: 3 });
  let open = 0;
  let most = 0;
  pair.server.serve("slow", (stream) => {
    most = Math.max(most, ++open);
    setTimeout(() => {
      open--;
      stream.resume();
      stream.end("done");
    }, 5);
  });
  const results = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const stream = await pair.client.open(pair.serverId, { kind: "slow" });
      return (await echo(stream, Buffer.from("x"))).toString();
    }),
  );
  assert.deepEqual(new Set(results), new Set(["done"]));
  assert.ok(most <= 3, `${most} streams were accepted at once`);
});

test("a worn connection gets a successor without disturbing what runs", async (t) => {
  const pair = pairFor(t, {}, { streamsPerConnection: 16 });
  const got = incoming(pair.server, "long");
  const long = await pair.client.open(pair.serverId, { kind: "long" });
  long.write("begin ");
  const other = await got.next();
  for (let i = 0; i < 60; i++) {
    const [end, peer] = i % 3 === 0 ? [pair.server, pair.clientId] : [pair.client, pair.serverId];
    const bytes = Buffer.from(`stream ${i}`);
    assert.ok((await echo(await end.open(peer, { kind: "echo" }), bytes)).equals(bytes));
  }
  assert.ok(pair.client.generation(pair.serverId) >= 3);
  assert.equal(pair.client.counters.connectionsReplaced + pair.server.counters.connectionsReplaced, 0);
  long.end("end");
  assert.equal((await buffer(other)).toString(), "begin end");
  other.end();
});

test("an urgent stream does not wait for a long one", async (t) => {
  const pair = pairFor(t, { delayMs: 2 });
  pair.server.serve("sink", (stream) => stream.resume());
  const bulk = await pair.client.open(pair.serverId, { kind: "sink", class: StreamClass.BULK });
  const total = 24 << 20;
  bulk.end(Buffer.alloc(total));
  await sleep(50);
  const urgent = await pair.client.open(pair.serverId, { kind: "echo", class: StreamClass.CONTROL });
  assert.equal((await echo(urgent, Buffer.from("now"))).toString(), "now");
  assert.equal(bulk.writableFinished, false, "the long one was done before");
  bulk.destroy();
});

test("a silence of the path ends nothing: the stream goes on where it was", async (t) => {
  const pair = pairFor(t);
  const stream = await pair.client.open(pair.serverId, { kind: "echo" });
  const bytes = new SeededRandom(6).bytes(400_000);
  const result = echo(stream, bytes);
  await sleep(2);
  pair.filter = () => false;
  await sleep(700);
  pair.filter = () => true;
  pair.model = { delayMs: 5, jitterMs: 2 };
  assert.ok((await result).equals(bytes));
  assert.equal(pair.client.generation(pair.serverId), 1);
});

test("a connection that is never answered is given up, and the next one works", async (t) => {
  const pair = pairFor(t, {}, { silenceMs: 300 });
  const stream = await pair.client.open(pair.serverId, { kind: "echo" });
  pair.filter = () => false;
  const told = assert.rejects(buffer(stream), isError("CONNECTION_REPLACED"));
  stream.write("anybody?");
  await told;
  pair.filter = () => true;
  const again = await pair.client.open(pair.serverId, { kind: "echo" });
  assert.equal((await echo(again, Buffer.from("here"))).toString(), "here");
});

test("datagrams of a handshake that are lost go again long before a second has passed", async (t) => {
  for (const lostFrom of ["client", "server"] as const) {
    const pair = pairFor(t);
    let lost = 0;
    pair.filter = ({ fromClient, payload }) =>
      payload.length === 0 || fromClient !== (lostFrom === "client") || lost++ >= 3;
    const startMs = performance.now();
    const stream = await pair.client.open(pair.serverId, { kind: "echo" });
    assert.equal((await echo(stream, Buffer.from("x"))).toString(), "x");
    const tookMs = performance.now() - startMs;
    t.diagnostic(`three lost from the ${lostFrom}: ${tookMs.toFixed(0)} ms`);
    assert.ok(tookMs < 900, `${tookMs} ms`);
    assert.ok(lost >= 3, "control: something was lost");
    assert.equal(pair.client.counters.connectionsEstablished, 1);
  }
});

test("a connection without streams is closed, and the next stream makes a new one", async (t) => {
  const pair = pairFor(t, {}, { idleMs: 50 });
  const open = (): Promise<MeshStream> => pair.server.open(pair.clientId, { kind: "echo" });
  assert.equal((await echo(await open(), Buffer.from("one"))).toString(), "one");
  await until(() => pair.client.counters.connections + pair.server.counters.connections === 0, "it is closed");
  assert.equal((await echo(await open(), Buffer.from("two"))).toString(), "two");
});

test("a full plane delays and loses nothing", async (t) => {
  const pair = pairFor(t);
  const stream = await pair.client.open(pair.serverId, { kind: "echo" });
  const bytes = new SeededRandom(5).bytes(300_000);
  const result = echo(stream, bytes);
  for (let i = 0; i < 20; i++) {
    pair.isFull = i % 2 === 0;
    await sleep(2);
  }
  pair.isFull = false;
  assert.ok((await result).equals(bytes));
  assert.ok(pair.client.counters.datagramsDelayed > 0);
});

test("hostile datagrams of an authenticated peer change nothing for the others", async (t) => {
  const random = new SeededRandom(9);
  const pair = pairFor(t, { loss: 0.01 });
  const stream = await pair.client.open(pair.serverId, { kind: "echo" });
  const sent = random.bytes(200_000);
  const result = echo(stream, sent);
  const strangers = [random.bytes(32), random.bytes(32)];
  for (let i = 0; i < 3_000; i++) {
    const bytes = random.bytes(random.u32() % 1_300);
    if (bytes.length > 5 && random.unit() < 0.5) bytes.set([0xc0, 0, 0, 0, 1, 8]);
    const end = random.unit() < 0.5 ? pair.client : pair.server;
    end.handleDatagram(strangers[i % 2], random.u32() & 0xff, random.u32() & 0xffff, bytes);
    if (i % 100 === 0) await tick();
  }
  assert.ok((await result).equals(sent));
  const { client, server } = pair;
  assert.ok(client.counters.connections + server.counters.connections <= 16, "connections of strangers are bounded");
  assert.ok(server.counters.resetsSent + client.counters.resetsSent < 200, "answers are bounded");
});

test("a peer with another key than its node id gets no stream", async (t) => {
  const pair = pairFor(t);
  const stranger = new StreamPair({}, {}, 77);
  t.after(() => stranger.close());
  // the server of the pair hears the stranger's client under the name of its own
  const opening = assert.rejects(
    stranger.client.open(stranger.serverId, { kind: "echo", signal: AbortSignal.timeout(500) }),
  );
  stranger.filter = ({ fromClient, flags, aux, payload }) => {
    if (fromClient) pair.server.handleDatagram(pair.clientId, flags, aux, payload);
    return false;
  };
  pair.filter = ({ fromClient, flags, aux, payload }) => {
    if (!fromClient) stranger.client.handleDatagram(stranger.serverId, flags, aux, payload);
    return false;
  };
  await opening;
  assert.ok(pair.server.counters.keysRefused + stranger.client.counters.keysRefused > 0);
  assert.equal(pair.server.counters.streamsAccepted, 0);
});

test("many streams and many connections leave nothing behind", async (t) => {
  const pair = pairFor(t);
  for (let i = 0; i < 30; i++) {
    await Promise.all(
      Array.from({ length: 20 }, async (_, n) => {
        const [end, peer] = n % 2 === 0 ? [pair.client, pair.serverId] : [pair.server, pair.clientId];
        for (let attempt = 0; attempt < 5; attempt++) {
          const stream = await end.open(peer, { kind: "echo" });
          if (n % 5 === 4) return stream.reset(StreamCode.APPLICATION);
          try {
            return void (await echo(stream, Buffer.alloc(100, n)));
          } catch (error) {
            // the other side closed the connection while this one opened a stream on it: ask again
            assert.ok(isError("CONNECTION_CLOSED")(error) || isError("CONNECTION_REPLACED")(error));
          }
        }
        assert.fail("the connection never stayed");
      }),
    );
    if (i % 3 === 2) pair.client.peerRestarted(pair.serverId);
  }
  await until(() => pair.client.counters.streams + pair.server.counters.streams === 0, "all streams are given back");
  pair.close();
  for (const { counters } of [pair.client, pair.server]) {
    assert.deepEqual([counters.connections, counters.streams, counters.opensWaiting], [0, 0, 0]);
    assert.ok(counters.connectionsEstablished <= counters.connectionsReplaced + counters.connectionsClosed);
  }
});
