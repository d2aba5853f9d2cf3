/**
 * Several nodes in one process, for `bench scale`: each a real node (createNode) without an interface, on a loopback port of its own.
 *
 *   bin/weft-node bench/scale-host.ts --folder DIR --first 0 --count 10 [--found]
 *
 * One JSON object per line on standard input, one line of answer each; the end of standard input stops the nodes:
 *   {"start": token | null}          joins all (with --found the first founds a network and its token for the others is in the answer)
 *   {"restart": true}                starts all of an earlier run, at once
 *   {"ping": names, "perMinute": n}  every node pings n of the names a minute, chosen at random, until told otherwise
 *   {"members": n, "withinMs": m, "revoke": name}   waits until every node counts n members, after the first node revoked that one if named:
 *                                    {"atMs": [wall clock …], "revokedAtMs": wall clock at which it was asked}
 *   {"sample": true}                 notes from now on, at the end of every second of the wall clock, what was sent and heard in it
 *   {"samples": true}                {"seconds": [[second since 1970, underlay bytes sent, control messages received, nodes that are whole] …]} so far;
 *                                    whole: another member has confirmed the roster, and as many peers are online as the node has neighbours
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
/** A node is where it was before a restart. Below the ports that the kernel gives out. */
const FIRST_PORT = 21_000;
const NEIGHBOURS = 8;
const LOOK_MS = 5;
const REVOKE_AFTER_MS = 200;

interface Request {
  readonly start?: string | null;
  readonly restart?: boolean;
  readonly sample?: boolean;
  readonly samples?: boolean;
  readonly ping?: readonly string[];
  readonly perMinute?: number;
  readonly members?: number;
  readonly withinMs?: number;
  readonly revoke?: string;
  readonly figures?: boolean;
}

interface Place {
  readonly name: string;
  readonly node: WeftNode;
  /** Sums when last looked at. */
  sentBytes: number;
  controlReceived: number;
}

const nodes: Place[] = [];
const seconds: [number, number, number, number][] = [];
const timers: NodeJS.Timeout[] = [];
let pings = 0;
let lost = 0;

async function startOne(i: number, token: string | undefined): Promise<Place> {
  const name = `n${first + i}`;
  const listen = [`127.0.0.1:${FIRST_PORT + first + i}`];
  const node = await createNode({
    stateDirectory: join(folder, name),
    join: token,
    config: { tun: false, listen, logLevel: "error", name },
  });
  return { name, node, sentBytes: 0, controlReceived: 0 };
}

async function start(token: string | null): Promise<object> {
  let given = token;
  for (let i = 0; i < count; i++) {
    const founds = values.found && i === 0;
    const name = `n${first + i}`;
    if (founds) await initNetwork({ stateDirectory: join(folder, name), network: "scale", name });
    const place = await startOne(i, founds ? undefined : (given ?? undefined));
    nodes.push(place);
    if (founds) given = (await place.node.control.invite({ uses: 10_000, expiresSeconds: 86_400 })).token;
  }
  return { token: given };
}

/** A node that is up is sampled at once, so nothing of the first seconds is missed. */
async function restart(): Promise<object> {
  await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      nodes.push(await startOne(i, undefined));
    }),
  );
  return { upAtMs: Date.now() };
}

function isWhole(node: WeftNode): boolean {
  const { network, peers } = node.control.status();
  const wanted = Math.min(NEIGHBOURS, peers.length);
  return network.rosterAgeMs !== null && peers.filter((peer) => peer.online).length >= wanted;
}

function sampleEverySecond(): object {
  const next = (): void => {
    const timer = setTimeout(
      () => {
        let bytes = 0;
        let control = 0;
        for (const place of nodes) {
          let sentBytes = 0;
          let controlReceived = 0;
          for (const { name, labels, value } of place.node.control.metrics()) {
            if (name === "weft_udp_bytes_total" && labels["direction"] === "tx") sentBytes += value;
            if (name === "weft_mesh_control_received_total") controlReceived += value;
          }
          bytes += sentBytes - place.sentBytes;
          control += controlReceived - place.controlReceived;
          place.sentBytes = sentBytes;
          place.controlReceived = controlReceived;
        }
        const whole = nodes.filter(({ node }) => isWhole(node)).length;
        seconds.push([Math.floor(Date.now() / 1_000), bytes, control, whole]);
        next();
      },
      1_000 - (Date.now() % 1_000) + 1,
    );
    timer.unref();
  };
  next();
  return {};
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
  if (request.restart === true) return restart();
  if (request.sample === true) return sampleEverySecond();
  if (request.samples === true) return { seconds: seconds.splice(0) };
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
