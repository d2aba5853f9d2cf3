/**
 * Two stream endpoints in one process over a datagram channel that loses, duplicates, reorders and delays by a seeded generator. Timers and
 * delays are real, because OpenSSL's clock is. For tests and benchmarks.
 */
import { compare } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import type { StreamEndpoint } from "./api.ts";
import { createStreamEndpoint } from "./endpoint.ts";
import type { StreamEndpointOptions, StreamEvent } from "./types.ts";

export interface ChannelModel {
  /** 0–1. @default 0 */
  readonly loss?: number;
  /** @default 0 */
  readonly duplicate?: number;
  /** One way. @default 0 */
  readonly delayMs?: number;
  /** Delays vary up to this much more, which reorders. @default 0 */
  readonly jitterMs?: number;
}

export interface Datagram {
  readonly fromClient: boolean;
  readonly flags: number;
  readonly aux: number;
  readonly payload: Uint8Array;
}

export class StreamPair {
  /** The one with the smaller node id. */
  readonly client: StreamEndpoint;
  readonly server: StreamEndpoint;
  readonly clientId: Uint8Array;
  readonly serverId: Uint8Array;
  readonly events: (StreamEvent & { readonly at: "client" | "server" })[] = [];
  model: ChannelModel;
  /** Called for each datagram before the channel's own mishaps. @returns false: it is lost */
  filter: (datagram: Datagram) => boolean = () => true;
  /** Stands for a plane whose queue is full. */
  isFull = false;
  largestBytes = 0;
  datagrams = 0;
  #now: Datagram[] = [];
  readonly #random: SeededRandom;
  readonly #identities: readonly [Identity, Identity];
  readonly #options: StreamEndpointOptions;
  #endpoints: { client: StreamEndpoint; server: StreamEndpoint };

  constructor(model: ChannelModel = {}, options: StreamEndpointOptions = {}, seed = 1) {
    this.model = model;
    this.#random = new SeededRandom(seed);
    this.#options = options;
    const two = [Identity.generate(this.#random), Identity.generate(this.#random)];
    const [a, b] = two.toSorted((x, y) => compare(x.nodeId, y.nodeId));
    this.#identities = [a, b];
    this.clientId = a.nodeId;
    this.serverId = b.nodeId;
    this.client = this.#make(true);
    this.server = this.#make(false);
    this.#endpoints = { client: this.client, server: this.server };
  }

  /** An end whose whole state is lost: a fresh endpoint takes its place; the old one is silent. */
  replace(side: "client" | "server"): StreamEndpoint {
    const old = this.#endpoints[side];
    const made = this.#make(side === "client");
    this.#endpoints = { ...this.#endpoints, [side]: made };
    this.#silenced.add(old);
    old.close();
    return made;
  }

  readonly #silenced = new Set<StreamEndpoint>();

  #make(isClient: boolean, identity: Identity = this.#identities[isClient ? 0 : 1]): StreamEndpoint {
    const at = isClient ? "client" : "server";
    const made: StreamEndpoint = createStreamEndpoint(
      {
        identity,
        random: this.#random,
        clock: {
          now: () => ({ nowMs: performance.now() }),
          schedule: (atMs, action) => {
            const timer = setTimeout(action, Math.max(0, atMs - performance.now()));
            return () => clearTimeout(timer);
          },
        },
        send: (_peer, flags, aux, payload) => {
          if (this.#silenced.has(made)) return true;
          if (this.isFull) return false;
          this.#carry({ fromClient: isClient, flags, aux, payload });
          return true;
        },
        onEvent: (event) => this.events.push({ ...event, at }),
      },
      this.#options,
    );
    return made;
  }

  #carry(datagram: Datagram): void {
    this.datagrams++;
    this.largestBytes = Math.max(this.largestBytes, datagram.payload.length);
    if (!this.filter(datagram)) return;
    const { loss = 0, duplicate = 0, delayMs = 0, jitterMs = 0 } = this.model;
    if (this.#random.unit() < loss) return;
    const copies = this.#random.unit() < duplicate ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      const waitMs = delayMs + this.#random.unit() * jitterMs;
      if (waitMs > 0) setTimeout(() => this.#deliver(datagram), waitMs);
      else if (this.#now.push(datagram) === 1) setImmediate(() => this.#deliverNow());
    }
  }

  /** What the channel does not delay arrives in batches, as from a data plane. */
  #deliverNow(): void {
    const batch = this.#now;
    this.#now = [];
    for (const datagram of batch) this.#deliver(datagram);
  }

  #deliver({ fromClient, flags, aux, payload }: Datagram): void {
    const { client, server } = this.#endpoints;
    if (fromClient) server.handleDatagram(this.clientId, flags, aux, payload);
    else client.handleDatagram(this.serverId, flags, aux, payload);
  }

  close(): void {
    this.#endpoints.client.close();
    this.#endpoints.server.close();
  }
}
