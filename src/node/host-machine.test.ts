import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { WeftError } from "../base/errors.ts";
import { nullLogger } from "../base/log.ts";
import { parseRoutePrefix } from "../mesh/route-prefix.ts";
import { HostMachine, type MachinePlan } from "./host-machine.ts";
import { Journal } from "./journal.ts";
import { Resolver } from "./resolver.ts";
import { type Machine, SystemChanges } from "./system-changes.ts";

const root = mkdtempSync(join(tmpdir(), "weft-machine-"));
const journals: Journal[] = [];
after(async () => {
  for (const journal of journals) await journal.close();
  rmSync(root, { recursive: true, force: true });
});

const idle: MachinePlan = {
  prefixes: new Map(),
  exit: undefined,
  served: [],
  resolver: { servers: [], domains: [], hosts: [], everything: false },
};
const everything: MachinePlan = {
  ...idle,
  prefixes: new Map([
    ["0.0.0.0/0", 1400],
    ["::/0", 1400],
  ]),
  exit: { allowLan: false },
};

const MAIN = JSON.stringify([
  { dst: "default", gateway: "192.0.2.1", dev: "eth0" },
  { dst: "192.0.2.0/24", dev: "eth0", scope: "link" },
]);

interface World {
  readonly machine: HostMachine;
  readonly changes: SystemChanges;
  /** What was asked of the machine, by one word each. */
  readonly steps: string[];
  readonly sysctl: (path: string, value?: string) => string;
  fail: RegExp | undefined;
}

async function world(parameters: Record<string, string> = {}): Promise<World> {
  const folder = mkdtempSync(join(root, "w-"));
  const sysctlRoot = join(folder, "sys");
  const sysctl = (path: string, value?: string): string => {
    const file = join(sysctlRoot, path);
    mkdirSync(join(file, ".."), { recursive: true });
    if (value !== undefined) writeFileSync(file, `${value}\n`);
    return readFileSync(file, "utf8").trim();
  };
  for (const [path, value] of Object.entries(parameters)) sysctl(path, value);
  const steps: string[] = [];
  const journal = await Journal.open(folder, "s");
  journals.push(journal);
  const out: { fail: RegExp | undefined } = { fail: undefined };
  const host: Machine = {
    scope: "s",
    sysctlRoot,
    isScopeAlive: () => true,
    run: (program, args, input = "") => {
      const line = [program, ...args].join(" ");
      if (/ route show table /.test(line))
        return Promise.resolve(line.includes("table main") && line.includes("-4") ? MAIN : "[]");
      const step = nameOf(line, input);
      if (out.fail?.test(step) === true)
        return Promise.reject(new WeftError("PROGRAM_MISSING", `${step} refused`, "install it"));
      steps.push(step);
      return Promise.resolve("");
    },
  };
  const changes = new SystemChanges({ journal, machine: host, log: nullLogger });
  const resolver = new Resolver({ changes, log: nullLogger }, { mode: "off", interface: "weft0", tag: "0000abcd" });
  const machine = new HostMachine(
    { changes, resolver, log: nullLogger },
    {
      interface: "weft0",
      mark: 0x77,
      ports: [9338],
      source4: "100.64.0.2",
      source6: "fd00::2",
      overlay4: "100.64.0.0/16",
      overlay6: "fd00::/48",
      tag: "0000abcd",
    },
  );
  return {
    machine,
    changes,
    steps,
    sysctl,
    get fail() {
      return out.fail;
    },
    set fail(value) {
      out.fail = value;
    },
  };
}

function nameOf(line: string, input: string): string {
  const deleted = /nft delete table inet weft-(\w+)-/.exec(line);
  if (deleted !== null) return `-${deleted[1]}`;
  const made = /table inet weft-(\w+)-/.exec(input);
  if (made !== null) return `+${made[1]}`;
  const rule = /ip -([46]) rule (add|del)/.exec(line);
  if (rule !== null) return `${rule[2] === "add" ? "+" : "-"}rule${rule[1]}`;
  const table = /ip -([46]) route flush/.exec(line);
  if (table !== null) return `-table${table[1]}`;
  return `+table${/ip -([46])/.exec(line)?.[1]}`;
}

test("the guard closes before the first route changes, and opens after the last one is gone", async () => {
  const { machine, steps } = await world();
  await machine.apply(everything);
  assert.deepEqual(steps.splice(0), ["+guard", "+door", "+table4", "+rule4", "+table6", "+rule6"]);
  assert.equal(machine.isGuarded, true);
  await machine.apply(idle);
  assert.deepEqual(steps.splice(0), ["-rule4", "-table4", "-rule6", "-table6", "-guard"]);
  assert.equal(machine.isGuarded, false);
});

test("the same plan again does nothing, so hearing of our own changes ends nowhere", async () => {
  const { machine, steps } = await world();
  await machine.apply(everything);
  steps.length = 0;
  for (let i = 0; i < 3; i++) await machine.apply({ ...everything, prefixes: new Map(everything.prefixes) });
  assert.deepEqual(steps, []);
});

test("when the guard does not close, that is said and nobody is told it has", async () => {
  const w = await world();
  w.fail = /guard/;
  await w.machine.apply(everything);
  assert.equal(w.machine.isGuarded, false);
  assert.deepEqual(w.machine.problems, ["+guard refused"]);
  w.fail = undefined;
  await w.machine.apply({ ...everything });
  assert.equal(w.machine.isGuarded, true);
  assert.deepEqual(w.machine.problems, []);
});

test("a strict reverse-path filter gets marks for arriving datagrams, a loose one nothing", async () => {
  const strict = await world({ "net/ipv4/conf/eth0/rp_filter": "1", "net/ipv4/conf/all/src_valid_mark": "0" });
  await strict.machine.apply(everything);
  assert.ok(strict.steps.includes("+mark"));
  assert.equal(strict.sysctl("net/ipv4/conf/all/src_valid_mark"), "1");
  await strict.machine.apply(idle);
  assert.equal(strict.sysctl("net/ipv4/conf/all/src_valid_mark"), "0");
  const loose = await world({ "net/ipv4/conf/eth0/rp_filter": "2" });
  await loose.machine.apply(everything);
  assert.ok(!loose.steps.includes("+mark"));
});

test("a router forwards on the devices that matter only, and takes it back", async () => {
  const w = await world({
    "net/ipv4/conf/eth0/forwarding": "0",
    "net/ipv4/conf/eth9/forwarding": "0",
    "net/ipv4/conf/weft0/forwarding": "0",
  });
  await w.machine.apply({ ...idle, served: [parseRoutePrefix("192.0.2.0/24")!] });
  const values = (): string[] =>
    ["eth0", "weft0", "eth9"].map((device) => w.sysctl(`net/ipv4/conf/${device}/forwarding`));
  assert.deepEqual(values(), ["1", "1", "0"]);
  assert.equal(w.machine.isServing, true);
  assert.deepEqual(w.steps.splice(0), ["+door", "+nat"]);
  await w.machine.apply(idle);
  assert.deepEqual(values(), ["0", "0", "0"]);
  assert.deepEqual(w.steps.splice(0), ["-nat"]);
  await w.changes.undo();
  assert.deepEqual(w.steps, ["-door"]);
  assert.deepEqual(w.changes.journal.outstanding, []);
});

test("IPv6 forwarding where the kernel has it for all devices only: router advertisements keep working, and each value comes back", async () => {
  const before = {
    "net/ipv6/conf/all/forwarding": "0",
    "net/ipv6/conf/default/forwarding": "0",
    "net/ipv6/conf/eth0/forwarding": "0",
    "net/ipv6/conf/eth1/forwarding": "1",
    "net/ipv6/conf/eth0/accept_ra": "1",
    "net/ipv6/conf/eth1/accept_ra": "0",
  };
  const w = await world(before);
  await w.machine.apply({ ...idle, served: [parseRoutePrefix("::/0")!] });
  assert.equal(w.sysctl("net/ipv6/conf/eth0/accept_ra"), "2");
  assert.equal(w.sysctl("net/ipv6/conf/all/forwarding"), "1");
  // as the kernel does when `all` is reset
  const restore = w.machine.apply(idle);
  await restore;
  for (const [path, value] of Object.entries(before)) assert.equal(w.sysctl(path), value, path);
});

test("plans that come while one is applied are applied once, the newest", async () => {
  const { machine, steps } = await world();
  const first = machine.apply(everything);
  void machine.apply(idle);
  void machine.apply(everything);
  await machine.apply(idle);
  await first;
  assert.equal(machine.isGuarded, false);
  assert.equal(steps.filter((step) => step === "+guard").length, 1);
  assert.equal(steps.filter((step) => step === "-guard").length, 1);
});

test("undoing by hand never runs beside a plan; the next plan makes everything again", async () => {
  const { machine, changes, steps } = await world();
  const applying = machine.apply(everything);
  await machine.undoBy(() => changes.undo());
  await applying;
  assert.deepEqual(changes.journal.outstanding, []);
  steps.length = 0;
  await machine.apply(everything);
  assert.deepEqual(steps, ["+guard", "+door", "+table4", "+rule4", "+table6", "+rule6"]);
});

test("every node has a door, made once; where nft is missing that is said, once, and nothing is left to undo", async () => {
  const w = await world();
  await w.machine.apply(idle);
  await w.machine.apply({ ...idle, resolver: { ...idle.resolver, servers: ["100.64.0.2"] } });
  assert.deepEqual(w.steps, ["+door"]);
  assert.equal(w.machine.doorProblem, undefined);
  const bare = await world();
  bare.fail = /door/;
  await bare.machine.apply(idle);
  await bare.machine.apply(idle);
  assert.match(bare.machine.doorProblem ?? "", /refused/);
  assert.deepEqual(bare.machine.problems, []);
  assert.deepEqual(bare.changes.journal.outstanding, []);
  bare.fail = undefined;
  await bare.machine.undoBy(() => bare.changes.undo());
  await bare.machine.apply(idle);
  assert.deepEqual([bare.steps, bare.machine.doorProblem], [["+door"], undefined]);
});
