import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertOneLine, exited, root, up, weft } from "../support/weft-command.ts";

test("two daemons: the JSON contracts, a second daemon on one directory, a busy port, down and leave", async () => {
  const [one, two] = [join(root, "one"), join(root, "two")];
  await weft("init", "home", "--name", "a", "--state", one);
  const first = await up(one);
  const json = async (...args: string[]): Promise<Record<string, unknown>> => {
    const result = await weft(...args, "--json");
    assert.equal(result.code, 0, result.stderr);
    return JSON.parse(result.stdout) as Record<string, unknown>;
  };
  const invite = await json("invite", "--state", one);
  assert.deepEqual(Object.keys(invite).slice(0, 3), ["token", "expiresAt", "uses"]);
  const tokenFile = join(root, "token");
  writeFileSync(tokenFile, `${String(invite["token"])}\n`);
  const second = await up(two, "--name", "b", "--join", `@${tokenFile}`);

  const ping = await json("ping", "b", "--state", one, "--count", "2", "--interval", "10ms");
  const replies = ping["replies"] as {
    seq: number;
    rttMs: number;
    path: { kind: string; endpoint: string; via: null };
  }[];
  assert.equal(ping["lost"], 0);
  assert.deepEqual(
    replies.map((reply) => reply.seq),
    [1, 2],
  );
  assert.equal(replies[0]?.path.kind, "direct");
  assert.equal(replies[0]?.path.via, null);

  const status = await json("status", "--state", two);
  const has = (value: unknown, ...names: string[]): void => {
    for (const name of names) assert.ok(Object.hasOwn(value as object, name), `${name} is missing`);
  };
  has(status, "node", "network", "peers", "health");
  has(status["node"], "id", "name", "addresses", "version", "mode");
  has(status["network"], "id", "name", "members");
  const [peer] = status["peers"] as Record<string, unknown>[];
  has(peer, "id", "name", "addresses", "online", "path", "rttMs", "loss", "pmtu", "txBytes", "rxBytes");
  has(peer, "lastDeliveryMs", "epochAgeMs", "cipher", "hybrid");
  has(peer?.["path"], "kind", "endpoint", "via");
  assert.equal(peer?.["online"], true);
  assert.equal(peer?.["hybrid"], true);
  for (const item of status["health"] as object[]) has(item, "code", "severity", "text", "remedy");
  assert.deepEqual(
    (await json("ip", "--state", two))["addresses"],
    (status["node"] as { addresses: string[] }).addresses,
  );
  assert.equal((await json("whois", "b", "--state", one))["name"], "b");
  assert.equal(((await json("members", "--state", one))["members"] as unknown[]).length, 2);
  assertOneLine(await weft("whois", "nobody", "--state", one), 4, /nobody/);
  assertOneLine(await weft("ping", "nobody", "--state", one), 4, /nobody/);
  assertOneLine(await weft("revoke", "a", "--state", two, "--yes"), 1, /admin/);
  assertOneLine(await weft("revoke", "b", "--state", one), 2, /--yes/);
  for (const command of ["status", "peers", "members"])
    assert.match((await weft(command, "--state", one)).stdout, /\bb\b/);

  assertOneLine(await weft("up", "--state", one), 1, /another weft uses the state directory/);
  const port = (await json("status", "--state", one))["node"] as { listenPorts: number[] };
  await weft("init", "other", "--state", join(root, "busy"));
  const busy = await weft(
    "up",
    "--no-tun",
    "--listen",
    `127.0.0.1:${port.listenPorts[0]}`,
    "--state",
    join(root, "busy"),
  );
  assertOneLine(busy, 1, /taken.*--listen/);

  assert.equal((await weft("leave", "--yes", "--state", two)).stdout, "left home\n");
  assert.equal(await exited(second), 0);
  assert.equal(((await json("members", "--state", one))["members"] as unknown[]).length, 1);
  assertOneLine(await weft("up", "--state", two), 1, /belongs to no network/);
  assert.equal((await weft("down", "--state", one)).stdout, "stopped\n");
  assert.equal(await exited(first), 0);
});
