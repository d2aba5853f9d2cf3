/** The first thing a person does with Weft: found a network, join by one command each, use it, and leave no trace. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { StatusView } from "../../src/api/control.ts";
import type { Host } from "../../lab/namespaces.ts";
import { WeftNode } from "../../lab/network.ts";
import { until } from "../../lab/process.ts";
import { routedHosts } from "../../lab/topologies.ts";
import { iperf, ping, sendFile } from "../../lab/traffic.ts";
import { findTool } from "../../lab/tools.ts";
import { assertConservation, skip, withLab, withNetwork } from "./support.ts";

test(
  "init, up, invite and up --join by hand; ping, TCP, UDP, curl and scp over both families; a third joins",
  { skip },
  async (t) => {
    await withLab(
      () => routedHosts(["a", "b", "c"]),
      async ({ lab, hosts }) => {
        const [a, b, c] = hosts.map(
          (host) => new WeftNode({ host, name: host.name, state: join(lab.folder, host.name) }),
        ) as [WeftNode, WeftNode, WeftNode];
        await t.test("two nodes join", async () => {
          await a.init("home");
          await a.up();
          const { token, uses, expiresAt } = await a.invite();
          assert.equal(uses, 1);
          assert.ok(Date.parse(expiresAt) > Date.now());
          await b.join(token);
          await a.peer("b");
          await b.peer("a");
        });
        await t.test("status --json keeps its contract", async () => {
          const status = await b.json<StatusView>(["status"]);
          assert.equal(status.node.name, "b");
          assert.equal(status.node.mode, "tun");
          assert.equal(status.node.addresses.length, 2);
          assert.equal(status.network.name, "home");
          assert.equal(status.network.members, 2);
          const [peer] = status.peers;
          assert.ok(peer !== undefined && peer.online && peer.hybrid);
          assert.equal(peer.path.kind, "direct");
          assert.match(peer.path.endpoint ?? "", new RegExp(`^${a.host.address4}:|^\\[${a.host.address6}\\]:`));
          assert.ok(peer.rttMs !== null && peer.rttMs > 0 && peer.rttMs < 100);
          assert.ok(peer.pmtu !== null && peer.pmtu >= 1_280);
          assert.equal(peer.authentication, "ed25519");
          assert.ok(peer.capabilities.includes("hybrid"), peer.capabilities.join());
          assert.match(peer.cipher, /^(aes-256-gcm|chacha20-poly1305)$/);
          assert.ok(Array.isArray(status.health));
          const { addresses } = await b.json<{ addresses: string[] }>(["ip"]);
          assert.deepEqual(addresses, status.node.addresses);
          const pong = await b.json<{ replies: { seq: number; rttMs: number }[]; lost: number }>([
            "ping",
            "a",
            "--count",
            "3",
            "--interval",
            "50ms",
          ]);
          assert.equal(pong.replies.length, 3);
          assert.equal(pong.lost, 0);
        });
        for (const family of [4, 6] as const) {
          await t.test(`ping, iperf3, curl and scp over IPv${family}`, async () => {
            const address = await a.address(family);
            const echo = await ping(b.host, address, { count: 20, intervalMs: 10 });
            assert.equal(echo.received, echo.sent);
            const large = await ping(b.host, address, { count: 5, intervalMs: 10, bytes: 8_000 });
            assert.equal(large.received, large.sent, "fragmented packets pass");
            for (const reverse of [false, true]) {
              const tcp = await iperf(b.host, a.host, address, { seconds: 2, reverse });
              assert.ok(tcp.bitsPerSecond > 50e6, `${tcp.bitsPerSecond} bit/s`);
            }
            // slow enough that the receiving program's own buffer outlasts its being kept from the processor for a moment
            const udp = await iperf(b.host, a.host, address, {
              seconds: 3,
              protocol: "udp",
              rateBps: 5e6,
              lengthBytes: 1_200,
            });
            assert.ok(udp.packets > 1_000 && udp.lossRatio < 0.01, `${udp.lossRatio} of ${udp.packets} lost`);
            assert.ok((await sendFile(a.host, b.host, address, lab.folder, 8 << 20)).intact);
            await curl(lab.folder, a.host, b.host, address);
            await scp(lab.folder, a.host, b.host, address);
          });
        }
        await t.test("what was sent and received is counted by peer", async () => {
          const peer = await b.peer("a");
          assert.ok(peer.rxBytes > 50e6 && peer.txBytes > 50e6, `${peer.rxBytes} received, ${peer.txBytes} sent`);
        });
        await t.test("a third node joins and all pairs talk directly", async () => {
          await c.join((await a.invite()).token);
          for (const [from, to] of [
            [a, c],
            [c, a],
            [b, c],
            [c, b],
          ] as const) {
            const peer = await from.peer(to.name);
            assert.ok(
              peer.path.endpoint?.includes(to.host.address4) === true ||
                peer.path.endpoint?.includes(to.host.address6) === true,
            );
            for (const family of [4, 6] as const) {
              const echo = await ping(from.host, await to.address(family), { count: 5, intervalMs: 10 });
              assert.equal(echo.received, echo.sent);
            }
          }
          const { members } = await c.json<{ members: { name: string }[] }>(["members"]);
          assert.deepEqual(members.map(({ name }) => name).toSorted(), ["a", "b", "c"]);
        });
        for (const node of [a, b, c]) await assertConservation(node);
      },
    );
  },
);

async function curl(folder: string, server: Host, client: Host, address: string): Promise<void> {
  const data = randomBytes(1 << 20);
  writeFileSync(join(folder, "page"), data);
  const url = `http://${address.includes(":") ? `[${address}]` : address}:8080/`;
  const files = new URL("../../lab/file-transfer.ts", import.meta.url).pathname;
  const daemon = server.spawn(new URL("../../bin/weft-node", import.meta.url).pathname, [
    files,
    "serve",
    join(folder, "page"),
    address,
    "8080",
  ]);
  try {
    await daemon.waitFor(/^serving/, 10_000);
    await client.must("curl", ["-sSf", "-m", "20", "-o", join(folder, "got"), url]);
    assert.deepEqual(readFileSync(join(folder, "got")), data);
  } finally {
    await daemon.stop("SIGKILL");
  }
}

/** A file over ssh with keys made for this test, into a folder of the lab. */
async function scp(folder: string, server: Host, client: Host, address: string): Promise<void> {
  const ssh = join(folder, "ssh");
  mkdirSync(ssh, { recursive: true });
  mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
  const [hostKey, userKey] = [join(ssh, `host-${address}`), join(ssh, `user-${address}`)];
  for (const key of [hostKey, userKey]) await client.must("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", key]);
  const authorized = join(ssh, "authorized");
  writeFileSync(authorized, readFileSync(`${userKey}.pub`));
  chmodSync(authorized, 0o600);
  const options = [
    `HostKey=${hostKey}`,
    `AuthorizedKeysFile=${authorized}`,
    "StrictModes=no",
    "UsePAM=no",
    "PermitRootLogin=prohibit-password",
    "PidFile=none",
    "Subsystem=sftp internal-sftp",
  ];
  options.push(`ListenAddress=${address.includes(":") ? `[${address}]` : address}:2222`);
  const sshd = server.spawn(findTool("sshd") ?? "sshd", [
    "-D",
    "-e",
    "-f",
    "/dev/null",
    ...options.flatMap((option) => ["-o", option]),
  ]);
  try {
    await sshd.waitFor(/Server listening/, 10_000);
    const data = randomBytes(2 << 20);
    const [source, target] = [join(ssh, "source"), join(ssh, "target")];
    writeFileSync(source, data);
    const quiet = [
      "-o",
      "StrictHostKeyChecking=no",
      "-o",
      "UserKnownHostsFile=/dev/null",
      "-o",
      "BatchMode=yes",
      "-o",
      "LogLevel=ERROR",
    ];
    const bracketed = address.includes(":") ? `[${address}]` : address;
    const result = await client.exec("scp", [
      "-i",
      userKey,
      "-P",
      "2222",
      ...quiet,
      source,
      `root@${bracketed}:${target}`,
    ]);
    assert.equal(result.code, 0, `scp: ${result.stderr}\n${sshd.tail()}`);
    assert.equal(
      createHash("sha256").update(readFileSync(target)).digest("hex"),
      createHash("sha256").update(data).digest("hex"),
    );
  } finally {
    await sshd.stop("SIGKILL");
  }
}

test("interface, addresses and routes are gone after down and after kill -9", { skip }, async () => {
  await withNetwork(
    () => routedHosts(["a", "b"]),
    ({ hosts }) => hosts,
    async (network) => {
      const b = network.node("b");
      // A peer has a route of its own only while its path carries another size than the rest.
      const lasting = async (): Promise<string[]> =>
        (await routes(b.host)).filter((route) => /^local |^\S+\/\d+ /.test(route));
      const before = await lasting();
      assert.ok(before.length >= 4, before.join("\n"));
      await b.weft(["down"]);
      assert.equal(await b.daemon?.exited, 0);
      await assertClean(b.host);
      await b.up();
      await network.allPairs();
      await b.kill();
      await assertClean(b.host);
      await b.up();
      await network.allPairs();
      assert.deepEqual(await lasting(), before, "the same routes as before");
    },
  );
});

/** Routes through the tunnel in all tables, without those that the kernel makes for every interface. */
async function routes(host: Host): Promise<string[]> {
  const all = `${await host.ip("-4", "route", "show", "table", "all")}\n${await host.ip("-6", "route", "show", "table", "all")}`;
  const lines = all.split("\n").map((line) => line.trim().replaceAll(/ expires \S+/g, ""));
  return [...new Set(lines)].filter((line) => line.includes("weft") && !/fe80::|^multicast/.test(line)).toSorted();
}

async function assertClean(host: Host): Promise<void> {
  await until("interface and routes are gone", 3_000, async () => {
    const links = await host.ipJson("link", "show");
    return links.every((link) => !String(link["ifname"]).startsWith("weft")) && (await routes(host)).length === 0
      ? true
      : undefined;
  });
  assert.doesNotMatch(await host.ip("rule", "show"), /weft|fwmark/);
}
