/**
 * Port mapping as a discovery source: asks the gateway by PCP, then NAT-PMP, then UPnP IGD, keeps to the one that works, renews at half of
 * its lifetime, and takes the mapping back at the end. One protocol's failure, silence or nonsense only moves on to the next.
 */
import { endpointFromBytes, formatEndpoint } from "../../base/endpoint.ts";
import { WeftError } from "../../base/errors.ts";
import { scopeOf } from "./fits.ts";
import type { Gateway } from "./gateway.ts";
import type { Mapper, MapperName, MapRequest } from "./mapper.ts";
import type { Look, Source } from "./source.ts";

const LIFETIME_SECONDS = 7_200;
/** A router that restarted has forgotten: asked again this often at the latest. */
const MAX_RENEW_MS = 1_200_000;
const MIN_RENEW_MS = 30_000;
/** Each protocol gets this much of a round. */
const SHARE_MS = 6_000;
const UNMAP_MS = 1_000;

export interface PortMappingDeps {
  readonly mappers: readonly Mapper[];
  readGateway(): Promise<Gateway | undefined>;
  /** Bound IPv4 port of the underlay, 0 = none. */
  port(): number;
}

export class PortMappingSource implements Source {
  readonly name = "port-mapping";
  /** What each protocol said last, for netcheck. */
  readonly verdicts: Map<MapperName, string> = new Map();
  /** The protocol in use; undefined = none works. */
  inUse: MapperName | undefined;
  readonly #deps: PortMappingDeps;
  #last: MapRequest | undefined;
  readonly #counts = { asked: 0, refused: 0, renewed: 0 };

  constructor(deps: PortMappingDeps) {
    this.#deps = deps;
  }

  async look(signal: AbortSignal): Promise<Look> {
    const port = this.#deps.port();
    if (port === 0) throw new WeftError("NO_IPV4", "this node has no IPv4 socket", "listen on an IPv4 address");
    const gateway = await this.#deps.readGateway();
    if (gateway === undefined) {
      this.inUse = undefined;
      throw new WeftError("NO_GATEWAY", "there is no IPv4 gateway", "nothing to do if this network has none");
    }
    if (this.#last !== undefined && this.#last.gateway.address !== gateway.address) this.inUse = undefined;
    const request = { gateway, internalPort: port, externalPort: port, lifetimeSeconds: LIFETIME_SECONDS };
    this.#last = request;
    const working = this.#deps.mappers.filter((mapper) => mapper.name === this.inUse);
    const others = this.#deps.mappers.filter((mapper) => mapper.name !== this.inUse);
    for (const mapper of [...working, ...others]) {
      if (signal.aborted) break;
      const found = await this.#try(mapper, request, signal);
      if (found !== undefined) return found;
    }
    this.inUse = undefined;
    const said = [...this.verdicts].map(([name, text]) => `${name}: ${text}`).join("; ");
    throw new WeftError("NO_MAPPING", said || "no protocol is allowed", "allow port mapping on the router");
  }

  counters(): Readonly<Record<string, number>> {
    return this.#counts;
  }

  async close(): Promise<void> {
    const request = this.#last;
    if (request === undefined) return;
    const signal = AbortSignal.timeout(UNMAP_MS);
    await Promise.allSettled(this.#deps.mappers.map(async (mapper) => mapper.unmap(request, signal)));
  }

  async #try(mapper: Mapper, request: MapRequest, signal: AbortSignal): Promise<Look | undefined> {
    this.#counts.asked++;
    try {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(SHARE_MS)]);
      const { external, lifetimeSeconds } = await mapper.map(request, limit);
      const lifetimeMs = lifetimeSeconds * 1000;
      if (lifetimeMs <= 0 || scopeOf(external) === "unusable" || (external[16] === 0 && external[17] === 0))
        throw new WeftError("MAPPING_REFUSED", "the answer maps nothing", "report the router's model");
      if (this.inUse === mapper.name) this.#counts.renewed++;
      this.inUse = mapper.name;
      const where = formatEndpoint(endpointFromBytes(external));
      const isInner = scopeOf(external) !== "global";
      const note = isInner ? "; that is no public address: another NAT is behind the router" : "";
      this.verdicts.set(mapper.name, `maps ${where}`);
      return {
        endpoints: [external],
        lifeMs: lifetimeMs,
        text: `${mapper.name}: the router maps ${where} to this node for ${Math.round(lifetimeSeconds / 60)} min${note}`,
        againMs: Math.min(MAX_RENEW_MS, Math.max(MIN_RENEW_MS, lifetimeMs / 2)),
      };
    } catch (error) {
      this.#counts.refused++;
      this.verdicts.set(mapper.name, (error instanceof Error ? error.message : String(error)).slice(0, 120));
      return undefined;
    }
  }
}
