/**
 * The LAN as a discovery source: sockets for lan-machine.ts, one per interface, joined to the multicast group there only and carrying the
 * underlay mark. Packets count only from a neighbour's address (RFC 6762 section 11).
 */
import type { Socket } from "node:dgram";
import { equal } from "../../base/bytes.ts";
import { endpointToBytes, parseAddress } from "../../base/endpoint.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import type { Clock } from "../clock.ts";
import type { LocalAddress } from "./fits.ts";
import { candidateFits, isOnLink, scopeOf } from "./fits.ts";
import { LanSeal, MAX_LAN_ENDPOINTS } from "./lan-announcement.ts";
import type { LanPeer } from "./lan-machine.ts";
import { LanMachine } from "./lan-machine.ts";
import type { Look, Source } from "./source.ts";
import { openMarkedUdp } from "./udp-exchange.ts";

const PORT = 5353;
const GROUP4 = "224.0.0.251";
const GROUP6 = "ff02::fb";
const MAX_LINKS = 8;
/** For the good-bye to leave. */
const GOODBYE_MS = 20;

/** An interface as the LAN source needs it. */
export interface LanInterface {
  readonly name: string;
  readonly addresses: readonly LocalAddress[];
  /** First IPv4 address as text; undefined = IPv6 only. */
  readonly address4: string | undefined;
}

export interface LanSourceDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly nodeId: Uint8Array;
  networkId(): Uint8Array | undefined;
  /** Interfaces that are up, without loopback and the overlay's own. */
  interfaces(): readonly LanInterface[];
  /** Bound ports of the underlay, 0 = none. */
  ports(): { readonly port4: number; readonly port6: number };
  /** peers() changed. */
  changed(): void;
}

interface Link {
  readonly key: string;
  readonly socket: Socket;
  readonly group: string;
}

export class LanSource implements Source {
  readonly name = "lan";
  readonly #deps: LanSourceDeps;
  readonly #mark: number;
  readonly #counts = { socketErrors: 0 };
  #machine: LanMachine | undefined;
  #networkId: Uint8Array | undefined;
  #links: Link[] = [];
  #cancel: (() => void) | undefined;
  #closed = false;

  constructor(deps: LanSourceDeps, mark: number) {
    this.#deps = deps;
    this.#mark = mark;
  }

  /** Members heard on the LAN whose endpoints fit the interfaces; this node is none of them. */
  peers(): readonly LanPeer[] {
    const local = this.#deps.interfaces().flatMap((one) => one.addresses);
    const peers = this.#machine?.peers() ?? [];
    return peers
      .filter((peer) => !equal(peer.nodeId, this.#deps.nodeId))
      .map((peer) => ({ ...peer, endpoints: peer.endpoints.filter((one) => candidateFits(one, local)) }))
      .filter((peer) => peer.endpoints.length > 0);
  }

  async look(signal: AbortSignal): Promise<Look> {
    const networkId = this.#deps.networkId();
    if (networkId === undefined)
      throw new WeftError("NO_NETWORK", "this node is in no network yet", "it is tried again");
    if (this.#networkId === undefined || !equal(this.#networkId, networkId)) this.#start(networkId);
    const failures = await this.#openLinks(signal);
    if (signal.aborted) throw new WeftError("ABORTED", "stopped", "nothing to do");
    if (this.#links.length === 0)
      throw new WeftError(
        "NO_LINK",
        failures[0] ?? "there is no interface to announce on",
        "nothing to do without a LAN",
      );
    const names = this.#links.map((link) => link.key.split(" ")[0]).join(", ");
    const count = this.peers().length;
    return {
      endpoints: [],
      lifeMs: Infinity,
      text: `announcing on ${names}; ${count} member${count === 1 ? "" : "s"} heard${failures.length === 0 ? "" : `; ${failures.join("; ")}`}`,
    };
  }

  counters(): Readonly<Record<string, number>> {
    return { ...this.#machine?.counters, ...this.#counts };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancel?.();
    this.#machine?.goodbye();
    this.#transmit();
    if (this.#links.length > 0) await new Promise((resolve) => setTimeout(resolve, GOODBYE_MS));
    for (const link of this.#links) link.socket.close();
    this.#links = [];
  }

  #start(networkId: Uint8Array): void {
    const { random, nodeId } = this.#deps;
    const seal = new LanSeal(networkId, random);
    this.#networkId = networkId;
    this.#machine = new LanMachine({
      random,
      seal: (label, endpoints) => seal.seal(label, { nodeId, endpoints }),
      open: (label, sealed) => seal.open(label, sealed),
    });
  }

  /** Makes the sockets those of the interfaces there are, and says what is to be announced. @returns failures, one line each */
  async #openLinks(signal: AbortSignal): Promise<string[]> {
    const wanted = this.#deps.interfaces().slice(0, MAX_LINKS);
    const keys = new Set(wanted.map(keyOf));
    const gone = this.#links.filter((link) => !keys.has(link.key));
    this.#links = this.#links.filter((link) => keys.has(link.key));
    for (const link of gone) link.socket.close();
    const failures: string[] = [];
    let isMoved = gone.length > 0;
    for (const one of wanted) {
      const known = this.#links.find((link) => link.key === keyOf(one));
      if (known !== undefined) rejoin(known, one);
      if (signal.aborted || known !== undefined) continue;
      try {
        const link = await this.#open(one);
        if (this.#closed || this.#links.some((other) => other.key === link.key)) link.socket.close();
        else this.#links.push(link);
        isMoved = true;
      } catch (error) {
        this.#counts.socketErrors++;
        failures.push(`${one.name}: ${(error as Error).message}`);
      }
    }
    this.#machine?.setOwn(this.#deps.clock.now().nowMs, this.#own(wanted), isMoved);
    this.#turn();
    return failures;
  }

  async #open(one: LanInterface): Promise<Link> {
    const six = one.address4 === undefined;
    const group = six ? GROUP6 : GROUP4;
    // bound to the group's address, a socket takes nothing that is meant for another program on this port
    const socket = await openMarkedUdp({ address: six ? "::" : group, port: PORT, shared: true, mark: this.#mark });
    try {
      const where = whereOf(one);
      socket.addMembership(group, where);
      socket.setMulticastInterface(where);
      socket.setMulticastTTL(255);
      socket.setMulticastLoopback(true);
    } catch (error) {
      socket.close();
      throw error;
    }
    const key = keyOf(one);
    const end = (): void => {
      if (!this.#links.some((link) => link.socket === socket)) return;
      this.#links = this.#links.filter((link) => link.socket !== socket);
      socket.close();
    };
    socket.on("error", () => {
      this.#counts.socketErrors++;
      end();
    });
    socket.on("message", (message, remote) => {
      const from = parseAddress(remote.address.split("%")[0]);
      const isNear = from !== undefined && (scopeOf(from) === "link-local" || isOnLink(from, one.addresses));
      const nowMs = this.#deps.clock.now().nowMs;
      const machine = this.#machine;
      const goesOn =
        isNear && remote.port === PORT ? machine?.handlePacket(nowMs, key, message) : machine?.refuse(nowMs, key);
      // a flooded link is opened again by the next look
      if (goesOn === false) end();
      else this.#turn();
    });
    return { key, socket, group };
  }

  /** Endpoints on this host's networks, every interface's first ones first. */
  #own(interfaces: readonly LanInterface[]): Uint8Array[] {
    const { port4, port6 } = this.#deps.ports();
    const out: Uint8Array[] = [];
    for (const one of interfaces) {
      for (const local of one.addresses) {
        const endpoint = new Uint8Array(18);
        endpoint.set(local.address);
        const isFour = one.address4 !== undefined && equal(local.address.subarray(0, 12), V4_PREFIX);
        const port = isFour ? port4 : port6;
        endpoint[16] = port & 255;
        endpoint[17] = port >>> 8;
        if (port !== 0 && out.length < MAX_LAN_ENDPOINTS) out.push(endpoint);
      }
    }
    return out;
  }

  #turn(): void {
    const machine = this.#machine;
    if (machine === undefined || this.#closed) return;
    this.#transmit();
    this.#cancel?.();
    this.#cancel = undefined;
    const dueMs = machine.nextTimeout();
    if (dueMs < Infinity) {
      this.#cancel = this.#deps.clock.schedule(dueMs, () => {
        machine.handleTimeout(this.#deps.clock.now().nowMs);
        this.#turn();
      });
    }
    if (machine.takeChanged()) this.#deps.changed();
  }

  #transmit(): void {
    for (let out = this.#machine?.pollTransmit(); out !== undefined; out = this.#machine?.pollTransmit()) {
      for (const { socket, group } of this.#links) {
        socket.send(out, PORT, group, (error) => {
          if (error !== null) this.#counts.socketErrors++;
        });
      }
    }
  }
}

const V4_PREFIX: Uint8Array = endpointToBytes({ address: "0.0.0.0", port: 1 }).subarray(0, 12);

/** An interface that was taken away and came back under its name has forgotten its memberships; one that has not refuses politely. */
function rejoin(link: Link, one: LanInterface): void {
  try {
    link.socket.addMembership(link.group, whereOf(one));
    link.socket.setMulticastInterface(whereOf(one));
  } catch {
    // It is a member already.
  }
}

function whereOf(one: LanInterface): string {
  return one.address4 ?? `::%${one.name}`;
}

function keyOf(one: LanInterface): string {
  return `${one.name} ${one.address4 ?? "6"}`;
}
