/** The lab itself: isolation, forwarding, NAT and cleaning up, also after a crash. Needs root. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { sweepStale, whyNoNamespaces } from "./namespaces.ts";
import { hostsBehindNat, routedHosts, twoHosts } from "./topologies.ts";

const skip = whyNoNamespaces() ?? false;
const ours = (): string[] =>
  existsSync("/run/netns") ? readdirSync("/run/netns").filter((name) => name.startsWith(`weft-${process.pid}-`)) : [];

test("two hosts reach each other over both families and nothing is left after closing", { skip }, async () => {
  const { lab, a, b } = await twoHosts();
  try {
    await a.must("ping", ["-c1", "-W2", b.address4]);
    await a.must("ping", ["-c1", "-W2", b.address6]);
    assert.equal(ours().length, 2);
  } finally {
    await lab.close();
  }
  assert.deepEqual(ours(), []);
  assert.ok(!existsSync(lab.folder));
});

test("a router forwards between its hosts", { skip }, async () => {
  const { lab, hosts } = await routedHosts();
  try {
    const [a, , c] = hosts;
    await a?.must("ping", ["-c1", "-W2", c?.address4 ?? ""]);
    await a?.must("ping", ["-c1", "-W2", c?.address6 ?? ""]);
  } finally {
    await lab.close();
  }
});

test("a host behind NAT reaches out, and nobody reaches it unasked", { skip }, async () => {
  const { lab, outside, inside, nats, core } = await hostsBehindNat([{}, { random: true }]);
  try {
    for (const host of inside) await host.must("ping", ["-c1", "-W2", outside.address4]);
    const [first] = inside;
    const [nat] = nats;
    assert.ok(first !== undefined && nat !== undefined);
    // Even when the core knows the way to the inner network, the NAT lets nothing in.
    await core.ip("route", "add", `${first.address4}/32`, "via", nat.address4);
    const direct = await outside.exec("ping", ["-c1", "-W1", first.address4]);
    assert.notEqual(direct.code, 0);
  } finally {
    await lab.close();
  }
});

test("what a killed run left behind is swept by the next one, and a living run's is not", { skip }, async () => {
  const topologies = fileURLToPath(new URL("./topologies.ts", import.meta.url));
  const script = `import { twoHosts } from ${JSON.stringify(topologies)};
    const { a } = await twoHosts(); a.spawn("sleep", ["1000"]); console.log("up"); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  const left = (): string[] => readdirSync("/run/netns").filter((name) => name.startsWith(`weft-${child.pid}-`));
  assert.equal(left().length, 2);
  assert.deepEqual(
    sweepStale().filter((name) => name.startsWith(`weft-${child.pid}-`)),
    [],
  );
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.equal(left().length, 2);
  sweepStale();
  assert.deepEqual(left(), []);
});
