/** The stream room's front: what an endpoint needs and what it does. createStreamEndpoint() in endpoint.ts makes one. */
import type { Random } from "../base/random.ts";
import type { MeshStream, OpenOptions, StreamCounters, StreamEvent } from "./types.ts";

export interface StreamEndpointDeps {
  readonly identity: { readonly nodeId: Uint8Array; readonly seed: Uint8Array };
  readonly random: Random;
  readonly clock: {
    now(): { readonly nowMs: number };
    schedule(atMs: number, action: () => void): () => void;
  };
  /**
   * Seals one inner message of kind 3 for the peer: `flags` and `aux` go into the inner header. The payload is the callee's.
   * @returns false when there is no room now: it is offered again
   */
  send(peerId: Uint8Array, flags: number, aux: number, payload: Uint8Array): boolean;
  /** Of the active path; 0 or less: unknown. */
  rttMs?(peerId: Uint8Array): number;
  onEvent?(event: StreamEvent): void;
}

export type StreamHandler = (stream: MeshStream) => void;

export interface StreamEndpoint {
  readonly counters: StreamCounters;
  /** Streams of that kind that peers open come to `handler`; one per kind. @returns takes it away */
  serve(kind: string, handler: StreamHandler): () => void;
  /**
   * Opens a stream, with a connection first where there is none.
   * @param peerId 32 bytes
   * @throws StreamError STREAM_LIMIT, STREAM_TIMEOUT, PEER_GONE, ENDPOINT_CLOSED; the signal's reason; RangeError for a bad kind
   */
  open(peerId: Uint8Array, options: OpenOptions): Promise<MeshStream>;
  /** One inner message of kind 3 that the session with this peer has opened; anything may be in it. */
  handleDatagram(peerId: Uint8Array, flags: number, aux: number, payload: Uint8Array): void;
  /** A session with the peer is up: waiting opens try at once. */
  peerUp(peerId: Uint8Array): void;
  /** The peer has restarted: its side of every connection is gone. Waiting opens go on waiting. */
  peerRestarted(peerId: Uint8Array): void;
  /** It is no member any more: everything with it ends. */
  peerGone(peerId: Uint8Array, reason: string): void;
  /** Generation of the connection that takes new streams; 0 = none is up. */
  generation(peerId: Uint8Array): number;
  close(): void;
}
