/**
 * Several whole nodes without machine (engine-node.ts) in virtual time from a seed. Everybody knows everybody as a peer; which pairs reach each other over
 * the underlay, how well, and which vias, forward entries and channels there are is the test's to say. The same seed replays exactly.
 */
import { VirtualType, virtualEndpoint } from "../src/base/endpoint.ts";
import { NAME_ECN } from "../src/base/name.ts";
import { SeededRandom } from "../src/base/random.ts";
import { Identity } from "../src/crypto/identity.ts";
import type { PlaneEvent, PlanePath } from "../src/dataplane/messages.ts";
import {
  arrival,
  destinationOf,
  EngineNode,
  type LoopWorld,
  putPacket,
  runWorld,
  takeTags,
  Wire,
} from "./engine-node.ts";
import type { MemoryDatagram } from "./memory-ports.ts";
import { KeptTimestamps } from "./session-pair.ts";

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

export interface MeshOptions {
  readonly seed: number;
  readonly nodes: number;
  /** Of all interfaces. @default 1500 */
  readonly underlayMtuBytes?: number;
}

/** One node; its number is its slot at all others. */
export class MeshNode extends EngineNode {
  readonly number: number;
  /** Where the far end of a channel is. */
  readonly channels: Map<number, { readonly to: MeshNode; readonly id: number; readonly delayMs: number }> = new Map();
  /** Trains as given to the socket: bytes, segment size and address. */
  readonly trains: { readonly bytes: number; readonly segmentBytes: number; readonly to: string }[] = [];

  readonly #mesh: EngineMesh;

  constructor(mesh: EngineMesh, number: number) {
    super(
      mesh,
      {
        identity: new Identity(mesh.random.bytes(32)),
        overlay4: `100.64.0.${number + 1}`,
        address: `10.0.0.${number + 1}`,
      },
      {
        maxPeers: 16,
        underlayMtuBytes: mesh.underlayMtuBytes,
        bootId: number + 1,
        timestamps: new KeptTimestamps(),
      },
    );
    this.number = number;
    this.#mesh = mesh;
  }

  override heard(event: PlaneEvent): void {
    if (event.kind === "channelOut") this.#mesh.throughChannel(this, event.id, event.datagram);
    else super.heard(event);
  }
}

export class EngineMesh implements LoopWorld {
  readonly random: SeededRandom;
  readonly underlayMtuBytes: number;
  readonly nodes: readonly MeshNode[];
  readonly wire: Wire = new Wire();
  nowMs = 1_000;
  /** Sees every datagram on the wire. */
  onWire: (datagram: Uint8Array, from: MeshNode, to: MeshNode) => void = () => {};
  readonly #links: MeshLink[][];
  #tokens = 0;
  #labels = 1_000_000_000;

  constructor(options: MeshOptions) {
    this.random = new SeededRandom(options.seed);
    this.underlayMtuBytes = options.underlayMtuBytes ?? 1_500;
    this.nodes = Array.from({ length: options.nodes }, (_, number) => new MeshNode(this, number));
    this.#links = this.nodes.map(() =>
      this.nodes.map(() => ({ up: true, delayMs: 5, loss: 0, maxDatagramBytes: this.underlayMtuBytes - 28, mark: 0 })),
    );
    for (const node of this.nodes) {
      const others = this.nodes.filter((other) => other !== node);
      node.meet(
        others.map(({ number, identity, overlay4, address }) => ({ slot: number, identity, overlay4, address })),
      );
    }
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
    const token = ++this.#tokens;
    node.commands.push({ kind: "paths", peer: peer.number, token });
    this.run(this.nowMs + 1);
    return node.take("paths").find((event) => event.token === token)?.paths ?? [];
  }

  /** Runs until `untilMs`, or until `done` says so. @returns true when done */
  run(untilMs: number, done: () => boolean = () => false): boolean {
    return runWorld(this, untilMs, done);
  }

  /** Puts a UDP packet of `payloadBytes` from one node's kernel into its TUN. @param ecn of the packet */
  send(from: MeshNode, to: MeshNode, payloadBytes: number, tag: number, ecn = 0): void {
    putPacket(from, to, payloadBytes, tag, ecn);
  }

  /** Tags of the packets that a node's kernel received, taken. */
  received(node: MeshNode): number[] {
    return takeTags(node);
  }

  after(node: MeshNode, sent: readonly MemoryDatagram[]): void {
    for (const datagram of sent) this.#launch(node, datagram);
  }

  throughChannel(node: MeshNode, id: number, datagram: Uint8Array): void {
    const far = node.channels.get(id);
    if (far === undefined) return;
    this.wire.send(
      this.nowMs + far.delayMs,
      () => void far.to.commands.push({ kind: "channelIn", id: far.id, datagram }),
    );
  }

  #launch(node: MeshNode, datagram: MemoryDatagram): void {
    const address = destinationOf(datagram);
    const ecn = datagram.name[NAME_ECN] & 3;
    node.trains.push({ bytes: datagram.bytes.length, segmentBytes: datagram.segmentBytes, to: address });
    const to = this.nodes.find((other) => other.address === address);
    if (to === undefined) return;
    const link = this.link(node, to);
    for (let at = 0; at < datagram.bytes.length; at += datagram.segmentBytes) {
      const bytes = datagram.bytes.slice(at, at + datagram.segmentBytes);
      this.onWire(bytes, node, to);
      if (!link.up || bytes.length > link.maxDatagramBytes || this.random.unit() < link.loss) continue;
      const marked = ecn !== 0 && link.mark !== 0 ? link.mark : ecn;
      this.wire.send(
        this.nowMs + link.delayMs,
        () => void to.udp.incoming.push(arrival(node.address, to.address, bytes, marked)),
      );
    }
  }
}
