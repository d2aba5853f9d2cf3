/**
 * Who offers which prefix and what of it counts: own announcements, other members' offers and admins' approvals put together. Pure reading of the
 * roster and the endpoint messages; nothing is kept. Source: docs/protocol.md, "Subnet routes and exits".
 */
import { equal, toHex } from "../base/bytes.ts";
import { formatNodeId } from "../crypto/node-id.ts";
import type { MeshNode } from "../mesh/mesh-node.ts";
import { containsPrefix, formatRoutePrefix, parseRoutePrefix } from "../mesh/route-prefix.ts";
import type { RoutePrefix } from "../mesh/route-prefix.ts";
import type { Member } from "../mesh/types.ts";
import type { HostSettings } from "./host-settings.ts";
import type { RouteOffer } from "./subnet-routes.ts";

export const DEFAULT4 = "0.0.0.0/0";
export const DEFAULT6 = "::/0";
export const MAX_OWN_PREFIXES = 16;
/** Shortest prefixes that are taken as networks behind a member: a few shorter ones are an exit in pieces, without its guard and its consent. */
export const MIN_BITS4 = 8;
export const MIN_BITS6 = 16;

/** True for what is too much of all addresses to be a network behind a member. */
export function isTooWide(prefix: Pick<RoutePrefix, "family" | "bits">): boolean {
  return prefix.bits < (prefix.family === 4 ? MIN_BITS4 : MIN_BITS6);
}

export class HostOffers {
  readonly #mesh: MeshNode;
  readonly #nodeId: Uint8Array;
  readonly #configured: readonly string[];
  readonly #settings: () => HostSettings;

  /** @param configured prefixes of weft.toml, canonical */
  constructor(mesh: MeshNode, nodeId: Uint8Array, configured: readonly string[], settings: () => HostSettings) {
    this.#mesh = mesh;
    this.#nodeId = nodeId;
    this.#configured = configured;
    this.#settings = settings;
  }

  /** Prefixes that this node announces, canonical. */
  announced(): string[] {
    const { announce, offerExit } = this.#settings();
    const offered = offerExit ? [DEFAULT4, DEFAULT6] : [];
    const networks = [...this.#configured, ...announce].filter((text) => !isTooWide(parseRoutePrefix(text)!));
    return [...new Set([...networks, ...offered])].slice(0, MAX_OWN_PREFIXES);
  }

  /** Of these, the approved ones. */
  served(): RoutePrefix[] {
    return this.announced()
      .filter((text) => this.isApproved(this.#nodeId, text))
      .map((text) => parseRoutePrefix(text)!);
  }

  /** What other members offer and this node may use. */
  usable(): RouteOffer[] {
    const { acceptRoutes, exit } = this.#settings();
    const own = this.served();
    const offers: RouteOffer[] = [];
    for (const route of acceptRoutes ? this.#mesh.approvedRoutes() : []) {
      const member = this.#mesh.memberById(route.nodeId);
      if (member === undefined || this.isSelf(member) || isTooWide(route)) continue;
      // a network this node is a router of itself is reached directly
      if (own.some((prefix) => prefix.bits > 0 && containsPrefix(prefix, route))) continue;
      if (this.announces(member, route.prefix)) offers.push({ prefix: route.prefix, node: toHex(route.nodeId) });
    }
    for (const member of exit === undefined ? [] : this.exits(exit.nodes)) {
      for (const text of [DEFAULT4, DEFAULT6]) {
        if (this.announces(member, text)) offers.push({ prefix: text, node: toHex(member.nodeId) });
      }
    }
    return offers;
  }

  /** Members that may be used as exits. @param wanted ids; empty: all */
  exits(wanted: readonly string[]): Member[] {
    return this.others().filter((member) => {
      if (wanted.length > 0 && !wanted.includes(formatNodeId(member.nodeId))) return false;
      return [DEFAULT4, DEFAULT6].some((text) => this.announces(member, text) && this.isApproved(member.nodeId, text));
    });
  }

  /** An admin's statement, or for a default route the role `exit`. */
  isApproved(nodeId: Uint8Array, prefix: string): boolean {
    const isDefault = prefix === DEFAULT4 || prefix === DEFAULT6;
    if (isDefault && this.#mesh.memberById(nodeId)?.roles.includes("exit") === true) return true;
    return this.#mesh.approvedRoutes().some((route) => route.prefix === prefix && equal(route.nodeId, nodeId));
  }

  announces(member: Member, prefix: string): boolean {
    return this.#mesh.offers(member.nodeId).prefixes.some((one) => formatRoutePrefix(one) === prefix);
  }

  others(): Member[] {
    return this.#mesh.members().filter((member) => !this.isSelf(member));
  }

  isSelf(member: Member): boolean {
    return equal(member.nodeId, this.#nodeId);
  }
}
