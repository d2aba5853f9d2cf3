import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { concat, equal, toHex } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import { chachaSeal } from "./chacha.ts";
import { NOISE_INIT_OVERHEAD, NOISE_NAME, NOISE_RESPONSE_OVERHEAD, NoiseInitiator, NoiseResponder } from "./noise.ts";
import { X25519KeyPair } from "./x25519.ts";

interface Vector {
  readonly protocol_name: string;
  readonly init_prologue: string;
  readonly init_psks: readonly string[];
  readonly init_static: string;
  readonly init_ephemeral: string;
  readonly resp_static: string;
  readonly resp_ephemeral: string;
  readonly messages: readonly { readonly payload: string; readonly ciphertext: string }[];
}

const file = new URL("../../test/vectors/noise-ikpsk2.json", import.meta.url);
const { vectors } = JSON.parse(readFileSync(file, "utf8")) as { vectors: Vector[] };
const hex = (text: string): Uint8Array => Uint8Array.fromHex(text);
const EMPTY = new Uint8Array(0);

function pair(vector: Vector): {
  initiator: NoiseInitiator;
  responder: NoiseResponder;
  initiatorStatic: X25519KeyPair;
} {
  const initiatorStatic = new X25519KeyPair(hex(vector.init_static));
  const responderStatic = new X25519KeyPair(hex(vector.resp_static));
  const prologue = hex(vector.init_prologue);
  return {
    initiatorStatic,
    initiator: new NoiseInitiator(prologue, initiatorStatic, responderStatic.publicKey, hex(vector.init_ephemeral)),
    responder: new NoiseResponder(prologue, responderStatic),
  };
}

test("the published vectors of this pattern come out byte for byte, both sides", () => {
  const mine = vectors.filter((vector) => vector.protocol_name === NOISE_NAME);
  assert.ok(mine.length >= 1);
  for (const vector of mine) {
    const psk = hex(vector.init_psks[0]);
    const { initiator, responder, initiatorStatic } = pair(vector);
    const [first, second, ...transport] = vector.messages;
    assert.ok(first !== undefined && second !== undefined);

    const init = initiator.writeInit(hex(first.payload));
    assert.equal(toHex(init as Uint8Array), first.ciphertext);
    assert.deepEqual(
      toHex(responder.readInitStatic(init as Uint8Array) as Uint8Array),
      toHex(initiatorStatic.publicKey),
    );
    assert.equal(toHex(responder.readInitPayload(init as Uint8Array) as Uint8Array), first.payload);

    const response = responder.writeResponse(hex(second.payload), psk, hex(vector.resp_ephemeral));
    assert.equal(toHex(response as Uint8Array), second.ciphertext);
    assert.equal(toHex(initiator.readResponse(response as Uint8Array, psk) as Uint8Array), second.payload);
    assert.deepEqual(initiator.handshakeHash(), responder.handshakeHash());
    assert.deepEqual(initiator.exportSecret(hex("aa")), responder.exportSecret(hex("aa")));

    const keys = initiator.split();
    assert.deepEqual(keys, responder.split());
    transport.forEach((message, i) => {
      const key = i % 2 === 0 ? keys.initiatorToResponder : keys.responderToInitiator;
      assert.equal(toHex(chachaSeal(key, i >> 1, EMPTY, hex(message.payload))), message.ciphertext);
    });
  }
});

function fresh(seed: number): { initiator: NoiseInitiator; responder: NoiseResponder; random: SeededRandom } {
  const random = new SeededRandom(seed);
  const a = new X25519KeyPair(random.bytes(32));
  const b = new X25519KeyPair(random.bytes(32));
  const prologue = random.bytes(38);
  return {
    random,
    initiator: new NoiseInitiator(prologue, a, b.publicKey, random.bytes(32)),
    responder: new NoiseResponder(prologue, b),
  };
}

test("a changed byte anywhere in the first message is refused", () => {
  const { initiator, random } = fresh(7);
  const init = initiator.writeInit(random.bytes(40)) as Uint8Array;
  assert.equal(init.length, 40 + NOISE_INIT_OVERHEAD);
  fc.assert(
    fc.property(fc.nat(init.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const changed = Uint8Array.from(init);
      changed[at] = changed[at] ^ flip;
      // bit 255 of a Curve25519 public key is ignored by X25519, but it is in the transcript
      const { responder } = fresh(7);
      const known = responder.readInitStatic(changed);
      assert.equal(known === undefined ? undefined : responder.readInitPayload(changed), undefined);
    }),
    { numRuns: 200 },
  );
});

test("a forged response leaves the initiator able to take the true one", () => {
  const { initiator, responder, random } = fresh(9);
  const psk = random.bytes(32);
  const init = initiator.writeInit(random.bytes(40)) as Uint8Array;
  responder.readInitStatic(init);
  responder.readInitPayload(init);
  const payload = random.bytes(40);
  const response = responder.writeResponse(payload, psk, random.bytes(32)) as Uint8Array;
  assert.equal(response.length, 40 + NOISE_RESPONSE_OVERHEAD);
  for (let at = 0; at < response.length; at += 5) {
    const changed = Uint8Array.from(response);
    changed[at] = changed[at] ^ 1;
    assert.equal(initiator.readResponse(changed, psk), undefined);
  }
  assert.equal(initiator.readResponse(response, random.bytes(32)), undefined, "another pre-shared key");
  assert.equal(initiator.readResponse(response.subarray(0, 40), psk), undefined, "truncated");
  assert.ok(equal(initiator.readResponse(response, psk) as Uint8Array, payload));
});

test("low-order ephemerals and statics are refused on both sides", () => {
  const lowOrder = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  ];
  const random = new SeededRandom(3);
  for (const text of lowOrder) {
    const key = hex(text);
    const own = new X25519KeyPair(random.bytes(32));
    assert.equal(own.agree(key), undefined, text);
    assert.equal(new NoiseInitiator(EMPTY, own, key, random.bytes(32)).writeInit(EMPTY), undefined);
    assert.equal(new NoiseResponder(EMPTY, own).readInitStatic(concat(key, random.bytes(104))), undefined);
    const { initiator } = fresh(4);
    initiator.writeInit(EMPTY);
    assert.equal(initiator.readResponse(concat(key, random.bytes(16)), random.bytes(32)), undefined);
  }
});
