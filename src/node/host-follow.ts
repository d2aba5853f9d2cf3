/**
 * What follows from offers, approvals, settings and path figures: which router serves which prefix (subnet-routes.ts), the data plane's tables, names and
 * forwarders of the DNS server, and the plan for the machine. host-control.ts is the front.
 */
import { toHex } from "../base/bytes.ts";
import { endpointFromBytes, virtualOf } from "../base/endpoint.ts";
import type { Logger } from "../base/log.ts";
import type { RouteEntry } from "../dataplane/messages.ts";
import { Zone } from "../mesh/dns/zone.ts";
import type { OfferedService } from "../mesh/offers.ts";
import { parseRoutePrefix, type RoutePrefix } from "../mesh/route-prefix.ts";
import type { Member } from "../mesh/types.ts";
import type { Clock } from "./clock.ts";
import type { DnsServer } from "./dns-server.ts";
import type { HostMachine, MachineOptions, MachinePlan } from "./host-machine.ts";
import { DEFAULT4, DEFAULT6, type HostOffers } from "./host-offers.ts";
import type { HostSettings } from "./host-settings.ts";
import { overlayMtu } from "./interface.ts";
import type { PeerRecord } from "./peer-table.ts";
import { upstreamServers } from "./resolver.ts";
import type { NodeRuntime } from "./runtime.ts";
import type { RouteChooser, RouterFigures } from "./subnet-routes.ts";

/** Figures are looked at this often while a router has a spare, else every IDLE_TICK_MS. */
const TICK_MS = 100;
const IDLE_TICK_MS = 1_000;
const SETTLE_MS = 50;
/** A spare is kept ready, a failed one is asked whether it is back. */
const SPARE_PING_MS = 20_000;
const FAILED_PING_MS = 1_000;
const PING_TIMEOUT_MS = 2_000;
const MAX_FORWARDERS = 4;

export interface HostFollowDeps {
  readonly runtime: NodeRuntime;
  readonly clock: Clock;
  readonly log: Logger;
  readonly offers: HostOffers;
  readonly chooser: RouteChooser;
  readonly dns: DnsServer;
  readonly machine: HostMachine;
  settings(): HostSettings;
}

export interface HostFollowOptions extends MachineOptions {
  /** Overlay MTU where no path says otherwise, bytes. */
  readonly prefixMtuBytes: number;
  readonly services: readonly OfferedService[];
}

export class HostFollow {
  readonly #deps: HostFollowDeps;
  readonly #options: HostFollowOptions;
  readonly #lastPingMs = new Map<string, number>();
  #forwarders: readonly string[] = [];
  #zoneKey = "";
  #zoneSerial = 1;
  #tablesKey = "";
  #cancelTick: (() => void) | undefined;
  #cancelRefresh: (() => void) | undefined;
  #isStopped = false;

  constructor(deps: HostFollowDeps, options: HostFollowOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** Whom the DNS server asks for names outside of the network. */
  get forwarders(): readonly string[] {
    return this.#forwarders;
  }

  /** "NETWORK.weft" */
  get domain(): string {
    return `${this.#deps.runtime.mesh.networkName ?? ""}.weft`;
  }

  /** Resolves when the machine is set up as far as is known now. */
  async start(): Promise<void> {
    await this.refresh();
    this.#tick();
  }

  stop(): void {
    this.#isStopped = true;
    this.#cancelTick?.();
    this.#cancelRefresh?.();
  }

  /** See HostRouting.changed. */
  changed(): void {
    if (this.#isStopped || this.#cancelRefresh !== undefined) return;
    const { clock } = this.#deps;
    this.#cancelRefresh = clock.schedule(clock.now().nowMs + SETTLE_MS, () => {
      this.#cancelRefresh = undefined;
      void this.refresh();
    });
  }

  /** Looks at everything anew. Resolves when the machine has followed. */
  refresh(): Promise<void> {
    if (this.#isStopped) return Promise.resolve();
    const { runtime, clock } = this.#deps;
    this.#deps.chooser.setOffers(this.#deps.offers.usable());
    this.#observe();
    this.#pushTables();
    this.#pushZone();
    this.#pushForwarders();
    const prefixes = this.#deps.offers.announced().map((text) => parseRoutePrefix(text) as RoutePrefix);
    void runtime
      .operate((mesh) => mesh.setOwnOffers(clock.now(), { prefixes, services: this.#options.services }))
      .catch((error: Error) => this.#deps.log.warn(`offers: ${error.message}`));
    return this.#deps.machine.apply(this.#plan());
  }

  #tick(): void {
    if (this.#isStopped) return;
    const { clock } = this.#deps;
    if (this.#observe()) {
      this.#pushTables();
      this.#pushForwarders();
      void this.#deps.machine.apply(this.#plan());
    }
    const spares = this.#deps.chooser.spares();
    for (const { node, health } of spares) this.#keepReady(node, health === "bad" ? FAILED_PING_MS : SPARE_PING_MS);
    const afterMs = spares.length > 0 ? TICK_MS : IDLE_TICK_MS;
    this.#cancelTick = clock.schedule(clock.now().nowMs + afterMs, () => this.#tick());
  }

  #observe(): boolean {
    const { clock } = this.#deps;
    const before = new Map(this.#deps.chooser.chosen);
    const isChanged = this.#deps.chooser.observe(clock.now().nowMs, (node) => this.#figures(node));
    for (const [prefix, node] of this.#deps.chooser.chosen) {
      const old = before.get(prefix);
      if (old !== undefined && old !== node)
        this.#deps.log.info(`${prefix} goes through ${this.#nameOf(node)} now, not ${this.#nameOf(old)}`);
    }
    return isChanged;
  }

  #figures(node: string): RouterFigures | undefined {
    const { runtime } = this.#deps;
    const peer = this.#peerOf(node);
    const figures = peer === undefined ? undefined : runtime.plane?.peerFigures(peer.slot);
    if (peer === undefined || figures === undefined) return undefined;
    const pathRank = peer.endpoint === undefined ? 3 : (virtualOf(peer.endpoint)?.pathKind ?? 0);
    return {
      established: figures.established,
      gone: peer.stopping || peer.silent,
      pathRank,
      rttMs: figures.rttMs,
      txPackets: figures.txPackets,
      queuedPackets: figures.queuedPackets,
      lastDeliveryMs: figures.lastDeliveryMs,
    };
  }

  #keepReady(node: string, everyMs: number): void {
    const { runtime, clock } = this.#deps;
    const { nowMs } = clock.now();
    if (nowMs - (this.#lastPingMs.get(node) ?? -Infinity) < everyMs) return;
    this.#lastPingMs.set(node, nowMs);
    const peer = this.#peerOf(node);
    if (peer !== undefined) void runtime.ping(peer, PING_TIMEOUT_MS).catch(() => undefined);
  }

  /** Routes and own prefixes of the data plane. */
  #pushTables(): void {
    const { runtime } = this.#deps;
    const routes: RouteEntry[] = [];
    for (const [text, node] of this.#deps.chooser.chosen) {
      const prefix = parseRoutePrefix(text);
      const peer = this.#peerOf(node);
      if (prefix !== undefined && peer !== undefined) routes.push({ ...entryOf(prefix), peer: peer.slot });
    }
    const local = this.#deps.offers.served().map(entryOf);
    const key = JSON.stringify([routes, local], (_, value: unknown) =>
      value instanceof Uint8Array ? toHex(value) : value,
    );
    if (key === this.#tablesKey) return;
    this.#tablesKey = key;
    runtime.setExtraTables(routes, local);
  }

  #pushZone(): void {
    const { mesh } = this.#deps.runtime;
    const members = mesh.members();
    const hosts = members.map(({ name, ipv4, ipv6 }) => ({ name, ipv4, ipv6 }));
    const services = members.flatMap((member) =>
      mesh.offers(member.nodeId).services.map(({ label, port }) => ({ label, port, host: member.name })),
    );
    const key = JSON.stringify([hosts, services]);
    if (key === this.#zoneKey) return;
    this.#zoneKey = key;
    this.#deps.dns.setZone(
      new Zone({
        network: mesh.networkName ?? "",
        ipv4Prefix: this.#options.overlay4,
        ipv6Prefix: this.#options.overlay6,
        hosts,
        services,
        serial: this.#zoneSerial++,
      }),
    );
  }

  /** Who uses an exit asks it; who is one asks the machine's own servers for its guests. */
  #pushForwarders(): void {
    let servers: string[] = [];
    if (this.#deps.settings().exit !== undefined) {
      const active = this.activeExit();
      const exits = this.#deps.offers.exits(this.#deps.settings().exit?.nodes ?? []);
      servers = [active, ...exits.filter((member) => member !== active)].flatMap((member) =>
        member === undefined ? [] : [member.ipv4],
      );
      // without one, questions wait for an answer that does not come rather than go elsewhere
    } else if (this.#deps.offers.served().some(({ bits }) => bits === 0)) {
      servers = upstreamServers([this.#options.source4, this.#options.source6]);
    }
    this.#forwarders = servers.slice(0, MAX_FORWARDERS);
    this.#deps.dns.setForwarders(this.#forwarders);
  }

  #plan(): MachinePlan {
    const { exit } = this.#deps.settings();
    const { mesh } = this.#deps.runtime;
    const prefixes = new Map<string, number>();
    for (const [prefix, node] of this.#deps.chooser.chosen) prefixes.set(prefix, this.#mtuOf(node));
    if (exit !== undefined) {
      // with no exit in reach the routes stay: the data plane refuses the packets, and nothing leaves another way
      for (const text of [DEFAULT4, DEFAULT6])
        if (!prefixes.has(text)) prefixes.set(text, this.#options.prefixMtuBytes);
    }
    const zone = this.domain;
    const reverse = new Zone({
      network: mesh.networkName ?? "",
      ipv4Prefix: this.#options.overlay4,
      ipv6Prefix: this.#options.overlay6,
      hosts: [],
      services: [],
      serial: 0,
    }).reverseDomains;
    return {
      prefixes,
      exit: exit === undefined ? undefined : { allowLan: exit.allowLan },
      served: this.#deps.offers.served(),
      resolver: {
        servers: this.#deps.dns.serving,
        domains: [zone, ...reverse],
        hosts: mesh
          .members()
          .flatMap(({ name, ipv4, ipv6 }) => [[ipv4, `${name}.${zone}`] as const, [ipv6, `${name}.${zone}`] as const]),
        everything: exit !== undefined,
      },
    };
  }

  /** The exit that traffic goes through now. */
  activeExit(): Member | undefined {
    const node = this.#deps.chooser.chosen.get(DEFAULT4) ?? this.#deps.chooser.chosen.get(DEFAULT6);
    return node === undefined ? undefined : this.#deps.runtime.mesh.memberById(fromHexText(node));
  }

  #mtuOf(node: string): number {
    const peer = this.#peerOf(node);
    if (peer?.endpoint === undefined || peer.pathMtuBytes === 0) return this.#options.prefixMtuBytes;
    const family = endpointFromBytes(peer.endpoint).address.includes(":") ? 6 : 4;
    return Math.min(this.#options.prefixMtuBytes, overlayMtu(peer.pathMtuBytes, family));
  }

  #nameOf(node: string): string {
    return this.#deps.runtime.mesh.memberById(fromHexText(node))?.name ?? node.slice(0, 8);
  }

  /** @param node id in hex */
  #peerOf(node: string): PeerRecord | undefined {
    const { mesh, peers } = this.#deps.runtime;
    const member = mesh.memberById(fromHexText(node));
    return member === undefined ? undefined : peers.byKey(member.staticKey);
  }
}

function entryOf(prefix: RoutePrefix): { readonly prefix: Uint8Array; readonly prefixBits: number } {
  if (prefix.family === 6) return { prefix: prefix.address, prefixBits: prefix.bits };
  const mapped = new Uint8Array(16);
  mapped[10] = 0xff;
  mapped[11] = 0xff;
  mapped.set(prefix.address, 12);
  return { prefix: mapped, prefixBits: 96 + prefix.bits };
}

function fromHexText(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "hex"));
}
