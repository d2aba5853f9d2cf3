import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { utf8 } from "../../base/bytes.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import { decodeMailbox, encodeMailbox, type MailboxFrame, MailboxType } from "./mailbox-codec.ts";
import { MAILBOX_OVERHEAD_BYTES, openFromMailbox, sealForMailbox } from "./mailbox-seal.ts";
import { openFromOutbox, sealForOutbox } from "./seal.ts";

const random = new SeededRandom(1);
const [sender, recipient, other] = [1, 2, 3].map((seed) => Identity.generate(new SeededRandom(seed)));

test("only the recipient opens what was sealed for it, and only as from its sender", () => {
  const sealed = sealForMailbox(sender, recipient.nodeId, random, utf8("secret")) as Uint8Array;
  assert.equal(sealed.length, 6 + MAILBOX_OVERHEAD_BYTES);
  assert.deepEqual(openFromMailbox(recipient, sender.nodeId, sealed), utf8("secret"));
  assert.equal(openFromMailbox(recipient, other.nodeId, sealed), undefined);
  assert.equal(openFromMailbox(other, sender.nodeId, sealed), undefined);
  for (let at = 0; at < sealed.length; at++) {
    const forged = Uint8Array.from(sealed);
    forged[at] = forged[at] ^ 1;
    assert.equal(openFromMailbox(recipient, sender.nodeId, forged), undefined, `byte ${at}`);
  }
  assert.equal(sealForMailbox(sender, new Uint8Array(32), random, utf8("x")), undefined, "an id that is no key");
  assert.equal(openFromMailbox(recipient, new Uint8Array(32), sealed), undefined);
  assert.equal(openFromMailbox(recipient, sender.nodeId, sealed.subarray(0, 40)), undefined);
});

test("what lies in the outbox opens for its id and its node alone", () => {
  const sealed = sealForOutbox(sender.seed, random, "id", utf8("secret"));
  assert.deepEqual(openFromOutbox(sender.seed, "id", sealed), utf8("secret"));
  assert.equal(openFromOutbox(sender.seed, "other", sealed), undefined);
  assert.equal(openFromOutbox(other.seed, "id", sealed), undefined);
  assert.equal(openFromOutbox(sender.seed, "id", sealed.subarray(0, 10)), undefined);
});

test("mailbox frames come back as they were, and whatever else comes is none", () => {
  const node = fc.uint8Array({ minLength: 32, maxLength: 32 });
  const ticket = fc.uint8Array({ minLength: 16, maxLength: 16 });
  const sealed = fc.uint8Array({ minLength: MAILBOX_OVERHEAD_BYTES, maxLength: 100 });
  const frame: fc.Arbitrary<MailboxFrame> = fc.oneof(
    fc.tuple(fc.maxSafeNat(), node, sealed).map(([expiresWallMs, to, bytes]) => ({
      type: MailboxType.DEPOSIT,
      expiresWallMs,
      recipient: to,
      sealed: bytes,
    })),
    fc.tuple(fc.boolean(), ticket).map(([isKept, name]) => ({ type: MailboxType.KEPT, isKept, ticket: name })),
    fc.tuple(node, sealed).map(([from, bytes]) => ({ type: MailboxType.GIVE, sender: from, sealed: bytes })),
    ticket.map((name) => ({ type: MailboxType.TAKEN, ticket: name })),
  );
  fc.assert(fc.property(frame, (one) => assert.deepEqual(decodeMailbox(encodeMailbox(one)), one)));
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), (bytes) => {
      const one = decodeMailbox(bytes);
      if (one !== undefined) assert.deepEqual(encodeMailbox(one), bytes);
    }),
  );
});
