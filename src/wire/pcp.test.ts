import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Drop } from "../base/drop.ts";
import { endpointFromBytes, endpointToBytes, parseAddress } from "../base/endpoint.ts";
import { decodeNatPmp, encodeNatPmpAddress, encodeNatPmpMap, NatPmpOpcode, NatPmpResponse } from "./nat-pmp.ts";
import { decodePcpMap, encodePcpMap, PcpMapResponse, PcpResult, pcpResultText } from "./pcp.ts";

const hex = (text: string): Uint8Array => Uint8Array.fromHex(text.replaceAll(/\s+/g, ""));
const NONCE = hex("0102030405060708090a0b0c");
const CLIENT = parseAddress("192.168.1.7") as Uint8Array;

/** Laid out by hand after RFC 6887 figures 2, 3, 9 and 10. */
const REQUEST = hex(`
  02 01 0000 00001c20 00000000000000000000ffffc0a80107
  0102030405060708090a0b0c 11 000000 247a 247a 00000000000000000000ffff00000000`);
const RESPONSE = hex(`
  02 81 00 00 00000e10 0000002a 000000000000000000000000
  0102030405060708090a0b0c 11 000000 247a 9c40 00000000000000000000ffffc6336405`);

test("a PCP map request has the layout of RFC 6887", () => {
  const suggested = endpointToBytes({ address: "0.0.0.0", port: 9338 });
  const request = { nonce: NONCE, client: CLIENT, internalPort: 9338, suggested, lifetimeSeconds: 7200 };
  assert.equal(encodePcpMap(request).toHex(), REQUEST.toHex());
  const noWish = encodePcpMap({ ...request, suggested: undefined });
  assert.equal(noWish.subarray(42).toHex(), "000000000000000000000000ffff00000000");
  const six = parseAddress("2001:db8::7") as Uint8Array;
  assert.equal(
    encodePcpMap({ ...request, client: six, suggested: undefined })
      .subarray(42)
      .toHex(),
    "00".repeat(18),
  );
});

test("a PCP map response tells the external endpoint, the lifetime and the epoch", () => {
  const out = new PcpMapResponse();
  assert.equal(decodePcpMap(RESPONSE, out), Drop.NONE);
  assert.equal(out.result, PcpResult.SUCCESS);
  assert.equal(out.lifetimeSeconds, 3600);
  assert.equal(out.epochSeconds, 42);
  assert.deepEqual(out.nonce, NONCE);
  assert.equal(out.internalPort, 9338);
  assert.deepEqual(endpointFromBytes(out.external), { address: "198.51.100.5", port: 40000 });
});

test("a gateway that speaks NAT-PMP only is recognised by its answer", () => {
  const out = new PcpMapResponse();
  assert.equal(decodePcpMap(hex("0081 0001 0000002a"), out), Drop.NONE);
  assert.equal(out.version, 0);
  assert.equal(out.result, PcpResult.UNSUPPORTED_VERSION);
});

test("PCP refusals have a name, and malformed answers a reason", () => {
  const out = new PcpMapResponse();
  const refused = RESPONSE.slice();
  refused[3] = 8;
  assert.equal(decodePcpMap(refused, out), Drop.NONE);
  assert.equal(pcpResultText(out.result), "no resources");
  assert.equal(pcpResultText(99), "result 99");
  assert.equal(decodePcpMap(RESPONSE.subarray(0, 56), out), Drop.SHORT);
  assert.equal(decodePcpMap(new Uint8Array(3), out), Drop.SHORT);
  assert.equal(decodePcpMap(REQUEST, out), Drop.BAD_TYPE);
  const tcp = RESPONSE.slice();
  tcp[36] = 6;
  assert.equal(decodePcpMap(tcp, out), Drop.BAD_TYPE);
});

test("NAT-PMP requests and responses have the layout of RFC 6886", () => {
  assert.equal(encodeNatPmpAddress().toHex(), "0000");
  assert.equal(encodeNatPmpMap(9338, 9338, 7200).toHex(), "00010000247a247a00001c20");
  const out = new NatPmpResponse();
  assert.equal(decodeNatPmp(hex("0080 0000 0000002a c6336405"), out), Drop.NONE);
  assert.equal(out.opcode, NatPmpOpcode.ADDRESS);
  assert.equal(out.externalAddress, "198.51.100.5");
  assert.equal(decodeNatPmp(hex("0081 0000 0000002b 247a 9c40 00000e10"), out), Drop.NONE);
  assert.deepEqual(
    [out.internalPort, out.externalPort, out.lifetimeSeconds, out.epochSeconds],
    [9338, 40000, 3600, 43],
  );
  assert.equal(decodeNatPmp(hex("0081 0002 0000002b"), out), Drop.NONE);
  assert.equal(out.result, 2);
  assert.equal(decodeNatPmp(hex("0081 0000 0000002b"), out), Drop.SHORT);
  assert.equal(decodeNatPmp(hex("0281 0000 0000002b"), out), Drop.BAD_TYPE);
});

test("no bytes make the decoders throw", () => {
  const pcp = new PcpMapResponse();
  const pmp = new NatPmpResponse();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      decodePcpMap(bytes, pcp);
      decodeNatPmp(bytes, pmp);
    }),
  );
});
