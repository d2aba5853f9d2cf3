/**
 * Names, subnet routes and exits of a node with an interface: what members offer and admins approve becomes tables of the data plane (at once) and a
 * plan for the machine (host-machine.ts, which follows). The machine's own changes are journaled and undone by stop(). This is the front: what a person
 * sees and asks for; host-follow.ts does what follows from it:
 *
 *   roster, endpoint messages, settings ──► refresh() ──► chooser ──► data plane's routes, own prefixes
 *   path figures every TICK_MS ─────────────────────────► chooser ──┘   └──► MachinePlan, DNS zone, forwarders
 *
 * What a person has set is kept in the store and survives a restart; weft.toml adds to it. Source: docs/protocol.md, "Subnet routes and exits".
 */
import type {
  DnsView,
  ExitRequest,
  ExitView,
  HostControl,
  NodeRef,
  RepairItem,
  RoutesView,
  RouteView,
} from "../api/host-control.ts";
import type { HealthItem, MetricSample } from "../api/control.ts";
import { equal, toHex } from "../base/bytes.ts";
import { parseAddress } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { formatNodeId } from "../crypto/node-id.ts";
import { containsPrefix, formatRoutePrefix, parseRoutePrefix } from "../mesh/route-prefix.ts";
import type { RoutePrefix } from "../mesh/route-prefix.ts";
import type { Member } from "../mesh/types.ts";
import type { Clock } from "./clock.ts";
import { DnsServer } from "./dns-server.ts";
import { HostFollow, type HostFollowOptions } from "./host-follow.ts";
import { HostMachine } from "./host-machine.ts";
import { DEFAULT4, DEFAULT6, HostOffers, isTooWide, MAX_OWN_PREFIXES, MIN_BITS4, MIN_BITS6 } from "./host-offers.ts";
import type { HostSettings } from "./host-settings.ts";
import { Resolver } from "./resolver.ts";
import type { ResolverMode } from "./resolver.ts";
import type { NodeRuntime } from "./runtime.ts";
import { RouteChooser } from "./subnet-routes.ts";
import { describeChange } from "./system-changes.ts";
import type { SystemChanges } from "./system-changes.ts";

export interface HostControlDeps {
  readonly runtime: NodeRuntime;
  readonly changes: SystemChanges;
  readonly clock: Clock;
  readonly log: Logger;
  readonly random: Random;
  /** 32 bytes: this node. */
  readonly nodeId: Uint8Array;
  /** As a person left them. */
  readonly settings: HostSettings;
  /** Keeps the settings. */
  save(settings: HostSettings): Promise<void>;
}

export interface HostControlOptions extends HostFollowOptions {
  /** From weft.toml, canonical. */
  readonly announce: readonly string[];
  readonly resolverMode: ResolverMode;
}

export class HostRouting implements HostControl {
  readonly #deps: HostControlDeps;
  readonly #options: HostControlOptions;
  readonly #log: Logger;
  readonly #offers: HostOffers;
  readonly #chooser = new RouteChooser();
  readonly #dns: DnsServer;
  readonly #resolver: Resolver;
  readonly #machine: HostMachine;
  readonly #follow: HostFollow;
  #settings: HostSettings;
  #dnsProblems: string[] = [];
  #isStopped = false;

  constructor(deps: HostControlDeps, options: HostControlOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#log = deps.log;
    this.#settings = deps.settings;
    this.#offers = new HostOffers(deps.runtime.mesh, deps.nodeId, options.announce, () => this.#settings);
    this.#dns = new DnsServer({
      log: deps.log,
      random: deps.random,
      isAllowed: (address) => this.#isOverlay(address),
    });
    this.#resolver = new Resolver(
      { changes: deps.changes, log: deps.log },
      { mode: options.resolverMode, interface: options.interface, tag: options.tag },
    );
    this.#machine = new HostMachine({ changes: deps.changes, resolver: this.#resolver, log: deps.log }, options);
    this.#follow = new HostFollow(
      {
        runtime: deps.runtime,
        clock: deps.clock,
        log: deps.log,
        offers: this.#offers,
        chooser: this.#chooser,
        dns: this.#dns,
        machine: this.#machine,
        settings: () => this.#settings,
      },
      options,
    );
  }

  /** Resolves when the machine is set up as far as is known now. */
  async start(): Promise<void> {
    for (const address of [this.#options.source4, this.#options.source6]) {
      const problem = await this.#dns.listen(address);
      if (problem === undefined) continue;
      this.#dnsProblems.push(problem);
      this.#log.warn(`no DNS on ${address}: ${problem}`);
    }
    await this.#follow.start();
  }

  /** Undoes every change to the machine. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#follow.stop();
    this.#dns.close();
    await this.#machine.close();
    await this.#deps.changes.undo();
  }

  /** The roster, an endpoint message, a path or the machine's own network has changed; such events come in bursts. */
  changed(): void {
    this.#follow.changed();
  }

  // ── what a person sees and asks for ──────────────────────────────────────────────────────────────────────────────────

  routes(): RoutesView {
    const { mesh } = this.#deps.runtime;
    const served = new Set(this.#offers.served().map(formatRoutePrefix));
    const views = new Map<string, RouteView>();
    const approved = mesh.approvedRoutes();
    const add = (prefix: string, member: Member): void => {
      const node = toHex(member.nodeId);
      views.set(`${prefix} ${node}`, {
        prefix,
        node: refOf(member),
        announced: this.#offers.announces(member, prefix),
        approved: approved.some((route) => route.prefix === prefix && equal(route.nodeId, member.nodeId)),
        active: this.#chooser.chosen.get(prefix) === node,
        health: this.#chooser.health(node),
      });
    };
    for (const member of this.#offers.others()) {
      for (const prefix of mesh.offers(member.nodeId).prefixes) add(formatRoutePrefix(prefix), member);
    }
    for (const route of approved) {
      const member = mesh.memberById(route.nodeId);
      if (member !== undefined && !this.#offers.isSelf(member)) add(route.prefix, member);
    }
    return {
      own: this.#offers.announced().map((prefix) => ({
        prefix,
        approved: this.#offers.isApproved(this.#deps.nodeId, prefix),
        serving: served.has(prefix) && this.#machine.isServing,
      })),
      routes: [...views.values()].toSorted((a, b) =>
        a.prefix === b.prefix ? (a.node.name < b.node.name ? -1 : 1) : a.prefix < b.prefix ? -1 : 1,
      ),
      accept: this.#settings.acceptRoutes,
      failovers: this.#chooser.failovers,
    };
  }

  async announce(prefix: string, on: boolean): Promise<RoutesView> {
    const parsed = parseRoutePrefix(prefix);
    if (parsed === undefined)
      throw new WeftError(
        "ROUTE_INVALID",
        `"${prefix}" is no prefix`,
        "write it like 10.20.0.0/24 or fd12::/64, with zeros behind the prefix",
      );
    if (parsed.bits === 0)
      throw new WeftError("ROUTE_INVALID", `"${prefix}" is everything`, "to offer an exit: weft exit offer");
    const text = formatRoutePrefix(parsed);
    if (on && isTooWide(parsed))
      throw new WeftError(
        "ROUTE_INVALID",
        `${text} is too much of all addresses: others accept /${MIN_BITS4} or longer for IPv4, /${MIN_BITS6} or longer for IPv6`,
        "announce longer prefixes, or offer everything: weft exit offer",
      );
    this.#requireOutsideOverlay(parsed, text);
    const others = this.#settings.announce.filter((one) => one !== text);
    if (on && others.length + this.#options.announce.length >= MAX_OWN_PREFIXES)
      throw new WeftError(
        "ROUTE_LIMIT",
        `this node announces ${MAX_OWN_PREFIXES} prefixes already`,
        "take one back: weft routes withdraw PREFIX",
      );
    if (!on && this.#options.announce.includes(text))
      throw new WeftError(
        "ROUTE_CONFIGURED",
        `${text} is announced by weft.toml`,
        "remove it from `routes` there and restart",
      );
    await this.#set({ announce: on ? [...others, text] : others });
    return this.routes();
  }

  async approve(node: string, prefix: string, approved: boolean): Promise<NodeRef> {
    return refOf(await this.#deps.runtime.operate((mesh, now) => mesh.approveRoute(now, node, prefix, approved)));
  }

  async acceptRoutes(on: boolean): Promise<RoutesView> {
    await this.#set({ acceptRoutes: on });
    return this.routes();
  }

  exit(): ExitView {
    const { runtime } = this.#deps;
    const active = this.#follow.activeExit();
    return {
      using: this.#settings.exit?.nodes ?? null,
      active: active === undefined ? null : refOf(active),
      allowLan: this.#settings.exit?.allowLan === true,
      guard: this.#machine.isGuarded,
      offering: this.#settings.offerExit,
      approved:
        this.#offers.isApproved(this.#deps.nodeId, DEFAULT4) || this.#offers.isApproved(this.#deps.nodeId, DEFAULT6),
      candidates: this.#offers.exits(this.#settings.exit?.nodes ?? []).map((member) => {
        const peer = runtime.peers.byKey(member.staticKey);
        const rttMs = peer === undefined ? -1 : (runtime.plane?.peerFigures(peer.slot).rttMs ?? -1);
        return {
          node: refOf(member),
          online: peer !== undefined && runtime.isOnline(peer),
          rttMs: rttMs < 0 ? null : rttMs,
          active: member === active,
        };
      }),
    };
  }

  async useExit(request: ExitRequest | undefined): Promise<ExitView> {
    if (request === undefined) {
      await this.#set({ exit: undefined });
      return this.exit();
    }
    if (this.#settings.offerExit)
      throw new WeftError("EXIT_CONFLICT", "this node offers an exit itself", "first: weft exit withdraw");
    if (this.#options.mark === 0)
      throw new WeftError(
        "EXIT_UNMARKED",
        "an exit needs marked underlay packets, and weft.toml has mark = 0",
        "remove `mark` from weft.toml",
      );
    const nodes = request.nodes.map((query) => {
      const member = this.#deps.runtime.mesh.find(query);
      if (member === undefined)
        throw new WeftError("NODE_UNKNOWN", `no member is called "${query}"`, "weft members lists them");
      if (!this.#offers.exits([]).includes(member))
        throw new WeftError(
          "EXIT_UNKNOWN",
          `${member.name} offers no approved exit`,
          "there: weft exit offer; on an admin: weft routes approve NODE 0.0.0.0/0",
        );
      return formatNodeId(member.nodeId);
    });
    const before = this.#settings.exit;
    await this.#set({ exit: { nodes, allowLan: request.allowLan === true } });
    const problem = this.#machine.problems[0];
    if (!this.#machine.isGuarded && problem !== undefined) {
      await this.#set({ exit: before });
      throw new WeftError(
        "EXIT_FAILED",
        `the leak guard is not closed: ${problem}`,
        "install nftables and try again; nothing was changed",
      );
    }
    return this.exit();
  }

  async offerExit(on: boolean): Promise<ExitView> {
    if (on && this.#settings.exit !== undefined)
      throw new WeftError("EXIT_CONFLICT", "this node uses an exit itself", "first: weft exit off");
    await this.#set({ offerExit: on });
    return this.exit();
  }

  dns(): DnsView {
    const { mesh } = this.#deps.runtime;
    return {
      domain: this.#follow.domain,
      servers: [...this.#dns.serving],
      problems: [...this.#dnsProblems],
      mode: this.#resolver.mode,
      forwarders: this.#follow.forwarders,
      names: mesh
        .members()
        .map((member) => ({ name: `${member.name}.${this.#follow.domain}`, addresses: [member.ipv4, member.ipv6] })),
      counters: { ...this.#dns.counters },
    };
  }

  async repair(): Promise<readonly RepairItem[]> {
    const results = await this.#machine.undoBy(async () => {
      // the guard stays closed while an exit is wanted: it is replaced in one transaction below
      const undone = await this.#deps.changes.undo(
        (change) => !(change.kind === "nft" && change.guard && this.#settings.exit !== undefined),
      );
      await this.#resolver.clear();
      return undone;
    });
    await this.#follow.refresh();
    return results.map(({ outcome, change, text }) => ({
      outcome,
      text: outcome === "failed" ? text : describeChange(change),
    }));
  }

  health(): HealthItem[] {
    const isNeeded = this.#settings.exit !== undefined || this.#offers.served().length > 0;
    const items: HealthItem[] = this.#machine.problems.map((text) => ({
      code: "host-setup",
      severity: isNeeded ? "error" : "warning",
      text,
      remedy: "correct that, then run `weft repair`",
    }));
    if (this.#machine.doorProblem !== undefined) {
      items.push({
        code: "host-door",
        severity: "warning",
        text: `neighbours on a link could send under members' addresses: ${this.#machine.doorProblem}`,
        remedy: "install nftables, then run `weft repair`",
      });
    }
    for (const own of this.routes().own) {
      if (own.approved) continue;
      items.push({
        code: "route-unapproved",
        severity: "info",
        text: `${own.prefix} is announced and waits for an admin`,
        remedy: "on an admin: weft routes approve NODE PREFIX",
      });
    }
    if (this.#settings.exit !== undefined && this.#resolver.mode === "off") {
      items.push({
        code: "exit-names",
        severity: "warning",
        text: "the machine's resolver was not changed, so names go to its old servers (through the exit where they can be reached so)",
        remedy: "run the daemon as root, or let the machine's resolver ask this node's own address: weft dns",
      });
    }
    if (this.#settings.exit !== undefined && this.#follow.activeExit() === undefined) {
      items.push({
        code: "exit-missing",
        severity: "error",
        text: "no exit can be reached; the leak guard keeps everything else in",
        remedy: "start an exit, choose another one, or open up with `weft exit off`",
      });
    }
    return items;
  }

  metrics(): MetricSample[] {
    const sample = (name: string, help: string, value: number, labels: Record<string, string> = {}): MetricSample => ({
      name,
      type: name.endsWith("_total") ? "counter" : "gauge",
      help,
      labels,
      value,
    });
    return [
      ...Object.entries(this.#dns.counters).map(([what, value]) =>
        sample("weft_dns_events_total", "Questions to this node's DNS server and what became of them.", value, {
          what,
        }),
      ),
      sample(
        "weft_route_takeovers_total",
        "Prefixes that went from one router to another one.",
        this.#chooser.failovers,
      ),
      sample("weft_routes", "Prefixes behind other members that this node uses.", this.#chooser.chosen.size),
      sample("weft_leak_guard", "1 while the leak guard is closed.", this.#machine.isGuarded ? 1 : 0),
    ];
  }

  async #set(change: Partial<HostSettings>): Promise<void> {
    this.#settings = { ...this.#settings, ...change };
    await this.#deps.save(this.#settings);
    await this.#follow.refresh();
  }

  #requireOutsideOverlay(prefix: RoutePrefix, text: string): void {
    for (const overlay of [this.#options.overlay4, this.#options.overlay6]) {
      const own = parseRoutePrefix(overlay);
      if (own === undefined || !(containsPrefix(own, prefix) || containsPrefix(prefix, own))) continue;
      throw new WeftError(
        "ROUTE_OVERLAY",
        `${text} overlaps the network's own ${overlay}`,
        "announce a prefix outside of it",
      );
    }
  }

  #isOverlay(address: string): boolean {
    const bytes = parseAddress(address);
    if (bytes === undefined) return false;
    const isIpv4 = !address.includes(":");
    const own = parseRoutePrefix(isIpv4 ? this.#options.overlay4 : this.#options.overlay6);
    if (own === undefined) return false;
    return containsPrefix(
      own,
      isIpv4 ? { family: 4, address: bytes.subarray(12), bits: 32 } : { family: 6, address: bytes, bits: 128 },
    );
  }
}

function refOf(member: Member): NodeRef {
  return { id: formatNodeId(member.nodeId), name: member.name };
}
