import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, randomBytes, X509Certificate } from "node:crypto";
import { type TestContext, test } from "node:test";
import { certify } from "../stream/certificate.ts";
import { QuicContext } from "./quic-context.ts";
import { type QuicStream, ReadEnd, StreamEvent, StreamState } from "./quic-stream.ts";
import { QUIC_DATAGRAM_BYTES, QuicConnection } from "./quic.ts";
import { loadQuic } from "./quic-calls.ts";

interface World {
  readonly client: QuicConnection;
  readonly server: QuicConnection;
  readonly keys: { readonly client: Uint8Array; readonly server: Uint8Array };
  /** Bytes of every datagram that went. */
  readonly sizes: number[];
  pump(): void;
}

function keyOf(seed: Uint8Array): Uint8Array {
  const key = createPrivateKey({ key: seed, format: "raw-private", asymmetricKeyType: "ed25519" });
  return createPublicKey(key).export({ format: "raw-public" });
}

function world(t: TestContext, protocols: readonly [string, string] = ["weft/1", "weft/1"]): World {
  const seeds = [randomBytes(32), randomBytes(32)];
  const contexts = seeds.map((seed, i) => new QuicContext({ ...certify(seed), protocol: protocols[i] }));
  const client = new QuicConnection(contexts[0], { role: "client" });
  const server = new QuicConnection(contexts[1], { role: "server" });
  t.after(() => {
    client.free();
    server.free();
    for (const context of contexts) context.close();
  });
  const sizes: number[] = [];
  const move = (from: QuicConnection, to: QuicConnection): void => {
    for (let datagram = from.transmit(); datagram !== undefined; datagram = from.transmit()) {
      sizes.push(datagram.length);
      to.receive(datagram);
    }
  };
  const pump = (): void => {
    for (let i = 0; i < 8; i++) {
      client.process();
      move(client, server);
      server.process();
      move(server, client);
    }
  };
  return { client, server, keys: { client: keyOf(seeds[0]), server: keyOf(seeds[1]) }, sizes, pump };
}

test("the certificate is one that others read, with the node's key and a valid signature", () => {
  const seed = randomBytes(32);
  const { certificate, privateKey } = certify(seed);
  const parsed = new X509Certificate(certificate);
  assert.ok(parsed.verify(parsed.publicKey));
  assert.deepEqual(parsed.publicKey.export({ format: "raw-public" }), Buffer.from(keyOf(seed)));
  assert.equal(parsed.subject, "CN=weft");
  assert.ok(parsed.validToDate.getTime() > Date.UTC(9999, 0));
  const key = createPrivateKey({ key: Buffer.from(privateKey), format: "der", type: "pkcs8" });
  assert.deepEqual(key.export({ format: "raw-private" }), seed);
});

test("two ends shake hands over memory, know each other's key, and need few datagrams of at most 1,200 bytes", (t) => {
  const { client, server, keys, sizes, pump } = world(t);
  assert.equal(client.isEstablished, false);
  assert.equal(client.peerKey(), undefined);
  pump();
  assert.ok(client.isEstablished && server.isEstablished);
  assert.deepEqual(client.peerKey(), Uint8Array.from(keys.server));
  assert.deepEqual(server.peerKey(), Uint8Array.from(keys.client));
  assert.ok(sizes.length < 16, `${sizes.length} datagrams`);
  assert.equal(Math.max(...sizes), QUIC_DATAGRAM_BYTES);
  assert.equal(client.closeInfo(), undefined);
});

test("an end with another application protocol is refused", (t) => {
  const { client, server, pump } = world(t, ["weft/1", "other/1"]);
  pump();
  assert.equal(client.isEstablished, false);
  assert.equal(server.isEstablished, false);
  // 0x178 = 256 + 120: TLS no_application_protocol (RFC 9001 section 8.1)
  assert.equal(server.closeInfo()?.code, 0x178);
  assert.equal(server.closeInfo()?.isTransport, true);
});

test("bytes, half-close, reset and close arrive with their codes", (t) => {
  const { client, server, pump } = world(t);
  pump();
  const stream = client.openStream() as QuicStream;
  assert.equal(stream.write(Buffer.from("hello"), 0, 5, true), 5);
  pump();
  const other = server.acceptStream() as QuicStream;
  assert.equal(server.acceptStream(), undefined);
  other.wanted = StreamEvent.READABLE | StreamEvent.WRITABLE;
  server.poll([other]);
  assert.equal(other.ready, StreamEvent.READABLE | StreamEvent.WRITABLE);
  assert.equal(other.read(3).toString(), "hel");
  assert.equal(other.read(100).toString(), "lo");
  assert.equal(other.read(100), ReadEnd.FINISHED);
  other.reset(300);
  pump();
  assert.equal(stream.read(100), ReadEnd.BROKEN);
  assert.equal(stream.readState, StreamState.RESET_REMOTE);
  assert.equal(stream.readErrorCode, 300);
  stream.free();
  stream.free();
  other.free();
  assert.equal(stream.read(100), ReadEnd.BROKEN);
  assert.equal(stream.write(Buffer.from("x"), 0, 1, false), -1);
  client.shutdown(7);
  pump();
  assert.deepEqual(server.closeInfo(), { code: 7, reason: "", isLocal: false, isTransport: false });
  assert.equal(client.closeInfo()?.isLocal, true);
});

test("a writer without a reader is stopped, and what is not acknowledged is known", (t) => {
  const { client, server, pump } = world(t);
  pump();
  const stream = client.openStream() as QuicStream;
  const chunk = Buffer.alloc(65_536, 7);
  let taken = stream.write(chunk, 0, 1000, false);
  assert.equal(stream.unacknowledgedBytes, 1000);
  for (let i = 0; i < 200; i++) {
    taken += stream.write(chunk, 0, chunk.length, false);
    pump();
  }
  assert.ok(taken < 4 << 20, `${taken} bytes were taken`);
  const other = server.acceptStream() as QuicStream;
  let got = 0;
  for (let read = other.read(1 << 20); typeof read !== "number"; read = other.read(1 << 20)) got += read.length;
  assert.ok(got > 0);
  stream.free();
  other.free();
});

test("random datagrams neither crash nor disturb either end", (t) => {
  const { client, server, pump } = world(t);
  pump();
  for (let i = 0; i < 2_000; i++) {
    const bytes = randomBytes(i % 1_500);
    if (bytes.length > 0) bytes[0] = i & 0xff;
    (i % 2 === 0 ? client : server).receive(bytes);
    if (i % 50 === 0) pump();
  }
  assert.ok(client.isEstablished && server.isEstablished);
  assert.equal(client.closeInfo(), undefined);
  assert.equal(server.closeInfo(), undefined);
  const stream = client.openStream() as QuicStream;
  stream.write(Buffer.from("still here"), 0, 10, true);
  pump();
  const other = server.acceptStream() as QuicStream;
  assert.equal(other.read(100).toString(), "still here");
  stream.free();
  other.free();
});

test("what is freed answers nothing, and the signatures hold", (t) => {
  const { client, server } = world(t);
  client.free();
  client.free();
  client.process();
  assert.equal(client.receive(Buffer.alloc(10)), false);
  assert.equal(client.transmit(), undefined);
  assert.equal(client.nextTimeoutMs(), Infinity);
  assert.equal(client.openStream(), undefined);
  assert.equal(server.openStream(), undefined);
  assert.ok(loadQuic().OpenSSL_version_num() >= 0x3050_0000);
});
