/**
 * Where channels come in: a WebSocket server, meant to stand behind a reverse proxy that does TLS. It knows nobody; the sessions inside the
 * channels do. So it only bounds what strangers can take, all of it before a byte of theirs reaches a session:
 * - 192 channels in all. When all are taken, the oldest one without a session makes room; when every one has a session, 503.
 * - 8 channels without a session per client address (IPv6: per /64), and 10 s for each to get one.
 * - what is no WebSocket upgrade with our subprotocol is answered 4xx and closed; headers up to 8 KiB within 5 s.
 * The client's address is the connection's own, or what a trusted proxy says in the standard headers. Source: docs/protocol.md, "Channels".
 */
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer, type WebSocket } from "ws";
import { formatEndpoint } from "../../base/endpoint.ts";
import { WeftError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { ownListeners } from "../../base/own-listeners.ts";
import { MAX_DATAGRAM_BYTES, SUBPROTOCOL, type ChannelConnection } from "./connection.ts";
import { limitKey, TrustedProxies } from "./forwarded.ts";

const MAX_CHANNELS = 192;
const MAX_UNPROVEN_PER_ADDRESS = 8;
/** Connections that have not asked for an upgrade yet come on top of the channels. */
const MAX_SOCKETS = MAX_CHANNELS + 64;
const PROVE_WITHIN_MS = 10_000;
const HEADERS_WITHIN_MS = 5_000;
const MAX_HEADER_BYTES = 8 * 1024;

export interface ChannelServerOptions {
  /** Port 0 = any. */
  readonly listen: { readonly address: string; readonly port: number };
  /** Addresses and prefixes whose headers are believed. */
  readonly trustedProxies: readonly string[];
}

export interface ChannelServerDeps {
  readonly log: Logger;
  nowMs(): number;
  /**
   * A channel has come in. @param address of the client, for people
   * @param ended to be called once when it has ended
   */
  accept(socket: WebSocket, address: string, ended: () => void): ChannelConnection;
}

/** Why an upgrade was refused; the keys of `refused`. */
export type Refusal = "full" | "address" | "request";

interface Guest {
  readonly key: string;
  connection: ChannelConnection | undefined;
}

export class ChannelServer {
  readonly refused: Record<Refusal, number> = { full: 0, address: 0, request: 0 };
  readonly #deps: ChannelServerDeps;
  readonly #options: ChannelServerOptions;
  readonly #proxies: TrustedProxies;
  readonly #http: Server;
  readonly #upgrades: WebSocketServer;
  /** In order of arrival. */
  readonly #guests = new Set<Guest>();

  constructor(deps: ChannelServerDeps, options: ChannelServerOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#proxies = new TrustedProxies(options.trustedProxies);
    this.#upgrades = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: MAX_DATAGRAM_BYTES,
      handleProtocols: () => SUBPROTOCOL,
    });
    this.#http = createServer({
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: HEADERS_WITHIN_MS,
      requestTimeout: HEADERS_WITHIN_MS,
      connectionsCheckingInterval: 1_000,
      keepAlive: false,
    });
    this.#http.maxConnections = MAX_SOCKETS;
    this.#http.on("request", (_request, response) => {
      this.refused.request++;
      response.writeHead(426, { Connection: "close, Upgrade", Upgrade: "websocket", "Content-Length": "0" });
      response.end();
    });
    this.#http.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
  }

  get port(): number {
    return (this.#http.address() as AddressInfo | null)?.port ?? 0;
  }

  /** @throws WeftError CHANNEL_LISTEN */
  async start(): Promise<void> {
    const { address, port } = this.#options.listen;
    await new Promise<void>((resolve, reject) => {
      this.#http.once("error", (cause) =>
        reject(
          new WeftError(
            "CHANNEL_LISTEN",
            `cannot listen for channels on TCP ${formatEndpoint({ address, port })}: ${cause.message}`,
            "choose another address or port for `listen` of [websocket] in weft.toml",
            { cause },
          ),
        ),
      );
      this.#http.listen(port, address, resolve);
    });
    ownListeners.claim(this.#http);
    this.#http.removeAllListeners("error");
    this.#http.on("error", (error) => this.#deps.log.warn(`channel server: ${error.message}`));
  }

  /** Ends channels that got no session in time. @returns when to look again, Infinity when none waits */
  tick(nowMs: number): number {
    let dueMs = Infinity;
    for (const { connection } of this.#guests) {
      if (connection === undefined || connection.proven) continue;
      const atMs = connection.startedAtMs + PROVE_WITHIN_MS;
      if (nowMs >= atMs) connection.close("no session came of it");
      else dueMs = Math.min(dueMs, atMs);
    }
    return dueMs;
  }

  async close(): Promise<void> {
    for (const { connection } of this.#guests) connection?.close("this node is stopping");
    this.#upgrades.close();
    this.#http.closeAllConnections();
    await new Promise<void>((resolve) => this.#http.close(() => resolve()));
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", () => socket.destroy());
    const address = this.#proxies.clientAddress(request.socket.remoteAddress ?? "", request.headers);
    const protocols = (request.headers["sec-websocket-protocol"] ?? "").split(",").map((name) => name.trim());
    if (!protocols.includes(SUBPROTOCOL)) return this.#refuse(socket, "request", "400 Bad Request");
    // behind a proxy that names nobody all clients look alike, so only the bound of all holds for them
    const key = this.#proxies.has(address) ? undefined : limitKey(address);
    if (key !== undefined && this.#unprovenOf(key) >= MAX_UNPROVEN_PER_ADDRESS)
      return this.#refuse(socket, "address", "429 Too Many Requests");
    if (this.#guests.size >= MAX_CHANNELS && !this.#makeRoom())
      return this.#refuse(socket, "full", "503 Service Unavailable");
    const guest: Guest = { key: key ?? "", connection: undefined };
    this.#guests.add(guest);
    socket.once("close", () => this.#guests.delete(guest));
    this.#upgrades.handleUpgrade(request, socket, head, (websocket) => {
      guest.connection = this.#deps.accept(websocket, address, () => this.#guests.delete(guest));
    });
  }

  #unprovenOf(key: string): number {
    let count = 0;
    for (const guest of this.#guests) if (guest.key === key && guest.connection?.proven !== true) count++;
    return count;
  }

  #makeRoom(): boolean {
    for (const guest of this.#guests) {
      if (guest.connection === undefined || guest.connection.proven) continue;
      guest.connection.close("others wait");
      this.#guests.delete(guest);
      return true;
    }
    return false;
  }

  #refuse(socket: Duplex, why: Refusal, status: string): void {
    this.refused[why]++;
    socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  }
}
