/**
 * Requests of the local API over the unix socket or, with a token, over TCP on loopback. One request per call; nothing is retried here,
 * because the caller knows better. Errors of the daemon arrive as the same WeftError it threw.
 */
import { request } from "node:http";
import type { IncomingMessage, RequestOptions } from "node:http";
import { WeftError } from "../base/errors.ts";

/** Longer than the longest the daemon may take for one answer (a ping of 60 s). */
const TIMEOUT_MS = 75_000;
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

/** Where the daemon is. */
export type Place =
  | { readonly socketPath: string }
  /** "http://127.0.0.1:9339" and a token of `weft token create` */
  | { readonly url: string; readonly token: string };

type Value = string | number | boolean;

export interface CallOptions {
  /** For each ":name" of the path. */
  readonly params?: Readonly<Record<string, string>> | undefined;
  /** A list repeats the key; what is undefined is left out. */
  readonly query?: Readonly<Record<string, Value | readonly string[] | undefined>> | undefined;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Gives up; the daemon is told by the closed connection. */
  readonly signal?: AbortSignal | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** Without a byte of the answer. @default 75000 */
  readonly timeoutMs?: number | undefined;
}

/** @returns the path with its parameters and query */
export function fillPath(path: string, { params = {}, query = {} }: CallOptions): string {
  const filled = path.replaceAll(/:([A-Za-z]+)/g, (_, name: string) => encodeURIComponent(params[name] ?? ""));
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value === undefined) continue;
    for (const one of Array.isArray(value) ? (value as readonly string[]) : [value as Value])
      search.append(key, String(one));
  }
  return search.size === 0 ? filled : `${filled}?${search.toString()}`;
}

export class Transport {
  readonly #place: Place;
  /** For messages: where the daemon was looked for. */
  readonly name: string;
  readonly #target: Omit<RequestOptions, "headers"> & { readonly headers: Readonly<Record<string, string>> };

  constructor(place: Place) {
    this.#place = place;
    if ("socketPath" in place) {
      this.name = place.socketPath;
      this.#target = { socketPath: place.socketPath, headers: { host: "weft" } };
    } else {
      const url = new URL(place.url);
      if (url.protocol !== "http:")
        throw new WeftError("USAGE", `${place.url} is no http:// URL`, "see `weft token list`");
      this.name = url.host;
      this.#target = {
        // node:http wants an IPv6 address without its brackets
        hostname: url.hostname.replace(/^\[|\]$/g, ""),
        port: url.port,
        headers: { host: url.host, authorization: `Bearer ${place.token}` },
      };
    }
  }

  /** @returns the whole body of a successful answer */
  async text(method: string, path: string, options: CallOptions = {}): Promise<string> {
    const response = await this.open(method, path, options);
    try {
      return await readAll(response, MAX_ANSWER_BYTES);
    } catch (error) {
      throw this.unreachable(error as NodeJS.ErrnoException);
    }
  }

  /** @returns a successful answer whose body has not been read yet @throws WeftError */
  open(method: string, path: string, options: CallOptions = {}): Promise<IncomingMessage> {
    const payload = options.body === undefined ? undefined : JSON.stringify(options.body);
    const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    return new Promise((resolve, reject) => {
      const outgoing = request(
        {
          ...this.#target,
          method,
          path: fillPath(path, options),
          agent: false,
          ...(options.signal === undefined ? {} : { signal: options.signal }),
          headers: {
            ...this.#target.headers,
            ...options.headers,
            ...(payload === undefined
              ? {}
              : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
          },
        },
        (response) => {
          if (response.statusCode === 200) return resolve(response);
          readAll(response, MAX_ANSWER_BYTES).then(
            (text) => reject(remoteError(text, response.statusCode ?? 0)),
            (error: NodeJS.ErrnoException) => reject(this.unreachable(error)),
          );
        },
      );
      outgoing.setTimeout(timeoutMs, () => outgoing.destroy(new Error(`no answer for ${timeoutMs / 1000} s`)));
      outgoing.on("error", (error) => reject(this.unreachable(error)));
      outgoing.end(payload);
    });
  }

  unreachable(error: NodeJS.ErrnoException): WeftError {
    if (error.name === "AbortError")
      return new WeftError("ABORTED", "the request was given up", "ask again", { cause: error });
    if (error.code === "EACCES" || error.code === "EPERM") {
      return new WeftError(
        "API_DENIED",
        `no permission to use ${this.name}`,
        "run the command as the user that runs the daemon, or with sudo",
        { cause: error },
      );
    }
    if (error.code === "ENOENT" || error.code === "ECONNREFUSED" || error.code === "ENOTDIR") {
      return new WeftError(
        "DAEMON_DOWN",
        `no daemon is running on ${this.name}`,
        "socketPath" in this.#place
          ? "start it with `weft up`, or name its directory with --state DIR"
          : "start it with `weft up` and [api] listen in weft.toml",
        { cause: error },
      );
    }
    return new WeftError(
      "API_FAILED",
      `the daemon did not answer: ${error.message}`,
      "see the daemon's log, or start it again with `weft up`",
      { cause: error },
    );
  }
}

async function readAll(response: IncomingMessage, most: number): Promise<string> {
  const chunks: Buffer[] = [];
  let total = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    total += chunk.length;
    if (total > most) {
      response.destroy();
      throw new Error("answer too large");
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function remoteError(text: string, status: number): WeftError {
  try {
    const value = JSON.parse(text) as Record<string, unknown>;
    if (
      typeof value["code"] === "string" &&
      typeof value["message"] === "string" &&
      typeof value["remedy"] === "string"
    ) {
      return new WeftError(value["code"], value["message"], value["remedy"]);
    }
  } catch {
    // not ours: fall through to the plain message
  }
  return new WeftError(
    "API_FAILED",
    `the daemon answered with status ${status}`,
    "check that client and daemon are of the same version: `weft version`",
  );
}
