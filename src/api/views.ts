/**
 * The answers of the local API as schemas: what /v1/openapi.json says of them. Each is tied to the view it describes, so the type check fails
 * when one of the two changes alone. Answers may have more fields than these.
 */
import * as z from "zod/mini";
import type {
  DoctorFact,
  HealthItem,
  InviteView,
  MemberView,
  NetworkView,
  NodeView,
  PathView,
  PeerView,
  PingView,
  StatusView,
  WhoisView,
} from "./control.ts";
import type { ExplainView } from "./explain-view.ts";
import type { DnsView, ExitView, NodeRef, RepairItem, RoutesView } from "./host-control.ts";
import type { NatView, NetcheckView } from "./netcheck-view.ts";
import type {
  DecisionView,
  ImportView,
  InviteInfoView,
  PolicyView,
  RequestView,
  RosterView,
} from "./roster-control.ts";

const strings = z.array(z.string());
const text = z.string();
const number = z.number();
const flag = z.boolean();
const maybeText = z.nullable(text);
const maybeNumber = z.nullable(number);
const severity = z.enum(["info", "warning", "error"]);
const counters = z.record(text, number);

export const nodeRef: z.ZodMiniType<NodeRef> = z.object({ id: text, name: text });

export const pathView: z.ZodMiniType<PathView> = z.object({
  kind: z.enum(["direct", "relay", "transit", "none"]),
  endpoint: maybeText,
  via: maybeText,
});

export const peerView: z.ZodMiniType<PeerView> = z.object({
  id: text,
  name: text,
  addresses: strings,
  online: flag,
  path: pathView,
  rttMs: maybeNumber,
  loss: number,
  pmtu: maybeNumber,
  txBytes: number,
  rxBytes: number,
  lastDeliveryMs: maybeNumber,
  epochAgeMs: maybeNumber,
  cipher: text,
  hybrid: flag,
  authentication: text,
  queuedPackets: number,
  dropped: z.object({ tx: number, rx: number, spoofed: number }),
  deliveryBps: maybeNumber,
  forwarded: z.object({ bytes: number, dropped: number }),
  roles: strings,
  candidates: strings,
  build: maybeText,
  protocol: maybeText,
  capabilities: strings,
  lastError: maybeText,
});

const nodeView: z.ZodMiniType<NodeView> = z.object({
  id: text,
  name: text,
  addresses: strings,
  version: text,
  mode: z.enum(["tun", "agent"]),
  interface: maybeText,
  endpoints: strings,
  listenPorts: z.array(number),
  roles: strings,
  bootId: text,
  pid: number,
  uptimeMs: number,
});

const networkView: z.ZodMiniType<NetworkView> = z.object({
  id: text,
  name: text,
  members: number,
  ipv4: text,
  ipv6: text,
  rosterAgeMs: maybeNumber,
  stale: z.enum(["allow", "refuse"]),
  userData: text,
});

export const healthItem: z.ZodMiniType<HealthItem> = z.object({ code: text, severity, text, remedy: text });

export const statusView: z.ZodMiniType<StatusView> = z.object({
  node: nodeView,
  network: networkView,
  peers: z.array(peerView),
  health: z.array(healthItem),
});

export const memberView: z.ZodMiniType<MemberView> = z.object({
  id: text,
  name: text,
  addresses: strings,
  roles: strings,
  tags: strings,
  requestedName: text,
  self: flag,
  online: flag,
  admittedAt: text,
  expiresAt: maybeText,
});

export const doctorFact: z.ZodMiniType<DoctorFact> = z.object({ code: text, ok: flag, severity, text, remedy: text });

export const inviteView: z.ZodMiniType<InviteView> = z.object({
  id: text,
  token: text,
  expiresAt: text,
  uses: number,
  warning: maybeText,
});

export const whoisView: z.ZodMiniType<WhoisView> = z.object({
  id: text,
  name: text,
  addresses: strings,
  roles: strings,
  self: flag,
});

export const pingView: z.ZodMiniType<PingView> = z.object({ peer: nodeRef, rttMs: maybeNumber, path: pathView });

const natMapping = z.enum(["unknown", "endpoint-independent", "address-dependent", "address-and-port-dependent"]);

export const explainView: z.ZodMiniType<ExplainView> = z.object({
  peer: nodeRef,
  session: z.object({ established: flag, lastError: maybeText }),
  path: pathView,
  paths: z.array(
    z.object({
      kind: z.enum(["direct", "relay", "transit"]),
      endpoint: maybeText,
      local: maybeText,
      via: strings,
      state: z.enum(["untried", "probing", "alive", "dead"]),
      reason: text,
      active: flag,
      duplicate: flag,
      rttMs: maybeNumber,
      loss: number,
      pmtu: number,
      lastReceivedMs: maybeNumber,
    }),
  ),
  candidates: strings,
  through: z.array(z.object({ kind: z.enum(["relay", "transit"]), via: strings, state: text, reason: text })),
  punching: z.nullable(
    z.object({
      state: text,
      attempts: number,
      tried: strings,
      ownNat: natMapping,
      peerNat: natMapping,
      peerEndpoints: strings,
      seenAt: strings,
      nextAttemptInMs: number,
    }),
  ),
  verdict: z.object({ code: text, text, remedy: text }),
});

const natView: z.ZodMiniType<NatView> = z.object({ mapping: text, ports: text, seenAs: strings, text });

export const netcheckView: z.ZodMiniType<NetcheckView> = z.object({
  ipv4: natView,
  ipv6: natView,
  addresses: z.object({ ipv4: strings, ipv6: strings }),
  udp: text,
  hairpin: z.nullable(flag),
  portMapping: z.object({ protocol: maybeText, endpoint: maybeText, said: z.record(text, text) }),
  beacons: z.array(z.object({ id: text, name: text, rttMs: maybeNumber })),
  sources: z.array(z.object({ name: text, state: text, text, endpoints: strings, ageMs: maybeNumber, counters })),
});

export const inviteInfoView: z.ZodMiniType<InviteInfoView> = z.object({
  id: text,
  state: z.enum(["live", "expired", "used-up", "revoked"]),
  uses: number,
  used: number,
  expiresAt: text,
  endedAt: maybeText,
  roles: strings,
  tags: strings,
  approve: flag,
  issuer: text,
});

export const requestView: z.ZodMiniType<RequestView> = z.object({
  id: text,
  name: text,
  invite: text,
  roles: strings,
  tags: strings,
  askedAt: text,
  waiting: flag,
  via: maybeText,
});

export const decisionView: z.ZodMiniType<DecisionView> = z.object({ id: text, name: text, addresses: strings });

export const policyView: z.ZodMiniType<PolicyView> = z.object({ version: number, stale: z.enum(["allow", "refuse"]) });

export const rosterView: z.ZodMiniType<RosterView> = z.object({
  network: text,
  statements: number,
  fingerprint: text,
  heads: number,
  voids: number,
  checkpointAt: maybeText,
  unsettled: number,
  proposals: number,
  policy: policyView,
  ageMs: maybeNumber,
  userData: text,
});

export const importView: z.ZodMiniType<ImportView> = z.object({
  added: number,
  known: number,
  waiting: number,
  refused: counters,
});

export const routesView: z.ZodMiniType<RoutesView> = z.object({
  own: z.array(z.object({ prefix: text, approved: flag, serving: flag })),
  routes: z.array(
    z.object({
      prefix: text,
      node: nodeRef,
      announced: flag,
      approved: flag,
      active: flag,
      health: z.enum(["good", "unknown", "bad"]),
    }),
  ),
  accept: flag,
  failovers: number,
});

export const exitView: z.ZodMiniType<ExitView> = z.object({
  using: z.nullable(strings),
  active: z.nullable(nodeRef),
  allowLan: flag,
  guard: flag,
  offering: flag,
  approved: flag,
  candidates: z.array(z.object({ node: nodeRef, online: flag, rttMs: maybeNumber, active: flag })),
});

export const dnsView: z.ZodMiniType<DnsView> = z.object({
  domain: text,
  servers: strings,
  problems: strings,
  mode: text,
  forwarders: strings,
  names: z.array(z.object({ name: text, addresses: strings })),
  counters,
});

export const repairItem: z.ZodMiniType<RepairItem> = z.object({ outcome: text, text });
