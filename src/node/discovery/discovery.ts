/**
 * All discovery sources of a node side by side: each in its own cell (source.ts), together the answer to "where am I, and who is near". Own
 * endpoints found outside go to the announcements, neighbours on the LAN to the candidates, and every candidate passes candidateFits().
 *
 *   STUN ─┐                        ┌─► endpoints(): port mapping first, then what STUN servers saw
 *   port mapping ─┼─ cells ────────┤
 *   LAN ─┘                         ├─► judge(): neighbours' LAN endpoints first, then the candidates that fit
 *   peers' observations ─► NAT kind┘
 *
 * A node that listens on loopback alone looks for nothing outside. Interface changes and clock jumps make every source look again.
 */
import { equal } from "../../base/bytes.ts";
import { isIPv4Mapped } from "../../base/endpoint.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import type { Clock } from "../clock.ts";
import type { HostNetwork } from "../underlay.ts";
import { ClockWatch } from "./clock-watch.ts";
import type { LocalAddress } from "./fits.ts";
import { candidateFits, isOnLink, localAddress } from "./fits.ts";
import { readGateway } from "./gateway.ts";
import type { LanInterface } from "./lan-source.ts";
import { LanSource } from "./lan-source.ts";
import type { Mapper, MapperName } from "./mapper.ts";
import { isHardMapping, NatClassifier } from "./nat-kind.ts";
import type { NatReport } from "./nat-kind.ts";
import { NatPmpMapper, PcpMapper } from "./pcp-mapper.ts";
import { PortMappingSource } from "./port-mapping.ts";
import type { SourceReport } from "./source.ts";
import { SourceCell } from "./source.ts";
import { StunSource } from "./stun-source.ts";
import { UpnpMapper } from "./upnp-mapper.ts";

const TICK_MS = 5_000;
const CHANGE_GAP_MS = 200;
const STUN_PERIOD_MS = 300_000;
const STUN_DEADLINE_MS = 9_000;
const MAPPING_PERIOD_MS = 600_000;
const MAPPING_DEADLINE_MS = 15_000;
const LAN_PERIOD_MS = 60_000;
const LAN_DEADLINE_MS = 5_000;
const MAX_CANDIDATES = 8;

export interface DiscoveryOptions {
  /** HOST:PORT of STUN servers, at most 4. */
  readonly stun: readonly string[];
  /** Protocols that may be asked for a port mapping, in this order. */
  readonly portMapping: readonly MapperName[];
  readonly lan: boolean;
  /** SO_MARK of the sockets, 0 = none. */
  readonly mark: number;
}

export interface DiscoveryDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly nodeId: Uint8Array;
  networkId(): Uint8Array | undefined;
  tunName(): string;
  /** From the underlay's own socket. @returns false when that is not possible now */
  sendRaw(to: Uint8Array, datagram: Uint8Array): boolean;
  /** endpoints() or nat() may answer otherwise now; told at most once per CHANGE_GAP_MS. */
  changed(): void;
  /** judge() answers otherwise for these members, which are near; undefined = for all, since this host's addresses changed. */
  judged(near: readonly Uint8Array[] | undefined): void;
  /** Addresses may have changed unnoticed. */
  stale(reason: string): void;
}

export class Discovery {
  readonly natClassifier: NatClassifier = new NatClassifier();
  readonly #deps: DiscoveryDeps;
  readonly #cells: readonly SourceCell[];
  readonly #stun: StunSource | undefined;
  readonly #mapping: PortMappingSource | undefined;
  readonly #lan: LanSource | undefined;
  readonly #watch = new ClockWatch(TICK_MS);
  #local: readonly LocalAddress[] = [];
  #interfaces: readonly LanInterface[] = [];
  #ports = { port4: 0, port6: 0 };
  #cancelTick: (() => void) | undefined;
  #cancelChange: (() => void) | undefined;
  #started = false;
  #closed = false;
  /** Counters of what belongs to no source. */
  readonly counters = { clockJumps: 0, refreshes: 0, candidatesRefused: 0, observations: 0 };

  constructor(deps: DiscoveryDeps, options: DiscoveryOptions) {
    this.#deps = deps;
    const { clock, random } = deps;
    const cell = (source: SourceCell["source"], periodMs: number, deadlineMs: number): SourceCell =>
      new SourceCell(source, { clock, random, changed: () => this.#changed() }, { periodMs, deadlineMs });
    const cells: SourceCell[] = [];
    if (options.stun.length > 0) {
      const send = (to: Uint8Array, datagram: Uint8Array): boolean => deps.sendRaw(to, datagram);
      this.#stun = new StunSource({ clock, random, nat: this.natClassifier, send }, options.stun);
      cells.push(cell(this.#stun, STUN_PERIOD_MS, STUN_DEADLINE_MS));
    }
    if (options.portMapping.length > 0) {
      const make: Readonly<Record<MapperName, () => Mapper>> = {
        pcp: () => new PcpMapper(random, options.mark),
        "nat-pmp": () => new NatPmpMapper(options.mark),
        upnp: () => new UpnpMapper(random, options.mark),
      };
      this.#mapping = new PortMappingSource({
        mappers: options.portMapping.map((name) => make[name]()),
        readGateway: () => readGateway(deps.tunName() === "" ? undefined : deps.tunName()),
        port: () => this.#ports.port4,
      });
      cells.push(cell(this.#mapping, MAPPING_PERIOD_MS, MAPPING_DEADLINE_MS));
    }
    if (options.lan) {
      this.#lan = new LanSource(
        {
          clock,
          random,
          nodeId: deps.nodeId,
          networkId: () => deps.networkId(),
          interfaces: () => this.#interfaces,
          ports: () => this.#ports,
          changed: () => this.#lanChanged(),
        },
        options.mark,
      );
      cells.push(cell(this.#lan, LAN_PERIOD_MS, LAN_DEADLINE_MS));
    }
    this.#cells = cells;
  }

  get hairpin(): boolean | undefined {
    return this.#stun?.hairpin;
  }

  get stunAnswers(): StunSource["lastResults"] {
    return this.#stun?.lastResults ?? [];
  }

  get mappingInUse(): MapperName | undefined {
    return this.#mapping?.inUse;
  }

  get mappingVerdicts(): ReadonlyMap<MapperName, string> {
    return this.#mapping?.verdicts ?? new Map();
  }

  /** Addresses of this host as candidateFits() takes them. */
  get local(): readonly LocalAddress[] {
    return this.#local;
  }

  /** What the interfaces say now; a change makes every source look again. */
  setHost(host: HostNetwork, ports: { readonly port4: number; readonly port6: number }, onLoopback: boolean): void {
    const local: LocalAddress[] = [];
    const byName = new Map<string, { addresses: LocalAddress[]; address4: string | undefined }>();
    for (const { interface: name, address, loopback, prefixBits } of host.addresses) {
      const one = localAddress(address, prefixBits ?? (address.includes(":") ? 64 : 24), loopback);
      if (one === undefined || (loopback && !onLoopback)) continue;
      local.push(one);
      if (loopback) continue;
      const entry = byName.get(name) ?? { addresses: [], address4: undefined };
      entry.addresses.push(one);
      if (!address.includes(":")) entry.address4 ??= address;
      byName.set(name, entry);
    }
    const isSame =
      local.length === this.#local.length && local.every((one, i) => equal(one.address, this.#local[i].address));
    const isSamePorts = ports.port4 === this.#ports.port4 && ports.port6 === this.#ports.port6;
    this.#local = local;
    this.#ports = { port4: ports.port4, port6: ports.port6 };
    this.#interfaces = [...byName].map(([name, entry]) => ({ name, ...entry }));
    this.natClassifier.setLocal(local, [ports.port4, ports.port6]);
    if (!this.#started || (isSame && isSamePorts)) return;
    this.#deps.judged(undefined);
    void this.refresh();
  }

  start(): void {
    if (this.#started || this.#closed) return;
    this.#started = true;
    this.#watch.tick(this.#deps.clock.now());
    this.#tickLater();
    void this.refresh();
  }

  /** Every source looks again. @returns resolves when all have ended, however */
  async refresh(): Promise<void> {
    this.counters.refreshes++;
    await Promise.all(this.#cells.map((cell) => cell.refresh()));
  }

  handleStun(from: Uint8Array, datagram: Uint8Array): void {
    this.#stun?.handleDatagram(from, datagram);
  }

  /** A peer at `to` says that it sees this node as `mapped`. */
  observe(to: Uint8Array, mapped: Uint8Array): void {
    this.counters.observations++;
    this.natClassifier.observe(this.#deps.clock.now().nowMs, to, mapped);
    this.#changed();
  }

  nat(family: 4 | 6): NatReport {
    return this.natClassifier.report(this.#deps.clock.now().nowMs, family);
  }

  /** Own endpoints as found outside, 18 bytes each, best first. */
  endpoints(): Uint8Array[] {
    const out: Uint8Array[] = [];
    for (const name of ["port-mapping", "stun"]) {
      const all = this.#cells.find((cell) => cell.source.name === name)?.endpoints() ?? [];
      // behind a hard NAT what a server saw is good for nobody else, but one shows the address where guessing may begin
      const first = all.find((endpoint) => isIPv4Mapped(endpoint));
      const isHard = name === "stun" && isHardMapping(this.nat(4).mapping);
      const found = isHard ? all.filter((one) => one === first || !isIPv4Mapped(one)) : all;
      for (const endpoint of found) if (!out.some((one) => equal(one, endpoint))) out.push(endpoint);
    }
    return out;
  }

  /** What may be tried of a member's candidates, what is near first. Virtual endpoints are not its business. */
  judge(nodeId: Uint8Array, candidates: readonly Uint8Array[]): Uint8Array[] {
    const near = this.#lan?.peers().find((peer) => equal(peer.nodeId, nodeId))?.endpoints ?? [];
    if (this.#local.length === 0) return [...candidates];
    const ports = [this.#ports.port4, this.#ports.port6];
    const fitting = candidates.filter((endpoint) => candidateFits(endpoint, this.#local, ports));
    this.counters.candidatesRefused += candidates.length - fitting.length;
    const out: Uint8Array[] = [];
    const onLink = fitting.filter((endpoint) => isOnLink(endpoint, this.#local));
    for (const endpoint of [...near, ...onLink, ...fitting]) {
      if (out.length < MAX_CANDIDATES && !out.some((one) => equal(one, endpoint))) out.push(endpoint);
    }
    return out;
  }

  reports(): readonly SourceReport[] {
    return this.#cells.map((cell) => cell.report());
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTick?.();
    this.#cancelChange?.();
    await Promise.all(this.#cells.map((cell) => cell.close()));
  }

  #lanChanged(): void {
    const peers = this.#lan?.peers() ?? [];
    this.#deps.judged(peers.map((peer) => peer.nodeId));
  }

  #changed(): void {
    if (this.#closed) return;
    this.#cancelChange ??= this.#deps.clock.schedule(this.#deps.clock.now().nowMs + CHANGE_GAP_MS, () => {
      this.#cancelChange = undefined;
      this.#deps.changed();
    });
  }

  #tickLater(): void {
    const { clock, log } = this.#deps;
    this.#cancelTick = clock.schedule(clock.now().nowMs + TICK_MS, () => {
      const what = this.#watch.tick(clock.now());
      if (what !== undefined) {
        this.counters.clockJumps++;
        log.info(`${what}; looking around again`);
        this.#deps.stale(what);
        void this.refresh();
      }
      this.#tickLater();
    });
  }
}
