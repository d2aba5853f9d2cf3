/**
 * Connections that members forward through this node: the opening is read, the rules are asked, names are looked up, the connection is
 * made, and from then on bytes go both ways.
 *
 *   stream ─► place free? ─► opening (10 s) ─► rules ─► look-up ─► rules for each address ─► connect (10 s with the look-up) ─► answer ─► splice
 *
 * What this program listens on itself (its API, forwards, SOCKS proxies, name service, channels) is refused whatever the rules say: a member
 * that came in there would act as this node. Full: answered BUSY at once. Every use and refusal is one audit line and one counter.
 * Source: docs/protocol.md, "Forwards".
 */
import { lookup } from "node:dns/promises";
import { connect, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import type { MetricSample } from "../../../api/control.ts";
import { toHex } from "../../../base/bytes.ts";
import { formatAddress, formatEndpoint, parseAddress } from "../../../base/endpoint.ts";
import { ownListeners } from "../../../base/own-listeners.ts";
import {
  answerName,
  decodeOpening,
  FORWARD_KIND,
  ForwardAnswer,
  hostBytes,
  OPENING_BYTES,
} from "../../../messaging/services/opening.ts";
import {
  allowLine,
  type AllowRule,
  allowsTarget,
  mayLookUp,
  type PeerNames,
  type Target,
} from "../../../messaging/services/targets.ts";
import { type MeshStream, StreamCode } from "../../../stream/types.ts";
import { namesOf, type ServiceContext } from "./context.ts";
import type { Audit } from "./limits.ts";
import { Slots } from "./limits.ts";
import { readBytes, splice } from "./splice.ts";

const MAX_CONNECTIONS = 1_024;
const MAX_PER_PEER = 256;
/** Names that are looked up at once; each takes a thread of the process. */
const MAX_LOOKUPS = 8;
const MAX_LOOKUPS_PER_PEER = 2;
const OPENING_MS = 10_000;
const CONNECT_MS = 10_000;
/** Addresses of a name that are tried. */
const MAX_ADDRESSES = 4;
const KEEPALIVE_MS = 30_000;
const LOOPBACK = ["127.0.0.1", "::1"] as const;

/** What may have become of an opening, for the counter's label. */
const RESULTS = ["connected", "not_allowed", "refused", "unreachable", "busy", "malformed"] as const;

export interface ForwardServerOptions {
  /** Nothing else is allowed. */
  readonly allow: readonly AllowRule[];
  /** Addresses of a name, best first. @default the system's */
  readonly lookUp?: ((name: string) => Promise<readonly string[]>) | undefined;
  /** For look-up and connection together. @default 10 s */
  readonly connectMs?: number | undefined;
}

/** Why there is no connection. */
interface Refusal {
  readonly answer: ForwardAnswer;
  /** For the audit line. */
  readonly why: string;
}

export class ForwardServer {
  readonly #context: ServiceContext;
  readonly #audit: Audit;
  readonly #allow: readonly AllowRule[];
  readonly #lookUp: (name: string) => Promise<readonly string[]>;
  readonly #connectMs: number;
  readonly #slots = new Slots(MAX_CONNECTIONS, MAX_PER_PEER);
  readonly #lookUps = new Slots(MAX_LOOKUPS, MAX_LOOKUPS_PER_PEER);
  readonly #results = new Float64Array(RESULTS.length);
  readonly #ending = new AbortController();
  readonly #sockets = new Set<Socket>();
  #bytesIn = 0;
  #bytesOut = 0;
  #stop: (() => void) | undefined;

  constructor(context: ServiceContext, audit: Audit, options: ForwardServerOptions) {
    this.#context = context;
    this.#audit = audit;
    this.#allow = options.allow;
    this.#lookUp = options.lookUp ?? systemLookUp;
    this.#connectMs = options.connectMs ?? CONNECT_MS;
  }

  start(): void {
    this.#stop = this.#context.streams.serve(FORWARD_KIND, (stream) => void this.#serve(stream));
  }

  close(): void {
    this.#stop?.();
    this.#ending.abort(new Error("this node is stopping"));
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Connections of members now. */
  get active(): number {
    return this.#slots.taken;
  }

  async #serve(stream: MeshStream): Promise<void> {
    const member = this.#context.find(stream.peerId);
    if (member === undefined) return stream.reset(StreamCode.APPLICATION);
    const peer = namesOf(member);
    const release = this.#slots.take(toHex(stream.peerId));
    try {
      if (release === undefined) return this.#refuse(stream, peer, undefined, refusal(ForwardAnswer.BUSY));
      const target = await this.#readOpening(stream);
      if (target === undefined) return this.#refuse(stream, peer, undefined, refusal(ForwardAnswer.BAD));
      const found = await this.#connect(peer, target);
      if ("answer" in found) return this.#refuse(stream, peer, target, found);
      await this.#carry(stream, peer, found);
    } catch {
      // the peer was gone before it had said what it wants
      if (!stream.destroyed) stream.reset(StreamCode.APPLICATION);
    } finally {
      release?.();
    }
  }

  async #readOpening(stream: MeshStream): Promise<Target | undefined> {
    const signal = AbortSignal.any([this.#ending.signal, AbortSignal.timeout(OPENING_MS)]);
    const head = await readBytes(stream, OPENING_BYTES, signal);
    const length = hostBytes(head);
    return length === undefined ? undefined : decodeOpening(head, await readBytes(stream, length, signal));
  }

  async #connect(peer: PeerNames, target: Target): Promise<Socket | Refusal> {
    const { host, port } = target;
    const name = host !== "" && parseAddress(host) === undefined ? host : "";
    const notAllowed = refusal(ForwardAnswer.NOT_ALLOWED, `not allowed, as by: ${allowLine(peer.name, target)}`);
    // nothing is looked up for somebody who may not go there in any case
    if (name !== "" && !mayLookUp(this.#allow, peer, name, port)) return notAllowed;
    const limit = AbortSignal.any([this.#ending.signal, AbortSignal.timeout(this.#connectMs)]);
    const addresses = name === "" ? addressesOf(host) : await this.#lookedUp(peer, name, limit);
    if (addresses === undefined) return refusal(ForwardAnswer.BUSY);
    if (addresses.length === 0) return refusal(ForwardAnswer.UNREACHABLE);
    const machine = machineAddresses();
    const allowed = addresses.flatMap((text) => {
      const address = parseAddress(text);
      if (address === undefined) return [];
      const isOwn = machine.has(toHex(address));
      return allowsTarget(this.#allow, peer, { name, address, port, isOwn }) ? { text, address } : [];
    });
    if (allowed.length === 0) return notAllowed;
    if (allowed.some(({ address }) => ownListeners.takes(address, port)))
      return refusal(ForwardAnswer.NOT_ALLOWED, "not allowed: this daemon itself listens there");
    let answer: ForwardAnswer = ForwardAnswer.UNREACHABLE;
    for (const { text } of allowed.slice(0, MAX_ADDRESSES)) {
      const made = await connected(text, port, limit);
      if (typeof made === "object") return made;
      if (made === "ECONNREFUSED") answer = ForwardAnswer.REFUSED;
    }
    return refusal(answer);
  }

  /** @returns none when the name leads nowhere or takes too long, undefined when too many are looked up */
  async #lookedUp(peer: PeerNames, name: string, limit: AbortSignal): Promise<readonly string[] | undefined> {
    const release = this.#lookUps.take(peer.id);
    if (release === undefined) return undefined;
    // the place is held until the system is done with it, not only as long as the peer waits
    const found = this.#lookUp(name)
      .catch(() => [])
      .finally(release);
    return Promise.race([found, aborted(limit).then(() => [])]);
  }

  async #carry(stream: MeshStream, peer: PeerNames, socket: Socket): Promise<void> {
    this.#results[ForwardAnswer.CONNECTED]++;
    const place = formatEndpoint({ address: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 });
    this.#audit.used(peer.id, `forward: ${peer.name} connects to ${place}`);
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEPALIVE_MS);
    stream.write(Uint8Array.of(ForwardAnswer.CONNECTED));
    try {
      await splice(socket, stream);
    } finally {
      this.#sockets.delete(socket);
      this.#bytesIn += socket.bytesWritten;
      this.#bytesOut += socket.bytesRead;
    }
  }

  #refuse(stream: MeshStream, peer: PeerNames, target: Target | undefined, { answer, why }: Refusal): void {
    this.#results[answer]++;
    const place = target === undefined ? "" : ` to ${target.host === "" ? "loopback" : target.host}:${target.port}`;
    this.#audit.refused(peer.id, `forward: ${peer.name}${place}: ${why}`);
    stream.resume();
    stream.end(Uint8Array.of(answer));
  }

  metrics(): MetricSample[] {
    const bytes = (direction: string, value: number): MetricSample => ({
      name: "weft_forward_bytes_total",
      type: "counter",
      help: "Bytes of ended connections that this node has carried for members, to and from its targets.",
      labels: { direction },
      value,
    });
    return [
      ...RESULTS.map((result, i): MetricSample => ({
        name: "weft_forward_served_total",
        type: "counter",
        help: "Connections that members wanted through this node, by what became of them.",
        labels: { result },
        value: this.#results[i],
      })),
      bytes("in", this.#bytesIn),
      bytes("out", this.#bytesOut),
      {
        name: "weft_forward_served",
        type: "gauge",
        help: "Connections that members have through this node now.",
        labels: {},
        value: this.#slots.taken,
      },
    ];
  }
}

function refusal(answer: ForwardAnswer, why = answerName(answer)): Refusal {
  return { answer, why };
}

/** Canonical. @param host "" or an address */
function addressesOf(host: string): readonly string[] {
  const bytes = parseAddress(host);
  return bytes === undefined ? LOOPBACK : [formatAddress(bytes)];
}

async function systemLookUp(name: string): Promise<readonly string[]> {
  return (await lookup(name, { all: true })).map(({ address }) => address);
}

/** Of this machine's interfaces, now; in hexadecimal digits. */
function machineAddresses(): ReadonlySet<string> {
  const found = new Set<string>();
  for (const { address } of Object.values(networkInterfaces()).flatMap((infos) => infos ?? [])) {
    const bytes = parseAddress(address);
    if (bytes !== undefined) found.add(toHex(bytes));
  }
  return found;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** @returns the socket, or the code of what failed */
function connected(address: string, port: number, signal: AbortSignal): Promise<Socket | string> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port, allowHalfOpen: true });
    const onAbort = (): void => {
      socket.destroy();
      finish("ETIMEDOUT");
    };
    const onError = (error: NodeJS.ErrnoException): void => finish(error.code ?? "EIO");
    const finish = (result: Socket | string): void => {
      signal.removeEventListener("abort", onAbort);
      socket.off("error", onError);
      if (typeof result === "string") socket.on("error", () => undefined);
      resolve(result);
    };
    socket.on("error", onError);
    socket.once("connect", () => finish(socket));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
}
