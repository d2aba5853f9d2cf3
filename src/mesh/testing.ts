/**
 * For tests: mesh nodes in one process, joined by sessions over links with delay, loss and reordering, in virtual time from a seed.
 * A dial becomes a session when the called node knows the caller's key or accepts its invite, as in the session layer.
 */
import type { Now } from "../base/clock.ts";
import { endpointToBytes } from "../base/endpoint.ts";
import { toHex } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import { MeshNode, type JoinResult, type MeshOptions, type MeshOutput } from "./mesh-node.ts";

export const START_WALL_MS = 1_800_000_000_000;

export class TestNode {
  readonly identity: Identity;
  readonly endpoint: Uint8Array;
  mesh: MeshNode;
  isRunning = true;
  /** Nobody reaches it by a dial, and it reaches nobody: behind a NAT or cut off. Open sessions go on. */
  isHidden = false;
  wallOffsetMs = 0;
  readonly stored: Map<string, Uint8Array> = new Map();
  /** Static keys in hex of open sessions. */
  readonly sessions: Set<string> = new Set();
  readonly seen: MeshOutput[] = [];
  readonly #options: MeshOptions;
  readonly #random: SeededRandom;

  constructor(index: number, seed: number, options: MeshOptions) {
    this.#random = new SeededRandom(seed);
    this.identity = Identity.generate(this.#random);
    this.endpoint = endpointToBytes({ address: `192.0.2.${index + 1}`, port: 1000 + index });
    this.#options = options;
    this.mesh = this.#start();
  }

  get staticHex(): string {
    return toHex(this.identity.staticKeys.publicKey);
  }

  /** The process dies: all but the stored statements is gone. */
  restart(now: Now): void {
    const networkId = this.mesh.networkId as Uint8Array;
    this.sessions.clear();
    this.mesh = this.#start();
    this.mesh.restore(now, networkId, [...this.stored.values()]);
    this.mesh.setOwnEndpoints(now, [this.endpoint]);
  }

  outputs<K extends MeshOutput["kind"]>(kind: K): Extract<MeshOutput, { kind: K }>[] {
    return this.seen.filter((output): output is Extract<MeshOutput, { kind: K }> => output.kind === kind);
  }

  get joinResult(): JoinResult | undefined {
    return this.outputs("joinResult").at(-1)?.result;
  }

  #start(): MeshNode {
    return new MeshNode({ identity: this.identity, random: this.#random }, this.#options);
  }
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  run(): void;
}

export class TestWorld {
  nowMs = 0;
  /** Share of control messages lost. */
  loss = 0;
  controlMessages = 0;
  largestControlBytes = 0;
  readonly nodes: TestNode[] = [];
  readonly random: SeededRandom;
  readonly #seed: number;
  #events: Event[] = [];
  #order = 0;

  constructor(seed: number) {
    this.#seed = seed;
    this.random = new SeededRandom(seed);
  }

  add(options: MeshOptions = {}): TestNode {
    const node = new TestNode(this.nodes.length, this.#seed * 1000 + this.nodes.length, options);
    this.nodes.push(node);
    node.mesh.setOwnEndpoints(this.now(node), [node.endpoint]);
    return node;
  }

  now(node: TestNode): Now {
    return { nowMs: this.nowMs, wallMs: START_WALL_MS + this.nowMs + node.wallOffsetMs };
  }

  /** A founder, and members that joined it one after the other. */
  network(members: number, options: MeshOptions = {}): TestNode[] {
    const founder = this.add(options);
    founder.mesh.createNetwork(this.now(founder), { network: "home", name: "n0" });
    for (let i = 1; i < members; i++) {
      const { token } = founder.mesh.createInvite(this.now(founder));
      const node = this.add(options);
      node.mesh.startJoin(this.now(node), token, { name: `n${i}` });
      this.runUntil(() => node.joinResult !== undefined);
    }
    return this.nodes;
  }

  /** @throws Error when it has not become true within the virtual time */
  runUntil(done: () => boolean, limitMs = 120_000): void {
    const endMs = this.nowMs + limitMs;
    this.#drain();
    while (!done()) {
      if (!this.#step(endMs)) throw new Error(`not reached within ${limitMs} virtual ms`);
    }
  }

  run(durationMs: number): void {
    const endMs = this.nowMs + durationMs;
    this.#drain();
    while (this.#step(endMs));
    this.nowMs = endMs;
  }

  /** Both ends see the session end. */
  disconnect(a: TestNode, b: TestNode): void {
    this.#close(a, b.staticHex);
    this.#close(b, a.staticHex);
  }

  connect(a: TestNode, b: TestNode): void {
    this.#open(a, b);
    this.#open(b, a);
    this.#drain();
  }

  send(from: TestNode, to: TestNode, bytes: Uint8Array): void {
    to.mesh.handleControl(this.now(to), from.identity.staticKeys.publicKey, bytes);
    this.#drain();
  }

  stop(node: TestNode): void {
    node.isRunning = false;
    node.sessions.clear();
    for (const other of this.nodes) this.#close(other, node.staticHex);
  }

  #step(endMs: number): boolean {
    let nextMs = Number.POSITIVE_INFINITY;
    for (const node of this.nodes) if (node.isRunning) nextMs = Math.min(nextMs, node.mesh.nextTimeout());
    this.#events.sort((a, b) => a.atMs - b.atMs || a.order - b.order);
    const event = this.#events[0];
    nextMs = Math.min(nextMs, event?.atMs ?? Number.POSITIVE_INFINITY);
    if (nextMs > endMs) return false;
    this.nowMs = Math.max(this.nowMs, nextMs);
    if (event !== undefined && event.atMs <= this.nowMs) {
      this.#events.shift();
      event.run();
    }
    for (const node of this.nodes) {
      if (node.isRunning && node.mesh.nextTimeout() <= this.nowMs) node.mesh.handleTimeout(this.now(node));
    }
    this.#drain();
    return true;
  }

  #later(delayMs: number, run: () => void): void {
    this.#events.push({ atMs: this.nowMs + delayMs, order: this.#order++, run });
  }

  #drain(): void {
    for (let busy = true; busy;) {
      busy = false;
      for (const node of this.nodes) {
        for (let output = node.mesh.pollOutput(); output !== undefined; output = node.mesh.pollOutput()) {
          busy = true;
          if (node.isRunning) this.#follow(node, output);
        }
      }
    }
  }

  #follow(node: TestNode, output: MeshOutput): void {
    node.seen.push(output);
    switch (output.kind) {
      case "send": {
        this.controlMessages++;
        this.largestControlBytes = Math.max(this.largestControlBytes, output.bytes.length);
        const peerHex = toHex(output.staticKey);
        if (!node.sessions.has(peerHex) || this.random.unit() < this.loss) return;
        this.#later(5 + this.random.unit() * 15, () => {
          const peer = this.nodes.find((other) => other.staticHex === peerHex);
          if (peer?.isRunning !== true || !peer.sessions.has(node.staticHex)) return;
          peer.mesh.handleControl(this.now(peer), node.identity.staticKeys.publicKey, output.bytes);
        });
        return;
      }
      case "persistStatement":
        node.stored.set(toHex(output.hash), output.bytes);
        return;
      case "dial":
        this.#later(20, () => this.#handshake(node, toHex(output.staticKey), output.inviteId));
        return;
      case "dropPeer": {
        const peerHex = toHex(output.staticKey);
        this.#close(node, peerHex);
        const peer = this.nodes.find((other) => other.staticHex === peerHex);
        if (peer !== undefined) this.#later(1000, () => this.#close(peer, node.staticHex));
        return;
      }
      default:
    }
  }

  #handshake(caller: TestNode, calledHex: string, inviteId: Uint8Array | undefined): void {
    const called = this.nodes.find((other) => other.staticHex === calledHex);
    if (called?.isHidden !== false || caller.isHidden) return;
    if (!called.isRunning || !caller.isRunning || called.mesh.networkId === undefined) return;
    if (toHex(called.mesh.networkId) !== toHex(caller.mesh.networkId ?? new Uint8Array(0))) return;
    const isKnown = called.mesh.memberByStaticKey(caller.identity.staticKeys.publicKey) !== undefined;
    const wallMs = this.now(called).wallMs;
    const isInvited = inviteId !== undefined && called.mesh.acceptsInvite(inviteId, wallMs) !== "unknown";
    if (!isKnown && !isInvited) return;
    this.#open(called, caller);
    this.#open(caller, called);
  }

  #open(node: TestNode, peer: TestNode): void {
    node.sessions.add(peer.staticHex);
    node.mesh.peerUp(this.now(node), peer.identity.staticKeys.publicKey);
  }

  #close(node: TestNode, peerHex: string): void {
    if (!node.sessions.delete(peerHex)) return;
    node.mesh.peerDown(this.now(node), Uint8Array.fromHex(peerHex));
  }
}
