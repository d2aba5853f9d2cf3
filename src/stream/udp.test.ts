import assert from "node:assert/strict";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { buffer } from "node:stream/consumers";
import { test } from "node:test";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import type { StreamEndpoint } from "./api.ts";
import { createStreamEndpoint } from "./endpoint.ts";

interface End {
  readonly socket: Socket;
  readonly identity: Identity;
  endpoint: StreamEndpoint;
  port: number;
}

/** In place of a session: flags and aux in front of the payload. */
async function end(random: SeededRandom, peer: () => End): Promise<End> {
  const socket = createSocket("udp4");
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  const identity = Identity.generate(random);
  const endpoint = createStreamEndpoint({
    identity,
    random,
    clock: {
      now: () => ({ nowMs: performance.now() }),
      schedule: (atMs, action) => {
        const timer = setTimeout(action, Math.max(0, atMs - performance.now()));
        return () => clearTimeout(timer);
      },
    },
    send: (_peerId, flags, aux, payload) => {
      socket.send([Buffer.of(flags, 0, aux & 0xff, aux >>> 8), payload], peer().port, "127.0.0.1");
      return true;
    },
  });
  socket.on("message", (message) => {
    endpoint.handleDatagram(peer().identity.nodeId, message[0], message.readUInt16LE(2), message.subarray(4));
  });
  return { socket, identity, endpoint, port: socket.address().port };
}

test("streams run over real UDP sockets, and go on when one of them moves to another port", async (t) => {
  const random = new SeededRandom(4);
  const ends: End[] = [];
  ends.push(await end(random, () => ends[1]), await end(random, () => ends[0]));
  t.after(() => {
    for (const { endpoint, socket } of ends) {
      endpoint.close();
      socket.close();
    }
  });
  const [a, b] = ends;
  b.endpoint.serve("echo", (stream) => stream.pipe(stream));
  const stream = await a.endpoint.open(b.identity.nodeId, { kind: "echo" });
  const bytes = random.bytes(400_000);
  const result = buffer(stream);
  stream.write(bytes.subarray(0, 200_000));
  // the session below finds a moved peer; here the test does
  const moved = createSocket("udp4");
  moved.bind(0, "127.0.0.1");
  await once(moved, "listening");
  moved.on("message", (message) => a.socket.emit("message", message));
  a.port = moved.address().port;
  t.after(() => moved.close());
  stream.end(bytes.subarray(200_000));
  assert.ok((await result).equals(bytes));
  assert.equal(a.endpoint.generation(b.identity.nodeId), 1);
});
