/**
 * Port Control Protocol (RFC 6887), opcode MAP, as a client speaks it to its gateway on UDP port 5351. All big-endian.
 *
 *   request   0 version u8 = 2 | 1 opcode u8 | 2 zero 2 | 4 lifetime u32 s | 8 client address 16                                       24 bytes
 *   response  0 version u8 = 2 | 1 opcode u8 + 128 | 2 zero u8 | 3 result u8 | 4 lifetime u32 s | 8 epoch u32 s | 12 zero 12             24 bytes
 *   MAP       24 nonce 12 | 36 protocol u8 | 37 zero 3 | 40 internal port u16 | 42 external port u16 | 44 external address 16           60 bytes
 *
 * Addresses are 16 bytes, IPv4 as v4-mapped. decodePcpMap() takes any bytes and never throws.
 */
import { Drop } from "../base/drop.ts";
import { ENDPOINT_BYTES, isIPv4Mapped } from "../base/endpoint.ts";

export const PCP_PORT = 5351;
export const PCP_NONCE_BYTES = 12;
export const PCP_MAP_BYTES = 60;
const PCP_MAX_BYTES = 1100;
const VERSION = 2;
const OPCODE_MAP = 1;
const RESPONSE_BIT = 0x80;
const PROTOCOL_UDP = 17;

/** RFC 6887 section 7.4. */
const RESULTS: readonly string[] = [
  "success",
  "unsupported version",
  "not authorised",
  "malformed request",
  "unsupported opcode",
  "unsupported option",
  "malformed option",
  "network failure",
  "no resources",
  "unsupported protocol",
  "user exceeded quota",
  "cannot provide the external address",
  "address mismatch: another NAT is between this host and the gateway",
  "excessive remote peers",
];
export const PcpResult = { SUCCESS: 0, UNSUPPORTED_VERSION: 1 } as const;

export interface PcpMapRequest {
  /** 12 random bytes, the same for renewal and deletion of one mapping. */
  readonly nonce: Uint8Array;
  /** Own address towards the gateway, 16 bytes. */
  readonly client: Uint8Array;
  readonly internalPort: number;
  /** 18 bytes: what is wanted or was there before; undefined = no wish. */
  readonly suggested: Uint8Array | undefined;
  /** 0 deletes */
  readonly lifetimeSeconds: number;
}

/** Every field is overwritten when the result is `Drop.NONE`. */
export class PcpMapResponse {
  version = 0;
  /** PcpResult and others, see pcpResultText() */
  result = 0;
  /** Of the mapping; of the refusal when there was one. */
  lifetimeSeconds = 0;
  /** Seconds since the gateway lost its state. */
  epochSeconds = 0;
  readonly nonce: Uint8Array = new Uint8Array(PCP_NONCE_BYTES);
  internalPort = 0;
  /** 18 bytes of base/endpoint.ts. */
  readonly external: Uint8Array = new Uint8Array(ENDPOINT_BYTES);
}

export function encodePcpMap(request: PcpMapRequest): Uint8Array {
  const out = new Uint8Array(PCP_MAP_BYTES);
  const view = new DataView(out.buffer);
  out[0] = VERSION;
  out[1] = OPCODE_MAP;
  view.setUint32(4, request.lifetimeSeconds);
  out.set(request.client.subarray(0, 16), 8);
  out.set(request.nonce.subarray(0, PCP_NONCE_BYTES), 24);
  out[36] = PROTOCOL_UDP;
  view.setUint16(40, request.internalPort);
  if (request.suggested === undefined) {
    // no wish is the unspecified address of the client's family (section 11.1)
    if (isIPv4Mapped(request.client)) out.fill(0xff, 54, 56);
  } else {
    out.set(request.suggested.subarray(0, 16), 44);
    view.setUint16(42, request.suggested[16] | (request.suggested[17] << 8));
  }
  return out;
}

/**
 * @param bytes a whole datagram from the gateway; anything may be in it
 * @returns SHORT, BAD_TYPE (no MAP response) or NONE. A gateway that speaks another version answers with that `version` and result
 *   UNSUPPORTED_VERSION (NAT-PMP with 0); then only version and result hold
 */
export function decodePcpMap(bytes: Uint8Array, out: PcpMapResponse): Drop {
  if (bytes.length < 4 || bytes.length > PCP_MAX_BYTES) return Drop.SHORT;
  if ((bytes[1] & RESPONSE_BIT) === 0) return Drop.BAD_TYPE;
  if (bytes[0] !== VERSION) {
    // NAT-PMP has its result in the 16 bits at 2
    out.version = bytes[0];
    out.result = PcpResult.UNSUPPORTED_VERSION;
    return bytes[3] === PcpResult.UNSUPPORTED_VERSION && bytes[2] === 0 ? Drop.NONE : Drop.BAD_TYPE;
  }
  if (bytes.length < PCP_MAP_BYTES || bytes.length % 4 !== 0) return Drop.SHORT;
  if (bytes[1] !== (OPCODE_MAP | RESPONSE_BIT) || bytes[36] !== PROTOCOL_UDP) return Drop.BAD_TYPE;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  out.version = VERSION;
  out.result = bytes[3];
  out.lifetimeSeconds = view.getUint32(4);
  out.epochSeconds = view.getUint32(8);
  for (let i = 0; i < PCP_NONCE_BYTES; i++) out.nonce[i] = bytes[24 + i];
  out.internalPort = view.getUint16(40);
  for (let i = 0; i < 16; i++) out.external[i] = bytes[44 + i];
  out.external[16] = bytes[43];
  out.external[17] = bytes[42];
  return Drop.NONE;
}

export function pcpResultText(result: number): string {
  return RESULTS[result] ?? `result ${result}`;
}
