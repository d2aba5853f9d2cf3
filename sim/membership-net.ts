/**
 * N nodes with the shipped membership overlay, directory and presence in virtual time from a seed: every node holds the whole roster, frames between two
 * nodes arrive in order after their delay or, when one of them is down or on the other side of a partition, never. Churn, restarts, slow peers, hostile
 * peers. Everything sent is counted by sender, kind and byte.
 *
 *   net.start(node), net.kill(node), net.restart(node), net.leave(node)      net.partition(side) / net.heal()
 *   net.run(ms), net.runUntil(condition, ms)                                 net.isConnected(nodes), net.asymmetries()
 * Signatures are keyed checksums here: only whether they hold matters.
 */
import type { Now } from "../src/base/clock.ts";
import { toHex, utf8 } from "../src/base/bytes.ts";
import { SeededRandom } from "../src/base/random.ts";
import { Directory } from "../src/messaging/directory/directory.ts";
import type { DirectoryOptions } from "../src/messaging/directory/types.ts";
import { Overlay } from "../src/messaging/membership/overlay.ts";
import type { OverlayOptions, OverlayOutput, Signing } from "../src/messaging/membership/types.ts";
import { Presence } from "../src/messaging/presence/presence.ts";
import type { PresenceOptions, PresenceView } from "../src/messaging/presence/types.ts";

const START_WALL_MS = 1_800_000_000_000;
const SIGNATURE_BYTES = 64;

const Kind = { OVERLAY: 0, DIRECTORY: 1, PRESENCE: 2, TIMER: 3, CALL: 4 } as const;
type Kind = (typeof Kind)[keyof typeof Kind];

export interface NetOptions {
  readonly overlay?: OverlayOptions;
  /** Undefined: nodes have none. */
  readonly directory?: DirectoryOptions | undefined;
  readonly presence?: PresenceOptions | undefined;
  /** One way, ms. @default 5 */
  readonly minDelayMs?: number;
  /** @default 40 */
  readonly maxDelayMs?: number;
}

export class SimMember {
  readonly index: number;
  readonly id: Uint8Array;
  readonly hex: string;
  readonly secret: number;
  overlay: Overlay;
  directory: Directory | undefined;
  presence: Presence | undefined;
  isUp = false;
  /** Each of its frames takes so much longer, in and out. */
  extraDelayMs = 0;
  /** Takes frames and answers nothing. */
  isStuck = false;
  /** Which side of a partition. */
  side = 0;
  framesOut = 0;
  bytesOut = 0;
  framesIn = 0;
  /** Frames and bytes that the directory alone sent. */
  directoryBytesOut = 0;
  timerAtMs: number = Number.POSITIVE_INFINITY;
  /** Counts its runs: what was sent to an earlier one is lost. */
  run = 0;

  constructor(index: number, random: SeededRandom, make: (node: SimMember) => Overlay) {
    this.index = index;
    this.id = random.bytes(32);
    this.hex = toHex(this.id);
    this.secret = random.u32();
    this.overlay = make(this);
  }
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly kind: Kind;
  readonly node: SimMember | undefined;
  readonly from: SimMember | undefined;
  readonly frame: Uint8Array | undefined;
  readonly run: number;
  readonly call: (() => void) | undefined;
}

/** FNV-1a over secret, purpose and body, spread over 64 bytes' worth of signature. */
function checksum(secret: number, purpose: string, body: Uint8Array): number {
  let hash = secret ^ 0x811c9dc5;
  for (let i = 0; i < purpose.length; i++) hash = Math.imul(hash ^ purpose.charCodeAt(i), 0x01000193);
  for (let i = 0; i < body.length; i++) hash = Math.imul(hash ^ body[i], 0x01000193);
  return hash >>> 0;
}

export class MembershipNet {
  nowMs = 0;
  readonly nodes: SimMember[] = [];
  readonly random: SeededRandom;
  readonly networkId: Uint8Array = utf8("the network of the simulator 32b");
  /** Told by the nodes: changes of neighbours and beliefs, with the time. */
  onOverlay: ((node: SimMember, output: OverlayOutput) => void) | undefined;
  onSubscribers: ((node: SimMember, topic: string) => void) | undefined;
  onPresence: ((node: SimMember, view: PresenceView) => void) | undefined;
  /** What it answers true to is lost. */
  isLost: ((from: SimMember, to: SimMember, frame: Uint8Array) => boolean) | undefined;
  isPartitioned = false;
  readonly #options: NetOptions;
  readonly #byHex = new Map<string, SimMember>();
  readonly #heap: Event[] = [];
  readonly #ids: Uint8Array[] = [];
  /** Members that were removed from the roster. */
  readonly #removed = new Set<string>();
  #order = 0;

  constructor(seed: number, nodes: number, options: NetOptions = {}) {
    this.random = new SeededRandom(seed);
    this.#options = options;
    for (let i = 0; i < nodes; i++) {
      const node = new SimMember(i, this.random, (self) => this.#overlay(self));
      this.nodes.push(node);
      this.#byHex.set(node.hex, node);
      this.#ids.push(node.id);
    }
    for (const node of this.nodes) this.#renew(node);
  }

  get now(): Now {
    return { nowMs: this.nowMs, wallMs: START_WALL_MS + this.nowMs };
  }

  get up(): SimMember[] {
    return this.nodes.filter((node) => node.isUp);
  }

  find(nodeId: Uint8Array): SimMember {
    const node = this.#byHex.get(toHex(nodeId));
    if (node === undefined) throw new RangeError("no such node");
    return node;
  }

  start(node: SimMember): void {
    if (node.isUp) return;
    node.isUp = true;
    this.touch(node, () => node.overlay.start(this.now));
  }

  /** All nodes, spread over `withinMs`. */
  startAll(withinMs: number): void {
    for (const node of this.nodes) this.at(this.nowMs + withinMs * this.random.unit(), () => this.start(node));
  }

  /** Without a word. */
  kill(node: SimMember): void {
    node.isUp = false;
    node.run++;
    node.timerAtMs = Number.POSITIVE_INFINITY;
  }

  /** Its memory is gone. */
  restart(node: SimMember): void {
    this.kill(node);
    node.overlay = this.#overlay(node);
    this.#renew(node);
    this.start(node);
  }

  leave(node: SimMember): void {
    this.touch(node, () => {
      node.overlay.leave(this.now);
      node.presence?.stop(this.now);
    });
    this.kill(node);
  }

  removeMember(node: SimMember): void {
    this.kill(node);
    this.#removed.add(node.hex);
    this.#ids.splice(this.#ids.indexOf(node.id), 1);
    for (const other of this.up) {
      this.touch(other, () => {
        other.overlay.membersChanged(this.now);
        other.directory?.membersChanged(this.now);
        other.directory?.memberGone(this.now, node.id);
        other.presence?.memberGone(node.id);
      });
    }
  }

  /** Nothing passes between nodes of different sides. */
  partition(side: (node: SimMember) => number): void {
    this.isPartitioned = true;
    for (const node of this.nodes) node.side = side(node);
  }

  heal(): void {
    this.isPartitioned = false;
  }

  at(atMs: number, call: () => void): void {
    this.#push({
      atMs,
      order: this.#order++,
      kind: Kind.CALL,
      node: undefined,
      from: undefined,
      frame: undefined,
      run: 0,
      call,
    });
  }

  /** Something was done to the node: what it says goes out, its timer is set. */
  touch(node: SimMember, action: () => void): void {
    action();
    this.#drain(node);
    const next = Math.min(
      node.overlay.nextTimeoutMs(),
      node.directory?.nextTimeoutMs() ?? Number.POSITIVE_INFINITY,
      node.presence?.nextTimeoutMs() ?? Number.POSITIVE_INFINITY,
    );
    if (!node.isUp || next >= node.timerAtMs) return;
    node.timerAtMs = Math.max(next, this.nowMs);
    this.#push({
      atMs: node.timerAtMs,
      order: this.#order++,
      kind: Kind.TIMER,
      node,
      from: undefined,
      frame: undefined,
      run: node.run,
      call: undefined,
    });
  }

  /** A frame as if `from` had sent it. */
  inject(from: SimMember, to: SimMember, frame: Uint8Array, kind: Kind = Kind.OVERLAY): void {
    this.#transmit(from, to, frame, kind);
  }

  /** As the node itself would. */
  sign(node: SimMember, purpose: string, body: Uint8Array): Uint8Array {
    return this.#signing(node).sign(purpose, body);
  }

  run(ms: number): void {
    this.runUntil(() => false, ms);
  }

  /** @returns whether the condition held within the time; looked at after every event */
  runUntil(condition: () => boolean, ms: number): boolean {
    const untilMs = this.nowMs + ms;
    for (;;) {
      const event = this.#heap[0];
      if (event === undefined || event.atMs > untilMs) break;
      this.#pop();
      this.nowMs = Math.max(this.nowMs, event.atMs);
      this.#execute(event);
      if (condition()) return true;
    }
    this.nowMs = untilMs;
    return condition();
  }

  /** Looked at every `everyMs`, for conditions that cost something. */
  runUntilEvery(condition: () => boolean, ms: number, everyMs: number): boolean {
    for (let passedMs = 0; passedMs < ms; passedMs += everyMs) {
      if (condition()) return true;
      this.run(everyMs);
    }
    return condition();
  }

  /** Are the active views of these nodes one component, going along them in both directions? */
  isConnected(nodes: readonly SimMember[]): boolean {
    const all = new Set(nodes);
    const edges = new Map<SimMember, SimMember[]>(nodes.map((node) => [node, []]));
    for (const node of nodes) {
      for (const id of node.overlay.active()) {
        const other = this.find(id);
        if (!all.has(other)) continue;
        edges.get(node)?.push(other);
        edges.get(other)?.push(node);
      }
    }
    const seen = new Set<SimMember>(nodes.slice(0, 1));
    for (const node of seen) for (const other of edges.get(node) ?? []) seen.add(other);
    return seen.size === nodes.length;
  }

  /** Entries of active views that the other end does not have. */
  asymmetries(): number {
    let count = 0;
    for (const node of this.up) {
      for (const id of node.overlay.active()) {
        const other = this.find(id);
        if (!other.isUp || !other.overlay.active().some((back) => back === node.id || toHex(back) === node.hex))
          count++;
      }
    }
    return count;
  }

  resetCounts(): void {
    for (const node of this.nodes) {
      node.framesOut = 0;
      node.bytesOut = 0;
      node.framesIn = 0;
      node.directoryBytesOut = 0;
    }
  }

  #execute(event: Event): void {
    if (event.kind === Kind.CALL) {
      event.call?.();
      return;
    }
    const { node, from, frame } = event;
    if (node === undefined || !node.isUp || event.run !== node.run) return;
    if (event.kind === Kind.TIMER) {
      if (event.atMs < node.timerAtMs) return;
      node.timerAtMs = Number.POSITIVE_INFINITY;
      this.touch(node, () => {
        node.overlay.handleTimeout(this.now);
        node.directory?.handleTimeout(this.now);
        node.presence?.handleTimeout(this.now);
      });
      return;
    }
    if (from === undefined || frame === undefined || node.isStuck) return;
    if (this.isPartitioned && from.side !== node.side) return;
    node.framesIn++;
    this.touch(node, () => {
      if (event.kind === Kind.OVERLAY) node.overlay.handleFrame(this.now, from.id, frame);
      else if (event.kind === Kind.DIRECTORY) node.directory?.handleFrame(this.now, from.id, frame);
      else node.presence?.handleFrame(this.now, from.id, frame);
    });
  }

  #drain(node: SimMember): void {
    for (let output = node.overlay.pollOutput(); output !== undefined; output = node.overlay.pollOutput()) {
      if (output.kind === "send") this.#transmit(node, this.find(output.to), output.frame, Kind.OVERLAY);
      else {
        if (output.kind === "liveness" && output.liveness === "alive") node.directory?.alive(this.now, output.nodeId);
        this.onOverlay?.(node, output);
      }
    }
    const { directory, presence } = node;
    for (let output = directory?.pollOutput(); output !== undefined; output = directory?.pollOutput()) {
      if (output.kind === "send") {
        node.directoryBytesOut += output.frame.length;
        this.#transmit(node, this.find(output.to), output.frame, Kind.DIRECTORY);
      } else if (output.kind === "subscribers") this.onSubscribers?.(node, output.topic);
    }
    for (let output = presence?.pollOutput(); output !== undefined; output = presence?.pollOutput()) {
      if (output.kind === "send") this.#transmit(node, this.find(output.to), output.frame, Kind.PRESENCE);
      else this.onPresence?.(node, output.view);
    }
  }

  #transmit(from: SimMember, to: SimMember, frame: Uint8Array, kind: Kind): void {
    from.framesOut++;
    from.bytesOut += frame.length;
    if (from.isStuck || !to.isUp || this.#removed.has(to.hex)) return;
    if (this.isPartitioned && from.side !== to.side) return;
    if (this.isLost?.(from, to, frame) === true) return;
    this.#push({
      atMs: this.nowMs + this.delayMs(from, to),
      order: this.#order++,
      kind,
      node: to,
      from,
      frame,
      run: to.run,
      call: undefined,
    });
  }

  /** One way; the same in both directions and at any time, so that frames stay in order. */
  delayMs(a: SimMember, b: SimMember): number {
    const { minDelayMs = 5, maxDelayMs = 40 } = this.#options;
    const share = ((Math.imul(a.secret ^ b.secret, 0x9e3779b1) >>> 0) % 1024) / 1024;
    return minDelayMs + (maxDelayMs - minDelayMs) * share + a.extraDelayMs + b.extraDelayMs;
  }

  #isMember(nodeId: Uint8Array): boolean {
    const hex = toHex(nodeId);
    return this.#byHex.has(hex) && !this.#removed.has(hex);
  }

  #signing(node: SimMember): Signing {
    return {
      nodeId: node.id,
      sign: (purpose, body) => {
        const signature = new Uint8Array(SIGNATURE_BYTES);
        new DataView(signature.buffer).setUint32(0, checksum(node.secret, purpose, body));
        return signature;
      },
      verify: (nodeId, purpose, body, signature) => {
        const signer = this.#byHex.get(toHex(nodeId));
        if (signer === undefined || signature.length !== SIGNATURE_BYTES) return false;
        const view = new DataView(signature.buffer, signature.byteOffset, signature.length);
        return view.getUint32(0) === checksum(signer.secret, purpose, body);
      },
    };
  }

  #overlay(node: SimMember): Overlay {
    return new Overlay(
      {
        signing: this.#signing(node),
        random: this.random,
        isMember: (nodeId) => this.#isMember(nodeId),
        memberCount: () => this.#ids.length,
        randomMember: () => {
          if (this.#ids.length < 2) return undefined;
          for (;;) {
            const id = this.#ids[this.random.u32() % this.#ids.length];
            if (id !== node.id) return id;
          }
        },
        rttMs: () => undefined,
      },
      this.#options.overlay,
    );
  }

  #renew(node: SimMember): void {
    const { directory, presence } = this.#options;
    const signing = this.#signing(node);
    const isMember = (nodeId: Uint8Array): boolean => this.#isMember(nodeId);
    if (directory !== undefined) {
      node.directory = new Directory(
        {
          signing,
          random: this.random,
          networkId: this.networkId,
          isMember,
          members: () => [...this.#ids],
          liveness: (nodeId) => node.overlay.liveness(nodeId),
          openLease: () => undefined,
        },
        directory,
      );
    }
    if (presence !== undefined) node.presence = new Presence({ signing, random: this.random, isMember }, presence);
  }

  // ── the queue: a binary heap, earliest first ──────────────────────────────────────────────────────────────────────────

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (!isBefore(event, heap[up])) break;
      heap[at] = heap[up];
      at = up;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      if (down >= heap.length) break;
      if (down + 1 < heap.length && isBefore(heap[down + 1], heap[down])) down++;
      if (!isBefore(heap[down], last)) break;
      heap[at] = heap[down];
      at = down;
    }
    heap[at] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
