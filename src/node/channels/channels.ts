/**
 * The channels of this node: those it opens to beacons where UDP is blocked (policy.ts says when), those that come in where it serves some,
 * and their way to the data plane, for which each is a virtual endpoint (type CHANNEL) among the candidates of a peer.
 *
 *   open ──► command channel(open) ──► candidate of the peer ──► handshake, probes, data as over any path
 *   message ──► command channelIn        event channelOut ──► message        end ──► command channel(closed)
 *
 * One timer stands for everything that is due. Bounds: 4 dialled (policy.ts), 192 served (server.ts). Source: docs/protocol.md, "Channels".
 */
import type { WebSocket } from "ws";
import { type ChannelUrl, parseChannelUrl } from "../../base/channel-url.ts";
import { VirtualType, virtualEndpoint, virtualOf } from "../../base/endpoint.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import type { Command } from "../../dataplane/messages.ts";
import { PathKind } from "../../path/select.ts";
import type { Clock } from "../clock.ts";
import { type ChannelCounters, ChannelConnection } from "./connection.ts";
import { type Dial, remedyFor } from "./dial.ts";
import { type ChannelPeer, ChannelPolicy, type ChannelPolicyOptions } from "./policy.ts";
import { ChannelServer, type ChannelServerOptions, type Refusal } from "./server.ts";

/** Channels that one peer may hold here. */
const MAX_HELD = 2;

export interface ChannelsDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** undefined: this node opens none. */
  readonly dial: Dial | undefined;
  /** To the data plane. */
  send(command: Command): void;
  /** Everybody to whom a channel could be opened, as it is now. */
  peers(): Iterable<ChannelPeer>;
  /** candidates(key) has changed; with `opened`, there is a new way to the peer. */
  changed(key: string, opened: boolean): void;
}

export interface ChannelsOptions {
  /** undefined: this node serves none. */
  readonly server: ChannelServerOptions | undefined;
  readonly policy?: ChannelPolicyOptions;
}

export interface ChannelFigures extends Readonly<ChannelCounters> {
  readonly dialled: number;
  readonly served: number;
  /** Attempts of this node that failed. */
  readonly failed: number;
  readonly refused: Readonly<Record<Refusal, number>>;
}

interface Line {
  readonly id: number;
  readonly connection: ChannelConnection;
}

interface Dialled {
  readonly url: string;
  readonly abort: AbortController;
  line: Line | undefined;
  /** Closed by the policy, which wants to hear nothing more of it. */
  isDone: boolean;
}

export class Channels {
  readonly #deps: ChannelsDeps;
  readonly #policy: ChannelPolicy;
  readonly #server: ChannelServer | undefined;
  readonly #counters: ChannelCounters = { received: 0, sent: 0, droppedFull: 0, droppedUnproven: 0 };
  readonly #lines = new Map<number, Line>();
  /** By the key of the peer. */
  readonly #dialled = new Map<string, Dialled>();
  /** Peers whose last attempt failed: said once, not at every attempt. */
  readonly #failing = new Set<string>();
  #failed = 0;
  #nextId = 1;
  #timerAtMs = Infinity;
  #cancelTimer: (() => void) | undefined;
  #closed = false;

  constructor(deps: ChannelsDeps, options: ChannelsOptions) {
    this.#deps = deps;
    this.#policy = new ChannelPolicy(deps.random, options.policy);
    this.#server =
      options.server === undefined
        ? undefined
        : new ChannelServer(
            {
              log: deps.log,
              nowMs: () => this.#nowMs,
              accept: (socket, address, ended) => this.#accept(socket, address, ended),
            },
            options.server,
          );
  }

  /** @throws WeftError CHANNEL_LISTEN */
  async start(): Promise<void> {
    await this.#server?.start();
  }

  /** TCP port that is served, 0 = none. */
  get port(): number {
    return this.#server?.port ?? 0;
  }

  figures(): ChannelFigures {
    const served = this.#lines.size - [...this.#dialled.values()].filter(({ line }) => line !== undefined).length;
    return {
      ...this.#counters,
      dialled: this.#lines.size - served,
      served,
      failed: this.#failed,
      refused: this.#server?.refused ?? { full: 0, address: 0, request: 0 },
    };
  }

  /** Virtual endpoints (18 bytes) by which the peer can be reached now. */
  candidates(key: string): Uint8Array[] {
    const line = this.#dialled.get(key)?.line;
    return line === undefined ? [] : [virtualEndpoint(VirtualType.CHANNEL, PathKind.RELAY, line.id)];
  }

  /** Host of the URL behind a virtual endpoint; undefined when it is no channel that this node opened. @param endpoint 18 bytes */
  hostOf(endpoint: Uint8Array): string | undefined {
    const id = channelId(endpoint);
    if (id === undefined) return undefined;
    for (const { url, line } of this.#dialled.values()) if (line?.id === id) return parseChannelUrl(url)?.host;
    return undefined;
  }

  /** Looks at the peers again: opens and closes what is due. Call when one is wanted, found, lost or removed. */
  review(): void {
    if (this.#closed) return;
    if (this.#deps.dial !== undefined) {
      for (const action of this.#policy.review(this.#nowMs, this.#deps.peers())) {
        if (action.kind === "open") this.#open(action.key, action.url);
        else this.#drop(action.key, "UDP works");
      }
    }
    this.#arm();
  }

  /** The data plane has a datagram for the other end. */
  handleOut(id: number, datagram: Uint8Array): void {
    const line = this.#lines.get(id);
    if (line === undefined) this.#counters.droppedFull++;
    else line.connection.send(datagram);
  }

  /**
   * A peer has proven itself at this endpoint, which may be a channel that it opened. Of more than two the oldest goes: one and its successor.
   * @param endpoint 18 bytes
   */
  noteProven(endpoint: Uint8Array, key: string): void {
    const id = channelId(endpoint);
    const line = id === undefined ? undefined : this.#lines.get(id);
    if (line === undefined || line.connection.holder === key) return;
    line.connection.holder = key;
    const held = [...this.#lines.values()].filter(({ connection }) => connection.holder === key);
    for (const { connection } of held.slice(0, -MAX_HELD)) connection.close("another one has taken its place");
  }

  /** That peer has no business here any more: what it opened is closed. */
  forget(key: string): void {
    for (const { connection } of this.#lines.values())
      if (connection.holder === key) connection.close("not a member any more");
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancelTimer?.();
    for (const { abort } of this.#dialled.values()) abort.abort(new Error("this node is stopping"));
    for (const { connection } of this.#lines.values()) connection.close("this node is stopping");
    await this.#server?.close();
  }

  get #nowMs(): number {
    return this.#deps.clock.now().nowMs;
  }

  // ── channels that this node opens ────────────────────────────────────────────────────────────────────────────────────

  #open(key: string, url: string): void {
    const target = parseChannelUrl(url);
    const { dial } = this.#deps;
    if (target === undefined || dial === undefined) {
      this.#policy.failed(this.#nowMs, key);
      return;
    }
    const dialled: Dialled = { url, abort: new AbortController(), line: undefined, isDone: false };
    this.#dialled.set(key, dialled);
    this.#deps.log.debug(`opening a channel to ${target.host}`);
    dial(target, dialled.abort.signal).then(
      (socket) => this.#opened(key, dialled, target, socket),
      (error: Error) => this.#lost(key, dialled, error),
    );
  }

  #opened(key: string, dialled: Dialled, target: ChannelUrl, socket: WebSocket): void {
    if (this.#closed || dialled.isDone) {
      socket.terminate();
      return;
    }
    dialled.line = this.#line(socket, true, (reason) => this.#lost(key, dialled, new Error(reason)));
    this.#failing.delete(key);
    this.#deps.log.info(`UDP is silent: a channel to ${target.host} is open`);
    this.#policy.opened(this.#nowMs, key);
    this.#deps.changed(key, true);
    this.review();
  }

  /** It failed, or ended without being told to. */
  #lost(key: string, dialled: Dialled, error: Error): void {
    if (this.#closed || dialled.isDone) return;
    dialled.isDone = true;
    this.#dialled.delete(key);
    if (dialled.line === undefined) this.#failed++;
    const host = parseChannelUrl(dialled.url)?.host;
    const remedy = remedyFor(error);
    const line = `channel to ${host}: ${error.message}; it is tried again${remedy === "" ? "" : `; ${remedy}`}`;
    if (this.#failing.has(key)) this.#deps.log.debug(line);
    else this.#deps.log.warn(line);
    this.#failing.add(key);
    this.#policy.failed(this.#nowMs, key);
    if (dialled.line !== undefined) this.#deps.changed(key, false);
    this.review();
  }

  #drop(key: string, reason: string): void {
    const dialled = this.#dialled.get(key);
    this.#failing.delete(key);
    if (dialled === undefined) return;
    dialled.isDone = true;
    this.#dialled.delete(key);
    dialled.abort.abort(new Error(reason));
    if (dialled.line === undefined) return;
    this.#deps.log.info(`the channel to ${parseChannelUrl(dialled.url)?.host} is not needed any more: ${reason}`);
    dialled.line.connection.close(reason);
    this.#deps.changed(key, false);
  }

  // ── every channel ────────────────────────────────────────────────────────────────────────────────────────────────────

  #accept(socket: WebSocket, address: string, ended: () => void): ChannelConnection {
    const { connection, id } = this.#line(socket, false, (reason) => {
      ended();
      this.#deps.log.debug(`channel ${id} from ${address} ended: ${reason}`);
    });
    this.#deps.log.debug(`channel ${id} from ${address}`);
    this.#arm();
    return connection;
  }

  #line(socket: WebSocket, dialled: boolean, ended: (reason: string) => void): Line {
    const id = this.#nextId;
    // wraps after four thousand million channels; nobody lives that long
    this.#nextId = id === 0xffff_ffff ? 1 : id + 1;
    const connection = new ChannelConnection(socket, dialled, {
      random: this.#deps.random,
      counters: this.#counters,
      nowMs: () => this.#nowMs,
      received: (datagram) => this.#deps.send({ kind: "channelIn", id, datagram }),
      ended: (reason) => {
        this.#lines.delete(id);
        this.#deps.send({ kind: "channel", id, open: false });
        ended(reason);
      },
    });
    const line = { id, connection };
    this.#lines.set(id, line);
    this.#deps.send({ kind: "channel", id, open: true });
    return line;
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #arm(): void {
    let dueMs = this.#deps.dial === undefined ? Infinity : this.#policy.nextTimeoutMs();
    for (const { connection } of this.#lines.values()) dueMs = Math.min(dueMs, connection.dueMs);
    dueMs = Math.min(dueMs, this.#server?.tick(this.#nowMs) ?? Infinity);
    if (dueMs === this.#timerAtMs) return;
    this.#cancelTimer?.();
    this.#timerAtMs = dueMs;
    this.#cancelTimer = dueMs === Infinity ? undefined : this.#deps.clock.schedule(dueMs, () => this.#timeout());
  }

  #timeout(): void {
    this.#timerAtMs = Infinity;
    this.#cancelTimer = undefined;
    if (this.#closed) return;
    const nowMs = this.#nowMs;
    for (const { connection } of this.#lines.values()) connection.tick(nowMs);
    this.review();
  }
}

function channelId(endpoint: Uint8Array): number | undefined {
  const virtual = virtualOf(endpoint);
  return virtual?.type === VirtualType.CHANNEL ? virtual.id : undefined;
}
