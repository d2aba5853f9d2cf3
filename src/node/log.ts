/**
 * The daemon's log on stderr: one line per event for people (time, level, room, what happened), or JSON lines for machines. A line
 * repeated within ten seconds is held back and reported once with its count, so that a flood of one event cannot fill a disk.
 */
import type { Logger } from "../base/log.ts";

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

const REPEAT_MS = 10_000;
const MAX_REMEMBERED = 256;

export interface LogSink {
  /** @param fields printed after the message */
  write(level: LogLevel, room: string, message: string, fields: Record<string, unknown> | undefined): void;
}

/** Names and reasons come from other machines: control characters in them must not reach a terminal. */
export function printable(line: string): string {
  // oxlint-disable-next-line no-control-regex -- finding them is the point
  return line.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) =>
    character === "\n" ? "\\n" : `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

function textSink(out: (line: string) => void): LogSink {
  return {
    write(level, room, message, fields) {
      const time = new Date().toISOString().slice(11, 23);
      let line = `${time} ${level.padEnd(5)} ${room === "" ? "" : `${room}: `}${message}`;
      for (const [key, value] of Object.entries(fields ?? {}))
        line += ` ${key}=${typeof value === "string" ? value : JSON.stringify(value)}`;
      out(`${printable(line)}\n`);
    },
  };
}

/** pino is loaded only when JSON lines are asked for. */
async function jsonSink(level: LogLevel): Promise<LogSink> {
  const { pino } = await import("pino");
  const logger = pino(
    { level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  );
  return {
    write(at, room, message, fields) {
      logger[at]({ ...(room === "" ? {} : { room }), ...fields }, message);
    },
  };
}

/** @param now monotonic milliseconds */
export function createLoggerOn(sink: LogSink, level: LogLevel, now: () => number): Logger {
  const threshold = LOG_LEVELS.indexOf(level);
  const seen = new Map<string, { sinceMs: number; held: number }>();

  const emit = (at: LogLevel, room: string, message: string, fields: Record<string, unknown> | undefined): void => {
    if (LOG_LEVELS.indexOf(at) < threshold) return;
    const key = `${at} ${room} ${message}`;
    const nowMs = now();
    const before = seen.get(key);
    if (before !== undefined && nowMs - before.sinceMs < REPEAT_MS) {
      before.held++;
      return;
    }
    if (seen.size >= MAX_REMEMBERED) seen.delete(seen.keys().next().value as string);
    seen.delete(key);
    seen.set(key, { sinceMs: nowMs, held: 0 });
    sink.write(
      at,
      room,
      before !== undefined && before.held > 0 ? `${message} (and ${before.held} times more before)` : message,
      fields,
    );
  };
  const make = (room: string): Logger => ({
    debug: (message, fields) => emit("debug", room, message, fields),
    info: (message, fields) => emit("info", room, message, fields),
    warn: (message, fields) => emit("warn", room, message, fields),
    error: (message, fields) => emit("error", room, message, fields),
    child: (name) => make(room === "" ? name : `${room}/${name}`),
  });
  return make("");
}

export async function createLogger(level: LogLevel, format: "text" | "json"): Promise<Logger> {
  const sink = format === "json" ? await jsonSink(level) : textSink((line) => void process.stderr.write(line));
  return createLoggerOn(sink, level, () => performance.now());
}
