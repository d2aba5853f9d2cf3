/**
 * What the parts of MeshNode share: the network this node belongs to or joins, its links, where it and others can be reached, and what goes out. A part is
 * given the core and calls of other parts as functions; it never knows another part.
 */
import type { Now } from "../../base/clock.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import type { Ipv4Prefix } from "../addresses.ts";
import { type ControlMessage, encodeControl } from "../control.ts";
import { Gossip } from "../gossip.ts";
import type { JoinAttempt } from "../join-attempt.ts";
import { systemKeys } from "../keys.ts";
import type { Link } from "../links.ts";
import type { Membership, MembershipDeps } from "../membership.ts";
import { Outbox } from "../outbox.ts";
import { Reachability } from "../reachability.ts";
import type { Statement } from "../statement.ts";
import { type Member, type MeshCounters, type MeshDeps, type MeshOptions, newMeshCounters } from "../types.ts";

export class MeshCore {
  readonly counters: MeshCounters = newMeshCounters();
  readonly deps: MembershipDeps;
  readonly options: Required<MeshOptions>;
  readonly outbox: Outbox = new Outbox();
  readonly reach: Reachability;
  readonly gossip: Gossip;
  /** undefined before a network was founded, restored or is being joined. */
  membership: Membership | undefined;
  /** While this node joins. */
  join: JoinAttempt | undefined;
  isRemoved = false;

  constructor(deps: MeshDeps, options: MeshOptions) {
    this.deps = { identity: deps.identity, keys: deps.keys ?? systemKeys, random: deps.random };
    this.options = Object.freeze({
      buildId: options.buildId ?? "dev",
      protocol: options.protocol ?? ([1, 1] as const),
      capabilities: options.capabilities ?? 0,
      digestIntervalMs: options.digestIntervalMs ?? 60_000,
      bulkStreams: options.bulkStreams ?? false,
      joinTimeoutMs: options.joinTimeoutMs ?? 60_000,
      endpointLifeMs: options.endpointLifeMs ?? 86_400_000,
      maxMembers: options.maxMembers ?? 2048,
      maxStatements: options.maxStatements ?? 8192,
    });
    this.reach = new Reachability({ ...this.deps, overlay: () => this.#overlay() }, this.options.endpointLifeMs);
    this.gossip = new Gossip(
      {
        random: deps.random,
        cache: this.reach.cache,
        counters: this.counters,
        membership: () => this.membership,
        isTrusted: (hex) => this.isTrusted(hex),
        isUrgent: () => this.join !== undefined,
        send: (link, message) => this.send(link.staticKey, message),
        sendBulk: (link, messages) => this.#sendBulk(link, messages),
      },
      this.options.digestIntervalMs,
    );
  }

  // Who is who

  /** This node as a member; undefined while it is none. */
  get self(): Member | undefined {
    return this.join === undefined ? this.membership?.self : undefined;
  }

  isSelf(nodeId: Uint8Array): boolean {
    return equal(nodeId, this.deps.identity.nodeId);
  }

  /** All members that count now, this node included, in order of admission. */
  members(): Member[] {
    return this.join === undefined ? (this.membership?.members() ?? []) : [];
  }

  /** May see the roster: a member, or while joining an admin that the token names. */
  isTrusted(staticHex: string): boolean {
    if (this.isRemoved) return false;
    if (this.join !== undefined) return this.join.adminOf(staticHex) !== undefined;
    return this.membership?.byStaticHex(staticHex) !== undefined;
  }

  nodeIdOf(staticHex: string): Uint8Array | undefined {
    return this.membership?.byStaticHex(staticHex)?.nodeId ?? this.join?.adminOf(staticHex);
  }

  /** The membership to act in. @throws WeftError NOT_MEMBER */
  requireInside(): Membership {
    if (this.membership !== undefined && this.self !== undefined) return this.membership;
    throw new WeftError(
      "NOT_MEMBER",
      "this node is in no network",
      "create one (weft init NETWORK) or join one (weft up --join TOKEN)",
    );
  }

  // Where nodes can be reached

  /** See MeshNode.candidates. */
  candidates(nodeId: Uint8Array, wallMs: number): Uint8Array[] {
    return this.reach.candidates(nodeId, wallMs);
  }

  /** See MeshNode.urls. */
  urls(nodeId: Uint8Array): readonly string[] {
    if (this.join === undefined) {
      const roles = this.membership?.byNode(nodeId)?.roles ?? [];
      if (!roles.includes("beacon") && !roles.includes("admin")) return [];
    }
    return this.reach.urls(nodeId);
  }

  /** Signs where this node can be reached, when that is due or new, and tells the others. */
  signEndpoints(now: Now): void {
    if (this.self === undefined || this.isRemoved) {
      this.reach.renewDueMs = Number.POSITIVE_INFINITY;
      return;
    }
    const message = this.reach.signOwn(now);
    if (message !== undefined) this.gossip.announceEndpoints(now, message, undefined);
  }

  #overlay(): { readonly networkId: Uint8Array; readonly ipv4: Ipv4Prefix | undefined } | undefined {
    const roster = this.membership?.roster;
    return roster === undefined ? undefined : { networkId: roster.networkId, ipv4: roster.genesis?.prefix };
  }

  // What goes out

  persist(statement: Statement): void {
    this.outbox.push({ kind: "persistStatement", hash: statement.hash, bytes: statement.wire });
  }

  send(staticKey: Uint8Array, message: ControlMessage, evenIfRemoved = false): void {
    if (this.isRemoved && !evenIfRemoved) return;
    this.outbox.send(staticKey, this.nodeIdOf(toHex(staticKey)), message);
  }

  /** First words to a peer that may see the roster. */
  welcome(now: Now, link: Link): void {
    const { buildId, protocol, capabilities } = this.options;
    const name = this.self?.name ?? this.join?.name ?? "";
    this.send(link.staticKey, { type: "hello", buildId: buildId.slice(0, 64), protocol, capabilities, name });
    this.gossip.compareSoon(now, link);
  }

  #sendBulk(link: Link, messages: readonly ControlMessage[]): boolean {
    const nodeId = this.nodeIdOf(link.hex);
    if (!this.options.bulkStreams || this.isRemoved || nodeId === undefined) return false;
    const bytes = messages.map((message) => encodeControl(message));
    this.outbox.push({ kind: "bulk", staticKey: link.staticKey, nodeId, messages: bytes });
    return true;
  }
}
