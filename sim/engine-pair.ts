/**
 * Two whole nodes without machine (engine-node.ts) in virtual time from a seed. The network between them delays, loses, duplicates and reorders as told;
 * addresses can change and nodes can restart. The same seed replays exactly.
 */
import { SeededRandom } from "../src/base/random.ts";
import { Identity } from "../src/crypto/identity.ts";
import type { SessionTimes } from "../src/session/rekey.ts";
import {
  arrival,
  destinationOf,
  EngineNode,
  type LoopWorld,
  type Party,
  putPacket,
  runWorld,
  takeTags,
  Wire,
} from "./engine-node.ts";
import type { MemoryDatagram } from "./memory-ports.ts";
import { KeptTimestamps } from "./session-pair.ts";

/** Of the other one, at both. */
const SLOT = 1;
const UNDERLAY_MTU_BYTES = 1_500;

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

export class EnginePair implements LoopWorld {
  readonly random: SeededRandom;
  readonly link: LinkOptions;
  readonly wire: Wire = new Wire();
  nowMs = 1_000;
  readonly a: EngineNode;
  b: EngineNode;
  /** Sees every datagram on the wire. */
  onWire: (datagram: Uint8Array, from: string, to: string) => void = () => {};
  readonly #times: Partial<SessionTimes>;
  #boots = 1;

  constructor(options: EnginePairOptions) {
    this.random = new SeededRandom(options.seed);
    this.#times = options.times ?? {};
    this.link = { delayMs: 5, jitterMs: 0, loss: 0, duplicate: 0, maxDatagramBytes: 1_472, ...options.link };
    const one = { identity: new Identity(this.random.bytes(32)), overlay4: "100.64.0.1", address: "10.0.0.1" };
    const two = { identity: new Identity(this.random.bytes(32)), overlay4: "100.64.0.2", address: "10.0.0.2" };
    this.a = this.#boot(one, two, new KeptTimestamps());
    this.b = this.#boot(two, one, new KeptTimestamps());
  }

  get nodes(): readonly EngineNode[] {
    return [this.a, this.b];
  }

  /** Kills b and starts it again with nothing but its identity, timestamps and the address of a. */
  restartB(): void {
    this.b = this.#boot(this.b, this.a, this.b.timestamps);
  }

  #boot(own: Party, peer: Party, timestamps: KeptTimestamps): EngineNode {
    const bootId = this.#boots++;
    const node = new EngineNode(this, own, {
      maxPeers: 4,
      underlayMtuBytes: UNDERLAY_MTU_BYTES,
      bootId,
      timestamps,
      times: this.#times,
    });
    const { identity, overlay4, address } = peer;
    node.meet([{ slot: SLOT, identity, overlay4, address }]);
    return node;
  }

  /** Runs until `untilMs`, or until `done` says so. @returns true when done */
  run(untilMs: number, done: () => boolean = () => false): boolean {
    return runWorld(this, untilMs, done);
  }

  /** Puts a UDP packet of `payloadBytes` from one node's kernel into its TUN. */
  send(from: EngineNode, to: EngineNode, payloadBytes: number, tag: number): void {
    putPacket(from, to, payloadBytes, tag);
  }

  /** Tags of the packets that a node's kernel received, taken. */
  received(node: EngineNode): number[] {
    return takeTags(node);
  }

  after(node: EngineNode, sent: readonly MemoryDatagram[]): void {
    for (const datagram of sent) this.#launch(node.address, datagram);
  }

  #launch(from: string, datagram: MemoryDatagram): void {
    const to = destinationOf(datagram);
    for (let at = 0; at < datagram.bytes.length; at += datagram.segmentBytes) {
      const bytes = datagram.bytes.slice(at, at + datagram.segmentBytes);
      this.onWire(bytes, from, to);
      if (bytes.length > this.link.maxDatagramBytes) continue;
      const copies = this.random.unit() < this.link.duplicate ? 2 : 1;
      for (let i = 0; i < copies; i++) {
        if (this.random.unit() < this.link.loss) continue;
        const atMs = this.nowMs + this.link.delayMs + this.random.unit() * this.link.jitterMs;
        // to whoever has the address when it arrives
        this.wire.send(atMs, () => {
          const node = this.nodes.find((one) => one.address === to);
          node?.udp.incoming.push(arrival(from, to, bytes, 0));
        });
      }
    }
  }
}
