/** What the session hears of epochs whose packets come in one train. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { NAME_BYTES, NAME_FAMILY } from "../../src/base/name.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { Slab } from "../../src/base/slab.ts";
import { Inbound } from "../../src/dataplane/inbound.ts";
import { PeerState } from "../../src/dataplane/peer.ts";
import { RouteTable } from "../../src/dataplane/routes.ts";
import { Sealer } from "../../src/dataplane/sealer.ts";
import { createStatsMemory, PlaneStats } from "../../src/dataplane/stats.ts";
import { PeerPaths } from "../../src/path/peer-paths.ts";
import { EpochTable } from "../../src/session/epochs.ts";
import { Cipher, type EpochKeys } from "../../src/session/types.ts";
import { MemoryUdp, PlainAead } from "../../sim/memory-ports.ts";

const PEER = 1;
const DATAGRAM_BYTES = 36;

function keysOf(epochId: number): EpochKeys {
  const key = (): Uint8Array => new Uint8Array(32).fill(epochId);
  return {
    epochId,
    localIndex: 100 + epochId,
    remoteIndex: 100 + epochId,
    cipher: Cipher.AES_256_GCM,
    sendKey: key(),
    receiveKey: key(),
    hybrid: true,
    userData: true,
    initiator: false,
    remoteCapabilities: 0,
    remoteMtuBytes: 1_500,
  };
}

function setup(): {
  readonly inbound: Inbound;
  readonly udp: MemoryUdp;
  readonly proofs: number[];
  readonly name: Uint8Array;
  /** Keepalives under these epochs, one after the other. */
  readonly train: (epochIds: readonly number[]) => Uint8Array;
  readonly slab: Slab;
} {
  const slab = new Slab(8 << 20);
  const udp = new MemoryUdp(slab);
  const aead = new PlainAead(slab);
  const stats = new PlaneStats(createStatsMemory(4));
  const epochs = new EpochTable(aead, { maxPeers: 4 });
  const sending = new EpochTable(aead, { maxPeers: 4 });
  const sealer = new Sealer(slab, aead, sending);
  const paths = new PeerPaths({ slab, random: new SeededRandom(1) });
  const peer = new PeerState(PEER, new Uint8Array(32), paths, stats.peerRow(PEER));
  const proofs: number[] = [];
  for (const epochId of [1, 2]) {
    epochs.install(0, PEER, keysOf(epochId));
    sending.install(0, PEER, keysOf(epochId));
  }
  const inbound = new Inbound({
    slab,
    udp,
    aead,
    stats,
    epochs,
    routes: new RouteTable(4),
    local: new RouteTable(4),
    peers: [undefined, peer],
    coalescer: undefined,
    handshake: () => {},
    inner: () => {},
    transit: () => {},
    proof: (_, epoch) => proofs.push(epoch.epochId),
    arrived: () => {},
  });
  const plain = slab.allocate(64);
  const target = slab.allocate(64);
  const name = new Uint8Array(NAME_BYTES);
  name.set([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
  name[NAME_FAMILY] = 4;
  const train = (epochIds: readonly number[]): Uint8Array => {
    const bytes = new Uint8Array(epochIds.length * DATAGRAM_BYTES);
    epochIds.forEach((epochId, i) => {
      const epoch = sending.byId(PEER, epochId);
      assert.ok(epoch !== undefined && sealer.seal(epoch, plain, 0, target));
      bytes.set(slab.u8.subarray(target, target + DATAGRAM_BYTES), i * DATAGRAM_BYTES);
    });
    return bytes;
  };
  return { inbound, udp, proofs, name, train, slab };
}

test("the first packet of a new epoch behind packets of another one proves the new one", () => {
  const { inbound, udp, proofs, name, train } = setup();
  udp.incoming.push({ bytes: train([1, 1]), segmentBytes: DATAGRAM_BYTES, name });
  udp.incoming.push({ bytes: train([1, 1, 2, 2, 1]), segmentBytes: DATAGRAM_BYTES, name });
  inbound.drain(4, 1);
  assert.deepEqual(proofs, [1, 2]);
});

test("the same among packets that came inside others", () => {
  const { inbound, proofs, name, train, slab } = setup();
  const at = slab.allocate(256);
  const nameAt = slab.allocate(NAME_BYTES);
  slab.u8.set(name, nameAt);
  const bytes = train([1, 1, 2, 1]);
  slab.u8.set(bytes, at);
  for (let i = 0; i < bytes.length; i += DATAGRAM_BYTES) inbound.nested(at + i, DATAGRAM_BYTES, nameAt);
  inbound.endRun();
  assert.deepEqual(proofs, [1, 2]);
});
