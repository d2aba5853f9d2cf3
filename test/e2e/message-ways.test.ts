/**
 * Direct messages between two nodes with interfaces while the way between them changes: direct, through a relay, through another member, direct again.
 * Both send all the time; every message is acknowledged, and is in the inbox once.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import type { Host, Lab } from "../../lab/namespaces.ts";
import { formNetwork } from "../../lab/network.ts";
import { type Daemon, until } from "../../lab/process.ts";
import { RELAY_CONFIG } from "../../lab/scenarios/ways.ts";
import { keepApart, reunite, routedHosts } from "../../lab/topologies.ts";
import { skip, withLab } from "./support.ts";

const WEFT_NODE = fileURLToPath(new URL("../../bin/weft-node", import.meta.url));
const PEER = fileURLToPath(new URL("../../lab/message-peer.ts", import.meta.url));
const MESSAGES = 600;
const PER_SECOND = 20;
/** A way's change may take as long as dead paths take to be noticed. */
const DEADLINE_MS = 60_000;
const CHANGE_LIMIT_MS = 60_000;
/** Messages that have to arrive on each way before the next change. */
const PER_WAY = 40;

interface Way {
  readonly kind: "direct" | "relay" | "transit";
  readonly via?: string;
}

class MessagePeer {
  readonly name: string;
  readonly daemon: Daemon;
  readonly #state: string;

  constructor(lab: Lab, host: Host) {
    this.name = host.name;
    this.#state = `${lab.folder}/state-${host.name}`;
    const args = [PEER, "--state", this.#state, "--name", host.name, "--tun"];
    this.daemon = host.spawn(WEFT_NODE, args, { name: `${host.name}:messages` });
    lab.onClose(async () => void (await this.daemon.stop("SIGTERM")));
  }

  async reaches(other: MessagePeer, { kind, via }: Way): Promise<void> {
    await until(`${this.name} reaches ${other.name} by ${kind}`, CHANGE_LIMIT_MS, async () => {
      const seen = await this.daemon.ask({ peer: other.name });
      if (seen["online"] === true && seen["kind"] === kind && (via === undefined || seen["via"] === via)) return true;
      throw new Error(JSON.stringify(seen));
    });
  }

  async progress(): Promise<{ readonly waiting: number; readonly received: number }> {
    const { left, open, received, failed } = await this.daemon.ask({ progress: true });
    assert.equal(failed, 0, `${this.name} could not hand over a message`);
    return { waiting: Number(left) + Number(open), received: Number(received) };
  }

  journal(): Record<string, unknown>[] {
    const lines = readFileSync(`${this.#state}.journal`, "utf8").split("\n");
    return lines.filter((line) => line.endsWith("}")).map((line) => JSON.parse(line) as Record<string, unknown>);
  }
}

test("messages live through direct, relay, transit and direct again", { skip, timeout: 280_000 }, async (t) => {
  await withLab(
    () => routedHosts(["c", "relay", "a", "b"], { mtuBytes: 1_500 }),
    async ({ lab, router, hosts }) => {
      const host = (name: string): Host => hosts.find((one) => one.name === name) as Host;
      const network = await formNetwork(lab, [host("c"), host("relay")], {
        config: ({ name }) => (name === "relay" ? RELAY_CONFIG : undefined),
      });
      const [a, b] = [new MessagePeer(lab, host("a")), new MessagePeer(lab, host("b"))];
      try {
        for (const peer of [a, b]) await peer.daemon.ask({ join: (await network.admin.invite()).token }, 30_000);
        const options = { count: MESSAGES, perSecond: PER_SECOND, deadlineMs: DEADLINE_MS };
        await a.daemon.ask({ send: [b.name], ...options });
        await b.daemon.ask({ send: [a.name], ...options });
        const changes: readonly { readonly way: Way; act(): Promise<void> }[] = [
          { way: { kind: "direct" }, act: async () => {} },
          { way: { kind: "relay", via: "relay" }, act: () => keepApart(router, host("a"), host("b"), "apart1") },
          { way: { kind: "transit", via: "c" }, act: () => keepApart(router, host("a"), host("relay"), "apart2") },
          {
            way: { kind: "direct" },
            act: async () => {
              for (const table of ["apart1", "apart2"]) await reunite(router, table);
            },
          },
        ];
        for (const { way, act } of changes) {
          const startMs = Date.now();
          await act();
          await a.reaches(b, way);
          await b.reaches(a, way);
          const before = [(await a.progress()).received, (await b.progress()).received];
          await until(`messages arrive on ${way.kind}`, CHANGE_LIMIT_MS, async () => {
            const now = [await a.progress(), await b.progress()];
            // who has sent everything has nothing left for this way
            return now.every(({ received }, i) => received - before[i] >= PER_WAY || received === MESSAGES)
              ? true
              : undefined;
          });
          t.diagnostic(`${way.kind}: ${PER_WAY} messages each way after ${Date.now() - startMs} ms`);
        }
        for (const peer of [a, b]) {
          await until(
            `everything of ${peer.name} has an outcome`,
            CHANGE_LIMIT_MS,
            async () => (await peer.progress()).waiting === 0 || undefined,
          );
        }
        for (const [from, to] of [[a, b], [b, a]] as const) {
          const outcomes = from.journal().filter((entry) => "o" in entry);
          assert.equal(outcomes.length, MESSAGES);
          assert.ok(outcomes.every(({ o }) => o === "acknowledged"), `every message of ${from.name} is acknowledged`);
          await until(`${to.name} has read everything`, CHANGE_LIMIT_MS, async () => (await to.progress()).received >= MESSAGES || undefined);
          const texts = to.journal().filter((entry) => "r" in entry).map(({ text }) => String(text).trim());
          assert.equal(new Set(texts).size, MESSAGES);
          assert.equal(texts.length, MESSAGES, "once each");
        } // prettier-ignore
      } catch (error) {
        if (error instanceof Error)
          error.message += `\n--- logs\n${[a.daemon.tail(40), b.daemon.tail(40), network.logs(40)].join("\n")}`;
        throw error;
      }
    },
  );
});
