import assert from "node:assert/strict";
import { test } from "node:test";
import type { Now } from "../base/clock.ts";
import type { PeerFigures } from "../dataplane/messages.ts";
import type { IdleMessage } from "../mesh/control.ts";
import type { Member } from "../mesh/types.ts";
import { IDLE_MS, IdleSessions } from "./idle-sessions.ts";
import { PeerRecord } from "./peer-table.ts";

const now = (ms: number): Now => ({ nowMs: ms, wallMs: 1.7e12 + ms });

class Side {
  readonly peer = new PeerRecord(3, new Uint8Array(32), new Uint8Array(32), 0);
  readonly said: IdleMessage[] = [];
  bytes = 0;
  kept = false;
  readonly idle = new IdleSessions({
    peers: () => [this.peer],
    figures: () => ({ txBytes: this.bytes, rxBytes: 0 }) as PeerFigures,
    isKept: () => this.kept,
    tell: (_, message) => this.said.push(message),
    disconnect: () => {
      this.peer.established = false;
    },
  });

  constructor() {
    this.peer.member = {} as Member;
    this.peer.established = true;
  }
}

/** Ticks both sides every second and carries their words. */
function live(a: Side, b: Side, fromMs: number, toMs: number): void {
  for (let ms = fromMs; ms <= toMs; ms += 1_000) {
    a.idle.tick(now(ms));
    b.idle.tick(now(ms));
    for (const message of a.said.splice(0)) b.idle.handle(now(ms), b.peer, message);
    for (const message of b.said.splice(0)) a.idle.handle(now(ms), a.peer, message);
  }
}

test("after 180 s without user data both sides close, and not before", () => {
  const a = new Side();
  const b = new Side();
  live(a, b, 0, IDLE_MS - 1_000);
  assert.ok(a.peer.established && b.peer.established);
  live(a, b, IDLE_MS, IDLE_MS + 3_000);
  assert.ok(!a.peer.established && !b.peer.established);
});

test("a session that one side needs as a neighbour stays open on both", () => {
  const a = new Side();
  const b = new Side();
  b.kept = true;
  live(a, b, 0, 3_600_000);
  assert.ok(a.peer.established && b.peer.established);
});

test("user data starts the time anew, also between agreement and end", () => {
  const a = new Side();
  const b = new Side();
  live(a, b, 0, 100_000);
  a.bytes = b.bytes = 500;
  live(a, b, 101_000, 270_000);
  assert.ok(a.peer.established && b.peer.established);
  b.idle.handle(now(275_000), b.peer, { type: "idle", agreed: false });
  b.bytes = 900;
  live(a, b, 276_000, 279_000);
  assert.ok(b.peer.established);
});

test("nobody closes a session at the wish of a peer while it is in use", () => {
  const b = new Side();
  b.idle.tick(now(0));
  b.idle.handle(now(100_000), b.peer, { type: "idle", agreed: true });
  b.idle.handle(now(100_000), b.peer, { type: "idle", agreed: false });
  b.idle.tick(now(102_000));
  assert.ok(b.peer.established);
  assert.deepEqual(b.said, []);
});
