/**
 * Streams between this node and its peers: the stream endpoint over inner messages of kind 3, and the first thing that uses it, control
 * messages in bulk (a roster that is missing in large part). OpenSSL's QUIC is loaded when the first stream is wanted, not before.
 *
 *   open ──► endpoint ──► inner kind 3 ──► plane ──► session          session ──► plane ──► endpoint ──► handler of the stream's kind
 *
 * Only members have streams, and while this node joins, the admins it joins through. What the plane has no room for waits in the
 * connection (datagramBufferBytes at most) and is offered again; what has no session is lost, as on a wire, and QUIC sends it again.
 * Source: docs/protocol.md, "Streams".
 */
import { finished } from "node:stream/promises";
import { concat } from "../base/bytes.ts";
import type { Logger } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { Identity } from "../crypto/identity.ts";
import type { Command, PeerFigures } from "../dataplane/messages.ts";
import type { StreamEndpoint, StreamHandler } from "../stream/api.ts";
import { createStreamEndpoint } from "../stream/endpoint.ts";
import {
  type MeshStream,
  newStreamCounters,
  type OpenOptions,
  StreamClass,
  StreamCode,
  type StreamCounters,
  StreamError,
} from "../stream/types.ts";
import { InnerKind } from "../wire/data.ts";
import type { Clock } from "./clock.ts";
import type { PeerRecord } from "./peer-table.ts";

/** Streams that carry control messages, each u16 length ‖ message. */
export const CONTROL_STREAM = "control";
const RECORD_HEADER_BYTES = 2;
const MAX_RECORD_BYTES = 1_200;
/** Who cannot open a stream this soon sends datagrams instead. */
const BULK_OPEN_MS = 2_000;
const BULK_WHOLE_MS = 60_000;

export interface PeerStreamsDeps {
  readonly identity: Identity;
  readonly random: Random;
  readonly clock: Clock;
  readonly log: Logger;
  find(nodeId: Uint8Array): PeerRecord | undefined;
  /** May it have streams with this node? */
  isTrusted(peer: PeerRecord): boolean;
  figures(slot: number): PeerFigures | undefined;
  /** @returns false when the plane has no room now */
  trySend(command: Command): boolean;
  /** Somebody wants a stream to it: a session is needed. */
  want(peer: PeerRecord): void;
  /** A control message that came in a stream. */
  handleControl(peer: PeerRecord, message: Uint8Array): void;
}

export class PeerStreams {
  readonly #deps: PeerStreamsDeps;
  readonly #handlers = new Map<string, StreamHandler>();
  #endpoint: StreamEndpoint | undefined;
  #failure: Error | undefined;
  #isClosed = false;

  constructor(deps: PeerStreamsDeps) {
    this.#deps = deps;
    this.#handlers.set(CONTROL_STREAM, (stream) => this.#takeControl(stream));
  }

  get counters(): StreamCounters {
    return this.#endpoint?.counters ?? newStreamCounters();
  }

  /** Streams of that kind that members open come to `handler`. @throws RangeError when the kind is taken @returns takes it away */
  serve(kind: string, handler: StreamHandler): () => void {
    if (this.#handlers.has(kind)) throw new RangeError(`streams of the kind "${kind}" are served already`);
    this.#handlers.set(kind, handler);
    const stop = this.#endpoint?.serve(kind, handler);
    return () => {
      if (this.#handlers.get(kind) === handler) this.#handlers.delete(kind);
      stop?.();
    };
  }

  /**
   * A stream to a member, with a session and a connection first where there is none.
   * @throws StreamError PEER_GONE when it is no member, and everything that StreamEndpoint.open throws
   */
  async open(nodeId: Uint8Array, options: OpenOptions): Promise<MeshStream> {
    const peer = this.#deps.find(nodeId);
    if (peer === undefined || !this.#deps.isTrusted(peer)) throw new StreamError("PEER_GONE", "it is no member");
    const endpoint = this.#load();
    if (endpoint === undefined) throw this.#failure ?? new StreamError("ENDPOINT_CLOSED", "streams are closed");
    this.#deps.want(peer);
    return endpoint.open(peer.nodeId, options);
  }

  /** An inner message of kind 3 from an authenticated peer; anything may be in it. */
  handleInner(peer: PeerRecord, flags: number, aux: number, payload: Uint8Array): void {
    if (!this.#deps.isTrusted(peer)) return;
    peer.streamBytes += payload.length;
    this.#load()?.handleDatagram(peer.nodeId, flags, aux, payload);
  }

  peerUp(peer: PeerRecord): void {
    this.#endpoint?.peerUp(peer.nodeId);
  }

  peerRestarted(peer: PeerRecord): void {
    this.#endpoint?.peerRestarted(peer.nodeId);
  }

  peerGone(peer: PeerRecord, reason: string): void {
    this.#endpoint?.peerGone(peer.nodeId, reason);
  }

  /** Resolves true when the peer has taken all of them, in order. Never rejects. @param messages at most 1,200 bytes each */
  async sendControl(nodeId: Uint8Array, messages: readonly Uint8Array[]): Promise<boolean> {
    try {
      const signal = AbortSignal.timeout(BULK_OPEN_MS);
      const opened = this.open(nodeId, { kind: CONTROL_STREAM, class: StreamClass.CONTROL, signal });
      const stream = await opened;
      const timer = this.#deps.clock.schedule(this.#deps.clock.now().nowMs + BULK_WHOLE_MS, () =>
        stream.reset(StreamCode.CANCELLED),
      );
      stream.resume();
      stream.end(concat(...messages.flatMap((message) => [recordHeader(message.length), message])));
      // the peer ends its half when it has read everything
      await finished(stream).finally(timer);
      return true;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#deps.log.debug(`control messages go as datagrams: ${why}`);
      return false;
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#endpoint?.close();
  }

  #load(): StreamEndpoint | undefined {
    if (this.#endpoint !== undefined || this.#failure !== undefined || this.#isClosed) return this.#endpoint;
    const { identity, random, clock, log } = this.#deps;
    try {
      this.#endpoint = createStreamEndpoint({
        identity,
        random,
        clock,
        send: (nodeId, flags, aux, payload) => this.#send(nodeId, flags, aux, payload),
        rttMs: (nodeId) => {
          const peer = this.#deps.find(nodeId);
          return peer === undefined ? 0 : (this.#deps.figures(peer.slot)?.rttMs ?? 0);
        },
      });
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error));
      log.warn(`no streams on this machine: ${this.#failure.message}`);
      return undefined;
    }
    for (const [kind, handler] of this.#handlers) this.#endpoint.serve(kind, handler);
    return this.#endpoint;
  }

  #send(nodeId: Uint8Array, flags: number, aux: number, payload: Uint8Array): boolean {
    const peer = this.#deps.find(nodeId);
    if (peer === undefined || this.#deps.figures(peer.slot)?.established !== true) return true;
    const { slot } = peer;
    peer.streamBytes += payload.length;
    return this.#deps.trySend({
      kind: "inner",
      peer: slot,
      epochId: 0,
      innerKind: InnerKind.STREAM,
      flags,
      aux,
      payload,
    });
  }

  #takeControl(stream: MeshStream): void {
    const records = new RecordReader();
    stream.on("data", (bytes: Buffer) => {
      const peer = this.#deps.find(stream.peerId);
      if (peer === undefined || !records.add(bytes, (message) => this.#deps.handleControl(peer, message)))
        stream.reset(StreamCode.BAD_OPENING);
    });
    stream.on("end", () => stream.end());
    stream.on("error", (error) => {
      if (!(error instanceof StreamError))
        this.#deps.log.error(`a control message could not be handled: ${error.message}`);
    });
  }
}

function recordHeader(bytes: number): Uint8Array {
  return Uint8Array.of(bytes & 0xff, bytes >>> 8);
}

/** Cuts a stream into its records: 0 length u16 (1–1,200) | 2 message. Holds one unfinished record at most. */
export class RecordReader {
  #rest: Uint8Array = new Uint8Array(0);

  /** @returns false when what came is no sequence of records */
  add(bytes: Uint8Array, take: (record: Uint8Array) => void): boolean {
    const all = this.#rest.length === 0 ? bytes : concat(this.#rest, bytes);
    let at = 0;
    while (all.length - at >= RECORD_HEADER_BYTES) {
      const length = all[at] | (all[at + 1] << 8);
      if (length === 0 || length > MAX_RECORD_BYTES) return false;
      const end = at + RECORD_HEADER_BYTES + length;
      if (end > all.length) break;
      // a copy: a Buffer's slice would keep the whole chunk alive
      take(new Uint8Array(all.subarray(at + RECORD_HEADER_BYTES, end)));
      at = end;
    }
    this.#rest = new Uint8Array(all.subarray(at));
    return true;
  }
}
