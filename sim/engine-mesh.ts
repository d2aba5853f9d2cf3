/**
 * Several whole nodes without machine: engine, sessions and paths as shipped, over memory ports, in virtual time from a seed. Everybody knows everybody as a
 * peer; which pairs reach each other over the underlay, how well, and which vias, forward entries and channels there are is the test's to say. The same
 * seed replays exactly.
 */
import { concat } from "../src/base/bytes.ts";
import { parseAddress, VirtualType, virtualEndpoint } from "../src/base/endpoint.ts";
import { NAME_BYTES, NAME_ECN, NAME_FAMILY, NAME_LOCAL, NAME_PORT, NAME_REMOTE } from "../src/base/name.ts";
import { SeededRandom } from "../src/base/random.ts";
import { Slab } from "../src/base/slab.ts";
import { Identity } from "../src/crypto/identity.ts";
import { Engine } from "../src/dataplane/engine.ts";
import type { Command, PlaneEvent, PlanePath } from "../src/dataplane/messages.ts";
import { PlaneStats, createStatsMemory } from "../src/dataplane/stats.ts";
import { type SessionPeer, Sessions } from "../src/session/sessions.ts";
import { Capability } from "../src/session/types.ts";
import { type MemoryDatagram, MemoryPoll, MemoryTun, MemoryUdp, PlainAead, PlainMac } from "./memory-ports.ts";
import { KeptTimestamps } from "./session-pair.ts";

const WALL_MS = 1_700_000_000_000;
const PORT = Uint8Array.of(0x39, 0x30);

/** One direction of the underlay between two nodes. Fields may be changed at any time. */
export interface MeshLink {
  up: boolean;
  /** One way, ms. */
  delayMs: number;
  loss: number;
  /** Largest UDP payload that passes, bytes. */
  maxDatagramBytes: number;
  /** ECN bits that the way puts on whatever is ECN-capable; 0 = none. */
  mark: number;
}

interface InFlight {
  readonly atMs: number;
  readonly order: number;
  readonly deliver: () => void;
}

export interface MeshOptions {
  readonly seed: number;
  readonly nodes: number;
  /** Of all interfaces. @default 1500 */
  readonly underlayMtuBytes?: number;
}

/** One node; its number is its slot at all others. */
export class MeshNode {
  readonly number: number;
  readonly identity: Identity;
  readonly overlay4: string;
  readonly address: string;
  readonly tun: MemoryTun;
  readonly udp: MemoryUdp;
  readonly stats: PlaneStats;
  readonly engine: Engine;
  readonly commands: Command[] = [];
  readonly events: PlaneEvent[] = [];
  /** Events that neither sessions nor the simulator use up. */
  readonly told: PlaneEvent[] = [];
  sessions!: Sessions;
  /** Where the far end of a channel is. */
  readonly channels: Map<number, { readonly to: MeshNode; readonly id: number; readonly delayMs: number }> = new Map();
  /** As the ring to the control thread would say. */
  eventLoad = 0;
  /** Trains as given to the socket: bytes, segment size and address. */
  readonly trains: { readonly bytes: number; readonly segmentBytes: number; readonly to: string }[] = [];

  constructor(mesh: EngineMesh, number: number) {
    this.number = number;
    this.identity = new Identity(mesh.random.bytes(32));
    this.overlay4 = `100.64.0.${number + 1}`;
    this.address = `10.0.0.${number + 1}`;
    const slab = new Slab(32 << 20);
    this.tun = new MemoryTun(slab);
    this.udp = new MemoryUdp(slab);
    this.stats = new PlaneStats(createStatsMemory(16));
    this.engine = new Engine(
      {
        slab,
        tun: this.tun,
        udp: this.udp,
        poll: new MemoryPoll(this.tun, this.udp),
        aead: new PlainAead(slab),
        mac: new PlainMac(slab),
        random: mesh.random,
        stats: this.stats,
        clock: () => mesh.nowMs,
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
        maxPeers: 16,
        staticKey: this.identity.staticKeys.publicKey,
        settings: { gso: true, gro: true, tso: true, underlayMtuBytes: mesh.underlayMtuBytes, tunMtuBytes: 1_436 },
        hasUdp4: true,
        hasUdp6: false,
      },
    );
  }

  get endpoint(): Uint8Array {
    return concat(parseAddress(this.address) as Uint8Array, PORT);
  }

  /** Events of one kind that came so far, taken. */
  take<K extends PlaneEvent["kind"]>(kind: K): Extract<PlaneEvent, { kind: K }>[] {
    const found = this.told.filter((event) => event.kind === kind) as Extract<PlaneEvent, { kind: K }>[];
    const rest = this.told.filter((event) => event.kind !== kind);
    this.told.splice(0, this.told.length, ...rest);
    return found;
  }
}

export class EngineMesh {
  readonly random: SeededRandom;
  readonly underlayMtuBytes: number;
  readonly nodes: readonly MeshNode[];
  nowMs = 1_000;
  /** Sees every datagram on the wire. */
  onWire: (datagram: Uint8Array, from: MeshNode, to: MeshNode) => void = () => {};
  readonly #links: MeshLink[][];
  #flying: InFlight[] = [];
  #order = 0;
  #labels = 1_000_000_000;

  constructor(options: MeshOptions) {
    this.random = new SeededRandom(options.seed);
    this.underlayMtuBytes = options.underlayMtuBytes ?? 1_500;
    this.nodes = Array.from({ length: options.nodes }, (_, number) => new MeshNode(this, number));
    this.#links = this.nodes.map(() =>
      this.nodes.map(() => ({ up: true, delayMs: 5, loss: 0, maxDatagramBytes: this.underlayMtuBytes - 28, mark: 0 })),
    );
    for (const node of this.nodes) this.#setUp(node);
  }

  #setUp(node: MeshNode): void {
    const peers = this.nodes.map((other): SessionPeer => ({
      slot: other.number,
      nodeId: other.identity.nodeId,
      staticKey: other.identity.staticKeys.publicKey,
      psk: undefined,
      inviteId: undefined,
    }));
    node.sessions = new Sessions(
      {
        identity: node.identity,
        networkId: new Uint8Array(32).fill(3),
        random: this.random,
        timestamps: new KeptTimestamps(),
        peerByStaticKey: (key) => peers.find((peer) => Buffer.compare(peer.staticKey, key) === 0),
        peerBySlot: (slot) => peers[slot],
        provisionalPeer: () => undefined,
      },
      {
        bootId: node.number + 1,
        capabilities: Capability.HYBRID | Capability.PARTIAL_CHECKSUM | Capability.HARDWARE_AES,
        mtuBytes: this.underlayMtuBytes,
      },
    );
    const others = this.nodes.filter((other) => other !== node);
    for (const other of others) {
      node.commands.push(
        { kind: "peer", peer: other.number, nodeId: other.identity.nodeId },
        { kind: "candidates", peer: other.number, endpoints: [other.endpoint] },
      );
    }
    const prefixOf = (other: MeshNode): Uint8Array => parseAddress(other.overlay4) as Uint8Array;
    node.commands.push(
      {
        kind: "routes",
        routes: others.map((other) => ({ prefix: prefixOf(other), prefixBits: 128, peer: other.number })),
      },
      { kind: "local", prefixes: [{ prefix: prefixOf(node), prefixBits: 128 }] },
    );
  }

  /** One direction. */
  link(from: MeshNode, to: MeshNode): MeshLink {
    return this.#links[from.number][to.number];
  }

  /** Both directions at once. */
  setLink(a: MeshNode, b: MeshNode, change: Partial<MeshLink>): void {
    Object.assign(this.link(a, b), change);
    Object.assign(this.link(b, a), change);
  }

  /**
   * What an answered look-up installs: labels along the nodes of `way`, whose ends get a via each. A label belongs to receiver and sender: the node nearer to the
   * reader of this line is not asked.
   * @param pathKind 1 relay, 2 transit @returns the virtual endpoints at the first and at the last node
   */
  install(way: readonly MeshNode[], pathKind: number, id: number, bytesPerSecond = 0): [Uint8Array, Uint8Array] {
    // there[i]: under which way[i + 1] receives from way[i]; back[i]: under which way[i] receives from way[i + 1]
    const hops = way.length - 1;
    const there = Array.from({ length: hops }, () => ++this.#labels);
    const back = Array.from({ length: hops }, () => ++this.#labels);
    const last = hops - 1;
    way[0].commands.push({ kind: "via", id, hop: way[1].number, out: there[0], in: back[0], pathKind });
    way[hops].commands.push({ kind: "via", id, hop: way[last].number, out: back[last], in: there[last], pathKind });
    for (let i = 1; i < hops; i++) {
      const before = way[i - 1].number;
      const behind = way[i + 1].number;
      way[i].commands.push(
        { kind: "forward", label: there[i - 1], from: before, to: behind, out: there[i], bytesPerSecond },
        { kind: "forward", label: back[i], from: behind, to: before, out: back[i - 1], bytesPerSecond },
      );
    }
    const endpoint = virtualEndpoint(VirtualType.LABEL, pathKind, id);
    return [endpoint, endpoint];
  }

  /** A byte channel between two nodes. @returns the virtual endpoint, the same at both */
  channel(a: MeshNode, b: MeshNode, id: number, delayMs: number): Uint8Array {
    a.channels.set(id, { to: b, id, delayMs });
    b.channels.set(id, { to: a, id, delayMs });
    for (const node of [a, b]) node.commands.push({ kind: "channel", id, open: true });
    return virtualEndpoint(VirtualType.CHANNEL, 1, id);
  }

  candidates(node: MeshNode, peer: MeshNode, endpoints: readonly Uint8Array[]): void {
    node.commands.push({ kind: "candidates", peer: peer.number, endpoints });
  }

  /** Figures of a peer's paths, asked for now. */
  paths(node: MeshNode, peer: MeshNode): readonly PlanePath[] {
    const token = ++this.#order;
    node.commands.push({ kind: "paths", peer: peer.number, token });
    this.run(this.nowMs + 1);
    return node.take("paths").find((event) => event.token === token)?.paths ?? [];
  }

  /** Runs until `untilMs`, or until `done` says so. @returns true when done */
  run(untilMs: number, done: () => boolean = () => false): boolean {
    while (this.nowMs < untilMs) {
      for (let i = 0; i < 50; i++) {
        const before = this.#activity();
        for (const node of this.nodes) this.#turn(node);
        if (done()) return true;
        if (this.#activity() === before) break;
      }
      this.nowMs = Math.min(untilMs, this.nowMs + 1);
      this.#deliver();
    }
    return done();
  }

  /** Puts a UDP packet of `payloadBytes` from one node's kernel into its TUN. @param ecn of the packet */
  send(from: MeshNode, to: MeshNode, payloadBytes: number, tag: number, ecn = 0): void {
    const packet = new Uint8Array(10 + 28 + payloadBytes);
    const view = new DataView(packet.buffer);
    packet[10] = 0x45;
    packet[11] = ecn;
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
  received(node: MeshNode): number[] {
    return node.tun.written.splice(0).flatMap((packet) => {
      // merged datagrams come with their segment size in the vnet header
      const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
      const segmentBytes = packet[1] === 0 ? packet.length : view.getUint16(4, true);
      const tags: number[] = [];
      for (let at = 38; at < packet.length; at += segmentBytes) tags.push(view.getUint32(at));
      return tags;
    });
  }

  #activity(): string {
    return this.nodes.map((node) => `${node.events.length} ${node.commands.length}`).join() + this.#order;
  }

  #turn(node: MeshNode): void {
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

  #control(node: MeshNode, event: PlaneEvent, now: { nowMs: number; wallMs: number }): void {
    if (event.kind === "handshake") node.sessions.handleHandshake(now, event.datagram, event.from);
    else if (event.kind === "inner" && event.innerKind !== 2)
      node.sessions.handleInner(now, event.peer, event.epochId, event.innerKind, event.payload);
    else if (event.kind === "proof") node.sessions.handleProof(now, event.peer, event.epochId);
    else if (event.kind === "needSession") node.sessions.connect(now, event.peer);
    else if (event.kind === "silent") node.sessions.handleSilence(now, event.peer);
    else if (event.kind === "wantRekey") node.sessions.rekey(now, event.peer);
    else if (event.kind === "channelOut") this.#throughChannel(node, event.id, event.datagram);
    else node.told.push(event);
  }

  #throughChannel(node: MeshNode, id: number, datagram: Uint8Array): void {
    const far = node.channels.get(id);
    if (far === undefined) return;
    const deliver = (): void => void far.to.commands.push({ kind: "channelIn", id: far.id, datagram });
    this.#flying.push({ atMs: this.nowMs + far.delayMs, order: this.#order++, deliver });
  }

  #launch(node: MeshNode, datagram: MemoryDatagram): void {
    const address = datagram.name.subarray(NAME_REMOTE + 12, NAME_REMOTE + 16).join(".");
    const ecn = datagram.name[NAME_ECN] & 3;
    node.trains.push({ bytes: datagram.bytes.length, segmentBytes: datagram.segmentBytes, to: address });
    const to = this.nodes.find((other) => other.address === address);
    const link = to === undefined ? undefined : this.link(node, to);
    for (let at = 0; at < datagram.bytes.length; at += datagram.segmentBytes) {
      const bytes = datagram.bytes.slice(at, at + datagram.segmentBytes);
      if (to === undefined || link === undefined) continue;
      this.onWire(bytes, node, to);
      if (!link.up || bytes.length > link.maxDatagramBytes || this.random.unit() < link.loss) continue;
      const marked = ecn !== 0 && link.mark !== 0 ? link.mark : ecn;
      const deliver = (): void => void to.udp.incoming.push(arrival(node, to, bytes, marked));
      this.#flying.push({ atMs: this.nowMs + link.delayMs, order: this.#order++, deliver });
    }
  }

  #deliver(): void {
    const due = this.#flying
      .filter((one) => one.atMs <= this.nowMs)
      .toSorted((x, y) => x.atMs - y.atMs || x.order - y.order);
    this.#flying = this.#flying.filter((one) => one.atMs > this.nowMs);
    for (const one of due) one.deliver();
  }
}

function arrival(from: MeshNode, to: MeshNode, bytes: Uint8Array, ecn: number): MemoryDatagram {
  const name = new Uint8Array(NAME_BYTES);
  name.set(parseAddress(from.address) as Uint8Array, NAME_REMOTE);
  name.set(parseAddress(to.address) as Uint8Array, NAME_LOCAL);
  name.set(PORT, NAME_PORT);
  name[NAME_FAMILY] = 4;
  name[NAME_ECN] = ecn;
  return { bytes, segmentBytes: bytes.length, name };
}
