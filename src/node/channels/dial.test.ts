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
import { Dialer, remedyFor } from "./dial.ts";

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
        const trusting = new Dialer({ ca: readFileSync(files.authority, "utf8"), mark });
        for (const host of ["localhost", "127.0.0.1"]) {
          const socket = await trusting.dial(urlOf(`wss://${host}:${port}/weft`), never);
          socket.terminate();
        }
        const stranger = new Dialer({ ca: undefined, mark });
        await assert.rejects(stranger.dial(urlOf(`wss://localhost:${port}/`), never), (error: Error) => {
          assert.match(error.message, /certificate/);
          assert.match(remedyFor(error), /`ca` of \[websocket\]/);
          return true;
        });
      }
      const trusting = new Dialer({ ca: readFileSync(files.authority, "utf8"), mark: 0 });
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
      const dialer = new Dialer({ ca: undefined, mark });
      await assert.rejects(dialer.dial(urlOf(`${scheme}://127.0.0.1:${port}/`), never), /ECONNREFUSED/);
    }
  }
  const dialer = new Dialer({ ca: undefined, mark: 0 });
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
  const dialer = new Dialer({ ca: undefined, mark: 0 });
  // "localhost" is ::1 and 127.0.0.1 here or the latter only; nobody listens on the former
  const socket: WebSocket = await dialer.dial(
    urlOf(`ws://localhost:${(server.address() as AddressInfo).port}/`),
    never,
  );
  socket.terminate();
  server.close();
});
