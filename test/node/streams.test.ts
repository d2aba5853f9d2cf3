import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createNode, initNetwork, type MeshStream, StreamClass, type WeftNode } from "../../src/node/index.ts";

const root = mkdtempSync(join(tmpdir(), "weft-streams-"));
const running = new Set<WeftNode>();
after(async () => {
  for (const node of running) await node.stop();
  rmSync(root, { recursive: true });
});

async function start(name: string, token?: string): Promise<WeftNode> {
  const config = { name, tun: false as const, listen: ["127.0.0.1:0"], maxPeers: 16 };
  const node = await createNode({ stateDirectory: join(root, name), join: token, config });
  running.add(node);
  return node;
}

async function send(stream: MeshStream, total: number): Promise<string> {
  const hash = createHash("sha256");
  stream.resume();
  for (let sent = 0; sent < total;) {
    const chunk = randomBytes(Math.min(65_536, total - sent));
    hash.update(chunk);
    sent += chunk.length;
    if (!stream.write(chunk)) await once(stream, "drain");
  }
  stream.end();
  await once(stream, "close");
  return hash.digest("hex");
}

test("streams of two real nodes carry megabytes both ways, and a restarted one is found again", async () => {
  await initNetwork({ stateDirectory: join(root, "one"), network: "example", name: "one" });
  const one = await start("one");
  const { token } = await one.control.invite({});
  const two = await start("two", token);
  const heard: string[] = [];
  const serve = (node: WeftNode): void => {
    node.streams.serve("upload", (stream) => {
      const hash = createHash("sha256");
      stream.on("data", (bytes: Buffer) => hash.update(bytes));
      stream.on("end", () => {
        heard.push(hash.digest("hex"));
        stream.end();
      });
    });
  };
  serve(one);
  serve(two);
  const [up, down] = await Promise.all(
    (
      [
        [one, "two"],
        [two, "one"],
      ] as const
    ).map(async ([node, peer]) =>
      send(await node.streams.open(peer, { kind: "upload", class: StreamClass.BULK }), 4 << 20),
    ),
  );
  assert.deepEqual(heard.toSorted(), [up, down].toSorted());
  await assert.rejects(one.streams.open("nobody", { kind: "upload" }), { code: "NODE_UNKNOWN" });

  await two.stop();
  const again = await start("two");
  serve(again);
  const hash = await send(await one.streams.open("two", { kind: "upload" }), 100_000);
  assert.equal(heard.at(-1), hash);
});
