import assert from "node:assert/strict";
import { test } from "node:test";
import type { HostNetwork } from "./underlay.ts";
import { ownEndpoints, readHostNetwork } from "./underlay.ts";

const HOST: HostNetwork = {
  mtuBytes: 1500,
  addresses: [
    { interface: "lo", address: "127.0.0.1", loopback: true },
    { interface: "eth0", address: "192.0.2.7", loopback: false },
    { interface: "eth0", address: "2001:db8::7", loopback: false },
    { interface: "old", address: "fd12:3456:789a::1", loopback: false },
  ],
};
const BASE = {
  configured: [],
  port4: 1004,
  port6: 1006,
  host: HOST,
  isOverlay: (address: string) => address.startsWith("fd12:"),
};

test("a wildcard offers the interface addresses of its family, without loopback and overlay", async () => {
  const listen = [
    { address: "0.0.0.0", port: 0 },
    { address: "::", port: 0 },
  ];
  assert.deepEqual(await ownEndpoints({ ...BASE, listen }), [
    { address: "192.0.2.7", port: 1004 },
    { address: "2001:db8::7", port: 1006 },
  ]);
  assert.deepEqual(await ownEndpoints({ ...BASE, listen, port6: 0 }), [{ address: "192.0.2.7", port: 1004 }]);
});

test("a given address is offered as it is, loopback too, and configured endpoints come first", async () => {
  const found = await ownEndpoints({
    ...BASE,
    listen: [{ address: "127.0.0.1", port: 0 }],
    configured: ["198.51.100.1:7000", "[2001:db8::9]:7001", "127.0.0.1:1004", "no-such-host.invalid:1"],
  });
  assert.deepEqual(found, [
    { address: "198.51.100.1", port: 7000 },
    { address: "2001:db8::9", port: 7001 },
    { address: "127.0.0.1", port: 1004 },
  ]);
});

test("this host has a loopback address and a plausible MTU", async () => {
  const host = await readHostNetwork(undefined);
  assert.ok(host.mtuBytes >= 576);
  assert.ok(host.addresses.every(({ address }) => !address.toLowerCase().startsWith("fe80")));
});
