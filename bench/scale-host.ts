/**
 * Several nodes in one process, for `bench scale`: each a real node (createNode) without an interface, on a loopback port of its own.
 *
 *   bin/weft-node bench/scale-host.ts --folder DIR --first 0 --count 10 [--found]
 *
 * One JSON object per line on standard input, one line of answer each; the end of standard input stops the nodes:
 *   {"start": token | null}          joins all (with --found the first founds a network and its token for the others is in the answer)
 *   {"ping": names, "perMinute": n}  every node pings n of the names a minute, chosen at random, until told otherwise
 *   {"members": n, "withinMs": m, "revoke": name}   waits until every node counts n members, after the first node revoked that one if named:
 *                                    {"atMs": [wall clock …], "revokedAtMs": wall clock at which it was asked}
 *   {"figures": true}                {"txBytes", "rxBytes": sums of the underlay, "cpuSeconds", "residentBytes", "pings", "lost", "online": least peers online}
 */
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { createNode, initNetwork, type WeftNode } from "../src/node/index.ts";

const { values } = parseArgs({
  options: {
    folder: { type: "string" },
    first: { type: "string" },
    count: { type: "string" },
    found: { type: "boolean", default: false },
  },
});
const folder = values.folder ?? "";
const first = Number(values.first);
const count = Number(values.count);
const config = { tun: false, listen: ["127.0.0.1:0"], logLevel: "error" } as const;
const LOOK_MS = 5;
const REVOKE_AFTER_MS = 200;

interface Request {
  readonly start?: string | null;
  readonly ping?: readonly string[];
  readonly perMinute?: number;
  readonly members?: number;
  readonly withinMs?: number;
  readonly revoke?: string;
  readonly figures?: boolean;
}

const nodes: { readonly name: string; readonly node: WeftNode }[] = [];
const timers: NodeJS.Timeout[] = [];
let pings = 0;
let lost = 0;

async function start(token: string | null): Promise<object> {
  let given = token;
  for (let i = 0; i < count; i++) {
    const name = `n${first + i}`;
    const stateDirectory = join(folder, name);
    const founds = values.found && i === 0;
    if (founds) await initNetwork({ stateDirectory, network: "scale", name });
    const node = await createNode({
      stateDirectory,
      join: founds ? undefined : (given ?? undefined),
      config: { ...config, name },
    });
    nodes.push({ name, node });
    if (founds) given = (await node.control.invite({ uses: 10_000, expiresSeconds: 86_400 })).token;
  }
  return { token: given };
}

function pingAll(names: readonly string[], perMinute: number): object {
  for (const timer of timers.splice(0)) clearInterval(timer);
  if (perMinute === 0) return {};
  for (const { name, node } of nodes) {
    const others = names.filter((other) => other !== name);
    const one = async (): Promise<void> => {
      const target = others[Math.floor(Math.random() * others.length)];
      pings++;
      try {
        if ((await node.control.ping(target, 5_000)).rttMs === null) lost++;
      } catch {
        lost++;
      }
    };
    const timer = setInterval(() => void one(), 60_000 / perMinute);
    timers.push(timer);
  }
  return {};
}

async function waitForMembers(members: number, withinMs: number, revoke: string | undefined): Promise<object> {
  let revokedAtMs = 0;
  if (revoke !== undefined) {
    // whoever waits in another process has to be waiting already
    await new Promise((resolve) => setTimeout(resolve, REVOKE_AFTER_MS));
    revokedAtMs = Date.now();
    nodes[0]?.node.control.revoke(revoke, "bench").catch((error: Error) => process.stderr.write(`${error.message}\n`));
  }
  const atMs: number[] = nodes.map(() => 0);
  const untilMs = Date.now() + withinMs;
  while (atMs.includes(0) && Date.now() < untilMs) {
    nodes.forEach(({ node }, i) => {
      if (atMs[i] === 0 && node.control.members().length === members) atMs[i] = Date.now();
    });
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
  return { atMs, revokedAtMs };
}

function figures(): object {
  let txBytes = 0;
  let rxBytes = 0;
  let online = Infinity;
  for (const { node } of nodes) {
    for (const { name, labels, value } of node.control.metrics()) {
      if (name !== "weft_udp_bytes_total") continue;
      if (labels["direction"] === "tx") txBytes += value;
      else rxBytes += value;
    }
    online = Math.min(online, node.control.peers().filter((peer) => peer.online).length);
  }
  const cpu = process.cpuUsage();
  const cpuSeconds = (cpu.user + cpu.system) / 1e6;
  return { txBytes, rxBytes, cpuSeconds, residentBytes: process.memoryUsage.rss(), pings, lost, online };
}

async function answer(request: Request): Promise<object> {
  if (request.start !== undefined) return start(request.start);
  if (request.ping !== undefined) return pingAll(request.ping, request.perMinute ?? 10);
  if (request.members !== undefined) return waitForMembers(request.members, request.withinMs ?? 30_000, request.revoke);
  return request.figures === true ? figures() : { error: "no such request" };
}

for await (const line of createInterface({ input: process.stdin })) {
  let result: object;
  try {
    result = await answer(JSON.parse(line) as Request);
  } catch (error) {
    result = { error: (error as Error).message };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
for (const timer of timers) clearInterval(timer);
await Promise.allSettled(nodes.map(({ node }) => node.stop()));
process.exit(0);
