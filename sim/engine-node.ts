/**
 * One whole node without machine, for engine-pair.ts and engine-mesh.ts: engine, sessions and paths as shipped, over memory ports, in virtual time. What
 * leaves its socket is for the world around it to carry; worlds share the loop, the wire and the packets here.
 */
import { concat } from "../src/base/bytes.ts";
import { parseAddress } from "../src/base/endpoint.ts";
import { NAME_BYTES, NAME_ECN, NAME_FAMILY, NAME_LOCAL, NAME_PORT, NAME_REMOTE } from "../src/base/name.ts";
import type { SeededRandom } from "../src/base/random.ts";
import { Slab } from "../src/base/slab.ts";
import type { Identity } from "../src/crypto/identity.ts";
import { Engine } from "../src/dataplane/engine.ts";
import type { Command, PlaneEvent } from "../src/dataplane/messages.ts";
import { PlaneStats, createStatsMemory } from "../src/dataplane/stats.ts";
import type { SessionTimes } from "../src/session/rekey.ts";
import { type SessionPeer, Sessions } from "../src/session/sessions.ts";
import { Capability } from "../src/session/types.ts";
import { type MemoryDatagram, MemoryPoll, MemoryTun, MemoryUdp, PlainAead, PlainMac } from "./memory-ports.ts";
import type { KeptTimestamps } from "./session-pair.ts";

const WALL_MS = 1_700_000_000_000;
/** 12345, little-endian. */
const PORT = Uint8Array.of(0x39, 0x30);
/** A super-packet's vnet header. */
const VNET_BYTES = 10;
/** Vnet header, IPv4 and UDP headers: where a packet's tag is. */
const TAG_AT = VNET_BYTES + 28;

/** Who a node is, seen by itself and by others. */
export interface Party {
  readonly identity: Identity;
  readonly overlay4: string;
  readonly address: string;
}

/** A peer, and the slot that it has at this node. */
export interface Neighbour extends Party {
  readonly slot: number;
}

export interface EngineNodeOptions {
  readonly maxPeers: number;
  readonly underlayMtuBytes: number;
  readonly bootId: number;
  readonly timestamps: KeptTimestamps;
  readonly times?: Partial<SessionTimes>;
}

export interface NodeWorld {
  readonly random: SeededRandom;
  readonly nowMs: number;
}

export class EngineNode implements Party {
  readonly identity: Identity;
  readonly overlay4: string;
  /** May change while it runs. */
  address: string;
  readonly tun: MemoryTun;
  readonly udp: MemoryUdp;
  readonly poll: MemoryPoll;
  readonly stats: PlaneStats;
  readonly engine: Engine;
  readonly timestamps: KeptTimestamps;
  readonly commands: Command[] = [];
  readonly events: PlaneEvent[] = [];
  /** Events that neither sessions nor the world use up. */
  readonly told: PlaneEvent[] = [];
  /** As the ring to the control thread would say. */
  eventLoad = 0;
  sessions!: Sessions;
  readonly #world: NodeWorld;
  readonly #options: EngineNodeOptions;

  constructor(world: NodeWorld, own: Party, options: EngineNodeOptions) {
    this.#world = world;
    this.#options = options;
    this.identity = own.identity;
    this.overlay4 = own.overlay4;
    this.address = own.address;
    this.timestamps = options.timestamps;
    const slab = new Slab(32 << 20);
    this.tun = new MemoryTun(slab);
    this.udp = new MemoryUdp(slab);
    this.poll = new MemoryPoll(this.tun, this.udp);
    this.stats = new PlaneStats(createStatsMemory(options.maxPeers));
    this.engine = new Engine(
      {
        slab,
        tun: this.tun,
        udp: this.udp,
        poll: this.poll,
        aead: new PlainAead(slab),
        mac: new PlainMac(slab),
        random: world.random,
        stats: this.stats,
        clock: () => world.nowMs,
        emit: (event) => {
          this.events.push(event);
          return true;
        },
        eventLoad: () => this.eventLoad,
        nextCommand: () => this.commands.shift(),
        park: () => this.commands.length === 0,
        unpark: () => {},
      },
      {
        maxPeers: options.maxPeers,
        staticKey: own.identity.staticKeys.publicKey,
        settings: {
          gso: true,
          gro: true,
          tso: true,
          underlayMtuBytes: options.underlayMtuBytes,
          tunMtuBytes: 1_436,
        },
        hasUdp4: true,
        hasUdp6: false,
      },
    );
  }

  get endpoint(): Uint8Array {
    return endpointOf(this.address);
  }

  /** Sessions, routes and candidates for these peers: once, before the first turn. */
  meet(neighbours: readonly Neighbour[]): void {
    const peers = neighbours.map(({ slot, identity }): SessionPeer => ({
      slot,
      nodeId: identity.nodeId,
      staticKey: identity.staticKeys.publicKey,
      psk: undefined,
      inviteId: undefined,
    }));
    const { bootId, timestamps, times, underlayMtuBytes } = this.#options;
    this.sessions = new Sessions(
      {
        identity: this.identity,
        networkId: new Uint8Array(32).fill(3),
        random: this.#world.random,
        timestamps,
        peerByStaticKey: (key) => peers.find((peer) => Buffer.compare(peer.staticKey, key) === 0),
        peerBySlot: (slot) => peers.find((peer) => peer.slot === slot),
        provisionalPeer: () => undefined,
      },
      {
        bootId,
        capabilities: Capability.HYBRID | Capability.PARTIAL_CHECKSUM | Capability.HARDWARE_AES,
        mtuBytes: underlayMtuBytes,
        times: times ?? {},
      },
    );
    for (const { slot, identity, address } of neighbours) {
      this.commands.push(
        { kind: "peer", peer: slot, nodeId: identity.nodeId },
        { kind: "candidates", peer: slot, endpoints: [endpointOf(address)] },
      );
    }
    const routes = neighbours.map(({ slot, overlay4 }) => ({
      prefix: address16(overlay4),
      prefixBits: 128,
      peer: slot,
    }));
    this.commands.push(
      { kind: "routes", routes },
      { kind: "local", prefixes: [{ prefix: address16(this.overlay4), prefixBits: 128 }] },
    );
  }

  /** Events of one kind that came so far, taken. */
  take<K extends PlaneEvent["kind"]>(kind: K): Extract<PlaneEvent, { kind: K }>[] {
    const found = this.told.filter((event) => event.kind === kind) as Extract<PlaneEvent, { kind: K }>[];
    const rest = this.told.filter((event) => event.kind !== kind);
    this.told.splice(0, this.told.length, ...rest);
    return found;
  }

  /** One turn of the engine and what the sessions make of it. @returns what left the socket */
  turn(): MemoryDatagram[] {
    const { nowMs } = this.#world;
    const now = { nowMs, wallMs: WALL_MS + nowMs };
    const { sessions, commands } = this;
    this.engine.turn();
    for (const event of this.events.splice(0)) this.#control(event, now);
    if (nowMs >= sessions.nextTimeout()) sessions.handleTimeout(now);
    for (let output = sessions.pollOutput(); output !== undefined; output = sessions.pollOutput()) {
      if (output.kind === "inner") commands.push({ ...output, flags: 0, aux: 0 });
      else if (
        output.kind === "transmit" ||
        output.kind === "install" ||
        output.kind === "activate" ||
        output.kind === "retire"
      ) {
        commands.push(output);
      }
    }
    return this.udp.sent.splice(0);
  }

  #control(event: PlaneEvent, now: { nowMs: number; wallMs: number }): void {
    const { sessions } = this;
    if (event.kind === "handshake") sessions.handleHandshake(now, event.datagram, event.from);
    else if (event.kind === "inner" && event.innerKind !== 2)
      sessions.handleInner(now, event.peer, event.epochId, event.innerKind, event.payload);
    else if (event.kind === "proof") sessions.handleProof(now, event.peer, event.epochId);
    else if (event.kind === "needSession") sessions.connect(now, event.peer);
    else if (event.kind === "silent") sessions.handleSilence(now, event.peer);
    else if (event.kind === "wantRekey") sessions.rekey(now, event.peer);
    else this.heard(event);
  }

  /** An event that is not for the sessions. */
  heard(event: PlaneEvent): void {
    this.told.push(event);
  }
}

/** What is on its way, delivered in the order of arrival. */
export class Wire {
  /** Deliveries so far begun. */
  count = 0;
  #flying: { readonly atMs: number; readonly order: number; readonly deliver: () => void }[] = [];

  send(atMs: number, deliver: () => void): void {
    this.#flying.push({ atMs, order: this.count++, deliver });
  }

  deliver(nowMs: number): void {
    const due = this.#flying
      .filter((one) => one.atMs <= nowMs)
      .toSorted((x, y) => x.atMs - y.atMs || x.order - y.order);
    this.#flying = this.#flying.filter((one) => one.atMs > nowMs);
    for (const one of due) one.deliver();
  }
}

export interface LoopWorld {
  nowMs: number;
  readonly wire: Wire;
  readonly nodes: readonly EngineNode[];
  /** A node has taken its turn. */
  after(node: EngineNode, sent: readonly MemoryDatagram[]): void;
}

/** Millisecond by millisecond until `untilMs`, or until `done` says so; within one, turns until nothing more happens. @returns true when done */
export function runWorld(world: LoopWorld, untilMs: number, done: () => boolean): boolean {
  const activity = (): string =>
    world.nodes.map((node) => `${node.events.length} ${node.commands.length}`).join() + world.wire.count;
  while (world.nowMs < untilMs) {
    for (let i = 0; i < 50; i++) {
      const before = activity();
      for (const node of world.nodes) world.after(node, node.turn());
      if (done()) return true;
      if (activity() === before) break;
    }
    world.nowMs = Math.min(untilMs, world.nowMs + 1);
    world.wire.deliver(world.nowMs);
  }
  return done();
}

/** Puts a UDP packet of `payloadBytes` from one node's kernel into its TUN. @param ecn of the packet */
export function putPacket(from: EngineNode, to: Party, payloadBytes: number, tag: number, ecn = 0): void {
  const packet = new Uint8Array(VNET_BYTES + 28 + payloadBytes);
  const view = new DataView(packet.buffer);
  packet[10] = 0x45;
  packet[11] = ecn;
  view.setUint16(12, 28 + payloadBytes);
  view.setUint16(16, 0x4000);
  packet[18] = 64;
  packet[19] = 17;
  packet.set(address16(from.overlay4).subarray(12), 22);
  packet.set(address16(to.overlay4).subarray(12), 26);
  view.setUint16(34, 8 + payloadBytes);
  view.setUint32(TAG_AT, tag);
  from.tun.incoming.push(packet);
}

/** Tags of the packets that a node's kernel received, taken. */
export function takeTags(node: EngineNode): number[] {
  return node.tun.written.splice(0).flatMap((packet) => {
    // merged datagrams come with their segment size in the vnet header
    const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
    const segmentBytes = packet[1] === 0 ? packet.length : view.getUint16(4, true);
    const tags: number[] = [];
    for (let at = TAG_AT; at < packet.length; at += segmentBytes) tags.push(view.getUint32(at));
    return tags;
  });
}

/** IPv4 address to which a datagram goes. */
export function destinationOf(datagram: MemoryDatagram): string {
  return datagram.name.subarray(NAME_REMOTE + 12, NAME_REMOTE + 16).join(".");
}

/** A datagram as it comes out of the socket of `to`. */
export function arrival(from: string, to: string, bytes: Uint8Array, ecn: number): MemoryDatagram {
  const name = new Uint8Array(NAME_BYTES);
  name.set(address16(from), NAME_REMOTE);
  name.set(address16(to), NAME_LOCAL);
  name.set(PORT, NAME_PORT);
  name[NAME_FAMILY] = 4;
  name[NAME_ECN] = ecn;
  return { bytes, segmentBytes: bytes.length, name };
}

function address16(address: string): Uint8Array {
  return parseAddress(address) as Uint8Array;
}

function endpointOf(address: string): Uint8Array {
  return concat(address16(address), PORT);
}
