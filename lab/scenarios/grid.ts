/**
 * Every kind of site with every other (nat-sites.ts), two nodes at a time and a public beacon: how they reach each other, and how soon.
 *
 * All nodes join once. Then for every pair both daemons are started, all translators have forgotten their mappings, and pings run from
 * the moment both are ready: the first answer counts as reached, the first moment at which both sides send directly as direct.
 * Extra rows: two nodes in one LAN, and two sites of one carrier with and without hairpin.
 * Parts: names of kinds, "lan", "carrier". Prints a table of direct, relay, transit and failed with the medians in seconds.
 */
import { join } from "node:path";
import type { PeerView } from "../../src/api/control.ts";
import { PingStream } from "../gaps.ts";
import type { Host } from "../namespaces.ts";
import { Internet, SITE_KIND_NAMES, type Site, type SiteKind } from "../nat-sites.ts";
import { isDirect, WeftNetwork, WeftNode } from "../network.ts";
import { sleep } from "../process.ts";
import { percentile } from "../traffic.ts";
import { atMost, holds, wanted, type Finding, type Scenario, type ScenarioOptions } from "./types.ts";
import { RELAY_CONFIG } from "./ways.ts";

const REACH_MS = 3_000;
const EASY_MS = 5_000;
const ONE_HARD_MS = 15_000;
const ONE_HARD_SHARE = 0.9;
const EASY_ROUNDS = 5;
const ONE_HARD_ROUNDS = 20;
/** A pair that cannot become direct is watched for so long at least. */
const RELAYED_MS = 4_000;
const GIVE_UP_MS = 20_000;
const QUICK_KINDS: readonly string[] = ["firewall", "port-restricted", "linux", "symmetric", "lan"];
const EXTRAS = ["lan", "carrier"] as const;
const WEBSOCKET_PORT = 9_339;

/** What a pair must come to: direct soon, direct mostly, or relayed with a reason. */
export type Expectation = "easy" | "one-hard" | "relayed";

/** @returns what the kinds of both sides allow */
export function expectation(a: SiteKind, b: SiteKind): Expectation {
  if (!a.udp || !b.udp || !a.families.some((family) => b.families.includes(family))) return "relayed";
  if (a.hard && b.hard) return "relayed";
  return a.hard || b.hard ? "one-hard" : "easy";
}

interface Subject {
  /** What the table calls it. */
  readonly label: string;
  readonly site: Site;
  readonly node: WeftNode;
  readonly address: string;
}

interface Meeting {
  readonly kind: string;
  /** Infinity = never. */
  readonly reachedMs: number;
  readonly directMs: number;
  /** Why it is not direct, as the node says; empty when it says nothing. */
  readonly reason: string;
  readonly endpoint: string;
}

interface Pair {
  readonly a: Subject;
  readonly b: Subject;
  readonly expected: Expectation;
  readonly meetings: Meeting[];
}

type Say = (line: string) => void;

/** Starts both, lets them meet, stops them. */
async function meet(a: Subject, b: Subject, expected: Expectation): Promise<Meeting> {
  for (const { site } of [a, b]) {
    await site.program?.forget();
    await site.carrier?.program.forget();
  }
  await Promise.all([a.node.up(), b.node.up()]);
  const readyMs = Date.now();
  const stream = PingStream.start(a.node.host, b.address, "0.05");
  const look = async (from: Subject, to: Subject): Promise<PeerView | undefined> =>
    (await from.node.status()).peers.find(({ name }) => name === to.node.name);
  let directMs = Number.POSITIVE_INFINITY;
  let [left, right]: (PeerView | undefined)[] = [];
  try {
    let reason = "";
    while (Date.now() - readyMs < GIVE_UP_MS) {
      [left, right] = await Promise.all([look(a, b), look(b, a)]);
      if (left !== undefined && right !== undefined && isDirect(left) && isDirect(right) && stream.replies.length > 0) {
        directMs = Date.now() - readyMs;
        break;
      }
      // A pair that cannot become direct is done when it has answers and a verdict.
      if (expected === "relayed" && Date.now() - readyMs > RELAYED_MS && stream.replies.length > 0) {
        reason = await why(a.node, b.node.name);
        if (reason !== "") break;
      }
      await sleep(50);
    }
    const first = stream.replies[0]?.atMs ?? Number.POSITIVE_INFINITY;
    const kind = stream.replies.length === 0 ? "failed" : (left?.path.kind ?? "none");
    if (!Number.isFinite(directMs) && reason === "") reason = await why(a.node, b.node.name);
    return { kind, reachedMs: first - readyMs, directMs, reason, endpoint: left?.path.endpoint ?? "" };
  } finally {
    await stream.stop();
    await Promise.all([a.node.stop(), b.node.stop()]);
  }
}

/** The node's own verdict; empty while it is still trying. */
async function why(node: WeftNode, peer: string): Promise<string> {
  try {
    const { code, text, remedy } = (await node.api.explain(peer)).verdict;
    return code === "trying" || code === "not-tried" ? "" : `${text}${remedy === "" ? "" : `; ${remedy}`}`;
  } catch {
    return "";
  }
}

/** The beacon and every subject, joined and stopped again; the beacon stays up. */
async function joinAll(
  internet: Internet,
  beaconHost: Host,
  hosts: readonly { host: Host; label: string; site: Site }[],
  say: Say,
): Promise<Subject[]> {
  const { lab } = internet;
  const state = (name: string): string => join(lab.folder, `state-${name}`);
  const address = beaconHost.address4;
  const config = `${RELAY_CONFIG}\n[websocket]\nlisten = "${address}:${WEBSOCKET_PORT}"\nurl = "ws://${address}:${WEBSOCKET_PORT}/"\n`;
  const beacon = new WeftNode({ host: beaconHost, name: "beacon", state: state("beacon"), config });
  const network = new WeftNetwork([beacon]);
  lab.onClose(() => network.stop());
  await beacon.init("grid");
  await beacon.up();
  const subjects: Subject[] = [];
  for (const { host, label, site } of hosts) {
    const node = new WeftNode({ host, name: host.name, state: state(host.name) });
    network.nodes.push(node);
    try {
      const { token } = await beacon.invite();
      await node.join(token);
      subjects.push({ label, site, node, address: await node.address(4) });
      await sleep(500);
    } catch (error) {
      say(
        `  ${host.name} could not join: ${error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error)}`,
      );
    }
    await node.stop();
  }
  return subjects;
}

function cell(pair: Pair): string {
  const { meetings } = pair;
  if (meetings.length === 0) return "–";
  const direct = meetings.filter(({ directMs }) => Number.isFinite(directMs));
  if (direct.length > 0) {
    const seconds =
      percentile(
        direct.map(({ directMs }) => directMs),
        0.5,
      ) / 1_000;
    const share = direct.length === meetings.length ? "" : ` ${direct.length}/${meetings.length}`;
    return `direct ${seconds.toFixed(1)}${share}`;
  }
  const last = meetings.at(-1);
  if (last === undefined || !Number.isFinite(last.reachedMs)) return "failed";
  return `${last.kind} ${(
    percentile(
      meetings.map(({ reachedMs }) => reachedMs),
      0.5,
    ) / 1_000
  ).toFixed(1)}`;
}

/** The lower triangle: a row and a column for every kind. */
function table(labels: readonly string[], pairs: readonly Pair[]): string[] {
  const widest = Math.max(...labels.map((label) => label.length), 12) + 1;
  const lines = [`${"".padEnd(widest)}${labels.map((label) => label.padEnd(widest)).join("")}`];
  for (const [row, label] of labels.entries()) {
    const cells = labels.slice(0, row + 1).map((column) => {
      const found = pairs.find(
        ({ a, b }) => (a.label === column && b.label === label) || (a.label === label && b.label === column),
      );
      return (found === undefined ? "" : cell(found)).padEnd(widest);
    });
    lines.push(`${label.padEnd(widest)}${cells.join("").trimEnd()}`);
  }
  return lines;
}

function judge(pairs: readonly Pair[]): Finding[] {
  const all = pairs.flatMap(({ meetings }) => meetings);
  const findings = [
    atMost(
      "every pair of kinds reaches each other: slowest",
      Math.max(...all.map(({ reachedMs }) => reachedMs), 0),
      REACH_MS,
      "ms",
    ),
  ];
  const name = ({ a, b }: Pair): string => `${a.node.name} – ${b.node.name}`;
  const easy = pairs.filter(({ expected }) => expected === "easy");
  const slow = easy.filter(({ meetings }) => meetings.some(({ directMs }) => directMs > EASY_MS));
  if (easy.length > 0)
    findings.push(
      holds(
        `easy pairs are direct ≤ ${EASY_MS / 1_000} s in every run`,
        slow.length === 0,
        `${easy.length - slow.length} of ${easy.length} pairs${slow.length === 0 ? "" : `; not: ${slow.map(name).join(", ")}`}`,
      ),
    );
  for (const pair of pairs.filter(({ expected }) => expected === "one-hard")) {
    const inTime = pair.meetings.filter(({ directMs }) => directMs <= ONE_HARD_MS).length;
    findings.push(
      holds(
        `${name(pair)}: direct ≤ ${ONE_HARD_MS / 1_000} s in ≥ ${ONE_HARD_SHARE * 100} %`,
        inTime >= pair.meetings.length * ONE_HARD_SHARE,
        `${inTime} of ${pair.meetings.length} runs`,
      ),
    );
  }
  const silent = pairs.filter(({ meetings }) =>
    meetings.some(({ directMs, reason }) => !Number.isFinite(directMs) && reason === ""),
  );
  findings.push(
    holds(
      "a pair that is not direct says why",
      silent.length === 0,
      silent.length === 0 ? "all do" : silent.map(name).join(", "),
    ),
  );
  return findings;
}

async function run(say: Say, options: ScenarioOptions): Promise<readonly Finding[]> {
  const group: readonly string[] = [...SITE_KIND_NAMES, ...EXTRAS];
  const chosen = options.quick && options.only.length === 0 ? { ...options, only: QUICK_KINDS } : options;
  const kinds = SITE_KIND_NAMES.filter((kind) => wanted(chosen, kind, group));
  const internet = await Internet.create();
  try {
    const beacon = await internet.publicHost("beacon");
    const hosts: { host: Host; label: string; site: Site }[] = [];
    const add = (site: Site, label: string): void => {
      for (const host of site.hosts) hosts.push({ host, label, site });
    };
    for (const kind of kinds) for (const side of ["a", "b"]) add(await internet.site(`${kind}-${side}`, kind), kind);
    if (wanted(chosen, "lan", group)) add(await internet.site("lan", "port-restricted", { hosts: 2 }), "lan");
    const carriers: string[] = [];
    for (const hairpin of wanted(chosen, "carrier", group) ? [true, false] : []) {
      const label = hairpin ? "carrier with hairpin" : "carrier without hairpin";
      const carrier = await internet.carrier(hairpin ? "hairpin" : "nohairpin", { hairpin });
      for (const side of ["a", "b"])
        add(await internet.site(`${hairpin ? "hairpin" : "nohairpin"}-${side}`, "linux", { carrier }), label);
      carriers.push(label);
    }
    say(`  ${hosts.length} nodes at ${kinds.length} kinds of sites join`);
    const subjects = await joinAll(internet, beacon, hosts, say);
    const of = (label: string): Subject[] => subjects.filter((subject) => subject.label === label);
    const pairs: Pair[] = [];
    const missing: string[] = [];
    const pair = (a: Subject | undefined, b: Subject | undefined, what: string): void => {
      if (a === undefined || b === undefined) missing.push(what);
      else pairs.push({ a, b, expected: expectation(a.site.kind, b.site.kind), meetings: [] });
    };
    for (const [row, kind] of kinds.entries())
      for (const other of kinds.slice(0, row + 1)) pair(of(other)[0], of(kind)[1], `${other} – ${kind}`);
    const inner = wanted(chosen, "lan", group) ? ["lan", ...carriers] : carriers;
    for (const label of inner) pair(of(label)[0], of(label)[1], label);
    for (const one of pairs) {
      const rounds =
        options.rounds ??
        (options.quick ? 1 : one.expected === "one-hard" ? ONE_HARD_ROUNDS : one.expected === "easy" ? EASY_ROUNDS : 1);
      for (let round = 0; round < rounds; round++) one.meetings.push(await meet(one.a, one.b, one.expected));
      const last = one.meetings.at(-1);
      say(
        `  ${one.a.node.name} – ${one.b.node.name} (${one.expected}): ${cell(one)} s${last?.reason === "" ? "" : `; ${last?.reason ?? ""}`}`,
      );
    }
    const inGrid = pairs.filter(({ a }) => !inner.includes(a.label));
    for (const line of table(kinds, inGrid)) say(`  ${line}`);
    const findings = judge(inGrid);
    if (missing.length > 0) findings.push(holds("every node joins", false, `not tried: ${missing.join(", ")}`));
    for (const one of pairs.filter(({ a }) => inner.includes(a.label))) {
      const last = one.meetings.at(-1);
      const evidence = `${cell(one)} ${last?.endpoint ?? ""}`;
      findings.push(atMost(`${one.a.label}: reached`, last?.reachedMs ?? Number.NaN, REACH_MS, "ms"));
      if (one.a.label === "lan")
        findings.push(
          holds(
            "two nodes in one LAN use the LAN's address",
            last?.endpoint.startsWith("192.168.1.") === true,
            evidence,
          ),
        );
      else say(`  ${one.a.label}: ${evidence}`);
    }
    return findings;
  } finally {
    await internet.lab.close();
  }
}

export const grid: Scenario = {
  name: "grid",
  about: `every pair of ${SITE_KIND_NAMES.length} kinds of NAT and firewall: reached ≤ ${REACH_MS / 1_000} s, direct where it can be, a reason where not`,
  run,
};
