/** For tests: replicas in one process over a network that loses, doubles, delays and cuts, in virtual time from a seed. */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import type { StoreOp } from "../store-types.ts";
import { SpaceKind } from "./entry.ts";
import { Replicas, type ReplicasOptions } from "./replicas.ts";
import type { Space, SpaceRules } from "./space.ts";

export const NETWORK: Uint8Array = new Uint8Array(32).fill(7);
export const START_WALL_MS = 1_800_000_000_000;
export const ANYTHING: SpaceRules = { allows: () => true, authorShare: 1 };

export class TestReplica {
  readonly identity: Identity;
  readonly blocked: Set<string> = new Set();
  /** Node id → last hlc that counts. */
  readonly writesUntil: Map<string, number> = new Map();
  /** Key → entry, as the store has it. */
  readonly stored: Map<string, Uint8Array> = new Map();
  wallOffsetMs = 0;
  sentBytes = 0;
  replicas: Replicas;
  readonly #world: ReplicaWorld;
  readonly #options: ReplicasOptions;
  readonly #random: SeededRandom;

  constructor(world: ReplicaWorld, seed: number, options: ReplicasOptions) {
    this.#world = world;
    this.#options = options;
    this.#random = new SeededRandom(seed);
    this.identity = Identity.generate(this.#random);
    this.replicas = this.#start();
  }

  get hex(): string {
    return toHex(this.identity.nodeId);
  }

  get now(): Now {
    return { nowMs: this.#world.nowMs, wallMs: START_WALL_MS + this.#world.nowMs + this.wallOffsetMs };
  }

  open(name = "default", kind: SpaceKind = SpaceKind.KV, rules: SpaceRules = ANYTHING): Space {
    return this.replicas.open(this.now, kind, name, rules);
  }

  /** The process dies and starts again with what was stored. */
  restart(name = "default", kind: SpaceKind = SpaceKind.KV, rules: SpaceRules = ANYTHING): Space {
    this.replicas = this.#start();
    return this.replicas.restore(this.now, kind, name, rules, [...this.stored.values()]);
  }

  take(op: StoreOp): void {
    const [space, key, wire] = op.values;
    const name = `${toHex(space as Uint8Array)}/${String(key)}`;
    if (op.name === "kv.entry.put") this.stored.set(name, wire as Uint8Array);
    else if (op.name === "kv.entry.delete") this.stored.delete(name);
  }

  #start(): Replicas {
    const world = this.#world;
    return new Replicas(
      {
        signer: this.identity,
        random: this.#random,
        networkId: NETWORK,
        others: () => world.nodes.filter((node) => node !== this).map((node) => node.identity.nodeId),
        candidates: () => [],
        isBlocked: (nodeId) => this.blocked.has(toHex(nodeId)),
        mayWrite: (nodeId, hlc) => hlc <= (this.writesUntil.get(toHex(nodeId)) ?? Infinity),
      },
      this.#options,
    );
  }
}

export class ReplicaWorld {
  nowMs = 0;
  loss = 0;
  doubles = 0;
  frames = 0;
  /** False: nothing gets from one to the other. */
  connected: (from: TestReplica, to: TestReplica) => boolean = () => true;
  readonly nodes: TestReplica[] = [];
  readonly #random: SeededRandom;
  readonly #seed: number;
  #queue: { readonly atMs: number; readonly order: number; run(): void }[] = [];
  #order = 0;

  constructor(seed: number) {
    this.#seed = seed;
    this.#random = new SeededRandom(seed);
  }

  add(options: ReplicasOptions = {}): TestReplica {
    const node = new TestReplica(this, this.#seed * 1000 + this.nodes.length + 1, options);
    this.nodes.push(node);
    return node;
  }

  /** A session between both comes up. */
  up(a: TestReplica, b: TestReplica): void {
    a.replicas.peerUp(a.now, b.identity.nodeId);
    b.replicas.peerUp(b.now, a.identity.nodeId);
    this.drain();
  }

  run(durationMs: number): void {
    const endMs = this.nowMs + durationMs;
    this.drain();
    for (;;) {
      this.#queue.sort((a, b) => a.atMs - b.atMs || a.order - b.order);
      let next = this.#queue[0]?.atMs ?? Infinity;
      for (const node of this.nodes) next = Math.min(next, node.replicas.nextTimeoutMs());
      if (next > endMs) break;
      this.nowMs = Math.max(this.nowMs, next);
      while (this.#queue.length > 0 && this.#queue[0].atMs <= this.nowMs) this.#queue.shift()!.run();
      for (const node of this.nodes) {
        if (node.replicas.nextTimeoutMs() <= this.nowMs) node.replicas.handleTimeout(node.now);
      }
      this.drain();
    }
    this.nowMs = endMs;
  }

  drain(): void {
    for (const node of this.nodes) {
      for (let output = node.replicas.pollOutput(); output !== undefined; output = node.replicas.pollOutput()) {
        if (output.kind === "store") node.take(output.op);
        else if (output.kind === "send") this.#deliver(node, toHex(output.to), output.frame);
      }
    }
  }

  #deliver(from: TestReplica, toHexId: string, frame: Uint8Array): void {
    this.frames++;
    from.sentBytes += frame.length;
    const to = this.nodes.find((node) => node.hex === toHexId);
    if (to === undefined) return;
    const copies = this.#random.unit() < this.doubles ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      if (this.#random.unit() < this.loss) continue;
      this.#queue.push({
        atMs: this.nowMs + 1 + this.#random.unit() * 40,
        order: this.#order++,
        run: () => {
          if (!this.connected(from, to)) return;
          to.replicas.handleFrame(to.now, from.identity.nodeId, frame);
          this.drain();
        },
      });
    }
  }
}
