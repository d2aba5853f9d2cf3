/**
 * Frames of mailboxes, on channel BULK, little-endian. A ticket is the first 16 bytes of SHA-256(sealed).
 *
 *   DEPOSIT  0 type 1 | 1 zero 3 | 4 expires, wall ms u64 | 12 recipient 32 | 44 sealed        sender → keeper
 *   KEPT     0 type 2 | 1 kept u8: 1, or 0 = refused | 2 zero 2 | 4 ticket 16                  keeper → sender
 *   GIVE     0 type 3 | 1 zero 3 | 4 sender 32 | 36 sealed                                     keeper → recipient
 *   TAKEN    0 type 4 | 1 zero 3 | 4 ticket 16                                                 recipient → keeper: it may be forgotten
 *
 * Source: docs/protocol.md, "Mailboxes".
 */
import { concat } from "../../base/bytes.ts";
import { FrameChannel, MAX_FRAME_BYTES } from "../frames.ts";
import { FieldReader, u64 } from "../fields.ts";
import { sha256 } from "../../crypto/kdf.ts";
import { MAILBOX_OVERHEAD_BYTES } from "./mailbox-seal.ts";

export const MailboxType = { DEPOSIT: 1, KEPT: 2, GIVE: 3, TAKEN: 4 } as const;

export const TICKET_BYTES = 16;
const NODE_BYTES = 32;
const DEPOSIT_HEAD_BYTES = 44;

/** What fits into a DEPOSIT before it is sealed. */
export const MAX_MAILED_BYTES: number =
  MAX_FRAME_BYTES[FrameChannel.BULK] - DEPOSIT_HEAD_BYTES - MAILBOX_OVERHEAD_BYTES;

export type MailboxFrame =
  | {
      readonly type: typeof MailboxType.DEPOSIT;
      readonly expiresWallMs: number;
      readonly recipient: Uint8Array;
      readonly sealed: Uint8Array;
    }
  | { readonly type: typeof MailboxType.KEPT; readonly isKept: boolean; readonly ticket: Uint8Array }
  | { readonly type: typeof MailboxType.GIVE; readonly sender: Uint8Array; readonly sealed: Uint8Array }
  | { readonly type: typeof MailboxType.TAKEN; readonly ticket: Uint8Array };

export function encodeMailbox(frame: MailboxFrame): Uint8Array {
  const head = (second: number): Uint8Array => Uint8Array.of(frame.type, second, 0, 0);
  switch (frame.type) {
    case MailboxType.DEPOSIT:
      return concat(head(0), u64(Math.floor(frame.expiresWallMs)), frame.recipient, frame.sealed);
    case MailboxType.KEPT:
      return concat(head(frame.isKept ? 1 : 0), frame.ticket);
    case MailboxType.GIVE:
      return concat(head(0), frame.sender, frame.sealed);
    case MailboxType.TAKEN:
      return concat(head(0), frame.ticket);
  }
}

/** @param bytes anything */
export function decodeMailbox(bytes: Uint8Array): MailboxFrame | undefined {
  const reader = new FieldReader(bytes);
  const type = reader.u8();
  const second = reader.u8();
  if (reader.u16() !== 0 || second > (type === MailboxType.KEPT ? 1 : 0)) return undefined;
  if (type === MailboxType.DEPOSIT) {
    const expiresWallMs = reader.u64();
    const recipient = reader.bytes(NODE_BYTES);
    const sealed = reader.bytes(reader.left);
    const isWhole = reader.isWhole && sealed.length >= MAILBOX_OVERHEAD_BYTES;
    return isWhole ? { type, expiresWallMs, recipient, sealed } : undefined;
  }
  if (type === MailboxType.GIVE) {
    const sender = reader.bytes(NODE_BYTES);
    const sealed = reader.bytes(reader.left);
    return reader.isWhole && sealed.length >= MAILBOX_OVERHEAD_BYTES ? { type, sender, sealed } : undefined;
  }
  if (type !== MailboxType.KEPT && type !== MailboxType.TAKEN) return undefined;
  const ticket = reader.bytes(TICKET_BYTES);
  if (!reader.isWhole) return undefined;
  return type === MailboxType.KEPT ? { type, isKept: second === 1, ticket } : { type, ticket };
}

export function ticketOf(sealed: Uint8Array): Uint8Array {
  return sha256(sealed).subarray(0, TICKET_BYTES);
}
