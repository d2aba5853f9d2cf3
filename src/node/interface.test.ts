import assert from "node:assert/strict";
import { test } from "node:test";
import { nullLogger } from "../base/log.ts";
import { InterfaceConfigurator, interfaceMtu, overlayMtu, superPacketBytes } from "./interface.ts";

const PLAN = {
  name: "weft0",
  addresses: ["100.64.0.1", "fd00::1"],
  prefixes: ["100.64.0.0/16", "fd00::/48"],
  mtuBytes: 1436,
  prefixMtuBytes: 1416,
};

function setup(run?: (input: string) => Promise<string>): { batches: string[][]; configurator: InterfaceConfigurator } {
  const batches: string[][] = [];
  const configurator = new InterfaceConfigurator(
    {
      log: nullLogger,
      run: (_, input) => {
        batches.push(input.trim().split("\n"));
        return run?.(input) ?? Promise.resolve("");
      },
    },
    PLAN,
  );
  return { batches, configurator };
}

test("one batch sets addresses, link and the network's routes with their MTU", async () => {
  const { batches, configurator } = setup();
  await configurator.start();
  assert.deepEqual(batches, [
    [
      "link set dev weft0 mtu 1436",
      "address replace 100.64.0.1/32 dev weft0",
      "address replace fd00::1/128 dev weft0 nodad",
      "link set dev weft0 up",
      "route add 100.64.0.0/16 dev weft0 mtu 1416 src 100.64.0.1",
      "route add fd00::/48 dev weft0 mtu 1416 src fd00::1",
    ],
    [`link set dev weft0 gso_max_size ${superPacketBytes(1416)}`],
  ]);
});

test("a super-packet of the kernel fills one train of datagrams, with and without TCP timestamps, in both families", () => {
  for (const inner of [1280, 1416, 1436, 8916]) {
    const fit = Math.floor(65_000 / (inner + 36));
    for (const headerBytes of [40, 52, 60, 72]) {
      const segments = Math.floor((superPacketBytes(inner) - 321) / (inner - headerBytes));
      assert.ok(segments === fit || segments === fit - 1, `${inner} ${headerBytes}: ${segments} of ${fit}`);
    }
  }
});

test("an ip utility that does not know gso_max_size is no reason to fail", async () => {
  const { configurator } = setup((input) =>
    input.includes("gso_max_size") ? Promise.reject(new Error("unknown")) : Promise.resolve(""),
  );
  await configurator.start();
});

test("a burst of changes becomes one batch of what differs", async () => {
  const { batches, configurator } = setup();
  configurator.setPeer(["100.64.0.2"], 1300);
  configurator.setPeer(["100.64.0.2", "fd00::2"], 1200);
  configurator.setPeer(["100.64.0.3"], 1416);
  await configurator.settled();
  assert.deepEqual(batches, [
    [
      "route replace 100.64.0.2/32 dev weft0 mtu 1200 src 100.64.0.1",
      "route replace fd00::2/128 dev weft0 mtu 1280 src fd00::1",
    ],
  ]);
  configurator.setPeer(["100.64.0.2", "fd00::2"], undefined);
  await configurator.settled();
  assert.deepEqual(batches[1], ["route del 100.64.0.2/32 dev weft0", "route del fd00::2/128 dev weft0"]);
  configurator.setPeer(["100.64.0.2"], undefined);
  await configurator.settled();
  assert.equal(batches.length, 2);
});

test("changes that come while a batch runs go into the next one", async () => {
  let release = (): void => undefined;
  const { batches, configurator } = setup(() => new Promise((resolve) => (release = () => resolve(""))));
  configurator.setPeer(["100.64.0.2"], 1300);
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  assert.equal(batches.length, 1);
  configurator.setPeer(["100.64.0.2"], 1250);
  configurator.setPeer(["100.64.0.4"], 1300);
  release();
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  release();
  await configurator.settled();
  assert.deepEqual(batches[1], [
    "route replace 100.64.0.2/32 dev weft0 mtu 1250 src 100.64.0.1",
    "route replace 100.64.0.4/32 dev weft0 mtu 1300 src 100.64.0.1",
  ]);
});

test("a route that is refused is reported and not tried for ever", async () => {
  const { batches, configurator } = setup(() => Promise.reject(new Error("no")));
  configurator.setPeer(["100.64.0.2"], 1300);
  await configurator.settled();
  assert.equal(batches.length, 1);
  await assert.rejects(configurator.start(), /no/);
});

test("the overlay MTU is what the underlay leaves, and never below what IPv4 needs", () => {
  assert.equal(overlayMtu(1500, 4), 1436);
  assert.equal(overlayMtu(1500, 6), 1416);
  assert.equal(overlayMtu(100, 4), 576);
});

test("a small underlay leaves the interface 1,280 bytes, which IPv6 needs, and IPv6 routes never get less", async () => {
  assert.equal(interfaceMtu(1280), 1280);
  assert.equal(interfaceMtu(1500), overlayMtu(1500, 4));
  const batches: string[] = [];
  const configurator = new InterfaceConfigurator(
    {
      log: nullLogger,
      run: (_, input) => {
        batches.push(input);
        return Promise.resolve("");
      },
    },
    { ...PLAN, mtuBytes: 1236, prefixMtuBytes: 1300 },
  );
  configurator.setPeer(["100.64.0.9", "fd00::9"], 1196);
  await configurator.settled();
  assert.match(batches.join(""), /100\.64\.0\.9\/32 dev weft0 mtu 1196/);
  assert.match(batches.join(""), /fd00::9\/128 dev weft0 mtu 1280/);
});
