/**
 * A real node (createNode) that sends direct messages to others and takes those that come, and keeps a journal of both that outlives kill -9:
 *
 *   bin/weft-node lab/message-peer.ts --state DIR --name NAME [--tun] [--loss 0.05] [--user ID]
 *
 * Without --tun it is an agent node on loopback, which any user may run; --user makes it one (user and group, for who starts it as root). One JSON object per line on standard input, one line of answer each; the
 * end of standard input stops the node:
 *   {"found": true}                            founds a network and starts: {"token"}
 *   {"join": token | null}                     joins and starts, or starts again
 *   {"peer": name}                             {"online", "kind", "via"}: how that node is reached
 *   {"send": names, "count": n, "perSecond": r, "bytes": b, "deadlineMs": d}
 *                                              sends to each of them until it has sent n to it, earlier runs counted
 *   {"kill": true}                             its stream connections are forgotten: {"killed"}
 *   {"stall": true | false}                    its application stops or goes on taking from the inbox
 *   {"progress": true}                         {"left", "open", "received", "failed", "lost", "user"}: to be sent, without outcome, taken; errors, losses
 *   {"resolve": true}                          asks the status of everything that is unknown and not final: {"unknown", "open": of them not final}
 *   {"latency": name, "count": n, "perSecond": r, "durable": bool}    {"p50Ms", "p99Ms", "largestMs", "rttMs", "acknowledged"}
 *   {"rate": name, "seconds": s, "window": w, "bytes": b}             {"perSecond", "p50Ms", "p99Ms", "refused"}
 *   {"follow": topic}                          subscribes: {}
 *   {"flood": topic | null, "perSecond": n, "bytes": b}               publishes, or stops: {"published": since the last time}
 *   {"bulk": name | null}                      sends a stream of class 3 as fast as it goes, or stops: {"bytes": since the last time}
 *
 * Journal, a line of JSON each: {"s": number, "to"} before it is handed over · {"o": outcome, "to", "n", "id", "final", "reason"} · {"r": sequence, "id",
 * "from", "text"} before it is acknowledged to the inbox.
 */
import { closeSync, existsSync, openSync, readFileSync, writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import type { DirectControl, InboxMessageView, SendView } from "../src/api/messaging/direct-control.ts";
import { createNode, initNetwork, type MeshStream, type WeftNode } from "../src/node/index.ts";
import { systemRandom } from "../src/node/random.ts";
import { lossyPlane } from "./lossy-plane.ts";

const { values } = parseArgs({
  options: {
    state: { type: "string", default: "" },
    name: { type: "string", default: "" },
    tun: { type: "boolean", default: false },
    loss: { type: "string", default: "0" },
    user: { type: "string" },
  },
});
if (values.user !== undefined) {
  process.setgroups?.([]);
  process.setgid?.(Number(values.user));
  process.setuid?.(Number(values.user));
}
const { state, name } = values;
const SINK = "lab-sink";
const PAGE = 500;
const DEADLINE_MS = 10_000;
const FLOOD_TICK_MS = 5;

interface Request {
  readonly found?: boolean;
  readonly join?: string | null;
  readonly peer?: string;
  readonly send?: readonly string[];
  readonly count?: number;
  readonly perSecond?: number;
  readonly bytes?: number;
  readonly deadlineMs?: number;
  readonly kill?: boolean;
  readonly stall?: boolean;
  readonly progress?: boolean;
  readonly resolve?: boolean;
  readonly latency?: string;
  readonly durable?: boolean;
  readonly rate?: string;
  readonly seconds?: number;
  readonly window?: number;
  readonly bulk?: string | null;
  readonly follow?: string;
  readonly flood?: string | null;
}

/** What was written before a kill is read again. */
class Journal {
  readonly started = new Map<string, number>();
  readonly notFinal = new Map<string, { readonly to: string; readonly n: number }>();
  received = 0;
  readonly #fd: number;

  constructor(file: string) {
    for (const line of existsSync(file) ? readFileSync(file, "utf8").split("\n") : []) {
      if (!line.endsWith("}")) continue;
      const entry = JSON.parse(line) as Record<string, unknown>;
      if (entry["s"] !== undefined) this.started.set(String(entry["to"]), Number(entry["s"]) + 1);
      if (entry["r"] !== undefined) this.received++;
      if (entry["o"] === undefined) continue;
      const id = String(entry["id"]);
      if (entry["final"] === true) this.notFinal.delete(id);
      else this.notFinal.set(id, { to: String(entry["to"]), n: Number(entry["n"]) });
    }
    this.#fd = openSync(file, "a");
  }

  write(entries: readonly object[]): void {
    writeSync(this.#fd, entries.map((entry) => `${JSON.stringify(entry)}\n`).join(""));
  }

  outcome(to: string, n: number, view: SendView): void {
    const { id, outcome, final, reason } = view;
    if (final) this.notFinal.delete(id);
    else this.notFinal.set(id, { to, n });
    this.write([{ o: outcome, to, n, id, final, reason }]);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

const plane = lossyPlane(systemRandom);
plane.loss = Number(values.loss);
let journal: Journal | undefined;
let node: WeftNode | undefined;
let isStalled = false;
const stopping = new AbortController();
let left = 0;
let open = 0;
let failed = 0;
let flood: { readonly timer: NodeJS.Timeout; published: number } | undefined;
let bulk: { readonly stream: MeshStream; bytes: number } | undefined;

function direct(): DirectControl {
  const found = node?.control.messaging?.direct;
  if (found === undefined) throw new Error("there are no direct messages on this node");
  return found;
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function start(join: string | undefined): Promise<void> {
  journal = new Journal(`${state}.journal`);
  node = await createNode({
    stateDirectory: state,
    join,
    config: { name, ...(values.tun ? {} : { tun: false as const, listen: ["127.0.0.1:0"] }) },
    testing: { startDataplane: plane.start },
  });
  node.streams.serve(SINK, (stream) => {
    stream.on("error", () => undefined);
    stream.on("end", () => stream.end());
    stream.resume();
  });
  void consume();
}

/** The application: takes, writes down, acknowledges. */
async function consume(): Promise<void> {
  let wake = (): void => undefined;
  const stop = direct().watchInbox("node", () => wake());
  while (!stopping.signal.aborted) {
    const more = new Promise<void>((resolve) => (wake = resolve));
    const page = isStalled ? undefined : await direct().inbox("node", undefined, PAGE);
    const messages: readonly InboxMessageView[] = page?.messages ?? [];
    const last = messages.at(-1);
    if (last === undefined) {
      await Promise.race([more, sleep(200)]);
      continue;
    }
    const kept = messages.filter(({ text }) => text?.startsWith("bench ") !== true);
    journal?.write(kept.map(({ sequence, id, from, text }) => ({ r: sequence, id, from: from.name, text })));
    if (journal !== undefined) journal.received += kept.length;
    await direct().acknowledge("node", last.sequence);
  }
  stop();
}

async function sendAll(to: string, { count = 1_000, perSecond = 20, bytes = 200, deadlineMs }: Request): Promise<void> {
  const { started } = journal as Journal;
  const first = started.get(to) ?? 0;
  left += count - first;
  const startMs = performance.now();
  for (let n = first; n < count && !stopping.signal.aborted; n++) {
    const dueMs = startMs + ((n - first) * 1_000) / perSecond;
    await sleep(Math.max(0, dueMs - performance.now()));
    left--;
    open++;
    started.set(to, n + 1);
    journal?.write([{ s: n, to }]);
    const payload = Buffer.from(`${name} ${to} ${n}`.padEnd(bytes));
    direct()
      .send({ from: "node", to, name: "lab", payload, deadlineMs: deadlineMs ?? DEADLINE_MS })
      .then((view) => journal?.outcome(to, n, view))
      .catch((error: Error) => {
        failed++;
        process.stderr.write(`send: ${error.message}\n`);
      })
      .finally(() => open--);
  }
}

/** The peers may be away for a moment; who is asked again later counts as open. */
function resolveUnknown(): object {
  const waiting = (journal as Journal).notFinal;
  const unknown = waiting.size;
  let lostStatus = 0;
  for (const [id, { to, n }] of waiting) {
    const view = direct().status(id);
    if (view === undefined) lostStatus++;
    else if (view.final) journal?.outcome(to, n, view);
  }
  return { unknown, open: waiting.size, lostStatus };
}

function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

async function latency(
  to: string,
  { count = 200, perSecond = 100, durable = true, bytes = 200 }: Request,
): Promise<object> {
  const times: number[] = [];
  const payload = Buffer.from("bench ".padEnd(bytes));
  const before = performance.now();
  await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      await sleep(Math.max(0, before + (i * 1_000) / perSecond - performance.now()));
      const startMs = performance.now();
      const { outcome } = await direct().send({ from: "node", to, name: "bench", payload, durable });
      if (outcome === "acknowledged") times.push(performance.now() - startMs);
    }),
  );
  times.sort((a, b) => a - b);
  const rttMs = node?.control.peers().find((peer) => peer.name === to)?.rttMs ?? null;
  return {
    p50Ms: percentile(times, 0.5),
    p99Ms: percentile(times, 0.99),
    largestMs: times.at(-1),
    acknowledged: times.length,
    rttMs,
  };
}

async function rate(to: string, { seconds = 5, window = 512, bytes = 256 }: Request): Promise<object> {
  const times: number[] = [];
  let refused = 0;
  const payload = Buffer.from("bench ".padEnd(bytes));
  const startMs = performance.now();
  const endMs = startMs + seconds * 1_000;
  await Promise.all(
    Array.from({ length: window }, async () => {
      while (performance.now() < endMs) {
        const sentMs = performance.now();
        const { outcome } = await direct().send({ from: "node", to, name: "bench", payload, deadlineMs: 30_000 });
        if (outcome === "acknowledged") times.push(performance.now() - sentMs);
        else {
          refused++;
          await sleep(5);
        }
      }
    }),
  );
  const tookMs = performance.now() - startMs;
  const perSecond = (times.length * 1_000) / tookMs;
  times.sort((a, b) => a - b);
  return { perSecond, p50Ms: percentile(times, 0.5), p99Ms: percentile(times, 0.99), refused };
}

function setFlood(topic: string | null, { perSecond = 1_000, bytes = 16_384 }: Request): object {
  const published = flood?.published ?? 0;
  clearInterval(flood?.timer);
  flood = undefined;
  if (topic === null) return { published };
  const payload = Buffer.alloc(bytes, "x");
  const startMs = performance.now();
  const timer = setInterval(() => {
    const due = ((performance.now() - startMs) * perSecond) / 1_000;
    while (made.published < due) {
      made.published++;
      node?.control.messaging?.pubsub?.publish("node", topic, payload);
    }
  }, FLOOD_TICK_MS);
  const made = { timer, published: 0 };
  flood = made;
  return { published };
}

async function setBulk(to: string | null): Promise<object> {
  const bytes = bulk?.bytes ?? 0;
  bulk?.stream.destroy();
  bulk = undefined;
  if (to === null) return { bytes };
  const stream = await (node as WeftNode).streams.open(to, { kind: SINK, class: 3 });
  const flow = { stream, bytes: 0 };
  bulk = flow;
  stream.on("error", () => undefined);
  stream.resume();
  const chunk = Buffer.alloc(65_536);
  const pump = (): void => {
    if (stream.destroyed) return;
    let hasRoom = true;
    while (hasRoom) {
      hasRoom = stream.write(chunk);
      flow.bytes += chunk.length;
    }
    stream.once("drain", pump);
  };
  pump();
  return { bytes };
}

async function answer(request: Request): Promise<object> {
  if (request.found === true) {
    await initNetwork({ stateDirectory: state, network: "messages", name });
    await start(undefined);
    return { token: (await (node as WeftNode).control.invite({ uses: 1_000, expiresSeconds: 86_400 })).token };
  }
  if (request.join !== undefined) {
    await start(request.join ?? undefined);
    return {};
  }
  if (node === undefined || journal === undefined) throw new Error("the node has not started");
  if (request.peer !== undefined) {
    const peer = node.control.peers().find((one) => one.name === request.peer);
    return { online: peer?.online === true, kind: peer?.path.kind ?? "none", via: peer?.path.via };
  }
  if (request.send !== undefined) {
    for (const to of request.send) void sendAll(to, request);
    return {};
  }
  if (request.kill === true) return { killed: plane.killConnections() };
  if (request.stall !== undefined) {
    isStalled = request.stall;
    return {};
  }
  if (request.progress === true)
    return { user: process.getuid?.(), left, open, received: journal.received, failed, lost: plane.lost };
  if (request.resolve === true) return resolveUnknown();
  if (request.latency !== undefined) return latency(request.latency, request);
  if (request.rate !== undefined) return rate(request.rate, request);
  if (request.follow !== undefined) {
    node.control.messaging?.pubsub?.subscribe(request.follow, false, () => undefined);
    return {};
  }
  if (request.flood !== undefined) return setFlood(request.flood, request);
  if (request.bulk !== undefined) return setBulk(request.bulk);
  throw new Error("no such request");
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
stopping.abort();
await node?.stop();
journal?.close();
process.exit(0);
