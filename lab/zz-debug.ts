import { join } from "node:path";
import { Internet, type SiteKindName } from "./nat-sites.ts";
import { WeftNetwork, WeftNode } from "./network.ts";
import { RELAY_CONFIG } from "./scenarios/ways.ts";
import { sleep } from "./process.ts";
const [k1, k2] = process.argv.slice(2) as SiteKindName[];
const net = await Internet.create();
try {
  const bh = await net.publicHost("beacon");
  const state = (n: string): string => join(net.lab.folder, n);
  const beacon = new WeftNode({ host: bh, name: "beacon", state: state("beacon"), config: RELAY_CONFIG });
  const network = new WeftNetwork([beacon]);
  net.lab.onClose(() => network.stop());
  await beacon.init("dbg"); await beacon.up();
  const nodes: WeftNode[] = [];
  for (const [i, k] of [k1, k2].entries()) {
    const site = await net.site(`s${i}`, k);
    const node = new WeftNode({ host: site.hosts[0], name: `n${i}`, state: state(`n${i}`), upArgs: ["--log", "debug"] });
    network.nodes.push(node);
    const { token } = await beacon.invite();
    await node.join(token);
    nodes.push(node);
  }
  const dump = net.core.spawn("tcpdump", ["-ni", "any", "-l", "udp and not port 53"], { name: "dump" });
  await sleep(500);
  const p = nodes[0].host.spawn("ping", ["-i", "0.2", "-w", process.argv[4] ?? "14", await nodes[1].address(4)], { name: "ping" });
  await sleep(Number(process.argv[4] ?? 14) * 1000);
  for (const n of nodes) { console.log(n.name, (await n.weft(["explain", n === nodes[0] ? "n1" : "n0"])).stdout); console.log((await n.status()).node.endpoints); }
  console.log((await nodes[0].weft(["status"])).stdout);
  const fs = await import("node:fs");
  fs.writeFileSync("/tmp/weft/dbg/dump.txt", (dump as unknown as { stdout: string }).stdout ?? "");
  void p;
} finally { await net.lab.close(); }
