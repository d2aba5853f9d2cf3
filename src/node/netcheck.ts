/** The report of `weft netcheck`: lets every discovery source look again, asks the beacons, and puts together what they say. */
import type { NatView, NetcheckSourceView, NetcheckView } from "../api/netcheck-view.ts";
import { endpointFromBytes, formatAddress, formatEndpoint, isIPv4Mapped } from "../base/endpoint.ts";
import { formatNodeId } from "../crypto/node-id.ts";
import type { Discovery } from "./discovery/discovery.ts";
import type { NatReport } from "./discovery/nat-kind.ts";
import { SOURCE_NAMES } from "./discovery/source.ts";
import type { NodeRuntime } from "./runtime.ts";

const MAX_BEACONS = 8;

export interface NetcheckInput {
  readonly discovery: Discovery;
  readonly runtime: NodeRuntime;
  readonly nodeId: Uint8Array;
  /** How long sources and beacons may take. */
  readonly timeoutMs: number;
  readonly sleep: (ms: number) => Promise<void>;
}

export async function netcheck(input: NetcheckInput): Promise<NetcheckView> {
  const { discovery, runtime, timeoutMs } = input;
  const [beacons] = await Promise.all([askBeacons(input), Promise.race([discovery.refresh(), input.sleep(timeoutMs)])]);
  const reports = discovery.reports();
  const mapped = reports.find((report) => report.name === "port-mapping")?.endpoints[0];
  const sources: NetcheckSourceView[] = SOURCE_NAMES.map((name) => {
    const report = reports.find((one) => one.name === name);
    if (report === undefined) return { name, state: "off", text: OFF[name], endpoints: [], ageMs: null, counters: {} };
    return { ...report, endpoints: report.endpoints.map(text), ageMs: report.ageMs ?? null };
  });
  const observed = runtime.observedEndpoints();
  sources.push({
    name: "observed",
    state: observed.length === 0 ? "waiting" : "working",
    text: observed.length === 0 ? "no member has said where it sees this node" : `${observed.length} seen by members`,
    endpoints: observed.map(text),
    ageMs: null,
    counters: { ...discovery.counters },
  });
  const reports46 = [discovery.nat(4), discovery.nat(6)];
  const asked = reports.some((one) => one.name === "stun") || beacons.length > 0;
  const heard =
    beacons.some((beacon) => beacon.rttMs !== null) ||
    discovery.stunAnswers.length > 0 ||
    reports46.some((report) => report.mapping !== "unknown");
  return {
    ipv4: natView(reports46[0]),
    ipv6: natView(reports46[1]),
    addresses: {
      ipv4: discovery.local.filter((one) => isIPv4Mapped(one.address)).map((one) => formatAddress(one.address)),
      ipv6: discovery.local.filter((one) => !isIPv4Mapped(one.address)).map((one) => formatAddress(one.address)),
    },
    udp: heard ? "works" : asked ? "silent" : "unknown",
    hairpin: discovery.hairpin ?? null,
    portMapping: {
      protocol: discovery.mappingInUse ?? null,
      endpoint: mapped === undefined ? null : text(mapped),
      said: Object.fromEntries(discovery.mappingVerdicts),
    },
    beacons,
    sources,
  };
}

const OFF: Readonly<Record<(typeof SOURCE_NAMES)[number], string>> = {
  stun: "no server is configured ([discovery] stun)",
  "port-mapping": "switched off ([discovery] port_mapping), or this node listens on loopback alone",
  lan: "switched off ([discovery] lan), or this node listens on loopback alone",
};

async function askBeacons(input: NetcheckInput): Promise<NetcheckView["beacons"]> {
  const { runtime, nodeId, timeoutMs } = input;
  const self = formatNodeId(nodeId);
  const beacons = runtime.mesh
    .members()
    .filter((member) => member.roles.includes("beacon") && formatNodeId(member.nodeId) !== self)
    .slice(0, MAX_BEACONS);
  return Promise.all(
    beacons.map(async (member) => {
      const peer = runtime.peers.byKey(member.staticKey);
      const pong = peer === undefined ? undefined : await runtime.ping(peer, Math.min(3_000, timeoutMs));
      return { id: formatNodeId(member.nodeId), name: member.name, rttMs: pong?.rttMs ?? null };
    }),
  );
}

function natView(report: NatReport): NatView {
  return { mapping: report.mapping, ports: report.ports, seenAs: report.mapped.map(text), text: report.text };
}

function text(endpoint: Uint8Array): string {
  return formatEndpoint(endpointFromBytes(endpoint));
}
