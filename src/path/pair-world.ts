/**
 * Two ends of a peering over simulated links in virtual time, for the tests of this folder: each end is a PeerPaths with a plain stand-in for the
 * session (counters, replay check, one epoch number). Nothing but the given links, seeds and calls decides what happens.
 */
import { NAME_BYTES, NAME_FAMILY, NAME_LOCAL, readName, writeName } from "../base/name.ts";
import { endpointToBytes, parseEndpoint, type VirtualType, virtualEndpoint } from "../base/endpoint.ts";
import { SeededRandom } from "../base/random.ts";
import { Slab } from "../base/slab.ts";
import { InnerKind, outerPacketBytes } from "../wire/data.ts";
import type { PathSink } from "./path-set.ts";
import { PeerPaths } from "./peer-paths.ts";

export function endpoint(text: string): Uint8Array {
  return endpointToBytes(parseEndpoint(text)!);
}

/** One pair of addresses that reach each other. Fields may be changed at any time. */
export interface Link {
  a: Uint8Array;
  b: Uint8Array;
  /** One way, ms. */
  delayMs: number;
  /** Added at random, ms: reorders. */
  jitterMs: number;
  lossToA: number;
  lossToB: number;
  duplicate: number;
  /** Larger underlay packets vanish. */
  mtuBytes: number;
}

export function link(a: string, b: string, delayMs: number, extra: Partial<Link> = {}): Link {
  return {
    a: endpoint(a),
    b: endpoint(b),
    delayMs,
    jitterMs: 0,
    lossToA: 0,
    lossToB: 0,
    duplicate: 0,
    mtuBytes: 1500,
    ...extra,
  };
}

/** A way that is no underlay address; both ends name it alike. @param pathKind 1 relay, 2 transit */
export function virtualLink(type: VirtualType, pathKind: number, id: number, delayMs: number): Link {
  const name = virtualEndpoint(type, pathKind, id);
  return { ...link("0.0.0.0:1", "0.0.0.0:1", delayMs), a: name, b: name };
}

export interface Datagram {
  readonly kind: number;
  readonly payload: Uint8Array;
  readonly counter: number;
  readonly epochId: number;
  readonly datagramBytes: number;
  readonly from: Uint8Array;
  /** Own address that it came to; undefined where no address leads to two links, so that it says nothing. */
  readonly local?: Uint8Array | undefined;
}

const DATA_PAYLOAD_BYTES = 1_000;

export class End {
  readonly slab: Slab = new Slab(256 * 1024);
  readonly world: World;
  readonly isA: boolean;
  paths: PeerPaths;
  epochId = 1;
  counter = 0;
  /** Data packets that came in, duplicates excluded, and when. */
  readonly arrivals: { counter: number; atMs: number; bytes: number }[] = [];
  /** Everything emitted: kind, bytes, time, and where to. */
  readonly emitted: { kind: number; bytes: number; atMs: number; to: string }[] = [];
  /** The kernel refuses larger underlay packets, as the interface's MTU would. */
  interfaceMtuBytes = 65_536;
  sessionUp = true;
  readonly sink: PathSink;
  readonly #seen: Set<string> = new Set();
  readonly #inbox: number;
  readonly #inboxName: number;

  constructor(world: World, isA: boolean, localMtuBytes: number, keepsOpen: boolean) {
    this.world = world;
    this.isA = isA;
    this.paths = this.makePaths(localMtuBytes, keepsOpen);
    this.#inbox = this.slab.allocate(16_384);
    this.#inboxName = this.slab.allocate(NAME_BYTES);
    this.sink = {
      emit: (kind, name, payload, bytes) => this.#emit(kind, name, payload, bytes),
    };
  }

  makePaths(localMtuBytes: number, keepsOpen = false): PeerPaths {
    const random = new SeededRandom(this.world.random.u32());
    const paths = new PeerPaths({ slab: this.slab, random }, { localMtuBytes });
    paths.setKeepsOpen(this.world.nowMs, keepsOpen);
    return paths;
  }

  /** A name block for an endpoint; overwritten by the next call. */
  name(remote: Uint8Array, local?: Uint8Array): number {
    writeName(this.slab.u8, remote, this.#inboxName);
    if (local !== undefined) this.slab.u8.set(local.subarray(0, 16), this.#inboxName + NAME_LOCAL);
    return this.#inboxName;
  }

  /** The active remote endpoint, or undefined. */
  get activeRemote(): Uint8Array | undefined {
    return this.paths.active < 0 ? undefined : this.#remote(this.paths.activeName());
  }

  #remote(name: number): Uint8Array {
    return readName(this.slab.u8, name);
  }

  #emit(kind: number, name: number, payload: number, bytes: number): boolean {
    if (!this.sessionUp) return false;
    const remote = this.#remote(name);
    const ipBytes = outerPacketBytes(bytes, this.slab.u8[name + NAME_FAMILY]);
    if (ipBytes > this.interfaceMtuBytes) return false;
    this.emitted.push({ kind, bytes, atMs: this.world.nowMs, to: remote.join() });
    this.world.transmit(this, name, kind, this.slab.u8.slice(payload, payload + bytes), this.counter++, ipBytes);
    return true;
  }

  /** Sends one user packet as the engine would: on the active path, and a copy of the datagram on the duplicate. */
  sendData(payloadBytes: number = DATA_PAYLOAD_BYTES): void {
    const { paths } = this;
    if (paths.active < 0) return;
    const counter = this.counter++;
    const payload = new Uint8Array(payloadBytes);
    const ipBytes = outerPacketBytes(payload.length, 4);
    this.world.transmit(this, paths.activeName(), InnerKind.IP, payload, counter, ipBytes);
    if (paths.duplicate >= 0) {
      this.world.transmit(this, paths.nameOf(paths.duplicate), InnerKind.IP, payload, counter, ipBytes);
    }
    const high = Math.floor(counter / 2 ** 32);
    paths.sent(this.world.nowMs, 1, payload.length, this.epochId, counter >>> 0, high);
  }

  /** What the data worker does with one authenticated datagram. @returns the drop reason of its message, 0 for data */
  receive(datagram: Datagram): number {
    const key = `${datagram.epochId}/${datagram.counter}`;
    if (this.#seen.has(key)) return -1;
    this.#seen.add(key);
    const { nowMs } = this.world;
    const name = this.name(datagram.from, datagram.local);
    this.slab.u8.set(datagram.payload, this.#inbox);
    const bytes = datagram.payload.length;
    let reason = 0;
    if (datagram.kind === InnerKind.PROBE) {
      reason = this.paths.handleProbe(nowMs, name, this.#inbox, bytes, datagram.datagramBytes, this.sink);
    } else if (datagram.kind === InnerKind.PROBE_ACK) {
      reason = this.paths.handleProbeAck(nowMs, name, this.#inbox, bytes, this.sink);
    } else if (datagram.kind === InnerKind.REPORT) {
      reason = this.paths.handleReport(nowMs, name, this.#inbox, bytes, this.sink);
    } else {
      this.arrivals.push({ counter: datagram.counter, atMs: nowMs, bytes });
    }
    const high = Math.floor(datagram.counter / 2 ** 32);
    this.paths.received(nowMs, name, 1, datagram.datagramBytes, datagram.counter >>> 0, high, 0, datagram.epochId);
    return reason;
  }
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
}

export class World {
  nowMs = 1_000;
  readonly random: SeededRandom;
  readonly links: Link[];
  readonly a: End;
  readonly b: End;
  /** Sees every datagram put on a link; may swallow it by returning false. */
  tap: ((datagram: Datagram, toA: boolean) => boolean) | undefined = undefined;
  #events: Event[] = [];
  #order = 0;

  constructor(links: Link[], options: { seed?: number; mtuBytes?: number; keepsOpen?: boolean } = {}) {
    this.random = new SeededRandom(options.seed ?? 1);
    this.links = links;
    this.a = new End(this, true, options.mtuBytes ?? 1500, options.keepsOpen ?? false);
    this.b = new End(this, false, options.mtuBytes ?? 1500, options.keepsOpen ?? false);
  }

  /** Both ends know all links' addresses and finish a handshake over the first link. */
  connect(): void {
    this.a.paths.setCandidates(
      this.nowMs,
      this.links.map((known) => known.b),
    );
    const first = this.links[0];
    this.a.paths.confirm(this.nowMs, this.a.name(first.b));
    this.b.paths.confirm(this.nowMs, this.b.name(first.a));
  }

  /** @param name name block of the sender: where to, and which of its addresses from */
  transmit(from: End, name: number, kind: number, payload: Uint8Array, counter: number, ipBytes: number): void {
    const toA = !from.isA;
    const to = readName(from.slab.u8, name);
    const source = from.slab.u8.subarray(name + NAME_LOCAL, name + NAME_LOCAL + 16);
    const same = (x: Uint8Array, y: Uint8Array): boolean => x.every((byte, i) => byte === y[i]);
    const leading = this.links.filter((known) => same(toA ? known.a : known.b, to));
    const over = leading.find((known) => same(source, (toA ? known.b : known.a).subarray(0, 16))) ?? leading[0];
    const own = (known: Link): Uint8Array => (toA ? known.b : known.a);
    const isShared = over !== undefined && this.links.some((known) => known !== over && same(own(known), own(over)));
    const datagram: Datagram = {
      kind,
      payload,
      counter,
      epochId: from.epochId,
      datagramBytes: ipBytes - (to[0] === 0 ? 28 : 48),
      from: over === undefined ? to : toA ? over.b.slice() : over.a.slice(),
      local: isShared ? to : undefined,
    };
    if (this.tap !== undefined && !this.tap(datagram, toA)) return;
    if (over === undefined || ipBytes > over.mtuBytes) return;
    if (this.random.unit() < (toA ? over.lossToA : over.lossToB)) return;
    const copies = this.random.unit() < over.duplicate ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      const delayMs = over.delayMs + this.random.unit() * over.jitterMs;
      this.at(this.nowMs + delayMs, () => void (toA ? this.a : this.b).receive(datagram));
    }
  }

  at(atMs: number, run: () => void): void {
    this.#events.push({ atMs, order: this.#order++, run });
  }

  /** Calls `act` every `everyMs` from now on, until the world ends or `act` returns false. */
  every(everyMs: number, act: () => boolean | void): void {
    const tick = (): void => {
      if (act() !== false) this.at(this.nowMs + everyMs, tick);
    };
    this.at(this.nowMs, tick);
  }

  /** Runs events and timers in order until `untilMs` or `done`. */
  run(untilMs: number, done: () => boolean = () => false): void {
    let stuck = 0;
    while (!done()) {
      let next: Event | undefined;
      for (const event of this.#events) {
        if (next === undefined || event.atMs < next.atMs || (event.atMs === next.atMs && event.order < next.order))
          next = event;
      }
      const timerMs = Math.min(this.a.paths.nextTimeoutMs, this.b.paths.nextTimeoutMs);
      const atMs = Math.min(next?.atMs ?? Infinity, timerMs);
      if (atMs > untilMs) break;
      stuck = atMs > this.nowMs ? 0 : stuck + 1;
      if (stuck > 10_000) throw new Error(`time stands still at ${this.nowMs}`);
      if (atMs > this.nowMs) this.nowMs = atMs;
      if (timerMs <= this.nowMs) {
        for (const end of [this.a, this.b]) {
          if (end.paths.nextTimeoutMs <= this.nowMs) end.paths.handleTimeout(this.nowMs, end.sink);
        }
        continue;
      }
      this.#events = this.#events.filter((event) => event !== next);
      next?.run();
    }
    if (!done() && this.nowMs < untilMs) this.nowMs = untilMs;
  }

  /** Runs for a while. */
  pass(durationMs: number): void {
    this.run(this.nowMs + durationMs);
  }
}
