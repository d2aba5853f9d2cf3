/**
 * Noise_IKpsk2_25519_ChaChaPoly_SHA256 (Noise Protocol Framework, revision 34), both sides.
 *   <- s
 *   -> e, es, s, ss      ephemeral 32 ‖ sealed static 48 ‖ sealed payload n + 16
 *   <- e, ee, se, psk    ephemeral 32 ‖ sealed payload n + 16
 * The responder reads the first message in two steps, so that an unknown static key costs one agreement and leaves nothing.
 * A second message that does not authenticate leaves the initiator's state as it was: the true one may still come.
 */
import { concat, utf8 } from "../base/bytes.ts";
import { chachaOpen, chachaSeal, KEY_BYTES, TAG_BYTES } from "./chacha.ts";
import { HASH_BYTES, hkdfSha256, sha256 } from "./kdf.ts";
import { zeroise } from "./secret.ts";
import { X25519_BYTES, X25519KeyPair } from "./x25519.ts";

export const NOISE_NAME = "Noise_IKpsk2_25519_ChaChaPoly_SHA256";
/** What a first message adds to its payload: ephemeral, sealed static, tag. */
export const NOISE_INIT_OVERHEAD: number = X25519_BYTES + X25519_BYTES + TAG_BYTES + TAG_BYTES;
/** What a second message adds to its payload: ephemeral, tag. */
export const NOISE_RESPONSE_OVERHEAD: number = X25519_BYTES + TAG_BYTES;

const EMPTY = new Uint8Array(0);
const SEALED_STATIC_BYTES = X25519_BYTES + TAG_BYTES;
const INIT_PAYLOAD_AT = X25519_BYTES + SEALED_STATIC_BYTES;

/** Keys of the two directions, 32 bytes each. */
export interface TransportKeys {
  readonly initiatorToResponder: Uint8Array;
  readonly responderToInitiator: Uint8Array;
}

/** Chaining key, transcript hash and cipher state (Noise sections 5.1 and 5.2). */
class SymmetricState {
  ck: Uint8Array;
  h: Uint8Array;
  k: Uint8Array | undefined = undefined;
  n = 0;

  constructor() {
    // The protocol name is longer than 32 bytes, so it is hashed.
    this.h = sha256(utf8(NOISE_NAME));
    this.ck = Uint8Array.from(this.h);
  }

  clone(): SymmetricState {
    const copy = new SymmetricState();
    copy.ck = Uint8Array.from(this.ck);
    copy.h = Uint8Array.from(this.h);
    copy.k = this.k === undefined ? undefined : Uint8Array.from(this.k);
    copy.n = this.n;
    return copy;
  }

  mixHash(data: Uint8Array): void {
    this.h = sha256(this.h, data);
  }

  mixKey(material: Uint8Array): void {
    const out = hkdfSha256(material, this.ck, EMPTY, 2 * HASH_BYTES);
    this.#setKeys(out, HASH_BYTES);
  }

  mixKeyAndHash(material: Uint8Array): void {
    const out = hkdfSha256(material, this.ck, EMPTY, 3 * HASH_BYTES);
    this.mixHash(out.subarray(HASH_BYTES, 2 * HASH_BYTES));
    this.#setKeys(out, 2 * HASH_BYTES);
  }

  #setKeys(out: Uint8Array, keyAt: number): void {
    zeroise(this.ck, this.k);
    this.ck = out.slice(0, HASH_BYTES);
    this.k = out.slice(keyAt, keyAt + KEY_BYTES);
    this.n = 0;
    zeroise(out);
  }

  /** Every message of this pattern is sealed after a MixKey, so the key is always there. */
  seal(plaintext: Uint8Array): Uint8Array {
    const sealed = chachaSeal(this.k as Uint8Array, this.n++, this.h, plaintext);
    this.mixHash(sealed);
    return sealed;
  }

  open(sealed: Uint8Array): Uint8Array | undefined {
    const plaintext = chachaOpen(this.k as Uint8Array, this.n, this.h, sealed);
    if (plaintext === undefined) return undefined;
    this.n++;
    this.mixHash(sealed);
    return plaintext;
  }

  destroy(): void {
    zeroise(this.ck, this.k);
  }
}

/** Agreement mixed into the state. @returns false for a low-order public key */
function mixAgreement(state: SymmetricState, pair: X25519KeyPair, publicKey: Uint8Array): boolean {
  const secret = pair.agree(publicKey);
  if (secret === undefined) return false;
  state.mixKey(secret);
  zeroise(secret);
  return true;
}

/** `e` in a pattern with a psk also goes through MixKey (Noise section 9.2). */
function mixEphemeral(state: SymmetricState, ephemeral: Uint8Array): void {
  state.mixHash(ephemeral);
  state.mixKey(ephemeral);
}

function begin(prologue: Uint8Array, responderStatic: Uint8Array): SymmetricState {
  const state = new SymmetricState();
  state.mixHash(prologue);
  state.mixHash(responderStatic);
  return state;
}

/** What both sides have after the second message. */
class NoiseSide {
  protected state: SymmetricState;

  protected constructor(state: SymmetricState) {
    this.state = state;
  }

  /** Transcript hash h, 32 bytes, a copy. */
  handshakeHash(): Uint8Array {
    return Uint8Array.from(this.state.h);
  }

  /** A secret bound to this handshake: HKDF(ck, info), taken before split(). @returns 32 bytes owned by the caller */
  exportSecret(info: Uint8Array): Uint8Array {
    return hkdfSha256(this.state.ck, EMPTY, info, KEY_BYTES);
  }

  /** Transport keys, owned by the caller (Noise section 5.2, Split). */
  split(): TransportKeys {
    const out = hkdfSha256(EMPTY, this.state.ck, EMPTY, 2 * KEY_BYTES);
    const keys = { initiatorToResponder: out.slice(0, KEY_BYTES), responderToInitiator: out.slice(KEY_BYTES) };
    zeroise(out);
    return keys;
  }

  /** Overwrites the secrets; the object is of no use afterwards. */
  destroy(): void {
    this.state.destroy();
  }
}

export class NoiseInitiator extends NoiseSide {
  readonly #local: X25519KeyPair;
  readonly #ephemeral: X25519KeyPair;
  readonly #remoteStatic: Uint8Array;

  /** @param ephemeralSecret 32 fresh random bytes; the caller overwrites its own @param remoteStatic 32 bytes */
  constructor(prologue: Uint8Array, local: X25519KeyPair, remoteStatic: Uint8Array, ephemeralSecret: Uint8Array) {
    super(begin(prologue, remoteStatic));
    this.#local = local;
    this.#ephemeral = new X25519KeyPair(ephemeralSecret);
    this.#remoteStatic = remoteStatic;
  }

  /** @returns payload.length + 96 bytes, or undefined when the responder's static key is of low order */
  writeInit(payload: Uint8Array): Uint8Array | undefined {
    const state = this.state;
    mixEphemeral(state, this.#ephemeral.publicKey);
    if (!mixAgreement(state, this.#ephemeral, this.#remoteStatic)) return undefined;
    const sealedStatic = state.seal(this.#local.publicKey);
    if (!mixAgreement(state, this.#local, this.#remoteStatic)) return undefined;
    return concat(this.#ephemeral.publicKey, sealedStatic, state.seal(payload));
  }

  /** @param message anything @returns the payload, or undefined when it does not authenticate (state unchanged) */
  readResponse(message: Uint8Array, psk: Uint8Array): Uint8Array | undefined {
    if (message.length < NOISE_RESPONSE_OVERHEAD) return undefined;
    const state = this.state.clone();
    const ephemeral = message.subarray(0, X25519_BYTES);
    mixEphemeral(state, ephemeral);
    let payload: Uint8Array | undefined;
    if (mixAgreement(state, this.#ephemeral, ephemeral) && mixAgreement(state, this.#local, ephemeral)) {
      state.mixKeyAndHash(psk);
      payload = state.open(message.subarray(X25519_BYTES));
    }
    if (payload === undefined) {
      state.destroy();
      return undefined;
    }
    this.state.destroy();
    this.state = state;
    return payload;
  }
}

export class NoiseResponder extends NoiseSide {
  readonly #local: X25519KeyPair;
  #remoteStatic: Uint8Array = EMPTY;
  #remoteEphemeral: Uint8Array = EMPTY;

  constructor(prologue: Uint8Array, local: X25519KeyPair) {
    super(begin(prologue, local.publicKey));
    this.#local = local;
  }

  /** First step: who is it? @param message anything @returns the initiator's static key, 32 bytes, or undefined when forged */
  readInitStatic(message: Uint8Array): Uint8Array | undefined {
    if (message.length < NOISE_INIT_OVERHEAD) return undefined;
    const state = this.state;
    this.#remoteEphemeral = message.slice(0, X25519_BYTES);
    mixEphemeral(state, this.#remoteEphemeral);
    if (!mixAgreement(state, this.#local, this.#remoteEphemeral)) return undefined;
    const remoteStatic = state.open(message.subarray(X25519_BYTES, INIT_PAYLOAD_AT));
    if (remoteStatic === undefined) return undefined;
    this.#remoteStatic = remoteStatic;
    return remoteStatic;
  }

  /** Second step, after readInitStatic() of the same message. @returns the payload, or undefined when forged */
  readInitPayload(message: Uint8Array): Uint8Array | undefined {
    if (!mixAgreement(this.state, this.#local, this.#remoteStatic)) return undefined;
    return this.state.open(message.subarray(INIT_PAYLOAD_AT));
  }

  /** @param ephemeralSecret 32 fresh random bytes @returns payload.length + 48 bytes, or undefined for low-order keys */
  writeResponse(payload: Uint8Array, psk: Uint8Array, ephemeralSecret: Uint8Array): Uint8Array | undefined {
    const state = this.state;
    const ephemeral = new X25519KeyPair(ephemeralSecret);
    mixEphemeral(state, ephemeral.publicKey);
    if (!mixAgreement(state, ephemeral, this.#remoteEphemeral)) return undefined;
    if (!mixAgreement(state, ephemeral, this.#remoteStatic)) return undefined;
    state.mixKeyAndHash(psk);
    return concat(ephemeral.publicKey, state.seal(payload));
  }
}
