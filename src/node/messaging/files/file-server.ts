/**
 * Files for members: a stream of requests, answered in order. Chunks are read ahead of what is being written, so that disk and wire work at
 * the same time; a peer that reads slowly holds its own stream and two chunks of memory.
 *
 *   stream ─► place free? ─► request ─► share, allowed? ─► file unchanged? ─► read chunk n+1 while n is written ─► answer
 *
 * Who may not have a file gets the same answer as for one that is not there. Source: docs/protocol.md, "Files".
 */
import type { FileHandle } from "node:fs/promises";
import type { MetricSample } from "../../../api/control.ts";
import { concat, toHex } from "../../../base/bytes.ts";
import { u64 } from "../../../messaging/fields.ts";
import {
  ANSWER_HEADER_BYTES,
  decodeRequest,
  FileCode,
  FileRequest,
  FILES_KIND,
  type Request,
  REQUEST_BYTES,
  writeAnswerHeader,
} from "../../../messaging/files/frames.ts";
import { CHUNK_BYTES, chunkCount, chunkLength } from "../../../messaging/files/tree.ts";
import { type MeshStream, StreamCode } from "../../../stream/types.ts";
import { namesOf, type ServiceContext } from "../services/context.ts";
import { type Audit, Slots } from "../services/limits.ts";
import { readBytes } from "../services/splice.ts";
import { readFully } from "./disk.ts";
import { isUnchanged, type Share, type Shares } from "./shares.ts";

const MAX_STREAMS = 64;
const MAX_PER_PEER = 8;
/** A peer that asks for nothing for so long is not waited for. */
const IDLE_MS = 120_000;

export class FileServer {
  readonly #context: ServiceContext;
  readonly #audit: Audit;
  readonly #shares: Shares;
  readonly #slots = new Slots(MAX_STREAMS, MAX_PER_PEER);
  readonly #ending = new AbortController();
  readonly #codes = new Float64Array(5);
  #bytes = 0;
  #stop: (() => void) | undefined;

  constructor(context: ServiceContext, audit: Audit, shares: Shares) {
    this.#context = context;
    this.#audit = audit;
    this.#shares = shares;
  }

  start(): void {
    this.#stop = this.#context.streams.serve(FILES_KIND, (stream) => void this.#serve(stream));
  }

  close(): void {
    this.#stop?.();
    this.#ending.abort(new Error("this node is stopping"));
  }

  async #serve(stream: MeshStream): Promise<void> {
    const peerHex = toHex(stream.peerId);
    const release = this.#slots.take(peerHex);
    const session = new ServingStream(stream, this.#shares, (bytes) => (this.#bytes += bytes));
    try {
      for (;;) {
        const signal = AbortSignal.any([this.#ending.signal, AbortSignal.timeout(IDLE_MS)]);
        const request = decodeRequest(await readBytes(stream, REQUEST_BYTES, signal));
        const member = this.#context.find(stream.peerId);
        if (request === undefined || member === undefined) return stream.reset(StreamCode.APPLICATION);
        const share = release === undefined ? undefined : this.#shares.find(toHex(request.id), peerHex);
        const code = release === undefined ? FileCode.BUSY : await session.answer(request, share);
        this.#codes[code]++;
        if (request.type === FileRequest.DESCRIBE && code !== FileCode.BUSY) {
          const what = share === undefined ? "a file that is not for it" : `"${share.name}"`;
          this.#audit.used(namesOf(member).id, `files: ${namesOf(member).name} asks for ${what}`);
        }
        if (release === undefined) {
          await session.refuse(request, FileCode.BUSY, request.first);
          stream.end();
          return;
        }
      }
    } catch {
      // the peer has ended the stream, or does not read it: it asks again on another one
      if (!stream.destroyed) stream.destroy();
    } finally {
      release?.();
      await session.close();
    }
  }

  metrics(): MetricSample[] {
    const names = ["ok", "unknown", "busy", "gone", "bad"];
    return [
      ...names.map((code, i): MetricSample => ({
        name: "weft_files_requests_total",
        type: "counter",
        help: "Requests for files that members made here, by the answer.",
        labels: { code },
        value: this.#codes[i],
      })),
      {
        name: "weft_files_served_bytes_total",
        type: "counter",
        help: "Bytes of files that members have taken from here.",
        labels: {},
        value: this.#bytes,
      },
      {
        name: "weft_files_serving",
        type: "gauge",
        help: "Streams on which members fetch files from here now.",
        labels: {},
        value: this.#slots.taken,
      },
    ];
  }
}

/** One stream: the file that it reads, and what is being written. */
class ServingStream {
  readonly #stream: MeshStream;
  readonly #shares: Shares;
  readonly #served: (bytes: number) => void;
  #handle: FileHandle | undefined;
  #handleOf = "";
  /** Two, taken in turns: one is read into while the other is written. */
  readonly #buffers: Uint8Array[] = [];
  readonly #writing: Promise<void>[] = [Promise.resolve(), Promise.resolve()];
  #turn = 0;

  constructor(stream: MeshStream, shares: Shares, served: (bytes: number) => void) {
    this.#stream = stream;
    this.#shares = shares;
    this.#served = served;
  }

  async answer(request: Request, share: Share | undefined): Promise<FileCode> {
    if (share === undefined) return this.refuse(request, FileCode.UNKNOWN, request.first);
    const { type, first } = request;
    if (type === FileRequest.CHUNKS) return this.#sendChunks(request, share);
    const bytes =
      type === FileRequest.DESCRIBE
        ? concat(u64(share.sizeBytes), share.pageRoots)
        : await this.#shares.page(share, first);
    if (bytes === undefined) return this.refuse(request, FileCode.BAD, first);
    const out = new Uint8Array(ANSWER_HEADER_BYTES + bytes.length);
    out.set(bytes, ANSWER_HEADER_BYTES);
    writeAnswerHeader(out, type, FileCode.OK, first, bytes.length);
    await this.#write(out);
    return FileCode.OK;
  }

  async #sendChunks(request: Request, share: Share): Promise<FileCode> {
    const { type, first, count } = request;
    if (first + count > chunkCount(share.sizeBytes)) return this.refuse(request, FileCode.BAD, first);
    const handle = await this.#open(share);
    if (handle === undefined) return this.refuse(request, FileCode.GONE, first);
    for (let chunk = first; chunk < first + count; chunk++) {
      const turn = this.#turn;
      this.#turn = 1 - turn;
      // its last bytes have gone
      await this.#writing[turn];
      const buffer = (this.#buffers[turn] ??= new Uint8Array(ANSWER_HEADER_BYTES + CHUNK_BYTES));
      const length = chunkLength(share.sizeBytes, chunk);
      const isRead = await readFully(handle, buffer, ANSWER_HEADER_BYTES, length, chunk * CHUNK_BYTES).catch(
        () => false,
      );
      if (!isRead) return this.refuse(request, FileCode.GONE, chunk);
      writeAnswerHeader(buffer, type, FileCode.OK, chunk, length);
      this.#writing[turn] = this.#write(buffer.subarray(0, ANSWER_HEADER_BYTES + length)).then(() => {
        share.bytesServed += length;
        this.#served(length);
      });
      // whoever waits for it sees the failure
      this.#writing[turn].catch(() => undefined);
    }
    return FileCode.OK;
  }

  async #open(share: Share): Promise<FileHandle | undefined> {
    if (this.#handleOf === share.idHex && this.#handle !== undefined) {
      return (await isUnchanged(this.#handle, share)) ? this.#handle : undefined;
    }
    await this.#handle?.close();
    this.#handle = await this.#shares.open(share);
    this.#handleOf = share.idHex;
    return this.#handle;
  }

  async refuse(request: Request, code: FileCode, index: number): Promise<FileCode> {
    const out = new Uint8Array(ANSWER_HEADER_BYTES);
    writeAnswerHeader(out, request.type, code, index, 0);
    await this.#write(out);
    return code;
  }

  #write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#stream.write(bytes, (error) => (error === null || error === undefined ? resolve() : reject(error)));
    });
  }

  async close(): Promise<void> {
    await this.#handle?.close().catch(() => undefined);
    this.#handle = undefined;
  }
}
