/**
 * Messages for a member that is away, sealed to it, so that the member that keeps them reads nothing and forges nothing.
 *   sealed  0 ephemeral X25519 key 32 | 32 ciphertext | tag 16
 *   key     HKDF-SHA256(ikm = X25519(ephemeral, recipient) ‖ X25519(sender, recipient), salt = ephemeral key,
 *           info = "weft mailbox v1" ‖ sender's id ‖ recipient's id), nonce 0
 * The second agreement proves the sender to the recipient. Unlike sessions, this stands on X25519 alone: a keeper that stores what it was
 * given until X25519 falls can read it then. Source: docs/protocol.md, "Mailboxes".
 */
import { concat, utf8 } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import { chachaOpen, chachaSeal, KEY_BYTES, TAG_BYTES } from "../../crypto/chacha.ts";
import { type Identity, staticKeyOf } from "../../crypto/identity.ts";
import { hkdfSha256 } from "../../crypto/kdf.ts";
import { zeroise } from "../../crypto/secret.ts";
import { X25519_BYTES, X25519KeyPair } from "../../crypto/x25519.ts";

export const MAILBOX_OVERHEAD_BYTES: number = X25519_BYTES + TAG_BYTES;
const INFO = utf8("weft mailbox v1");
const NOTHING = new Uint8Array(0);

/** @param recipient 32 bytes @returns undefined when the recipient's id is no key */
export function sealForMailbox(
  sender: Identity,
  recipient: Uint8Array,
  random: Random,
  plaintext: Uint8Array,
): Uint8Array | undefined {
  const theirs = staticKeyOf(recipient);
  if (theirs === undefined) return undefined;
  const secret = random.bytes(X25519_BYTES);
  const ephemeral = new X25519KeyPair(secret);
  zeroise(secret);
  const key = keyOf(
    ephemeral.agree(theirs),
    sender.staticKeys.agree(theirs),
    ephemeral.publicKey,
    sender.nodeId,
    recipient,
  );
  if (key === undefined) return undefined;
  const sealed = concat(ephemeral.publicKey, chachaSeal(key, 0, NOTHING, plaintext));
  zeroise(key);
  return sealed;
}

/**
 * @param sender who it is said to be from
 * @param sealed anything
 * @param theirs the sender's static key, where it is at hand: finding it costs as much as opening
 * @returns undefined when that sender did not seal it for this node
 */
export function openFromMailbox(
  recipient: Identity,
  sender: Uint8Array,
  sealed: Uint8Array,
  theirs: Uint8Array | undefined = staticKeyOf(sender),
): Uint8Array | undefined {
  if (theirs === undefined || sealed.length < MAILBOX_OVERHEAD_BYTES) return undefined;
  const ephemeral = sealed.slice(0, X25519_BYTES);
  const { staticKeys, nodeId } = recipient;
  const key = keyOf(staticKeys.agree(ephemeral), staticKeys.agree(theirs), ephemeral, sender, nodeId);
  if (key === undefined) return undefined;
  const plaintext = chachaOpen(key, 0, NOTHING, sealed.subarray(X25519_BYTES));
  zeroise(key);
  return plaintext;
}

function keyOf(
  once: Uint8Array | undefined,
  lasting: Uint8Array | undefined,
  ephemeral: Uint8Array,
  sender: Uint8Array,
  recipient: Uint8Array,
): Uint8Array | undefined {
  if (once === undefined || lasting === undefined) return undefined;
  const ikm = concat(once, lasting);
  const key = hkdfSha256(ikm, ephemeral, concat(INFO, sender, recipient), KEY_BYTES);
  zeroise(ikm, once, lasting);
  return key;
}
