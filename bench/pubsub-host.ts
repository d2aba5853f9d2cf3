/**
 * Several nodes in one process, for `bench pubsub`: each a real node (createNode) without an interface, on a loopback port of its own, that
 * subscribes to topics and publishes to them.
 *
 *   bin/weft-node bench/pubsub-host.ts --folder DIR --first 0 --count 4 [--found]
 *
 * One JSON object per line on standard input, one line of answer each; the end of standard input stops the nodes:
 *   {"start": token | null}           joins all (with --found the first founds a network and its token for the others is in the answer)
 *   {"subscribe": [[node, topic] …]}  nodes of this host by their number in the network
 *   {"links": true}                   {"least": smallest number of eager links of a subscribed topic}
 *   {"publish": perSecond, "seconds": n}   1 KiB to a random topic of a random node of this host, answered when over: {"ids": [[id, topic] …]}
 *   {"collect": true}                 {"received": [[id, count] …], "tookMs": […], "counters": sums} since the last one
 */
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import type { PubSubControl } from "../src/api/messaging/pubsub-control.ts";
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
/** Below the ports that the kernel gives out. */
const FIRST_PORT = 22_000;
const PAYLOAD_BYTES = 1024;

interface Request {
  readonly start?: string | null;
  readonly subscribe?: readonly (readonly [node: number, topic: string])[];
  readonly links?: boolean;
  readonly publish?: number;
  readonly seconds?: number;
  readonly collect?: boolean;
}

const nodes: WeftNode[] = [];
const topicsOf = new Map<number, string[]>();
const received = new Map<string, number>();
let tookMs: number[] = [];
let nextId = 0;

function pubsubOf(node: WeftNode): PubSubControl {
  const pubsub = node.control.messaging?.pubsub;
  if (pubsub === undefined) throw new Error("this node has no publish/subscribe");
  return pubsub;
}

async function start(token: string | null): Promise<object> {
  let given = token;
  for (let i = 0; i < count; i++) {
    const founds = values.found && i === 0;
    const name = `n${first + i}`;
    const stateDirectory = join(folder, name);
    if (founds) await initNetwork({ stateDirectory, network: "pubsub", name });
    const node = await createNode({
      stateDirectory,
      join: founds ? undefined : (given ?? undefined),
      config: { tun: false, listen: [`127.0.0.1:${FIRST_PORT + first + i}`], logLevel: "error", name },
    });
    nodes.push(node);
    if (founds) given = (await node.control.invite({ uses: 10_000, expiresSeconds: 86_400 })).token;
  }
  return { token: given };
}

function subscribe(pairs: NonNullable<Request["subscribe"]>): object {
  for (const [number, topic] of pairs) {
    pubsubOf(nodes[number - first]).subscribe(topic, false, (event) => {
      if (event.event !== "message") return;
      const [id, atMs] = (event.data.text ?? "").split(" ");
      received.set(id, (received.get(id) ?? 0) + 1);
      tookMs.push(Date.now() - Number(atMs));
    });
    topicsOf.set(number, [...(topicsOf.get(number) ?? []), topic]);
  }
  return {};
}

function links(): object {
  let least = Infinity;
  for (const node of nodes) for (const topic of pubsubOf(node).topics()) least = Math.min(least, topic.eager);
  return { least: least === Infinity ? 1 : least };
}

/** Evenly in time by the clock, so a busy machine does not publish less. */
async function publish(perSecond: number, seconds: number): Promise<object> {
  const able = [...topicsOf];
  const ids: [string, string][] = [];
  if (able.length === 0) return { ids };
  const startMs = performance.now();
  for (let i = 0; i < perSecond * seconds; i++) {
    const waitMs = startMs + (i * 1000) / perSecond - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    const [number, topics] = able[Math.floor(Math.random() * able.length)];
    const topic = topics[Math.floor(Math.random() * topics.length)];
    const id = `${first}-${nextId++}`;
    const payload = new TextEncoder().encode(`${id} ${Date.now()} `.padEnd(PAYLOAD_BYTES, "."));
    pubsubOf(nodes[number - first]).publish("node", topic, payload);
    ids.push([id, topic]);
  }
  return { ids };
}

function collect(): object {
  const counters: Record<string, number> = {};
  for (const node of nodes)
    for (const { name, value } of node.control.metrics())
      if (name.startsWith("weft_pubsub_")) counters[name] = (counters[name] ?? 0) + value;
  const result = { received: [...received], tookMs, counters };
  received.clear();
  tookMs = [];
  return result;
}

async function answer(request: Request): Promise<object> {
  if (request.start !== undefined) return start(request.start);
  if (request.subscribe !== undefined) return subscribe(request.subscribe);
  if (request.links === true) return links();
  if (request.publish !== undefined) return publish(request.publish, request.seconds ?? 10);
  return request.collect === true ? collect() : { error: "no such request" };
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
await Promise.allSettled(nodes.map((node) => node.stop()));
process.exit(0);
