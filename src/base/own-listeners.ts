/**
 * The TCP listeners of this program itself: the local API, forwards, SOCKS proxies, name service, channels. What members reach through this
 * node must never be one of them: whoever connects there acts as this node. Every server that the daemon opens is claimed here, in the turn
 * in which it listens; it is forgotten when it is closed. Source: docs/protocol.md, "Forwards".
 */
import { equal } from "./bytes.ts";
import { isIPv4Mapped, parseAddress } from "./endpoint.ts";

/** What a server of node:net or node:http is to this list. */
export interface ListeningServer {
  readonly listening: boolean;
  address(): string | { readonly address: string; readonly port: number } | null;
  once(event: "close", listener: () => void): unknown;
}

interface Bound {
  /** 16 bytes */
  readonly address: Uint8Array;
  readonly port: number;
}

export class OwnListeners {
  /** Bounded by who listens: file descriptors. */
  readonly #servers = new Map<ListeningServer, Bound>();

  /** @param server listens already; one on a unix socket is none of these */
  claim(server: ListeningServer): void {
    const bound = server.address();
    if (bound === null || typeof bound === "string") return;
    const address = parseAddress(bound.address);
    if (address === undefined) return;
    this.#servers.set(server, { address, port: bound.port });
    server.once("close", () => this.#servers.delete(server));
  }

  /** Would a connection to that place of this machine be taken by this program? @param address 16 bytes, of this machine */
  takes(address: Uint8Array, port: number): boolean {
    for (const [server, bound] of this.#servers)
      // "close" comes only after the last connection, the port is free before
      if (bound.port === port && server.listening && reaches(address, bound.address)) return true;
    return false;
  }
}

/** Of the whole program: what members reach is the machine, however many nodes run in it. */
export const ownListeners: OwnListeners = new OwnListeners();

/** A listener on :: takes IPv4 as well. */
function reaches(address: Uint8Array, bound: Uint8Array): boolean {
  const isWild = bound.subarray(isIPv4Mapped(bound) ? 12 : 0).every((byte) => byte === 0);
  return isWild ? !isIPv4Mapped(bound) || isIPv4Mapped(address) : equal(address, bound);
}
