/**
 * Opening a channel: resolve the host, connect to its addresses side by side (RFC 8305: another one after 250 ms, the first that answers
 * wins), TLS with verification, WebSocket upgrade. The TCP socket carries the underlay mark where one is set, so that no route of the overlay
 * ever swallows it. A URL is somebody else's word, so addresses of this machine itself and of its links alone are not connected to, also when
 * a name leads there, unless `allowLocal` says so. Names are looked up unmarked by the system's resolver; when that fails, the addresses that it gave last are used.
 */
import { lookup } from "node:dns/promises";
import { readFileSync } from "node:fs";
import { isIP, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { connect as connectTls, getCACertificates } from "node:tls";
import { WebSocket } from "ws";
import type { ChannelUrl } from "../../base/channel-url.ts";
import { isIPv4Mapped, parseAddress } from "../../base/endpoint.ts";
import { WeftError } from "../../base/errors.ts";
import { openMarkedTcp } from "../../sys/tcp.ts";
import { MAX_DATAGRAM_BYTES, SUBPROTOCOL } from "./connection.ts";

const NEXT_ADDRESS_MS = 250;
const LOOKUP_MS = 2_000;
const ANSWER_MS = 8_000;
const MAX_ADDRESSES = 8;
const MAX_REMEMBERED = 64;

export interface DialOptions {
  /** Certificates in PEM that are trusted besides the usual ones. */
  readonly ca: string | undefined;
  /** SO_MARK, 0 = none. */
  readonly mark: number;
  /** Loopback, unspecified and link-local addresses too: for a node that is on loopback itself. */
  readonly allowLocal: boolean;
}

/** @param file PEM, undefined = none @throws WeftError CONFIG_INVALID */
export function readAuthority(file: string | undefined): string | undefined {
  if (file === undefined) return undefined;
  try {
    const text = readFileSync(file, "utf8");
    if (!text.includes("-----BEGIN CERTIFICATE-----")) throw new Error("it holds no certificate in PEM form");
    return text;
  } catch (cause) {
    throw new WeftError(
      "CONFIG_INVALID",
      `cannot use ${file} as a certificate authority: ${(cause as Error).message}`,
      "correct `ca` of [websocket] in weft.toml, or remove it",
      { cause },
    );
  }
}

/** Opens a channel. Rejects with an Error whose message is for people. */
export type Dial = (url: ChannelUrl, signal: AbortSignal) => Promise<WebSocket>;

export class Dialer {
  readonly #options: DialOptions;
  readonly #ca: string[] | undefined;
  /** Addresses of names as they were looked up last. */
  readonly #remembered = new Map<string, readonly string[]>();

  constructor(options: DialOptions) {
    this.#options = options;
    this.#ca = options.ca === undefined ? undefined : [...getCACertificates("default"), options.ca];
  }

  async dial(url: ChannelUrl, signal: AbortSignal): Promise<WebSocket> {
    const found = await this.#resolve(url.host);
    signal.throwIfAborted();
    const addresses = this.#options.allowLocal ? found : found.filter((address) => !isLocal(address));
    if (addresses.length === 0 && found.length > 0)
      throw new Error(`${url.host} leads to this machine itself or to its own link (${found[0]})`);
    return firstOf(addresses, (address) => this.#open(url, address), signal);
  }

  async #resolve(host: string): Promise<readonly string[]> {
    if (isIP(host) !== 0) return [host];
    try {
      const found = await within(lookup(host, { all: true, verbatim: true }), LOOKUP_MS);
      const addresses = interleave(found.map(({ address }) => address)).slice(0, MAX_ADDRESSES);
      this.#remembered.delete(host);
      if (this.#remembered.size >= MAX_REMEMBERED)
        this.#remembered.delete(this.#remembered.keys().next().value as string);
      this.#remembered.set(host, addresses);
      return addresses;
    } catch (error) {
      const remembered = this.#remembered.get(host);
      if (remembered !== undefined) return remembered;
      throw new Error(`the name ${host} cannot be resolved (${(error as Error).message})`, { cause: error });
    }
  }

  #open(url: ChannelUrl, address: string): WebSocket {
    const host = url.host.includes(":") ? `[${url.host}]` : url.host;
    return new WebSocket(`${url.secure ? "wss" : "ws"}://${host}:${url.port}${url.path}`, [SUBPROTOCOL], {
      createConnection: () => this.#connect(url, address),
      handshakeTimeout: ANSWER_MS,
      perMessageDeflate: false,
      maxPayload: MAX_DATAGRAM_BYTES,
    });
  }

  #connect(url: ChannelUrl, address: string): Duplex {
    const { mark } = this.#options;
    const tcp = mark === 0 ? new Socket() : new Socket({ fd: openMarkedTcp(address, mark).fd });
    tcp.connect({ host: address, port: url.port });
    tcp.setNoDelay(true);
    if (!url.secure) return tcp;
    const tls = connectTls({
      socket: tcp,
      host: url.host,
      ALPNProtocols: ["http/1.1"],
      ...(isIP(url.host) === 0 ? { servername: url.host } : {}),
      ...(this.#ca === undefined ? {} : { ca: this.#ca }),
    });
    return tls;
  }
}

/** Starts one after the other until the first is open; the rest is cut. Rejects with the first failure when all have failed. */
function firstOf(
  addresses: readonly string[],
  open: (address: string) => WebSocket,
  signal: AbortSignal,
): Promise<WebSocket> {
  return new Promise((resolve, reject) => {
    const under = new Set<WebSocket>();
    let next = 0;
    let failure: Error | undefined;
    let timer: NodeJS.Timeout | undefined;
    let done = false;
    const finish = (settle: () => void): void => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      for (const other of under) other.terminate();
      settle();
    };
    const onAbort = (): void => finish(() => reject(signal.reason as Error));
    const fail = (error: Error): void => {
      failure ??= error;
      if (next < addresses.length) start();
      else if (under.size === 0) finish(() => reject(failure));
    };
    const start = (): void => {
      clearTimeout(timer);
      const address = addresses[next++];
      let socket: WebSocket;
      try {
        socket = open(address);
      } catch (error) {
        fail(error as Error);
        return;
      }
      under.add(socket);
      socket.once("open", () => {
        under.delete(socket);
        if (done) socket.terminate();
        else finish(() => resolve(socket));
      });
      socket.on("error", (error) => {
        // one that lost the race ends here too
        if (under.delete(socket) && !done) fail(error);
      });
      if (next < addresses.length) timer = setTimeout(start, NEXT_ADDRESS_MS);
    };
    signal.addEventListener("abort", onAbort);
    if (addresses.length === 0) finish(() => reject(new Error("the name has no address")));
    else start();
  });
}

/** Loopback, unspecified ("this host") and link-local addresses, v4-mapped ones too; what cannot be read counts as such. */
export function isLocal(address: string): boolean {
  const bytes = parseAddress(address);
  if (bytes === undefined) return true;
  const [a, b] = bytes.subarray(12);
  if (isIPv4Mapped(bytes)) return a === 0 || a === 127 || (a === 169 && b === 254);
  const isLow = bytes.subarray(0, 15).every((byte) => byte === 0) && bytes[15] <= 1;
  return isLow || (bytes[0] === 0xfe && (bytes[1] & 0xc0) === 0x80);
}

/** Families alternate, so that a broken one costs one step only; the resolver's order decides which comes first. */
function interleave(addresses: readonly string[]): string[] {
  const six = addresses.filter((address) => address.includes(":"));
  const four = addresses.filter((address) => !address.includes(":"));
  const [first, second] = six.length > 0 && six[0] === addresses[0] ? [six, four] : [four, six];
  const out: string[] = [];
  for (let i = 0; i < Math.max(first.length, second.length); i++) {
    if (i < first.length) out.push(first[i]);
    if (i < second.length) out.push(second[i]);
  }
  return out;
}

async function within<T>(promise: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs / 1000} s`)), timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What to do about a failure, where the words of the failure do not say it. */
export function remedyFor(error: Error): string {
  const code = (error as NodeJS.ErrnoException).code ?? "";
  if (/^(?:UNABLE_TO|DEPTH_ZERO|SELF_SIGNED|CERT_|ERR_TLS_CERT)/.test(code))
    return "if the certificate is right, name its authority with `ca` of [websocket] in weft.toml";
  return "";
}
