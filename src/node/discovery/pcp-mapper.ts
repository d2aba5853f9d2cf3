/** Port mapping by PCP and, for older gateways, NAT-PMP: questions to the gateway's UDP port 5351. Formats: wire/pcp.ts, wire/nat-pmp.ts. */
import { Drop } from "../../base/drop.ts";
import { equal } from "../../base/bytes.ts";
import { endpointToBytes, parseAddress } from "../../base/endpoint.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import {
  decodeNatPmp,
  encodeNatPmpAddress,
  encodeNatPmpMap,
  NatPmpOpcode,
  NatPmpResponse,
  natPmpResultText,
} from "../../wire/nat-pmp.ts";
import {
  decodePcpMap,
  encodePcpMap,
  PCP_NONCE_BYTES,
  PCP_PORT,
  PcpMapResponse,
  PcpResult,
  pcpResultText,
} from "../../wire/pcp.ts";
import type { Mapper, MapRequest, PortMap } from "./mapper.ts";
import { ask } from "./udp-exchange.ts";

const TIMEOUT_MS = 2_000;

export class PcpMapper implements Mapper {
  readonly name = "pcp";
  readonly #mark: number;
  readonly #random: Random;
  /** One per run: whoever does not know it cannot take the mapping away. */
  #nonce: Uint8Array | undefined;
  #external: Uint8Array | undefined;

  constructor(random: Random, mark: number) {
    this.#random = random;
    this.#mark = mark;
  }

  async map(request: MapRequest, signal: AbortSignal): Promise<PortMap> {
    this.#nonce ??= this.#random.bytes(PCP_NONCE_BYTES);
    const wish = this.#external ?? endpointToBytes({ address: "0.0.0.0", port: request.externalPort });
    const answer = await this.#ask(request, wish, request.lifetimeSeconds, signal);
    this.#external = answer.external.slice();
    return { external: this.#external, lifetimeSeconds: answer.lifetimeSeconds };
  }

  async unmap(request: MapRequest, signal: AbortSignal): Promise<void> {
    if (this.#external === undefined) return;
    const external = this.#external;
    this.#external = undefined;
    await this.#ask(request, external, 0, signal);
  }

  async #ask(
    request: MapRequest,
    suggested: Uint8Array,
    lifetimeSeconds: number,
    signal: AbortSignal,
  ): Promise<PcpMapResponse> {
    const { gateway, internalPort } = request;
    const nonce = this.#nonce as Uint8Array;
    const client = parseAddress(gateway.ownAddress) as Uint8Array;
    const answer = new PcpMapResponse();
    await ask(
      {
        to: { address: gateway.address, port: PCP_PORT },
        from: gateway.ownAddress,
        mark: this.#mark,
        timeoutMs: TIMEOUT_MS,
        datagram: encodePcpMap({ nonce, client, internalPort, suggested, lifetimeSeconds }),
        take: (datagram) => {
          if (decodePcpMap(datagram, answer) !== Drop.NONE) return undefined;
          if (answer.result === PcpResult.UNSUPPORTED_VERSION) throw refused("PCP", pcpResultText(answer.result));
          if (!equal(answer.nonce, nonce) || answer.internalPort !== internalPort) return undefined;
          if (answer.result !== PcpResult.SUCCESS) throw refused("PCP", pcpResultText(answer.result));
          return answer;
        },
      },
      signal,
    );
    return answer;
  }
}

export class NatPmpMapper implements Mapper {
  readonly name = "nat-pmp";
  readonly #mark: number;
  #hasMapping = false;

  constructor(mark: number) {
    this.#mark = mark;
  }

  async map(request: MapRequest, signal: AbortSignal): Promise<PortMap> {
    const address = await this.#ask(request, encodeNatPmpAddress(), NatPmpOpcode.ADDRESS, signal);
    const { externalAddress } = address;
    const datagram = encodeNatPmpMap(request.internalPort, request.externalPort, request.lifetimeSeconds);
    const made = await this.#ask(request, datagram, NatPmpOpcode.MAP_UDP, signal);
    this.#hasMapping = true;
    return {
      external: endpointToBytes({ address: externalAddress, port: made.externalPort }),
      lifetimeSeconds: made.lifetimeSeconds,
    };
  }

  async unmap(request: MapRequest, signal: AbortSignal): Promise<void> {
    if (!this.#hasMapping) return;
    this.#hasMapping = false;
    await this.#ask(request, encodeNatPmpMap(request.internalPort, 0, 0), NatPmpOpcode.MAP_UDP, signal);
  }

  async #ask(request: MapRequest, datagram: Uint8Array, opcode: number, signal: AbortSignal): Promise<NatPmpResponse> {
    const { gateway, internalPort } = request;
    const answer = new NatPmpResponse();
    await ask(
      {
        to: { address: gateway.address, port: PCP_PORT },
        from: gateway.ownAddress,
        mark: this.#mark,
        timeoutMs: TIMEOUT_MS,
        datagram,
        take: (bytes) => {
          if (decodeNatPmp(bytes, answer) !== Drop.NONE || answer.opcode !== opcode) return undefined;
          if (answer.result !== 0) throw refused("NAT-PMP", natPmpResultText(answer.result));
          return opcode === NatPmpOpcode.MAP_UDP && answer.internalPort !== internalPort ? undefined : answer;
        },
      },
      signal,
    );
    return answer;
  }
}

function refused(protocol: string, why: string): WeftError {
  return new WeftError(
    "MAPPING_REFUSED",
    `the gateway refuses ${protocol}: ${why}`,
    "allow port mapping on the router",
  );
}
