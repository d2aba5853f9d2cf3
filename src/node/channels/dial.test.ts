import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer as createHttps } from "node:https";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { type WebSocket, WebSocketServer } from "ws";
import { makeCertificates } from "../../../test/support/certificates.ts";
import { parseChannelUrl, type ChannelUrl } from "../../base/channel-url.ts";
import { Dialer, isLocal, remedyFor } from "./dial.ts";

const folder = mkdtempSync(join(tmpdir(), "weft-dial-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const skip = spawnSync("openssl", ["version"]).status === 0 ? false : "needs the openssl program";

function urlOf(text: string): ChannelUrl {
  const url = parseChannelUrl(text);
  assert.ok(url !== undefined);
  return url;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

const never = new AbortController().signal;

test(
  "TLS: the server is verified against the extra authority, by name or address, with and without a mark",
  { skip },
  async () => {
    const files = makeCertificates(folder, ["DNS:localhost", "IP:127.0.0.1"]);
    const https = createHttps({ cert: readFileSync(files.certificate), key: readFileSync(files.key) });
    const server = new WebSocketServer({ server: https });
    https.listen(0, "127.0.0.1");
    await once(https, "listening");
    const { port } = https.address() as AddressInfo;
    try {
      for (const mark of [0, 0x57]) {
        const trusting = new Dialer({ ca: readFileSync(files.authority, "utf8"), mark, allowLocal: true });
        for (const host of ["localhost", "127.0.0.1"]) {
          const socket = await trusting.dial(urlOf(`wss://${host}:${port}/weft`), never);
          socket.terminate();
        }
        const stranger = new Dialer({ ca: undefined, mark, allowLocal: true });
        await assert.rejects(stranger.dial(urlOf(`wss://localhost:${port}/`), never), (error: Error) => {
          assert.match(error.message, /certificate/);
          assert.match(remedyFor(error), /`ca` of \[websocket\]/);
          return true;
        });
      }
      const trusting = new Dialer({ ca: readFileSync(files.authority, "utf8"), mark: 0, allowLocal: true });
      const wrongName = urlOf(`wss://[::ffff:127.0.0.1]:${port}/`);
      await assert.rejects(trusting.dial(wrongName, never), /altnames/);
    } finally {
      server.close();
      https.close();
      https.closeAllConnections();
    }
  },
);

test("what cannot be reached is an error with the reason, and aborting ends an attempt at once", async () => {
  const port = await freePort();
  for (const scheme of ["ws", "wss"]) {
    for (const mark of [0, 0x57]) {
      const dialer = new Dialer({ ca: undefined, mark, allowLocal: true });
      await assert.rejects(dialer.dial(urlOf(`${scheme}://127.0.0.1:${port}/`), never), /ECONNREFUSED/);
    }
  }
  const dialer = new Dialer({ ca: undefined, mark: 0, allowLocal: true });
  await assert.rejects(dialer.dial(urlOf("wss://name.invalid/"), never), /name\.invalid cannot be resolved/);
  const mute = createServer(() => undefined).listen(0, "127.0.0.1");
  await once(mute, "listening");
  const abort = new AbortController();
  const pending = dialer.dial(urlOf(`ws://127.0.0.1:${(mute.address() as AddressInfo).port}/`), abort.signal);
  setTimeout(() => abort.abort(new Error("enough")), 20);
  await assert.rejects(pending, /enough/);
  mute.close();
});

test("a host with a dead and a live address is reached through the live one", async () => {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(server, "listening");
  const dialer = new Dialer({ ca: undefined, mark: 0, allowLocal: true });
  // "localhost" is ::1 and 127.0.0.1 here or the latter only; nobody listens on the former
  const socket: WebSocket = await dialer.dial(
    urlOf(`ws://localhost:${(server.address() as AddressInfo).port}/`),
    never,
  );
  socket.terminate();
  server.close();
});

test("addresses of this machine and of its link are not dialled, by name or number", async () => {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  let connections = 0;
  server.on("connection", () => connections++);
  const dialer = new Dialer({ ca: undefined, mark: 0, allowLocal: false });
  for (const host of ["localhost", "127.0.0.1", "0x7f.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]"])
    await assert.rejects(dialer.dial(urlOf(`ws://${host}:${port}/`), never), /leads to this machine/, host);
  assert.equal(connections, 0);
  server.close();
  const local = [
    "0.1.2.3",
    "127.9.9.9",
    "169.254.169.254",
    "::",
    "::1",
    "fe80::1",
    "febf::1",
    "fe80::1%eth0",
    "::ffff:169.254.1.1",
  ];
  for (const address of local) assert.ok(isLocal(address), address);
  for (const address of [
    "192.0.2.1",
    "10.0.0.1",
    "169.253.0.1",
    "::2",
    "fec0::1",
    "fd00::1",
    "2001:db8::1",
    "::ffff:192.0.2.1",
  ])
    assert.ok(!isLocal(address), address);
});
