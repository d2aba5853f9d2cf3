import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { concat, utf8 } from "../../base/bytes.ts";
import { SocksHandshake, type SocksStep } from "./socks5.ts";

const GREETING = Uint8Array.of(5, 1, 0);

function request(type: number, address: Uint8Array, port: number, command = 1): Uint8Array {
  return concat(Uint8Array.of(5, command, 0, type), address, Uint8Array.of(port >> 8, port & 255));
}

const named = (name: string, port: number): Uint8Array =>
  request(3, concat(Uint8Array.of(name.length), utf8(name)), port);

/** Cuts the bytes into pieces. @returns the last step and all replies */
function play(bytes: Uint8Array, cuts: readonly number[]): { step: SocksStep; replies: number[]; used: number } {
  const handshake = new SocksHandshake();
  const replies: number[] = [];
  let step: SocksStep = { kind: "more", reply: new Uint8Array(0) };
  let at = 0;
  for (let i = 0; at < bytes.length && step.kind === "more"; i++) {
    const size = cuts.length === 0 ? bytes.length : cuts[i % cuts.length];
    step = handshake.add(bytes.subarray(at, at + size));
    replies.push(...step.reply);
    at = Math.min(bytes.length, at + size);
  }
  return { step, replies, used: at };
}

test("a request is read however it is cut, and what is behind it comes back whole", () => {
  const behind = utf8("GET / HTTP/1.1\r\n\r\n");
  for (const [bytes, host] of [
    [request(1, Uint8Array.of(100, 64, 0, 2), 8080), "100.64.0.2"],
    [request(4, Uint8Array.from([0xfd, ...Array.from({ length: 14 }, () => 0), 1]), 8080), "fd00::1"],
    [named("nas.home.weft", 8080), "nas.home.weft"],
  ] as const) {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 12 }), { maxLength: 8 }), (cuts) => {
        const all = concat(GREETING, bytes, behind);
        const { step, replies, used } = play(all, cuts);
        assert.ok(step.kind === "request");
        assert.deepEqual(step.target, { host, port: 8080 });
        assert.deepEqual(replies, [5, 0]);
        assert.deepEqual(concat(step.rest, all.subarray(used)), behind);
      }),
    );
  }
});

test("what is not served is refused with the code of RFC 1928", () => {
  const end = (bytes: Uint8Array, ...expected: number[]): void => {
    const { step, replies } = play(bytes, []);
    assert.equal(step.kind, "end");
    assert.deepEqual(replies, expected);
  };
  const tail = [0, 1, 0, 0, 0, 0, 0, 0];
  end(Uint8Array.of(4, 1, 0, 80, 1, 2, 3, 4, 0));
  end(Uint8Array.of(5, 1, 2), 5, 255);
  end(concat(GREETING, request(1, Uint8Array.of(1, 2, 3, 4), 80, 3)), 5, 0, 5, 7, ...tail);
  end(concat(GREETING, Uint8Array.of(5, 1, 0, 9, 1, 1, 1)), 5, 0, 5, 8, ...tail);
  end(concat(GREETING, named("no good name", 80)), 5, 0, 5, 1, ...tail);
  end(concat(GREETING, request(1, Uint8Array.of(1, 2, 3, 4), 0)), 5, 0, 5, 1, ...tail);
});

test("no bytes make it fail or hold more than a request", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 64 }), { maxLength: 30 }), (pieces) => {
      const handshake = new SocksHandshake();
      let total = 0;
      for (const piece of pieces) {
        total += piece.length;
        if (handshake.add(piece).kind !== "more") return;
      }
      assert.ok(total <= 2 + 255 + 5 + 255 + 2);
    }),
  );
});
