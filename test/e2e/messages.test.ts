/**
 * Direct messages among real processes without root, over real UDP with loss, while connections are killed at random and one process after the other is
 * killed and started again: what was acknowledged is in the receiver's inbox exactly once, what was refused is not, no id is there twice, and nothing stays
 * unknown. With WEFT_LONG=1 six nodes send 1,000 messages over each of their 30 ordered pairs; else four nodes send 60 each.
 */
import assert from "node:assert/strict";
import { chownSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { SeededRandom } from "../../src/base/random.ts";
import { Daemon, until } from "../../lab/process.ts";

const WEFT_NODE = fileURLToPath(new URL("../../bin/weft-node", import.meta.url));
const PEER = fileURLToPath(new URL("../../lab/message-peer.ts", import.meta.url));
const IS_LONG = process.env["WEFT_LONG"] === "1";
const NODES = IS_LONG ? 6 : 4;
const EACH = IS_LONG ? 1_000 : 60;
const PER_SECOND = IS_LONG ? 20 : 6;
const RESTART_EVERY_MS = IS_LONG ? 10_000 : 4_000;
const KILL_EVERY_MS = 1_000;
const LOSS = 0.05;
/** Nobody: where the test runs as root the nodes do not. */
const USER = process.getuid?.() === 0 ? 65_534 : undefined;
const START_MS = 30_000;
const SETTLE_MS = 90_000;

class Place {
  readonly name: string;
  readonly state: string;
  daemon: Daemon;
  readonly #loss: number;

  constructor(root: string, name: string, loss: number) {
    this.name = name;
    this.state = join(root, name);
    this.#loss = loss;
    this.daemon = this.#spawn();
  }

  #spawn(): Daemon {
    const args = [PEER, "--state", this.state, "--name", this.name, "--loss", String(this.#loss)];
    if (USER !== undefined) args.push("--user", String(USER));
    return new Daemon(this.name, WEFT_NODE, args);
  }

  async killAndStart(): Promise<void> {
    await this.daemon.stop("SIGKILL");
    this.daemon = this.#spawn();
    await this.daemon.ask({ join: null }, START_MS);
  }

  journal(): Record<string, unknown>[] {
    const lines = readFileSync(`${this.state}.journal`, "utf8").split("\n");
    // a kill may cut the last line of a run
    return lines.filter((line) => line.startsWith("{") && line.endsWith("}")).map((line) => JSON.parse(line));
  }
}

async function withPlaces(count: number, loss: number, body: (places: Place[]) => Promise<void>): Promise<void> {
  const root = mkdtempSync(join(tmpdir(), "weft-messages-"));
  if (USER !== undefined) chownSync(root, USER, USER);
  const places = Array.from({ length: count }, (_, i) => new Place(root, `n${i}`, loss));
  try {
    const { token } = await places[0].daemon.ask({ found: true }, START_MS);
    for (const place of places.slice(1)) await place.daemon.ask({ join: token }, START_MS);
    await body(places);
  } catch (error) {
    if (error instanceof Error)
      error.message += `\n--- logs\n${places.map(({ daemon }) => daemon.tail(20)).join("\n")}`;
    throw error;
  } finally {
    await Promise.all(places.map(({ daemon }) => daemon.stop("SIGTERM", 2_000)));
    rmSync(root, { recursive: true });
  }
}

test(
  `${NODES} nodes, every ordered pair, ${EACH} messages each, with loss, killed connections and killed nodes`,
  { timeout: 400_000 },
  async (t) => {
    await withPlaces(NODES, LOSS, async (places) => {
      const random = new SeededRandom(Number(process.env["WEFT_SEED"] ?? 1));
      const send = (place: Place): Promise<unknown> =>
        place.daemon.ask({
          send: places.filter((other) => other !== place).map((other) => other.name),
          count: EACH,
          perSecond: PER_SECOND,
        });
      for (const place of places) await send(place);
      const progress = async (): Promise<number> => {
        let waiting = 0;
        for (const { daemon } of places) {
          const { left, open, failed, user } = await daemon.ask({ progress: true });
          assert.equal(failed, 0);
          assert.notEqual(user, 0, "the nodes run without root");
          waiting += Number(left) + Number(open);
        }
        return waiting;
      };
      let killed = 0;
      let restarts = 0;
      let restartAtMs = Date.now() + RESTART_EVERY_MS;
      const endMs = Date.now() + (EACH / PER_SECOND) * 1_000 * 3 + SETTLE_MS;
      while ((await progress()) > 0) {
        assert.ok(Date.now() < endMs, `${await progress()} messages wait`);
        await new Promise((resolve) => setTimeout(resolve, KILL_EVERY_MS * (0.5 + random.unit())));
        const victim = places[random.u32() % places.length];
        killed += Number((await victim.daemon.ask({ kill: true }))["killed"]);
        if (Date.now() < restartAtMs) continue;
        const place = places[restarts++ % places.length];
        await place.killAndStart();
        await send(place);
        restartAtMs = Date.now() + RESTART_EVERY_MS;
      }
      // what nobody could say meanwhile has an answer now
      let unknown = 0;
      for (const { name, daemon } of places) {
        await until(`${name} has resolved everything`, SETTLE_MS, async () => {
          const { open, unknown: were } = await daemon.ask({ resolve: true });
          unknown = Math.max(unknown, Number(were));
          if (Number(open) === 0) return true;
          throw new Error(`${String(open)} are not final`);
        });
      }
      const final = new Map<string, Record<string, unknown>>();
      const first = new Map<string, Record<string, unknown>>();
      for (const place of places) {
        for (const entry of place.journal()) {
          if (!("o" in entry)) continue;
          const key = `${place.name} ${String(entry["to"])} ${String(entry["n"])}`;
          final.set(key, entry);
          if (!first.has(key)) first.set(key, entry);
        }
      }
      const acknowledged = [...final].filter(([, { o }]) => o === "acknowledged");
      const arrived = async (): Promise<Map<string, number>> => {
        const found = new Map<string, number>();
        for (const place of places) {
          const bySequence = new Map<unknown, Record<string, unknown>>();
          for (const entry of place.journal()) if ("r" in entry) bySequence.set(entry["r"], entry);
          const ids = new Set<unknown>();
          for (const { id, text } of bySequence.values()) {
            assert.ok(!ids.has(id), `${place.name}: ${String(id)} is in the inbox twice`);
            ids.add(id);
            const key = String(text).trim();
            found.set(key, (found.get(key) ?? 0) + 1);
          }
        }
        return found;
      };
      await until("the inboxes are read", SETTLE_MS, async () => {
        const found = await arrived();
        return acknowledged.every(([key]) => found.has(key)) ? true : undefined;
      }).catch(() => undefined);
      const found = await arrived();
      for (const [key] of acknowledged)
        assert.equal(found.get(key), 1, `${key} was acknowledged and is in the inbox once`);
      for (const [key, { o, reason }] of final)
        if (o === "refused")
          assert.equal(found.get(key), undefined, `${key} was refused (${String(reason)}) and is not in the inbox`);
      for (const [key, count] of found) assert.equal(count, 1, `${key} arrived once`);
      const reasons = new Map<string, number>();
      for (const { o, reason } of first.values()) {
        const key = o === "acknowledged" ? "acknowledged" : `${String(o)} (${String(reason)})`;
        reasons.set(key, (reasons.get(key) ?? 0) + 1);
      }
      const unknownFirst = [...first.values()].filter(({ o }) => o === "unknown").length;
      const share = unknownFirst / first.size;
      t.diagnostic(
        `${first.size} outcomes, at first ${[...reasons].map(([reason, count]) => `${count} ${reason}`).join(", ")} (unknown ${(share * 100).toFixed(2)} %); ` +
          `at last ${acknowledged.length} acknowledged; ${killed} connections and ${restarts} nodes killed`,
      );
      assert.ok(acknowledged.length > (NODES * (NODES - 1) * EACH) / 2, "control: most of them were acknowledged");
      assert.ok(restarts > 0 && killed > 0, "control: there was trouble");
    });
  },
);

test("a receiver whose application stops reading delays no other acknowledgement", { timeout: 120_000 }, async (t) => {
  await withPlaces(3, 0, async ([sender, stuck, well]) => {
    await sender.daemon.ask({ latency: well.name, count: 50 }, START_MS);
    const before = await sender.daemon.ask({ latency: well.name, count: 200 }, START_MS);
    await stuck.daemon.ask({ stall: true });
    await sender.daemon.ask({ send: [stuck.name], count: 2_000, perSecond: 2_000, bytes: 1_000 });
    const during = await sender.daemon.ask({ latency: well.name, count: 200 }, START_MS);
    t.diagnostic(`p50 ${Number(before["p50Ms"]).toFixed(1)} → ${Number(during["p50Ms"]).toFixed(1)} ms`);
    assert.equal(during["acknowledged"], 200);
    await until("everything sent has an outcome", SETTLE_MS, async () => {
      const { left, open } = await sender.daemon.ask({ progress: true });
      return Number(left) + Number(open) === 0 ? true : undefined;
    });
    const outcomes = sender.journal().filter((entry) => "o" in entry);
    assert.equal(outcomes.length, 2_000);
    assert.ok(
      outcomes.every(({ o }) => o === "acknowledged" || o === "refused"),
      "each is acknowledged or refused as busy",
    );
  });
});
