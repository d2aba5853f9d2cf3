/**
 * Prefixes behind members: which router carries each of them now, and what the kernel must know for it.
 *
 * A member is a candidate for a prefix when it announces it and an admin has approved it. Of several the one in use stays until it fails; failure is
 * judged by delivery: packets went out, and nothing authenticated has come back for FAIL_MS (or three round trips). Then the best
 * healthy one takes over: direct over relayed, lower round trip, lower id. Time and figures are arguments; nothing here waits.
 *
 * Kernel routes live in a table of their own behind a policy rule that marked packets (the underlay) never meet, so no prefix can swallow the
 * tunnel; networks this machine is itself connected to, or routes more exactly, are thrown back to the main table.
 * Source: docs/protocol.md, "Subnet routes and exits".
 */
import { containsPrefix, formatRoutePrefix, parseRoutePrefix } from "../mesh/route-prefix.ts";
import type { RoutePrefix } from "../mesh/route-prefix.ts";

const FAIL_MS = 400;
const FAIL_EXTRA_MS = 100;
const FAIL_ROUND_TRIPS = 3;
const FLOOR_GROWTH = 1.01;
/** A first session may take this long. */
const CONNECT_FAIL_MS = 700;
/** Prefixes of all members together. */
const MAX_PREFIXES = 1024;
const MIN_IPV6_MTU_BYTES = 1280;
const RULE_PREFERENCE = 9338;
const UNREACHABLE_METRIC = 9999;
/** What clouds answer with a machine's secrets, to that machine alone, besides link-local addresses. */
const METADATA4 = ["168.63.129.16", "192.0.0.192"];
/** Such a service as well, but of the range that networks choose their addresses from. */
const SHARED_METADATA4 = "100.100.100.200";
const METADATA6 = ["fd00:ec2::254", "fd20:ce::254"];

/** What the data plane and the session layer know of a router at one moment. */
export interface RouterFigures {
  readonly established: boolean;
  /** The plane found it silent, or it said good-bye. */
  readonly gone: boolean;
  /** 0 direct, 1 relay, 2 transit, 3 none */
  readonly pathRank: number;
  /** −1 = unknown */
  readonly rttMs: number;
  /** User packets sent to it; only grows while a session lives. */
  readonly txPackets: number;
  readonly queuedPackets: number;
  /** Since the last authenticated packet from it; −1 = never. */
  readonly lastDeliveryMs: number;
}

export interface RouteOffer {
  /** Canonical text, for example "10.20.0.0/24". */
  readonly prefix: string;
  /** Node id in hexadecimal. */
  readonly node: string;
}

export type Health = "good" | "unknown" | "bad";

interface RouterState {
  txPackets: number;
  /** When the oldest packet went out that nothing has answered; undefined: everything was. */
  unansweredSinceMs: number | undefined;
  failedAtMs: number | undefined;
  health: Health;
  /** Follows the round trip down at once and up by FLOOR_GROWTH each look. */
  floorRttMs: number;
  rank: number;
  rttMs: number;
}

export class RouteChooser {
  /** Takeovers since the start. */
  failovers = 0;
  readonly #routers = new Map<string, RouterState>();
  #offers = new Map<string, string[]>();
  readonly #chosen = new Map<string, string>();

  /** Replaces the offers; what is beyond the bound is left out. @returns true when a choice changed */
  setOffers(offers: readonly RouteOffer[]): boolean {
    const byPrefix = new Map<string, string[]>();
    for (const { prefix, node } of offers) {
      const nodes = byPrefix.get(prefix) ?? [];
      if (nodes.length === 0 && byPrefix.size >= MAX_PREFIXES) continue;
      if (!nodes.includes(node)) nodes.push(node);
      byPrefix.set(prefix, nodes);
    }
    this.#offers = byPrefix;
    const wanted = new Set(offers.map(({ node }) => node));
    for (const node of this.#routers.keys()) if (!wanted.has(node)) this.#routers.delete(node);
    return this.#choose();
  }

  /** @param figures undefined: the node has no place among the peers @returns true when a choice changed */
  observe(nowMs: number, figures: (node: string) => RouterFigures | undefined): boolean {
    const nodes = new Set([...this.#offers.values()].flat());
    for (const node of nodes) this.#judge(nowMs, node, figures(node));
    return this.#choose();
  }

  /** Prefix → node id of the router that carries it. */
  get chosen(): ReadonlyMap<string, string> {
    return this.#chosen;
  }

  health(node: string): Health {
    return this.#routers.get(node)?.health ?? "unknown";
  }

  /** Nodes that could take over for another one. */
  spares(): { readonly node: string; readonly health: Health }[] {
    const spares = new Map<string, Health>();
    for (const [prefix, nodes] of this.#offers) {
      if (nodes.length < 2) continue;
      for (const node of nodes) if (this.#chosen.get(prefix) !== node) spares.set(node, this.health(node));
    }
    return [...spares].map(([node, health]) => ({ node, health }));
  }

  #judge(nowMs: number, node: string, figures: RouterFigures | undefined): void {
    let state = this.#routers.get(node);
    if (state === undefined) {
      state = {
        txPackets: figures?.txPackets ?? 0,
        unansweredSinceMs: undefined,
        failedAtMs: undefined,
        health: "unknown",
        floorRttMs: Infinity,
        rank: 3,
        rttMs: Infinity,
      };
      this.#routers.set(node, state);
    }
    if (figures === undefined) {
      state.health = "bad";
      return;
    }
    const deliveredAtMs = figures.lastDeliveryMs < 0 ? -Infinity : nowMs - figures.lastDeliveryMs;
    const isWaiting = figures.txPackets > state.txPackets || (!figures.established && figures.queuedPackets > 0);
    state.txPackets = figures.txPackets;
    if (state.unansweredSinceMs !== undefined && deliveredAtMs >= state.unansweredSinceMs)
      state.unansweredSinceMs = undefined;
    if (isWaiting) state.unansweredSinceMs ??= nowMs;
    // one late answer, such as of a peer that was suspended, must not buy the next failure seconds of patience
    if (figures.rttMs >= 0) state.floorRttMs = Math.min(figures.rttMs, state.floorRttMs * FLOOR_GROWTH);
    const roundTripsMs = figures.rttMs < 0 ? 0 : FAIL_ROUND_TRIPS * state.floorRttMs + FAIL_EXTRA_MS;
    const patienceMs = Math.max(figures.established ? FAIL_MS : CONNECT_FAIL_MS, roundTripsMs);
    if (state.unansweredSinceMs !== undefined && nowMs - state.unansweredSinceMs > patienceMs)
      state.failedAtMs ??= nowMs;
    if (state.failedAtMs !== undefined && deliveredAtMs > state.failedAtMs) {
      state.failedAtMs = undefined;
      state.unansweredSinceMs = undefined;
    }
    const isBad = figures.gone || state.failedAtMs !== undefined;
    state.health = isBad ? "bad" : figures.established ? "good" : "unknown";
    state.rank = figures.pathRank;
    state.rttMs = figures.rttMs < 0 ? Infinity : figures.rttMs;
  }

  #choose(): boolean {
    let isChanged = false;
    for (const prefix of this.#chosen.keys()) {
      if (this.#offers.has(prefix)) continue;
      this.#chosen.delete(prefix);
      isChanged = true;
    }
    for (const [prefix, nodes] of this.#offers) {
      const present = this.#chosen.get(prefix);
      const next = this.#best(nodes, present);
      if (next === undefined || next === present) continue;
      if (present !== undefined && nodes.includes(present)) this.failovers++;
      this.#chosen.set(prefix, next);
      isChanged = true;
    }
    return isChanged;
  }

  #best(nodes: readonly string[], present: string | undefined): string | undefined {
    const held = present !== undefined && nodes.includes(present) ? present : undefined;
    if (held !== undefined && this.health(held) === "good") return held;
    const ranked = nodes.toSorted((a, b) => this.#compare(a, b));
    const good = ranked.find((node) => this.health(node) === "good");
    if (good !== undefined) return good;
    if (held !== undefined && this.health(held) === "unknown") return held;
    return ranked.find((node) => this.health(node) === "unknown") ?? held ?? ranked[0];
  }

  #compare(a: string, b: string): number {
    const [left, right] = [this.#routers.get(a), this.#routers.get(b)];
    const byRank = (left?.rank ?? 3) - (right?.rank ?? 3);
    if (byRank !== 0) return byRank;
    const [leftMs, rightMs] = [left?.rttMs ?? Infinity, right?.rttMs ?? Infinity];
    if (leftMs !== rightMs) return leftMs < rightMs ? -1 : 1;
    return a < b ? -1 : 1;
  }
}

/** One route of the main table. */
export interface MainRoute {
  readonly prefix: RoutePrefix;
  readonly device: string;
  /** Directly connected: no gateway. */
  readonly connected: boolean;
}

/** @param json of `ip -j -4|-6 route show table main` */
export function parseMainRoutes(json: string, family: 4 | 6): MainRoute[] {
  const rows = JSON.parse(json.trim() === "" ? "[]" : json) as {
    dst?: string;
    dev?: string;
    gateway?: string;
    via?: unknown;
    type?: string;
    scope?: string;
    nexthops?: { dev?: string }[];
  }[];
  const found: MainRoute[] = [];
  for (const row of rows) {
    if (row.dst === undefined || (row.type !== undefined && row.type !== "unicast")) continue;
    const any = family === 4 ? "0.0.0.0/0" : "::/0";
    const text =
      row.dst === "default" ? any : row.dst.includes("/") ? row.dst : `${row.dst}/${family === 4 ? 32 : 128}`;
    const prefix = parseRoutePrefix(text);
    if (prefix === undefined) continue;
    const connected = row.gateway === undefined && row.via === undefined && row.nexthops === undefined;
    for (const device of row.nexthops?.map((hop) => hop.dev) ?? [row.dev]) {
      if (device !== undefined) found.push({ prefix, device, connected });
    }
  }
  return found;
}

export interface TablePlan {
  readonly family: 4 | 6;
  readonly interface: string;
  /** Own overlay address of the family. */
  readonly source: string;
  /** Prefix → overlay MTU of its router's path, bytes. */
  readonly prefixes: ReadonlyMap<string, number>;
  /** The overlay's own prefix: always left to the main table. */
  readonly overlay: string;
  readonly main: readonly MainRoute[];
  /** Keep directly connected networks reachable while the default route goes through an exit. */
  readonly allowLan: boolean;
}

/**
 * Routes of our table: one per prefix, below it `unreachable` for when the interface has gone with a killed process (an exit has the leak guard
 * for that), and a `throw` wherever the main table knows better. Empty without prefixes.
 * A prefix that equals one of the machine's own networks stays the machine's.
 */
export function tableLines(plan: TablePlan): string[] {
  const own = plan.main.filter(({ prefix, device }) => prefix.bits > 0 && device !== plan.interface);
  const lines = new Map<string, string>();
  const wanted: RoutePrefix[] = [];
  for (const [text, mtuBytes] of plan.prefixes) {
    const prefix = parseRoutePrefix(text);
    if (prefix === undefined || prefix.family !== plan.family) continue;
    wanted.push(prefix);
    const mtu = plan.family === 6 ? Math.max(MIN_IPV6_MTU_BYTES, mtuBytes) : mtuBytes;
    lines.set(text, `unicast ${text} dev ${plan.interface} mtu ${mtu} src ${plan.source}`);
  }
  if (wanted.length === 0) return [];
  const hasDefault = wanted.some(({ bits }) => bits === 0);
  for (const { prefix, connected } of own) {
    const isLinkLocal = plan.family === 6 && prefix.address[0] === 0xfe && (prefix.address[1] & 0xc0) === 0x80;
    const isInside = wanted.some((outer) => outer.bits > 0 && containsPrefix(outer, prefix));
    const isKept = hasDefault && (isLinkLocal || (plan.allowLan && connected));
    if (!isInside && !isKept) continue;
    const text = formatRoutePrefix(prefix);
    lines.set(text, `throw ${text}`);
  }
  if (hasDefault) lines.set(plan.overlay, `throw ${plan.overlay}`);
  const below = wanted
    .filter(({ bits }) => bits > 0)
    .map(formatRoutePrefix)
    .filter((text) => lines.get(text)?.startsWith("unicast") === true)
    .map((text) => `unreachable ${text} metric ${UNREACHABLE_METRIC}`);
  return [...lines.values(), ...below];
}

/** The rule that leads to our table; packets with the underlay's mark pass it by. */
export function ruleSpec(mark: number, table: number): string {
  return `not fwmark 0x${mark.toString(16)} lookup ${table} pref ${RULE_PREFERENCE}`;
}

/** Devices through which this machine reaches `prefixes`: the ones that must forward what comes back. */
export function devicesTowards(
  prefixes: readonly RoutePrefix[],
  main: readonly MainRoute[],
  without: string,
): string[] {
  const found = new Set<string>();
  for (const prefix of prefixes) {
    const related = main.filter(
      (route) =>
        route.device !== without && (containsPrefix(route.prefix, prefix) || containsPrefix(prefix, route.prefix)),
    );
    // a default route counts only where nothing more exact leads there
    const exact = related.filter((route) => route.prefix.bits > 0);
    for (const route of prefix.bits === 0 || exact.length === 0 ? related : exact) found.add(route.device);
  }
  return [...found].toSorted();
}

export interface NatPlan {
  readonly interface: string;
  /** Overlay prefixes: what comes from members. */
  readonly overlay4: string;
  readonly overlay6: string;
}

/**
 * Masquerade for what members send through this router; members reach neither each other nor link-local addresses nor a cloud's metadata
 * through it, and nobody outside begins a connection to a member: it would pass the members' source check as the router's own.
 */
export function natRules(plan: NatPlan): string {
  const overlay = parseRoutePrefix(plan.overlay4);
  const shared = parseRoutePrefix(`${SHARED_METADATA4}/32`)!;
  const isOverlay = overlay !== undefined && containsPrefix(overlay, shared);
  const metadata4 = [...METADATA4, ...(isOverlay ? [] : [SHARED_METADATA4])];
  return [
    "  chain post {",
    "    type nat hook postrouting priority srcnat; policy accept;",
    `    ip saddr ${plan.overlay4} oifname != { "${plan.interface}", "lo" } masquerade`,
    `    ip6 saddr ${plan.overlay6} oifname != { "${plan.interface}", "lo" } masquerade`,
    "  }",
    "  chain through {",
    "    type filter hook forward priority filter; policy accept;",
    `    iifname "${plan.interface}" oifname "${plan.interface}" drop`,
    `    oifname "${plan.interface}" ct state != { established, related } drop`,
    // what is for the router itself or its own link only, such as a cloud's metadata service, is not for members
    `    iifname "${plan.interface}" ip daddr { 169.254.0.0/16, ${metadata4.join(", ")} } drop`,
    `    iifname "${plan.interface}" ip6 daddr { fe80::/10, ${METADATA6.join(", ")} } drop`,
    "  }",
  ].join("\n");
}
