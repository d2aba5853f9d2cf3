/**
 * Members and joiners in the data plane: who holds which slot, where each may be reached, which addresses lead to whom. Every change of
 * the roster ends here as commands; the plane holds no more than these tables say.
 */
import { equal } from "../base/bytes.ts";
import { endpointFromBytes, formatEndpoint, parseAddress } from "../base/endpoint.ts";
import type { Logger } from "../base/log.ts";
import { formatNodeId, shortNodeId } from "../crypto/node-id.ts";
import type { Command, RouteEntry } from "../dataplane/messages.ts";
import type { MeshNode } from "../mesh/mesh-node.ts";
import type { Member } from "../mesh/types.ts";
import type { PeerRecord } from "./peer-table.ts";
import { MAX_PROVISIONAL, PeerTable } from "./peer-table.ts";

export interface MembersDeps {
  readonly mesh: MeshNode;
  readonly log: Logger;
  /** 32 bytes: this node. */
  readonly nodeId: Uint8Array;
  send(command: Command): void;
  /** Virtual endpoints (18 bytes each, best first) that lead to the peer besides its addresses. */
  otherWays?(peer: PeerRecord): Uint8Array[];
  /** Of a member's addresses those that may be tried from here, and what was found near, best first. */
  judge?(nodeId: Uint8Array, candidates: readonly Uint8Array[]): Uint8Array[];
}

/** Candidates of one peer that the plane takes. */
const MAX_CANDIDATES = 8;

export interface LocalPrefix {
  /** 16 bytes, IPv4 as v4-mapped. */
  readonly prefix: Uint8Array;
  /** 0–128 */
  readonly prefixBits: number;
}

export interface MembersOptions {
  /** Peers that may have a slot of the plane; joiners come on top. */
  readonly maxPeers: number;
  /** Node id or name → 32 bytes. */
  readonly psk: ReadonlyMap<string, Uint8Array>;
}

/** Slots to ask of the plane for that many peers. */
export function slotsFor(maxPeers: number): number {
  return maxPeers + MAX_PROVISIONAL;
}

export class Members {
  readonly peers: PeerTable;
  readonly #deps: MembersDeps;
  readonly #options: MembersOptions;
  #extraRoutes: readonly RouteEntry[] = [];
  #extraLocal: readonly LocalPrefix[] = [];

  constructor(deps: MembersDeps, options: MembersOptions) {
    this.#deps = deps;
    this.#options = options;
    this.peers = new PeerTable(slotsFor(options.maxPeers));
  }

  others(): Member[] {
    return this.#deps.mesh.members().filter((member) => !equal(member.nodeId, this.#deps.nodeId));
  }

  /**
   * Gives members their slots and the plane its tables. Who was removed is dropped by the mesh's own outputs.
   * @param lastEpochId newest epoch of this run @returns joiners that have become members
   */
  sync(lastEpochId: number, wallMs: number): PeerRecord[] {
    const admitted: PeerRecord[] = [];
    let without = 0;
    for (const member of this.others()) {
      let peer = this.peers.byKey(member.staticKey);
      if (peer === undefined) {
        if (this.peers.size < this.#options.maxPeers) peer = this.add(member.nodeId, member.staticKey, lastEpochId);
        if (peer === undefined) {
          without++;
          continue;
        }
      } else if (peer.member === undefined) {
        this.peers.settle(peer);
        peer.nodeId = member.nodeId;
        admitted.push(peer);
      }
      peer.member = member;
      peer.psk = this.#options.psk.get(formatNodeId(member.nodeId)) ?? this.#options.psk.get(member.name);
      this.pushCandidates(peer, wallMs);
    }
    if (without > 0) {
      const limit = this.#options.maxPeers;
      this.#deps.log.warn(
        `${without} members have no place among the ${limit} peers of this node; raise max_peers in weft.toml`,
      );
    }
    this.pushTables();
    return admitted;
  }

  /** Prefixes behind members, and prefixes behind this node, besides everybody's own addresses. */
  setExtraTables(routes: readonly RouteEntry[], local: readonly LocalPrefix[]): void {
    this.#extraRoutes = routes;
    this.#extraLocal = local;
    this.pushTables();
  }

  /** Routes to members, and the addresses this node delivers to itself. */
  pushTables(): void {
    const routes: RouteEntry[] = [];
    // the network's policy may say that a node whose roster nobody confirms carries nothing: no route, no accepted source
    const carries = this.#deps.mesh.userData !== "refused";
    for (const peer of carries ? this.peers.all() : []) {
      for (const text of peer.member === undefined ? [] : [peer.member.ipv4, peer.member.ipv6]) {
        const prefix = parseAddress(text);
        if (prefix !== undefined) routes.push({ prefix, prefixBits: 128, peer: peer.slot });
      }
    }
    const self = this.#deps.mesh.self;
    const own = self === undefined ? [] : [parseAddress(self.ipv4), parseAddress(self.ipv6)];
    const prefixes = own.filter((prefix) => prefix !== undefined).map((prefix) => ({ prefix, prefixBits: 128 }));
    if (carries) routes.push(...this.#extraRoutes.filter(({ peer }) => this.peers.bySlot(peer)?.member !== undefined));
    this.#deps.send({ kind: "local", prefixes: [...prefixes, ...this.#extraLocal] });
    this.#deps.send({ kind: "routes", routes });
  }

  pushCandidates(peer: PeerRecord, wallMs: number): void {
    const ways = this.#deps.otherWays?.(peer) ?? [];
    const known = this.#deps.mesh.candidates(peer.nodeId, wallMs);
    const fitting = this.#deps.judge?.(peer.nodeId, known) ?? known;
    const direct = fitting.slice(0, Math.max(2, MAX_CANDIDATES - ways.length));
    const endpoints = [...direct, ...ways].slice(0, MAX_CANDIDATES);
    this.#deps.send({ kind: "candidates", peer: peer.slot, endpoints });
  }

  /** A member, or an admin through which this node joins. @returns undefined when no slot is free */
  add(nodeId: Uint8Array, staticKey: Uint8Array, lastEpochId: number): PeerRecord | undefined {
    return this.#declare(this.peers.add(nodeId, staticKey, lastEpochId));
  }

  /** Somebody with an invite of this network, live or ended: who comes with an ended one may hear so. */
  addJoiner(
    staticKey: Uint8Array,
    inviteId: Uint8Array,
    lastEpochId: number,
    nowMs: number,
    wallMs: number,
  ): PeerRecord | undefined {
    const invite = this.#deps.mesh.acceptsInvite(inviteId, wallMs);
    if (invite === "unknown") return undefined;
    return this.#declare(this.peers.addProvisional(staticKey, lastEpochId, nowMs, invite === "ended"));
  }

  /** Takes the slot back and everything that led to it. */
  remove(peer: PeerRecord): void {
    this.#deps.send({ kind: "peerRemove", peer: peer.slot });
    this.peers.remove(peer);
    this.pushTables();
  }

  find(nodeId: Uint8Array): PeerRecord | undefined {
    const member = this.#deps.mesh.memberById(nodeId);
    if (member !== undefined) return this.peers.byKey(member.staticKey);
    return this.peers.all().find((peer) => equal(peer.nodeId, nodeId));
  }

  /** For log lines. */
  nameOf(peer: PeerRecord): string {
    if (peer.member !== undefined) return peer.member.name;
    if (peer.nodeId.some((byte) => byte !== 0)) return shortNodeId(peer.nodeId);
    return peer.endpoint === undefined
      ? "a joining node"
      : `a joining node at ${formatEndpoint(endpointFromBytes(peer.endpoint))}`;
  }

  #declare(peer: PeerRecord | undefined): PeerRecord | undefined {
    if (peer !== undefined) this.#deps.send({ kind: "peer", peer: peer.slot, nodeId: peer.nodeId });
    return peer;
  }
}
