/**
 * Network namespaces from TypeScript: hosts and routers joined by veth pairs, with rate limits, MTUs and NAT.
 *
 *   const lab = await Lab.create();
 *   const [a, b] = [await lab.host("a"), await lab.host("b")];
 *   await lab.link(a, b, { mtuBytes: 1500 });
 *   await a.exec("ping", ["-c1", b.address4]);
 *   await lab.close();
 *
 * Guarantees: namespaces are called weft-PID-N-NAME, where PID is this process; every device lives inside one of them from its first
 * moment, so nothing outside is touched. Undoing runs in reverse order in close(), and at once when the process exits, is interrupted
 * or throws. What a killed run left behind is removed by sweepStale() in the next one. Needs root, `ip` and, for NAT, `nft`.
 */
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { formatAddress, parseAddress } from "../src/base/endpoint.ts";
import { Daemon, LabError, must, run, type DaemonOptions, type RunOptions, type RunResult } from "./process.ts";

const NETNS_FOLDER = "/run/netns";
/** Files of a namespace's own: `ip netns exec` shows them in place of those in /etc. */
const NETNS_ETC = "/etc/netns";
const NAME = /^weft-(\d+)-(\d+)-/;

export interface LinkOptions {
  /** MTU of both ends. @default 1500 */
  readonly mtuBytes?: number;
  /** tbf on both ends, bits per second. */
  readonly rateBps?: number;
  /** Bucket of the tbf, bytes. @default 32_768 */
  readonly burstBytes?: number;
  /** Longest wait in the tbf's queue. @default 50 */
  readonly queueMs?: number;
  /**
   * Where the addresses come from: "private" is 10/8 and fd57::/16, "public" 11/8 and 2a57::/16 (global for every filter), "shared" is
   * 100.127/16 (RFC 6598) and fd57::/16. @default "private"
   */
  readonly range?: "private" | "public" | "shared";
  /** Families that get addresses; the text of the others is empty. @default [4, 6] */
  readonly families?: readonly (4 | 6)[];
}

/** One end of a link: a device inside a host with an IPv4 and an IPv6 address. */
export interface Port {
  readonly device: string;
  readonly address4: string;
  readonly address6: string;
}

/** A veth pair: `a` is the port in the first host, `b` in the second; both share one IPv4 /24 and one IPv6 /64. */
export interface Link {
  readonly a: Port;
  readonly b: Port;
  readonly network4: string;
  readonly network6: string;
}

export interface NatOptions {
  /** nft `fully-random`: a mapping of its own for every destination (the hard kind). @default false: keeps ports where it can */
  readonly random?: boolean;
}

/** One namespace. Made by Lab.host() or Lab.router(). */
export class Host {
  readonly name: string;
  /** Name of the namespace, as `ip netns` knows it. */
  readonly namespace: string;
  /** In the order in which links were made. */
  readonly ports: Port[] = [];

  constructor(name: string, namespace: string) {
    this.name = name;
    this.namespace = namespace;
  }

  /** Folder whose hosts and resolv.conf stand in for those in /etc. */
  get etc(): string {
    return join(NETNS_ETC, this.namespace);
  }

  /** First IPv4 address. */
  get address4(): string {
    return this.#port().address4;
  }

  /** First IPv6 address. */
  get address6(): string {
    return this.#port().address6;
  }

  /** Runs a program inside to its end (see process.ts run()). */
  exec(command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<RunResult> {
    return run("ip", ["netns", "exec", this.namespace, command, ...args], options);
  }

  /** exec() that rejects unless the exit code is 0. @returns stdout */
  must(command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<string> {
    return must("ip", ["netns", "exec", this.namespace, command, ...args], options);
  }

  /** Starts a program inside that keeps running; it ends with the lab at the latest. */
  spawn(
    command: string,
    args: readonly string[] = [],
    options: DaemonOptions & { readonly name?: string } = {},
  ): Daemon {
    const title = options.name ?? `${this.name}:${command.split("/").pop() ?? command}`;
    return new Daemon(title, "ip", ["netns", "exec", this.namespace, command, ...args], options);
  }

  /** `ip ARGS` in this namespace, without entering it. */
  ip(...args: string[]): Promise<string> {
    return must("ip", ["-n", this.namespace, ...args]);
  }

  /** Parsed `ip -j ARGS`. */
  async ipJson(...args: string[]): Promise<Record<string, unknown>[]> {
    const text = await must("ip", ["-n", this.namespace, "-j", ...args]);
    return text.trim() === "" ? [] : (JSON.parse(text) as Record<string, unknown>[]);
  }

  /** Sets kernel parameters, names with dots: {"net.ipv4.ip_forward": 1}. */
  async sysctl(values: Readonly<Record<string, string | number>>): Promise<void> {
    const script = Object.entries(values).map(
      ([name, value]) => `echo '${value}' > /proc/sys/${name.replaceAll(".", "/")}`,
    );
    await this.must("sh", ["-ec", script.join("\n")]);
  }

  /** Loads an nftables ruleset (text for `nft -f -`). */
  async nft(ruleset: string): Promise<void> {
    await this.must("nft", ["-f", "-"], { input: ruleset });
  }

  /** Default routes through addresses on a link of this host, of the families that the link has. */
  async defaultRoute(via: Port): Promise<void> {
    if (via.address4 !== "") await this.ip("route", "replace", "default", "via", via.address4);
    if (via.address6 !== "") await this.ip("-6", "route", "replace", "default", "via", via.address6);
  }

  /** Limits what leaves through `device` (tbf); undefined removes the limit. */
  async limit(
    device: string,
    rate: { readonly rateBps: number; readonly burstBytes?: number; readonly queueMs?: number } | undefined,
  ): Promise<void> {
    if (rate === undefined) {
      await this.exec("tc", ["qdisc", "del", "dev", device, "root"]);
      return;
    }
    const burst = String(rate.burstBytes ?? 32_768);
    await this.must("tc", [
      "qdisc",
      "replace",
      "dev",
      device,
      "root",
      "tbf",
      "rate",
      `${rate.rateBps}bit`,
      "burst",
      burst,
      "latency",
      `${rate.queueMs ?? 50}ms`,
    ]);
  }

  #port(): Port {
    const port = this.ports[0];
    if (port === undefined) throw new LabError("NO_LINK", `host ${this.name} has no link yet`);
    return port;
  }
}

export class Lab {
  /** Folder for state and logs of this lab, removed by close(). */
  readonly folder: string;
  readonly #prefix: string;
  readonly #number: number;
  readonly #undo: (() => Promise<void> | void)[] = [];
  readonly #hosts: Host[] = [];
  #links = 0;
  #closed = false;

  private constructor(number: number) {
    this.#number = number;
    this.#prefix = `weft-${process.pid}-${number}-`;
    this.folder = mkdtempSync(join(tmpdir(), this.#prefix));
  }

  /** Removes what crashed runs left, then makes an empty lab. Rejects with LabError without root or `ip`. */
  static async create(): Promise<Lab> {
    const missing = whyNoNamespaces();
    if (missing !== undefined) throw new LabError("NO_NAMESPACES", missing);
    sweepStale();
    installHooks();
    const lab = new Lab(nextNumber++);
    open.add(lab);
    return lab;
  }

  get hosts(): readonly Host[] {
    return this.#hosts;
  }

  /** A namespace with loopback up and IPv6 privacy, router advertisements and duplicate detection off. */
  async host(name: string): Promise<Host> {
    const host = new Host(name, `${this.#prefix}${name}`);
    await must("ip", ["netns", "add", host.namespace]);
    this.#hosts.push(host);
    this.#undo.push(() => removeNamespace(host.namespace));
    mkdirSync(host.etc, { recursive: true });
    // not the machine's: a daemon may write names into them
    for (const file of ["hosts", "resolv.conf"]) writeFileSync(join(host.etc, file), readFileSync(join("/etc", file)));
    await host.ip("link", "set", "lo", "up");
    await host.sysctl({
      "net.ipv6.conf.all.accept_ra": 0,
      "net.ipv6.conf.default.accept_ra": 0,
      "net.ipv6.conf.default.accept_dad": 0,
      "net.ipv6.conf.all.disable_ipv6": 0,
      "net.ipv4.ping_group_range": "0 2147483647",
    });
    return host;
  }

  /** A host that forwards packets of both families. */
  async router(name: string): Promise<Host> {
    const host = await this.host(name);
    await host.sysctl({
      "net.ipv4.ip_forward": 1,
      "net.ipv6.conf.all.forwarding": 1,
      "net.ipv4.conf.all.rp_filter": 0,
      "net.ipv4.conf.default.rp_filter": 0,
      "net.ipv4.conf.all.send_redirects": 0,
      "net.ipv4.conf.default.send_redirects": 0,
    });
    return host;
  }

  /** Joins two hosts by a veth pair with addresses of its own: 10.x.y.1 and fd57:…::1 for `a`, .2 and ::2 for `b`, or of another range. */
  async link(a: Host, b: Host, options: LinkOptions = {}): Promise<Link> {
    const index = this.#links++;
    // The lab's number and the process id keep the ranges of labs that run side by side apart, which makes their logs readable.
    const second = 64 + ((process.pid + this.#number) % 128);
    const range = options.range ?? "private";
    const families = options.families ?? [4, 6];
    const base4 = range === "shared" ? `100.127.${index}` : `${range === "public" ? 11 : 10}.${second}.${index}`;
    const network4 = `${base4}.0/24`;
    const tag = (process.pid & 0xffff).toString(16);
    const network6 = `${range === "public" ? "2a57" : "fd57"}:${tag}:${this.#number.toString(16)}:${index.toString(16)}::/64`;
    const base6 = network6.slice(0, -"/64".length);
    const port = (host: Host, last: number): Port => ({
      device: `eth${host.ports.length}`,
      address4: families.includes(4) ? `${base4}.${last}` : "",
      address6: families.includes(6) ? canonical(`${base6}${last}`) : "",
    });
    const [first, other] = [port(a, 1), port(b, 2)];
    const mtu = String(options.mtuBytes ?? 1500);
    const veth = ["name", first.device, "mtu", mtu, "type", "veth", "peer", "name", other.device, "mtu", mtu];
    await must("ip", ["-n", a.namespace, "link", "add", ...veth, "netns", b.namespace]);
    for (const [host, end] of [
      [a, first],
      [b, other],
    ] as const) {
      host.ports.push(end);
      if (end.address4 !== "") await host.ip("addr", "add", `${end.address4}/24`, "dev", end.device);
      if (end.address6 !== "") await host.ip("addr", "add", `${end.address6}/64`, "dev", end.device, "nodad");
      await host.ip("link", "set", end.device, "up");
      if (options.rateBps !== undefined) await host.limit(end.device, { ...options, rateBps: options.rateBps });
    }
    return { a: first, b: other, network4, network6 };
  }

  /** Source NAT on `router` for what leaves through `outside`; connections from outside come in only as answers. IPv4 and IPv6. */
  async nat(router: Host, outside: Port, options: NatOptions = {}): Promise<void> {
    const how = options.random === true ? "masquerade fully-random" : "masquerade";
    await router.nft(`
table inet nat {
  chain post { type nat hook postrouting priority srcnat; policy accept; oifname "${outside.device}" ${how}; }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "${outside.device}" ct state new drop;
  }
  # A packet that came too early must leave no trace: its entry would take the port that the answer's mapping wants.
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "${outside.device}" ct state new meta l4proto { tcp, udp } drop;
  }
}
`);
  }

  /** Runs `undo` when the lab is closed, before everything that was made earlier is undone. */
  onClose(undo: () => Promise<void> | void): void {
    this.#undo.push(undo);
  }

  /** Undoes everything in reverse order. Goes on after a failure and rejects with the first one. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    let failure: unknown;
    for (const undo of this.#undo.toReversed()) {
      try {
        await undo();
      } catch (error) {
        failure ??= error;
      }
    }
    open.delete(this);
    rmSync(this.folder, { recursive: true, force: true });
    if (failure !== undefined) throw failure;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** What close() must not leave behind, without waiting: for the end of the process. */
  closeNow(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const host of this.#hosts.toReversed()) removeNamespace(host.namespace);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The one text form of an IPv6 address (RFC 5952), which is how everybody prints it. */
function canonical(text: string): string {
  const bytes = parseAddress(text);
  if (bytes === undefined) throw new LabError("ADDRESS", `${text} is no address`);
  return formatAddress(bytes);
}

const open = new Set<Lab>();
let nextNumber = 0;
let hooksInstalled = false;

/** Why namespaces cannot be made here, in one line with the remedy; undefined when they can. */
export function whyNoNamespaces(): string | undefined {
  if (process.platform !== "linux") return "network namespaces need Linux";
  if (process.getuid?.() !== 0) return "network namespaces need root: run this with sudo";
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  const capabilities = BigInt(`0x${effective}`);
  for (const [bit, name] of [
    [12n, "CAP_NET_ADMIN"],
    [21n, "CAP_SYS_ADMIN"],
  ] as const) {
    if ((capabilities & (1n << bit)) === 0n)
      return `network namespaces need ${name}, which this container does not give to root`;
  }
  if (!existsSync("/dev/net/tun"))
    return "/dev/net/tun is missing: load the tun module, or pass the device to this container";
  try {
    mkdirSync(NETNS_FOLDER, { recursive: true });
    execFileSync("ip", ["netns", "list"], { stdio: "ignore" });
  } catch {
    return "`ip` is missing: apt-get install iproute2";
  }
  return undefined;
}

/**
 * Removes namespaces and folders of labs whose process is gone. Those of living processes, this one's and every other name are left
 * alone. @returns names of the namespaces that were removed
 */
export function sweepStale(): string[] {
  const removed: string[] = [];
  for (const name of existsSync(NETNS_FOLDER) ? readdirSync(NETNS_FOLDER) : []) {
    if (!isStale(name)) continue;
    removeNamespace(name);
    removed.push(name);
  }
  for (const name of existsSync(NETNS_ETC) ? readdirSync(NETNS_ETC) : []) {
    if (isStale(name)) rmSync(join(NETNS_ETC, name), { recursive: true, force: true });
  }
  for (const name of readdirSync(tmpdir())) {
    if (isStale(name)) rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
  return removed;
}

function isStale(name: string): boolean {
  const match = NAME.exec(name);
  return match !== null && !existsSync(`/proc/${match[1]}`);
}

/** Kills what runs inside, then deletes it: a namespace lives as long as a process is in it. */
function removeNamespace(name: string): void {
  rmSync(join(NETNS_ETC, name), { recursive: true, force: true });
  if (!existsSync(join(NETNS_FOLDER, name))) return;
  try {
    const pids = execFileSync("ip", ["netns", "pids", name], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    for (const text of pids.split(/\s+/)) {
      const pid = Number(text);
      if (pid > 1 && pid !== process.pid && !sharesOurNamespace(pid)) {
        try {
          process.kill(pid, "SIGKILL");
        } catch {
          // Gone meanwhile.
        }
      }
    }
  } catch {
    // Deleting below says what is wrong.
  }
  execFileSync("ip", ["netns", "del", name], { stdio: ["ignore", "ignore", "pipe"] });
}

function sharesOurNamespace(pid: number): boolean {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`) === readlinkSync("/proc/self/ns/net");
  } catch {
    return true;
  }
}

function installHooks(): void {
  if (hooksInstalled) return;
  hooksInstalled = true;
  process.on("exit", () => {
    for (const lab of open) {
      try {
        lab.closeNow();
      } catch (error) {
        process.stderr.write(`lab: ${error instanceof Error ? error.message : String(error)}\n`);
      }
    }
  });
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const) {
    // A program with a handler of its own decides itself when to end; the exit hook above still cleans up.
    const leave = (): void => {
      if (process.listenerCount(signal) === 1) process.exit(code);
    };
    process.on(signal, leave);
  }
}
