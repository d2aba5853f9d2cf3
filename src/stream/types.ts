/**
 * What the stream room and its users tell each other. Source: docs/protocol.md, "Streams".
 */
import type { Duplex } from "node:stream";
import { WeftError } from "../base/errors.ts";

/** Who goes first when streams share a connection: a lower class never waits for the bytes of a higher number. */
export const StreamClass = {
  /** Membership, acknowledgements. */
  CONTROL: 0,
  /** Direct messages, requests. */
  DIRECT: 1,
  /** Publish/subscribe. */
  PUBSUB: 2,
  /** Files, history, everything long. */
  BULK: 3,
} as const;
export type StreamClass = (typeof StreamClass)[keyof typeof StreamClass];
export const STREAM_CLASSES = 4;

/** Flags of an inner message of kind 3; without the first two the payload is one QUIC datagram (empty: a question, see CHECK). */
export const StreamFlag = {
  /** The sender knows no connection with this tag. */
  RESET: 1,
  /** The sender wants a connection and may not begin one itself. */
  CONNECT: 2,
  /** The connection with this tag succeeds one that lives on until its streams have ended. */
  SUCCESSOR: 4,
  /** How far the peer may send on a stream: stream id u64 ‖ limit in bytes u64. */
  CREDIT: 8,
  /** The sender has bytes and no credit for a stream: stream id u64. Answered by CREDIT. */
  BLOCKED: 16,
} as const;

/** Application error codes of QUIC, as they go over the wire (RFC 9000 section 20.2). */
export const StreamCode = {
  NONE: 0,
  /** The application has cancelled (AbortSignal, destroy() without a code). */
  CANCELLED: 1,
  /** Nobody serves streams of this kind here. */
  UNKNOWN_KIND: 2,
  /** The first bytes of the stream are no opening. */
  BAD_OPENING: 3,
  /** The key in the handshake is not the one of the session. */
  WRONG_KEY: 4,
  /** The endpoint is closing. */
  CLOSING: 5,
  /** More was sent on the stream than its credit. */
  TOO_MUCH: 6,
  /** Applications' own codes start here. */
  APPLICATION: 256,
} as const;

export type StreamErrorCode =
  /** The peer has ended the stream abruptly; `resetCode` says why. */
  | "STREAM_RESET"
  /** The connection is gone; the stream's fate at the peer is unknown: ask again on a new one. */
  | "CONNECTION_REPLACED"
  | "CONNECTION_CLOSED"
  /** The peer is no member any more, or left. */
  | "PEER_GONE"
  /** Too many streams wait to be opened to this peer. */
  | "STREAM_LIMIT"
  /** No connection came up in time. */
  | "STREAM_TIMEOUT"
  | "ENDPOINT_CLOSED";

/** Why a stream ended before its end. */
export class StreamError extends WeftError {
  /** QUIC's application error code; undefined when no peer has sent one. */
  readonly resetCode: number | undefined;

  constructor(code: StreamErrorCode, message: string, resetCode?: number) {
    super(code, message, REMEDIES[code]);
    this.resetCode = resetCode;
  }
}

const REMEDIES: Readonly<Record<StreamErrorCode, string>> = {
  STREAM_RESET: "the other side has given a reason in the code",
  CONNECTION_REPLACED: "open a new stream and ask again",
  CONNECTION_CLOSED: "open a new stream and ask again",
  PEER_GONE: "see weft members",
  STREAM_LIMIT: "wait for streams to end, or raise the limit",
  STREAM_TIMEOUT: "weft ping shows whether the peer can be reached",
  ENDPOINT_CLOSED: "this node is stopping",
};

/** A stream to or from a peer. `end()` closes this side's half; reading goes on until the peer's has ended. */
export interface MeshStream extends Duplex {
  /** 32 bytes. */
  readonly peerId: Uint8Array;
  /** What the stream is for, as the opener named it. */
  readonly streamKind: string;
  readonly streamClass: StreamClass;
  /** Of the connection that carries it. */
  readonly generation: number;
  /** Ends both halves abruptly; the peer sees STREAM_RESET with this code. @param code StreamCode.APPLICATION or above, below 2^53 */
  reset(code: number): void;
}

export interface OpenOptions {
  /** 1–64 printable ASCII characters; the peer must serve it. */
  readonly kind: string;
  /** @default StreamClass.DIRECT */
  readonly class?: StreamClass;
  /** Ends the waiting and the stream. */
  readonly signal?: AbortSignal | undefined;
}

export type StreamEvent = {
  readonly peerId: Uint8Array;
  /** Counts this node's connections with the peer in this run, from 1. */
  readonly generation: number;
} & (
  | { readonly kind: "established" }
  /** Its streams have ended with CONNECTION_REPLACED. */
  | { readonly kind: "replaced"; readonly reason: string }
  /** A successor takes new streams; this one ends with its last stream. */
  | { readonly kind: "closing" }
  | { readonly kind: "closed"; readonly reason: string }
);

/** Everything counted; values only grow, except the last three. */
export interface StreamCounters {
  connectionsEstablished: number;
  connectionsReplaced: number;
  connectionsClosed: number;
  connectionsFailed: number;
  connectionsRefused: number;
  keysRefused: number;
  streamsOpened: number;
  streamsAccepted: number;
  streamsRefused: number;
  streamsReset: number;
  openingsRefused: number;
  datagramsIn: number;
  datagramsOut: number;
  datagramsDropped: number;
  /** The plane's queue was full: the datagram waited. */
  datagramsDelayed: number;
  resetsSent: number;
  resetsReceived: number;
  bytesIn: number;
  bytesOut: number;
  connections: number;
  streams: number;
  opensWaiting: number;
}

export function newStreamCounters(): StreamCounters {
  return {
    connectionsEstablished: 0,
    connectionsReplaced: 0,
    connectionsClosed: 0,
    connectionsFailed: 0,
    connectionsRefused: 0,
    keysRefused: 0,
    streamsOpened: 0,
    streamsAccepted: 0,
    streamsRefused: 0,
    streamsReset: 0,
    openingsRefused: 0,
    datagramsIn: 0,
    datagramsOut: 0,
    datagramsDropped: 0,
    datagramsDelayed: 0,
    resetsSent: 0,
    resetsReceived: 0,
    bytesIn: 0,
    bytesOut: 0,
    connections: 0,
    streams: 0,
    opensWaiting: 0,
  };
}

export interface StreamEndpointOptions {
  /** Streams that a peer may have open here at once; more wait unaccepted. @default 256 */
  readonly maxIncomingPerPeer?: number;
  /** Streams open to one peer at once; more wait. @default 256 */
  readonly maxOutgoingPerPeer?: number;
  /** Opens that may wait per peer; beyond: STREAM_LIMIT. @default 256 */
  readonly maxWaitingPerPeer?: number;
  /** Peers with a connection; beyond, a peer's attempt is refused and counted. @default 4096 */
  readonly maxPeers?: number;
  /** Bytes that a stream takes from its application before write() says to wait. @default 65536 */
  readonly streamBufferBytes?: number;
  /** Bytes that all streams of a peer together hold for slow readers, beyond 64 KiB each; one holds 1 MiB at most. @default 16777216 */
  readonly readBufferBytes?: number;
  /** Bytes of datagrams that wait between QUIC and the plane, per connection and direction. @default 65536 */
  readonly datagramBufferBytes?: number;
  /** @default 30000 */
  readonly openTimeoutMs?: number;
  /** A handshake without an end begins anew after this long. @default 5000 */
  readonly handshakeTimeoutMs?: number;
  /** Datagrams were sent and none came back for this long: the connection is given up. @default 20000 */
  readonly silenceMs?: number;
  /** A connection without streams is closed after this long; the next stream makes a new one in a round trip. @default 60000 */
  readonly idleMs?: number;
  /** Connections that a peer may begin per second, with a burst of one second's worth; beyond: refused and counted. @default 20 */
  readonly attemptsPerSecond?: number;
  /** After so many streams a connection gets a successor, because OpenSSL remembers each one. @default 4096 */
  readonly streamsPerConnection?: number;
}
