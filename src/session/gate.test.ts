import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PlainMac } from "../../sim/memory-ports.ts";
import { Drop } from "../base/drop.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_PORT, NAME_REMOTE } from "../base/name.ts";
import { SeededRandom } from "../base/random.ts";
import { Slab } from "../base/slab.ts";
import { cookieKey, macKey, openCookie } from "../crypto/cookie.ts";
import { HandshakeGate } from "./gate.ts";
import { encodeCookieReply, encodeInit, encodeResponse, writeMacs } from "./handshake.ts";

const random = new SeededRandom(21);
const STATIC = random.bytes(32);

class Bench {
  readonly slab = new Slab(1 << 17);
  readonly mac = new CountingMac(this.slab);
  readonly gate = new HandshakeGate(
    { slab: this.slab, mac: this.mac, random: new SeededRandom(22) },
    { staticKey: STATIC },
  );
  readonly at = this.slab.allocate(2048);
  readonly name = this.slab.allocate(NAME_BYTES);

  judge(nowMs: number, datagram: Uint8Array, address = 1, port = 7000, family: 4 | 6 = 4): number {
    const { u8, view } = this.slab;
    u8.set(datagram, this.at);
    u8.fill(0, this.name, this.name + NAME_BYTES);
    u8[this.name + NAME_FAMILY] = family;
    if (family === 4) view.setUint32(this.name + NAME_REMOTE + 8, 0xffff0000, true);
    view.setUint32(this.name + NAME_REMOTE + (family === 4 ? 12 : 4), address, false);
    view.setUint16(this.name + NAME_PORT, port, true);
    return this.gate.judge(nowMs, this.at, datagram.length, this.name);
  }

  reply(): Uint8Array {
    return this.slab.u8.slice(this.gate.replyOffset, this.gate.replyOffset + this.gate.replyBytes);
  }

  sent(datagram: Uint8Array): void {
    this.slab.u8.set(datagram, this.at);
    this.gate.noteSent(this.at, datagram.length);
  }
}

class CountingMac extends PlainMac {
  computed = 0;
  live = 0;
  override create(key: Uint8Array): number {
    this.live++;
    return super.create(key);
  }
  override destroy(handle: number): void {
    this.live--;
    super.destroy(handle);
  }
  override compute(handle: number, source: number, bytes: number, target: number): void {
    this.computed++;
    super.compute(handle, source, bytes, target);
  }
}

function init(sender: number, cookie?: Uint8Array): Uint8Array {
  const message = encodeInit(sender, new SeededRandom(sender).bytes(136));
  writeMacs(message, macKey(STATIC), cookie);
  return message;
}

function cookieOf(bench: Bench, message: Uint8Array): Uint8Array {
  const reply = bench.reply();
  assert.equal(reply.length, 56);
  assert.deepEqual(reply.slice(4, 8), message.slice(4, 8), "addressed by the sender's index");
  const cookie = openCookie(cookieKey(STATIC), reply.slice(8, 24), message.slice(144, 160), reply.slice(24));
  assert.ok(cookie !== undefined);
  return cookie;
}

test("without load a valid mac1 is enough, and a wrong one is a reason", () => {
  const bench = new Bench();
  assert.equal(bench.judge(0, init(1)), Drop.NONE);
  fc.assert(
    fc.property(fc.nat(159), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const changed = init(1);
      changed[at] = changed[at] ^ flip;
      assert.equal(
        bench.judge(0, changed),
        at < 4 ? (at === 0 && (changed[0] === 0x42 || changed[0] === 0x43) ? Drop.SHORT : Drop.BAD_TYPE) : Drop.MAC1,
      );
    }),
  );
});

test("wrong types, lengths and reserved bytes cost no hash", () => {
  const bench = new Bench();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), fc.constantFrom(0x41, 0x42, 0x43, 0x40, 0x00), (bytes, type) => {
      if (bytes.length > 3) bytes.set([type, 0, 0, 0]);
      if (type === 0x41 && bytes.length === 176) return;
      const verdict = bench.judge(0, bytes);
      assert.ok(verdict !== Drop.NONE);
      assert.equal(bench.gate.replyBytes, 0);
    }),
    { numRuns: 500 },
  );
  assert.equal(bench.mac.computed, 0);
});

test("responses and cookie replies pass only for handshakes that this node sent", () => {
  const bench = new Bench();
  const response = encodeResponse(9, 77, new Uint8Array(88));
  writeMacs(response, macKey(STATIC), undefined);
  const reply = encodeCookieReply(77, new Uint8Array(16), new Uint8Array(32));
  assert.equal(bench.judge(0, response), Drop.UNKNOWN_INDEX);
  assert.equal(bench.judge(0, reply), Drop.UNKNOWN_INDEX);
  assert.equal(bench.mac.computed, 0);
  bench.sent(init(77));
  assert.equal(bench.judge(0, response), Drop.NONE);
  assert.equal(bench.judge(0, reply), Drop.NONE);
  bench.gate.setLoad(0, 1);
  assert.equal(bench.judge(0, response), Drop.NONE, "the index is proof enough under load");
  response[20] = 1;
  assert.equal(bench.judge(0, response), Drop.MAC1);
});

test("under load an init needs a cookie for its address and port; the load signal sticks for 1 s", () => {
  const bench = new Bench();
  bench.gate.setLoad(0, 0.124);
  assert.equal(bench.judge(0, init(1)), Drop.NONE);
  bench.gate.setLoad(0, 0.125);
  assert.equal(bench.judge(0, init(1)), Drop.COOKIE_REQUIRED);
  const cookie = cookieOf(bench, init(1));
  assert.equal(bench.judge(10, init(1, cookie)), Drop.NONE);
  assert.equal(bench.judge(10, init(2, cookie)), Drop.NONE, "any message from there");
  assert.equal(bench.judge(10, init(1, cookie), 2), Drop.COOKIE_REQUIRED, "another address");
  assert.equal(bench.judge(10, init(1, cookie), 1, 7001), Drop.COOKIE_REQUIRED, "another port");
  assert.equal(bench.judge(10, init(1, random.bytes(16))), Drop.COOKIE_REQUIRED, "a made-up cookie");
  assert.equal(bench.judge(999, init(3)), Drop.COOKIE_REQUIRED);
  assert.equal(bench.judge(1000, init(3)), Drop.NONE);
});

test("a cookie outlives one change of the secret and not two", () => {
  const bench = new Bench();
  bench.gate.setLoad(0, 1);
  bench.judge(0, init(1));
  const cookie = cookieOf(bench, init(1));
  for (const [nowMs, verdict] of [
    [119_999, Drop.NONE],
    [120_000, Drop.NONE],
    [240_000, Drop.COOKIE_REQUIRED],
  ] as const) {
    bench.gate.setLoad(nowMs, 1);
    assert.equal(bench.judge(nowMs, init(1, cookie)), verdict, `at ${nowMs} ms`);
  }
  assert.equal(bench.mac.live, 3, "mac1 key and two secrets; nothing leaks");
});

test("under load a source prefix gets a burst of 5 and then 20 a second; others are not affected", () => {
  const bench = new Bench();
  const cookies = new Map<string, Uint8Array>();
  const tryIt = (nowMs: number, address: number, family: 4 | 6): number => {
    bench.gate.setLoad(nowMs, 1);
    const key = `${address}/${family}`;
    if (!cookies.has(key)) {
      bench.judge(nowMs, init(1), address, 7000, family);
      cookies.set(key, cookieOf(bench, init(1)));
    }
    return bench.judge(nowMs, init(1, cookies.get(key)), address, 7000, family);
  };
  for (const family of [4, 6] as const) {
    const base = 0x0a000000;
    let passed = 0;
    for (let i = 0; i < 50; i++) if (tryIt(0, family === 4 ? base + i : base, family) === Drop.NONE) passed++;
    assert.equal(passed, 5, "one /24, or one /64");
    assert.equal(tryIt(0, base + 256, family), Drop.NONE, "the neighbouring prefix");
    passed = 0;
    for (let nowMs = 1; nowMs <= 2000; nowMs++) if (tryIt(nowMs, base, family) === Drop.NONE) passed++;
    assert.ok(passed >= 39 && passed <= 41, `${passed} in 2 s`);
  }
});

test("cookie replies have their own limit; what is over it is counted", () => {
  const bench = new Bench();
  bench.gate.setLoad(0, 1);
  let replies = 0;
  for (let i = 0; i < 6000; i++) {
    assert.equal(bench.judge(0, init(5), i), Drop.COOKIE_REQUIRED);
    if (bench.gate.replyBytes > 0) replies++;
  }
  assert.equal(replies, 5000);
  assert.equal(bench.gate.cookiesSuppressed, 1000);
  bench.gate.setLoad(500, 1);
  bench.judge(500, init(5));
  assert.equal(bench.gate.replyBytes, 56, "and recovers");
});

test("a member's address gets its cookie in the middle of a flood", () => {
  const bench = new Bench();
  bench.gate.setLoad(0, 1);
  for (let i = 0; i < 20_000; i++) bench.judge(0, init(i + 1), 1_000 + i);
  assert.equal(bench.gate.replyBytes, 0);
  const member = new Uint8Array(16);
  member.set([255, 255, 10, 0, 0, 7], 10);
  const address = 0x0a000007;
  bench.judge(0, init(77), address);
  assert.equal(bench.gate.replyBytes, 0, "not known yet");
  bench.gate.noteKnown(member);
  assert.equal(bench.judge(0, init(77), address), Drop.COOKIE_REQUIRED);
  const cookie = cookieOf(bench, init(77));
  bench.judge(0, init(78), address);
  assert.equal(bench.gate.replyBytes, 0, "one reply per 50 ms");
  assert.equal(bench.judge(60, init(77, cookie), address), Drop.NONE);
  for (let i = 0; i < 6_000; i++) bench.judge(60, init(i + 1), 1_000 + i);
  bench.judge(60, init(78), address);
  assert.ok(bench.gate.replyBytes > 0);
});

test("a flood from many sources takes no memory", () => {
  const bench = new Bench();
  const used = bench.slab.usedBytes;
  const flood = new SeededRandom(5);
  bench.gate.setLoad(0, 1);
  for (let i = 0; i < 20_000; i++) {
    const bytes = flood.bytes([56, 132, 176, 64][i % 4]);
    bytes.set([[0x43, 0x42, 0x41, 0x41][i % 4], 0, 0, 0]);
    assert.notEqual(bench.judge(i / 100, bytes, flood.u32()), Drop.NONE);
  }
  assert.equal(bench.slab.usedBytes, used);
  assert.ok(bench.mac.live <= 3);
  bench.gate.destroy();
  assert.equal(bench.mac.live, 0);
});
