/**
 * Weft as a library: a node inside a program. Several may live in one process, each with a state directory and port of its own. The daemon
 * is a thin shell around this.
 *
 * ```ts
 * import { createNode, initNetwork } from "weft";
 *
 * await initNetwork({ stateDirectory: "/tmp/one", network: "example", name: "one" });
 * const one = await createNode({ stateDirectory: "/tmp/one", config: { tun: false, listen: ["127.0.0.1:0"] } });
 * const { token } = await one.control.invite({});
 * const two = await createNode({ stateDirectory: "/tmp/two", join: token, config: { name: "two", tun: false, listen: ["127.0.0.1:0"] } });
 * console.log((await two.control.ping("one", 2000)).rttMs);
 * await two.stop();
 * await one.stop();
 * ```
 */
import { hostname } from "node:os";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { NodeControl } from "../api/control.ts";
import type { MeshStream, OpenOptions } from "../stream/types.ts";
import { PROTOCOL_RANGE, weftVersion } from "../api/paths.ts";
import { equal } from "../base/bytes.ts";
import { endpointFromBytes, endpointToBytes, formatAddress, formatEndpoint, parseAddress } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";
import { nullLogger } from "../base/log.ts";
import type { Logger } from "../base/log.ts";
import { Identity } from "../crypto/identity.ts";
import { networkPrefix } from "../crypto/node-id.ts";
import type { DataplaneHandle, PlaneSettings, StartDataplane } from "../dataplane/messages.ts";
import { collisions } from "../mesh/addresses.ts";
import { checkToken, decodeToken } from "../mesh/invite.ts";
import { MeshNode } from "../mesh/mesh-node.ts";
import { Mapping } from "../mesh/punch/messages.ts";
import { Capability } from "../session/types.ts";
import { measureCiphers } from "../sys/aead.ts";
import { Dialer, readAuthority } from "./channels/dial.ts";
import type { Clock } from "./clock.ts";
import { systemClock } from "./clock.ts";
import type { Config, ConfigOverrides } from "./config.ts";
import { defaultNodeName, loadConfig, MAX_UNDERLAY_MTU_BYTES } from "./config.ts";
import { RuntimeControl } from "./control.ts";
import { startDataplane } from "./dataplane-handle.ts";
import { Discovery } from "./discovery/discovery.ts";
import type { NatMapping } from "./discovery/nat-kind.ts";
import { HostRouting } from "./host-control.ts";
import { decodeHostSettings, encodeHostSettings, HOST_SETTINGS_KEY } from "./host-settings.ts";
import type { HostSettings } from "./host-settings.ts";
import { InterfaceConfigurator, interfaceMtu, overlayMtu } from "./interface.ts";
import { Journal } from "./journal.ts";
import { Messaging, type MessagingDeps } from "./messaging/messaging.ts";
import type { MessagingPart, PartContext } from "./messaging/part.ts";
import type { PeerRecord } from "./peer-table.ts";
import { systemRandom } from "./random.ts";
import { slotsFor } from "./members.ts";
import { ENDPOINT_CACHE_KEY, NETWORK_KEY } from "./persistence.ts";
import { NodeRuntime } from "./runtime.ts";
import { withOptions } from "./start-errors.ts";
import { StateDirectory } from "./state-dir.ts";
import { StorageThread } from "./storage.ts";
import { hostMachine, SystemChanges } from "./system-changes.ts";
import { stateTag } from "./system-changes-scope.ts";
import { OWN_TIMESTAMP_KEY, StoredTimestamps } from "./timestamps.ts";
import { ownEndpoints, readHostNetwork, readRoutedPrefixes } from "./underlay.ts";

export type { NodeControl } from "../api/control.ts";
export type { ConfigOverrides } from "./config.ts";
export type { MeshStream, OpenOptions } from "../stream/types.ts";
export { StreamClass, StreamError } from "../stream/types.ts";
export { initNetwork } from "./init.ts";
export type { InitOptions, InitResult } from "./init.ts";

/** What peers are told about the NAT, by what discovery found; of two possible kinds the easier one is the one to try. */
const MAPPING_OF: Readonly<Record<NatMapping, Mapping>> = {
  unknown: Mapping.UNKNOWN,
  none: Mapping.ENDPOINT_INDEPENDENT,
  "endpoint-independent": Mapping.ENDPOINT_INDEPENDENT,
  "address-dependent": Mapping.ADDRESS_DEPENDENT,
  "address-and-port-dependent": Mapping.PORT_DEPENDENT,
  dependent: Mapping.ADDRESS_DEPENDENT,
};

const isLoopback = (address: string): boolean => address === "::1" || address.startsWith("127.");

/** Changes of addresses come in bursts. */
const ENDPOINT_SETTLE_MS = 200;
/** DNS names of configured endpoints are looked up again this often. */
const ENDPOINT_REFRESH_MS = 300_000;
/** For good-byes to leave the machine. */
const GOODBYE_MS = 50;
const LOOP_DELAY_RESOLUTION_MS = 200;

export interface CreateNodeOptions {
  /** Absolute path; made when it is missing. Holds the identity and the store. */
  readonly stateDirectory: string;
  /** Invite token: join its network first. A node that is a member of that network already just starts. */
  readonly join?: string | undefined;
  /** Wins over weft.toml in the state directory. @default {} */
  readonly config?: ConfigOverrides;
  /** @default one that discards everything */
  readonly logger?: Logger;
  /** For tests: another data plane, a clock, a slow disk. */
  readonly testing?: {
    readonly startDataplane?: StartDataplane;
    readonly clock?: Clock;
    readonly commitDelayMs?: number;
    readonly messagingParts?: (context: PartContext) => readonly MessagingPart[];
  };
}

/** Streams with other members, over the same sessions and paths as everything else. */
export interface NodeStreams {
  /**
   * @param member name, overlay address or node id
   * @throws WeftError NODE_UNKNOWN, NODE_AMBIGUOUS, STREAM_TIMEOUT, STREAM_LIMIT, PEER_GONE; the signal's reason
   */
  open(member: string, options: OpenOptions): Promise<MeshStream>;
  /** Streams of that kind that members open come to `handler`. @returns takes it away */
  serve(kind: string, handler: (stream: MeshStream) => void): () => void;
}

export interface WeftNode {
  readonly control: NodeControl;
  readonly streams: NodeStreams;
  /** Resolves when the node has stopped: undefined when it was asked to, else why. */
  readonly closed: Promise<WeftError | undefined>;
  /** Says good-bye, writes everything, removes the interface. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts a node; resolves when its interface is up and, with `join`, the roster is there.
 * @throws WeftError with code, message and remedy; everything opened so far is closed again
 */
export async function createNode(options: CreateNodeOptions): Promise<WeftNode> {
  const node = new NodeProcess(options);
  try {
    await node.start();
  } catch (error) {
    await node.stop();
    throw withOptions(error);
  }
  return node;
}

class NodeProcess implements WeftNode {
  readonly #options: CreateNodeOptions;
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly closed: Promise<WeftError | undefined>;
  #resolveClosed: (error: WeftError | undefined) => void = () => undefined;
  #control: NodeControl | undefined;
  #directory: StateDirectory | undefined;
  #config: Config | undefined;
  #storage: StorageThread | undefined;
  #runtime: NodeRuntime | undefined;
  #plane: DataplaneHandle | undefined;
  #interface: InterfaceConfigurator | undefined;
  #journal: Journal | undefined;
  #changes: SystemChanges | undefined;
  #routing: HostRouting | undefined;
  #discovery: Discovery | undefined;
  #messaging: Messaging | undefined;
  #ready = { tunName: "", port4: 0, port6: 0, offloads: 0 };
  #settings: PlaneSettings | undefined;
  #endpoints: readonly Uint8Array[] = [];
  #cancelRefresh: (() => void) | undefined;
  #refreshing = false;
  #refreshAgain = false;
  #stopping: Promise<void> | undefined;
  readonly #loopDelay = monitorEventLoopDelay({ resolution: LOOP_DELAY_RESOLUTION_MS });

  constructor(options: CreateNodeOptions) {
    this.#options = options;
    this.#log = options.logger ?? nullLogger;
    this.#clock = options.testing?.clock ?? systemClock;
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
  }

  get control(): NodeControl {
    if (this.#control === undefined) throw new WeftError("NOT_READY", "the node is not running", "start it first");
    return this.#control;
  }

  async start(): Promise<void> {
    const { join, testing } = this.#options;
    const now = this.#clock.now();
    const directory = new StateDirectory(this.#options.stateDirectory);
    this.#directory = directory;
    const config = loadConfig(directory.path, this.#options.config);
    this.#config = config;
    const token = join === undefined ? undefined : decodeToken(join);
    const known = directory.readIdentity();
    this.#storage = new StorageThread(directory.prepareDatabase(), { commitDelayMs: testing?.commitDelayMs ?? 0 });
    const stored = await this.#storage.load();
    const hostSettings = decodeHostSettings(stored.meta.get(HOST_SETTINGS_KEY));
    await this.#undoLeftovers(hostSettings);
    const networkId = stored.meta.get(NETWORK_KEY);
    if (token !== undefined) checkToken(token, now.wallMs, networkId);
    if (networkId === undefined && join === undefined) {
      throw new WeftError(
        "NO_NETWORK",
        `${directory.path} belongs to no network`,
        "create one with `weft init NETWORK`, or join one with `weft up --join TOKEN`",
      );
    }
    if (networkId !== undefined && known === undefined) {
      throw new WeftError(
        "IDENTITY_MISSING",
        `${directory.path} belongs to a network, but its identity file is missing`,
        "restore `identity` from a backup, or move the directory away and join again",
      );
    }
    const identity = known ?? Identity.generate(systemRandom);
    if (known === undefined) directory.writeIdentity(identity);

    const capabilities =
      (measureCiphers().hardwareAes ? Capability.HARDWARE_AES : 0) | Capability.PARTIAL_CHECKSUM | Capability.HYBRID;
    const mesh = new MeshNode(
      { identity, random: systemRandom },
      { buildId: weftVersion(), protocol: PROTOCOL_RANGE, capabilities, maxMembers: 65_536, bulkStreams: true },
    );
    if (networkId !== undefined) {
      mesh.restore(
        now,
        networkId,
        stored.statements.map((row) => row.bytes),
      );
      const cache = stored.meta.get(ENDPOINT_CACHE_KEY);
      if (cache !== undefined) mesh.importEndpoints(cache);
      if (mesh.self === undefined) {
        throw new WeftError(
          "NOT_MEMBER",
          `this node was removed from the network ${mesh.networkName ?? "it belonged to"}`,
          `move ${directory.path} away and join again with a new invite`,
        );
      }
    }

    const host = await readHostNetwork(undefined);
    const underlayMtuBytes =
      config.underlayMtuBytes === 0 ? Math.min(host.mtuBytes, MAX_UNDERLAY_MTU_BYTES) : config.underlayMtuBytes;
    const bootId = systemRandom.u32();
    const { websocket } = config;
    const dialer = websocket.connect
      ? new Dialer({
          ca: readAuthority(websocket.caFile),
          mark: config.mark,
          allowLocal: config.listen.length > 0 && config.listen.every(({ address }) => isLoopback(address)),
        })
      : undefined;
    const runtime = new NodeRuntime(
      {
        identity,
        mesh,
        storage: this.#storage,
        timestamps: new StoredTimestamps(
          {
            persist: (mutations) =>
              void this.#storage
                ?.write(mutations)
                .catch((error: Error) => this.#log.error(`not written to disk: ${error.message}`)),
          },
          { highWater: stored.meta.get(OWN_TIMESTAMP_KEY), peers: stored.timestamps },
        ),
        random: systemRandom,
        clock: this.#clock,
        log: this.#log,
        dialChannel: dialer === undefined ? undefined : (url, signal) => dialer.dial(url, signal),
      },
      {
        maxPeers: config.maxPeers,
        pq: config.pq,
        psk: config.psk,
        capabilities,
        underlayMtuBytes,
        bootId,
        ways: {
          relay: config.relay,
          transit: config.transit,
          forwardBytesPerSecond: config.forwardBytesPerSecond,
        },
        channels: {
          server:
            websocket.listen === undefined
              ? undefined
              : { listen: websocket.listen, trustedProxies: websocket.trustedProxies },
        },
      },
      {
        pathChanged: (peer) => this.#pathChanged(peer),
        endpointsDirty: () => this.#refreshLater(ENDPOINT_SETTLE_MS),
        membersChanged: () => {
          this.#routing?.changed();
          this.#messaging?.membersChanged();
        },
        sessionChanged: (peer, isUp) =>
          isUp ? this.#messaging?.peerUp(peer.nodeId) : this.#messaging?.peerDown(peer.nodeId),
        memberGone: (nodeId) => this.#messaging?.memberGone(nodeId),
        observed: (to, mapped) => this.#discovery?.observe(to, mapped),
        removed: (reason, by) =>
          this.#end(
            new WeftError(
              "REVOKED",
              `this node was removed from the network${by === undefined ? "" : ` by ${by}`}${reason === "" ? "" : `: ${reason}`}`,
              `move ${directory.path} away and join again with a new invite`,
            ),
          ),
        failed: (error) => this.#end(error),
      },
    );
    this.#runtime = runtime;
    this.#settings = {
      gso: config.gso,
      gro: config.gro,
      tso: config.tso,
      underlayMtuBytes,
      tunMtuBytes: interfaceMtu(underlayMtuBytes),
    };
    const start: StartDataplane = testing?.startDataplane ?? startDataplane;
    this.#plane = await start(
      {
        tunName: config.tun,
        listen: config.listen,
        staticKey: identity.staticKeys.publicKey,
        settings: this.#settings,
        maxPeers: slotsFor(config.maxPeers),
        mark: config.mark,
      },
      (event) => {
        if (event.kind === "ready") this.#ready = event;
        if (event.kind === "stun") this.#discovery?.handleStun(event.from, event.datagram);
        if (event.kind !== "stopped" || this.#stopping === undefined) runtime.handleEvent(event);
      },
    );
    runtime.attach(this.#plane);
    await runtime.serveChannels();
    runtime.setOwnUrls(websocket.urls);
    this.#discovery = this.#createDiscovery(config, runtime, identity.nodeId);
    await this.#refreshEndpoints();
    runtime.judgeCandidates = (nodeId, candidates) => this.#discovery?.judge(nodeId, candidates) ?? [...candidates];
    this.#discovery.start();
    if (join === undefined || networkId !== undefined) {
      runtime.start();
      if (join !== undefined) this.#log.info("this node is a member already; the token is not needed");
    } else {
      const result = await runtime.join(join, config.name ?? defaultNodeName(hostname()));
      if (!result.ok) throw new WeftError(result.code.toUpperCase().replaceAll("-", "_"), result.text, result.remedy);
      await runtime.flush();
    }
    await this.#configureInterface();
    await this.#startRouting(identity.nodeId, hostSettings);
    this.#loopDelay.enable();
    const control = new RuntimeControl({
      runtime,
      storage: this.#storage,
      clock: this.#clock,
      nodeId: identity.nodeId,
      loopDelay: this.#loopDelay,
      plane: this.#ready,
      routing: this.#routing,
      discovery: this.#discovery,
      messaging: () => this.#messaging,
      bootId,
      startedAtMs: now.nowMs,
      endpoints: () => [
        ...this.#endpoints.map((endpoint) => formatEndpoint(endpointFromBytes(endpoint))),
        ...config.websocket.urls,
      ],
      stop: () => this.#end(undefined),
      leave: () => this.#leave(),
    });
    this.#control = control;
    await this.#startMessaging(identity, control);
  }

  get streams(): NodeStreams {
    const runtime = this.#runtime as NodeRuntime;
    return {
      open: async (query, options) => {
        const member = runtime.mesh.find(query);
        if (member === undefined)
          throw new WeftError("NODE_UNKNOWN", `no member is called "${query}"`, "weft members lists them");
        return runtime.streams.open(member.nodeId, options);
      },
      serve: (kind, handler) => runtime.streams.serve(kind, handler),
    };
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#cancelRefresh?.();
    this.#loopDelay.disable();
    this.#interface?.close();
    await this.#discovery?.close();
    await this.#routing?.stop().catch((error: Error) => this.#log.error(`not undone: ${error.message}`));
    await this.#messaging?.close();
    await this.#runtime?.close();
    if (this.#control !== undefined) await new Promise((resolve) => setTimeout(resolve, GOODBYE_MS));
    await this.#plane?.stop();
    await this.#runtime?.closeChannels();
    await this.#storage?.close();
    await this.#journal?.close();
    this.#directory?.close();
    this.#resolveClosed(undefined);
  }

  /** Stops on the next turn, so that whoever asked gets an answer first. */
  #end(error: WeftError | undefined): void {
    if (this.#stopping !== undefined) return;
    setImmediate(() => void this.stop());
    if (error !== undefined) this.#resolveClosed(error);
  }

  async #leave(): Promise<void> {
    const delivered = await this.#runtime?.leave();
    if (delivered === false) this.#log.warn("no other member has heard that this node left; revoke it there");
    await this.#runtime?.flush();
    await this.#storage?.write([{ kind: "forget", except: [OWN_TIMESTAMP_KEY] }]);
  }

  async #configureInterface(): Promise<void> {
    const mesh = this.#runtime?.mesh;
    const self = mesh?.self;
    const settings = this.#settings;
    if (mesh === undefined || self === undefined || settings === undefined || this.#ready.tunName === "") return;
    const family = this.#ready.port6 === 0 ? 4 : 6;
    const [taken] = collisions(mesh.ipv4Prefix ?? "", await readRoutedPrefixes());
    if (taken !== undefined)
      this.#log.warn(
        `the network's addresses ${mesh.ipv4Prefix} overlap with the route ${taken} of this host: hosts there may be out of reach`,
      );
    const configurator = new InterfaceConfigurator(
      { log: this.#log },
      {
        name: this.#ready.tunName,
        addresses: [self.ipv4, self.ipv6],
        prefixes: [mesh.ipv4Prefix ?? "", `${formatAddress(networkPrefix(mesh.networkId as Uint8Array))}/48`],
        mtuBytes: settings.tunMtuBytes,
        prefixMtuBytes: overlayMtu(settings.underlayMtuBytes, family),
      },
    );
    await configurator.start();
    this.#interface = configurator;
    for (const peer of this.#runtime?.peers.all() ?? []) this.#pathChanged(peer);
  }

  /** A node whose messages cannot start still carries packets; its health says so. */
  async #startMessaging(identity: Identity, control: RuntimeControl): Promise<void> {
    const [runtime, config, directory] = [this.#runtime, this.#config, this.#directory];
    if (runtime === undefined || directory === undefined || config?.messaging.enabled !== true) return;
    const { mesh } = runtime;
    const recordOf = (nodeId: Uint8Array): PeerRecord | undefined => {
      const member = mesh.memberById(nodeId);
      return member === undefined ? undefined : runtime.peers.byKey(member.staticKey);
    };
    const deps: MessagingDeps = {
      identity,
      random: systemRandom,
      clock: this.#clock,
      log: this.#log.child("messages"),
      config: config.messaging,
      stateDirectory: directory.path,
      databaseFile: directory.prepareDatabase("messages.db"),
      storeHost: this.#storage,
      streams: runtime.streams,
      networkId: () => mesh.networkId,
      members: () => mesh.members(),
      find: (nodeId) => mesh.memberById(nodeId),
      memberUntilMs: (nodeId) => mesh.memberUntilMs(nodeId),
      resolve: (query) => mesh.find(query),
      rttMs: (nodeId) => {
        const peer = recordOf(nodeId);
        const rttMs = peer === undefined ? -1 : (runtime.plane?.peerFigures(peer.slot).rttMs ?? -1);
        return rttMs < 0 ? undefined : rttMs;
      },
      isUp: (nodeId) => {
        const peer = recordOf(nodeId);
        return peer?.established === true && !peer.silent && !peer.stopping;
      },
      pathOf: (nodeId) => control.pathTo(nodeId),
    };
    try {
      this.#messaging = new Messaging(deps, this.#options.testing?.messagingParts);
      await this.#messaging.start();
    } catch (error) {
      await this.#messaging?.close();
      this.#messaging = undefined;
      control.messagingError = error instanceof Error ? error.message : String(error);
      this.#log.error(`no messages: ${control.messagingError}`);
    }
  }

  #createDiscovery(config: Config, runtime: NodeRuntime, nodeId: Uint8Array): Discovery {
    const looksOutside = config.listen.some(({ address }) => !isLoopback(address));
    const { stun, portMapping, lan } = config.discovery;
    return new Discovery(
      {
        clock: this.#clock,
        random: systemRandom,
        log: this.#log.child("discovery"),
        nodeId,
        networkId: () => (runtime.mesh.self === undefined ? undefined : runtime.mesh.networkId),
        tunName: () => this.#ready.tunName,
        sendRaw: (to, datagram) => runtime.sendRaw(to, datagram),
        changed: () => {
          runtime.natMapping = MAPPING_OF[this.#discovery?.nat(4).mapping ?? "unknown"];
          this.#refreshLater(0);
        },
        judged: (near) => runtime.candidatesJudged(near),
        stale: () => this.#refreshLater(0),
      },
      {
        stun: looksOutside ? stun : [],
        portMapping: looksOutside ? portMapping : [],
        lan: looksOutside && lan,
        mark: config.mark,
      },
    );
  }

  /** A run before this one was killed: what it changed is put back. The guard of an exit that is still wanted stays closed meanwhile. */
  async #undoLeftovers(settings: HostSettings): Promise<void> {
    const machine = hostMachine();
    this.#journal = await Journal.open(this.#options.stateDirectory, machine.scope);
    this.#changes = new SystemChanges({ journal: this.#journal, machine, log: this.#log });
    const results = await this.#changes.undo(
      (change) => settings.exit === undefined || !(change.kind === "nft" && change.guard),
    );
    const undone = results.filter(({ outcome }) => outcome === "undone").length;
    if (undone > 0) this.#log.info(`put back ${undone} changes of a run that was killed`);
    if (this.#journal.outstanding.some(({ change }) => change.kind === "nft" && change.guard))
      this.#log.info("the leak guard stays closed until the exit is set up again (weft repair opens it)");
  }

  async #startRouting(nodeId: Uint8Array, settings: HostSettings): Promise<void> {
    const [runtime, config, changes, storage] = [this.#runtime, this.#config, this.#changes, this.#storage];
    const self = runtime?.mesh.self;
    if (runtime === undefined || config === undefined || changes === undefined || storage === undefined) return;
    if (self === undefined || this.#interface === undefined) return;
    const family = this.#ready.port6 === 0 ? 4 : 6;
    this.#routing = new HostRouting(
      {
        runtime,
        changes,
        clock: this.#clock,
        log: this.#log.child("routes"),
        random: systemRandom,
        nodeId,
        settings,
        save: (value) => storage.write([{ kind: "meta", key: HOST_SETTINGS_KEY, value: encodeHostSettings(value) }]),
      },
      {
        interface: this.#ready.tunName,
        mark: config.mark,
        ports: [...new Set([this.#ready.port4, this.#ready.port6])].filter((port) => port !== 0),
        source4: self.ipv4,
        source6: self.ipv6,
        overlay4: runtime.mesh.ipv4Prefix ?? "",
        overlay6: `${formatAddress(networkPrefix(runtime.mesh.networkId as Uint8Array))}/48`,
        tag: stateTag(this.#options.stateDirectory),
        prefixMtuBytes: overlayMtu((this.#settings as PlaneSettings).underlayMtuBytes, family),
        announce: config.routes,
        services: config.dns.services,
        resolverMode: config.dns.mode,
      },
    );
    await this.#routing.start();
  }

  #pathChanged(peer: PeerRecord): void {
    const member = peer.member;
    if (this.#interface === undefined || member === undefined) return;
    const isGone = this.#runtime?.peers.bySlot(peer.slot) !== peer;
    const family = peer.endpoint !== undefined && endpointFromBytes(peer.endpoint).address.includes(":") ? 6 : 4;
    const mtuBytes =
      isGone || peer.endpoint === undefined || peer.pathMtuBytes === 0
        ? undefined
        : overlayMtu(peer.pathMtuBytes, family);
    this.#interface.setPeer([member.ipv4, member.ipv6], mtuBytes);
    this.#routing?.changed();
  }

  #refreshLater(delayMs: number): void {
    this.#cancelRefresh?.();
    this.#cancelRefresh = this.#clock.schedule(this.#clock.now().nowMs + delayMs, () => void this.#refreshEndpoints());
  }

  /** Looks at the interfaces again; tells the mesh where this node may be reached, and the plane when the MTU changed. */
  async #refreshEndpoints(): Promise<void> {
    const { runtime, config } = { runtime: this.#runtime, config: this.#config };
    if (runtime === undefined || config === undefined || this.#stopping !== undefined) return;
    // what changed while a look was under way is looked at again
    this.#refreshAgain = this.#refreshing;
    if (this.#refreshing) return;
    this.#refreshing = true;
    try {
      const host = await readHostNetwork(this.#ready.tunName === "" ? undefined : this.#ready.tunName);
      const { port4, port6 } = this.#ready;
      this.#discovery?.setHost(
        host,
        { port4, port6 },
        config.listen.some(({ address }) => isLoopback(address)),
      );
      const isOverlay = (address: string): boolean => this.#isOverlay(address);
      const shared = { port4, port6, host, isOverlay };
      const configured = await ownEndpoints({ ...shared, configured: config.endpoints, listen: [] });
      const onInterfaces = await ownEndpoints({ ...shared, configured: [], listen: config.listen });
      const outside = this.#discovery?.endpoints() ?? [];
      const all = [
        ...configured.map((endpoint) => endpointToBytes(endpoint)),
        ...outside,
        ...onInterfaces.map((endpoint) => endpointToBytes(endpoint)),
      ];
      this.#endpoints = all.filter((one, i) => all.findIndex((other) => equal(one, other)) === i);
      runtime.setOwnEndpoints(this.#endpoints);
      this.#routing?.changed();
    } finally {
      this.#refreshing = false;
      this.#refreshLater(this.#refreshAgain ? ENDPOINT_SETTLE_MS : ENDPOINT_REFRESH_MS);
    }
  }

  #isOverlay(address: string): boolean {
    const networkId = this.#runtime?.mesh.networkId;
    const bytes = parseAddress(address);
    return (
      networkId !== undefined &&
      bytes !== undefined &&
      equal(bytes.subarray(0, 6), networkPrefix(networkId).subarray(0, 6))
    );
  }
}
