/**
 * Two nodes in virtual time: the shipped Sessions, EpochTable and HandshakeGate on both ends of a network that loses, delays, duplicates and
 * reorders. Every random choice comes from one seed, so a printed seed replays the same run (only ML-KEM's own coins differ, which
 * changes bytes and nothing else). It keeps a ledger of user datagrams: sent, delivered by the network, opened.
 */
import { compare } from "../src/base/bytes.ts";
import type { Now } from "../src/base/clock.ts";
import { Drop } from "../src/base/drop.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_PORT, NAME_REMOTE } from "../src/base/name.ts";
import { SeededRandom } from "../src/base/random.ts";
import { Slab } from "../src/base/slab.ts";
import { Identity } from "../src/crypto/identity.ts";
import { type Epoch, EpochTable } from "../src/session/epochs.ts";
import { HandshakeGate } from "../src/session/gate.ts";
import { encodeTimestamp, nextTimestamp } from "../src/session/handshake.ts";
import type { SessionTimes } from "../src/session/rekey.ts";
import { type SessionPeer, Sessions } from "../src/session/sessions.ts";
import type { EndpointBytes, SessionOutput } from "../src/session/types.ts";
import {
  DATA_HEADER_BYTES,
  DATA_TYPE,
  encodeDataHeader,
  encodeInnerHeader,
  INNER_HEADER_BYTES,
  InnerKind,
  TAG_BYTES,
} from "../src/wire/data.ts";
import { PlainAead, PlainMac } from "./memory-ports.ts";

export interface NetworkOptions {
  /** Share of datagrams lost. */
  readonly loss: number;
  /** Share of datagrams delivered twice, each copy with its own delay. */
  readonly duplicate: number;
  readonly minDelayMs: number;
  /** Delays are uniform up to here, so later datagrams overtake earlier ones. */
  readonly maxDelayMs: number;
}

export interface PairOptions {
  readonly seed: number;
  readonly network?: Partial<NetworkOptions>;
  readonly times?: Partial<SessionTimes>;
  readonly pq?: "require" | "prefer";
  /** Pre-shared keys of the two nodes. */
  readonly psk?: readonly [Uint8Array | undefined, Uint8Array | undefined];
  readonly capabilities?: readonly [number, number];
}

/** What is remembered beyond the process: identity is given, timestamps are kept here. */
export class KeptTimestamps {
  own: Uint8Array = new Uint8Array(12);
  readonly accepted: Map<string, Uint8Array> = new Map();

  nextOwn(wallMs: number): Uint8Array {
    const wall = encodeTimestamp(wallMs);
    this.own = compare(wall, this.own) > 0 ? wall : nextTimestamp(this.own);
    return this.own;
  }

  last(staticKey: Uint8Array): Uint8Array | undefined {
    return this.accepted.get(staticKey.toHex());
  }

  accept(staticKey: Uint8Array, timestamp: Uint8Array): void {
    this.accepted.set(staticKey.toHex(), Uint8Array.from(timestamp));
  }
}

/** Ledger entry of one user datagram. */
interface Datagram {
  delivered: number;
  opened: number;
  lastReason: number;
  readonly sentAtMs: number;
  readonly epochId: number;
}

const PEER_SLOT = 0;
const DATAGRAM_AT_BYTES = 2048;

export class SimNode {
  readonly name: string;
  readonly identity: Identity;
  readonly endpoint: EndpointBytes;
  readonly timestamps: KeptTimestamps = new KeptTimestamps();
  readonly slab: Slab = new Slab(1 << 18);
  readonly aead: PlainAead = new PlainAead(this.slab);
  readonly gate: HandshakeGate;
  epochs: EpochTable;
  sessions!: Sessions;
  /** Added to the virtual time for the wall clock; tests change it to make the clock jump. */
  wallOffsetMs = 1_700_000_000_000;
  /** The control thread looks overloaded: cookies are required. */
  overloaded = false;
  readonly outputs: SessionOutput[] = [];
  readonly drops: Map<number, number> = new Map();
  readonly #buffer: number;
  readonly #nameBlock: number;

  constructor(name: string, identity: Identity, endpoint: EndpointBytes, random: SeededRandom) {
    this.name = name;
    this.identity = identity;
    this.endpoint = endpoint;
    this.#buffer = this.slab.allocate(DATAGRAM_AT_BYTES * 2);
    this.#nameBlock = this.slab.allocate(NAME_BYTES);
    this.epochs = new EpochTable(this.aead, { maxPeers: 1 });
    this.gate = new HandshakeGate(
      { slab: this.slab, mac: new PlainMac(this.slab), random },
      { staticKey: identity.staticKeys.publicKey },
    );
  }

  drop(reason: number): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + 1);
  }

  /** Judges a handshake datagram. @returns the gate's verdict, and its cookie reply if it made one */
  judge(
    nowMs: number,
    datagram: Uint8Array,
    from: EndpointBytes,
  ): { readonly reason: number; readonly reply: Uint8Array | undefined } {
    const u8 = this.slab.u8;
    u8.set(datagram, this.#buffer);
    u8.fill(0, this.#nameBlock, this.#nameBlock + NAME_BYTES);
    u8.set(from.subarray(0, 16), this.#nameBlock + NAME_REMOTE);
    u8.set(from.subarray(16, 18), this.#nameBlock + NAME_PORT);
    u8[this.#nameBlock + NAME_FAMILY] = 6;
    this.gate.setLoad(nowMs, this.overloaded ? 1 : 0);
    const reason = this.gate.judge(nowMs, this.#buffer, datagram.length, this.#nameBlock);
    const { replyBytes, replyOffset } = this.gate;
    return { reason, reply: replyBytes > 0 ? u8.slice(replyOffset, replyOffset + replyBytes) : undefined };
  }

  noteSent(datagram: Uint8Array): void {
    this.slab.u8.set(datagram, this.#buffer);
    this.gate.noteSent(this.#buffer, datagram.length);
  }

  /** @returns the data packet, or undefined when the epoch may seal no more */
  seal(nowMs: number, epoch: Epoch, kind: number, payload: Uint8Array): Uint8Array | undefined {
    const { slab } = this;
    const bytes = INNER_HEADER_BYTES + payload.length;
    if (this.epochs.takeCounter(epoch, nowMs, bytes) !== Drop.NONE) return undefined;
    const at = this.#buffer;
    encodeDataHeader(slab.view, at, epoch.remoteIndex, epoch.takenLow, epoch.takenHigh);
    const plain = at + DATA_HEADER_BYTES;
    encodeInnerHeader(slab.view, plain, kind, 0, 0);
    slab.u8.set(payload, plain + INNER_HEADER_BYTES);
    this.aead.seal(epoch.sealHandle, epoch.takenLow, epoch.takenHigh, plain, bytes, plain);
    return slab.u8.slice(at, plain + bytes + TAG_BYTES);
  }

  /** The receive path of a data packet. @returns the opened message, or the reason */
  open(
    nowMs: number,
    packet: Uint8Array,
  ): { readonly epoch: Epoch; readonly first: boolean; readonly kind: number; readonly payload: Uint8Array } | number {
    if (packet.length < DATA_HEADER_BYTES + INNER_HEADER_BYTES + TAG_BYTES) return Drop.SHORT;
    const { u8, view } = this.slab;
    const at = this.#buffer;
    u8.set(packet, at);
    const epoch = this.epochs.lookup(view.getUint32(at + 4, true));
    if (epoch === undefined) return Drop.UNKNOWN_INDEX;
    const low = view.getUint32(at + 8, true);
    const high = view.getUint32(at + 12, true);
    const reason = epoch.replay.check(low, high);
    if (reason !== Drop.NONE) return reason;
    const bytes = packet.length - DATA_HEADER_BYTES - TAG_BYTES;
    const plain = at + DATA_HEADER_BYTES;
    if (!this.aead.open(epoch.openHandle, low, high, plain, bytes, plain)) return Drop.AUTH;
    const first = this.epochs.accept(epoch, nowMs, low, high);
    return { epoch, first, kind: u8[plain], payload: u8.slice(plain + INNER_HEADER_BYTES, plain + bytes) };
  }
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
}

export class SessionPair {
  readonly seed: number;
  readonly random: SeededRandom;
  readonly a: SimNode;
  readonly b: SimNode;
  network: NetworkOptions;
  /** Share of datagrams lost from a to b and from b to a, on top of network.loss; 1 = cut. */
  readonly cut: [number, number] = [0, 0];
  /** Called for every datagram put on the network; may return another one, or undefined to swallow it. */
  tamper: (from: SimNode, datagram: Uint8Array) => Uint8Array | undefined = (_from, datagram) => datagram;
  /** Called for every inner message before it is sealed; may return another payload. */
  tamperInner: (from: SimNode, kind: number, payload: Uint8Array) => Uint8Array = (_from, _kind, payload) => payload;
  /** Every datagram that was put on the network, with its sender, when recording is on. */
  recorded: { readonly from: SimNode; readonly atMs: number; readonly datagram: Uint8Array }[] | undefined = undefined;
  /** Data packets sealed with an index and a counter that were used before. */
  reusedCounters = 0;
  nowMs = 0;
  /** User datagrams by id. */
  readonly ledger: Datagram[] = [];
  /** Instants at which a sender that once had a session had no usable epoch. */
  withoutEpoch = 0;
  /** Handshake sessions established, rekeys among them, at a and at b. */
  readonly established: [number, number] = [0, 0];
  readonly #options: PairOptions;
  readonly #networkId: Uint8Array;
  readonly #events: Event[] = [];
  #order = 0;
  #boots = 1;

  constructor(options: PairOptions) {
    this.#options = options;
    this.seed = options.seed;
    this.random = new SeededRandom(options.seed);
    this.network = { loss: 0, duplicate: 0, minDelayMs: 5, maxDelayMs: 20, ...options.network };
    this.#networkId = this.random.bytes(32);
    this.a = new SimNode("a", Identity.generate(this.random), endpoint(1), new SeededRandom(this.random.u32()));
    this.b = new SimNode("b", Identity.generate(this.random), endpoint(2), new SeededRandom(this.random.u32()));
    this.boot(this.a);
    this.boot(this.b);
  }

  other(node: SimNode): SimNode {
    return node === this.a ? this.b : this.a;
  }

  now(node: SimNode): Now {
    return { nowMs: this.nowMs, wallMs: this.nowMs + node.wallOffsetMs };
  }

  /** A process start: sessions and keys are gone, identity and timestamps are not. */
  boot(node: SimNode): void {
    node.epochs.close();
    node.sessions?.close();
    const remote = this.other(node);
    const index = node === this.a ? 0 : 1;
    const peer = (): SessionPeer => ({
      slot: PEER_SLOT,
      nodeId: remote.identity.nodeId,
      staticKey: remote.identity.staticKeys.publicKey,
      psk: this.#options.psk?.[index],
      inviteId: undefined,
    });
    const remoteKey = remote.identity.staticKeys.publicKey.toHex();
    node.sessions = new Sessions(
      {
        identity: node.identity,
        networkId: this.#networkId,
        random: new SeededRandom(this.random.u32()),
        timestamps: node.timestamps,
        peerByStaticKey: (key) => (key.toHex() === remoteKey ? peer() : undefined),
        peerBySlot: () => peer(),
        provisionalPeer: () => undefined,
      },
      {
        bootId: this.#boots++,
        ...(this.#options.times === undefined ? {} : { times: this.#options.times }),
        ...(this.#options.pq === undefined ? {} : { pq: this.#options.pq }),
        ...(this.#options.capabilities === undefined ? {} : { capabilities: this.#options.capabilities[index] }),
      },
    );
  }

  /** Schedules a call in virtual time. */
  at(atMs: number, run: () => void): void {
    const event = { atMs, order: this.#order++, run };
    const events = this.#events;
    let position = events.length;
    events.push(event);
    while (position > 0) {
      const above = (position - 1) >> 1;
      if (!before(event, events[above])) break;
      events[position] = events[above];
      position = above;
    }
    events[position] = event;
  }

  /** A call into a node's sessions, and everything that follows from it at once. */
  drive(node: SimNode, call: (sessions: Sessions, now: Now) => void): void {
    call(node.sessions, this.now(node));
    this.#settle(node);
  }

  connect(node: SimNode): void {
    this.drive(node, (sessions, now) => sessions.connect(now, PEER_SLOT));
  }

  rekey(node: SimNode): void {
    this.drive(node, (sessions, now) => sessions.rekey(now, PEER_SLOT));
  }

  sending(node: SimNode): Epoch | undefined {
    return node.epochs.sending(PEER_SLOT);
  }

  /** One user datagram. @returns false when the sender has no usable epoch */
  send(node: SimNode): boolean {
    const epoch = this.sending(node);
    if (epoch === undefined) return false;
    const payload = new Uint8Array(8);
    new DataView(payload.buffer).setUint32(0, this.ledger.length, true);
    const packet = this.#seal(node, epoch, InnerKind.IP, payload);
    if (packet === undefined) return false;
    const datagram = { delivered: 0, opened: 0, lastReason: Drop.NONE, sentAtMs: this.nowMs, epochId: epoch.epochId };
    this.ledger.push(datagram);
    this.#userPackets.set(headerOf(packet), datagram);
    this.#transmit(node, packet);
    return true;
  }

  /** Runs until `untilMs` or until `done`. */
  run(untilMs: number, done: () => boolean = () => false): void {
    while (!done()) {
      const eventMs = this.#events[0]?.atMs ?? Infinity;
      const timerMs = Math.min(
        this.a.sessions.nextTimeout(),
        this.b.sessions.nextTimeout(),
        this.a.epochs.nextTimeout(PEER_SLOT),
        this.b.epochs.nextTimeout(PEER_SLOT),
      );
      const nextMs = Math.min(eventMs, timerMs);
      if (nextMs > untilMs) {
        this.nowMs = Math.max(this.nowMs, untilMs);
        return;
      }
      this.nowMs = Math.max(this.nowMs, nextMs);
      if (eventMs <= timerMs) this.#take().run();
      else for (const node of [this.a, this.b]) this.#timers(node);
      for (const [i, node] of [this.a, this.b].entries()) {
        if (this.established[i] > 0 && !this.#usable(node)) this.withoutEpoch++;
      }
    }
  }

  /** Delivered user datagrams that were not opened exactly once. */
  violations(): Datagram[] {
    return this.ledger.filter((one) => one.delivered > 0 && one.opened !== 1);
  }

  readonly #headers = new Set<string>();

  #seal(node: SimNode, epoch: Epoch, kind: number, payload: Uint8Array): Uint8Array | undefined {
    const packet = node.seal(this.nowMs, epoch, kind, payload);
    if (packet === undefined) return undefined;
    const header = headerOf(packet);
    if (this.#headers.has(header)) this.reusedCounters++;
    this.#headers.add(header);
    return packet;
  }

  #usable(node: SimNode): boolean {
    const epoch = this.sending(node);
    return epoch !== undefined && epoch.live && this.nowMs - epoch.installedAtMs < 270_000;
  }

  #timers(node: SimNode): void {
    node.epochs.handleTimeout(this.nowMs, PEER_SLOT);
    if (node.sessions.nextTimeout() <= this.nowMs) this.drive(node, (sessions, now) => sessions.handleTimeout(now));
  }

  #settle(node: SimNode): void {
    for (let output = node.sessions.pollOutput(); output !== undefined; output = node.sessions.pollOutput()) {
      node.outputs.push(output);
      switch (output.kind) {
        case "transmit":
          node.noteSent(output.datagram);
          this.#transmit(node, output.datagram);
          break;
        case "install":
          node.epochs.install(this.nowMs, PEER_SLOT, output.epoch);
          break;
        case "activate":
          node.epochs.activate(PEER_SLOT, output.epochId);
          break;
        case "retire":
          node.epochs.retire(this.nowMs, PEER_SLOT, output.epochId, output.afterMs);
          break;
        case "inner": {
          const epoch = node.epochs.byId(PEER_SLOT, output.epochId);
          const packet =
            epoch === undefined
              ? undefined
              : this.#seal(node, epoch, output.innerKind, this.tamperInner(node, output.innerKind, output.payload));
          if (packet !== undefined) this.#transmit(node, packet);
          break;
        }
        case "established":
          this.established[node === this.a ? 0 : 1]++;
          break;
        default:
      }
    }
  }

  #transmit(from: SimNode, sent: Uint8Array): void {
    this.recorded?.push({ from, atMs: this.nowMs, datagram: sent });
    const datagram = this.tamper(from, sent);
    if (datagram === undefined) return;
    const { network, random } = this;
    const copies = random.unit() < network.duplicate ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      const lost = random.unit() < network.loss || random.unit() < this.cut[from === this.a ? 0 : 1];
      const delayMs = network.minDelayMs + random.unit() * (network.maxDelayMs - network.minDelayMs);
      if (!lost) this.at(this.nowMs + delayMs, () => this.deliver(this.other(from), datagram, from.endpoint));
    }
  }

  /** What the network hands to a node; tests inject forged and replayed datagrams with it. */
  deliver(node: SimNode, datagram: Uint8Array, from: EndpointBytes): void {
    if (datagram[0] === DATA_TYPE) {
      this.#receive(node, datagram);
      return;
    }
    const { reason, reply } = node.judge(this.nowMs, datagram, from);
    if (reply !== undefined) this.#transmit(node, reply);
    if (reason !== Drop.NONE) {
      node.drop(reason);
      return;
    }
    this.drive(node, (sessions, now) => {
      const verdict = sessions.handleHandshake(now, datagram, from);
      if (verdict !== Drop.NONE) node.drop(verdict);
    });
  }

  #receive(node: SimNode, packet: Uint8Array): void {
    const opened = node.open(this.nowMs, packet);
    const user = this.#ledgerOf(packet);
    if (user !== undefined) user.delivered++;
    if (typeof opened === "number") {
      node.drop(opened);
      if (user !== undefined) user.lastReason = opened;
      return;
    }
    const { epoch, first, kind, payload } = opened;
    if (user !== undefined) user.opened++;
    // The engine reports the message before the proof.
    if (kind === InnerKind.RATCHET || kind === InnerKind.KEEPALIVE) {
      this.drive(node, (sessions, now) => sessions.handleInner(now, PEER_SLOT, epoch.epochId, kind, payload));
    }
    if (first) this.drive(node, (sessions, now) => sessions.handleProof(now, PEER_SLOT, epoch.epochId));
  }

  readonly #userPackets = new Map<string, Datagram>();

  /** The network knows its user datagrams by their bytes in the clear: index and counter. */
  #ledgerOf(packet: Uint8Array): Datagram | undefined {
    return this.#userPackets.get(headerOf(packet));
  }

  #take(): Event {
    const events = this.#events;
    const first = events[0];
    const last = events.pop() as Event;
    if (events.length === 0) return first;
    let position = 0;
    for (;;) {
      let below = position * 2 + 1;
      if (below >= events.length) break;
      if (below + 1 < events.length && before(events[below + 1], events[below])) below++;
      if (!before(events[below], last)) break;
      events[position] = events[below];
      position = below;
    }
    events[position] = last;
    return first;
  }
}

function before(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

function headerOf(packet: Uint8Array): string {
  return packet.subarray(4, 16).toHex();
}

function endpoint(host: number): EndpointBytes {
  const bytes = new Uint8Array(18);
  bytes[0] = 0xfd;
  bytes[15] = host;
  bytes[16] = 0x39;
  bytes[17] = 0x30;
  return bytes;
}
