/**
 * Tells the machine's resolver about the network's names: split DNS where the resolver can do it, a block in /etc/hosts where it cannot; and, while an
 * exit carries everything, that all other names go to this node's own server as well. Every change goes through the journal.
 *
 *   resolved    systemd-resolved answers on this machine: routing domains of the TUN interface
 *   resolvconf  openresolv with a resolver of its own (dnsmasq, unbound, pdnsd): a private entry, exclusive while an exit is used
 *   hosts       otherwise: a block in /etc/hosts; while an exit is used /etc/resolv.conf names this node's server
 *
 * A daemon that may not write the files sets nothing up (off). Upstream names are left alone unless an exit is used. Source: docs/guide.md, "Names".
 */
import { accessSync, constants, existsSync, readFileSync, realpathSync } from "node:fs";
import type { Logger } from "../base/log.ts";
import type { SystemChanges } from "./system-changes.ts";

export const RESOLVER_MODES = ["auto", "resolved", "resolvconf", "hosts", "off"] as const;
export type ResolverMode = (typeof RESOLVER_MODES)[number];

/** Lines of a hosts block; more names are only in DNS. */
const MAX_HOST_LINES = 4096;
/** glibc reads no more name servers than this. */
const MAX_NAMESERVERS = 3;

export interface ResolverFiles {
  readonly hosts: string;
  readonly resolvConf: string;
  readonly resolvconfConf: string;
  /** Exists while systemd-resolved serves. */
  readonly resolvedSocket: string;
}

export const SYSTEM_FILES: ResolverFiles = {
  hosts: "/etc/hosts",
  resolvConf: "/etc/resolv.conf",
  resolvconfConf: "/etc/resolvconf.conf",
  resolvedSocket: "/run/systemd/resolve/io.systemd.Resolve",
};

export interface ResolverPlan {
  /** Addresses of this node's server, IPv4 first; empty when it does not serve. */
  readonly servers: readonly string[];
  /** Zones that it answers for. */
  readonly domains: readonly string[];
  /** [address, name] of every member. */
  readonly hosts: readonly (readonly [string, string])[];
  /** All names go to this node's server. */
  readonly everything: boolean;
}

export interface ResolverDeps {
  readonly changes: SystemChanges;
  readonly log: Logger;
  /** @default SYSTEM_FILES */
  readonly files?: ResolverFiles;
}

export interface ResolverOptions {
  readonly mode: ResolverMode;
  readonly interface: string;
  /** Tells the blocks of several networks apart. */
  readonly tag: string;
}

export class Resolver {
  /** What is used, once apply() has looked. */
  mode: Exclude<ResolverMode, "auto"> = "off";
  readonly #changes: SystemChanges;
  readonly #log: Logger;
  readonly #files: ResolverFiles;
  readonly #options: ResolverOptions;
  #applied = "";

  constructor(deps: ResolverDeps, options: ResolverOptions) {
    this.#changes = deps.changes;
    this.#log = deps.log;
    this.#files = deps.files ?? SYSTEM_FILES;
    this.#options = options;
  }

  /** Brings the machine to `plan`; what is so already is left alone. @throws WeftError */
  async apply(plan: ResolverPlan): Promise<void> {
    const key = JSON.stringify(plan);
    const isIntact =
      !plan.everything || this.mode !== "hosts" || this.#readResolvConf() === resolvConf(plan, this.#options.tag);
    if (key === this.#applied && isIntact) return;
    const mode = this.#options.mode === "auto" ? await this.#detect() : this.#options.mode;
    if (mode !== this.mode) this.#log.info(`names are set up by ${mode === "off" ? "nothing" : mode}`);
    this.mode = mode;
    if (mode === "resolved" && plan.servers.length > 0) await this.#applyResolved(plan);
    else if (mode === "resolvconf" && plan.servers.length > 0) await this.#applyResolvconf(plan);
    else if (mode !== "off") await this.#applyFiles(plan);
    this.#applied = key;
  }

  /** Undoes everything. */
  async clear(): Promise<void> {
    this.#applied = "";
    await this.#changes.undo(
      ({ kind }) => kind === "file" || kind === "block" || kind === "resolved" || kind === "resolvconf",
    );
  }

  async #applyResolved(plan: ResolverPlan): Promise<void> {
    const name = this.#options.interface;
    const domains = plan.everything ? ["~."] : plan.domains.map((domain) => `~${domain}`);
    await this.#changes.resolved(name, [
      ["dns", name, ...plan.servers],
      ["domain", name, ...domains],
      ["default-route", name, plan.everything ? "yes" : "no"],
    ]);
  }

  async #applyResolvconf(plan: ResolverPlan): Promise<void> {
    const lines = plan.servers.map((server) => `nameserver ${server}`);
    // openresolv splits by the search list, which programs see too: `domain` would replace the machine's own, reverse zones make no sense there
    if (!plan.everything) lines.push(`search ${plan.domains[0]}`);
    await this.#changes.resolvconf(
      `${this.#options.interface}.weft`,
      [plan.everything ? "-x" : "-p"],
      `${lines.join("\n")}\n`,
    );
  }

  async #applyFiles(plan: ResolverPlan): Promise<void> {
    const { tag } = this.#options;
    const lines = plan.hosts.slice(0, MAX_HOST_LINES).map(([address, name]) => `${address} ${name}`);
    // a machine without the file has nothing that reads it
    if (existsSync(this.#files.hosts))
      await this.#changes.block(
        this.#files.hosts,
        `# weft ${tag} begin: written by the daemon, removed when it stops`,
        `# weft ${tag} end`,
        lines,
      );
    if (plan.everything && plan.servers.length > 0) {
      await this.#changes.file(this.#files.resolvConf, Buffer.from(resolvConf(plan, tag)));
    } else {
      await this.#changes.undo((change) => change.kind === "file" && change.path === this.#files.resolvConf);
    }
  }

  #readResolvConf(): string {
    try {
      return readFileSync(this.#files.resolvConf, "utf8");
    } catch {
      return "";
    }
  }

  async #detect(): Promise<Exclude<ResolverMode, "auto">> {
    const { resolvedSocket, resolvConf: file, resolvconfConf } = this.#files;
    if (existsSync(resolvedSocket) && usesResolved(file)) {
      if (await this.#works("resolvectl", ["status", this.#options.interface])) return "resolved";
    }
    if (
      existsSync(resolvconfConf) &&
      /^\s*(?:dnsmasq|unbound|pdnsd|pdns|named)_/m.test(readFileSync(resolvconfConf, "utf8"))
    ) {
      if (await this.#works("resolvconf", ["--version"])) return "resolvconf";
    }
    return mayWrite(this.#files.hosts) ? "hosts" : "off";
  }

  async #works(program: string, args: readonly string[]): Promise<boolean> {
    try {
      await this.#changes.run(program, args);
      return true;
    } catch {
      return false;
    }
  }
}

function mayWrite(file: string): boolean {
  try {
    accessSync(file, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** True when programs that read the file end at systemd-resolved. */
function usesResolved(file: string): boolean {
  try {
    return (
      realpathSync(file).startsWith("/run/systemd/resolve/") ||
      /^\s*nameserver\s+127\.0\.0\.5[34]\b/m.test(readFileSync(file, "utf8"))
    );
  } catch {
    return false;
  }
}

function resolvConf(plan: ResolverPlan, tag: string): string {
  const servers = plan.servers.slice(0, MAX_NAMESERVERS).map((server) => `nameserver ${server}\n`);
  return `# weft ${tag}: names go through the exit; the daemon puts back what was here\n${servers.join("")}options edns0\n`;
}

/** Name servers of this machine itself, for an exit that answers for others; loopback ones and `without` are left out. */
export function upstreamServers(without: readonly string[], files: ResolverFiles = SYSTEM_FILES): string[] {
  for (const file of ["/run/systemd/resolve/resolv.conf", files.resolvConf]) {
    try {
      const found = [...readFileSync(file, "utf8").matchAll(/^\s*nameserver\s+(\S+)/gm)].map((match) => match[1] ?? "");
      const usable = found.filter((server) => !without.includes(server) && !server.includes("%"));
      if (usable.length > 0) return usable.slice(0, MAX_NAMESERVERS);
    } catch {
      // the next one
    }
  }
  return [];
}
