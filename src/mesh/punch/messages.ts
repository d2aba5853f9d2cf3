/**
 * What two nodes, and their witnesses, say to each other about hole punching; control messages (inner kind 2).
 *
 *   punch  {t, g: attempt u32, a: it answers one, m: mapping 0–3, u: second stage, an unknown NAT may be a hard one, e: endpoints 18 …}
 *   sight  {t, n: node}                  where do you see that member?
 *   seen   {t, n: node, e: endpoint 18}  there, on a direct path
 * Source: docs/protocol.md, "Hole punching".
 */
import { ENDPOINT_BYTES } from "../../base/endpoint.ts";
import { asBytes, asListOf, asUint, type CborMap } from "../cbor.ts";

export const MAX_PUNCH_ENDPOINTS = 16;
const NODE_BYTES = 32;

/** How a NAT chooses the external port (RFC 4787 section 4.1). UNKNOWN: not found out, or no NAT at all. */
export const Mapping = { UNKNOWN: 0, ENDPOINT_INDEPENDENT: 1, ADDRESS_DEPENDENT: 2, PORT_DEPENDENT: 3 } as const;
export type Mapping = (typeof Mapping)[keyof typeof Mapping];

export interface PunchMessage {
  readonly type: "punch";
  readonly attempt: number;
  readonly isAnswer: boolean;
  readonly mapping: Mapping;
  /** Second stage: a NAT that is not known may be a hard one. */
  readonly supposes: boolean;
  readonly endpoints: readonly Uint8Array[];
}

export interface SightMessage {
  readonly type: "sight";
  readonly node: Uint8Array;
}

export interface SeenMessage {
  readonly type: "seen";
  readonly node: Uint8Array;
  readonly endpoint: Uint8Array;
}

export type PunchControl = PunchMessage | SightMessage | SeenMessage;

export function punchToCbor(message: PunchControl): CborMap {
  if (message.type === "punch")
    return {
      t: "punch",
      g: message.attempt,
      a: message.isAnswer,
      m: message.mapping,
      u: message.supposes,
      e: message.endpoints,
    };
  if (message.type === "sight") return { t: "sight", n: message.node };
  return { t: "seen", n: message.node, e: message.endpoint };
}

export function readPunch(map: CborMap): PunchMessage | undefined {
  const attempt = asUint(map["g"], 0xffffffff);
  const mapping = asUint(map["m"], 3);
  const endpoints = asListOf(map["e"], MAX_PUNCH_ENDPOINTS, (item) => asBytes(item, ENDPOINT_BYTES));
  if (attempt === undefined || attempt === 0 || endpoints === undefined) return undefined;
  if (mapping === undefined) return undefined;
  return {
    type: "punch",
    attempt,
    isAnswer: map["a"] === true,
    mapping: mapping as Mapping,
    supposes: map["u"] === true,
    endpoints,
  };
}

export function readSight(map: CborMap): SightMessage | undefined {
  const node = asBytes(map["n"], NODE_BYTES);
  return node === undefined ? undefined : { type: "sight", node };
}

export function readSeen(map: CborMap): SeenMessage | undefined {
  const node = asBytes(map["n"], NODE_BYTES);
  const endpoint = asBytes(map["e"], ENDPOINT_BYTES);
  return node === undefined || endpoint === undefined ? undefined : { type: "seen", node, endpoint };
}
