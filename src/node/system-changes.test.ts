import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { nullLogger } from "../base/log.ts";
import { Journal } from "./journal.ts";
import { type Machine, SystemChanges } from "./system-changes.ts";

const root = mkdtempSync(join(tmpdir(), "weft-changes-"));
const journals: Journal[] = [];
after(async () => {
  for (const journal of journals) await journal.close();
  rmSync(root, { recursive: true, force: true });
});

interface World {
  readonly state: string;
  readonly sysctlRoot: string;
  readonly commands: string[];
  fail: RegExp | undefined;
}

function world(): World {
  const state = mkdtempSync(join(root, "w-"));
  const sysctlRoot = join(state, "sys");
  mkdirSync(join(sysctlRoot, "net"), { recursive: true });
  return { state, sysctlRoot, commands: [], fail: undefined };
}

/** A process, which ends without undoing anything. */
async function start(world: World, scope = "boot/1", isAlive = true): Promise<SystemChanges> {
  const machine: Machine = {
    scope,
    sysctlRoot: world.sysctlRoot,
    isScopeAlive: () => isAlive,
    run: (program, args, input = "") => {
      const line = [program, ...args].join(" ");
      world.commands.push(line);
      if (world.fail?.test(`${line} ${input}`) === true)
        return Promise.reject(new Error("RTNETLINK answers: No such file or directory"));
      return Promise.resolve("");
    },
  };
  const journal = await Journal.open(world.state, scope);
  journals.push(journal);
  return new SystemChanges({ journal, machine, log: nullLogger });
}

test("a kernel parameter comes back after the process was killed, and undoing again does nothing", async () => {
  const w = world();
  const file = join(w.sysctlRoot, "net/forwarding");
  writeFileSync(file, "0\n");
  const first = await start(w);
  assert.equal(await first.sysctl("net/forwarding", "1"), true);
  assert.equal(await first.sysctl("net/forwarding", "1"), false);
  assert.equal(readFileSync(file, "utf8"), "1\n");
  const second = await start(w);
  assert.deepEqual(
    (await second.undo()).map(({ outcome }) => outcome),
    ["undone"],
  );
  assert.equal(readFileSync(file, "utf8"), "0\n");
  assert.deepEqual(await second.undo(), []);
  assert.deepEqual(await (await start(w)).undo(), []);
});

test("what somebody else has set since stays", async () => {
  const w = world();
  const file = join(w.sysctlRoot, "net/forwarding");
  writeFileSync(file, "0\n");
  const first = await start(w);
  await first.sysctl("net/forwarding", "1");
  writeFileSync(file, "2\n");
  assert.deepEqual(
    (await first.undo()).map(({ outcome }) => outcome),
    ["foreign"],
  );
  assert.equal(readFileSync(file, "utf8"), "2\n");
});

test("a file is put back byte for byte, whatever was in it, in place", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), fc.uint8Array({ maxLength: 200 }), async (before, content) => {
      const w = world();
      const file = join(w.state, "resolv.conf");
      writeFileSync(file, before);
      const first = await start(w);
      await first.file(file, Buffer.from(content));
      assert.deepEqual(readFileSync(file), Buffer.from(content));
      await (await start(w)).undo();
      assert.deepEqual(readFileSync(file), Buffer.from(before));
    }),
    { numRuns: 60 },
  );
});

test("an overwrite that was cut short anywhere is recognised and put back", async () => {
  const w = world();
  const file = join(w.state, "resolv.conf");
  const [before, content] = [
    Buffer.from("nameserver 192.0.2.1\nsearch example.org\n"),
    Buffer.from("# weft\nnameserver 100.64.0.1\n"),
  ];
  for (let cut = 0; cut <= content.length; cut++) {
    writeFileSync(file, before);
    const first = await start(w);
    await first.file(file, content);
    const torn = Buffer.from(before);
    content.copy(torn, 0, 0, cut);
    writeFileSync(file, torn);
    await (await start(w)).undo();
    assert.deepEqual(readFileSync(file), before, `cut after ${cut} bytes`);
  }
});

test("a file rewritten by somebody else is left alone; ours on top of ours keeps the original", async () => {
  const w = world();
  const file = join(w.state, "resolv.conf");
  writeFileSync(file, "original\n");
  const first = await start(w);
  await first.file(file, Buffer.from("ours 1\n"));
  await first.file(file, Buffer.from("ours 2\n"));
  await first.undo();
  assert.equal(readFileSync(file, "utf8"), "original\n");
  await first.file(file, Buffer.from("ours 3\n"));
  writeFileSync(file, "dhcp wrote this\n");
  await first.undo();
  assert.equal(readFileSync(file, "utf8"), "dhcp wrote this\n");
});

test("a block of lines comes and goes byte for byte, with and without a last line's end, and others' edits stay", async () => {
  const [begin, end] = ["# weft x begin", "# weft x end"];
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.constantFrom("127.0.0.1 localhost", "", "# text", "::1 a b")),
      fc.boolean(),
      async (lines, isEnded) => {
        const w = world();
        const file = join(w.state, "hosts");
        const original = lines.join("\n") + (isEnded ? "\n" : "");
        writeFileSync(file, original);
        const first = await start(w);
        await first.block(file, begin, end, ["100.64.0.1 a.home.weft"]);
        assert.match(readFileSync(file, "utf8"), /^100\.64\.0\.1 a\.home\.weft$/m);
        await first.block(file, begin, end, ["100.64.0.2 b.home.weft", "100.64.0.3 c.home.weft"]);
        assert.doesNotMatch(readFileSync(file, "utf8"), /a\.home\.weft/);
        await (await start(w)).undo();
        assert.equal(readFileSync(file, "utf8"), original);
      },
    ),
    { numRuns: 60 },
  );
  const w = world();
  const file = join(w.state, "hosts");
  writeFileSync(file, "one\n");
  const first = await start(w);
  await first.block(file, begin, end, ["ours"]);
  writeFileSync(file, `zero\n${readFileSync(file, "utf8")}two\n`);
  await first.undo();
  assert.equal(readFileSync(file, "utf8"), "zero\none\ntwo\n");
});

test("undone newest first; the order of a kill at any moment between two changes", async () => {
  for (let steps = 0; steps <= 4; steps++) {
    const w = world();
    const first = await start(w);
    const make = [
      () => first.nft("weft-guard", "x", true),
      () => first.table(4, 7, ["unicast 10.0.0.0/8 dev weft0"]),
      () => first.rule(4, "not fwmark 0x1 lookup 7 pref 9338"),
      () => first.resolved("weft0", [["dns", "weft0", "100.64.0.1"]]),
    ];
    for (const step of make.slice(0, steps)) await step();
    w.commands.length = 0;
    await (await start(w)).undo();
    const all = [
      "resolvectl revert weft0",
      "ip -4 rule del not fwmark 0x1 lookup 7 pref 9338",
      "ip -4 route flush table 7",
      "nft delete table inet weft-guard",
    ];
    assert.deepEqual(w.commands, all.slice(4 - steps));
  }
});

test("a change that fails is undone at once and leaves nothing in the journal", async () => {
  const w = world();
  const first = await start(w);
  w.fail = /rule add/;
  await assert.rejects(first.rule(4, "lookup 7"));
  assert.deepEqual(first.journal.outstanding, []);
  assert.deepEqual(w.commands, ["ip -4 rule add lookup 7", "ip -4 rule del lookup 7"]);
});

test("what is gone already counts as undone; another failure stays in the journal", async () => {
  const w = world();
  const first = await start(w);
  await first.rule(4, "lookup 7");
  w.fail = /rule del/;
  assert.deepEqual(
    (await first.undo()).map(({ outcome }) => outcome),
    ["gone"],
  );
  assert.deepEqual(first.journal.outstanding, []);
});

test("kernel state of another boot is gone; that of a living namespace is not ours to touch; files are undone anywhere", async () => {
  const w = world();
  const file = join(w.state, "hosts");
  writeFileSync(file, "x\n");
  const first = await start(w, "boot-1/1");
  await first.rule(4, "lookup 7");
  await first.block(file, "# b", "# e", ["y"]);
  w.commands.length = 0;
  const elsewhere = await start(w, "boot-1/2", true);
  assert.deepEqual(
    (await elsewhere.undo()).map(({ outcome }) => outcome),
    ["undone", "failed"],
  );
  assert.equal(readFileSync(file, "utf8"), "x\n");
  const later = await start(w, "boot-2/1", false);
  assert.deepEqual(
    (await later.undo()).map(({ outcome }) => outcome),
    ["gone"],
  );
  assert.deepEqual(w.commands, []);
});

test("a parameter that another one resets is put back although it was right before", async () => {
  const w = world();
  const file = join(w.sysctlRoot, "net/eth0");
  writeFileSync(file, "1\n");
  const first = await start(w);
  await first.sysctl("net/eth0", "1", true);
  writeFileSync(file, "0\n");
  await first.undo();
  assert.equal(readFileSync(file, "utf8"), "1\n");
});
