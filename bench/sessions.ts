/**
 * `bench sessions`: what many live sessions cost. Two networks run between the same two hosts: in one the founder has a single peer, in the
 * other it has that peer and a thousand more, whose ends live in one process on a third host (responders.ts). Throughput to the real peer is
 * compared in interleaved rounds.
 */
import { join } from "node:path";
import type { WeftNode } from "../lab/network.ts";
import { until, type Daemon } from "../lab/process.ts";
import { twoHosts, type TwoHosts } from "../lab/topologies.ts";
import { WEFT_NODE } from "../lab/traffic.ts";
import { conclude, launch, playRounds, say, type Contender, type Target } from "./compare.ts";
import { chooseMeasures, type Figure } from "./measures.ts";
import { underlayPort } from "./subjects/types.ts";
import { weftSubject } from "./subjects/weft.ts";
import { ROOT } from "./tools/binaries.ts";
import { describeMachine, Disturbance } from "./tools/machine.ts";
import { admitMembers } from "./tools/members.ts";
import { cpuSeconds, residentBytes } from "./tools/proc.ts";
import { figure, publish, type OutputOptions } from "./tools/report.ts";

export interface SessionsOptions extends OutputOptions {
  readonly sessions: number;
  readonly seconds: number;
  readonly rounds: number;
  readonly command: string;
}

const ONE = "one session";
const THROUGHPUT: Target = { least: 0.95 };
const MEASURES = ["tcp-4", "udp-1200", "ping-idle"];
const ESTABLISH_MS = 120_000;

export async function runSessions(options: SessionsOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const count = Math.floor(options.sessions);
  const many = `${count + 1} sessions`;
  const measures = chooseMeasures(MEASURES);
  const disturbance = await Disturbance.begin();
  const hosts = await twoHosts();
  try {
    const members = join(hosts.lab.folder, "members.json");
    let founder: WeftNode | undefined;
    const crowded = weftSubject({
      name: many,
      prefix: "10.210.0.0/16",
      prepare: (node) => {
        founder = node;
        admitMembers(node.state, count, members);
      },
    });
    const contenders: Contender[] = [
      await launch(weftSubject({ name: ONE }), hosts, 0),
      await launch(crowded, hosts, 1),
    ];
    for (const { name, why, tunnel } of contenders) if (tunnel === undefined) throw new Error(`${name}: ${why}`);
    const responders = await establish(hosts, members, count, founder as WeftNode);
    const pids = contenders.map(({ tunnel }) => tunnel?.a.pid as number);
    const idle = await idleShares(pids);
    const entries = await playRounds(contenders, measures, options);
    const last = JSON.parse(responders.lines.at(-1) ?? "{}") as Crowd;
    const online = await onlinePeers(founder as WeftNode);
    const { summaries, tables, notes } = conclude(entries, {
      figures: measures.flatMap((measure) => measure.figures),
      names: [ONE, many],
      reference: ONE,
      promisedTo: many,
      target: (one: Figure) => (/^(tcp-4|tcp-4-reverse|udp-1200)$/.test(one.id) ? THROUGHPUT : undefined),
    });
    publish(
      {
        name: "sessions",
        startedAt,
        machine: await describeMachine(),
        command: options.command,
        tables,
        notes: [
          ...disturbance.notes(),
          `both founders run at once; the ends of ${count} sessions are one process that keeps them alive and sends no user data`,
          `at the end ${last.established} sessions were established by the responders, ${online} peers online at the founder; they had received ${last.received} datagrams`,
          `founder, idle: ${figure((idle[0] ?? Number.NaN) * 100)} % of one processor with one session, ${figure((idle[1] ?? Number.NaN) * 100)} % with ${count + 1}`,
          `founder, resident memory at the end: ${pids.map((pid) => `${figure(residentBytes(pid) / 1e6)} MB`).join(" and ")}`,
          ...notes,
        ],
        notCompared: [],
        data: { summaries, entries, responders: last, idle, online },
      },
      options,
    );
  } finally {
    await hosts.lab.close();
  }
}

interface Crowd {
  readonly established: number;
  readonly received: number;
}

async function establish({ lab, a }: TwoHosts, members: string, count: number, founder: WeftNode): Promise<Daemon> {
  const host = await lab.host("many");
  const link = await lab.link(host, a);
  const target = `${link.b.address4}:${underlayPort(1)}`;
  const responders = host.spawn(WEFT_NODE, [
    join(ROOT, "bench", "responders.ts"),
    "--members",
    members,
    "--target",
    target,
  ]);
  await until(
    `${count} sessions`,
    ESTABLISH_MS,
    async () => {
      const line = responders.lines.at(-1) ?? "{}";
      say(line);
      if (responders.exitCode !== undefined) throw new Error(responders.tail(5));
      if ((JSON.parse(line) as Partial<Crowd>).established !== count) return undefined;
      // Both sides have to agree.
      return (await onlinePeers(founder)) > count ? true : undefined;
    },
    1_000,
  );
  return responders;
}

async function onlinePeers(node: WeftNode): Promise<number> {
  return (await node.status()).peers.filter((peer) => peer.online).length;
}

async function idleShares(pids: readonly number[], seconds = 10): Promise<number[]> {
  const before = pids.map(cpuSeconds);
  await new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
  return pids.map((pid, index) => (cpuSeconds(pid) - before[index]) / seconds);
}
