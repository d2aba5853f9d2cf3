/**
 * TCP listeners of this machine that lead into the mesh: forwards to one place of one node, and SOCKS proxies. They are kept in
 * forwards.json in the state directory, so that they are there again after a restart; a port that is taken then is tried again.
 *
 *   program ─► listener ─► place free? ─► (SOCKS handshake) ─► stream to the node ─► its answer ─► splice
 *
 * Full: the program's connection is closed at once (SOCKS: with a failure). Source: docs/protocol.md, "Forwards".
 */
import { readFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { ForwardView, ProxyView } from "../../../api/messaging/forwards-control.ts";
import { equal, fromHex, toHex } from "../../../base/bytes.ts";
import { formatEndpoint } from "../../../base/endpoint.ts";
import { WeftError } from "../../../base/errors.ts";
import { ownListeners } from "../../../base/own-listeners.ts";
import { isHost, type Target } from "../../../messaging/services/targets.ts";
import { saveDurably } from "../files/disk.ts";
import { nodeName, type ServiceContext } from "./context.ts";
import { Slots } from "./limits.ts";

const FILE_NAME = "forwards.json";
const MAX_FILE_BYTES = 262_144;
const MAX_LISTENERS = 256;
const MAX_CONNECTIONS = 2_048;
const MAX_PER_LISTENER = 512;
const FIRST_RETRY_MS = 2_000;
const LONGEST_RETRY_MS = 60_000;

/** What is kept of a listener. */
export type ListenerSpec =
  | {
      readonly kind: "forward";
      readonly address: string;
      readonly port: number;
      readonly nodeId: Uint8Array;
      readonly target: Target;
    }
  | { readonly kind: "socks"; readonly address: string; readonly port: number; readonly via: Uint8Array | undefined };

/** Carries one connection of a program; resolves when it is over. Must end the socket in any case. */
export type CarryConnection = (socket: Socket, listener: LocalListener) => Promise<void>;

export class LocalListener {
  spec: ListenerSpec;
  server: Server | undefined;
  error: string | undefined;
  connections = 0;
  bytesUp = 0;
  bytesDown = 0;
  failures = 0;
  /** What the other node's configuration lacks, as the last connection was told; undefined when that one was let in. */
  refusal: string | undefined;
  retryMs: number = FIRST_RETRY_MS;
  cancelRetry: (() => void) | undefined;

  constructor(spec: ListenerSpec) {
    this.spec = spec;
  }

  get place(): string {
    return formatEndpoint(this.spec);
  }
}

export class LocalListeners {
  readonly #context: ServiceContext;
  readonly #carry: CarryConnection;
  readonly #file: string;
  readonly #listeners = new Map<string, LocalListener>();
  readonly #slots = new Slots(MAX_CONNECTIONS, MAX_PER_LISTENER);
  readonly #sockets = new Set<Socket>();
  refused = 0;
  #saving: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(context: ServiceContext, carry: CarryConnection) {
    this.#context = context;
    this.#carry = carry;
    this.#file = join(context.stateDirectory, FILE_NAME);
  }

  get all(): readonly LocalListener[] {
    return [...this.#listeners.values()];
  }

  get active(): number {
    return this.#slots.taken;
  }

  /** Opens what was there before; what cannot be opened now is tried again. */
  async start(): Promise<void> {
    for (const spec of this.#load()) {
      const listener = new LocalListener(spec);
      this.#listeners.set(listener.place, listener);
      await this.#listen(listener).catch(() => this.#retryLater(listener));
    }
  }

  /** @throws WeftError FORWARD_TAKEN, FORWARD_LIMIT, FORWARD_LISTEN */
  async add(spec: ListenerSpec): Promise<LocalListener> {
    const listener = new LocalListener(spec);
    const before = spec.port === 0 ? undefined : this.#listeners.get(listener.place);
    if (before !== undefined) {
      if (sameSpec(before.spec, spec)) return before;
      throw new WeftError(
        "FORWARD_TAKEN",
        `${listener.place} leads elsewhere already`,
        "stop that one first, or choose another port",
      );
    }
    if (this.#listeners.size >= MAX_LISTENERS)
      throw new WeftError(
        "FORWARD_LIMIT",
        `there are ${MAX_LISTENERS} forwards already`,
        "stop one that is not needed",
      );
    try {
      await this.#listen(listener);
    } catch (cause) {
      throw new WeftError(
        "FORWARD_LISTEN",
        `cannot listen on ${listener.place}: ${(cause as Error).message}`,
        "choose another port; ports below 1024 need privilege",
        { cause },
      );
    }
    this.#listeners.set(listener.place, listener);
    await this.#save();
    return listener;
  }

  /** @param place "127.0.0.1:8080" @throws WeftError FORWARD_UNKNOWN */
  async remove(kind: ListenerSpec["kind"], place: string): Promise<LocalListener> {
    const listener = this.#listeners.get(place);
    if (listener?.spec.kind !== kind)
      throw new WeftError("FORWARD_UNKNOWN", `nothing listens on ${place} for this`, `see \`weft ${kind}\``);
    this.#listeners.delete(place);
    this.#shut(listener);
    await this.#save();
    return listener;
  }

  close(): void {
    this.#isClosed = true;
    for (const listener of this.#listeners.values()) this.#shut(listener);
    for (const socket of this.#sockets) socket.destroy();
  }

  #shut(listener: LocalListener): void {
    listener.cancelRetry?.();
    listener.server?.close();
    listener.server = undefined;
  }

  async #listen(listener: LocalListener): Promise<void> {
    const { address, port } = listener.spec;
    const server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (socket) =>
      this.#accept(listener, socket),
    );
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error) => {
        listener.error = error.message;
        reject(error);
      });
      server.listen({ host: address, port }, resolve);
    });
    server.on("error", (error) => this.#context.log.warn(`${listener.place}: ${error.message}`));
    if (this.#isClosed) {
      server.close();
      return;
    }
    ownListeners.claim(server);
    listener.server = server;
    listener.error = undefined;
    listener.retryMs = FIRST_RETRY_MS;
    const bound = server.address();
    if (port === 0 && typeof bound === "object" && bound !== null)
      listener.spec = { ...listener.spec, port: bound.port };
  }

  #retryLater(listener: LocalListener): void {
    const { clock, random, log } = this.#context;
    log.warn(`cannot listen on ${listener.place}: ${listener.error}; it is tried again`);
    const waitMs = listener.retryMs * (0.5 + random.unit());
    listener.retryMs = Math.min(LONGEST_RETRY_MS, listener.retryMs * 2);
    listener.cancelRetry = clock.schedule(clock.now().nowMs + waitMs, () => {
      if (this.#isClosed || this.#listeners.get(listener.place) !== listener) return;
      this.#listen(listener).catch(() => this.#retryLater(listener));
    });
  }

  #accept(listener: LocalListener, socket: Socket): void {
    socket.on("error", () => undefined);
    const release = this.#slots.take(listener.place);
    if (release === undefined || this.#isClosed) {
      this.refused++;
      socket.resetAndDestroy();
      return;
    }
    listener.connections++;
    this.#sockets.add(socket);
    void this.#carry(socket, listener)
      .catch((error: unknown) => {
        listener.failures++;
        this.#context.log.debug(`${listener.place}: ${error instanceof Error ? error.message : String(error)}`);
      })
      .finally(() => {
        if (!socket.destroyed) socket.destroy();
        listener.bytesUp += socket.bytesRead;
        listener.bytesDown += socket.bytesWritten;
        this.#sockets.delete(socket);
        release();
      });
  }

  #load(): ListenerSpec[] {
    let text: string;
    try {
      text = readFileSync(this.#file, "utf8");
    } catch {
      return [];
    }
    try {
      if (text.length > MAX_FILE_BYTES) throw new Error("it is far too large");
      const value: unknown = JSON.parse(text);
      if (!Array.isArray(value)) throw new Error("it is no list");
      const specs = value.map(readSpec);
      return specs.filter((spec) => spec !== undefined).slice(0, MAX_LISTENERS);
    } catch (error) {
      this.#context.log.warn(`${this.#file} is not used: ${(error as Error).message}`);
      return [];
    }
  }

  /** One after the other, each with what is there when its turn comes. */
  #save(): Promise<void> {
    this.#saving = this.#saving.catch(() => undefined).then(() => this.#write());
    return this.#saving;
  }

  #write(): Promise<void> {
    const rows = this.all.map(({ spec }) =>
      spec.kind === "forward"
        ? { kind: spec.kind, address: spec.address, port: spec.port, node: toHex(spec.nodeId), target: spec.target }
        : {
            kind: spec.kind,
            address: spec.address,
            port: spec.port,
            via: spec.via === undefined ? null : toHex(spec.via),
          },
    );
    return saveDurably(this.#file, `${JSON.stringify(rows, null, 1)}\n`);
  }

  forwards(): ForwardView[] {
    return this.all.flatMap((listener) => {
      const { spec } = listener;
      if (spec.kind !== "forward") return [];
      return {
        listen: listener.place,
        node: nodeName(this.#context, spec.nodeId),
        host: spec.target.host === "" ? "loopback" : spec.target.host,
        port: spec.target.port,
        ...figuresOf(listener),
      };
    });
  }

  proxies(): ProxyView[] {
    return this.all.flatMap((listener) => {
      const { spec } = listener;
      if (spec.kind !== "socks") return [];
      const via = spec.via === undefined ? null : nodeName(this.#context, spec.via);
      return { listen: listener.place, via, ...figuresOf(listener) };
    });
  }
}

function figuresOf(listener: LocalListener): Omit<ProxyView, "listen" | "via"> {
  const { server, error, refusal, connections, failures, bytesUp, bytesDown } = listener;
  return {
    listening: server !== undefined,
    error: error ?? null,
    refusal: refusal ?? null,
    connections,
    failures,
    bytesUp,
    bytesDown,
  };
}

function sameSpec(a: ListenerSpec, b: ListenerSpec): boolean {
  if (a.kind === "forward" && b.kind === "forward")
    return equal(a.nodeId, b.nodeId) && a.target.host === b.target.host && a.target.port === b.target.port;
  if (a.kind !== "socks" || b.kind !== "socks") return false;
  return toHex(a.via ?? new Uint8Array(0)) === toHex(b.via ?? new Uint8Array(0));
}

/** @returns undefined for what is no listener */
function readSpec(value: unknown): ListenerSpec | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { kind, address, port, node, via, target } = value as Record<string, unknown>;
  if (typeof address !== "string" || !isHost(address) || !isPort(port)) return undefined;
  if (kind === "socks") {
    const through = typeof via === "string" ? fromHex(via) : undefined;
    if (via !== null && through?.length !== 32) return undefined;
    return { kind, address, port, via: through };
  }
  const nodeId = typeof node === "string" ? fromHex(node) : undefined;
  const { host, port: targetPort } = (target ?? {}) as Record<string, unknown>;
  if (kind !== "forward" || nodeId?.length !== 32 || !isPort(targetPort)) return undefined;
  if (typeof host !== "string" || (host !== "" && !isHost(host))) return undefined;
  return { kind, address, port, nodeId, target: { host, port: targetPort } };
}

function isPort(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) > 0 && (value as number) <= 65_535;
}
