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
import { PROTOCOL_RANGE, weftVersion } from "../api/paths.ts";
import { equal } from "../base/bytes.ts";
import { endpointFromBytes, endpointToBytes, formatAddress, formatEndpoint, parseAddress } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";
import { nullLogger } from "../base/log.ts";
import type { Logger } from "../base/log.ts";
import { Identity } from "../crypto/identity.ts";
import { networkPrefix } from "../crypto/node-id.ts";
import type { DataplaneHandle, PlaneSettings, StartDataplane } from "../dataplane/messages.ts";
import { checkToken, decodeToken } from "../mesh/invite.ts";
import { MeshNode } from "../mesh/mesh-node.ts";
import { Capability } from "../session/types.ts";
import { measureCiphers } from "../sys/aead.ts";
import type { Clock } from "./clock.ts";
import { systemClock } from "./clock.ts";
import type { Config, ConfigOverrides } from "./config.ts";
import { defaultNodeName, loadConfig, MAX_UNDERLAY_MTU_BYTES } from "./config.ts";
import { RuntimeControl } from "./control.ts";
import { startDataplane } from "./dataplane-handle.ts";
import { InterfaceConfigurator, overlayMtu } from "./interface.ts";
import type { PeerRecord } from "./peer-table.ts";
import { systemRandom } from "./random.ts";
import { slotsFor } from "./members.ts";
import { ENDPOINT_CACHE_KEY, NETWORK_KEY } from "./persistence.ts";
import { NodeRuntime } from "./runtime.ts";
import { withOptions } from "./start-errors.ts";
import { StateDirectory } from "./state-dir.ts";
import type { Storage } from "./storage.ts";
import { StorageThread } from "./storage.ts";
import { OWN_TIMESTAMP_KEY, StoredTimestamps } from "./timestamps.ts";
import { ownEndpoints, readHostNetwork } from "./underlay.ts";

export type { NodeControl } from "../api/control.ts";
export type { ConfigOverrides } from "./config.ts";
export { initNetwork } from "./init.ts";
export type { InitOptions, InitResult } from "./init.ts";

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
  };
}

export interface WeftNode {
  readonly control: NodeControl;
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
  #storage: Storage | undefined;
  #runtime: NodeRuntime | undefined;
  #plane: DataplaneHandle | undefined;
  #interface: InterfaceConfigurator | undefined;
  #ready = { tunName: "", port4: 0, port6: 0, offloads: 0 };
  #settings: PlaneSettings | undefined;
  #endpoints: readonly Uint8Array[] = [];
  #cancelRefresh: (() => void) | undefined;
  #refreshing = false;
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
      { buildId: weftVersion(), protocol: PROTOCOL_RANGE, capabilities, maxMembers: 65_536 },
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
      },
      { maxPeers: config.maxPeers, pq: config.pq, psk: config.psk, capabilities, underlayMtuBytes, bootId },
      {
        pathChanged: (peer) => this.#pathChanged(peer),
        endpointsDirty: () => this.#refreshLater(ENDPOINT_SETTLE_MS),
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
      tunMtuBytes: overlayMtu(underlayMtuBytes, 4),
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
        if (event.kind !== "stopped" || this.#stopping === undefined) runtime.handleEvent(event);
      },
    );
    runtime.attach(this.#plane);
    await this.#refreshEndpoints();
    if (join === undefined || networkId !== undefined) {
      runtime.start();
      if (join !== undefined) this.#log.info("this node is a member already; the token is not needed");
    } else {
      const result = await runtime.join(join, config.name ?? defaultNodeName(hostname()));
      if (!result.ok) throw new WeftError(result.code.toUpperCase().replaceAll("-", "_"), result.text, result.remedy);
      await runtime.flush();
    }
    await this.#configureInterface();
    this.#loopDelay.enable();
    this.#control = new RuntimeControl({
      runtime,
      storage: this.#storage,
      clock: this.#clock,
      nodeId: identity.nodeId,
      loopDelay: this.#loopDelay,
      plane: this.#ready,
      bootId,
      startedAtMs: now.nowMs,
      endpoints: () => this.#endpoints.map((endpoint) => formatEndpoint(endpointFromBytes(endpoint))),
      stop: () => this.#end(undefined),
      leave: () => this.#leave(),
    });
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#cancelRefresh?.();
    this.#loopDelay.disable();
    this.#interface?.close();
    await this.#runtime?.close();
    if (this.#control !== undefined) await new Promise((resolve) => setTimeout(resolve, GOODBYE_MS));
    await this.#plane?.stop();
    await this.#storage?.close();
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
  }

  #refreshLater(delayMs: number): void {
    this.#cancelRefresh?.();
    this.#cancelRefresh = this.#clock.schedule(this.#clock.now().nowMs + delayMs, () => void this.#refreshEndpoints());
  }

  /** Looks at the interfaces again; tells the mesh where this node may be reached, and the plane when the MTU changed. */
  async #refreshEndpoints(): Promise<void> {
    const { runtime, config } = { runtime: this.#runtime, config: this.#config };
    if (runtime === undefined || config === undefined || this.#refreshing || this.#stopping !== undefined) return;
    this.#refreshing = true;
    try {
      const host = await readHostNetwork(this.#ready.tunName === "" ? undefined : this.#ready.tunName);
      const found = await ownEndpoints({
        configured: config.endpoints,
        listen: config.listen,
        port4: this.#ready.port4,
        port6: this.#ready.port6,
        host,
        isOverlay: (address) => this.#isOverlay(address),
      });
      this.#endpoints = found.map((endpoint) => endpointToBytes(endpoint));
      runtime.setOwnEndpoints(this.#endpoints);
    } finally {
      this.#refreshing = false;
      this.#refreshLater(ENDPOINT_REFRESH_MS);
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
