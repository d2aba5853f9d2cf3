import assert from "node:assert/strict";
import { test } from "node:test";
import { ed25519, x25519, ED25519_TORSION_SUBGROUP } from "@noble/curves/ed25519.js";
import fc from "fast-check";
import { fromHex, toHex } from "../base/bytes.ts";
import { WeftError } from "../base/errors.ts";
import { SeededRandom } from "../base/random.ts";
import { decodeIdentityFile, encodeIdentityFile } from "./identity-file.ts";
import { Identity, staticKeyOf, verifySignature } from "./identity.ts";
import { formatNodeId, nodeAddress, parseNodeId, shortNodeId } from "./node-id.ts";

const hex = (text: string): Uint8Array => fromHex(text) as Uint8Array;
const NETWORK = new SeededRandom(1).bytes(32);

test("the public key is that of RFC 8032, section 7.1, test 1", () => {
  const identity = new Identity(hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
  assert.equal(toHex(identity.nodeId), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
});

test("the static key pair is the same key in Montgomery form: both maps meet, and agreement works across libraries", () => {
  const random = new SeededRandom(2);
  for (let i = 0; i < 20; i++) {
    const identity = Identity.generate(random);
    assert.deepEqual(staticKeyOf(identity.nodeId), Uint8Array.from(identity.staticKeys.publicKey));
    const secret = random.bytes(32);
    const shared = identity.staticKeys.agree(x25519.getPublicKey(secret));
    assert.deepEqual(
      new Uint8Array(shared as Uint8Array),
      x25519.getSharedSecret(secret, identity.staticKeys.publicKey),
    );
  }
});

test("keys of low order, not canonical, off the curve or of another length have no static key", () => {
  for (const point of ED25519_TORSION_SUBGROUP) assert.equal(staticKeyOf(hex(point)), undefined, point);
  const identity = Identity.generate(new SeededRandom(3));
  assert.equal(staticKeyOf(identity.nodeId.subarray(1)), undefined);
  // y = p + 3 encodes the point with y = 3 a second time; p + 0 … p + 18 fit in 255 bits
  const reachable = [...Array(19).keys()].map((extra) => {
    const bytes = new Uint8Array(32).fill(0xff);
    bytes[0] = 0xed + extra;
    bytes[31] = 0x7f;
    return bytes;
  });
  for (const bytes of reachable) assert.equal(staticKeyOf(bytes), undefined, toHex(bytes));
  let refused = 0;
  const random = new SeededRandom(4);
  for (let i = 0; i < 64; i++) if (staticKeyOf(random.bytes(32)) === undefined) refused++;
  assert.ok(refused > 10 && refused < 54, "about half of all strings are no points");
});

test("a signature serves one purpose, one network and one body", () => {
  const identity = Identity.generate(new SeededRandom(5));
  const body = new Uint8Array([1, 2, 3]);
  const signature = identity.sign("statement", NETWORK, body);
  assert.ok(verifySignature(identity.nodeId, "statement", NETWORK, body, signature));
  assert.ok(!verifySignature(identity.nodeId, "statemen", NETWORK, body, signature));
  assert.ok(!verifySignature(identity.nodeId, "statement", new Uint8Array(32), body, signature));
  assert.ok(!verifySignature(identity.nodeId, "statement", NETWORK, new Uint8Array([1, 2, 4]), signature));
  assert.ok(!verifySignature(Identity.generate(new SeededRandom(6)).nodeId, "statement", NETWORK, body, signature));
  const whole = new TextEncoder().encode("weft/1 statement\0");
  const message = new Uint8Array([...whole, ...NETWORK, ...body]);
  assert.deepEqual(
    new Uint8Array(signature),
    ed25519.sign(message, identity.seed),
    "the documented bytes are what is signed",
  );
});

test("verifying anything never throws", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), fc.uint8Array({ maxLength: 70 }), (key, signature) => {
      assert.equal(verifySignature(key, "join", NETWORK, key, signature), false);
      staticKeyOf(key);
    }),
    { numRuns: 200 },
  );
});

test("a node id survives its text form, and one wrong character is noticed", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), fc.nat(55), fc.nat(30), (id, at, step) => {
      const text = formatNodeId(id);
      assert.equal(text.length, 58);
      assert.ok(text.startsWith("w1"));
      assert.equal(shortNodeId(id), text.slice(0, 8));
      assert.deepEqual(parseNodeId(text), id);
      assert.deepEqual(parseNodeId(text.toUpperCase()), id);
      const alphabet = "abcdefghijklmnopqrstuvwxyz234567";
      const other = alphabet[(alphabet.indexOf(text[2 + at]) + 1 + step) % 32];
      assert.equal(parseNodeId(text.slice(0, 2 + at) + other + text.slice(3 + at)), undefined);
      assert.equal(parseNodeId(text.slice(0, -1)), undefined);
    }),
  );
});

test("node addresses lie in the network's /48, subnet 0, and differ by node and network", () => {
  const id = new SeededRandom(7).bytes(32);
  const address = nodeAddress(NETWORK, id);
  assert.equal(address[0], 0xfd);
  assert.deepEqual(address.slice(1, 6), NETWORK.slice(0, 5));
  assert.deepEqual(address.slice(6, 8), new Uint8Array(2));
  assert.notDeepEqual(nodeAddress(NETWORK, NETWORK), address);
  const sibling = Uint8Array.from(NETWORK);
  sibling[31] = sibling[31] ^ 1;
  assert.notDeepEqual(
    nodeAddress(sibling, id).slice(8),
    address.slice(8),
    "the whole network id goes into the host part",
  );
});

test("the identity file survives, and any damage is one clear error", () => {
  const identity = Identity.generate(new SeededRandom(8));
  const text = encodeIdentityFile(identity);
  assert.deepEqual(decodeIdentityFile(text).seed, identity.seed);
  assert.deepEqual(decodeIdentityFile(text.replaceAll("\n", "\r\n")).nodeId, identity.nodeId);
  const damaged = (bad: string): void =>
    assert.throws(
      () => decodeIdentityFile(bad),
      (error) => error instanceof WeftError && error.code === "IDENTITY_DAMAGED" && error.remedy !== "",
    );
  const start = text.indexOf("weft identity");
  for (let at = start; at < text.length - 1; at++) {
    const replacement = text[at] === "a" ? "b" : "a";
    damaged(text.slice(0, at) + replacement + text.slice(at + 1));
  }
  for (let length = 0; length < text.length - 1; length += 7) damaged(text.slice(0, length));
  damaged("");
  const other = encodeIdentityFile(Identity.generate(new SeededRandom(9))).split("\n");
  damaged(
    text
      .split("\n")
      .map((line, i) => (line.startsWith("id ") ? other[i] : line))
      .join("\n"),
  );
});
