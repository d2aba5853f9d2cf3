/**
 * Running a program of another node. Stream kind "exec/1"; little-endian.
 *   opener → server  0 version u8 = 1 | 1 arguments u8 | 2 bytes of the name u8 | 3 zero | 4 bytes of the arguments u32 | 8 name, ASCII | arguments
 *                    an argument: length u16 ‖ UTF-8. An empty name asks what may be run. Behind it come the bytes of standard input until the half ends
 *   server → opener  records: 0 type u8 | 1 zero 3 | 4 length u32 | 8 bytes
 *                    OUT, ERR output · EXIT code u8, signal u8 (one of them 0), why u8 · REFUSED why u8; the last two end it
 * Source: docs/protocol.md, "Execution"; sans-I/O.
 */
import { concat, utf8 } from "../../base/bytes.ts";
import { FieldReader, u16, u32, u8 } from "../fields.ts";

export const EXEC_KIND = "exec/1";
export const EXEC_HEAD_BYTES = 8;
export const MAX_ARGUMENTS = 64;
const MAX_ARGUMENTS_BYTES = 65_536;
const RECORD_HEADER_BYTES = 8;
export const MAX_RECORD_BYTES = 65_536;
const VERSION = 1;

export const ExecRecord = { OUT: 1, ERR: 2, EXIT: 3, REFUSED: 4 } as const;
export type ExecRecord = (typeof ExecRecord)[keyof typeof ExecRecord];

/** Why there is no exit of the program's own. */
export const ExecEnd = {
  NONE: 0,
  /** No such command, or it is not for this member: one answer for both. */
  NOT_ALLOWED: 1,
  BUSY: 2,
  TOO_MANY_ARGUMENTS: 3,
  BAD: 4,
  /** The program could not be started. */
  FAILED: 5,
  TIMEOUT: 6,
  TOO_MUCH_OUTPUT: 7,
} as const;
export type ExecEnd = (typeof ExecEnd)[keyof typeof ExecEnd];

const TEXTS: readonly string[] = [
  "",
  "it has no such command for this node",
  "it runs too many programs at once",
  "the command takes no more arguments",
  "it did not understand the request",
  "the program could not be started",
  "the program ran for too long",
  "the program wrote too much",
];

export function execEndText(end: number): string {
  return TEXTS[end] ?? `code ${end}`;
}

export interface ExecRequest {
  readonly name: string;
  readonly args: readonly string[];
}

/** @throws RangeError when the arguments are too many or too long */
export function encodeExecRequest({ name, args }: ExecRequest): Uint8Array {
  const encoded = args.map(utf8);
  const block = concat(...encoded.flatMap((bytes) => [u16(bytes.length), bytes]));
  if (
    args.length > MAX_ARGUMENTS ||
    block.length > MAX_ARGUMENTS_BYTES ||
    encoded.some(({ length }) => length > 0xffff)
  )
    throw new RangeError("too many or too long arguments");
  return concat(u8(VERSION), u8(args.length), u8(name.length), u8(0), u32(block.length), utf8(name), block);
}

/** @param head EXEC_HEAD_BYTES @returns bytes that follow, undefined when it cannot become a request */
export function execBodyBytes(head: Uint8Array): number | undefined {
  const fields = new FieldReader(head);
  const version = fields.u8();
  const count = fields.u8();
  const nameBytes = fields.u8();
  fields.u8();
  const length = fields.u32();
  if (!fields.isWhole || version !== VERSION || count > MAX_ARGUMENTS || nameBytes > 64) return undefined;
  return length > MAX_ARGUMENTS_BYTES ? undefined : nameBytes + length;
}

/** @param body the bytes that follow the head @returns undefined when they are no request */
export function decodeExecRequest(head: Uint8Array, body: Uint8Array): ExecRequest | undefined {
  if (execBodyBytes(head) !== body.length) return undefined;
  const name = String.fromCharCode(...body.subarray(0, head[2]));
  if (!/^[\x21-\x7e]{0,64}$/.test(name)) return undefined;
  const fields = new FieldReader(body, head[2]);
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const args: string[] = [];
  try {
    for (let i = 0; i < head[1]; i++) {
      const length = fields.u16();
      if (length > fields.left) return undefined;
      args.push(decoder.decode(fields.bytes(length)));
    }
  } catch {
    return undefined;
  }
  return fields.isWhole ? { name, args } : undefined;
}

/** @param bytes at most MAX_RECORD_BYTES */
export function encodeExecRecord(type: ExecRecord, bytes: Uint8Array): Uint8Array {
  return concat(u8(type), new Uint8Array(3), u32(bytes.length), bytes);
}

/** Cuts a stream into records. Holds one unfinished record at most. */
export class ExecRecordReader {
  #rest: Uint8Array = new Uint8Array(0);

  /** @returns false when what came is no sequence of records */
  add(bytes: Uint8Array, take: (type: ExecRecord, bytes: Uint8Array) => void): boolean {
    const all = this.#rest.length === 0 ? bytes : concat(this.#rest, bytes);
    let at = 0;
    while (all.length - at >= RECORD_HEADER_BYTES) {
      const fields = new FieldReader(all.subarray(at, at + RECORD_HEADER_BYTES));
      const type = fields.u32();
      const length = fields.u32();
      if (type < ExecRecord.OUT || type > ExecRecord.REFUSED || length > MAX_RECORD_BYTES) return false;
      const end = at + RECORD_HEADER_BYTES + length;
      if (end > all.length) break;
      // a copy: a piece of a larger buffer would keep all of it alive
      take(type as ExecRecord, all.slice(at + RECORD_HEADER_BYTES, end));
      at = end;
    }
    this.#rest = all.slice(at);
    return true;
  }
}
