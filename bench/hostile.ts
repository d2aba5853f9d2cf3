/**
 * `bench hostile`: what a flood does to the tunnel. A third host sends hostile datagrams (flood.ts) at the port of end b while a TCP
 * flow paced at 1 Gbit/s runs from a to b. The same flood is sent once into an nft drop in front of the socket and once to the socket
 * itself: the generator and the kernel's receive path cost the same both times, so the ratio of the two rates is what Weft does.
 * Then: handshake floods from many sources while a real peer is restarted and has to connect.
 */
import { join } from "node:path";
import { staticKeyOf } from "../src/crypto/identity.ts";
import { parseNodeId } from "../src/crypto/node-id.ts";
import { toHex } from "../src/base/bytes.ts";
import { WeftNode } from "../lab/network.ts";
import type { Host } from "../lab/namespaces.ts";
import { sleep, until, type Daemon } from "../lab/process.ts";
import { twoHosts, type TwoHosts } from "../lab/topologies.ts";
import { WEFT_NODE } from "../lab/traffic.ts";
import type { FloodKind, FloodResult } from "./flood.ts";
import { weftSubject, type WeftTunnel } from "./subjects/weft.ts";
import { describeDrops, dropsSince, weftDrops } from "./tools/accounting.ts";
import { ROOT } from "./tools/binaries.ts";
import { iperf } from "./tools/iperf.ts";
import { describeMachine } from "./tools/machine.ts";
import { isAlive, residentBytes } from "./tools/proc.ts";
import { reasonOf } from "./tools/reading.ts";
import { figure, publish, type OutputOptions } from "./tools/report.ts";
import { median } from "./tools/statistics.ts";

export interface HostileOptions extends OutputOptions {
  readonly seconds: number;
  /** Datagrams per second. */
  readonly rate: number;
  readonly kinds: readonly string[];
  readonly gso: boolean;
  readonly command: string;
}

/** Default kinds: those whose flood a live session has to survive. */
export const HOSTILE_KINDS: readonly FloodKind[] = ["random", "truncated", "mutated", "replayed", "reflected", "inits"];

const FLOW_BPS = 1e9;
const KEEPS_LEAST = 0.9;
const ARRIVED_LEAST_PER_SECOND = 100_000;
const CONNECT_MOST_SECONDS = 2;
/** Sources of the handshake flood: every address of this prefix belongs to the attacker. */
const SOURCES = "10.66.0.0/16";
const WARM_UP_SECONDS = 3;
/** Growth of resident memory over one flood that still counts as none: allocator noise. */
const STATE_GROWTH_MOST_BYTES = 8e6;
const SAMPLE_EVERY_MS = 250;

interface Scene extends TwoHosts {
  readonly tunnel: WeftTunnel;
  readonly attacker: Host;
  /** ADDRESS:PORT of end b on the attacker's link. */
  readonly target: string;
  readonly port: number;
  /** Device of end b towards the attacker. */
  readonly device: string;
  readonly capture: string;
  readonly staticKey: string;
}

interface Outcome {
  readonly kind: string;
  readonly dropRate: number;
  readonly socketRate: number;
  readonly sentPerSecond: number;
  readonly countedPerSecond: number;
  readonly growthBytes: number;
  readonly drops: Record<string, number>;
}

export async function runHostile(options: HostileOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const kinds = (options.kinds.length === 0 ? HOSTILE_KINDS : options.kinds) as readonly FloodKind[];
  const notes = [
    `flow: TCP, 1 stream, paced at 1 Gbit/s by iperf3; flood: ${options.rate} datagrams/s offered for ${options.seconds} s${options.gso ? ", in GSO trains" : ", each a packet of its own"}`,
    "counted: what end b's own counters say arrived and was dropped, by reason, the overflow of its socket included",
  ];
  const rows: string[][] = [];
  const outcomes: Outcome[] = [];
  const hosts = await twoHosts();
  let connected = "";
  try {
    const scene = await prepare(hosts);
    for (const kind of kinds) {
      try {
        const outcome = await attack(scene, kind, options, notes);
        outcomes.push(outcome);
        rows.push(outcomeRow(outcome));
      } catch (error) {
        rows.push([kind, "n/a", "n/a", "n/a", "n/a", "n/a", "n/a", reasonOf(error)]);
      }
      process.stderr.write(`${rows.at(-1)?.join("  ")}\n`);
    }
    connected = await connectUnderFlood(scene, options);
  } finally {
    await hosts.lab.close();
  }
  publish(
    {
      name: "hostile",
      startedAt,
      machine: await describeMachine(),
      command: options.command,
      tables: [
        {
          title: "A 1 Gbit/s flow under a flood, against the same flood into an nft drop",
          columns: [
            "flood",
            "flow, flood dropped by nft, Mbit/s",
            "flow, flood at the socket",
            "kept",
            "sent/s",
            "counted/s",
            "memory growth, MB",
            "promised: kept ≥ 0.9 at ≥ 100,000/s",
          ],
          rows,
        },
      ],
      notes: [...notes, connected],
      notCompared: [],
      data: outcomes,
    },
    options,
  );
}

function outcomeRow(one: Outcome): string[] {
  const kept = one.socketRate / one.dropRate;
  const missed: string[] = [];
  if (kept < KEEPS_LEAST) missed.push("rate");
  if (one.countedPerSecond < ARRIVED_LEAST_PER_SECOND) missed.push("too few arrived: no verdict");
  if (one.growthBytes > STATE_GROWTH_MOST_BYTES) missed.push("memory grew");
  return [
    one.kind,
    figure(one.dropRate / 1e6),
    figure(one.socketRate / 1e6),
    figure(kept),
    figure(one.sentPerSecond),
    figure(one.countedPerSecond),
    figure(one.growthBytes / 1e6),
    missed.length === 0 ? "reached" : `missed: ${missed.join(", ")}`,
  ];
}

async function prepare(hosts: TwoHosts): Promise<Scene> {
  const { lab, b } = hosts;
  const attacker = await lab.host("attacker");
  const link = await lab.link(attacker, b);
  await attacker.ip("route", "add", "local", SOURCES, "dev", "lo");
  await b.ip("route", "add", SOURCES, "via", link.a.address4);
  const tunnel = await weftSubject().start(hosts, 0);
  const port = tunnel.portB as number;
  const nodeId = parseNodeId((await tunnel.nodeB.status()).node.id);
  const staticKey = nodeId === undefined ? undefined : staticKeyOf(nodeId);
  if (staticKey === undefined) throw new Error("the node id of end b has no static key");
  const capture = join(lab.folder, "capture.json");
  await captureLive(hosts, tunnel, port, capture);
  return {
    ...hosts,
    tunnel,
    attacker,
    target: `${link.b.address4}:${port}`,
    port,
    device: link.b.device,
    capture,
    staticKey: toHex(staticKey),
  };
}

/** Packets of the live session in both directions, of many sizes. */
async function captureLive(hosts: TwoHosts, tunnel: WeftTunnel, port: number, file: string): Promise<void> {
  const local = hosts.link.b.address4;
  const watcher = hosts.b.spawn(WEFT_NODE, [
    join(ROOT, "bench", "capture.ts"),
    "--port",
    String(port),
    "--local",
    local,
    "--count",
    "300",
    "--seconds",
    "12",
    "--out",
    file,
  ]);
  await watcher.waitFor(/^ready$/, 10_000);
  for (const bytes of [8, 56, 300, 700, 1_200]) {
    await tunnel.a.host.exec("ping", ["-n", "-c", "80", "-i", "0.005", "-s", String(bytes), tunnel.b.address]);
  }
  await watcher.exited;
}

function startFlood(scene: Scene, kind: FloodKind, options: HostileOptions, seconds: number): Daemon {
  const args = [
    join(ROOT, "bench", "flood.ts"),
    "--target",
    scene.target,
    "--kind",
    kind,
    "--rate",
    String(options.rate),
    "--seconds",
    String(seconds),
  ];
  if (kind === "inits") args.push("--static-key", scene.staticKey, "--sources", SOURCES);
  else if (kind !== "random") args.push("--capture", scene.capture);
  if (options.gso) args.push("--gso");
  return scene.attacker.spawn(WEFT_NODE, args);
}

async function floodResult(flood: Daemon): Promise<FloodResult> {
  const line = await flood.waitFor(/^\{/, 60_000);
  return JSON.parse(line) as FloodResult;
}

/** Rate of the paced flow while the flood runs. */
async function flowUnderFlood(
  scene: Scene,
  kind: FloodKind,
  options: HostileOptions,
): Promise<{ readonly rate: number; readonly flood: FloodResult }> {
  const flood = startFlood(scene, kind, options, options.seconds + 3);
  try {
    await flood.waitFor(/^started$/, 20_000);
    await sleep(500);
    const { tunnel } = scene;
    const flow = await iperf({
      from: tunnel.a.host,
      to: tunnel.b.host,
      address: tunnel.b.address,
      seconds: options.seconds,
      omitSeconds: 1,
      bitsPerSecond: FLOW_BPS,
    });
    return { rate: flow.bitsPerSecond, flood: await floodResult(flood) };
  } finally {
    await flood.stop("SIGTERM", 1_000);
  }
}

async function warmUp(scene: Scene, kind: FloodKind, options: HostileOptions): Promise<void> {
  const flood = startFlood(scene, kind, options, WARM_UP_SECONDS);
  await floodResult(flood);
  await flood.stop("SIGTERM", 1_000);
}

async function attack(scene: Scene, kind: FloodKind, options: HostileOptions, notes: string[]): Promise<Outcome> {
  const { tunnel, b, port, device } = scene;
  const pid = tunnel.b.pid as number;
  await b.nft(`table inet bench {
  chain pre {
    type filter hook prerouting priority raw; policy accept;
    iifname "${device}" udp dport ${port} drop
  }
}
`);
  let dropped;
  try {
    dropped = await flowUnderFlood(scene, kind, options);
  } finally {
    await b.nft("delete table inet bench\n");
  }
  // Tables of fixed size are touched for the first time: that is not growth.
  await warmUp(scene, kind, options);
  const before = weftDrops(await tunnel.nodeB.metrics());
  const samples: number[] = [];
  const sampling = setInterval(() => isAlive(pid) && samples.push(residentBytes(pid)), SAMPLE_EVERY_MS);
  let met;
  try {
    met = await flowUnderFlood(scene, kind, options);
  } finally {
    clearInterval(sampling);
  }
  await sleep(500);
  if (!isAlive(pid)) throw new Error("end b has ended under the flood");
  const added = dropsSince(before, weftDrops(await tunnel.nodeB.metrics()));
  notes.push(`${kind}: ${describeDrops(added)}`);
  const received = [...added].filter(([name]) => !name.startsWith("tx")).reduce((sum, [, count]) => sum + count, 0);
  return {
    kind,
    dropRate: dropped.rate,
    socketRate: met.rate,
    sentPerSecond: met.flood.perSecond,
    countedPerSecond: received / met.flood.seconds,
    growthBytes: growth(samples),
    drops: Object.fromEntries(added),
  };
}

/**
 * What keeping state for each datagram would look like: the trend from the middle third of the flood to its last third, as bytes over the whole
 * flood. Garbage that stands until the next collection rises and falls within a third and leaves the medians where they are.
 */
function growth(samples: readonly number[]): number {
  const third = Math.floor(samples.length / 3);
  return 3 * (median(samples.slice(-third)) - median(samples.slice(third, 2 * third)));
}

/** A member that restarts in the middle of a handshake flood: from its start, and from its line `ready`, to the first answered ping. */
async function connectUnderFlood(scene: Scene, options: HostileOptions): Promise<string> {
  const { lab, b, tunnel } = scene;
  try {
    const host = await lab.host("real");
    const link = await lab.link(host, b);
    const node = new WeftNode({
      host,
      name: "real",
      state: join(lab.folder, "real"),
      upArgs: ["--listen", `0.0.0.0:${scene.port}`, "--tun", "weftreal"],
    });
    // The invite of end a names a's address, which this host reaches through b.
    await b.sysctl({ "net.ipv4.ip_forward": 1 });
    await host.ip("route", "add", "default", "via", link.b.address4);
    await scene.a.ip("route", "add", link.network4, "via", scene.link.b.address4);
    const { token } = await tunnel.nodeA.invite();
    await node.join(token);
    await node.peer("b");
    await node.stop();
    const flood = startFlood(scene, "inits", options, 30);
    await flood.waitFor(/^started$/, 20_000);
    await sleep(2_000);
    const cookiesBefore = (await tunnel.nodeB.metrics()).get("weft_cookie_replies_total") ?? 0;
    const start = performance.now();
    await node.up();
    const ready = performance.now();
    await until(
      "the first ping",
      25_000,
      async () =>
        (await host.exec("ping", ["-n", "-c", "1", "-W", "0.2", tunnel.b.address])).code === 0 ? true : undefined,
      20,
    );
    const seconds = (performance.now() - ready) / 1_000;
    const whole = (performance.now() - start) / 1_000;
    const cookies = ((await tunnel.nodeB.metrics()).get("weft_cookie_replies_total") ?? 0) - cookiesBefore;
    await flood.stop("SIGTERM", 1_000);
    await node.stop();
    const verdict = seconds <= CONNECT_MOST_SECONDS ? "reached" : "missed";
    return `a real member restarted under ${options.rate} handshake inits/s from ${SOURCES}: first answered ping ${whole.toFixed(2)} s after its start and ${seconds.toFixed(2)} s after it was ready (promised ≤ 2 s: ${verdict}); cookie replies meanwhile: ${cookies}`;
  } catch (error) {
    return `a real member restarted under the handshake flood: n/a: ${reasonOf(error)}`;
  }
}
