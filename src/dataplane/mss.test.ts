import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { completeTransportChecksum, pseudoHeaderSum, transportChecksumOk } from "../wire/checksum.ts";
import { clampSyn } from "./mss.ts";
import type { PeerState } from "./peer.ts";

const peer = (maxPacketBytes: number, active = 0): PeerState =>
  ({ maxPacketBytes, paths: { active } }) as unknown as PeerState;

/** A TCP segment with an MSS option, its checksum complete. */
function segment(family: 4 | 6, flags: number, mss: number): { u8: Uint8Array; view: DataView; ipBytes: number } {
  const ipBytes = family === 4 ? 20 : 40;
  const u8 = new Uint8Array(ipBytes + 24);
  const view = new DataView(u8.buffer);
  if (family === 4) {
    u8.set([0x45, 0, 0, u8.length, 0, 1, 0x40, 0, 64, 6]);
    u8.set([100, 64, 0, 1, 100, 64, 0, 2], 12);
  } else {
    u8.set([0x60, 0, 0, 0, 0, 24, 6, 64]);
    for (let i = 8; i < 40; i++) u8[i] = i;
  }
  u8.set([0x12, 0x34, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0x60, flags, 0xff, 0xff, 0, 0, 0, 0, 2, 4], ipBytes);
  view.setUint16(ipBytes + 22, mss);
  view.setUint16(ipBytes + 16, pseudoHeaderSum(view, 0, 6, 24));
  completeTransportChecksum(u8, view, 0, ipBytes, 24, 6);
  assert.ok(transportChecksumOk(u8, view, 0, ipBytes, 24, 6));
  return { u8, view, ipBytes };
}

test("a SYN and a SYN-ACK promise no more than the path takes, and their checksums stay right", () => {
  fc.assert(
    fc.property(
      fc.constantFrom<4 | 6>(4, 6),
      fc.constantFrom(0x02, 0x12),
      fc.integer({ min: 500, max: 65_535 }),
      fc.integer({ min: 1_200, max: 9_000 }),
      (family, flags, mss, fits) => {
        const { u8, view, ipBytes } = segment(family, flags, mss);
        clampSyn(view, 0, ipBytes, u8.length, false, peer(fits));
        const room = (family === 6 ? Math.max(1_280, fits) : fits) - ipBytes - 20;
        assert.equal(view.getUint16(ipBytes + 22), Math.min(mss, room));
        assert.ok(transportChecksumOk(u8, view, 0, ipBytes, 24, 6));
      },
    ),
  );
});

test("without a path, in a fragment, or cut off, nothing is changed", () => {
  const { u8, view, ipBytes } = segment(4, 0x02, 9_000);
  const before = u8.slice();
  clampSyn(view, 0, ipBytes, u8.length, false, peer(1_280, -1));
  clampSyn(view, 0, ipBytes, u8.length - 1, false, peer(1_280));
  clampSyn(view, 0, ipBytes, ipBytes + 10, false, peer(1_280));
  assert.deepEqual(u8, before);
  view.setUint16(6, 1);
  before.set(u8);
  clampSyn(view, 0, ipBytes, u8.length, false, peer(1_280));
  assert.deepEqual(u8, before);
});
