/**
 * N nodes with the shipped publish/subscribe machine in virtual time from a seed: links with delay and loss, nodes that die and come back,
 * partitions, peers that are slow, stuck, or read a byte per second, and a directory that samples. It counts who got what; what must never
 * happen is collected in `violations`.
 *
 *   net.subscribe(node, "t")   net.publish(node, "t", bytes)   net.kill(node)   net.restart(node)   net.split(sideOf)   net.run(ms)
 *
 * Time moves in steps of one millisecond. Signatures are a check sum over the signed head: only whether they hold matters.
 */
import type { Now } from "../src/base/clock.ts";
import { SeededRandom } from "../src/base/random.ts";
import { isMessage } from "../src/messaging/pubsub/message.ts";
import { PubSub } from "../src/messaging/pubsub/pubsub.ts";
import type { Subscriber } from "../src/messaging/pubsub/subscribers.ts";
import type { PeerKey, PubSubOptions, SendTicket } from "../src/messaging/pubsub/types.ts";

const START_WALL_MS = 1_800_000_000_000;
/** Peers of a node that died notice it after this long. */
const NOTICE_MS = 4000;
/** The directory believes in dead subscribers for this long. */
const STALE_MS = 10_000;
/** Frames into a partition are given up after this long. */
const LOST_MS = 3000;
/** What a frame costs on the wire beyond itself. */
const FRAME_OVERHEAD = 4;

export interface NetOptions {
  readonly nodes: number;
  readonly pubsub?: PubSubOptions;
  /** One-way delay between two nodes. @default 10 … 60, fixed per pair */
  readonly delayMs?: (a: SimPubSub, b: SimPubSub) => number;
}

/** What a peer's receiver does. */
export type Manner =
  | { readonly kind: "well" }
  | { readonly kind: "stuck" }
  | { readonly kind: "trickle"; readonly bytesPerSecond: number };

export class SimPubSub {
  readonly index: number;
  readonly id: Uint8Array;
  readonly key: PeerKey;
  readonly subscriptions: Map<string, Subscriber> = new Map();
  readonly contacts: Set<SimPubSub> = new Set();
  machine: PubSub;
  isUp = true;
  /** Of this life. */
  upSinceMs = 0;
  readonly subscribedMs: Map<string, number> = new Map();
  manner: Manner = { kind: "well" };
  /** Until when its slow receiver is busy. */
  busyUntilMs = 0;
  held: (() => void)[] = [];
  timerMs: number = Number.POSITIVE_INFINITY;
  sentFrames = 0;
  sentBytes = 0;
  receivedBytes = 0;

  constructor(index: number, id: Uint8Array, machine: (self: SimPubSub) => PubSub) {
    this.index = index;
    this.id = id;
    this.key = id.toHex();
    this.machine = machine(this);
  }
}

/** One publish and who got it. */
export interface Trace {
  readonly topic: string;
  readonly atMs: number;
  readonly by: SimPubSub;
  /** By node index: how long it took, undefined when it did not arrive. */
  readonly tookMs: (number | undefined)[];
}

export class MessagingNet {
  nowMs = 0;
  loss = 0;
  readonly random: SeededRandom;
  readonly nodes: SimPubSub[] = [];
  readonly violations: string[] = [];
  readonly traces: Trace[] = [];
  /** Frames by type since the last clear. */
  frames = 0;
  payloadBytes = 0;
  controlBytes = 0;
  /** Bytes put on the wire, per virtual second. */
  readonly bytesBySecond: number[] = [];
  /** Sees every frame on its way; what it returns is delivered, undefined drops it. */
  tamper: ((from: SimPubSub, to: SimPubSub, frame: Uint8Array) => Uint8Array | undefined) | undefined;
  readonly #options: NetOptions;
  readonly #byKey = new Map<PeerKey, SimPubSub>();
  readonly #subscribed = new Map<string, SimPubSub[]>();
  readonly #logs = new Map<SimPubSub, { readonly sequence: number; readonly frame: Uint8Array }[]>();
  readonly #buckets = new Map<number, (() => void)[]>();
  readonly #traceByKey = new Map<string, Trace>();
  #sideOf: ((node: SimPubSub) => number) | undefined;

  constructor(seed: number, options: NetOptions) {
    this.random = new SeededRandom(seed);
    this.#options = options;
    for (let i = 0; i < options.nodes; i++) {
      const id = this.random.bytes(32);
      const node = new SimPubSub(i, id, (self) => this.#machine(self));
      this.nodes.push(node);
      this.#byKey.set(node.key, node);
    }
  }

  get now(): Now {
    return { nowMs: this.nowMs, wallMs: START_WALL_MS + this.nowMs };
  }

  subscribe(node: SimPubSub, topic: string): Subscriber {
    const all = this.#subscribed.get(topic) ?? [];
    this.#subscribed.set(topic, all);
    if (!all.includes(node)) all.push(node);
    node.subscribedMs.set(topic, this.nowMs);
    let subscriber: Subscriber | undefined;
    this.#touch(node, () => {
      subscriber = node.machine.subscribe(this.now, topic, { maxEvents: 100_000, maxBytes: 1 << 30 });
    });
    node.subscriptions.set(topic, subscriber as Subscriber);
    return subscriber as Subscriber;
  }

  /** As subscribe() for many nodes, in one pass. */
  subscribeAll(topic: string, nodes: readonly SimPubSub[] = this.nodes): void {
    this.#subscribed.set(topic, [...nodes]);
    for (const node of nodes) {
      node.subscribedMs.set(topic, this.nowMs);
      this.#touch(node, () =>
        node.subscriptions.set(
          topic,
          node.machine.subscribe(this.now, topic, { maxEvents: 100_000, maxBytes: 1 << 30 }),
        ),
      );
    }
  }

  unsubscribe(node: SimPubSub, topic: string): void {
    const subscriber = node.subscriptions.get(topic);
    if (subscriber === undefined) return;
    node.subscriptions.delete(topic);
    node.subscribedMs.delete(topic);
    this.#unlist(node, topic);
    this.#touch(node, () => node.machine.unsubscribe(this.now, subscriber.id));
  }

  publish(node: SimPubSub, topic: string, payload: Uint8Array): Trace {
    const trace: Trace = { topic, atMs: this.nowMs, by: node, tookMs: Array.from({ length: this.nodes.length }) };
    this.traces.push(trace);
    this.#touch(node, () => {
      const { epoch, sequence } = node.machine.publish(this.now, topic, payload);
      this.#traceByKey.set(`${topic} ${node.index} ${epoch} ${sequence}`, trace);
    });
    return trace;
  }

  /** The process is gone at once; the others notice later. */
  kill(node: SimPubSub): void {
    if (!node.isUp) return;
    node.isUp = false;
    node.timerMs = Number.POSITIVE_INFINITY;
    for (const other of node.contacts) this.later(NOTICE_MS, () => this.#down(other, node));
    for (const topic of node.subscriptions.keys())
      this.later(STALE_MS, () => {
        if (!node.isUp) this.#unlist(node, topic);
      });
    node.contacts.clear();
    node.held = [];
  }

  /** A process anew with nothing remembered, subscribed as before. */
  restart(node: SimPubSub): void {
    if (node.isUp) this.kill(node);
    for (const other of this.nodes) if (other.contacts.delete(node)) this.#down(other, node);
    const topics = [...node.subscriptions.keys()];
    node.isUp = true;
    node.upSinceMs = this.nowMs;
    node.subscriptions.clear();
    node.machine = this.#machine(node);
    for (const topic of topics) this.subscribe(node, topic);
  }

  /** Nodes of different sides do not reach each other any more; undefined: all do again. */
  split(sideOf: ((node: SimPubSub) => number) | undefined): void {
    this.#sideOf = sideOf;
    if (sideOf === undefined) return;
    for (const node of this.nodes)
      for (const other of node.contacts)
        if (sideOf(node) !== sideOf(other))
          this.later(NOTICE_MS * (1 + this.random.unit()), () => this.#down(node, other));
  }

  /** Nothing goes through a stuck peer's receiver; when it is well again, what waited goes on. */
  setManner(node: SimPubSub, manner: Manner): void {
    node.manner = manner;
    if (manner.kind !== "well") return;
    const waiting = node.held;
    node.held = [];
    for (const go of waiting) go();
  }

  /** What the node would have on disk, with `hasLog`. */
  logOf(node: SimPubSub): { readonly sequence: number; readonly frame: Uint8Array }[] {
    const log = this.#logs.get(node) ?? [];
    this.#logs.set(node, log);
    return log;
  }

  later(delayMs: number, action: () => void): void {
    const atMs = Math.max(this.nowMs + 1, Math.ceil(this.nowMs + delayMs));
    const bucket = this.#buckets.get(atMs);
    if (bucket === undefined) this.#buckets.set(atMs, [action]);
    else bucket.push(action);
  }

  run(durationMs: number): void {
    const endMs = this.nowMs + durationMs;
    while (this.nowMs < endMs) {
      this.nowMs++;
      const bucket = this.#buckets.get(this.nowMs);
      if (bucket === undefined) continue;
      this.#buckets.delete(this.nowMs);
      for (const action of bucket) action();
    }
  }

  /** Share of (message, node) pairs that arrived, among nodes subscribed and up from before the publish until now. */
  delivery(settleMs = 3000): { expected: number; delivered: number; share: number; tookMs: number[] } {
    let expected = 0;
    let delivered = 0;
    const tookMs: number[] = [];
    for (const trace of this.traces) {
      for (const node of this.nodes) {
        const since = node.subscribedMs.get(trace.topic);
        if (!node.isUp || node === trace.by || since === undefined || since + settleMs > trace.atMs) continue;
        expected++;
        const took = trace.tookMs[node.index];
        if (took === undefined) continue;
        delivered++;
        tookMs.push(took);
      }
    }
    return { expected, delivered, share: expected === 0 ? 1 : delivered / expected, tookMs };
  }

  clearFigures(): void {
    this.traces.length = 0;
    this.#traceByKey.clear();
    this.frames = 0;
    this.payloadBytes = 0;
    this.controlBytes = 0;
    this.bytesBySecond.length = 0;
    for (const node of this.nodes) {
      node.sentFrames = 0;
      node.sentBytes = 0;
      node.receivedBytes = 0;
    }
  }

  sum(counter: keyof PubSub["counters"]): number {
    let sum = 0;
    for (const node of this.nodes) if (node.isUp) sum += node.machine.counters[counter];
    return sum;
  }

  /** Eager and lazy links of a topic over the nodes that are up. */
  links(topic: string): { meanEager: number; maxEager: number; minEager: number; maxLazy: number } {
    let nodes = 0;
    let sum = 0;
    let maxEager = 0;
    let minEager = Number.POSITIVE_INFINITY;
    let maxLazy = 0;
    for (const node of this.nodes) {
      const tree = node.isUp ? node.machine.topic(topic)?.tree : undefined;
      if (tree === undefined) continue;
      nodes++;
      sum += tree.eager;
      maxEager = Math.max(maxEager, tree.eager);
      minEager = Math.min(minEager, tree.eager);
      maxLazy = Math.max(maxLazy, tree.lazy);
    }
    return { meanEager: nodes === 0 ? 0 : sum / nodes, maxEager, minEager, maxLazy };
  }

  delay(a: SimPubSub, b: SimPubSub): number {
    if (this.#options.delayMs !== undefined) return this.#options.delayMs(a, b);
    // the same in both directions
    const low = Math.min(a.index, b.index);
    const high = Math.max(a.index, b.index);
    return 10 + (((Math.imul(low + 1, 2_654_435_761) ^ Math.imul(high + 7, 40_503)) >>> 0) % 50);
  }

  // ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #machine(self: SimPubSub): PubSub {
    return new PubSub(
      {
        nodeId: self.id,
        random: new SeededRandom(this.random.u32()),
        directory: { sample: (topic, count) => this.#sample(self, topic, count) },
        sign: (body) => checksum(self.id, body),
        isMember: (publisher) => this.#byKey.has(publisher.toHex()),
        verify: (_id, publisher, body, signature) => {
          const right = checksum(publisher, body);
          return (
            right[0] === signature[0] &&
            right[1] === signature[1] &&
            right[2] === signature[2] &&
            right[3] === signature[3]
          );
        },
        rttMs: (peer) => {
          const other = this.#byKey.get(peer);
          return other === undefined ? undefined : 2 * this.delay(self, other);
        },
      },
      this.now,
      this.#options.pubsub,
    );
  }

  #sample(self: SimPubSub, topic: string, count: number): PeerKey[] {
    const all = this.#subscribed.get(topic) ?? [];
    const mayReach = (other: SimPubSub): boolean =>
      other !== self && (this.#sideOf === undefined || this.#sideOf(self) === this.#sideOf(other));
    if (count >= all.length) return all.filter(mayReach).map((node) => node.key);
    const picked = new Set<PeerKey>();
    for (let tries = 0; tries < count * 4 && picked.size < count; tries++) {
      const node = all[this.random.u32() % all.length];
      if (mayReach(node)) picked.add(node.key);
    }
    return [...picked];
  }

  #unlist(node: SimPubSub, topic: string): void {
    const all = this.#subscribed.get(topic);
    const at = all?.indexOf(node) ?? -1;
    if (at >= 0) all?.splice(at, 1);
  }

  #down(node: SimPubSub, peer: SimPubSub): void {
    node.contacts.delete(peer);
    if (node.isUp) this.#touch(node, () => node.machine.peerDown(this.now, peer.key));
  }

  #touch(node: SimPubSub, act: () => void): void {
    act();
    const { machine } = node;
    for (let output = machine.pollOutput(); output !== undefined; output = machine.pollOutput()) {
      if (output.kind === "send") this.#send(node, output.ticket);
      else if (output.kind === "wake") this.#read(node, output.subscription);
      else if (output.kind === "retain")
        this.logOf(node).push({ sequence: output.message.sequence, frame: output.frame });
    }
    const dueMs = machine.nextTimeoutMs;
    if (dueMs >= node.timerMs || dueMs === Number.POSITIVE_INFINITY) return;
    const timerMs = Math.max(this.nowMs + 1, Math.ceil(dueMs));
    if (timerMs >= node.timerMs) return;
    node.timerMs = timerMs;
    this.later(timerMs - this.nowMs, () => {
      if (node.machine !== machine || node.timerMs !== timerMs || !node.isUp) return;
      node.timerMs = Number.POSITIVE_INFINITY;
      this.#touch(node, () => machine.handleTimeout(this.now));
    });
  }

  #read(node: SimPubSub, subscription: number): void {
    for (let event = node.machine.poll(subscription); event !== undefined; event = node.machine.poll(subscription)) {
      if (event.kind !== "message") continue;
      const { topic, publisher, epoch, sequence } = event.message;
      const by = this.#byKey.get(publisher.toHex());
      const trace = this.#traceByKey.get(`${topic} ${by?.index} ${epoch} ${sequence}`);
      if (trace === undefined) continue;
      const known = trace.tookMs[node.index];
      if (known !== undefined && trace.atMs + known >= node.upSinceMs)
        this.violations.push(`node ${node.index} got ${sequence} of ${by?.index} twice`);
      trace.tookMs[node.index] = this.nowMs - trace.atMs;
    }
  }

  #send(from: SimPubSub, ticket: SendTicket): void {
    const to = this.#byKey.get(ticket.peer);
    const { frame } = ticket;
    if (to === undefined) {
      // somebody that a test has made up
      this.later(LOST_MS, () => from.machine.sent(this.now, ticket, "lost"));
      return;
    }
    const bytes = frame.length + FRAME_OVERHEAD;
    this.frames++;
    from.sentFrames++;
    from.sentBytes += bytes;
    if (isMessage(frame[0])) this.payloadBytes += bytes;
    else this.controlBytes += bytes;
    const second = Math.floor(this.nowMs / 1000);
    while (this.bytesBySecond.length <= second) this.bytesBySecond.push(0);
    this.bytesBySecond[second] += bytes;
    from.contacts.add(to);
    to.contacts.add(from);
    const { machine } = from;
    const done = (fate: "flushed" | "lost"): void => {
      if (from.machine === machine && from.isUp) this.#touch(from, () => machine.sent(this.now, ticket, fate));
    };
    const isCut = (): boolean => !to.isUp || (this.#sideOf !== undefined && this.#sideOf(from) !== this.#sideOf(to));
    if (isCut()) {
      this.later(LOST_MS, () => done("lost"));
      return;
    }
    const delayMs = this.delay(from, to);
    if (this.random.unit() < this.loss) {
      this.later(delayMs, () => done("lost"));
      return;
    }
    const arrive = (): void => {
      if (isCut()) {
        done("lost");
        return;
      }
      const sent = this.tamper === undefined ? frame : this.tamper(from, to, frame);
      if (sent !== undefined)
        this.#touch(to, () => {
          to.receivedBytes += bytes;
          to.machine.receive(this.now, from.key, sent);
          while (to.machine.process(this.now, 64));
        });
      done("flushed");
    };
    if (to.manner.kind === "well") this.later(delayMs, arrive);
    else if (to.manner.kind === "stuck") to.held.push(() => this.later(delayMs, arrive));
    else {
      to.busyUntilMs = Math.max(to.busyUntilMs, this.nowMs) + (1000 * bytes) / to.manner.bytesPerSecond;
      this.later(delayMs + Math.min(1e7, to.busyUntilMs - this.nowMs), arrive);
    }
  }
}

/** 64 bytes that depend on the publisher and the signed head (topic, publisher, epoch, sequence, clock). */
function checksum(publisher: Uint8Array, body: Uint8Array): Uint8Array {
  let hash = 2_166_136_261;
  for (let i = 0; i < 32; i += 4) hash = Math.imul(hash ^ publisher[i], 16_777_619);
  const length = Math.min(body.length, 100);
  for (let i = 0; i < length; i++) hash = Math.imul(hash ^ body[i], 16_777_619);
  const out = new Uint8Array(64);
  for (let i = 0; i < 4; i++) out[i] = hash >>> (8 * i);
  return out;
}
