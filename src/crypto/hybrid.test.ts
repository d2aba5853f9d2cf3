import assert from "node:assert/strict";
import { test } from "node:test";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 as oracle } from "@noble/hashes/sha2.js";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import fc from "fast-check";
import { concat, fromHex, toHex, utf8 } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import { chachaOpen, chachaSeal } from "./chacha.ts";
import { cookieKey, macKey, openCookie, sealCookie } from "./cookie.ts";
import { hybridKeys, KEM_CIPHERTEXT_BYTES, KEM_PUBLIC_KEY_BYTES, kemEncapsulate, KemKeyPair } from "./hybrid.ts";
import { hkdfSha256 } from "./kdf.ts";
import { constantTimeEqual, zeroise } from "./secret.ts";

const hex = (text: string): Uint8Array => fromHex(text) as Uint8Array;
const random = new SeededRandom(11);

test("HKDF-SHA256 gives RFC 5869, test case 1", () => {
  const ikm = new Uint8Array(22).fill(0x0b);
  const okm = hkdfSha256(ikm, hex("000102030405060708090a0b0c"), hex("f0f1f2f3f4f5f6f7f8f9"), 42);
  assert.equal(toHex(okm), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
});

test("ChaCha20-Poly1305 equals an independent implementation and refuses every change", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 100 }),
      fc.uint8Array({ maxLength: 40 }),
      fc.nat(2 ** 31),
      fc.nat(),
      (text, associated, counter, at) => {
        const key = random.bytes(32);
        const nonce = new Uint8Array(12);
        new DataView(nonce.buffer).setBigUint64(4, BigInt(counter) * 4_000_001n, true);
        const sealed = chachaSeal(key, counter * 4_000_001, associated, text);
        assert.deepEqual(sealed, chacha20poly1305(key, nonce, associated).encrypt(text));
        assert.deepEqual(chachaOpen(key, counter * 4_000_001, associated, sealed), text);
        const changed = Uint8Array.from(sealed);
        changed[at % changed.length] = changed[at % changed.length] ^ 1;
        assert.equal(chachaOpen(key, counter * 4_000_001, associated, changed), undefined);
        assert.equal(chachaOpen(key, counter * 4_000_001 + 1, associated, sealed), undefined);
        assert.equal(chachaOpen(key, counter * 4_000_001, associated, sealed.subarray(1)), undefined);
      },
    ),
    { numRuns: 100 },
  );
});

test("both ends of the ratchet get the same keys, as the documented formula says", () => {
  const hash = random.bytes(32);
  const exporter = random.bytes(32);
  const pair = new KemKeyPair(random);
  assert.equal(pair.publicKey.length, KEM_PUBLIC_KEY_BYTES);
  const result = kemEncapsulate(pair.publicKey);
  assert.ok(result !== undefined && result.ciphertext.length === KEM_CIPHERTEXT_BYTES);
  const secret = pair.decapsulate(result.ciphertext) as Uint8Array;
  assert.deepEqual(secret, result.secret);
  const keys = hybridKeys(hash, pair.publicKey, result.ciphertext, exporter, secret);
  const salt = concat(hash, oracle(concat(pair.publicKey, result.ciphertext)));
  const expected = hkdf(oracle, concat(exporter, secret), salt, utf8("weft hybrid v1"), 64);
  assert.deepEqual(concat(keys.initiatorToResponder, keys.responderToInitiator), expected);
});

test("the same seed gives the same ML-KEM key pair", () => {
  assert.deepEqual(new KemKeyPair(new SeededRandom(5)).publicKey, new KemKeyPair(new SeededRandom(5)).publicKey);
});

test("wrong ciphertexts and keys never throw: another secret, or nothing", () => {
  const pair = new KemKeyPair(random);
  const result = kemEncapsulate(pair.publicKey);
  assert.ok(result !== undefined);
  const changed = Uint8Array.from(result.ciphertext);
  changed[100] = changed[100] ^ 1;
  assert.notDeepEqual(pair.decapsulate(changed), result.secret);
  assert.equal(pair.decapsulate(changed.subarray(1)), undefined);
  assert.equal(
    kemEncapsulate(new Uint8Array(KEM_PUBLIC_KEY_BYTES).fill(0xff)),
    undefined,
    "coefficients above the modulus",
  );
  assert.equal(kemEncapsulate(new Uint8Array(10)), undefined);
});

test("a cookie opens only for the message, the key and the salt it was made for", () => {
  const key = cookieKey(random.bytes(32));
  const [salt, mac1, cookie] = [random.bytes(16), random.bytes(16), random.bytes(16)];
  const sealed = sealCookie(key, salt, mac1, cookie);
  assert.equal(sealed.length, 32);
  assert.deepEqual(openCookie(key, salt, mac1, sealed), cookie);
  assert.equal(openCookie(key, salt, random.bytes(16), sealed), undefined);
  assert.equal(openCookie(key, random.bytes(16), mac1, sealed), undefined);
  assert.equal(openCookie(macKey(random.bytes(32)), salt, mac1, sealed), undefined);
});

test("secrets compare by value and are overwritten", () => {
  const secret = new Uint8Array([1, 2, 3]);
  assert.ok(constantTimeEqual(secret, new Uint8Array([1, 2, 3])));
  assert.ok(!constantTimeEqual(secret, new Uint8Array([1, 2, 4])));
  assert.ok(!constantTimeEqual(secret, new Uint8Array([1, 2])));
  zeroise(undefined, secret);
  assert.deepEqual(secret, new Uint8Array(3));
});
