/**
 * N nodes with the shipped routing machine in virtual time from a seed: sessions between some of them with delay and loss, a plain model of the data
 * plane (ways, forward entries, errors under a label), churn, silent cuts, restarts and partitions. Every packet carries its trace; what must never
 * happen is collected in `violations`.
 *
 *   net.connect(a, b, delayMs)   both ends see the session          net.seek(a, b)     as the runtime does when traffic waits
 *   net.cut(a, b)                silently; the ends notice later    net.probe(a, b)    one packet over each candidate of a for b
 *   net.restart(a)               its tables are gone                net.run(ms)
 * Signatures are keyed hashes here: only whether they hold matters.
 */
import { createHash } from "node:crypto";
import type { Now } from "../src/base/clock.ts";
import { compare, equal, toHex, utf8 } from "../src/base/bytes.ts";
import { VirtualType, virtualOf } from "../src/base/endpoint.ts";
import { SeededRandom } from "../src/base/random.ts";
import { type ControlMessage, decodeControl, encodeControl } from "../src/mesh/control.ts";
import type { RoutingMessage } from "../src/mesh/routing/messages.ts";
import { Routing, type RoutingOptions, type RoutingOutput } from "../src/mesh/routing/routing.ts";

const START_WALL_MS = 1_800_000_000_000;
/** Errors under a label, as the data plane makes them. */
const UNKNOWN_LABEL = 1;
const NO_PATH = 2;
/** Ends notice a silent cut after this long. */
const NOTICE_MS = 2000;

export interface Packet {
  readonly source: SimNode;
  readonly target: SimNode;
  /** Nodes it was at, in order. */
  readonly trace: SimNode[];
}

interface ViaEntry {
  readonly id: number;
  readonly target: Uint8Array;
  readonly hop: Uint8Array;
  readonly out: number;
  readonly in: number;
}

interface ForwardEntry {
  readonly label: number;
  readonly from: Uint8Array;
  readonly to: Uint8Array;
  readonly out: number;
}

export class SimNode {
  readonly index: number;
  readonly id: Uint8Array;
  readonly hex: string;
  readonly secret: Uint8Array;
  routing: Routing;
  isBeacon = false;
  allowsTransit = true;
  delivered = 0;
  readonly vias: Map<number, ViaEntry> = new Map();
  /** "hop/label" and "from/label". */
  readonly viaByLabel: Map<string, ViaEntry> = new Map();
  readonly forwards: Map<string, ForwardEntry> = new Map();
  timerAtMs: number = Number.POSITIVE_INFINITY;
  readonly #make: (node: SimNode) => Routing;

  constructor(index: number, random: SeededRandom, make: (node: SimNode) => Routing) {
    this.index = index;
    this.id = random.bytes(32);
    this.hex = toHex(this.id);
    this.secret = random.bytes(16);
    this.#make = make;
    this.routing = make(this);
  }

  forget(): void {
    this.vias.clear();
    this.viaByLabel.clear();
    this.forwards.clear();
    this.timerAtMs = Number.POSITIVE_INFINITY;
    this.routing = this.#make(this);
  }
}

interface Session {
  readonly delayMs: number;
  /** Cut silently: nothing gets through, nobody knows yet. */
  isCut: boolean;
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  run(): void;
}

/** Smallest first, binary heap. */
class EventQueue {
  readonly #heap: Event[] = [];

  get first(): Event | undefined {
    return this.#heap[0];
  }

  push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (!before(event, heap[up])) break;
      heap[at] = heap[up];
      at = up;
    }
    heap[at] = event;
  }

  pop(): Event | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      if (down >= heap.length) break;
      if (down + 1 < heap.length && before(heap[down + 1], heap[down])) down++;
      if (!before(heap[down], last)) break;
      heap[at] = heap[down];
      at = down;
    }
    heap[at] = last;
    return top;
  }
}

function before(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

export class MeshNet {
  nowMs = 0;
  /** Share of control messages and packets lost. */
  loss = 0;
  readonly nodes: SimNode[] = [];
  readonly random: SeededRandom;
  /** What must never happen, with the seed's circumstances. */
  readonly violations: string[] = [];
  controlMessages = 0;
  controlBytes = 0;
  packets = 0;
  deliveries = 0;
  /** Sees every control message; what it returns instead is delivered, undefined drops it. */
  tamper: ((from: SimNode, to: SimNode, message: RoutingMessage) => RoutingMessage | undefined) | undefined;
  readonly #byHex = new Map<string, SimNode>();
  readonly #sessions = new Map<string, Session>();
  readonly #queue = new EventQueue();
  readonly #members = new Set<string>();
  #order = 0;

  constructor(seed: number, nodes: number, options: (index: number) => RoutingOptions = () => ({})) {
    this.random = new SeededRandom(seed);
    for (let i = 0; i < nodes; i++) {
      const node = new SimNode(i, this.random, (self) => this.#routing(self, options(i)));
      this.nodes.push(node);
      this.#byHex.set(node.hex, node);
      this.#members.add(node.hex);
    }
  }

  get now(): Now {
    return { nowMs: this.nowMs, wallMs: START_WALL_MS + this.nowMs };
  }

  isConnected(a: SimNode, b: SimNode): boolean {
    return this.#session(a, b)?.isCut === false;
  }

  connect(a: SimNode, b: SimNode, delayMs: number): void {
    if (a === b || this.#session(a, b) !== undefined) return;
    this.#sessions.set(key(a, b), { delayMs, isCut: false });
    this.#touch(a, () => a.routing.peerUp(this.now, b.id, { rttMs: 2 * delayMs }));
    this.#touch(b, () => b.routing.peerUp(this.now, a.id, { rttMs: 2 * delayMs }));
  }

  /** Nothing gets through any more; both ends notice later. */
  cut(a: SimNode, b: SimNode, noticeMs: number = NOTICE_MS): void {
    const session = this.#session(a, b);
    if (session === undefined || session.isCut) return;
    session.isCut = true;
    this.#later(noticeMs, () => this.disconnect(a, b));
  }

  /** Both ends know at once. */
  disconnect(a: SimNode, b: SimNode): void {
    if (!this.#sessions.delete(key(a, b))) return;
    this.#lose(a, b);
    this.#lose(b, a);
  }

  /** The process of the node starts anew: its tables are gone, its sessions are made again. */
  restart(node: SimNode): void {
    const others = this.nodes.filter((other) => this.#session(node, other) !== undefined);
    const delays = others.map((other) => this.#session(node, other)?.delayMs ?? 5);
    node.forget();
    others.forEach((other, i) => {
      this.#sessions.delete(key(node, other));
      // the session of the other end lives on in its eyes: labels are unknown here, and errors say so
      this.#sessions.set(key(node, other), { delayMs: delays[i], isCut: false });
      this.#touch(node, () => node.routing.peerUp(this.now, other.id, { rttMs: 2 * delays[i] }));
    });
  }

  removeMember(node: SimNode): void {
    this.#members.delete(node.hex);
    for (const other of this.nodes) {
      if (other === node) continue;
      this.disconnect(node, other);
      this.#touch(other, () => other.routing.memberRemoved(this.now, node.id));
    }
  }

  seek(a: SimNode, b: SimNode): void {
    this.#touch(a, () => a.routing.seek(this.now, b.id));
  }

  /** One packet over each candidate. @returns how many left */
  probe(a: SimNode, b: SimNode): number {
    let sent = 0;
    for (const endpoint of a.routing.candidates(this.now, b.id)) {
      const virtual = virtualOf(endpoint);
      if (virtual?.type !== VirtualType.LABEL) this.violations.push("a candidate is no label");
      const via = a.vias.get(virtual?.id ?? 0);
      if (via === undefined || !equal(via.target, b.id)) {
        this.violations.push(`candidate ${virtual?.id} of ${a.index} for ${b.index} is not installed`);
        continue;
      }
      sent++;
      this.packets++;
      this.#carry(a, via.hop, via.out, { source: a, target: b, trace: [a] });
    }
    return sent;
  }

  /** One packet from a to `hop` under a label, as if a way of a had it. */
  send(a: SimNode, hop: SimNode, label: number, target: SimNode): void {
    this.packets++;
    this.#carry(a, hop.id, label, { source: a, target, trace: [a] });
  }

  /** As the data plane gives up entries that nothing uses. */
  expireForward(node: SimNode): void {
    const entry = node.forwards.values().next().value;
    if (entry === undefined) return;
    node.forwards.delete(`${toHex(entry.from)}/${entry.label}`);
    this.#touch(node, () => node.routing.forwardExpired(this.now, entry.label, entry.from));
  }

  /** A control message as if `from` had said it through a session. */
  say(from: SimNode, to: SimNode, message: RoutingMessage): void {
    this.#touch(to, () => to.routing.handle(this.now, from.id, message));
  }

  run(durationMs: number): void {
    this.runUntil(() => false, durationMs);
  }

  /** @returns whether it has become true in that time */
  runUntil(done: () => boolean, limitMs: number): boolean {
    const endMs = this.nowMs + limitMs;
    for (;;) {
      if (done()) return true;
      const event = this.#queue.first;
      if (event === undefined || event.atMs > endMs) break;
      this.#queue.pop();
      this.nowMs = Math.max(this.nowMs, event.atMs);
      event.run();
    }
    this.nowMs = endMs;
    return false;
  }

  /** Sessions on the shortest way through members that allow it; undefined: there is none. */
  distance(a: SimNode, b: SimNode): number | undefined {
    const seen = new Map<SimNode, number>([[a, 0]]);
    const queue: SimNode[] = [a];
    for (let at = 0; at < queue.length; at++) {
      const node = queue[at];
      const steps = seen.get(node) as number;
      if (node === b) return steps;
      if (node !== a && !node.allowsTransit && !node.isBeacon) continue;
      for (const other of this.nodes) {
        if (seen.has(other) || !this.isConnected(node, other)) continue;
        seen.set(other, steps + 1);
        queue.push(other);
      }
    }
    return undefined;
  }

  #routing(self: SimNode, options: RoutingOptions): Routing {
    const digest = (node: SimNode, kind: string, body: Uint8Array): Uint8Array => {
      const half = createHash("sha256").update(node.secret).update(utf8(kind)).update(body).digest();
      return Uint8Array.from([...half, ...half]);
    };
    return new Routing(
      {
        nodeId: self.id,
        random: new SeededRandom(this.random.u32()),
        sign: (kind, body) => digest(self, kind, body),
        verify: (nodeId, kind, body, signature) => {
          const node = this.#byHex.get(toHex(nodeId));
          return node !== undefined && equal(digest(node, kind, body), signature);
        },
        isMember: (nodeId) => this.#members.has(toHex(nodeId)),
        isBeacon: (nodeId) => this.#byHex.get(toHex(nodeId))?.isBeacon === true,
        mayTransit: () => self.allowsTransit,
      },
      options,
    );
  }

  #session(a: SimNode, b: SimNode): Session | undefined {
    return this.#sessions.get(key(a, b));
  }

  #lose(node: SimNode, peer: SimNode): void {
    for (const entry of node.forwards.values()) {
      if (equal(entry.from, peer.id) || equal(entry.to, peer.id))
        node.forwards.delete(`${toHex(entry.from)}/${entry.label}`);
    }
    this.#touch(node, () => node.routing.peerDown(this.now, peer.id));
  }

  #later(delayMs: number, run: () => void): void {
    this.#queue.push({ atMs: this.nowMs + delayMs, order: this.#order++, run });
  }

  /** Gives the node something to do, follows its outputs and arms its timer. */
  #touch(node: SimNode, act: () => void): void {
    act();
    for (let output = node.routing.pollOutput(); output !== undefined; output = node.routing.pollOutput())
      this.#follow(node, output);
    this.#arm(node);
  }

  #arm(node: SimNode): void {
    const dueMs = node.routing.nextTimeoutMs;
    if (dueMs >= node.timerAtMs || dueMs === Number.POSITIVE_INFINITY) return;
    node.timerAtMs = Math.max(dueMs, this.nowMs);
    const { timerAtMs, routing } = node;
    this.#queue.push({
      atMs: timerAtMs,
      order: this.#order++,
      run: () => {
        if (node.routing !== routing || node.timerAtMs !== timerAtMs) return;
        node.timerAtMs = Number.POSITIVE_INFINITY;
        this.#touch(node, () => node.routing.handleTimeout(this.now));
      },
    });
  }

  #follow(node: SimNode, output: RoutingOutput): void {
    switch (output.kind) {
      case "send":
        return this.#send(node, output.nodeId, output.message);
      case "via":
        if (node.vias.has(output.id)) this.violations.push(`way ${output.id} of ${node.index} is installed twice`);
        node.vias.set(output.id, output);
        node.viaByLabel.set(`${toHex(output.hop)}/${output.in}`, output);
        return;
      case "viaRemove": {
        const via = node.vias.get(output.id);
        if (via !== undefined) node.viaByLabel.delete(`${toHex(via.hop)}/${via.in}`);
        node.vias.delete(output.id);
        return;
      }
      case "forward": {
        const entryKey = `${toHex(output.from)}/${output.label}`;
        if (node.viaByLabel.has(entryKey) || node.forwards.has(entryKey))
          this.violations.push(`label ${entryKey} of ${node.index} is used twice`);
        node.forwards.set(entryKey, output);
        return;
      }
      case "forwardRemove":
        node.forwards.delete(`${toHex(output.from)}/${output.label}`);
        return;
      case "candidatesChanged":
    }
  }

  #send(from: SimNode, nodeId: Uint8Array, message: RoutingMessage): void {
    const to = this.#byHex.get(toHex(nodeId));
    const session = to === undefined ? undefined : this.#session(from, to);
    if (to === undefined || session === undefined) return;
    this.controlMessages++;
    const bytes = encodeControl(message);
    this.controlBytes += bytes.length;
    if (this.random.unit() < this.loss) return;
    this.#later(session.delayMs * (1 + this.random.unit()), () => {
      if (!this.isConnected(from, to)) return;
      let arrived: ControlMessage | string | undefined = decodeControl(bytes);
      if (typeof arrived === "string") {
        this.violations.push(`a ${message.type} is ${arrived}`);
        return;
      }
      if (this.tamper !== undefined) arrived = this.tamper(from, to, arrived as RoutingMessage);
      if (arrived !== undefined) this.#touch(to, () => to.routing.handle(this.now, from.id, arrived as RoutingMessage));
    });
  }

  // ── the data plane ───────────────────────────────────────────────────────────────────────────────────────────────────

  #carry(from: SimNode, hopId: Uint8Array, label: number, packet: Packet): void {
    const hop = this.#byHex.get(toHex(hopId)) as SimNode;
    const session = this.#session(from, hop);
    if (session === undefined || this.random.unit() < this.loss) return;
    this.#later(session.delayMs, () => {
      if (this.isConnected(from, hop)) this.#arrive(hop, from, label, packet);
    });
  }

  #arrive(node: SimNode, from: SimNode, label: number, packet: Packet): void {
    if (packet.trace.includes(node)) {
      const walked = [...packet.trace, node].map((one) => one.index).join("–");
      this.violations.push(`a packet visited node ${node.index} twice: ${walked}`);
      return;
    }
    packet.trace.push(node);
    const entryKey = `${from.hex}/${label}`;
    const via = node.viaByLabel.get(entryKey);
    if (via !== undefined) {
      if (node !== packet.target || !equal(via.target, packet.source.id))
        this.violations.push(`a packet for ${packet.target.index} came out at ${node.index}`);
      node.delivered++;
      this.deliveries++;
      return;
    }
    const forward = node.forwards.get(entryKey);
    if (forward === undefined) return this.#error(node, from, label, UNKNOWN_LABEL);
    const next = this.#byHex.get(toHex(forward.to)) as SimNode;
    if (this.#session(node, next) === undefined) {
      node.forwards.delete(entryKey);
      this.#touch(node, () => node.routing.forwardExpired(this.now, label, from.id));
      return this.#error(node, from, label, NO_PATH);
    }
    this.#carry(node, forward.to, forward.out, packet);
  }

  /** `to` sends under a label that does not work at `node`. */
  #error(node: SimNode, to: SimNode, label: number, code: number): void {
    const session = this.#session(node, to);
    if (session === undefined) return;
    this.#later(session.delayMs, () => {
      if (!this.isConnected(node, to)) return;
      for (const via of to.vias.values()) {
        if (via.out !== label || !equal(via.hop, node.id)) continue;
        this.#touch(to, () => to.routing.viaFailed(this.now, via.id, code));
        return;
      }
      for (const [entryKey, entry] of to.forwards) {
        if (entry.out !== label || !equal(entry.to, node.id)) continue;
        to.forwards.delete(entryKey);
        this.#error(to, this.#byHex.get(toHex(entry.from)) as SimNode, entry.label, code);
        this.#touch(to, () => to.routing.forwardExpired(this.now, entry.label, entry.from));
        return;
      }
    });
  }
}

function key(a: SimNode, b: SimNode): string {
  return compare(a.id, b.id) < 0 ? `${a.index}-${b.index}` : `${b.index}-${a.index}`;
}

/** What one random topology showed. */
export interface TopologyResult {
  readonly violations: readonly string[];
  readonly packets: number;
  readonly deliveries: number;
  /** Pairs that had a way of at most 4 sessions when the churn was over, and of these the ones that found one in time. */
  readonly reachable: number;
  readonly found: number;
}

/**
 * One random topology with churn: random sessions come, go silently and openly, nodes restart, entries expire, while pairs talk over whatever ways
 * they have; then rest, in which every pair that can must find a way.
 */
export function runTopology(seed: number): TopologyResult {
  const random = new SeededRandom(seed);
  const pick = (count: number): number => random.u32() % count;
  const count = 3 + pick(seed % 10 === 0 ? 28 : 10);
  const net = new MeshNet(seed, count, (i) => ({ relay: i % 5 === 3 }));
  const { nodes } = net;
  if (pick(3) === 0) nodes[pick(count)].isBeacon = true;
  if (pick(4) === 0) nodes[pick(count)].allowsTransit = false;
  net.loss = pick(3) === 0 ? 0.05 : 0;
  const degree = 1 + random.unit() * 3;
  const randomSession = (): void => net.connect(nodes[pick(count)], nodes[pick(count)], 1 + random.unit() * 30);
  for (let i = 0; i < (count * degree) / 2; i++) randomSession();
  const pairs = Array.from({ length: 4 }, () => [nodes[pick(count)], nodes[pick(count)]] as const).filter(
    ([a, b]) => a !== b,
  );
  const talk = (): void => {
    for (const [a, b] of pairs) {
      if (net.isConnected(a, b)) continue;
      net.seek(a, b);
      net.probe(a, b);
      net.probe(b, a);
    }
  };
  for (let step = 0; step < 24; step++) {
    const a = nodes[pick(count)];
    const b = nodes[pick(count)];
    const what = pick(10);
    if (what < 4) randomSession();
    else if (what < 6) net.cut(a, b, 200 + random.unit() * 2000);
    else if (what < 7) net.disconnect(a, b);
    else if (what < 8) net.restart(a);
    else net.expireForward(a);
    talk();
    net.run(50 + random.unit() * 500);
  }
  net.loss = 0;
  net.run(3000);
  const open = pairs.filter(([a, b]) => !net.isConnected(a, b) && (net.distance(a, b) ?? 99) <= 4);
  const works = new Set<string>();
  for (let step = 0; step < 60 && works.size < open.length; step++) {
    for (const [a, b] of open) {
      const before = b.delivered;
      net.seek(a, b);
      net.probe(a, b);
      net.run(500);
      if (b.delivered > before) works.add(`${a.index}-${b.index}`);
    }
  }
  for (const node of nodes) {
    // what the machine believes to be installed is what the data plane has
    const own = nodes.reduce((total, other) => total + node.routing.describe(net.now, other.id).length, 0);
    if (node.forwards.size !== 2 * node.routing.forwards || node.vias.size !== own)
      net.violations.push(`tables of ${node.index}: ${node.forwards.size} entries for ${node.routing.forwards} paths`);
  }
  const isFound = open.filter(([a, b]) => works.has(`${a.index}-${b.index}`));
  return {
    violations: net.violations.map((text) => `seed ${seed}: ${text}`),
    packets: net.packets,
    deliveries: net.deliveries,
    reachable: open.length,
    found: isFound.length,
  };
}
