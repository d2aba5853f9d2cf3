/**
 * Connections that members forward through this node: the opening is read, the rules are asked, names are looked up, the connection is
 * made, and from then on bytes go both ways.
 *
 *   stream ─► place free? ─► opening (10 s) ─► rules ─► look-up ─► rules for each address ─► connect (10 s) ─► answer ─► splice
 *
 * Full: answered BUSY at once. Every use and refusal is one audit line and one counter. Source: docs/protocol.md, "Forwards".
 */
import { lookup } from "node:dns/promises";
import { connect, type Socket } from "node:net";
import type { MetricSample } from "../../../api/control.ts";
import { toHex } from "../../../base/bytes.ts";
import { formatAddress, formatEndpoint, parseAddress } from "../../../base/endpoint.ts";
import {
  answerName,
  decodeOpening,
  FORWARD_KIND,
  ForwardAnswer,
  hostBytes,
  OPENING_BYTES,
} from "../../../messaging/services/opening.ts";
import {
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
}

export class ForwardServer {
  readonly #context: ServiceContext;
  readonly #audit: Audit;
  readonly #allow: readonly AllowRule[];
  readonly #slots = new Slots(MAX_CONNECTIONS, MAX_PER_PEER);
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
  }

  start(): void {
    this.#stop = this.#context.streams.serve(FORWARD_KIND, (stream) => void this.#serve(stream));
  }

  close(): void {
    this.#stop?.();
    this.#ending.abort(new Error("this node is stopping"));
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  async #serve(stream: MeshStream): Promise<void> {
    const member = this.#context.find(stream.peerId);
    if (member === undefined) return stream.reset(StreamCode.APPLICATION);
    const peer = namesOf(member);
    const release = this.#slots.take(toHex(stream.peerId));
    try {
      if (release === undefined) return this.#refuse(stream, peer, undefined, ForwardAnswer.BUSY);
      const target = await this.#readOpening(stream);
      if (target === undefined) return this.#refuse(stream, peer, undefined, ForwardAnswer.BAD);
      const found = await this.#connect(peer, target);
      if (typeof found === "number") return this.#refuse(stream, peer, target, found);
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

  /** @returns a connected socket, or what to answer */
  async #connect(peer: PeerNames, target: Target): Promise<Socket | ForwardAnswer> {
    const name = target.host !== "" && parseAddress(target.host) === undefined ? target.host : "";
    // nothing is looked up for somebody who may not go there in any case
    if (name !== "" && !mayLookUp(this.#allow, peer, name, target.port)) return ForwardAnswer.NOT_ALLOWED;
    const addresses = await addressesOf(target.host);
    if (addresses.length === 0) return ForwardAnswer.UNREACHABLE;
    const allowed = addresses.filter((address) => {
      const bytes = parseAddress(address);
      return bytes !== undefined && allowsTarget(this.#allow, peer, name, bytes, target.port);
    });
    if (allowed.length === 0) return ForwardAnswer.NOT_ALLOWED;
    let answer: ForwardAnswer = ForwardAnswer.UNREACHABLE;
    const limit = AbortSignal.any([this.#ending.signal, AbortSignal.timeout(CONNECT_MS)]);
    for (const address of allowed.slice(0, MAX_ADDRESSES)) {
      const made = await connected(address, target.port, limit);
      if (typeof made === "object") return made;
      if (made === "ECONNREFUSED") answer = ForwardAnswer.REFUSED;
    }
    return answer;
  }

  async #carry(stream: MeshStream, peer: PeerNames, socket: Socket): Promise<void> {
    this.#results[ForwardAnswer.CONNECTED]++;
    const place = formatEndpoint({ address: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 });
    this.#audit.note(`forward: ${peer.name} connects to ${place}`);
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

  #refuse(stream: MeshStream, peer: PeerNames, target: Target | undefined, answer: ForwardAnswer): void {
    this.#results[answer]++;
    const place = target === undefined ? "" : ` to ${target.host === "" ? "loopback" : target.host}:${target.port}`;
    this.#audit.note(`forward: ${peer.name}${place}: ${answerName(answer)}`);
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

/** Canonical addresses, best first; none when the name leads nowhere. */
async function addressesOf(host: string): Promise<readonly string[]> {
  if (host === "") return LOOPBACK;
  const bytes = parseAddress(host);
  if (bytes !== undefined) return [formatAddress(bytes)];
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch {
    return [];
  }
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
