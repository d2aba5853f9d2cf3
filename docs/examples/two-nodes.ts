/** Two nodes in one program: found a network, join it, ping. Run with: bin/weft-node docs/examples/two-nodes.ts */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createNode, initNetwork } from "weft";

const folder = mkdtempSync(join(tmpdir(), "weft-example-"));
const config = { tun: false, listen: ["127.0.0.1:0"] } as const;

await initNetwork({ stateDirectory: join(folder, "one"), network: "example", name: "one" });
const one = await createNode({ stateDirectory: join(folder, "one"), config });
const { token } = await one.control.invite({});
const two = await createNode({ stateDirectory: join(folder, "two"), join: token, config: { ...config, name: "two" } });

const { rttMs, path } = await two.control.ping("one", 2_000);
console.log(`one answered in ${rttMs?.toFixed(2)} ms, ${path.kind} ${path.endpoint}`);
for (const { name, cipher, hybrid } of two.control.peers()) console.log(`${name}: ${cipher}, hybrid ${hybrid}`);

await two.stop();
await one.stop();
rmSync(folder, { recursive: true });
