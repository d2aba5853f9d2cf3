/** NodeControl of a running node: views of what runtime, mesh and data plane know, and the operations a person may ask for. */
import type {
  DoctorFact,
  HealthItem,
  InviteRequest,
  InviteView,
  MemberView,
  MetricSample,
  NodeControl,
  PathView,
  PeerView,
  PingView,
  StatusView,
  WhoisView,
} from "../api/control.ts";
import type { ExplainView } from "../api/explain-view.ts";
import type { NetcheckView } from "../api/netcheck-view.ts";
import type { HostControl } from "../api/host-control.ts";
import type { MessagingControl } from "../api/messaging/control.ts";
import { weftVersion } from "../api/paths.ts";
import { equal, toHex } from "../base/bytes.ts";
import { looksLikeChannelUrl } from "../base/channel-url.ts";
import { endpointFromBytes, formatAddress, formatEndpoint, virtualOf } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";
import { formatNodeId, networkPrefix } from "../crypto/node-id.ts";
import type { PeerFigures } from "../dataplane/messages.ts";
import type { Member } from "../mesh/types.ts";
import { CIPHER_NAMES, capabilityNames } from "../session/types.ts";
import type { Clock } from "./clock.ts";
import { channelSamples } from "./channels/metrics.ts";
import type { Discovery } from "./discovery/discovery.ts";
import { discoverySamples } from "./discovery/metrics.ts";
import { explain } from "./explain.ts";
import type { HostRouting } from "./host-control.ts";
import type { Messaging } from "./messaging/messaging.ts";
import { netcheck } from "./netcheck.ts";
import { peerSamples, planeSamples, processSamples } from "./metrics.ts";
import type { PeerRecord } from "./peer-table.ts";
import { RuntimeRosterControl } from "./roster-control.ts";
import type { NodeRuntime } from "./runtime.ts";
import { streamSamples } from "./stream-metrics.ts";
import type { Storage } from "./storage.ts";

const ROSTER_STALE_MS = 300_000;
const NO_PATH: PathView = { kind: "none", endpoint: null, via: null };

export interface ControlDeps {
  readonly runtime: NodeRuntime;
  readonly storage: Storage;
  readonly clock: Clock;
  readonly nodeId: Uint8Array;
  /** Of the control thread's event loop, nanoseconds. */
  readonly loopDelay: { readonly max: number; reset(): void };
  /** What the data plane said when it was ready. */
  readonly plane: {
    readonly tunName: string;
    readonly port4: number;
    readonly port6: number;
    readonly offloads: number;
  };
  /** Names, routes and exits; undefined without an interface. */
  readonly routing?: HostRouting | undefined;
  readonly discovery?: Discovery | undefined;
  /** Undefined until it runs, and on a node without messages. */
  readonly messaging?: () => Messaging | undefined;
  readonly bootId: number;
  readonly startedAtMs: number;
  /** "ADDR:PORT" and URLs for channels at which others may reach this node. */
  readonly endpoints: () => readonly string[];
  /** Asks the owner to stop the node. */
  readonly stop: () => void;
  /** Tells the members, removes the network from the store. */
  readonly leave: () => Promise<void>;
}

export class RuntimeControl implements NodeControl {
  readonly roster: RuntimeRosterControl;
  /** Why messaging could not start. */
  messagingError: string | undefined;
  readonly #deps: ControlDeps;

  constructor(deps: ControlDeps) {
    this.#deps = deps;
    this.roster = new RuntimeRosterControl(deps.runtime, deps.clock);
  }

  get messaging(): MessagingControl | undefined {
    return this.#deps.messaging?.()?.control;
  }

  get host(): HostControl | undefined {
    return this.#deps.routing;
  }

  status(): StatusView {
    const { runtime, clock, plane, nodeId } = this.#deps;
    const { mesh } = runtime;
    const self = mesh.self;
    const now = clock.now();
    const networkId = mesh.networkId;
    return {
      node: {
        id: formatNodeId(nodeId),
        name: self?.name ?? "",
        addresses: self === undefined ? [] : [self.ipv4, self.ipv6],
        version: weftVersion(),
        mode: plane.tunName === "" ? "agent" : "tun",
        interface: plane.tunName === "" ? null : plane.tunName,
        endpoints: this.#deps.endpoints(),
        listenPorts: [...new Set([plane.port4, plane.port6])].filter((port) => port !== 0),
        roles: self?.roles ?? [],
        bootId: this.#bootId(),
        pid: process.pid,
        uptimeMs: now.nowMs - this.#deps.startedAtMs,
      },
      network: {
        id: networkId === undefined ? "" : toHex(networkId),
        name: mesh.networkName ?? "",
        members: mesh.members().length,
        ipv4: mesh.ipv4Prefix ?? "",
        ipv6: networkId === undefined ? "" : `${formatAddress(networkPrefix(networkId))}/48`,
        rosterAgeMs: mesh.rosterConfirmedAtMs === undefined ? null : Math.max(0, now.nowMs - mesh.rosterConfirmedAtMs),
        stale: mesh.policy().stale,
        userData: mesh.userData,
      },
      peers: this.peers(),
      health: this.health(),
    };
  }

  peers(): readonly PeerView[] {
    return this.#others().map((member) => this.#peerView(member));
  }

  members(): readonly MemberView[] {
    return this.#deps.runtime.mesh.members().map((member) => {
      const self = equal(member.nodeId, this.#deps.nodeId);
      const peer = this.#record(member);
      return {
        id: formatNodeId(member.nodeId),
        name: member.name,
        addresses: [member.ipv4, member.ipv6],
        roles: member.roles,
        tags: member.tags,
        requestedName: member.requestedName,
        self,
        online: self || (peer !== undefined && this.#deps.runtime.isOnline(peer)),
        admittedAt: new Date(member.admittedAtMs).toISOString(),
        expiresAt: member.expiresAtMs === undefined ? null : new Date(member.expiresAtMs).toISOString(),
      };
    });
  }

  async invite(request: InviteRequest): Promise<InviteView> {
    const roles = (request.roles ?? []).filter((role) => role !== "member") as Member["roles"];
    const made = await this.#deps.runtime.operate((mesh, now) =>
      mesh.createInvite(now, {
        uses: request.uses ?? 1,
        expiresMs: (request.expiresSeconds ?? 3600) * 1000,
        roles,
        tags: request.tags ?? [],
        approve: request.approve === true,
        lifeMs: request.lifeSeconds === undefined ? undefined : request.lifeSeconds * 1000,
      }),
    );
    const reachable = this.#deps.endpoints().length > 0;
    return {
      token: made.token,
      expiresAt: new Date(made.expiresAtMs).toISOString(),
      uses: made.uses,
      id: toHex(made.inviteId),
      warning: reachable
        ? null
        : "the token names no address of this node, so nobody can reach it; start it with --endpoint HOST:PORT",
    };
  }

  async revoke(node: string, reason: string): Promise<{ id: string; name: string }> {
    const member = await this.#deps.runtime.operate((mesh, now) => mesh.revoke(now, node, reason));
    return { id: formatNodeId(member.nodeId), name: member.name };
  }

  async leave(): Promise<void> {
    await this.#deps.leave();
    this.#deps.stop();
  }

  down(): Promise<void> {
    this.#deps.stop();
    return Promise.resolve();
  }

  whois(query: string): WhoisView | undefined {
    const member = this.#deps.runtime.mesh.find(query);
    if (member === undefined) return undefined;
    return {
      id: formatNodeId(member.nodeId),
      name: member.name,
      addresses: [member.ipv4, member.ipv6],
      roles: member.roles,
      self: equal(member.nodeId, this.#deps.nodeId),
    };
  }

  async ping(query: string, timeoutMs: number): Promise<PingView> {
    const { runtime } = this.#deps;
    const { member, peer } = this.#otherMember(query);
    const pong = await runtime.ping(peer, timeoutMs);
    return {
      peer: { id: formatNodeId(member.nodeId), name: member.name },
      rttMs: pong?.rttMs ?? null,
      path: pong === undefined ? this.#path(peer) : this.#pathAt(pong.endpoint),
    };
  }

  async netcheck(timeoutMs: number): Promise<NetcheckView> {
    const { discovery, runtime, nodeId, clock } = this.#deps;
    if (discovery === undefined) throw new WeftError("NOT_READY", "discovery is not running", "start the node first");
    const sleep = (ms: number): Promise<void> =>
      new Promise((resolve) => void clock.schedule(clock.now().nowMs + ms, resolve));
    return netcheck({ discovery, runtime, nodeId, timeoutMs, sleep });
  }

  async explain(query: string): Promise<ExplainView> {
    const { runtime, clock } = this.#deps;
    const { member, peer } = this.#otherMember(query);
    const path = this.#path(peer);
    return explain({
      peer: { id: formatNodeId(member.nodeId), name: member.name },
      established: runtime.plane?.peerFigures(peer.slot).established === true,
      online: runtime.isOnline(peer),
      lastError: peer.lastError ?? null,
      path,
      paths: await runtime.paths(peer),
      candidates: runtime.mesh.candidates(member.nodeId, clock.now().wallMs),
      through: runtime.ways.describe(clock.now(), member.nodeId),
      punch: runtime.punchReport(member.nodeId),
    });
  }

  /** @throws WeftError NODE_UNKNOWN, PING_SELF, NO_PLACE */
  #otherMember(query: string): { readonly member: Member; readonly peer: PeerRecord } {
    const { runtime, nodeId } = this.#deps;
    const member = runtime.mesh.find(query);
    if (member === undefined)
      throw new WeftError("NODE_UNKNOWN", `no member is called "${query}"`, "see `weft members`");
    if (equal(member.nodeId, nodeId))
      throw new WeftError("PING_SELF", `"${query}" is this node itself`, "name another member");
    const peer = this.#record(member);
    if (peer === undefined)
      throw new WeftError(
        "NO_PLACE",
        `${member.name} has no place among this node's peers`,
        "raise max_peers in weft.toml",
      );
    return { member, peer };
  }

  metrics(): readonly MetricSample[] {
    const { runtime, storage, clock, loopDelay, startedAtMs } = this.#deps;
    const store = storage.counters();
    const cpu = process.cpuUsage();
    const loopDelaySeconds = loopDelay.max / 1e9;
    loopDelay.reset();
    return [
      ...streamSamples(runtime.streams.counters),
      ...processSamples({
        version: weftVersion(),
        bootId: this.#bootId(),
        uptimeSeconds: (clock.now().nowMs - startedAtMs) / 1000,
        residentBytes: process.memoryUsage.rss(),
        cpuSeconds: (cpu.user + cpu.system) / 1e6,
        storeCommits: store.commits,
        storeCommitSeconds: store.commitSeconds,
        storeRefused: store.refused,
        commandsWaiting: runtime.commandsWaiting,
        commandsDropped: runtime.commandsDropped,
        loopDelaySeconds,
        mesh: { ...runtime.mesh.counters, ...runtime.ways.counters, forwardsNow: runtime.ways.forwards },
      }),
      ...[...runtime.handshakeDrops].map(([reason, value]): MetricSample => ({
        name: "weft_handshake_drops_total",
        type: "counter",
        help: "Handshake datagrams that passed the gate and were refused by the session, by reason.",
        labels: { reason },
        value,
      })),
      ...channelSamples(runtime.channels.figures()),
      ...(this.#deps.routing?.metrics() ?? []),
      ...(this.#deps.messaging?.()?.metrics() ?? []),
      ...discoverySamples(this.#deps.discovery),
      ...planeSamples(runtime.plane?.counters() ?? new Map()),
      ...peerSamples(this.peers()),
    ];
  }

  health(): readonly HealthItem[] {
    const { runtime, clock, plane, storage } = this.#deps;
    const items: HealthItem[] = [];
    const others = this.#others();
    if (plane.tunName === "") {
      items.push({
        code: "agent-mode",
        severity: "info",
        text: "agent node: there is no interface, so only Weft's own commands reach the others",
        remedy: "run as root without --no-tun for one",
      });
    }
    if (this.#deps.endpoints().length === 0) {
      items.push({
        code: "no-endpoint",
        severity: "warning",
        text: "no address is known at which others could reach this node",
        remedy: "start it with --endpoint HOST:PORT",
      });
    }
    const roles = runtime.mesh.self?.roles ?? [];
    const serves = this.#deps.endpoints().some(looksLikeChannelUrl);
    if (serves && !roles.includes("admin") && !roles.includes("beacon")) {
      items.push({
        code: "channels-unused",
        severity: "warning",
        text: "this node names a URL for channels, but others open them to beacons and admins only",
        remedy: "let an admin give it the role beacon",
      });
    }
    const { dialled } = runtime.channels.figures();
    if (dialled > 0) {
      items.push({
        code: "udp-silent",
        severity: "info",
        text: `UDP does not get through to ${dialled === 1 ? "one node" : `${dialled} nodes`} that relay: a channel over WebSocket carries the traffic`,
        remedy: "let this network pass UDP for shorter delays; `weft netcheck` says more",
      });
    }
    const confirmed = runtime.mesh.rosterConfirmedAtMs;
    const sinceMs = clock.now().nowMs - (confirmed ?? this.#deps.startedAtMs);
    if (others.length > 0 && sinceMs > ROSTER_STALE_MS) {
      items.push({
        code: "roster-stale",
        severity: "warning",
        text: `no other member has confirmed the roster for ${Math.round(sinceMs / 60_000)} min`,
        remedy: "check the connection of this machine",
      });
    }
    if (runtime.mesh.userData === "refused") {
      items.push({
        code: "roster-refused",
        severity: "error",
        text: "no user data is carried: no other member confirms that this node's roster is current",
        remedy: "bring a member or beacon in reach, or set another rule on an admin: weft roster policy --stale allow",
      });
    }
    const self = runtime.mesh.self;
    if (self !== undefined && self.name !== self.requestedName) {
      items.push({
        code: "name-clash",
        severity: "warning",
        text: `the name "${self.requestedName}" belongs to another member, so this node is called "${self.name}"`,
        remedy: `an admin can rename it: weft members set ${self.name} --name NAME`,
      });
    }
    const waiting = this.roster.requests();
    if (waiting.length > 0) {
      items.push({
        code: "requests-waiting",
        severity: "info",
        text: `${waiting.length === 1 ? `"${waiting[0].name}" waits` : `${waiting.length} nodes wait`} for an admin's approval to join`,
        remedy: "decide: weft requests, then weft approve or weft deny",
      });
    }
    const failing = others.filter((member) => this.#record(member)?.lastError !== undefined);
    if (failing.length > 0) {
      const first = failing[0];
      const more = failing.length === 1 ? "" : ` and ${failing.length - 1} more`;
      items.push({
        code: "peer-unreachable",
        severity: "warning",
        text: `no session with ${first.name}${more}: ${this.#record(first)?.lastError}`,
        remedy: "check that it runs and that its UDP port can be reached",
      });
    }
    if (
      others.length > 0 &&
      others.every((member) => this.#record(member)?.stopping === true || !this.#isOnline(member))
    ) {
      items.push({
        code: "alone",
        severity: "info",
        text: "no other member is online",
        remedy: "nothing to do if they are switched off",
      });
    }
    items.push(...(this.#deps.routing?.health() ?? []));
    if (this.messagingError !== undefined) {
      items.push({
        code: "no-messages",
        severity: "error",
        text: `messages are neither sent nor taken: ${this.messagingError}`,
        remedy: "check messages.db in the state directory and the space on its disk, then restart",
      });
    }
    if (storage.counters().failed + storage.counters().refused > 0) {
      items.push({
        code: "store-failing",
        severity: "error",
        text: "the store could not write everything",
        remedy: "check disk space and permissions of the state directory, then restart",
      });
    }
    return items;
  }

  doctor(): readonly DoctorFact[] {
    const { plane, storage, runtime } = this.#deps;
    const store = storage.counters();
    const facts: DoctorFact[] = [
      {
        code: "daemon",
        ok: true,
        severity: "info",
        text: `daemon ${weftVersion()} runs (pid ${process.pid}), ${plane.tunName === "" ? "agent node" : `interface ${plane.tunName}, offloads 0x${plane.offloads.toString(16)}`}, ports ${plane.port4}/${plane.port6}`,
        remedy: "",
      },
      {
        code: "store",
        ok: store.failed + store.refused === 0,
        severity: "error",
        text: `${store.commits} writes to the store, ${store.failed} failed, ${store.refused} refused, ${store.commits === 0 ? 0 : Math.round((store.commitSeconds / store.commits) * 1000)} ms each`,
        remedy: "check disk space and permissions of the state directory",
      },
      {
        code: "peers-online",
        ok: this.#others().length === 0 || this.#others().some((member) => this.#isOnline(member)),
        severity: "warning",
        text: `${this.#others().filter((member) => this.#isOnline(member)).length} of ${this.#others().length} other members are online`,
        remedy: "see `weft peers`",
      },
      {
        code: "commands",
        ok: runtime.commandsDropped === 0,
        severity: "warning",
        text: `${runtime.commandsDropped} commands to the data plane dropped`,
        remedy: "the control thread sends faster than the data plane takes: report this",
      },
    ];
    return [
      ...facts,
      ...this.health().map((item) => ({
        code: item.code,
        ok: item.severity === "info",
        severity: item.severity,
        text: item.text,
        remedy: item.remedy,
      })),
    ];
  }

  #bootId(): string {
    return this.#deps.bootId.toString(16).padStart(8, "0");
  }

  #others(): Member[] {
    return this.#deps.runtime.mesh.members().filter((member) => !equal(member.nodeId, this.#deps.nodeId));
  }

  #record(member: Member): PeerRecord | undefined {
    return this.#deps.runtime.peers.byKey(member.staticKey);
  }

  #isOnline(member: Member): boolean {
    const peer = this.#record(member);
    return peer !== undefined && this.#deps.runtime.isOnline(peer);
  }

  /** How messages reach that member now. */
  pathTo(nodeId: Uint8Array): PathView {
    const member = this.#deps.runtime.mesh.memberById(nodeId);
    return this.#path(member === undefined ? undefined : this.#record(member));
  }

  #path(peer: PeerRecord | undefined): PathView {
    if (peer?.endpoint === undefined) return NO_PATH;
    return this.#pathAt(peer.endpoint);
  }

  /** @param bytes endpoint, 18 bytes */
  #pathAt(bytes: Uint8Array): PathView {
    const endpoint = formatEndpoint(endpointFromBytes(bytes));
    const virtual = virtualOf(bytes);
    if (virtual === undefined) return { kind: "direct", endpoint, via: null };
    const through = this.#deps.runtime.ways.through(bytes);
    if (through !== undefined) return { kind: through.kind, endpoint: null, via: through.via };
    const kind = virtual.pathKind === 1 ? "relay" : "transit";
    return { kind, endpoint, via: this.#deps.runtime.channels.hostOf(bytes) ?? null };
  }

  #peerView(member: Member): PeerView {
    const { runtime, clock } = this.#deps;
    const peer = this.#record(member);
    const figures: PeerFigures | undefined = peer === undefined ? undefined : runtime.plane?.peerFigures(peer.slot);
    const hello = runtime.mesh.hello(member.staticKey);
    const path = this.#path(peer);
    const established = figures?.established === true;
    return {
      id: formatNodeId(member.nodeId),
      name: member.name,
      addresses: [member.ipv4, member.ipv6],
      online: peer !== undefined && runtime.isOnline(peer),
      path,
      rttMs: path.kind === "none" || figures === undefined || figures.rttMs < 0 ? null : figures.rttMs,
      loss: figures?.lossRatio ?? 0,
      pmtu: path.kind === "none" || figures === undefined || figures.mtuBytes === 0 ? null : figures.mtuBytes,
      txBytes: figures?.txBytes ?? 0,
      rxBytes: figures?.rxBytes ?? 0,
      lastDeliveryMs: figures === undefined || figures.lastDeliveryMs < 0 ? null : figures.lastDeliveryMs,
      epochAgeMs: established && figures.epochAgeMs >= 0 ? figures.epochAgeMs : null,
      cipher: (established ? CIPHER_NAMES[figures.cipher] : undefined) ?? "none",
      hybrid: established && figures.hybrid,
      authentication: "ed25519",
      queuedPackets: figures?.queuedPackets ?? 0,
      dropped: { tx: figures?.droppedTx ?? 0, rx: figures?.droppedRx ?? 0, spoofed: figures?.spoofed ?? 0 },
      deliveryBps: figures === undefined || figures.deliveryBps <= 0 ? null : figures.deliveryBps,
      forwarded: { bytes: figures?.forwardedBytes ?? 0, dropped: figures?.forwardDrops ?? 0 },
      roles: member.roles,
      candidates: runtime.mesh
        .candidates(member.nodeId, clock.now().wallMs)
        .map((endpoint) => formatEndpoint(endpointFromBytes(endpoint))),
      build: hello?.buildId ?? null,
      protocol: hello === undefined ? null : hello.protocol.join("–"),
      capabilities: hello === undefined ? [] : capabilityNames(hello.capabilities),
      lastError: peer?.lastError ?? null,
    };
  }
}
