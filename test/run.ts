/**
 * The one test runner behind `npm test`: static checks, then unit, property, vector and fuzz-corpus tests, then end-to-end tests.
 *
 *   npm test                       everything
 *   npm test -- --static           type check, lint, format, dead code and architecture only
 *   npm test -- --only NAME        stages or test files whose name contains NAME (may be repeated); a NAME that nothing has is an error
 *
 * Prints every stage with its time and ends with the summary lines of Node's test runner over all stages and a plain closing line
 * "N passed, N failed, N skipped". Every static check counts as one test. The exit code is 0 only when nothing failed and
 * something ran. Tests that need root say why they are skipped.
 */
import { spawn } from "node:child_process";
import { existsSync, globSync } from "node:fs";
import { join } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { fileURLToPath } from "node:url";
import { parseArgs, styleText } from "node:util";
import { whyNoNamespaces } from "../lab/namespaces.ts";
import { ensureTools } from "../lab/tools.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const BIN = join(ROOT, "node_modules/.bin");
/** A hung file must not eat the whole budget; the longest end-to-end file stays far below. */
const FILE_TIMEOUT_MS = 300_000;

interface Tally {
  tests: number;
  suites: number;
  passed: number;
  failed: number;
  cancelled: number;
  skipped: number;
  todo: number;
}

interface Stage {
  readonly name: string;
  readonly isStatic: boolean;
  /** Test files; undefined for a program. */
  readonly files?: readonly string[];
  readonly concurrency?: number;
  readonly run: () => Promise<Tally>;
}

const { values: options } = parseArgs({
  options: { static: { type: "boolean", default: false }, only: { type: "string", multiple: true, default: [] } },
});

const emptyTally = (): Tally => ({ tests: 0, suites: 0, passed: 0, failed: 0, cancelled: 0, skipped: 0, todo: 0 });

/** A program whose exit code is the verdict; its output is shown only when it fails. */
function check(name: string, command: string, args: readonly string[]): Stage {
  return {
    name,
    isStatic: true,
    run: () =>
      new Promise((resolve) => {
        const child = spawn(join(BIN, command), args, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
        const output: Buffer[] = [];
        child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
        child.stderr.on("data", (chunk: Buffer) => output.push(chunk));
        child.once("error", (error) => output.push(Buffer.from(`${error.message}\n`)));
        child.once("close", (code) => {
          if (code !== 0) process.stdout.write(Buffer.concat(output));
          resolve({ ...emptyTally(), tests: 1, passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1 });
        });
      }),
  };
}

/** Test files through Node's test runner, one process per file. */
function tests(name: string, isStatic: boolean, files: readonly string[], concurrency: number): Stage {
  return {
    name,
    isStatic,
    files,
    concurrency,
    run: () =>
      new Promise((resolve, reject) => {
        const tally = emptyTally();
        const stream = run({
          files: files.map((file) => join(ROOT, file)),
          cwd: ROOT,
          concurrency,
          timeout: FILE_TIMEOUT_MS,
          execArgv: ["--disable-warning=ExperimentalWarning"],
        });
        stream.on("test:summary", ({ file, counts }) => {
          if (file !== undefined) return;
          tally.tests += counts.tests;
          tally.suites += counts.suites;
          tally.passed += counts.passed;
          tally.failed += counts.tests - counts.passed - counts.cancelled - counts.skipped - counts.todo;
          tally.cancelled += counts.cancelled;
          tally.skipped += counts.skipped;
          tally.todo += counts.todo;
        });
        stream.on("error", reject);
        const report = stream.compose(spec);
        report.on("error", reject);
        report.on("end", () => resolve(tally));
        report.pipe(process.stdout, { end: false });
      }),
  };
}

function find(pattern: string): string[] {
  return globSync(pattern, { cwd: ROOT }).toSorted();
}

/** Everything that there is, or what --only names: whole stages, and single files of the others. @throws Error for a name that nothing has */
function wanted(): Stage[] {
  const all = stages().filter((stage) => !options.static || stage.isStatic);
  if (options.only.length === 0) return all;
  const unknown = options.only.filter(
    (part) => !all.some(({ name, files = [] }) => name.includes(part) || files.some((file) => file.includes(part))),
  );
  if (unknown.length > 0) {
    const names = unknown.map((part) => `"${part}"`).join(", ");
    throw new Error(
      `no ${options.static ? "static " : ""}stage or test file is called ${names}; stages: ${all.map(({ name }) => name).join("; ")}`,
    );
  }
  return all.flatMap((stage) => {
    if (options.only.some((part) => stage.name.includes(part))) return [stage];
    const files = (stage.files ?? []).filter((file) => options.only.some((part) => file.includes(part)));
    return files.length === 0 ? [] : [tests(stage.name, stage.isStatic, files, stage.concurrency ?? 1)];
  });
}

function stages(): Stage[] {
  const unit = [
    ...find("{src,sim,lab,bench}/**/*.test.ts"),
    ...find("test/*/**/*.test.ts").filter((name) => !name.startsWith("test/e2e/")),
  ];
  return [
    check("types", "tsc", ["--noEmit", "-p", "."]),
    check("lint", "oxlint", ["--type-aware", "--deny-warnings"]),
    check("format", "oxfmt", ["--check", "."]),
    check("dead-code", "knip", ["--no-progress", "--treat-config-hints-as-errors"]),
    tests("architecture", true, find("test/architecture.test.ts"), 1),
    tests("unit, property, vector and fuzz-corpus", false, unit, 2),
    // One at a time: they measure gaps and share two cores with the daemons they start.
    tests("end-to-end", false, find("test/e2e/**/*.test.ts"), 1),
  ];
}

async function main(): Promise<number> {
  const started = performance.now();
  const total = emptyTally();
  const times: string[] = [];
  if (!existsSync(BIN)) {
    process.stderr.write("npm test: dependencies are missing: run `npm ci` first\n");
    return 1;
  }
  let chosen: Stage[];
  try {
    chosen = wanted();
  } catch (error) {
    process.stderr.write(`npm test: ${(error as Error).message}\n`);
    return 1;
  }
  if (!options.static) {
    // first what is missing, because without `ip` there are no namespaces either; what cannot be had is a reason to skip, not to stop
    if (process.getuid?.() === 0) {
      try {
        await ensureTools(["ip", "nft", "tc", "ping", "iperf3", "curl", "scp", "sshd", "tcpdump", "setpriv"]);
      } catch (error) {
        process.stdout.write(`${(error as Error).message}\n`);
      }
    }
    const missing = whyNoNamespaces();
    if (missing !== undefined) process.stdout.write(`Tests that need root will be skipped: ${missing}\n`);
  }
  for (const stage of chosen) {
    process.stdout.write(`\n${styleText("bold", `== ${stage.name}`)}\n`);
    const began = performance.now();
    const tally = await stage.run();
    const seconds = ((performance.now() - began) / 1_000).toFixed(1);
    const bad = tally.failed + tally.cancelled;
    const line = `${stage.name}: ${bad === 0 ? "ok" : `${bad} FAILED`}, ${tally.passed} passed, ${tally.skipped} skipped, ${seconds} s`;
    process.stdout.write(`${styleText(bad === 0 ? "green" : "red", line)}\n`);
    times.push(line);
    for (const key of Object.keys(total) as (keyof Tally)[]) total[key] += tally[key];
  }
  const failed = total.failed + total.cancelled;
  process.stdout.write(`\n${styleText("bold", "== summary")}\n${times.join("\n")}\n`);
  process.stdout.write(
    `ℹ tests ${total.tests}\nℹ suites ${total.suites}\nℹ pass ${total.passed}\nℹ fail ${total.failed}\nℹ cancelled ${total.cancelled}\n` +
      `ℹ skipped ${total.skipped}\nℹ todo ${total.todo}\nℹ duration_ms ${Math.round(performance.now() - started)}\n`,
  );
  process.stdout.write(`${total.passed} passed, ${failed} failed, ${total.skipped} skipped\n`);
  if (total.tests === 0) process.stdout.write("npm test: nothing ran\n");
  return failed === 0 && total.tests > 0 ? 0 : 1;
}

process.exitCode = await main();
