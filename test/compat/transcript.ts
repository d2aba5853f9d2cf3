/**
 * A whole handshake from fixed secrets, as bytes: init with mac1 and mac2, response, keys. The responder's side reads what the initiator's wrote and
 * the other way round, so a transcript that exists was understood by both.
 */
import { concat, equal } from "../../src/base/bytes.ts";
import { cookieKey, mac16, macKey, openCookie, sealCookie } from "../../src/crypto/cookie.ts";
import { hybridKeys } from "../../src/crypto/hybrid.ts";
import { NoiseInitiator, NoiseResponder } from "../../src/crypto/noise.ts";
import { X25519KeyPair } from "../../src/crypto/x25519.ts";
import { utf8 } from "../../src/base/bytes.ts";
import {
  decodePayload,
  encodeCookieReply,
  encodeInit,
  encodePayload,
  encodeResponse,
  type HandshakePayload,
  writeMacs,
} from "../../src/session/handshake.ts";
import {
  INIT_EPHEMERAL,
  INIT_MAC1,
  MAC_BYTES,
  RESPONSE_EPHEMERAL,
  RESPONSE_MAC1,
} from "../../src/wire/handshake-sizes.ts";

export interface HandshakeInputs {
  readonly networkId: Uint8Array;
  readonly psk: Uint8Array;
  /** Secrets, 32 bytes each: static and ephemeral keys of initiator and responder. */
  readonly initiator: Uint8Array;
  readonly responder: Uint8Array;
  readonly initiatorEphemeral: Uint8Array;
  readonly responderEphemeral: Uint8Array;
  readonly initiatorIndex: number;
  readonly responderIndex: number;
  readonly initiatorPayload: HandshakePayload;
  readonly responderPayload: HandshakePayload;
  /** Of the ML-KEM exchange, as if it had happened. */
  readonly kemPublicKey: Uint8Array;
  readonly kemCiphertext: Uint8Array;
  readonly kemSecret: Uint8Array;
  readonly cookieSalt: Uint8Array;
  readonly cookie: Uint8Array;
}

export function handshakeTranscript(inputs: HandshakeInputs): { bytes: Uint8Array; reading: unknown } {
  const prologue = concat(utf8("weft/1"), inputs.networkId);
  const responderStatic = new X25519KeyPair(inputs.responder);
  const initiatorStatic = new X25519KeyPair(inputs.initiator);
  const one = new NoiseInitiator(prologue, initiatorStatic, responderStatic.publicKey, inputs.initiatorEphemeral);
  const init = encodeInit(inputs.initiatorIndex, must(one.writeInit(encodePayload(inputs.initiatorPayload)), "init"));
  writeMacs(init, macKey(responderStatic.publicKey), undefined);
  const mac1 = init.slice(INIT_MAC1, INIT_MAC1 + MAC_BYTES);
  const sealed = sealCookie(cookieKey(responderStatic.publicKey), inputs.cookieSalt, mac1, inputs.cookie);
  const reply = encodeCookieReply(inputs.initiatorIndex, inputs.cookieSalt, sealed);
  const cookie = must(openCookie(cookieKey(responderStatic.publicKey), inputs.cookieSalt, mac1, sealed), "the cookie");
  const again = init.slice();
  writeMacs(again, macKey(responderStatic.publicKey), cookie);

  const two = new NoiseResponder(prologue, responderStatic);
  const noise = again.subarray(INIT_EPHEMERAL, INIT_MAC1);
  const seen = must(two.readInitStatic(noise), "the static key");
  if (!equal(seen, initiatorStatic.publicKey)) throw new Error("another static key");
  const initPayload = decodePayload(must(two.readInitPayload(noise), "the init's payload"));
  const answer = encodeResponse(
    inputs.responderIndex,
    inputs.initiatorIndex,
    must(two.writeResponse(encodePayload(inputs.responderPayload), inputs.psk, inputs.responderEphemeral), "response"),
  );
  writeMacs(answer, macKey(initiatorStatic.publicKey), undefined);
  const responsePayload = decodePayload(
    must(one.readResponse(answer.subarray(RESPONSE_EPHEMERAL, RESPONSE_MAC1), inputs.psk), "the response"),
  );
  const keys = [one, two].map((side) => {
    const exporter = side.exportSecret(utf8("weft exporter"));
    const transcript = side.handshakeHash();
    const classic = side.split();
    const hybrid = hybridKeys(transcript, inputs.kemPublicKey, inputs.kemCiphertext, exporter, inputs.kemSecret);
    return concat(
      classic.initiatorToResponder,
      classic.responderToInitiator,
      hybrid.initiatorToResponder,
      hybrid.responderToInitiator,
    );
  });
  if (!equal(keys[0], keys[1])) throw new Error("the two sides have different keys");
  return {
    bytes: concat(init, reply, again, answer, keys[0], mac16(cookie, mac1)),
    reading: { initPayload, responsePayload },
  };
}

function must<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`${what} does not authenticate`);
  return value;
}
