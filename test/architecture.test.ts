/**
 * Who may import whom, and what protocol code may touch. Source: docs/architecture.md and CONTRIBUTING.md. Every failure names the
 * file, the import or the call, and why it is not allowed. Negative controls prove that a violation would be seen.
 */
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** What each room under src may import from (besides itself). */
const ROOMS: Readonly<Record<string, { readonly may: readonly string[]; readonly why: string }>> = {
  base: { may: [], why: "base stands on nothing" },
  sys: {
    may: ["base", "dataplane/ports", "session/types"],
    why: "sys implements the ports over the kernel and knows no protocol",
  },
  wire: { may: ["base"], why: "wire is packet formats only" },
  crypto: { may: ["base"], why: "crypto is algorithms only" },
  session: {
    may: ["base", "wire", "crypto", "dataplane/ports"],
    why: "session stands on wire and crypto; packets and time are arguments",
  },
  path: { may: ["base", "wire", "crypto"], why: "path stands on wire and crypto; packets and time are arguments" },
  mesh: {
    may: ["base", "wire", "crypto", "session", "path"],
    why: "mesh stands on session and path, never on the machine",
  },
  dataplane: {
    may: ["base", "wire", "crypto", "session", "path"],
    why: "dataplane reaches the machine through its ports, never through sys",
  },
  stream: {
    may: ["base", "sys", "crypto"],
    why: "stream stands on QUIC in sys and hands datagrams to whoever owns it; it knows no session, no mesh and no plane",
  },
  messaging: {
    may: ["base", "wire", "crypto", "mesh"],
    why: "messaging stands on the roster and keys; frames, time and the store are arguments",
  },
  node: {
    may: ["base", "sys", "wire", "crypto", "session", "path", "mesh", "messaging", "dataplane", "stream", "api"],
    why: "node composes everything below it; the command line is above it",
  },
  api: { may: ["base"], why: "api depends on the NodeControl interface only" },
  client: { may: ["base", "api"], why: "client talks to the API; it runs in programs that are no node" },
  mcp: { may: ["base", "api", "client"], why: "mcp is a user of the local API like any other" },
  cli: {
    may: ["base", "api", "client", "mcp"],
    why: "cli talks to the API; node is loaded by a dynamic import for `up` alone",
  },
};

/** Rooms whose state machines take time, randomness and packets as arguments. */
const SANS_IO = new Set(["base", "wire", "crypto", "session", "path", "mesh", "messaging", "dataplane"]);
const IMPURE: readonly { readonly pattern: RegExp; readonly why: string }[] = [
  { pattern: /\bDate\.now\s*\(|\bnew Date\s*\(\s*\)/, why: "reads the wall clock; take `now` as an argument" },
  { pattern: /\bperformance\.now\s*\(/, why: "reads the clock; take `now` as an argument" },
  { pattern: /\bMath\.random\s*\(/, why: "is unseeded; take a Random" },
  { pattern: /\bset(?:Timeout|Interval|Immediate)\s*\(/, why: "starts a timer; return the next deadline instead" },
  { pattern: /\bprocess\.hrtime\b/, why: "reads the clock; take `now` as an argument" },
];
const IMPURE_MODULES =
  /^(?:node:)?(?:dgram|net|http|https|http2|tls|dns|fs|fs\/promises|child_process|worker_threads|timers|sqlite|cluster|os)(?:\/|$)/;

interface Import {
  readonly specifier: string;
  readonly dynamic: boolean;
}

interface Source {
  /** Path from the repository root. */
  readonly path: string;
  readonly text: string;
}

/** Comments and the insides of strings do not import or call anything; import specifiers are read before strings are blanked. */
function imports(text: string): Import[] {
  const bare = withoutComments(text);
  const found: Import[] = [];
  for (const match of bare.matchAll(/^\s*(?:import|export)\b[^;'"]*?from\s*["']([^"']+)["']/gm)) {
    found.push({ specifier: match[1], dynamic: false });
  }
  for (const match of bare.matchAll(/^\s*import\s*["']([^"']+)["']/gm))
    found.push({ specifier: match[1], dynamic: false });
  for (const match of bare.matchAll(/\b(?:import|require)\s*\(\s*["']([^"']+)["']\s*\)/g)) {
    found.push({ specifier: match[1], dynamic: true });
  }
  for (const match of bare.matchAll(/new URL\(\s*["'](\.[^"']+\.ts)["']/g))
    found.push({ specifier: match[1], dynamic: true });
  return found;
}

function withoutComments(text: string): string {
  return text.replaceAll(/\/\*[\s\S]*?\*\/|(?<![:"'`\\])\/\/[^\n]*/g, "");
}

function withoutStrings(text: string): string {
  return withoutComments(text).replaceAll(/"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'/g, '""');
}

/** "src/mesh/roster.ts" → "mesh"; files outside src have no room. */
function roomOf(path: string): string | undefined {
  const parts = path.split("/");
  return parts[0] === "src" && parts.length > 2 ? parts[1] : undefined;
}

const isTest = (path: string): boolean => path.endsWith(".test.ts");

/** @returns one line for every rule that `source` breaks */
function violations(source: Source): string[] {
  const room = roomOf(source.path);
  const found: string[] = [];
  if (room === undefined) return found;
  const rule = ROOMS[room];
  if (rule === undefined)
    return [
      `${source.path}: room "${room}" is not in the architecture; add it to test/architecture.test.ts with its rule`,
    ];
  for (const { specifier, dynamic } of imports(source.text)) {
    if (specifier === "koffi" && room !== "sys")
      found.push(`${source.path} imports koffi: only src/sys may reach the kernel`);
    if (!specifier.startsWith(".")) {
      if (SANS_IO.has(room) && !isTest(source.path) && IMPURE_MODULES.test(specifier)) {
        found.push(
          `${source.path} imports ${specifier}: ${room} is sans-I/O; sockets, files, timers and threads belong to node`,
        );
      }
      continue;
    }
    const target = relative(ROOT, resolve(ROOT, dirname(source.path), specifier));
    if (/^(?:lab|sim|bench|test)\//.test(target) && !isTest(source.path)) {
      found.push(`${source.path} imports ${target}: nothing imports ${target.split("/")[0]}`);
      continue;
    }
    const other = roomOf(target);
    if (other === undefined || other === room || isTest(source.path)) continue;
    if (room === "cli" && other === "node" && dynamic) continue;
    const allowed = rule.may.some((name) => other === name || target === `src/${name}.ts`);
    // Types are erased: a port's or message's shape may be named from above without depending on the code behind it.
    if (!allowed) found.push(`${source.path} imports ${target}: ${room} ← ${other} is forbidden: ${rule.why}`);
  }
  if (SANS_IO.has(room) && !isTest(source.path)) {
    const code = withoutStrings(source.text);
    for (const { pattern, why } of IMPURE) {
      const hit = pattern.exec(code);
      if (hit !== null)
        found.push(`${source.path} calls ${hit[0].replace(/\s*\($/, "")}: ${room} is sans-I/O; this ${why}`);
    }
  }
  return found;
}

const sources: Source[] = globSync("src/**/*.ts", { cwd: ROOT })
  .toSorted()
  .map((path) => ({ path, text: readFileSync(join(ROOT, path), "utf8") }));

test("imports follow the architecture and protocol code stays sans-I/O", () => {
  assert.ok(sources.length > 20, `only ${sources.length} sources found: the test looks in the wrong place`);
  const found = sources.flatMap(violations);
  assert.equal(found.length, 0, `\n${found.join("\n")}\n`);
});

test("no two rooms import each other", () => {
  const edges = new Set<string>();
  for (const source of sources) {
    const room = roomOf(source.path);
    if (room === undefined || isTest(source.path)) continue;
    const bare = withoutComments(source.text);
    for (const match of bare.matchAll(/^\s*(?:import|export)\s+(?!type\b)[^;'"]*?from\s*["'](\.[^"']+)["']/gm)) {
      const other = roomOf(relative(ROOT, resolve(ROOT, dirname(source.path), match[1])));
      if (other !== undefined && other !== room) edges.add(`${room} ${other}`);
    }
  }
  const cycles = [...edges].filter((edge) => edges.has(edge.split(" ").toReversed().join(" ")));
  assert.deepEqual(cycles, []);
});

test("negative control: every kind of violation is seen", () => {
  const control = (path: string, text: string, expected: RegExp): void => {
    const found = violations({ path, text });
    assert.equal(found.length, 1, `${path}: ${JSON.stringify(found)}`);
    assert.match(found[0], expected);
  };
  control(
    "src/wire/x.ts",
    'import { a } from "../session/y.ts";',
    /wire ← session is forbidden: wire is packet formats only/,
  );
  control("src/dataplane/x.ts", 'import {\n  a,\n} from "../sys/tun.ts";', /dataplane ← sys is forbidden: .* ports/);
  control("src/mesh/x.ts", 'export * from "../node/y.ts";', /mesh ← node is forbidden/);
  control("src/cli/x.ts", 'import { a } from "../node/y.ts";', /cli ← node is forbidden/);
  control("src/node/x.ts", 'import koffi from "koffi";', /only src\/sys may reach the kernel/);
  control("src/node/x.ts", 'const m = await import("../../lab/demo.ts");', /nothing imports lab/);
  control("src/session/x.ts", 'import dgram from "node:dgram";', /session is sans-I\/O/);
  control("src/path/x.ts", "const t = Date.now();", /calls Date\.now: path is sans-I\/O/);
  control("src/mesh/x.ts", "setTimeout(() => {}, 1);", /calls setTimeout/);
  control("src/crypto/x.ts", "const r = Math.random();", /calls Math\.random/);
  control("src/attic/x.ts", "", /room "attic" is not in the architecture/);
});

test("negative control: what is allowed is not reported", () => {
  const fine = (path: string, text: string): void => assert.deepEqual(violations({ path, text }), []);
  fine("src/cli/up.ts", 'const { start } = await import("../node/daemon.ts");');
  fine("src/sys/tun.ts", 'import koffi from "koffi";\nimport type { TunPort } from "../dataplane/ports.ts";');
  fine("src/session/x.ts", '// not setTimeout(…)\nconst text = "Date.now()";\nimport { a } from "../wire/data.ts";');
  fine("src/mesh/x.test.ts", 'import { a } from "../../test/helper.ts";\nconst t = performance.now();');
  fine("src/node/x.ts", "setTimeout(() => {}, 1);");
});
