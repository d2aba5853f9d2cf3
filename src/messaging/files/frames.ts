/**
 * What two nodes say to each other about files. Little-endian.
 *
 * Stream kind "files/1", class bulk: the opener asks, the other side answers each request in order.
 *   request  0 type u8 | 1 zero 3 | 4 first u32 | 8 count u32 | 12 file id 32
 *   answer   0 type u8 (of the request) | 1 code u8 | 2 zero u16 | 4 index u32 | 8 length u32 | 12 bytes
 *   DESCRIBE → size u64 ‖ page roots · PAGE first → leaves of that page · CHUNKS first, count → one answer for each chunk, in order
 * A code other than OK has no bytes and concludes its request.
 *
 * Stream kind "file-offer/1", class direct: the opener offers a file, the other side says what it does with it until it is done.
 *   offer    0 version u8 = 1 | 1 bytes of the name u8 | 2 zero u16 | 4 file id 32 | 36 size u64 | 44 name, UTF-8
 *   status   0 state u8 | 1 code u8 | 2 zero u16 | 4 bytes that it has u64
 * Source: docs/protocol.md, "Files"; sans-I/O.
 */
import { concat, utf8 } from "../../base/bytes.ts";
import { FieldReader, u16, u32, u64, u8 } from "../fields.ts";
import { CHUNK_BYTES, HASH_BYTES, MAX_FILE_BYTES, MAX_PAGES, PAGE_CHUNKS } from "./tree.ts";

export const FILES_KIND = "files/1";
export const OFFER_KIND = "file-offer/1";
export const REQUEST_BYTES = 44;
export const ANSWER_HEADER_BYTES = 12;
export const OFFER_HEADER_BYTES = 44;
export const STATUS_BYTES = 12;
const OFFER_VERSION = 1;

export const FileRequest = { DESCRIBE: 1, PAGE: 2, CHUNKS: 3 } as const;
export type FileRequest = (typeof FileRequest)[keyof typeof FileRequest];

export const FileCode = {
  OK: 0,
  /** It has no such file, or this peer may not have it: one answer for both. */
  UNKNOWN: 1,
  /** Too many read at once. */
  BUSY: 2,
  /** It had the file, but that has changed or cannot be read. */
  GONE: 3,
  BAD: 4,
} as const;
export type FileCode = (typeof FileCode)[keyof typeof FileCode];

/** Most chunks of one request. */
export const MAX_RUN_CHUNKS = 64;
/** By request type. */
const MAX_ANSWER_BYTES: Readonly<Record<number, number>> = {
  [FileRequest.DESCRIBE]: 8 + MAX_PAGES * HASH_BYTES,
  [FileRequest.PAGE]: PAGE_CHUNKS * HASH_BYTES,
  [FileRequest.CHUNKS]: CHUNK_BYTES,
};

export interface Request {
  readonly type: FileRequest;
  readonly first: number;
  readonly count: number;
  readonly id: Uint8Array;
}

export function encodeRequest({ type, first, count, id }: Request): Uint8Array {
  return concat(Uint8Array.of(type, 0, 0, 0), u32(first), u32(count), id);
}

/** @param bytes REQUEST_BYTES; anything may be in them @returns undefined when they are no request */
export function decodeRequest(bytes: Uint8Array): Request | undefined {
  const fields = new FieldReader(bytes);
  const type = fields.u32();
  const first = fields.u32();
  const count = fields.u32();
  const id = fields.bytes(HASH_BYTES);
  if (!fields.isWhole || type < FileRequest.DESCRIBE || type > FileRequest.CHUNKS) return undefined;
  if (type === FileRequest.CHUNKS && (count < 1 || count > MAX_RUN_CHUNKS)) return undefined;
  return { type: type as FileRequest, first, count, id };
}

/** Writes the header in front of bytes that the caller has put at ANSWER_HEADER_BYTES. */
export function writeAnswerHeader(out: Uint8Array, type: number, code: FileCode, index: number, length: number): void {
  out.set(concat(u8(type), u8(code), u16(0), u32(index), u32(length)), 0);
}

export interface Answer {
  readonly type: number;
  readonly code: number;
  readonly index: number;
  /** LEAF_PREFIX ‖ bytes, so that a chunk is hashed as it lies. */
  readonly prefixed: Uint8Array<ArrayBuffer>;
}

/** Cuts a stream into answers. Holds one unfinished answer at most; its memory is taken when its header has come. */
export class AnswerReader {
  readonly #buffer: (bytes: number) => Uint8Array<ArrayBuffer>;
  readonly #header = new Uint8Array(ANSWER_HEADER_BYTES);
  #headerHave = 0;
  #body: Uint8Array<ArrayBuffer> | undefined;
  #bodyHave = 0;

  /** @param buffer gives memory for one byte and an answer's bytes; its first byte is zero or becomes it */
  constructor(buffer: (bytes: number) => Uint8Array<ArrayBuffer>) {
    this.#buffer = buffer;
  }

  /** @returns false when what came is no sequence of answers */
  add(bytes: Uint8Array, take: (answer: Answer) => void): boolean {
    let at = 0;
    for (;;) {
      if (this.#body === undefined) {
        const part = Math.min(ANSWER_HEADER_BYTES - this.#headerHave, bytes.length - at);
        this.#header.set(bytes.subarray(at, at + part), this.#headerHave);
        this.#headerHave += part;
        at += part;
        if (this.#headerHave < ANSWER_HEADER_BYTES) return true;
        const length = lengthOf(this.#header);
        if (length < 0) return false;
        this.#body = this.#buffer(length + 1);
        this.#body[0] = 0;
        this.#bodyHave = 1;
      }
      const body = this.#body;
      const part = Math.min(body.length - this.#bodyHave, bytes.length - at);
      body.set(bytes.subarray(at, at + part), this.#bodyHave);
      this.#bodyHave += part;
      at += part;
      if (this.#bodyHave < body.length) return true;
      const [type, code] = this.#header;
      const index = new FieldReader(this.#header, 4).u32();
      this.#body = undefined;
      this.#headerHave = 0;
      take({ type, code, index, prefixed: body });
    }
  }
}

/** @returns −1 when it is no header */
function lengthOf(header: Uint8Array): number {
  const fields = new FieldReader(header);
  const type = fields.u8();
  const code = fields.u8();
  fields.u16();
  fields.u32();
  const length = fields.u32();
  if (length > (MAX_ANSWER_BYTES[type] ?? -1)) return -1;
  return code !== FileCode.OK && length > 0 ? -1 : length;
}

/** @param bytes of an answer to DESCRIBE @returns undefined when they are not that */
export function decodeDescription(
  bytes: Uint8Array,
): { readonly sizeBytes: number; readonly pageRoots: Uint8Array } | undefined {
  if (bytes.length < 8) return undefined;
  const fields = new FieldReader(bytes);
  const sizeBytes = fields.u64();
  const pageRoots = fields.bytes(bytes.length - 8);
  return fields.isWhole && sizeBytes <= MAX_FILE_BYTES ? { sizeBytes, pageRoots } : undefined;
}

// ── offers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Offer {
  readonly id: Uint8Array;
  readonly sizeBytes: number;
  /** As the sender calls it; not to be trusted. */
  readonly name: string;
}

/** @param offer a name of at most 255 bytes in UTF-8 */
export function encodeOffer({ id, sizeBytes, name }: Offer): Uint8Array {
  const text = utf8(name);
  return concat(u8(OFFER_VERSION), u8(text.length), u16(0), id, u64(sizeBytes), text);
}

/** @param head OFFER_HEADER_BYTES @returns bytes of the name that follow, undefined when it cannot become an offer */
export function offerNameBytes(head: Uint8Array): number | undefined {
  return head.length === OFFER_HEADER_BYTES && head[0] === OFFER_VERSION ? head[1] : undefined;
}

export function decodeOffer(head: Uint8Array, name: Uint8Array): Offer | undefined {
  if (offerNameBytes(head) !== name.length) return undefined;
  const fields = new FieldReader(head, 4);
  const id = fields.bytes(HASH_BYTES);
  const sizeBytes = fields.u64();
  if (!fields.isWhole || sizeBytes > MAX_FILE_BYTES) return undefined;
  return { id, sizeBytes, name: new TextDecoder().decode(name) };
}

/** What the receiver of an offer does. */
export const OfferState = { WAITING: 1, FETCHING: 2, DONE: 3, REFUSED: 4, CANCELLED: 5 } as const;
export type OfferState = (typeof OfferState)[keyof typeof OfferState];

/** Why an offer is refused. */
export const RefusalCode = { NONE: 0, NOT_ACCEPTED: 1, TOO_LARGE: 2, QUOTA: 3, BUSY: 4, DISK: 5, BAD: 6 } as const;
export type RefusalCode = (typeof RefusalCode)[keyof typeof RefusalCode];

const REFUSALS: readonly string[] = [
  "",
  "it takes no files from this node",
  "it takes no files of this size",
  "its quota is used up",
  "it takes no more at once",
  "its disk is full",
  "it did not understand the offer",
];

export function refusalText(code: number): string {
  return REFUSALS[code] ?? `code ${code}`;
}

export interface OfferStatus {
  readonly state: OfferState;
  readonly code: number;
  readonly haveBytes: number;
}

export function encodeStatus({ state, code, haveBytes }: OfferStatus): Uint8Array {
  return concat(u8(state), u8(code), u16(0), u64(haveBytes));
}

/** @param bytes STATUS_BYTES @returns undefined when they are none */
export function decodeStatus(bytes: Uint8Array): OfferStatus | undefined {
  const fields = new FieldReader(bytes);
  const state = fields.u8();
  const code = fields.u8();
  fields.u16();
  const haveBytes = fields.u64();
  if (!fields.isWhole || state < OfferState.WAITING || state > OfferState.CANCELLED) return undefined;
  return { state: state as OfferState, code, haveBytes };
}
