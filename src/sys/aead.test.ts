import assert from "node:assert/strict";
import { createCipheriv } from "node:crypto";
import { describe, it } from "node:test";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { Slab } from "../base/slab.ts";
import { CIPHER_NAMES, Cipher } from "../session/types.ts";
import { AEAD_VECTORS, checkVectors } from "./aead-self-test.ts";
import { AEAD_TAG_BYTES, createAead, measureCiphers } from "./aead.ts";
import { SysError } from "./errno.ts";

const MAX_BYTES = 65_000;
const ciphers = [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305];
const slab = new Slab(1 << 19);
const aead = createAead({ slab });
const first = slab.allocate(MAX_BYTES + AEAD_TAG_BYTES);
const second = slab.allocate(MAX_BYTES + AEAD_TAG_BYTES);

function reference(cipher: Cipher, key: Uint8Array, low: number, high: number, plain: Uint8Array): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32LE(low, 4);
  nonce.writeUInt32LE(high, 8);
  const options = { authTagLength: AEAD_TAG_BYTES };
  const sealer =
    cipher === Cipher.AES_256_GCM
      ? createCipheriv("aes-256-gcm", key, nonce, options)
      : createCipheriv("chacha20-poly1305", key, nonce, options);
  return Buffer.concat([sealer.update(plain), sealer.final(), sealer.getAuthTag()]);
}

/** Bytes that differ at every position and from run to run, cheaper than letting fast-check make 65,000. */
function pattern(bytes: number, seed: number): Uint8Array {
  const out = new Uint8Array(bytes);
  let state = seed >>> 0;
  for (let i = 0; i < bytes; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = state >>> 24;
  }
  return out;
}

const u32 = fc.integer({ min: 0, max: 0xffffffff });
const packet = fc.record({
  key: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  low: u32,
  high: u32,
  bytes: fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: MAX_BYTES })),
  seed: u32,
  inPlace: fc.boolean(),
});

describe("AEAD", () => {
  it("answers the published vectors", () => {
    assert.equal(AEAD_VECTORS.length, 3);
    checkVectors();
  });

  it("refuses to start when a vector does not come out", () => {
    for (const vector of AEAD_VECTORS) {
      const wrong = { ...vector, tag: `00${vector.tag.slice(2)}` };
      assert.throws(
        () => checkVectors([wrong]),
        (error) => error instanceof SysError && error.code === "SELF_TEST",
      );
    }
  });

  for (const cipher of ciphers) {
    const name = CIPHER_NAMES[cipher];

    it(`${name} seals as node:crypto does and opens what it sealed, in place and apart`, () => {
      fc.assert(
        fc.property(packet, ({ key, low, high, bytes, seed, inPlace }) => {
          const plain = pattern(bytes, seed);
          const target = inPlace ? first : second;
          const seal = aead.create(cipher, key, "seal");
          const open = aead.create(cipher, key, "open");
          slab.u8.set(plain, first);
          aead.seal(seal, low, high, first, bytes, target);
          const sealed = Buffer.from(slab.u8.slice(target, target + bytes + AEAD_TAG_BYTES));
          assert.ok(sealed.equals(reference(cipher, key, low, high, plain)));
          const back = inPlace ? target : first;
          slab.u8.fill(0, first, inPlace ? first : first + bytes);
          assert.equal(aead.open(open, low, high, target, bytes, back), true);
          assert.ok(Buffer.from(slab.u8.slice(back, back + bytes)).equals(plain));
          aead.destroy(seal);
          aead.destroy(open);
        }),
        { numRuns: 60 },
      );
    });

    it(`${name} drops a packet with any bit of it, its tag, its counter or its key changed`, () => {
      fc.assert(
        fc.property(packet, fc.nat(), fc.nat(7), (sample, position, bit) => {
          const bytes = Math.min(sample.bytes, 2000);
          const { key, low, high } = sample;
          const seal = aead.create(cipher, key, "seal");
          const open = aead.create(cipher, key, "open");
          const otherKey = Uint8Array.from(key);
          otherKey[position % 32] = otherKey[position % 32] ^ (1 << bit);
          const other = aead.create(cipher, otherKey, "open");
          slab.u8.set(pattern(bytes, sample.seed), first);
          aead.seal(seal, low, high, first, bytes, first);
          assert.equal(aead.open(open, (low ^ (1 << bit)) >>> 0, high, first, bytes, second), false);
          assert.equal(aead.open(open, low, (high ^ (1 << bit)) >>> 0, first, bytes, second), false);
          assert.equal(aead.open(other, low, high, first, bytes, second), false);
          const at = first + (position % (bytes + AEAD_TAG_BYTES));
          slab.u8[at] = slab.u8[at] ^ (1 << bit);
          assert.equal(aead.open(open, low, high, first, bytes, second), false);
          slab.u8[at] = slab.u8[at] ^ (1 << bit);
          assert.equal(
            aead.open(open, low, high, first, bytes, second),
            true,
            "a forgery spoils nothing that comes after it",
          );
          for (const handle of [seal, open, other]) aead.destroy(handle);
        }),
        { numRuns: 60 },
      );
    });

    it(`${name} seals and opens an empty packet`, () => {
      const key = new Uint8Array(32).fill(9);
      const seal = aead.create(cipher, key, "seal");
      const open = aead.create(cipher, key, "open");
      aead.seal(seal, 1, 0, first, 0, first);
      assert.deepEqual(Buffer.from(slab.u8.slice(first, first + 16)), reference(cipher, key, 1, 0, new Uint8Array(0)));
      assert.equal(aead.open(open, 1, 0, first, 0, second), true);
      aead.destroy(seal);
      aead.destroy(open);
    });
  }

  it("writes nothing outside ciphertext and tag", () => {
    const seal = aead.create(Cipher.AES_256_GCM, new Uint8Array(32), "seal");
    slab.u8.fill(0xee, second, second + 200);
    aead.seal(seal, 0, 0, first, 50, second + 16);
    assert.ok(slab.u8.subarray(second, second + 16).every((byte) => byte === 0xee));
    assert.ok(slab.u8.subarray(second + 16 + 50 + 16, second + 200).every((byte) => byte === 0xee));
    aead.destroy(seal);
  });

  it("never uses a destroyed context", () => {
    const key = new Uint8Array(32);
    const seal = aead.create(Cipher.AES_256_GCM, key, "seal");
    const open = aead.create(Cipher.AES_256_GCM, key, "open");
    aead.destroy(seal);
    aead.destroy(open);
    assert.throws(() => aead.seal(seal, 0, 0, first, 16, first), RangeError);
    assert.equal(aead.open(open, 0, 0, first, 16, first), false);
    assert.throws(() => aead.destroy(seal), RangeError);
    assert.throws(() => aead.seal(0, 0, 0, first, 16, first), RangeError);
  });

  it("refuses other ciphers and key lengths", () => {
    assert.throws(() => aead.create(3, new Uint8Array(32), "seal"), RangeError);
    assert.throws(() => aead.create(0, new Uint8Array(32), "seal"), RangeError);
    assert.throws(() => aead.create(Cipher.AES_256_GCM, new Uint8Array(16), "seal"), RangeError);
  });

  it("leaves no key behind in the slab", () => {
    const key = pattern(32, 12345);
    const own = new Slab(16_384);
    const port = createAead({ slab: own });
    port.create(Cipher.CHACHA20_POLY1305, key, "seal");
    assert.equal(Buffer.from(own.buffer).indexOf(key), -1);
    port.close();
  });

  it("works beside another one in a worker thread", async () => {
    const aeadUrl = new URL("./aead.ts", import.meta.url).href;
    const slabUrl = new URL("../base/slab.ts", import.meta.url).href;
    const code = `
      const { parentPort } = require("node:worker_threads");
      Promise.all([import(${JSON.stringify(aeadUrl)}), import(${JSON.stringify(slabUrl)})]).then(([{ createAead }, { Slab }]) => {
        const slab = new Slab(8192);
        const aead = createAead({ slab });
        const at = slab.allocate(64);
        aead.seal(aead.create(1, new Uint8Array(32), "seal"), 7, 0, at, 16, at);
        const sealed = slab.u8.slice(at, at + 32);
        aead.close();
        parentPort.postMessage(sealed);
      });`;
    const worker = new Worker(code, { eval: true });
    const sealed = await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    assert.deepEqual(
      Buffer.from(sealed as Uint8Array),
      reference(Cipher.AES_256_GCM, new Uint8Array(32), 7, 0, new Uint8Array(16)),
    );
    await worker.terminate();
  });

  it("measures which cipher is the faster one", () => {
    const speeds = measureCiphers();
    assert.ok(speeds.aesMs > 0 && speeds.chachaMs > 0);
    assert.equal(speeds.hardwareAes, speeds.aesMs < speeds.chachaMs);
  });
});
