/**
 * Hole punching as the data plane does it: sends authenticated probes where the control thread says, at a pace, until a direct path to that peer
 * is alive. What comes back makes its path known by itself (path/peer-paths.ts), so nothing is waited for here.
 *
 *   plain   to each of a few addresses, in rounds, from the main socket
 *   fan     to one address from many extra sockets, in rounds: opens as many mappings in a NAT that makes one per destination
 *   guess   to one address, at many ports, from the main socket
 *
 * Bounds: CAMPAIGNS at once, the oldest ends for a new one; SHOTS_PER_TURN probes per turn; a guess at most 1,024 probes and 200 a second. Extra sockets that
 * no path uses are closed LINGER_MS after their campaign. Source: docs/protocol.md, "Hole punching".
 */
import { ENDPOINT_BYTES } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_PORT, NAME_REMOTE, NAME_SOCKET } from "../base/name.ts";
import type { Random } from "../base/random.ts";
import type { Slab } from "../base/slab.ts";
import { encodeProbe, Probe, PROBE_MIN_BYTES } from "../wire/probe.ts";
import type { Command } from "./messages.ts";
import type { UdpPort } from "./ports.ts";

const CAMPAIGNS = 16;
const SHOTS_PER_TURN = 64;
const PAUSE_MS = 5;
const MAX_ENDPOINTS = 16;
const MAX_ROUNDS = 64;
const MIN_EVERY_MS = 100;
const MAX_GUESSES = 1024;
const MAX_GUESSES_PER_SECOND = 200;
const LINGER_MS = 5_000;
const SWEEP_MS = 10_000;
/** Ports that NATs give away: 1,024–65,535. */
const FIRST_PORT = 1_024;
const PORTS = 64_512;

export interface PunchingDeps {
  readonly slab: Slab;
  readonly random: Random;
  readonly udp: UdpPort;
  /** Seals one probe for that peer and sends it. @param name name block @returns false when it was not sent */
  readonly shoot: (peer: number, name: number, payload: number, bytes: number) => boolean;
  /** Traffic to that peer goes a direct way already. */
  readonly isDirect: (peer: number) => boolean;
  /** Some path lives on that extra socket. */
  readonly usesSocket: (id: number) => boolean;
}

interface Campaign {
  readonly peer: number;
  readonly kind: "plain" | "fan" | "guess";
  readonly endpoints: readonly Uint8Array[];
  readonly sockets: readonly number[];
  /** Between rounds, or for a guess between two probes, ms. */
  readonly everyMs: number;
  /** Rounds, or for a guess probes, still to come. */
  left: number;
  /** Next target within the round. */
  at: number;
  dueMs: number;
  readonly step: number;
  readonly start: number;
}

export class Punching {
  /** When handleTimeout() wants to be called; Infinity = never. */
  nextMs: number = Infinity;
  readonly counters: { shots: number; refused: number; socketsOpened: number; campaignsEnded: number } = {
    shots: 0,
    refused: 0,
    socketsOpened: 0,
    campaignsEnded: 0,
  };
  readonly #deps: PunchingDeps;
  readonly #name: number;
  readonly #payload: number;
  readonly #probe: Probe = new Probe();
  readonly #campaigns: Campaign[] = [];
  /** Open extra sockets → when they may be closed if no path uses them. */
  readonly #sockets = new Map<number, number>();
  #sweepAtMs = Infinity;

  constructor(deps: PunchingDeps) {
    this.#deps = deps;
    this.#name = deps.slab.allocate(NAME_BYTES);
    this.#payload = deps.slab.allocate(PROBE_MIN_BYTES);
  }

  /** What the control thread ordered. */
  order(nowMs: number, order: Extract<Command, { kind: "punch" }>): void {
    const { peer, mode, endpoints, count, everyMs, rounds } = order;
    const first = endpoints[0];
    if (first === undefined) return;
    if (mode === "plain") this.plain(nowMs, peer, endpoints, everyMs, rounds);
    else if (mode === "fan") this.fan(nowMs, peer, first, count, everyMs, rounds);
    else this.guess(nowMs, peer, first, count, everyMs);
  }

  plain(nowMs: number, peer: number, endpoints: readonly Uint8Array[], everyMs: number, rounds: number): void {
    const targets = endpoints.slice(0, MAX_ENDPOINTS).filter((endpoint) => endpoint.length === ENDPOINT_BYTES);
    if (targets.length > 0) this.#begin(nowMs, peer, "plain", targets, [], everyMs, rounds);
  }

  fan(nowMs: number, peer: number, endpoint: Uint8Array, sockets: number, everyMs: number, rounds: number): void {
    if (endpoint.length !== ENDPOINT_BYTES) return;
    const ids: number[] = [];
    this.#deps.udp.openExtra(sockets, ids);
    this.counters.socketsOpened += ids.length;
    if (ids.length === 0) return;
    const closeAtMs = nowMs + everyMs * rounds + LINGER_MS;
    for (const id of ids) this.#sockets.set(id, closeAtMs);
    this.#sweepAtMs = Math.min(this.#sweepAtMs, closeAtMs);
    this.#begin(nowMs, peer, "fan", [endpoint], ids, everyMs, rounds);
  }

  guess(nowMs: number, peer: number, endpoint: Uint8Array, count: number, everyMs: number): void {
    if (endpoint.length !== ENDPOINT_BYTES) return;
    const gapMs = Math.max(1_000 / MAX_GUESSES_PER_SECOND, everyMs);
    this.#begin(nowMs, peer, "guess", [endpoint], [], gapMs, Math.min(MAX_GUESSES, count));
  }

  /** The peer is gone: nothing more is sent to it. */
  forget(peer: number): void {
    for (const campaign of this.#campaigns) if (campaign.peer === peer) campaign.left = 0;
  }

  handleTimeout(nowMs: number): void {
    let shots = 0;
    for (const campaign of this.#campaigns) {
      if (nowMs < campaign.dueMs || campaign.left === 0) continue;
      if (this.#deps.isDirect(campaign.peer)) campaign.left = 0;
      else shots += this.#fire(nowMs, campaign, SHOTS_PER_TURN - shots);
      if (shots >= SHOTS_PER_TURN) break;
    }
    for (let i = this.#campaigns.length - 1; i >= 0; i--) {
      if (this.#campaigns[i].left > 0) continue;
      this.#campaigns.splice(i, 1);
      this.counters.campaignsEnded++;
    }
    if (nowMs >= this.#sweepAtMs) this.#sweep(nowMs);
    this.nextMs = this.#sweepAtMs;
    for (const campaign of this.#campaigns) this.nextMs = Math.min(this.nextMs, campaign.dueMs);
  }

  close(): void {
    for (const id of this.#sockets.keys()) this.#deps.udp.closeExtra(id);
    this.#sockets.clear();
    this.#campaigns.length = 0;
    this.nextMs = Infinity;
  }

  #begin(
    nowMs: number,
    peer: number,
    kind: Campaign["kind"],
    endpoints: readonly Uint8Array[],
    sockets: readonly number[],
    everyMs: number,
    rounds: number,
  ): void {
    // a newer order about the same thing replaces the one before
    for (const campaign of this.#campaigns) if (campaign.peer === peer && campaign.kind === kind) campaign.left = 0;
    if (this.#campaigns.length >= CAMPAIGNS) {
      this.#campaigns.shift();
      this.counters.campaignsEnded++;
    }
    const { random } = this.#deps;
    this.#campaigns.push({
      peer,
      kind,
      endpoints,
      sockets,
      everyMs: kind === "guess" ? everyMs : Math.max(MIN_EVERY_MS, everyMs),
      left: kind === "guess" ? rounds : Math.min(MAX_ROUNDS, rounds),
      at: 0,
      dueMs: nowMs,
      step: coprime(random.u32()),
      start: random.u32() % PORTS,
    });
    this.nextMs = Math.min(this.nextMs, nowMs);
  }

  /** @returns probes sent */
  #fire(nowMs: number, campaign: Campaign, most: number): number {
    let shots = 0;
    if (campaign.kind === "guess") {
      // what a late turn owes is made up for, a tenth of a second at most
      if (nowMs - campaign.dueMs > 100) campaign.dueMs = nowMs - 100;
      while (campaign.left > 0 && campaign.dueMs <= nowMs && shots < most) {
        const port =
          campaign.at === 0
            ? campaign.endpoints[0][16] | (campaign.endpoints[0][17] << 8)
            : FIRST_PORT + ((campaign.start + campaign.at * campaign.step) % PORTS);
        this.#shoot(campaign.peer, campaign.endpoints[0], port, 0, nowMs);
        campaign.at++;
        campaign.left--;
        campaign.dueMs += campaign.everyMs;
        shots++;
      }
      return shots;
    }
    const targets = campaign.kind === "fan" ? campaign.sockets.length : campaign.endpoints.length;
    while (campaign.at < targets && shots < most) {
      const endpoint = campaign.kind === "fan" ? campaign.endpoints[0] : campaign.endpoints[campaign.at];
      const socket = campaign.kind === "fan" ? campaign.sockets[campaign.at] : 0;
      this.#shoot(campaign.peer, endpoint, endpoint[16] | (endpoint[17] << 8), socket, nowMs);
      campaign.at++;
      shots++;
    }
    if (campaign.at < targets) campaign.dueMs = nowMs + PAUSE_MS;
    else {
      campaign.at = 0;
      campaign.left--;
      campaign.dueMs = nowMs + campaign.everyMs;
    }
    return shots;
  }

  #shoot(peer: number, endpoint: Uint8Array, port: number, socket: number, nowMs: number): void {
    const { slab, random } = this.#deps;
    const name = this.#name;
    slab.u8.fill(0, name, name + NAME_BYTES);
    slab.u8.set(endpoint.subarray(0, 16), name + NAME_REMOTE);
    slab.view.setUint16(name + NAME_PORT, port, true);
    slab.view.setUint8(name + NAME_FAMILY, isMapped(endpoint) ? 4 : 6);
    slab.view.setUint32(name + NAME_SOCKET, socket, true);
    const probe = this.#probe;
    probe.transactionLow = random.u32();
    probe.transactionHigh = random.u32();
    probe.timestampUs = Math.floor(nowMs * 1_000) >>> 0;
    // not the number of any path: nothing is waited for under it
    probe.pathId = 0xffff;
    probe.flags = 0;
    encodeProbe(slab.u8, slab.view, this.#payload, probe, PROBE_MIN_BYTES);
    if (this.#deps.shoot(peer, name, this.#payload, PROBE_MIN_BYTES)) this.counters.shots++;
    else this.counters.refused++;
  }

  #sweep(nowMs: number): void {
    for (const [id, closeAtMs] of this.#sockets) {
      if (nowMs < closeAtMs || this.#deps.usesSocket(id)) continue;
      this.#deps.udp.closeExtra(id);
      this.#sockets.delete(id);
    }
    this.#sweepAtMs = this.#sockets.size === 0 ? Infinity : nowMs + SWEEP_MS;
  }
}

function isMapped(endpoint: Uint8Array): boolean {
  for (let i = 0; i < 10; i++) if (endpoint[i] !== 0) return false;
  return endpoint[10] === 0xff && endpoint[11] === 0xff;
}

/** A step through the ports that meets each of the 64,512 = 2^10 · 3^2 · 7 once. */
function coprime(random: number): number {
  let step = (random % PORTS) | 1;
  while (step % 3 === 0 || step % 7 === 0) step += 2;
  return step;
}
