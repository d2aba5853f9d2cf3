/**
 * The other ends of many sessions in one process: every identity has its own UDP socket, its own session state machine (src/session), and
 * answers what keeps a session alive: handshakes, the hybrid ratchet, rekeys, probes, keepalives. It carries no user data and keeps no mesh.
 *
 *   bin/weft-node bench/responders.ts --members FILE --target 10.1.0.1:51820 [--per-second 200]
 *
 * FILE is what tools/members.ts wrote. All identities begin handshakes with the founder at --target, --per-second of them a second.
 * Prints `{"established": N, …}` every second; ends with SIGTERM.
 *
 *   datagram → EpochTable.lookup → replay check → open → kind: probe → ack | ratchet, keepalive → Sessions | rest: counted
 *   Sessions.pollOutput → socket (handshakes), EpochTable (install, activate, retire), seal → socket (inner)
 */
import { createSocket, type Socket } from "node:dgram";
import { readFileSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { fromHex } from "../src/base/bytes.ts";
import type { Now } from "../src/base/clock.ts";
import { Drop } from "../src/base/drop.ts";
import { endpointToBytes, parseAddress, parseEndpoint, type Endpoint } from "../src/base/endpoint.ts";
import { Slab } from "../src/base/slab.ts";
import { Identity, staticKeyOf } from "../src/crypto/identity.ts";
import { systemRandom } from "../src/node/random.ts";
import { encodeTimestamp, nextTimestamp } from "../src/session/handshake.ts";
import { type Epoch, EpochTable } from "../src/session/epochs.ts";
import { Sessions, type SessionPeer } from "../src/session/sessions.ts";
import { Capability } from "../src/session/types.ts";
import { createAead } from "../src/sys/aead.ts";
import {
  DATA_HEADER_BYTES,
  DATA_MIN_BYTES,
  DATA_TYPE,
  DataHeader,
  decodeDataHeader,
  decodeInnerHeader,
  encodeDataHeader,
  encodeInnerHeader,
  INNER_HEADER_BYTES,
  InnerHeader,
  InnerKind,
  TAG_BYTES,
} from "../src/wire/data.ts";
import { decodeProbe, encodeProbeAck, Probe, PROBE_ACK_BYTES } from "../src/wire/probe.ts";
import type { BulkMembers } from "./tools/members.ts";

const DATAGRAM_BYTES = 2_048;
const TICK_MS = 20;
/** Received something and sent nothing for this long: a keepalive is due. */
const KEEPALIVE_MS = 10_000;
/** Slot of the founder in every Sessions: each of them knows no other peer. */
const FOUNDER_SLOT = 0;

class Responder {
  readonly index: number;
  readonly socket: Socket;
  readonly sessions: Sessions;
  established = false;
  /** A packet was received after the last one sent: since when. */
  owesSinceMs = Infinity;

  constructor(index: number, socket: Socket, sessions: Sessions) {
    this.index = index;
    this.socket = socket;
    this.sessions = sessions;
  }
}

class Crowd {
  readonly #slab = new Slab(1 << 20);
  readonly #aead = createAead({ slab: this.#slab });
  readonly #in: number;
  readonly #out: number;
  readonly #observed: number;
  readonly #table: EpochTable;
  readonly #target: Endpoint;
  readonly #targetBytes: Uint8Array;
  readonly #responders: Responder[] = [];
  readonly #header = new DataHeader();
  readonly #inner = new InnerHeader();
  readonly #probe = new Probe();
  #received = 0;
  #answered = 0;
  #dropped = 0;
  #failed = 0;

  constructor(members: BulkMembers, target: Endpoint) {
    this.#in = this.#slab.allocate(DATAGRAM_BYTES);
    this.#out = this.#slab.allocate(DATAGRAM_BYTES);
    this.#observed = this.#slab.allocate(16);
    this.#slab.u8.set(parseAddress(target.address) as Uint8Array, this.#observed);
    this.#target = target;
    this.#targetBytes = endpointToBytes(target);
    this.#table = new EpochTable(this.#aead, { maxPeers: members.seeds.length });
    for (const [index, seed] of members.seeds.entries())
      this.#responders.push(this.#create(index, bytes(seed), members));
  }

  #create(index: number, seed: Uint8Array, members: BulkMembers): Responder {
    const founder = bytes(members.founder);
    const staticKey = staticKeyOf(founder);
    if (staticKey === undefined) throw new Error("the founder's node id has no static key");
    const peer: SessionPeer = { slot: FOUNDER_SLOT, nodeId: founder, staticKey, psk: undefined, inviteId: undefined };
    let own = encodeTimestamp(Date.now());
    let last: Uint8Array | undefined;
    const sessions = new Sessions(
      {
        identity: new Identity(seed),
        networkId: bytes(members.networkId),
        random: systemRandom,
        timestamps: {
          last: () => last,
          accept: (_key, timestamp) => void (last = Uint8Array.from(timestamp)),
          nextOwn: () => (own = nextTimestamp(own)),
        },
        peerByStaticKey: (key) => (Buffer.compare(key, staticKey) === 0 ? peer : undefined),
        peerBySlot: (slot) => (slot === FOUNDER_SLOT ? peer : undefined),
        provisionalPeer: () => undefined,
      },
      {
        bootId: systemRandom.u32(),
        capabilities: Capability.HARDWARE_AES | Capability.PARTIAL_CHECKSUM | Capability.HYBRID,
      },
    );
    const socket = createSocket("udp4");
    const responder = new Responder(index, socket, sessions);
    socket.on("message", (datagram) => this.#receive(responder, datagram));
    // ICMP errors while the founder is not up yet: its retries are the remedy.
    socket.on("error", () => undefined);
    socket.bind(0);
    return responder;
  }

  /** Begins `perSecond` handshakes a second and keeps all sessions going. */
  run(perSecond: number): void {
    let begun = 0;
    const start = performance.now();
    setInterval(() => {
      const now = clock();
      const due = Math.min(this.#responders.length, ((now.nowMs - start) / 1_000) * perSecond);
      for (; begun < due; begun++) {
        const responder = this.#responders[begun];
        responder.sessions.connect(now, FOUNDER_SLOT);
        this.#act(now, responder);
      }
      for (const responder of this.#responders) this.#tick(now, responder);
    }, TICK_MS);
    setInterval(() => {
      const established = this.#responders.filter((responder) => responder.established).length;
      const { size } = this.#table;
      writeSync(
        1,
        `${JSON.stringify({ established, epochs: size, received: this.#received, answered: this.#answered, dropped: this.#dropped, failed: this.#failed })}\n`,
      );
    }, 1_000);
  }

  #tick(now: Now, responder: Responder): void {
    if (responder.sessions.nextTimeout() <= now.nowMs) {
      responder.sessions.handleTimeout(now);
      this.#act(now, responder);
    }
    if (this.#table.nextTimeout(responder.index) <= now.nowMs) this.#table.handleTimeout(now.nowMs, responder.index);
    if (now.nowMs - responder.owesSinceMs >= KEEPALIVE_MS) {
      const epoch = this.#table.sending(responder.index);
      if (epoch !== undefined) this.#send(now, responder, epoch, InnerKind.KEEPALIVE, 0);
    }
  }

  #act(now: Now, responder: Responder): void {
    const { index, sessions } = responder;
    for (let output = sessions.pollOutput(); output !== undefined; output = sessions.pollOutput()) {
      switch (output.kind) {
        case "transmit":
          responder.socket.send(output.datagram, this.#target.port, this.#target.address);
          break;
        case "install":
          if (this.#table.install(now.nowMs, index, output.epoch) === undefined) this.#failed++;
          break;
        case "activate":
          this.#table.activate(index, output.epochId);
          break;
        case "retire":
          this.#table.retire(now.nowMs, index, output.epochId, output.afterMs);
          break;
        case "inner": {
          const epoch = this.#table.byId(index, output.epochId);
          if (epoch === undefined) break;
          this.#slab.u8.set(output.payload, this.#out + DATA_HEADER_BYTES + INNER_HEADER_BYTES);
          this.#send(now, responder, epoch, output.innerKind, output.payload.length);
          break;
        }
        case "established":
          responder.established = true;
          break;
        case "failed":
          this.#failed++;
          break;
        case "restarted":
          break;
      }
    }
  }

  /** Seals the payload that lies in the output buffer behind both headers, and sends it. */
  #send(now: Now, responder: Responder, epoch: Epoch, kind: number, payloadBytes: number): void {
    const { view } = this.#slab;
    const plain = INNER_HEADER_BYTES + payloadBytes;
    if (this.#table.takeCounter(epoch, now.nowMs, plain) !== Drop.NONE) return;
    const at = this.#out + DATA_HEADER_BYTES;
    encodeDataHeader(view, this.#out, epoch.remoteIndex, epoch.takenLow, epoch.takenHigh);
    encodeInnerHeader(view, at, kind, 0, 0);
    this.#aead.seal(epoch.sealHandle, epoch.takenLow, epoch.takenHigh, at, plain, at);
    // A copy: the socket may keep the bytes beyond this call.
    responder.socket.send(
      this.#slab.u8.slice(this.#out, at + plain + TAG_BYTES),
      this.#target.port,
      this.#target.address,
    );
    responder.owesSinceMs = Infinity;
  }

  #receive(responder: Responder, datagram: Uint8Array): void {
    const now = clock();
    this.#received++;
    if (datagram.length > DATAGRAM_BYTES || datagram[0] !== DATA_TYPE) {
      if (responder.sessions.handleHandshake(now, datagram, this.#targetBytes) !== Drop.NONE) this.#dropped++;
    } else {
      this.#slab.u8.set(datagram, this.#in);
      if (!this.#open(now, responder, datagram.length)) this.#dropped++;
    }
    this.#act(now, responder);
  }

  #open(now: Now, responder: Responder, length: number): boolean {
    const { view } = this.#slab;
    const header = this.#header;
    if (length < DATA_MIN_BYTES || decodeDataHeader(view, this.#in, length, header) !== Drop.NONE) return false;
    const epoch = this.#table.lookup(header.receiver);
    if (epoch === undefined || epoch.peer !== responder.index) return false;
    if (epoch.replay.check(header.counterLow, header.counterHigh) !== Drop.NONE) return false;
    const plain = this.#in + DATA_HEADER_BYTES;
    const plainBytes = length - DATA_HEADER_BYTES - TAG_BYTES;
    if (!this.#aead.open(epoch.openHandle, header.counterLow, header.counterHigh, plain, plainBytes, plain))
      return false;
    if (this.#table.accept(epoch, now.nowMs, header.counterLow, header.counterHigh))
      responder.sessions.handleProof(now, FOUNDER_SLOT, epoch.epochId);
    if (decodeInnerHeader(view, plain, plainBytes, this.#inner) !== Drop.NONE) return false;
    if (responder.owesSinceMs === Infinity && this.#inner.kind !== InnerKind.KEEPALIVE)
      responder.owesSinceMs = now.nowMs;
    this.#inside(now, responder, epoch, plain + INNER_HEADER_BYTES, plainBytes - INNER_HEADER_BYTES, length);
    return true;
  }

  #inside(
    now: Now,
    responder: Responder,
    epoch: Epoch,
    payload: number,
    payloadBytes: number,
    datagramBytes: number,
  ): void {
    const { view, u8 } = this.#slab;
    const { kind } = this.#inner;
    if (kind === InnerKind.RATCHET || kind === InnerKind.KEEPALIVE) {
      responder.sessions.handleInner(now, FOUNDER_SLOT, epoch.epochId, kind, u8.slice(payload, payload + payloadBytes));
    } else if (kind === InnerKind.PROBE && decodeProbe(view, payload, payloadBytes, this.#probe) === Drop.NONE) {
      const at = this.#out + DATA_HEADER_BYTES + INNER_HEADER_BYTES;
      encodeProbeAck(
        view,
        at,
        this.#probe,
        this.#observed,
        this.#target.port,
        datagramBytes,
        Math.floor(now.nowMs * 1_000) >>> 0,
      );
      this.#send(now, responder, this.#table.sending(responder.index) ?? epoch, InnerKind.PROBE_ACK, PROBE_ACK_BYTES);
      this.#answered++;
    }
  }
}

function bytes(hex: string): Uint8Array {
  const result = fromHex(hex);
  if (result === undefined) throw new Error("the members file is damaged");
  return result;
}

function clock(): Now {
  return { nowMs: performance.now(), wallMs: Date.now() };
}

function main(): void {
  const { values } = parseArgs({
    options: {
      members: { type: "string" },
      target: { type: "string" },
      "per-second": { type: "string", default: "200" },
    },
  });
  const target = parseEndpoint(values.target ?? "");
  if (values.members === undefined || target === undefined)
    throw new Error("--members FILE and --target ADDRESS:PORT are needed");
  new Crowd(JSON.parse(readFileSync(values.members, "utf8")) as BulkMembers, target).run(Number(values["per-second"]));
}

if (import.meta.main) main();
