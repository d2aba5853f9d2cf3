/**
 * Real daemons in lab hosts: `bin/weft` with a state directory of its own each, started, joined, asked, killed and restarted.
 *
 *   const network = await formNetwork(lab, [a, b, c]);      // a founds it, b and c join with one token each
 *   await network.allPairs();                               // every node has a direct session with every other one
 *   await network.node("b").kill(); await network.node("b").up();
 *
 * Every wait has a bound and fails with the last lines of the daemon's log.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { WeftClient } from "../src/client/client.ts";
import type { InviteView, PeerView, StatusView } from "../src/api/control.ts";
import type { Host, Lab } from "./namespaces.ts";
import { Daemon, LabError, run, until, type RunResult } from "./process.ts";

const WEFT = fileURLToPath(new URL("../bin/weft", import.meta.url));
const READY_MS = 20_000;

export interface NodeOptions {
  /** Namespace to run in; undefined = this process's own, as an agent node on loopback. */
  readonly host: Host | undefined;
  readonly name: string;
  /** State directory; made by the daemon. */
  readonly state: string;
  /** Options of every `weft up`. @default [] */
  readonly upArgs?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Content of weft.toml, written before every start. */
  readonly config?: string;
}

/** One node of the network: a state directory, and a daemon while it is up. */
export class WeftNode {
  readonly name: string;
  readonly state: string;
  readonly api: WeftClient;
  daemon: Daemon | undefined;
  /** Added to the environment of the daemon and of every command. */
  env: Record<string, string>;
  readonly #host: Host | undefined;
  readonly #upArgs: readonly string[];
  readonly #config: string | undefined;

  constructor(options: NodeOptions) {
    this.name = options.name;
    this.state = options.state;
    this.api = new WeftClient(join(options.state, "weft.sock"));
    this.env = { ...options.env };
    this.#host = options.host;
    this.#upArgs = options.upArgs ?? [];
    this.#config = options.config;
  }

  get host(): Host {
    if (this.#host === undefined) throw new LabError("NO_HOST", `node ${this.name} runs on no lab host`);
    return this.#host;
  }

  /** Runs `weft ARGS --state …` to its end. */
  weft(args: readonly string[], timeoutMs = 30_000): Promise<RunResult> {
    const all = [...args, "--state", this.state];
    const options = { timeoutMs, env: this.env };
    return this.#host === undefined ? run(WEFT, all, options) : this.#host.exec(WEFT, all, options);
  }

  /** weft() with --json that must succeed. */
  async json<T>(args: readonly string[], timeoutMs = 30_000): Promise<T> {
    const result = await this.weft([...args, "--json"], timeoutMs);
    if (result.code !== 0)
      throw new LabError(
        "WEFT",
        `weft ${args.join(" ")} on ${this.name}: exit code ${result.code}: ${result.stderr.trim()}`,
      );
    return JSON.parse(result.stdout) as T;
  }

  /** Founds a network with this node as its first admin. */
  async init(network: string, args: readonly string[] = []): Promise<void> {
    await this.json(["init", network, "--name", this.name, ...args]);
  }

  /** Starts the daemon and waits for its line `ready`. */
  async up(args: readonly string[] = [], readyMs: number = READY_MS): Promise<Daemon> {
    const daemon = this.start(args);
    await daemon.waitFor(/^ready\b/, readyMs);
    return daemon;
  }

  /** Starts the daemon without waiting. */
  start(args: readonly string[] = []): Daemon {
    const all = ["up", "--state", this.state, ...this.#upArgs, ...args];
    if (this.#config !== undefined) {
      mkdirSync(this.state, { recursive: true, mode: 0o700 });
      writeFileSync(join(this.state, "weft.toml"), this.#config, { mode: 0o600 });
    }
    const name = `${this.name}:weft`;
    const daemon =
      this.#host === undefined
        ? new Daemon(name, WEFT, all, { env: this.env })
        : this.#host.spawn(WEFT, all, { name, env: this.env });
    this.daemon = daemon;
    return daemon;
  }

  /** First start with an invitation: waits until the roster is there. */
  join(token: string, args: readonly string[] = []): Promise<Daemon> {
    return this.up(["--join", token, "--name", this.name, ...args], READY_MS + 10_000);
  }

  invite(args: readonly string[] = []): Promise<InviteView> {
    return this.json<InviteView>(["invite", ...args]);
  }

  status(): Promise<StatusView> {
    return this.api.status();
  }

  /** This node's overlay address. */
  async address(family: 4 | 6): Promise<string> {
    const { node } = await this.status();
    const found = node.addresses
      .map((text) => text.split("/")[0] ?? "")
      .find((text) => text.includes(":") === (family === 6));
    if (found === undefined) throw new LabError("NO_ADDRESS", `${this.name} has no IPv${family} overlay address`);
    return found;
  }

  /** The peer of that name as soon as `ready` holds for it. @default ready: a session in use over a direct path */
  peer(name: string, timeoutMs = 15_000, ready: (peer: PeerView) => boolean = isDirect): Promise<PeerView> {
    return until(`${this.name} sees ${name}`, timeoutMs, async () => {
      const { peers } = await this.status();
      const found = peers.find((peer) => peer.name === name);
      if (found === undefined) throw new LabError("NO_PEER", `${this.name} does not know ${name}`);
      if (ready(found)) return found;
      throw new LabError("NOT_READY", `${name} is ${JSON.stringify(found)}`);
    }).catch((error: unknown) => {
      throw new LabError(
        "PEER",
        `${error instanceof Error ? error.message : String(error)}\n${this.daemon?.tail() ?? ""}`,
        { cause: error },
      );
    });
  }

  /** Samples of /metrics: "name{labels}" → value. */
  async metrics(): Promise<Map<string, number>> {
    const samples = new Map<string, number>();
    for (const line of (await this.api.metrics()).split("\n")) {
      const match = /^(weft_[^\s{]+(?:\{.*\})?)\s+(\S+)/.exec(line);
      if (match !== null) samples.set(match[1] ?? "", Number(match[2]));
    }
    return samples;
  }

  /** kill -9, and waits until it is gone. */
  async kill(): Promise<void> {
    await this.daemon?.stop("SIGKILL");
  }

  /** SIGTERM, and waits for the end. @returns exit code */
  async stop(): Promise<number | null | undefined> {
    return this.daemon?.stop("SIGTERM", 10_000);
  }
}

/** A session in use over a proven direct path. */
export function isDirect(peer: PeerView): boolean {
  return peer.online && peer.path.kind === "direct" && peer.cipher !== "none";
}

export interface NetworkOptions {
  /** @default "lab" */
  readonly network?: string;
  readonly upArgs?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Further options of `weft init`. */
  readonly initArgs?: readonly string[];
  /** Content of the node's weft.toml. @default none */
  readonly config?: (host: Host) => string | undefined;
}

/** Nodes that belong together, in the order in which they joined; the first is the admin. */
export class WeftNetwork {
  readonly nodes: WeftNode[];

  constructor(nodes: WeftNode[]) {
    this.nodes = nodes;
  }

  node(name: string): WeftNode {
    const found = this.nodes.find((node) => node.name === name);
    if (found === undefined) throw new LabError("NO_NODE", `no node ${name}`);
    return found;
  }

  get admin(): WeftNode {
    return this.nodes[0] ?? fail();
  }

  /** Waits until every node has a direct session with every other one. */
  async allPairs(timeoutMs = 20_000): Promise<void> {
    for (const from of this.nodes) {
      for (const to of this.nodes) {
        if (from !== to) await from.peer(to.name, timeoutMs);
      }
    }
  }

  /** The end of every daemon's log, for a failure's message. */
  logs(lines = 40): string {
    return this.nodes.map((node) => node.daemon?.tail(lines) ?? "").join("\n");
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stop()));
  }
}

function fail(): never {
  throw new LabError("NO_NODE", "the network has no node");
}

/**
 * A network over lab hosts: the first host founds it and invites the others one after the other.
 * The daemons end with the lab.
 */
export async function formNetwork(
  lab: Lab,
  hosts: readonly Host[],
  options: NetworkOptions = {},
): Promise<WeftNetwork> {
  const nodes = hosts.map((host) => {
    const config = options.config?.(host);
    return new WeftNode({
      host,
      name: host.name,
      state: join(lab.folder, `state-${host.name}`),
      ...(options.upArgs === undefined ? {} : { upArgs: options.upArgs }),
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(config === undefined ? {} : { config }),
    });
  });
  const network = new WeftNetwork(nodes);
  lab.onClose(() => network.stop());
  const [admin, ...others] = nodes;
  if (admin === undefined) return network;
  try {
    await admin.init(options.network ?? "lab", options.initArgs ?? []);
    await admin.up();
    for (const node of others) {
      const { token } = await admin.invite();
      await node.join(token);
    }
  } catch (error) {
    if (error instanceof Error) error.message += `\n--- all logs\n${network.logs()}`;
    throw error;
  }
  return network;
}
