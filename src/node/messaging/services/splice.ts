/**
 * A stream of a peer and a TCP connection made one: bytes both ways with back-pressure, half-close passed on, an abrupt end on one side
 * an abrupt end on the other (RST and reset), so that nobody takes a torn transfer for a whole one.
 */
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { type MeshStream, StreamCode } from "../../../stream/types.ts";

/** @param socket with allowHalfOpen @returns resolves when both are closed */
export function splice(socket: Socket, stream: MeshStream): Promise<void> {
  const isWhole = (one: Duplex): boolean => one.readableEnded && one.writableFinished;
  const closed = (one: Duplex): Promise<void> =>
    one.closed ? Promise.resolve() : new Promise((resolve) => one.once("close", resolve));
  const cutStream = (): void => {
    if (!stream.destroyed) stream.reset(StreamCode.APPLICATION);
  };
  const cutSocket = (): void => {
    if (!socket.destroyed) socket.resetAndDestroy();
  };
  socket.on("error", cutStream);
  socket.once("close", () => {
    if (!isWhole(socket)) cutStream();
  });
  stream.on("error", cutSocket);
  stream.once("close", () => {
    if (!isWhole(stream)) cutSocket();
  });
  const both = Promise.all([closed(socket), closed(stream)]).then(() => undefined);
  if (socket.destroyed) cutStream();
  if (stream.destroyed) cutSocket();
  socket.pipe(stream);
  stream.pipe(socket);
  return both;
}

/**
 * Exactly `length` bytes from the beginning of a stream; the rest stays in it. The stream must not flow yet.
 * @throws the stream's error, the signal's reason, or an Error when the stream ends before
 */
export async function readBytes(stream: Duplex, length: number, signal: AbortSignal): Promise<Buffer> {
  if (length === 0) return Buffer.alloc(0);
  for (;;) {
    signal.throwIfAborted();
    if (stream.errored !== null) throw stream.errored;
    const got = stream.read(length) as Buffer | null;
    if (got !== null && got.length === length) return got;
    if (got !== null || stream.readableEnded || stream.destroyed) throw new Error("the stream ended too soon");
    await nextChange(stream, signal);
  }
}

function nextChange(stream: Duplex, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      for (const event of ["readable", "end", "error", "close"]) stream.off(event, done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    for (const event of ["readable", "end", "error", "close"]) stream.on(event, done);
    signal.addEventListener("abort", done, { once: true });
  });
}
