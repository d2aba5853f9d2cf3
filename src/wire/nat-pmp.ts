/**
 * NAT Port Mapping Protocol (RFC 6886), PCP's predecessor on the same UDP port 5351 of the gateway, IPv4 only. All big-endian.
 *
 *   address request   0 version u8 = 0 | 1 opcode u8 = 0                                                                                2 bytes
 *   address response  0 version u8 = 0 | 1 opcode u8 = 128 | 2 result u16 | 4 epoch u32 s | 8 external address 4                        12 bytes
 *   map request       0 version u8 = 0 | 1 opcode u8 = 1 | 2 zero 2 | 4 internal port u16 | 6 external port u16 | 8 lifetime u32 s      12 bytes
 *   map response      0 version u8 = 0 | 1 opcode u8 = 129 | 2 result u16 | 4 epoch u32 s | 8 internal u16 | 10 external u16 | 12 lifetime u32 s
 *
 * decodeNatPmp() takes any bytes and never throws.
 */
import { Drop } from "../base/drop.ts";

export const NatPmpOpcode = { ADDRESS: 0, MAP_UDP: 1 } as const;
const RESPONSE = 128;
const ADDRESS_BYTES = 12;
const MAP_BYTES = 16;
/** RFC 6886 section 3.5. */
const RESULTS: readonly string[] = [
  "success",
  "unsupported version",
  "not authorised",
  "network failure",
  "no resources",
  "unsupported opcode",
];

/** Every field of the opcode is overwritten when the result is `Drop.NONE`; after a refusal only opcode, result and epoch hold. */
export class NatPmpResponse {
  opcode = 0;
  /** 0 = success, see natPmpResultText() */
  result = 0;
  epochSeconds = 0;
  /** Dotted IPv4. */
  externalAddress = "";
  internalPort = 0;
  externalPort = 0;
  lifetimeSeconds = 0;
}

export function encodeNatPmpAddress(): Uint8Array {
  return Uint8Array.of(0, NatPmpOpcode.ADDRESS);
}

/** @param lifetimeSeconds 0 deletes; then the external port must be 0 */
export function encodeNatPmpMap(internalPort: number, externalPort: number, lifetimeSeconds: number): Uint8Array {
  const out = new Uint8Array(12);
  const view = new DataView(out.buffer);
  out[1] = NatPmpOpcode.MAP_UDP;
  view.setUint16(4, internalPort);
  view.setUint16(6, externalPort);
  view.setUint32(8, lifetimeSeconds);
  return out;
}

/** @param bytes a whole datagram from the gateway; anything may be in it @returns SHORT, BAD_TYPE or NONE */
export function decodeNatPmp(bytes: Uint8Array, out: NatPmpResponse): Drop {
  if (bytes.length < 8) return Drop.SHORT;
  const opcode = bytes[1] - RESPONSE;
  if (bytes[0] !== 0 || (opcode !== NatPmpOpcode.ADDRESS && opcode !== NatPmpOpcode.MAP_UDP)) return Drop.BAD_TYPE;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const result = view.getUint16(2);
  if (result === 0 && bytes.length < (opcode === NatPmpOpcode.ADDRESS ? ADDRESS_BYTES : MAP_BYTES)) return Drop.SHORT;
  out.opcode = opcode;
  out.result = result;
  out.epochSeconds = view.getUint32(4);
  if (result !== 0) return Drop.NONE;
  if (opcode === NatPmpOpcode.ADDRESS) {
    out.externalAddress = `${bytes[8]}.${bytes[9]}.${bytes[10]}.${bytes[11]}`;
  } else {
    out.internalPort = view.getUint16(8);
    out.externalPort = view.getUint16(10);
    out.lifetimeSeconds = view.getUint32(12);
  }
  return Drop.NONE;
}

export function natPmpResultText(result: number): string {
  return RESULTS[result] ?? `result ${result}`;
}
