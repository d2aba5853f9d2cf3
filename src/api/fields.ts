/** The fields that bodies and queries of the local API are made of; a message says what would be right. */
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";

/** For `z.strictObject(shape, OBJECT)`. */
export const OBJECT = "must be a JSON object";

export function text(most: number, least = 0): z.ZodMiniString {
  const message = `must be text of ${least} to ${most} characters`;
  return z.string(message).check(z.minLength(least, message), z.maxLength(most, message));
}

export function whole(low: number, high: number): z.ZodMiniNumber {
  const message = `must be a whole number from ${low} to ${high}`;
  return z.int(message).check(z.gte(low, message), z.lte(high, message));
}

export function flag(): z.ZodMiniBoolean {
  return z.boolean("must be true or false");
}

export function list<T extends z.ZodMiniType>(item: T, most: number): z.ZodMiniArray<T> {
  return z.array(item, "must be a list").check(z.maxLength(most, "has too many entries"));
}

export function oneOf<const T extends readonly string[]>(names: T): z.ZodMiniEnum<{ [K in T[number]]: K }> {
  return z.enum(names, `must be one of ${names.join(", ")}`);
}

/** Bytes as base64 (RFC 4648 section 4, padded). @param mostBytes before encoding */
export function base64(mostBytes: number): z.ZodMiniString {
  const message = `must be base64 of at most ${mostBytes} bytes`;
  const most = Math.ceil(mostBytes / 3) * 4;
  return z
    .string(message)
    .check(
      z.maxLength(most, message),
      z.regex(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/, message),
    );
}

/** Name, id, first 8 or more characters of an id, or overlay address of a member. */
export function nodeReference(): z.ZodMiniString {
  return text(256, 1);
}

/** An answer without content. */
export function nothing(): z.ZodMiniType<object> {
  return z.strictObject({}, OBJECT);
}

/** A payload in a body: `text`, or `data` in base64; which of the two, payloadOf() decides. @param mostBytes of the payload */
export function payloadShape(mostBytes: number): {
  text: z.ZodMiniOptional<z.ZodMiniString>;
  data: z.ZodMiniOptional<z.ZodMiniString>;
} {
  return { text: z.optional(text(mostBytes)), data: z.optional(base64(mostBytes)) };
}

/** @throws WeftError BAD_REQUEST unless exactly one is there, TOO_LARGE */
export function payloadOf(
  { text, data }: { readonly text?: string | undefined; readonly data?: string | undefined },
  mostBytes: number,
): Uint8Array {
  if ((text === undefined) === (data === undefined)) {
    throw new WeftError("BAD_REQUEST", "body: needs one of text and data", "send text, or data in base64");
  }
  const bytes = text === undefined ? Uint8Array.fromBase64(data ?? "") : new TextEncoder().encode(text);
  if (bytes.length > mostBytes) {
    throw new WeftError(
      "TOO_LARGE",
      `the payload is ${bytes.length} bytes; at most ${mostBytes} fit`,
      "send less, or a file",
    );
  }
  return bytes;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @returns `text` null when it is no UTF-8 */
export function payloadView(bytes: Uint8Array): { readonly text: string | null; readonly data: string } {
  let text: string | null = null;
  try {
    text = utf8.decode(bytes);
  } catch {
    // then it is bytes
  }
  return { text, data: bytes.toBase64() };
}
