/**
 * Port mapping by UPnP IGD: searches on the LAN and at the gateway itself, and asks the first gateway that answers. HTTP goes to the device's
 * own address only, without redirects, at most 64 KiB and 3 s per answer. TCP carries no mark: the gateway is on-link.
 */
import { request as httpRequest } from "node:http";
import { endpointToBytes, parseAddress } from "../../base/endpoint.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import type { Mapper, MapRequest, PortMap } from "./mapper.ts";
import { openMarkedUdp } from "./udp-exchange.ts";
import type { IgdService } from "./upnp-messages.ts";
import {
  element,
  findService,
  soapBody,
  soapError,
  SSDP_GROUP,
  SSDP_PORT,
  SSDP_TARGETS,
  ssdpLocation,
  ssdpSearch,
  UpnpError,
} from "./upnp-messages.ts";

const SEARCH_MS = 2_500;
const RESEARCH_MS = 700;
const HTTP_MS = 3_000;
const MAX_HTTP_BYTES = 65_536;
const MAX_ANSWERS = 32;
const CONFLICT_TRIES = 4;

export class UpnpMapper implements Mapper {
  readonly name = "upnp";
  readonly #random: Random;
  readonly #mark: number;
  #service: { readonly gateway: string; readonly service: IgdService } | undefined;
  #mappedPort = 0;

  constructor(random: Random, mark: number) {
    this.#random = random;
    this.#mark = mark;
  }

  async map(request: MapRequest, signal: AbortSignal): Promise<PortMap> {
    const { gateway } = request;
    if (this.#service?.gateway !== gateway.address) this.#service = undefined;
    this.#service ??= { gateway: gateway.address, service: await this.#find(request, signal) };
    const { service } = this.#service;
    try {
      return await this.#mapAt(service, request, signal);
    } catch (error) {
      // the router may have restarted with other URLs: search again next time
      this.#service = undefined;
      throw error;
    }
  }

  async unmap(request: MapRequest, signal: AbortSignal): Promise<void> {
    const port = this.#mappedPort;
    if (port === 0 || this.#service === undefined) return;
    this.#mappedPort = 0;
    const values = [
      ["NewRemoteHost", ""],
      ["NewExternalPort", port],
      ["NewProtocol", "UDP"],
    ] as const;
    await call(this.#service.service, "DeletePortMapping", values, request.gateway.ownAddress, signal);
  }

  async #mapAt(service: IgdService, request: MapRequest, signal: AbortSignal): Promise<PortMap> {
    const own = request.gateway.ownAddress;
    const { text } = await call(service, "GetExternalIPAddress", [], own, signal);
    const address = element(text, "NewExternalIPAddress") ?? "";
    if (!/^\d+\.\d+\.\d+\.\d+$/.test(address) || parseAddress(address) === undefined)
      throw new WeftError("MAPPING_REFUSED", "the router has no external address", "check its connection");
    let port = this.#mappedPort === 0 ? request.externalPort : this.#mappedPort;
    let lifetimeSeconds = request.lifetimeSeconds;
    for (let tries = 0; ; tries++) {
      const { code } = await call(
        service,
        "AddPortMapping",
        [
          ["NewRemoteHost", ""],
          ["NewExternalPort", port],
          ["NewProtocol", "UDP"],
          ["NewInternalPort", request.internalPort],
          ["NewInternalClient", own],
          ["NewEnabled", 1],
          ["NewPortMappingDescription", "weft"],
          ["NewLeaseDuration", lifetimeSeconds],
        ],
        own,
        signal,
        tries < CONFLICT_TRIES,
      );
      if (code === 0) break;
      if (code === UpnpError.ONLY_PERMANENT && lifetimeSeconds !== 0) lifetimeSeconds = 0;
      else port = 1024 + (this.#random.u32() % 64_512);
    }
    this.#mappedPort = port;
    // a permanent one is looked after like the others: made again, and taken back at the end
    return {
      external: endpointToBytes({ address, port }),
      lifetimeSeconds: lifetimeSeconds || request.lifetimeSeconds,
    };
  }

  async #find(request: MapRequest, signal: AbortSignal): Promise<IgdService> {
    const { gateway } = request;
    const locations: URL[] = [];
    const socket = await openMarkedUdp({ address: gateway.ownAddress, mark: this.#mark });
    try {
      await new Promise<void>((resolve, reject) => {
        let answers = 0;
        socket.on("error", reject);
        socket.on("message", (message, remote) => {
          // only the gateway itself may say where the gateway's mapping service is
          if (remote.address !== gateway.address || ++answers > MAX_ANSWERS) return;
          const url = ssdpLocation(message.toString("latin1"), remote.address);
          if (url === undefined || locations.some((one) => one.href === url.href)) return;
          locations.push(url);
          resolve();
        });
        const search = (): void => {
          for (const target of SSDP_TARGETS) {
            const text = ssdpSearch(target);
            for (const to of [SSDP_GROUP, gateway.address]) socket.send(text, SSDP_PORT, to, () => undefined);
          }
        };
        const again = setInterval(search, RESEARCH_MS);
        const end = (): void => {
          clearInterval(again);
          clearTimeout(limit);
          resolve();
        };
        const limit = setTimeout(end, SEARCH_MS);
        signal.addEventListener("abort", end, { once: true });
        socket.once("close", end);
        socket.setMulticastTTL(2);
        search();
      });
    } finally {
      socket.removeAllListeners("error");
      socket.on("error", () => undefined);
      socket.close();
    }
    for (const location of locations) {
      const { text } = await http("GET", location, {}, "", gateway.ownAddress, signal);
      const service = findService(text, location);
      if (service !== undefined) return service;
    }
    throw new WeftError(
      "NO_ANSWER",
      "no UPnP gateway answers",
      "nothing to do if the router is not meant to map ports",
    );
  }
}

/** @param isTry an error code comes back instead of an exception @throws WeftError MAPPING_REFUSED */
async function call(
  service: IgdService,
  action: string,
  values: readonly (readonly [string, string | number])[],
  from: string,
  signal: AbortSignal,
  isTry = false,
): Promise<{ text: string; code: number }> {
  const headers = { "content-type": 'text/xml; charset="utf-8"', soapaction: `"${service.type}#${action}"` };
  const { text, status } = await http(
    "POST",
    service.control,
    headers,
    soapBody(service.type, action, values),
    from,
    signal,
  );
  if (status === 200) return { text, code: 0 };
  const code = soapError(text);
  if (isTry && (code === UpnpError.CONFLICT || code === UpnpError.ONLY_PERMANENT)) return { text, code };
  const why = code === 0 ? `status ${status}` : `UPnP error ${code}`;
  throw new WeftError("MAPPING_REFUSED", `the router refuses ${action}: ${why}`, "allow port mapping on the router");
}

function http(
  method: string,
  url: URL,
  headers: Readonly<Record<string, string>>,
  body: string,
  from: string,
  signal: AbortSignal,
): Promise<{ text: string; status: number }> {
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest(
      url,
      {
        method,
        agent: false,
        localAddress: from,
        signal: AbortSignal.any([signal, AbortSignal.timeout(HTTP_MS)]),
        headers: { ...headers, "content-length": Buffer.byteLength(body), connection: "close" },
      },
      (response) => {
        const chunks: Buffer[] = [];
        let total = 0;
        response.on("data", (chunk: Buffer) => {
          total += chunk.length;
          if (total > MAX_HTTP_BYTES) outgoing.destroy(new Error("the router's answer is too long"));
          else chunks.push(chunk);
        });
        response.on("error", reject);
        response.on("end", () =>
          resolve({ text: Buffer.concat(chunks).toString("utf8"), status: response.statusCode ?? 0 }),
        );
      },
    );
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}
