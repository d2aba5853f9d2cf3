/**
 * Forwards and SOCKS proxies as a part of messaging: the listeners of this machine, what they carry, and the server side for members.
 * A SOCKS request names a member (by name, NAME.NETWORK.weft, overlay address or id) and leads to its loopback; everything else goes through
 * the member that the proxy was given, or nowhere. Source: docs/protocol.md, "Forwards".
 */
import type { Socket } from "node:net";
import type { MetricSample } from "../../../api/control.ts";
import type { ForwardsControl, ForwardView, ProxyView } from "../../../api/messaging/forwards-control.ts";
import { equal } from "../../../base/bytes.ts";
import { WeftError } from "../../../base/errors.ts";
import type { Member } from "../../../mesh/types.ts";
import { ForwardAnswer } from "../../../messaging/services/opening.ts";
import { encodeReply, SocksHandshake, SocksReply } from "../../../messaging/services/socks5.ts";
import { allowLine, parseListenAddress, parseNodeTarget, type Target } from "../../../messaging/services/targets.ts";
import type { MeshStream } from "../../../stream/types.ts";
import type { MessagingPart } from "../part.ts";
import { needMember, nodeName, type ServiceContext } from "./context.ts";
import { dialThrough, ForwardError } from "./forward-dial.ts";
import { ForwardServer, type ForwardServerOptions } from "./forward-server.ts";
import { Audit } from "./limits.ts";
import { type LocalListener, LocalListeners, type ListenerSpec } from "./local-listeners.ts";
import { splice } from "./splice.ts";

const HANDSHAKE_MS = 10_000;
const DOMAIN = /^([a-z0-9-]+)\.[a-z0-9-]+\.weft\.?$/i;

const REPLY_OF: Readonly<Record<number, SocksReply>> = {
  [ForwardAnswer.NOT_ALLOWED]: SocksReply.NOT_ALLOWED,
  [ForwardAnswer.REFUSED]: SocksReply.REFUSED,
  [ForwardAnswer.UNREACHABLE]: SocksReply.HOST_UNREACHABLE,
};

export class ForwardsPart implements MessagingPart, ForwardsControl {
  readonly name = "forwards";
  readonly control: { readonly forwards: ForwardsControl } = { forwards: this };
  readonly #context: ServiceContext;
  readonly #audit: Audit;
  readonly #server: ForwardServer;
  readonly #listeners: LocalListeners;
  readonly #ending = new AbortController();

  constructor(context: ServiceContext, options: ForwardServerOptions) {
    this.#context = context;
    this.#audit = new Audit(context.log, context.clock);
    this.#server = new ForwardServer(context, this.#audit, options);
    this.#listeners = new LocalListeners(context, (socket, listener) => this.#carry(socket, listener));
  }

  async start(): Promise<void> {
    this.#server.start();
    await this.#listeners.start();
  }

  close(): void {
    this.#ending.abort(new Error("this node is stopping"));
    this.#listeners.close();
    this.#server.close();
  }

  // ── ForwardsControl ──────────────────────────────────────────────────────────────────────────────────────────────────

  forwards(): readonly ForwardView[] {
    return this.#listeners.forwards();
  }

  async addForward(listen: string, target: string): Promise<ForwardView> {
    const to = parseNodeTarget(target);
    if (to === undefined)
      throw new WeftError(
        "FORWARD_BAD",
        `"${target}" is no target`,
        "write NODE:PORT or NODE:HOST:PORT, such as nas:80",
      );
    const member = this.#other(to.node);
    const { address, port } = listenAddress(listen);
    const listener = await this.#listeners.add({
      kind: "forward",
      address,
      port,
      nodeId: member.nodeId,
      target: to.target,
    });
    this.#audit.note(`forward: ${listener.place} leads to ${target}`);
    return this.#view(this.forwards(), listener.place);
  }

  removeForward(listen: string): Promise<ForwardView> {
    return this.#remove("forward", listen, () => this.forwards());
  }

  proxies(): readonly ProxyView[] {
    return this.#listeners.proxies();
  }

  async addProxy(listen: string, via: string | undefined): Promise<ProxyView> {
    const through = via === undefined ? undefined : this.#other(via).nodeId;
    const { address, port } = listenAddress(listen);
    const listener = await this.#listeners.add({ kind: "socks", address, port, via: through });
    this.#audit.note(`socks: a proxy listens on ${listener.place}`);
    return this.#view(this.proxies(), listener.place);
  }

  removeProxy(listen: string): Promise<ProxyView> {
    return this.#remove("socks", listen, () => this.proxies());
  }

  async #remove<T extends { readonly listen: string }>(
    kind: ListenerSpec["kind"],
    listen: string,
    views: () => readonly T[],
  ): Promise<T> {
    const { address, port } = listenAddress(listen);
    const place = address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
    const view = views().find((one) => one.listen === place);
    await this.#listeners.remove(kind, place);
    this.#audit.note(`${kind}: ${place} is closed`);
    return view as T;
  }

  #view<T extends { readonly listen: string }>(views: readonly T[], place: string): T {
    return views.find((one) => one.listen === place) as T;
  }

  #other(query: string): Member {
    const member = needMember(this.#context, query);
    if (equal(member.nodeId, this.#context.identity.nodeId))
      throw new WeftError("FORWARD_SELF", `"${query}" is this node itself`, "name another member");
    return member;
  }

  // ── connections of programs ──────────────────────────────────────────────────────────────────────────────────────────

  async #carry(socket: Socket, listener: LocalListener): Promise<void> {
    const { spec } = listener;
    if (spec.kind === "forward") {
      const stream = await this.#dial(socket, listener, spec.nodeId, spec.target).catch((error: unknown) => {
        socket.resetAndDestroy();
        throw error;
      });
      return splice(socket, stream);
    }
    const request = await handshake(socket);
    if (request === undefined) return;
    let stream: MeshStream;
    try {
      const [nodeId, target] = this.#placeOf(request, spec.via);
      stream = await this.#dial(socket, listener, nodeId, target);
    } catch (error) {
      const answer = error instanceof ForwardError ? error.answer : ForwardAnswer.UNREACHABLE;
      socket.end(encodeReply(REPLY_OF[answer] ?? SocksReply.FAILURE));
      throw error;
    }
    socket.write(encodeReply(SocksReply.GRANTED));
    return splice(socket, stream);
  }

  /** Ends the waiting when the program goes away. */
  async #dial(socket: Socket, listener: LocalListener, nodeId: Uint8Array, target: Target): Promise<MeshStream> {
    const gone = new AbortController();
    const onClose = (): void => gone.abort(new Error("the program has gone"));
    socket.once("close", onClose);
    try {
      const signal = AbortSignal.any([gone.signal, this.#ending.signal]);
      const stream = await dialThrough(this.#context, nodeId, target, signal);
      listener.refusal = undefined;
      return stream;
    } catch (error) {
      if (error instanceof ForwardError && error.answer === ForwardAnswer.NOT_ALLOWED)
        listener.refusal = this.#remedy(nodeId, target);
      throw error;
    } finally {
      socket.off("close", onClose);
    }
  }

  /** Nobody lets anybody in without being told to. */
  #remedy(nodeId: Uint8Array, target: Target): string {
    const there = nodeName(this.#context, nodeId).name;
    const here = nodeName(this.#context, this.#context.identity.nodeId).name;
    return `${there} does not allow it; its weft.toml needs, in [forward]: ${allowLine(here, target)}`;
  }

  #placeOf({ host, port }: Target, via: Uint8Array | undefined): readonly [nodeId: Uint8Array, target: Target] {
    const name = DOMAIN.exec(host)?.[1].toLowerCase() ?? host;
    const member = this.#context.resolve(name);
    if (member !== undefined && !equal(member.nodeId, this.#context.identity.nodeId))
      return [member.nodeId, { host: "", port }];
    if (via === undefined || member !== undefined)
      throw new ForwardError(ForwardAnswer.UNREACHABLE, `"${host}" is no other member`);
    return [via, { host, port }];
  }

  // ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  metrics(): readonly MetricSample[] {
    const all = this.#listeners.all;
    const sum = (of: (listener: LocalListener) => number): number => all.reduce((total, one) => total + of(one), 0);
    const sample = (name: string, type: "counter" | "gauge", help: string, value: number): MetricSample => ({
      name,
      type,
      help,
      labels: {},
      value,
    });
    return [
      sample("weft_forward_listeners", "gauge", "Forwards and SOCKS proxies of this machine.", all.length),
      sample("weft_forward_connections", "gauge", "Connections of programs through them now.", this.#listeners.active),
      sample(
        "weft_forward_connections_total",
        "counter",
        "Connections of programs taken.",
        sum((one) => one.connections),
      ),
      sample(
        "weft_forward_failures_total",
        "counter",
        "Of these, refused on the way.",
        sum((one) => one.failures),
      ),
      sample("weft_forward_refused_total", "counter", "Closed at once: too many.", this.#listeners.refused),
      sample("weft_forward_audit_left_out_total", "counter", "Audit lines left out: too many.", this.#audit.leftOut),
      ...this.#server.metrics(),
    ];
  }

  /** Counts alone: where they lead is for the scope forward. */
  diagnostics(): unknown {
    const all = this.#listeners.all;
    return {
      forwards: all.filter(({ spec }) => spec.kind === "forward").length,
      proxies: all.filter(({ spec }) => spec.kind === "socks").length,
      waiting: all.filter(({ server }) => server === undefined).length,
      connections: this.#listeners.active,
      served: this.#server.active,
    };
  }
}

function listenAddress(text: string): { readonly address: string; readonly port: number } {
  const parsed = parseListenAddress(text);
  if (parsed === undefined)
    throw new WeftError(
      "FORWARD_BAD",
      `"${text}" is no address to listen on`,
      "write a port, or ADDR:PORT such as 127.0.0.1:8080",
    );
  return parsed;
}

/** Reads the SOCKS handshake; what comes behind it goes back into the socket. @returns undefined when the connection is over */
function handshake(socket: Socket): Promise<Target | undefined> {
  return new Promise((resolve) => {
    const machine = new SocksHandshake();
    const finish = (target: Target | undefined, rest?: Uint8Array): void => {
      socket.off("data", onData);
      socket.off("end", onGone);
      socket.off("close", onGone);
      socket.pause();
      clearTimeout(timer);
      // only now that nobody listens: a flowing socket would hand it out at once
      if (rest !== undefined && rest.length > 0) socket.unshift(rest);
      if (target === undefined) socket.end();
      resolve(target);
    };
    const onGone = (): void => finish(undefined);
    const onData = (bytes: Buffer): void => {
      const step = machine.add(bytes);
      if (step.reply.length > 0) socket.write(step.reply);
      if (step.kind === "more") return;
      if (step.kind === "request") finish(step.target, step.rest);
      else finish(undefined);
    };
    const timer = setTimeout(onGone, HANDSHAKE_MS);
    socket.on("data", onData);
    socket.once("end", onGone);
    socket.once("close", onGone);
  });
}
