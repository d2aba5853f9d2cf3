/**
 * Two whole nodes without machine: engine, sessions and paths as shipped, over memory ports, in virtual time from a seed. The network
 * between them delays, loses, duplicates and reorders as told; addresses can change and nodes can restart. The same seed replays exactly.
 */
import { concat } from "../src/base/bytes.ts";
import { parseAddress } from "../src/base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_LOCAL, NAME_PORT, NAME_REMOTE } from "../src/base/name.ts";
import { SeededRandom } from "../src/base/random.ts";
import { Slab } from "../src/base/slab.ts";
import { Identity } from "../src/crypto/identity.ts";
import { Engine } from "../src/dataplane/engine.ts";
import type { Command, PlaneEvent } from "../src/dataplane/messages.ts";
import { PlaneStats, createStatsMemory } from "../src/dataplane/stats.ts";
import type { SessionTimes } from "../src/session/rekey.ts";
import { type SessionPeer, Sessions } from "../src/session/sessions.ts";
import { Capability } from "../src/session/types.ts";
import { type MemoryDatagram, MemoryPoll, MemoryTun, MemoryUdp, PlainAead, PlainMac } from "./memory-ports.ts";
import { KeptTimestamps } from "./session-pair.ts";

const SLOT = 1;
const WALL_MS = 1_700_000_000_000;

export interface LinkOptions {
  /** One way, ms. */
  delayMs: number;
  jitterMs: number;
  /** 0–1 each. */
  loss: number;
  duplicate: number;
  /** Largest UDP payload that passes, bytes. */
  maxDatagramBytes: number;
}

export interface EnginePairOptions {
  readonly seed: number;
  readonly link?: Partial<LinkOptions>;
  readonly times?: Partial<SessionTimes>;
}

/** One node; `address` may change while it runs. */
export class EngineNode {
  readonly identity: Identity;
  readonly overlay4: string;
  address: string;
  readonly events: PlaneEvent[] = [];
  readonly tun: MemoryTun;
  readonly udp: MemoryUdp;
  readonly poll: MemoryPoll;
  readonly engine: Engine;
  readonly stats: PlaneStats;
  readonly sessions: Sessions;
  readonly timestamps: KeptTimestamps;
  readonly commands: Command[] = [];

  constructor(
    pair: EnginePair,
    own: { identity: Identity; overlay4: string; address: string; timestamps: KeptTimestamps; bootId: number },
    peer: { identity: Identity; overlay4: string; address: string },
  ) {
    this.identity = own.identity;
    this.overlay4 = own.overlay4;
    this.address = own.address;
    this.timestamps = own.timestamps;
    const slab = new Slab(32 << 20);
    this.tun = new MemoryTun(slab);
    this.udp = new MemoryUdp(slab);
    this.poll = new MemoryPoll(this.tun, this.udp);
    this.stats = new PlaneStats(createStatsMemory(4));
    this.engine = new Engine(
      {
        slab,
        tun: this.tun,
        udp: this.udp,
        poll: this.poll,
        aead: new PlainAead(slab),
        mac: new PlainMac(slab),
        random: pair.random,
        stats: this.stats,
        clock: () => pair.nowMs,
        emit: (event) => {
          this.events.push(event);
          return true;
        },
        eventLoad: () => 0,
        nextCommand: () => this.commands.shift(),
        park: () => this.commands.length === 0,
        unpark: () => {},
      },
      {
        maxPeers: 4,
        staticKey: own.identity.staticKeys.publicKey,
        settings: { gso: true, gro: true, tso: true, underlayMtuBytes: 1_500, tunMtuBytes: 1_436 },
        hasUdp4: true,
        hasUdp6: false,
      },
    );
    const sessionPeer: SessionPeer = {
      slot: SLOT,
      nodeId: peer.identity.nodeId,
      staticKey: peer.identity.staticKeys.publicKey,
      psk: undefined,
      inviteId: undefined,
    };
    this.sessions = new Sessions(
      {
        identity: own.identity,
        networkId: new Uint8Array(32).fill(3),
        random: pair.random,
        timestamps: this.timestamps,
        peerByStaticKey: () => sessionPeer,
        peerBySlot: () => sessionPeer,
        provisionalPeer: () => undefined,
      },
      {
        bootId: own.bootId,
        capabilities: Capability.HYBRID | Capability.PARTIAL_CHECKSUM | Capability.HARDWARE_AES,
        times: pair.options.times ?? {},
      },
    );
    this.commands.push(
      { kind: "peer", peer: SLOT, nodeId: peer.identity.nodeId },
      { kind: "routes", routes: [{ prefix: parseAddress(peer.overlay4) as Uint8Array, prefixBits: 128, peer: SLOT }] },
      { kind: "local", prefixes: [{ prefix: parseAddress(own.overlay4) as Uint8Array, prefixBits: 128 }] },
      { kind: "candidates", peer: SLOT, endpoints: [endpointOf(peer.address)] },
    );
  }
}

function endpointOf(address: string): Uint8Array {
  return concat(parseAddress(address) as Uint8Array, Uint8Array.of(0x39, 0x30));
}

interface InFlight {
  readonly atMs: number;
  readonly order: number;
  readonly to: string;
  readonly from: string;
  readonly bytes: Uint8Array;
}

export class EnginePair {
  readonly options: EnginePairOptions;
  readonly random: SeededRandom;
  readonly link: LinkOptions;
  nowMs = 1_000;
  readonly a: EngineNode;
  b: EngineNode;
  /** Sees every datagram on the wire. */
  onWire: (datagram: Uint8Array, from: string, to: string) => void = () => {};
  #flying: InFlight[] = [];
  #order = 0;
  #boots = 1;

  constructor(options: EnginePairOptions) {
    this.options = options;
    this.random = new SeededRandom(options.seed);
    this.link = { delayMs: 5, jitterMs: 0, loss: 0, duplicate: 0, maxDatagramBytes: 1_472, ...options.link };
    const one = {
      identity: new Identity(this.random.bytes(32)),
      overlay4: "100.64.0.1",
      address: "10.0.0.1",
    };
    const two = {
      identity: new Identity(this.random.bytes(32)),
      overlay4: "100.64.0.2",
      address: "10.0.0.2",
    };
    this.a = new EngineNode(this, { ...one, timestamps: new KeptTimestamps(), bootId: this.#boots++ }, two);
    this.b = new EngineNode(this, { ...two, timestamps: new KeptTimestamps(), bootId: this.#boots++ }, one);
  }

  /** Kills b and starts it again with nothing but its identity, timestamps and the address of a. */
  restartB(): void {
    const { identity, overlay4, address, timestamps } = this.b;
    this.b = new EngineNode(this, { identity, overlay4, address, timestamps, bootId: this.#boots++ }, this.a);
  }

  /** Runs until `untilMs`, or until `done` says so. @returns true when done */
  run(untilMs: number, done: () => boolean = () => false): boolean {
    while (this.nowMs < untilMs) {
      for (let i = 0; i < 50; i++) {
        const before = this.#activity();
        this.#turn(this.a);
        this.#turn(this.b);
        if (done()) return true;
        if (this.#activity() === before) break;
      }
      this.nowMs = Math.min(untilMs, this.nowMs + 1);
      this.#deliver();
    }
    return done();
  }

  /** Puts an ICMP-like UDP packet of `payloadBytes` from one node's kernel into its TUN. */
  send(from: EngineNode, to: EngineNode, payloadBytes: number, tag: number): void {
    const packet = new Uint8Array(10 + 28 + payloadBytes);
    const view = new DataView(packet.buffer);
    packet[10] = 0x45;
    view.setUint16(12, 28 + payloadBytes);
    view.setUint16(16, 0x4000);
    packet[18] = 64;
    packet[19] = 17;
    packet.set((parseAddress(from.overlay4) as Uint8Array).subarray(12), 22);
    packet.set((parseAddress(to.overlay4) as Uint8Array).subarray(12), 26);
    view.setUint16(34, 8 + payloadBytes);
    view.setUint32(38, tag);
    from.tun.incoming.push(packet);
  }

  /** Tags of the packets that a node's kernel received, taken. */
  received(node: EngineNode): number[] {
    return node.tun.written.splice(0).map((packet) => new DataView(packet.buffer).getUint32(38));
  }

  #activity(): string {
    return `${this.#order} ${this.a.events.length} ${this.b.events.length} ${this.a.commands.length} ${this.b.commands.length}`;
  }

  #turn(node: EngineNode): void {
    const now = { nowMs: this.nowMs, wallMs: WALL_MS + this.nowMs };
    node.engine.turn();
    for (const event of node.events.splice(0)) this.#control(node, event, now);
    if (now.nowMs >= node.sessions.nextTimeout()) node.sessions.handleTimeout(now);
    for (let output = node.sessions.pollOutput(); output !== undefined; output = node.sessions.pollOutput()) {
      if (output.kind === "inner") node.commands.push({ ...output, flags: 0, aux: 0 });
      else if (
        output.kind === "transmit" ||
        output.kind === "install" ||
        output.kind === "activate" ||
        output.kind === "retire"
      ) {
        node.commands.push(output);
      }
    }
    for (const datagram of node.udp.sent.splice(0)) this.#launch(node, datagram);
  }

  #control(node: EngineNode, event: PlaneEvent, now: { nowMs: number; wallMs: number }): void {
    if (event.kind === "handshake") node.sessions.handleHandshake(now, event.datagram, event.from);
    else if (event.kind === "inner")
      node.sessions.handleInner(now, event.peer, event.epochId, event.innerKind, event.payload);
    else if (event.kind === "proof") node.sessions.handleProof(now, event.peer, event.epochId);
    else if (event.kind === "needSession") node.sessions.connect(now, event.peer);
    else if (event.kind === "silent") node.sessions.handleSilence(now, event.peer);
    else if (event.kind === "wantRekey") node.sessions.rekey(now, event.peer);
  }

  #launch(node: EngineNode, datagram: MemoryDatagram): void {
    const to = datagram.name.subarray(NAME_REMOTE + 12, NAME_REMOTE + 16).join(".");
    for (let at = 0; at < datagram.bytes.length; at += datagram.segmentBytes) {
      const bytes = datagram.bytes.slice(at, at + datagram.segmentBytes);
      this.onWire(bytes, node.address, to);
      if (bytes.length > this.link.maxDatagramBytes) continue;
      const copies = this.random.unit() < this.link.duplicate ? 2 : 1;
      for (let i = 0; i < copies; i++) {
        if (this.random.unit() < this.link.loss) continue;
        const atMs = this.nowMs + this.link.delayMs + this.random.unit() * this.link.jitterMs;
        this.#flying.push({ atMs, order: this.#order++, to, from: node.address, bytes });
      }
    }
  }

  #deliver(): void {
    const due = this.#flying
      .filter((one) => one.atMs <= this.nowMs)
      .toSorted((x, y) => x.atMs - y.atMs || x.order - y.order);
    this.#flying = this.#flying.filter((one) => one.atMs > this.nowMs);
    for (const one of due) {
      const node = [this.a, this.b].find((candidate) => candidate.address === one.to);
      if (node === undefined) continue;
      const name = new Uint8Array(NAME_BYTES);
      name.set(parseAddress(one.from) as Uint8Array, NAME_REMOTE);
      name.set(parseAddress(one.to) as Uint8Array, NAME_LOCAL);
      name[NAME_PORT] = 0x39;
      name[NAME_PORT + 1] = 0x30;
      name[NAME_FAMILY] = 4;
      node.udp.incoming.push({ bytes: one.bytes, segmentBytes: one.bytes.length, name });
    }
  }
}
