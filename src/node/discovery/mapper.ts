/** What a port mapping protocol offers to the source that uses them in turn (port-mapping.ts). */
import type { Gateway } from "./gateway.ts";

export const MAPPER_NAMES = ["pcp", "nat-pmp", "upnp"] as const;
export type MapperName = (typeof MAPPER_NAMES)[number];

export interface MapRequest {
  readonly gateway: Gateway;
  readonly internalPort: number;
  /** What is wanted or was there before. */
  readonly externalPort: number;
  readonly lifetimeSeconds: number;
}

export interface PortMap {
  /** 18 bytes: where the gateway takes datagrams for this node. */
  readonly external: Uint8Array;
  readonly lifetimeSeconds: number;
}

export interface Mapper {
  readonly name: MapperName;
  /** Makes or renews the mapping. Rejects with why not. */
  map(request: MapRequest, signal: AbortSignal): Promise<PortMap>;
  /** Takes it back; does nothing when this mapper made none. */
  unmap(request: MapRequest, signal: AbortSignal): Promise<void>;
}
