/** What a message command sends: an argument, a file, standard input as a whole, or standard input line by line. */
import { createReadStream } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { WeftError } from "../base/errors.ts";
import type { Payload } from "../client/client.ts";
import { UsageError } from "./context.ts";

/** What a busy daemon says: the pipe waits meanwhile, and whoever writes into it. */
const BUSY = new Set(["BUSY", "STREAMS_FULL"]);
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 1000;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** As text where it is text, so that receivers see text. */
export function asPayload(bytes: Uint8Array): Payload {
  try {
    return { text: utf8.decode(bytes) };
  } catch {
    return { data: bytes.toBase64() };
  }
}

/** @param text the argument; "-" and undefined: standard input; "@FILE": the file @throws UsageError when it is larger than `mostBytes` */
export async function readPayload(text: string | undefined, mostBytes: number): Promise<Payload> {
  if (text !== undefined && text !== "-" && !text.startsWith("@")) return checked(Buffer.from(text), mostBytes);
  if ((text === undefined || text === "-") && process.stdin.isTTY)
    throw new UsageError("there is nothing to send", "give a text, @FILE, or a pipe on standard input");
  const source = text?.startsWith("@") === true ? createReadStream(text.slice(1)) : process.stdin;
  const chunks: Buffer[] = [];
  let total = 0;
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      total += chunk.length;
      chunks.push(chunk);
      if (total > mostBytes) break;
    }
  } catch (error) {
    throw new UsageError(`cannot read ${text ?? "-"}: ${(error as Error).message}`, "give a text, @FILE or -");
  }
  return checked(Buffer.concat(chunks), mostBytes);
}

function checked(bytes: Uint8Array, mostBytes: number): Payload {
  if (bytes.length > mostBytes)
    throw new UsageError(`it is larger than ${mostBytes} bytes`, "send less, or a file: weft files send FILE PEER");
  return asPayload(bytes);
}

/** Lines of standard input without their ends, as they come; the last one also without an end. */
export async function* inputLines(
  mostBytes: number,
  input: AsyncIterable<Buffer> = process.stdin,
): AsyncGenerator<Payload> {
  let rest: Buffer[] = [];
  let size = 0;
  const line = (): Payload => {
    const bytes = Buffer.concat(rest);
    rest = [];
    size = 0;
    return asPayload(bytes.at(-1) === 0x0d ? bytes.subarray(0, -1) : bytes);
  };
  for await (const chunk of input) {
    let at = 0;
    for (;;) {
      const end = chunk.indexOf(0x0a, at);
      const part = chunk.subarray(at, end === -1 ? undefined : end);
      size += part.length;
      if (size > mostBytes)
        throw new UsageError(`a line is longer than ${mostBytes} bytes`, "cut it, or send it as a file");
      rest.push(part);
      if (end === -1) break;
      yield line();
      at = end + 1;
    }
  }
  if (size > 0) yield line();
}

/** Again, more and more slowly, while the daemon says that it is busy. */
export async function whileBusy<T>(work: () => Promise<T>): Promise<T> {
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2)) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof WeftError) || !BUSY.has(error.code)) throw error;
      await sleep(pauseMs);
    }
  }
}

/** The payload of a received message; bytes that are no text as base64. */
export function shownText(text: string | null, data: string): string {
  return text ?? `base64:${data}`;
}
