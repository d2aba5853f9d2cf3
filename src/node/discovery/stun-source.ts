/**
 * STUN as a discovery source: looks up the configured servers, asks them from the underlay's own socket (through the data plane, since the
 * mapping belongs to that socket), and feeds what they see to the NAT classification.
 */
import { lookup } from "node:dns/promises";
import { equal } from "../../base/bytes.ts";
import { endpointFromBytes, endpointToBytes, formatEndpoint, isIPv4Mapped, parseAddress } from "../../base/endpoint.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import type { Clock } from "../clock.ts";
import { parseHostPort } from "../config.ts";
import type { NatClassifier } from "./nat-kind.ts";
import type { Look, Source } from "./source.ts";
import { StunRound } from "./stun-round.ts";

/** A mapping lives for 2 minutes at least where RFC 4787 is kept; peers keep it open. */
const LIFE_MS = 900_000;
const MAX_ADDRESSES = 8;

export interface StunSourceDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly nat: NatClassifier;
  /** Sends a datagram from the underlay's socket. @returns false when that is not possible now */
  send(to: Uint8Array, datagram: Uint8Array): boolean;
}

export class StunSource implements Source {
  readonly name = "stun";
  /** Whether the NAT sends back what goes to its own outside; undefined = not known. */
  hairpin: boolean | undefined;
  /** Answers of the last round by server, for netcheck. */
  lastResults: StunRound["results"] = [];
  readonly #deps: StunSourceDeps;
  readonly #servers: readonly string[];
  #round: StunRound | undefined;
  #wake: (() => void) | undefined;
  readonly #counts = { requests: 0, answers: 0, strays: 0 };

  /** @param servers HOST:PORT */
  constructor(deps: StunSourceDeps, servers: readonly string[]) {
    this.#deps = deps;
    this.#servers = servers;
  }

  async look(signal: AbortSignal): Promise<Look> {
    const addresses = await this.#resolve(signal);
    const { clock, random, nat } = this.#deps;
    const round = new StunRound(clock.now().nowMs, random, addresses);
    this.#round = round;
    try {
      while (!round.done && !signal.aborted) {
        for (let out = round.pollTransmit(); out !== undefined; out = round.pollTransmit()) {
          this.#counts.requests++;
          if (!this.#deps.send(out.to, out.datagram))
            throw new WeftError("STUN_SEND", "the data plane takes no datagram now", "it is tried again");
        }
        await this.#untilDue(round, signal);
        round.handleTimeout(clock.now().nowMs);
      }
    } finally {
      this.#round = undefined;
    }
    const nowMs = clock.now().nowMs;
    for (const { to, mapped } of round.results) nat.observe(nowMs, to, mapped);
    if (round.results.length > 0 || this.lastResults.length === 0) this.lastResults = round.results;
    if (round.hairpin !== undefined) this.hairpin = round.hairpin;
    const endpoints: Uint8Array[] = [];
    for (const { mapped } of round.results) if (!endpoints.some((one) => equal(one, mapped))) endpoints.push(mapped);
    if (endpoints.length === 0)
      throw new WeftError("STUN_SILENT", round.failures.join("; ") || "no server answered", "check that UDP gets out");
    const seen = endpoints.map((one) => formatEndpoint(endpointFromBytes(one))).join(", ");
    const failed = round.failures.length === 0 ? "" : `; ${round.failures.join("; ")}`;
    return { endpoints, lifeMs: LIFE_MS, text: `seen as ${seen}${failed}` };
  }

  /** A STUN datagram that came in at the underlay's socket. */
  handleDatagram(from: Uint8Array, datagram: Uint8Array): void {
    if (this.#round?.handleDatagram(this.#deps.clock.now().nowMs, from, datagram) === true) {
      this.#counts.answers++;
      this.#wake?.();
    } else {
      this.#counts.strays++;
    }
  }

  counters(): Readonly<Record<string, number>> {
    return this.#counts;
  }

  close(): Promise<void> {
    this.#wake?.();
    return Promise.resolve();
  }

  #untilDue(round: StunRound, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const finish = (): void => {
        cancel();
        signal.removeEventListener("abort", finish);
        this.#wake = undefined;
        resolve();
      };
      const cancel = this.#deps.clock.schedule(round.nextTimeout(), finish);
      signal.addEventListener("abort", finish, { once: true });
      this.#wake = finish;
    });
  }

  async #resolve(signal: AbortSignal): Promise<Uint8Array[]> {
    const found: Uint8Array[] = [];
    const failures: string[] = [];
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener(
        "abort",
        () => reject(new WeftError("STUN_LOOKUP", "the name lookup took too long", "check DNS")),
        {
          once: true,
        },
      );
    });
    aborted.catch(() => undefined);
    const resolveOne = async (text: string): Promise<void> => {
      const parsed = parseHostPort(text);
      if (parsed === undefined) return;
      try {
        const isAddress = parseAddress(parsed.host) !== undefined;
        const results = isAddress ? [{ address: parsed.host }] : await lookup(parsed.host, { all: true });
        // one of each family: more say the same
        for (const family of [4, 6]) {
          const one = results.find((result) => result.address.includes(":") === (family === 6));
          if (one !== undefined && parseAddress(one.address) !== undefined)
            found.push(endpointToBytes({ address: one.address, port: parsed.port }));
        }
      } catch (error) {
        failures.push(`${parsed.host}: ${(error as Error).message}`);
      }
    };
    const all = Promise.all(this.#servers.map(resolveOne));
    // a slow name must not cost the others their answer
    const soon = new Promise<void>((resolve) => {
      this.#deps.clock.schedule(this.#deps.clock.now().nowMs + 2_000, () => found.length > 0 && resolve());
    });
    await Promise.race([all, soon, aborted]);
    if (found.length === 0)
      throw new WeftError("STUN_LOOKUP", failures.join("; ") || "no server has an address", "check DNS");
    return found.toSorted((a, b) => Number(isIPv4Mapped(b)) - Number(isIPv4Mapped(a))).slice(0, MAX_ADDRESSES);
  }
}
