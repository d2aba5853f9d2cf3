import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { nullLogger } from "../base/log.ts";
import { Journal } from "./journal.ts";
import { Resolver, type ResolverFiles, type ResolverMode, type ResolverPlan } from "./resolver.ts";
import { SystemChanges } from "./system-changes.ts";

const root = mkdtempSync(join(tmpdir(), "weft-resolver-"));
const journals: Journal[] = [];
after(async () => {
  for (const journal of journals) await journal.close();
  rmSync(root, { recursive: true, force: true });
});

const plan: ResolverPlan = {
  servers: ["100.64.0.1", "fd00::1"],
  domains: ["home.weft", "64.100.in-addr.arpa"],
  hosts: [
    ["100.64.0.1", "a.home.weft"],
    ["fd00::1", "a.home.weft"],
  ],
  everything: false,
};

interface World {
  readonly files: ResolverFiles;
  readonly commands: string[];
  readonly inputs: string[];
  readonly resolver: Resolver;
}

/** @param present programs that work */
async function world(
  mode: ResolverMode,
  present: readonly string[] = [],
  prepare?: (files: ResolverFiles) => void,
): Promise<World> {
  const folder = mkdtempSync(join(root, "w-"));
  const files: ResolverFiles = {
    hosts: join(folder, "hosts"),
    resolvConf: join(folder, "resolv.conf"),
    resolvconfConf: join(folder, "resolvconf.conf"),
    resolvedSocket: join(folder, "resolved"),
  };
  writeFileSync(files.hosts, "127.0.0.1 localhost");
  writeFileSync(files.resolvConf, "nameserver 192.0.2.53\n");
  prepare?.(files);
  const commands: string[] = [];
  const inputs: string[] = [];
  const journal = await Journal.open(folder, "s");
  journals.push(journal);
  const machine = {
    scope: "s",
    sysctlRoot: folder,
    isScopeAlive: () => true,
    run: (program: string, args: readonly string[], input = "") => {
      commands.push([program, ...args].join(" "));
      inputs.push(input);
      return present.includes(program)
        ? Promise.resolve("")
        : Promise.reject(new Error(`the program \`${program}\` is not installed`));
    },
  };
  const changes = new SystemChanges({ journal, machine, log: nullLogger });
  const resolver = new Resolver({ changes, log: nullLogger, files }, { mode, interface: "weft0", tag: "t1" });
  return { files, commands, inputs, resolver };
}

test("a machine without a resolver service gets a block in hosts; resolv.conf stays until an exit is used", async () => {
  const { files, resolver } = await world("auto");
  await resolver.apply(plan);
  assert.equal(resolver.mode, "hosts");
  assert.match(
    readFileSync(files.hosts, "utf8"),
    /^127\.0\.0\.1 localhost\n# weft t1 begin.*\n100\.64\.0\.1 a\.home\.weft\nfd00::1 a\.home\.weft\n# weft t1 end\n$/,
  );
  assert.equal(readFileSync(files.resolvConf, "utf8"), "nameserver 192.0.2.53\n");
  await resolver.apply({ ...plan, everything: true });
  assert.match(
    readFileSync(files.resolvConf, "utf8"),
    /^# weft t1: .*\nnameserver 100\.64\.0\.1\nnameserver fd00::1\noptions edns0\n$/,
  );
  await resolver.apply(plan);
  assert.equal(readFileSync(files.resolvConf, "utf8"), "nameserver 192.0.2.53\n");
  await resolver.clear();
  assert.equal(readFileSync(files.hosts, "utf8"), "127.0.0.1 localhost");
});

test("a resolv.conf that another program rewrites while an exit is used is ours again at the next look, and its own afterwards", async () => {
  const { files, resolver } = await world("hosts");
  await resolver.apply({ ...plan, everything: true });
  writeFileSync(files.resolvConf, "nameserver 198.51.100.1\n");
  await resolver.apply({ ...plan, everything: true });
  assert.match(readFileSync(files.resolvConf, "utf8"), /nameserver 100\.64\.0\.1/);
  await resolver.clear();
  assert.equal(readFileSync(files.resolvConf, "utf8"), "nameserver 198.51.100.1\n");
});

test("systemd-resolved gets routing domains only, everything while an exit is used, and is reverted", async () => {
  const { commands, resolver } = await world("auto", ["resolvectl"], (files) => {
    writeFileSync(files.resolvedSocket, "");
    writeFileSync(files.resolvConf, "nameserver 127.0.0.53\n");
  });
  await resolver.apply(plan);
  assert.equal(resolver.mode, "resolved");
  assert.deepEqual(commands.splice(0), [
    "resolvectl status weft0",
    "resolvectl dns weft0 100.64.0.1 fd00::1",
    "resolvectl domain weft0 ~home.weft ~64.100.in-addr.arpa",
    "resolvectl default-route weft0 no",
  ]);
  await resolver.apply(plan);
  assert.deepEqual(commands.splice(0), [], "nothing twice");
  await resolver.apply({ ...plan, everything: true });
  assert.deepEqual(commands.splice(0).slice(-2), ["resolvectl domain weft0 ~.", "resolvectl default-route weft0 yes"]);
  await resolver.clear();
  assert.deepEqual(commands, ["resolvectl revert weft0"]);
});

test("resolvconf is used where a local resolver makes split names possible", async () => {
  const { commands, inputs, resolver } = await world("auto", ["resolvconf"], (files) =>
    writeFileSync(files.resolvconfConf, "name_servers=127.0.0.1\ndnsmasq_conf=/etc/dnsmasq-conf.conf\n"),
  );
  await resolver.apply(plan);
  assert.equal(resolver.mode, "resolvconf");
  assert.equal(commands.at(-1), "resolvconf -p -a weft0.weft");
  assert.equal(inputs.at(-1), "nameserver 100.64.0.1\nnameserver fd00::1\nsearch home.weft\n");
  await resolver.apply({ ...plan, everything: true });
  assert.equal(commands.at(-1), "resolvconf -x -a weft0.weft");
  await resolver.clear();
  assert.equal(commands.at(-1), "resolvconf -d weft0.weft -f");
  const plain = await world("auto", ["resolvconf"], (files) =>
    writeFileSync(files.resolvconfConf, "resolv_conf=/etc/resolv.conf\n"),
  );
  await plain.resolver.apply(plan);
  assert.equal(plain.resolver.mode, "hosts");
});

test("off leaves everything alone", async () => {
  const { files, commands, resolver } = await world("off");
  await resolver.apply({ ...plan, everything: true });
  assert.equal(readFileSync(files.hosts, "utf8"), "127.0.0.1 localhost");
  assert.deepEqual(commands, []);
});
