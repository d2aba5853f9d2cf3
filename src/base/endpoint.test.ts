import assert from "node:assert/strict";
import { test } from "node:test";
import {
  endpointFromBytes,
  endpointToBytes,
  formatEndpoint,
  isVirtualAddress,
  parseEndpoint,
  VirtualType,
  virtualEndpoint,
  virtualOf,
} from "./endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, readName, writeName } from "./name.ts";

test("a virtual endpoint is read as it was made, and has a name for people", () => {
  for (const id of [0, 1, 0x7fff_ffff, 0xffff_fffe]) {
    for (const type of [VirtualType.LABEL, VirtualType.CHANNEL]) {
      for (const pathKind of [1, 2]) {
        const bytes = virtualEndpoint(type, pathKind, id);
        assert.equal(bytes.length, 18);
        assert.ok(isVirtualAddress(bytes));
        assert.deepEqual(virtualOf(bytes), { type, pathKind, id });
        const kind = type === VirtualType.CHANNEL ? "channel" : pathKind === 1 ? "relay" : "transit";
        assert.equal(formatEndpoint(endpointFromBytes(bytes)), `${kind}#${id}`);
      }
    }
  }
});

test("no other address is virtual, and the name of a virtual one is no address to dial", () => {
  for (const text of ["1.2.3.4:5", "[::1]:5", "[100:0:0:1::1]:5", "[2001:db8::100]:443", "0.1.0.0:1"]) {
    const bytes = endpointToBytes(parseEndpoint(text)!);
    assert.equal(isVirtualAddress(bytes), false, text);
    assert.equal(virtualOf(bytes), undefined);
    assert.equal(formatEndpoint(endpointFromBytes(bytes)), text);
  }
  const malformed = endpointToBytes(parseEndpoint("[100::9]:1")!);
  assert.ok(isVirtualAddress(malformed), "the whole prefix is refused from a wire");
  assert.equal(virtualOf(malformed), undefined);
  assert.equal(formatEndpoint(endpointFromBytes(malformed)), "[100::9]:1");
  assert.equal(parseEndpoint("relay#7"), undefined);
});

test("a name block says by its family which kind of way it is", () => {
  const u8 = new Uint8Array(NAME_BYTES + 8).fill(0xaa);
  const familyOf = (endpoint: Uint8Array): number => {
    writeName(u8, endpoint, 8);
    assert.deepEqual(readName(u8, 8), endpoint);
    return u8[8 + NAME_FAMILY];
  };
  assert.equal(familyOf(endpointToBytes(parseEndpoint("1.2.3.4:5555")!)), 4);
  assert.equal(familyOf(endpointToBytes(parseEndpoint("[2001:db8::1]:5555")!)), 6);
  assert.equal(familyOf(virtualEndpoint(VirtualType.LABEL, 2, 5)), VirtualType.LABEL);
  assert.equal(familyOf(virtualEndpoint(VirtualType.CHANNEL, 1, 5)), VirtualType.CHANNEL);
});
