/**
 * Streams between two real nodes while the way between them changes: direct, through a relay, through another member, direct again, over underlays of
 * 1,500 and 1,280 bytes. Both send all the time; every byte arrives, in order, and the QUIC connection is the same from the first byte to the last.
 */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import type { Host, Lab } from "../../lab/namespaces.ts";
import { formNetwork } from "../../lab/network.ts";
import { type Daemon, until } from "../../lab/process.ts";
import { RELAY_CONFIG } from "../../lab/scenarios/ways.ts";
import { keepApart, reunite, routedHosts } from "../../lab/topologies.ts";
import { skip, withLab } from "./support.ts";

const WEFT_NODE = fileURLToPath(new URL("../../bin/weft-node", import.meta.url));
const PEER = fileURLToPath(new URL("../../lab/stream-peer.ts", import.meta.url));
const BYTES_PER_SECOND = 1_000_000;
/** What has to arrive on each way before the next change. */
const BYTES_PER_WAY = 3_000_000;
const CHANGE_LIMIT_MS = 60_000;

interface Way {
  readonly kind: "direct" | "relay" | "transit";
  readonly via?: string;
}

class StreamPeer {
  readonly name: string;
  readonly host: Host;
  readonly daemon: Daemon;

  constructor(lab: Lab, host: Host) {
    this.name = host.name;
    this.host = host;
    const args = [PEER, "--state", `${lab.folder}/state-${host.name}`, "--name", host.name];
    this.daemon = host.spawn(WEFT_NODE, args, { name: `${host.name}:streams` });
    lab.onClose(async () => void (await this.daemon.stop("SIGTERM")));
  }

  /** Until the path to the other one is of that kind. */
  async reaches(other: StreamPeer, { kind, via }: Way): Promise<number> {
    return until(`${this.name} reaches ${other.name} by ${kind}`, CHANGE_LIMIT_MS, async () => {
      const seen = await this.daemon.ask({ peer: other.name });
      if (seen["online"] === true && seen["kind"] === kind && (via === undefined || seen["via"] === via))
        return Number(seen["pmtu"]);
      throw new Error(JSON.stringify(seen));
    });
  }

  async progress(): Promise<{ arrived: number; generation: number }> {
    const { arrived, generation, failure } = await this.daemon.ask({ progress: true });
    assert.equal(failure, null, `${this.name}'s stream has failed`);
    return { arrived: Number(arrived), generation: Number(generation) };
  }

  async arrives(bytes: number): Promise<void> {
    const { arrived: before } = await this.progress();
    await until(`${bytes} bytes of ${this.name} arrive`, CHANGE_LIMIT_MS, async () =>
      (await this.progress()).arrived - before >= bytes ? true : undefined,
    );
  }
}

/** @param changes what is done to the router, and the way that must come of it */
async function checkStreams(
  t: TestContext,
  names: readonly string[],
  mtuBytes: number,
  changes: (router: Host, host: (name: string) => Host) => readonly { readonly way: Way; act(): Promise<void> }[],
): Promise<void> {
  await withLab(
    () => routedHosts([...names, "a", "b"], { mtuBytes }),
    async ({ lab, router, hosts }) => {
      const host = (name: string): Host => hosts.find((one) => one.name === name) as Host;
      const network = await formNetwork(lab, names.map(host), {
        config: ({ name }) => (name === "relay" ? RELAY_CONFIG : undefined),
      });
      const peers: StreamPeer[] = [];
      try {
        for (const name of ["a", "b"]) {
          const peer = new StreamPeer(lab, host(name));
          peers.push(peer);
          await peer.daemon.ask({ join: (await network.admin.invite()).token }, 30_000);
        }
        const [a, b] = peers as [StreamPeer, StreamPeer];
        const directions = [[a, b], [b, a]] as const; // prettier-ignore
        const generations = new Set<string>();
        for (const [from, to] of directions) {
          await from.daemon.ask({ send: to.name, bytesPerSecond: BYTES_PER_SECOND }, 30_000);
        }
        for (const { way, act } of [
          { way: { kind: "direct" } as const, act: async () => {} },
          ...changes(router, host),
        ]) {
          const before = Date.now();
          await act();
          for (const [from, to] of directions) {
            const pmtu = await from.reaches(to, way);
            assert.ok(pmtu <= mtuBytes, `${pmtu} bytes on ${way.kind}`);
          }
          const changedMs = Date.now() - before;
          await Promise.all([a.arrives(BYTES_PER_WAY), b.arrives(BYTES_PER_WAY)]);
          t.diagnostic(
            `${way.kind} after ${changedMs} ms, ${BYTES_PER_WAY} bytes each way after ${Date.now() - before} ms`,
          );
          for (const [from] of directions) generations.add(`${from.name} ${(await from.progress()).generation}`);
        }
        for (const peer of [a, b]) {
          const end = await peer.daemon.ask({ finish: true }, CHANGE_LIMIT_MS);
          t.diagnostic(`${peer.name}: ${String(end["sent"])} bytes sent`);
          assert.equal(end["arrived"], end["sent"], `bytes of ${peer.name}`);
          assert.equal(end["arrivedHash"], end["sentHash"], `bytes of ${peer.name}, in order and unchanged`);
          assert.equal(
            end["nextGeneration"],
            end["generation"],
            `${peer.name}: the next stream is on the same connection`,
          );
          assert.ok(Number(end["sent"]) >= BYTES_PER_WAY, "control: something was sent");
        }
        assert.equal(generations.size, 2, `one connection from the first byte to the last: ${[...generations].join()}`);
      } catch (error) {
        if (error instanceof Error)
          error.message += `\n--- logs\n${[...peers.map(({ daemon }) => daemon.tail(60)), network.logs(60)].join("\n")}`;
        throw error;
      }
    },
  );
}

test(
  "streams live through direct, relay, transit and direct again, and lose nothing",
  { skip, timeout: 280_000 },
  async (t) => {
    await checkStreams(t, ["c", "relay"], 1_500, (router, host) => [
      { way: { kind: "relay", via: "relay" }, act: () => keepApart(router, host("a"), host("b"), "apart1") },
      { way: { kind: "transit", via: "c" }, act: () => keepApart(router, host("a"), host("relay"), "apart2") },
      {
        way: { kind: "direct" },
        act: async () => {
          for (const table of ["apart1", "apart2"]) await reunite(router, table);
        },
      },
    ]);
  },
);

test(
  "the same over an underlay of 1,280 bytes, where a way through a member is smaller still",
  { skip, timeout: 280_000 },
  async (t) => {
    await checkStreams(t, ["c"], 1_280, (router, host) => [
      { way: { kind: "transit", via: "c" }, act: () => keepApart(router, host("a"), host("b")) },
      { way: { kind: "direct" }, act: () => reunite(router) },
    ]);
  },
);
