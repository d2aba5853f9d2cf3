/** A real node in this process with its local API where the weft command looks for it: as good as a daemon, and faster. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { nullLogger } from "../../src/base/log.ts";
import { serveApi } from "../../src/api/server.ts";
import type { ApiServer } from "../../src/api/server.ts";
import { WeftClient } from "../../src/client/client.ts";
import { ApiTokens } from "../../src/node/api-tokens.ts";
import type { WeftNode } from "../../src/node/index.ts";
import { createNode, initNetwork } from "../../src/node/index.ts";
import { systemRandom } from "../../src/node/random.ts";

const root = mkdtempSync(join(tmpdir(), "weft-api-node-"));
const running = new Set<ApiNode>();
after(async () => {
  for (const node of running) await node.stop();
  rmSync(root, { recursive: true, force: true });
});

export interface ApiNode {
  readonly node: WeftNode;
  readonly api: ApiServer;
  readonly client: WeftClient;
  /** For `weft … --state`. */
  readonly state: string;
  stop(): Promise<void>;
}

/** Answers that do not fit their own schema are errors. @param token undefined: the network is there already */
export async function startApiNode(name: string, token?: string): Promise<ApiNode> {
  const state = join(root, name);
  const node = await createNode({
    stateDirectory: state,
    join: token,
    config: { name, tun: false, listen: ["127.0.0.1:0"] },
  });
  const tokens = new ApiTokens(state, { random: systemRandom, wallMs: () => Date.now() });
  const socket = join(state, "weft.sock");
  const api = await serveApi(node.control, socket, nullLogger, {
    listen: { address: "127.0.0.1", port: 0 },
    tokens,
    checkOutput: true,
  });
  const started: ApiNode = {
    node,
    api,
    client: new WeftClient(socket),
    state,
    stop: async () => {
      if (!running.delete(started)) return;
      await api.close();
      await node.stop();
    },
  };
  running.add(started);
  return started;
}

/** A network of two nodes that have a session. */
export async function startPair(): Promise<readonly [ApiNode, ApiNode]> {
  await initNetwork({ stateDirectory: join(root, "one"), network: "example", name: "one" });
  const one = await startApiNode("one");
  const { token } = await one.client.invite({ uses: 1 });
  const two = await startApiNode("two", token);
  if ((await one.client.ping("two", 10_000)).rttMs === null) throw new Error("the nodes do not find each other");
  return [one, two];
}
