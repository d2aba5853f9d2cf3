import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertOneLine, root, run, weft } from "../support/weft-command.ts";

test("wrong usage is one line with the way to help, and exit code 2", async () => {
  assertOneLine(await weft("frobnicate"), 2, /unknown command 'frobnicate'/);
  assertOneLine(await weft("statsu"), 2, /Did you mean status\?/);
  assertOneLine(await weft("up", "--tunn", "x"), 2, /unknown option '--tunn'.*weft up --help/);
  assertOneLine(await weft("whois"), 2, /missing required argument/);
  assertOneLine(await weft("invite", "--uses", "none"), 2, /--uses "none"/);
  assertOneLine(await weft("invite", "--expires", "soon"), 2, /--expires "soon"/);
  assertOneLine(await weft("up", "--log", "loud"), 2, /--log "loud"/);
  assertOneLine(await weft("up", "--join", "@/no/such/file"), 2, /cannot read the token/);
});

test("every command has help with an example, and help loads nothing heavy", async () => {
  const hook = `import { registerHooks } from "node:module";
    registerHooks({ resolve(name, context, next) {
      if (/^(hono|zod|pino|koffi|node:sqlite|@hono)/.test(name)) throw new Error("loaded " + name);
      return next(name, context);
    } });`;
  const env = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(hook)}` };
  const help = await run(["--help"], "", env);
  assert.equal(help.code, 0, help.stderr);
  const names = [...help.stdout.matchAll(/^ {2}([a-z]+) \[options\]/gm)].map((match) => match[1]);
  assert.deepEqual(
    names.toSorted(),
    "agents approve bench demo deny dns doctor down exec exit explain files forward groups history inbox init invite ip kv leave mcp members netcheck peers ping presence pub repair request requests revoke roster routes send socks status sub tasks token trust up version whois".split(
      " ",
    ),
  );
  await Promise.all(
    names.map(async (name) => {
      const { code, stdout } = await run([name, "--help"], "", env);
      assert.equal(code, 0);
      for (const needed of ["--json", "--state", "Example:"]) assert.ok(stdout.includes(needed), `${name}: ${needed}`);
    }),
  );
});

test("commands that need a daemon say so, with exit code 3 and in JSON where asked", async () => {
  const state = join(root, "none");
  for (const args of [
    ["status"],
    ["peers"],
    ["members"],
    ["ip"],
    ["down"],
    ["invite"],
    ["whois", "a"],
    ["ping", "a"],
  ]) {
    assertOneLine(await weft(...args, "--state", state), 3, /no daemon is running on .*none.*weft up/);
  }
  const { stdout } = await weft("status", "--json", "--state", state);
  assert.equal((JSON.parse(stdout) as { error: { code: string } }).error.code, "DAEMON_DOWN");
});

test("init makes a network once and never over another", async () => {
  const state = join(root, "init");
  const made = await weft("init", "home", "--name", "a", "--ipv4", "10.20.0.0/16", "--json", "--state", state);
  const { node, network } = JSON.parse(made.stdout) as { node: { addresses: string[] }; network: { ipv4: string } };
  assert.equal(network.ipv4, "10.20.0.0/16");
  assert.equal(node.addresses[0], "10.20.0.1");
  const identity = readFileSync(join(state, "identity"), "utf8");
  assertOneLine(await weft("init", "other", "--state", state), 1, /belongs to a network already/);
  assert.equal(readFileSync(join(state, "identity"), "utf8"), identity);
  const bad = join(root, "bad");
  assertOneLine(await weft("init", "Bad Name", "--state", bad), 1, /Bad Name/);
  assertOneLine(await weft("init", "ok", "--ipv4", "10.0.0.1/33", "--state", bad), 1, /10\.0\.0\.1\/33/);
  assert.equal((await weft("init", "ok", "--state", bad)).code, 0);
});

test("up without a network, with a bad token, a damaged identity or an unknown key ends in one line", async () => {
  const state = join(root, "up");
  assertOneLine(await weft("up", "--state", state), 1, /belongs to no network; create one/);
  assertOneLine(await weft("up", "--state", state, "--join", "hello"), 1, /no invite token/);
  assertOneLine(await run(["up", "--state", state, "--join", "-"], "\n", {}), 2, /standard input holds no token/);
  assert.equal((await weft("init", "home", "--state", state)).code, 0);
  writeFileSync(join(state, "weft.toml"), "listne = []\n");
  assertOneLine(await weft("up", "--state", state), 2, /weft\.toml: unknown key "listne"; did you mean "listen"/);
  rmSync(join(state, "weft.toml"));
  const file = join(state, "identity");
  const damaged = readFileSync(file, "utf8").slice(0, -5);
  writeFileSync(file, damaged);
  assertOneLine(await weft("up", "--state", state), 1, /identity file .* is damaged/);
  assert.equal(readFileSync(file, "utf8"), damaged);
});
