/**
 * An event stream of the local API as an async iterator that lasts: when the connection or the daemon goes away it comes back with the id
 * of the last event, so that nothing within the daemon's buffer is missed, and what is missed comes as an event `gap`. Events are read
 * from the connection only as fast as the loop takes them.
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
import { createParser } from "eventsource-parser";
import { setTimeout as sleep } from "node:timers/promises";
import { WeftError } from "../base/errors.ts";
import type { CallOptions, Transport } from "./transport.ts";

/** Three heartbeats of the daemon. */
const SILENCE_MS = 45_000;
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 5_000;
const MAX_EVENT_CHARACTERS = 16 << 20;
/** What a daemon that is starting or busy says; all else that it says is an answer. */
const PASSING = new Set(["DAEMON_DOWN", "API_FAILED", "NOT_READY", "STREAMS_FULL", "BUSY"]);

export interface ApiEvent<T = unknown> {
  /** "ready" when the stream stands, "gap" where events are missing, else what the route says. */
  readonly event: string;
  /** Where to go on: the Last-Event-ID. */
  readonly id: string | undefined;
  readonly data: T;
}

export interface EventOptions extends Pick<CallOptions, "params" | "query" | "signal"> {
  readonly lastEventId?: string | undefined;
  /** Come back when the daemon goes away, also when it is not there at first. @default true, but an error at the first try is one */
  readonly reconnect?: boolean | "always" | undefined;
}

/** Ends when the signal is aborted or, without `reconnect`, when the connection ends. @throws WeftError */
export async function* readEvents<T>(
  transport: Transport,
  path: string,
  { lastEventId, reconnect = true, signal, ...where }: EventOptions,
): AsyncGenerator<ApiEvent<T>> {
  let last = lastEventId;
  let pauseMs = FIRST_PAUSE_MS;
  let wasOpen = reconnect === "always";
  const isOver = (): boolean => signal?.aborted === true;
  while (!isOver()) {
    try {
      const headers = { accept: "text/event-stream", ...(last === undefined ? {} : { "last-event-id": last }) };
      const response = await transport.open("GET", path, { ...where, signal, headers, timeoutMs: SILENCE_MS });
      wasOpen = true;
      const events: ApiEvent<T>[] = [];
      let size = 0;
      const parser = createParser({
        onEvent: ({ event, id, data }) => {
          size = 0;
          events.push({ event: event ?? "message", id, data: JSON.parse(data) as T });
        },
      });
      const decoder = new TextDecoder();
      try {
        for await (const chunk of response as AsyncIterable<Buffer>) {
          size += chunk.length;
          if (size > MAX_EVENT_CHARACTERS + chunk.length) throw new Error("an event is too large");
          parser.feed(decoder.decode(chunk, { stream: true }));
          for (const event of events.splice(0)) {
            pauseMs = FIRST_PAUSE_MS;
            if (event.event === "error") throw eventError(event.data);
            last = event.id ?? last;
            yield event;
          }
        }
      } catch (error) {
        throw error instanceof WeftError ? error : transport.unreachable(error as NodeJS.ErrnoException);
      } finally {
        response.destroy();
      }
    } catch (error) {
      if (isOver()) return;
      const passes = error instanceof WeftError && PASSING.has(error.code);
      if (reconnect === false || !wasOpen || !passes) throw error;
    }
    if (reconnect === false) return;
    // spread out: after a restart of the daemon all its clients come back
    await sleep(pauseMs * (0.5 + Math.random()), undefined, { signal }).catch(() => undefined);
    pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2);
  }
}

function eventError(data: unknown): WeftError {
  const { code, message, remedy } = data as { code: string; message: string; remedy: string };
  return new WeftError(code, message, remedy);
}
