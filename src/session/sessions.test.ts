import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { KeptTimestamps, type PairOptions, SessionPair, type SimNode } from "../../sim/session-pair.ts";
import { compare } from "../base/bytes.ts";
import { Drop } from "../base/drop.ts";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import { InnerKind } from "../wire/data.ts";
import { MAX_UNPROVEN_JOINS } from "./responder.ts";
import { type SessionPeer, Sessions } from "./sessions.ts";
import { Capability, Cipher, type SessionOutput } from "./types.ts";

const INIT = 0x41;
const RESPONSE = 0x42;
const FROM = new Uint8Array(18).fill(7);

function connected(options: Partial<PairOptions> = {}): SessionPair {
  const pair = new SessionPair({ seed: 1, ...options });
  pair.connect(pair.a);
  pair.run(5000);
  assert.deepEqual(pair.established, options.pq === "prefer" ? [2, 2] : [1, 1]);
  return pair;
}

/** Data in both directions arrives. */
function works(pair: SessionPair): void {
  const before = pair.ledger.length;
  assert.ok(pair.send(pair.a) && pair.send(pair.b));
  pair.run(pair.nowMs + 500);
  assert.deepEqual(
    pair.ledger.slice(before).map((one) => one.opened),
    [1, 1],
  );
}

function kinds(node: SimNode, kind: SessionOutput["kind"]): SessionOutput[] {
  return node.outputs.filter((output) => output.kind === kind);
}

function sentOf(
  pair: SessionPair,
  type: number,
  from?: SimNode,
): { readonly atMs: number; readonly datagram: Uint8Array }[] {
  return (pair.recorded ?? []).filter((one) => one.datagram[0] === type && (from === undefined || one.from === from));
}

test("one exchange gives both sides the same hybrid epoch, and data flows both ways", () => {
  const pair = connected();
  for (const node of [pair.a, pair.b]) {
    const state = node.sessions.state(0, pair.nowMs);
    assert.ok(state.established && state.hybrid && !state.connecting);
    assert.equal(state.lastError, "");
    assert.equal(state.cipher, Cipher.CHACHA20_POLY1305);
    assert.equal(state.remoteMtuBytes, 1500);
  }
  assert.equal(pair.a.sessions.state(0).initiator, true);
  assert.equal(pair.b.sessions.state(0).initiator, false);
  works(pair);
});

test("under require the classic epoch is never activated and carries no user data", () => {
  const pair = connected();
  for (const node of [pair.a, pair.b]) {
    const installed = kinds(node, "install").map((output) =>
      output.kind === "install" ? [output.epoch.hybrid, output.epoch.userData] : [],
    );
    assert.deepEqual(installed, [
      [false, false],
      [true, true],
    ]);
    assert.equal(kinds(node, "activate").length, 1);
  }
});

test("under prefer data starts under the classic epoch and moves to the hybrid one, also at the next rekey", () => {
  const pair = connected({ pq: "prefer" });
  const steps = pair.a.outputs
    .filter((output) => output.kind === "established")
    .map((output) => output.kind === "established" && output.hybrid);
  assert.deepEqual(steps, [false, true]);
  works(pair);
  pair.rekey(pair.a);
  pair.run(pair.nowMs + 3000);
  const after = kinds(pair.a, "established").slice(2);
  assert.deepEqual(
    after.map((output) => output.kind === "established" && [output.hybrid, output.rekey]),
    [[true, true]],
    "no step down in between",
  );
});

test("both capabilities for hardware AES choose AES-256-GCM, one alone does not", () => {
  const aes = Capability.HYBRID | Capability.HARDWARE_AES;
  const both = connected({ capabilities: [aes, aes] });
  assert.equal(both.a.sessions.state(0).cipher, Cipher.AES_256_GCM);
  works(both);
  const one = connected({ capabilities: [aes, Capability.HYBRID] });
  assert.equal(one.b.sessions.state(0).cipher, Cipher.CHACHA20_POLY1305);
  works(one);
});

test("a peer without the hybrid exchange is refused under require and served under prefer", () => {
  const refused = new SessionPair({ seed: 2, capabilities: [0, Capability.HYBRID] });
  refused.connect(refused.b);
  refused.run(2000);
  assert.equal(refused.sending(refused.b), undefined);
  const served = new SessionPair({ seed: 2, pq: "prefer", capabilities: [0, Capability.HYBRID] });
  served.connect(served.b);
  served.run(2000);
  assert.equal(served.a.sessions.state(0).hybrid, false);
  works(served);
});

test("equal pre-shared keys connect; different ones are given up after 90 s with the reason", () => {
  const [key, other] = [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)];
  works(connected({ psk: [key, key] }));
  const pair = new SessionPair({ seed: 3, psk: [key, other] });
  pair.connect(pair.a);
  pair.run(89_000);
  assert.equal(kinds(pair.a, "failed").length, 0);
  pair.run(91_000);
  const [failed] = kinds(pair.a, "failed");
  assert.ok(failed?.kind === "failed" && /pre-shared key/.test(failed.reason), "the reason names the cause");
  assert.match(pair.a.sessions.state(0).lastError, /pre-shared key/);
});

test("without answers inits follow 1 s × 1.5 with jitter for 90 s, then it is reported; a later wish starts anew", () => {
  const pair = new SessionPair({ seed: 4 });
  pair.recorded = [];
  pair.cut.fill(1);
  pair.connect(pair.a);
  pair.connect(pair.a);
  pair.run(200_000);
  const sent = sentOf(pair, INIT);
  const distinct = new Map(sent.map((one) => [one.datagram.subarray(8, 40).toHex(), one.atMs]));
  assert.ok(sent.length > 8 && sent.length < 40, `${sent.length} inits`);
  assert.ok(distinct.size >= 5, "a fresh init takes the place of one that is too old");
  assert.ok((sent.at(-1)?.atMs ?? 0) < 90_000);
  assert.deepEqual(kinds(pair.a, "failed").length, 1);
  assert.equal(pair.a.sessions.counts().pending, 0);
  assert.equal(pair.a.sessions.nextTimeout(), Infinity, "nothing is left to do");
  pair.cut.fill(0);
  pair.connect(pair.a);
  pair.run(pair.nowMs + 1000);
  works(pair);
});

test("a new way to the peer sends the init that waits again at once; without one that waits nothing happens", () => {
  const pair = new SessionPair({ seed: 5 });
  pair.recorded = [];
  const hurry = (): void => pair.drive(pair.a, (sessions, now) => sessions.hurry(now, 0));
  hurry();
  assert.deepEqual(sentOf(pair, INIT), []);
  pair.cut.fill(1);
  pair.connect(pair.a);
  pair.run(20_000);
  const before = sentOf(pair, INIT).length;
  pair.cut.fill(0);
  hurry();
  assert.equal(sentOf(pair, INIT).length, before + 1);
  pair.run(pair.nowMs + 500);
  assert.ok(pair.a.sessions.state(0).established);
  hurry();
  assert.equal(sentOf(pair, INIT).length, before + 1);
  works(pair);
});

test("both inits at once: each side answers, and both settle on the epoch begun by the smaller id", () => {
  let bothCompleted = 0;
  for (let seed = 1; seed <= 40; seed++) {
    const pair = new SessionPair({ seed, network: { minDelayMs: 30, maxDelayMs: 60, loss: seed % 3 === 0 ? 0.1 : 0 } });
    pair.recorded = [];
    pair.connect(pair.a);
    pair.at(seed % 20, () => pair.connect(pair.b));
    pair.run(8000);
    const answered = (node: SimNode): boolean => sentOf(pair, RESPONSE, node).length > 0;
    if (pair.network.loss === 0) assert.ok(answered(pair.a) && answered(pair.b), `seed ${seed}: both answer`);
    assert.notEqual(
      pair.a.sessions.state(0).initiator,
      pair.b.sessions.state(0).initiator,
      `seed ${seed}: the sides agree`,
    );
    const hybrids = (node: SimNode): number =>
      kinds(node, "install").filter((output) => output.kind === "install" && output.epoch.hybrid).length;
    if (hybrids(pair.a) > 1 || hybrids(pair.b) > 1) {
      bothCompleted++;
      const smaller = compare(pair.a.identity.nodeId, pair.b.identity.nodeId) < 0 ? pair.a : pair.b;
      assert.ok(smaller.sessions.state(0).initiator, `seed ${seed}: the smaller id's epoch is used`);
    }
    pair.network = { ...pair.network, loss: 0 };
    works(pair);
  }
  assert.ok(bothCompleted > 10, "the case that matters did happen");
});

test("a side whose inits cannot arrive does not block the one whose can", () => {
  const pair = new SessionPair({ seed: 5, network: { minDelayMs: 30, maxDelayMs: 60 } });
  pair.tamper = (from, datagram) => (from === pair.a && datagram[0] === INIT ? undefined : datagram);
  pair.connect(pair.a);
  pair.connect(pair.b);
  pair.run(2000);
  assert.deepEqual(pair.established, [1, 1]);
  assert.equal(pair.a.sessions.state(0).connecting, false, "its own wish is fulfilled");
  works(pair);
});

test("an identical init is answered with the retained response", () => {
  const pair = new SessionPair({ seed: 6 });
  pair.recorded = [];
  pair.tamper = (from, datagram) => (from === pair.b ? undefined : datagram);
  pair.connect(pair.a);
  pair.run(600);
  const responses = sentOf(pair, RESPONSE).map((one) => one.datagram.toHex());
  assert.ok(responses.length >= 2);
  assert.equal(new Set(responses).size, 1);
  assert.equal(kinds(pair.b, "install").length, 1);
});

test("replayed inits and responses change nothing", () => {
  const pair = new SessionPair({ seed: 7 });
  pair.recorded = [];
  pair.connect(pair.a);
  pair.run(3000);
  pair.rekey(pair.b);
  pair.run(8000);
  const old = pair.recorded.filter((one) => one.datagram[0] === INIT || one.datagram[0] === RESPONSE);
  const before = [pair.a, pair.b].map((node) => [node.outputs.length, node.sessions.state(0).epochId]);
  for (const { from, datagram } of old) pair.deliver(pair.other(from), datagram, FROM);
  pair.run(9000);
  assert.deepEqual(
    [pair.a, pair.b].map((node) => [node.outputs.length, node.sessions.state(0).epochId]),
    before,
  );
  assert.ok((pair.b.drops.get(Drop.STALE_TIMESTAMP) ?? 0) > 0);
  works(pair);
});

test("a clock that steps back an hour is no outage, a restart with it neither", () => {
  const pair = connected();
  pair.a.wallOffsetMs -= 3_600_000;
  pair.rekey(pair.a);
  pair.run(pair.nowMs + 2000);
  assert.deepEqual(pair.established, [2, 2]);
  pair.boot(pair.a);
  pair.connect(pair.a);
  pair.run(pair.nowMs + 2000);
  works(pair);
});

test("a restarted peer is noticed, and the old epoch serves until the new one is proven", () => {
  const pair = connected();
  pair.boot(pair.b);
  const old = pair.sending(pair.a);
  let untilProof = 0;
  pair.tamper = (from, datagram) => {
    if (from === pair.a && pair.sending(pair.a) === old) untilProof++;
    return datagram;
  };
  pair.connect(pair.b);
  pair.run(pair.nowMs + 2000);
  assert.ok(untilProof > 0);
  assert.equal(kinds(pair.a, "restarted").length, 1);
  assert.equal(kinds(pair.b, "restarted").length, 0);
  assert.notEqual(pair.sending(pair.a), old);
  works(pair);
});

test("an init of a restarted peer that is never proven does not disturb the live epoch", () => {
  const pair = connected();
  const live = pair.sending(pair.a);
  pair.boot(pair.b);
  pair.tamper = (from, datagram) => (from === pair.a && datagram[0] === RESPONSE ? undefined : datagram);
  pair.connect(pair.b);
  pair.run(pair.nowMs + 20_000);
  assert.equal(pair.sending(pair.a), live);
  assert.equal(kinds(pair.a, "restarted").length, 0);
});

test("a half-dead session heals: silence starts a handshake while the live epoch stays", () => {
  const pair = connected();
  pair.boot(pair.b);
  pair.send(pair.a);
  pair.run(pair.nowMs + 100);
  assert.ok((pair.b.drops.get(Drop.UNKNOWN_INDEX) ?? 0) > 0);
  const live = pair.sending(pair.a);
  pair.drive(pair.a, (sessions, now) => sessions.handleSilence(now, 0));
  assert.equal(pair.sending(pair.a), live);
  pair.run(pair.nowMs + 2000);
  assert.notEqual(pair.sending(pair.a), live);
  works(pair);
});

test("under load a real peer connects within 2 s by way of a cookie, and keeps it for the next handshake", () => {
  const pair = new SessionPair({ seed: 8, network: { loss: 0.05 } });
  pair.b.overloaded = true;
  pair.connect(pair.a);
  pair.run(2000);
  assert.deepEqual(pair.established, [1, 1]);
  const refused = pair.b.drops.get(Drop.COOKIE_REQUIRED) ?? 0;
  assert.ok(refused >= 1);
  pair.run(4000);
  pair.rekey(pair.a);
  pair.run(8000);
  assert.deepEqual(pair.established, [2, 2]);
  assert.equal(pair.b.drops.get(Drop.COOKIE_REQUIRED), refused);
  works(pair);
});

test("a wrong ciphertext ends in a clean retry and never touches the live epoch", () => {
  const pair = connected();
  const live = pair.sending(pair.a);
  let spoiled = 0;
  pair.tamperInner = (from, kind, payload) => {
    if (from !== pair.b || kind !== InnerKind.RATCHET || payload.length !== 1092 || pair.nowMs > 9000) return payload;
    spoiled++;
    const changed = Uint8Array.from(payload);
    changed[500] = changed[500] ^ 1;
    return changed;
  };
  pair.rekey(pair.a);
  pair.run(9000);
  assert.ok(spoiled > 0);
  assert.equal(pair.sending(pair.a), live);
  assert.ok((pair.b.drops.get(Drop.AUTH) ?? 0) > 0, "it shows as failed authentication");
  works(pair);
  pair.run(30_000);
  assert.notEqual(pair.sending(pair.a), live);
  assert.equal(kinds(pair.a, "failed").length, 0);
  works(pair);
});

test("lost keepalives and ratchet messages are resent until proof", () => {
  for (const lost of [InnerKind.KEEPALIVE, InnerKind.RATCHET]) {
    const pair = new SessionPair({ seed: 9 });
    let dropped = 0;
    let last = -1;
    pair.tamperInner = (_from, kind, payload) => {
      last = kind;
      return payload;
    };
    pair.tamper = (_from, datagram) => {
      if (datagram[0] !== 0x44 || last !== lost || dropped >= 4) return datagram;
      dropped++;
      return undefined;
    };
    pair.connect(pair.a);
    pair.run(8000);
    assert.equal(dropped, 4);
    assert.deepEqual(pair.established, [1, 1]);
    works(pair);
  }
});

test("the initiator rekeys after 36–132 s the first time, then every 120 s ± 10 %; the responder takes over at 135 s when it cannot", () => {
  const pair = connected();
  const rekeyedAtMs = (epochs: number): number => {
    while (pair.established[0] < epochs) pair.run(pair.nowMs + 250);
    return pair.nowMs;
  };
  pair.run(35_000);
  assert.deepEqual(pair.established, [1, 1]);
  let atMs = rekeyedAtMs(2);
  assert.ok(atMs <= 134_000, `${atMs} ms`);
  for (const epochs of [3, 4]) {
    const afterMs = rekeyedAtMs(epochs) - atMs;
    assert.ok(afterMs >= 107_000 && afterMs <= 134_000, `${afterMs} ms`);
    atMs += afterMs;
  }
  const other = connected();
  other.tamper = (from, datagram) => (from === other.a && datagram[0] === INIT ? undefined : datagram);
  other.run(134_500);
  assert.deepEqual(other.established, [1, 1]);
  other.run(137_000);
  assert.deepEqual(other.established, [2, 2]);
  assert.equal(other.withoutEpoch, 0);
});

test("an epoch that cannot be replaced ends at 270 s on both sides, keys and all", () => {
  const pair = connected();
  pair.cut.fill(1);
  pair.run(269_000);
  assert.ok(pair.sending(pair.a) !== undefined && pair.sending(pair.b) !== undefined);
  pair.run(271_000);
  for (const node of [pair.a, pair.b]) {
    assert.equal(pair.sending(node), undefined);
    assert.equal(node.epochs.size, 0);
    assert.equal(node.sessions.state(0).established, false);
  }
  pair.cut.fill(0);
  pair.connect(pair.b);
  pair.run(pair.nowMs + 20_000);
  works(pair);
});

test("forged, truncated and mutated handshakes never throw and leave no state", () => {
  const pair = new SessionPair({ seed: 10 });
  pair.recorded = [];
  pair.connect(pair.a);
  pair.run(3000);
  const genuine = pair.recorded.map((one) => one.datagram).filter((datagram) => datagram[0] !== 0x44);
  const before = [pair.b.sessions.counts(), pair.b.outputs.length, pair.b.sessions.state(0).epochId];
  const now = pair.now(pair.b);
  fc.assert(
    fc.property(
      fc.nat(genuine.length - 1),
      fc.array(fc.tuple(fc.nat(175), fc.nat(255)), { maxLength: 4 }),
      fc.nat(200),
      (which, changes, length) => {
        const bytes = genuine[which].slice(0, Math.max(length, 1));
        for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
        assert.notEqual(pair.b.sessions.handleHandshake(now, bytes, FROM), Drop.NONE);
      },
    ),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.constantFrom([0x41, 176], [0x42, 132], [0x43, 56], [0x44, 60]),
      (bytes, [type, length]) => {
        const datagram = new Uint8Array(length);
        datagram.set(bytes.subarray(0, length));
        datagram.set([type, 0, 0, 0]);
        assert.notEqual(pair.b.sessions.handleHandshake(now, datagram, FROM), Drop.NONE);
        pair.b.sessions.handleInner(now, 0, bytes[0] ?? 0, InnerKind.RATCHET, bytes);
        pair.b.sessions.handleProof(now, 3, 1);
      },
    ),
    { numRuns: 200 },
  );
  pair.drive(pair.b, () => {});
  assert.deepEqual([pair.b.sessions.counts(), pair.b.outputs.length, pair.b.sessions.state(0).epochId], before);
  works(pair);
});

test("forged responses to a waiting initiator are counted out, the true one still connects", () => {
  const pair = new SessionPair({ seed: 11, network: { minDelayMs: 100, maxDelayMs: 101 } });
  pair.recorded = [];
  pair.connect(pair.a);
  const init = sentOf(pair, INIT)[0]?.datagram;
  const random = new SeededRandom(1);
  const verdicts = new Set<number>();
  for (let i = 0; i < 60; i++) {
    const forged = random.bytes(132);
    forged.set([RESPONSE, 0, 0, 0]);
    forged.set(init.subarray(4, 8), 8);
    verdicts.add(pair.a.sessions.handleHandshake(pair.now(pair.a), forged, FROM));
  }
  assert.deepEqual([...verdicts], [Drop.AUTH]);
  pair.run(2000);
  works(pair);
});

test("a peer that is removed leaves nothing", () => {
  const pair = connected();
  pair.rekey(pair.a);
  pair.drive(pair.a, (sessions, now) => sessions.removePeer(now, 0));
  assert.deepEqual(pair.a.sessions.counts(), { peers: 0, pending: 0, answered: 0, unprovenJoins: 0 });
  assert.equal(pair.a.sessions.nextTimeout(), Infinity);
  assert.equal(pair.a.sessions.state(0).established, false);
});

// ── strangers and joins ──────────────────────────────────────────────────────────────────────────────────────────────

const NETWORK = new SeededRandom(99).bytes(32);
const INVITE = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]);

/** An admin that accepts joiners under one invite, and the datagram of a stranger to it. */
function admin(): {
  sessions: Sessions;
  identity: Identity;
  slots: Map<number, SessionPeer>;
  timestamps: KeptTimestamps;
} {
  const identity = Identity.generate(new SeededRandom(50));
  const slots = new Map<number, SessionPeer>();
  const timestamps = new KeptTimestamps();
  const sessions = new Sessions(
    {
      identity,
      networkId: NETWORK,
      random: new SeededRandom(51),
      timestamps,
      peerByStaticKey: () => undefined,
      peerBySlot: (slot) => slots.get(slot),
      provisionalPeer: (staticKey, inviteId) => {
        if (compare(inviteId, INVITE) !== 0) return undefined;
        const slot = slots.size;
        const peer = { slot, nodeId: staticKey, staticKey, psk: undefined, inviteId: undefined };
        slots.set(slot, peer);
        return peer;
      },
    },
    { bootId: 1 },
  );
  return { sessions, identity, slots, timestamps };
}

function initOf(stranger: Identity, to: Identity, inviteId: Uint8Array | undefined, seed: number): Uint8Array {
  const peer = { slot: 0, nodeId: to.nodeId, staticKey: to.staticKeys.publicKey, psk: undefined, inviteId };
  const sessions = new Sessions(
    {
      identity: stranger,
      networkId: NETWORK,
      random: new SeededRandom(seed),
      timestamps: new KeptTimestamps(),
      peerByStaticKey: () => peer,
      peerBySlot: () => peer,
      provisionalPeer: () => undefined,
    },
    { bootId: seed },
  );
  sessions.connect({ nowMs: 0, wallMs: 1_700_000_000_000 }, 0);
  for (let output = sessions.pollOutput(); output !== undefined; output = sessions.pollOutput()) {
    if (output.kind === "transmit") return output.datagram;
  }
  throw new Error("no init was sent");
}

const START = { nowMs: 0, wallMs: 1_700_000_000_000 };

test("a static key without a live invite gets no answer and leaves no state", () => {
  const { sessions, identity, slots, timestamps } = admin();
  for (let i = 0; i < 20; i++) {
    const stranger = Identity.generate(new SeededRandom(1000 + i));
    const inviteId = i % 2 === 0 ? undefined : new Uint8Array(8).fill(i);
    const init = initOf(stranger, identity, inviteId, i);
    assert.equal(sessions.handleHandshake(START, init, FROM), Drop.UNKNOWN_PEER);
  }
  assert.equal(sessions.pollOutput(), undefined);
  assert.deepEqual(sessions.counts(), { peers: 0, pending: 0, answered: 0, unprovenJoins: 0 });
  assert.equal(slots.size + timestamps.accepted.size, 0);
  assert.equal(sessions.nextTimeout(), Infinity);
});

test("a node does not answer itself, nor another network", () => {
  const { sessions, identity } = admin();
  const reflected = initOf(identity, identity, INVITE, 1);
  assert.equal(sessions.handleHandshake(START, reflected, FROM), Drop.UNKNOWN_PEER);
  const foreign = initOf(Identity.generate(new SeededRandom(2)), Identity.generate(new SeededRandom(3)), INVITE, 1);
  assert.equal(sessions.handleHandshake(START, foreign, FROM), Drop.AUTH);
});

test("at most 64 joins wait for proof, for 5 s each; each one that ends is reported and leaves nothing", () => {
  const { sessions, identity, slots } = admin();
  const verdicts: number[] = [];
  for (let i = 0; i < MAX_UNPROVEN_JOINS + 6; i++) {
    const init = initOf(Identity.generate(new SeededRandom(2000 + i)), identity, INVITE, i);
    verdicts.push(sessions.handleHandshake(START, init, FROM));
  }
  assert.deepEqual(
    verdicts.slice(0, MAX_UNPROVEN_JOINS),
    Array.from({ length: MAX_UNPROVEN_JOINS }, () => Drop.NONE),
  );
  assert.deepEqual(
    verdicts.slice(MAX_UNPROVEN_JOINS),
    Array.from({ length: 6 }, () => Drop.TOO_MANY_PENDING),
  );
  assert.equal(slots.size, MAX_UNPROVEN_JOINS);
  const failed = (nowMs: number): number => {
    while (sessions.nextTimeout() <= nowMs)
      sessions.handleTimeout({ nowMs: sessions.nextTimeout(), wallMs: START.wallMs });
    let count = 0;
    for (let output = sessions.pollOutput(); output !== undefined; output = sessions.pollOutput())
      if (output.kind === "failed") count++;
    return count;
  };
  assert.equal(failed(4999), 0);
  assert.equal(failed(5000), MAX_UNPROVEN_JOINS);
  assert.deepEqual(sessions.counts(), { peers: 0, pending: 0, answered: 0, unprovenJoins: 0 });
  const late = initOf(Identity.generate(new SeededRandom(3000)), identity, INVITE, 1);
  assert.equal(sessions.handleHandshake({ nowMs: 5001, wallMs: START.wallMs }, late, FROM), Drop.NONE);
});
