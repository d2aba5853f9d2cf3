import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTargetRule } from "../../../messaging/services/targets.ts";
import { parseConfig } from "../../config.ts";
import { resolveServices } from "./config.ts";

const resolve = (toml: string): ReturnType<typeof resolveServices> => resolveServices(parseConfig(toml, "weft.toml"));

test("without tables no member connects anywhere, files are taken within 10 GiB, and nothing runs", () => {
  const { forwardAllow, files, exec } = resolve("");
  assert.deepEqual(forwardAllow, []);
  assert.deepEqual(files, {
    accept: undefined,
    directory: undefined,
    quotaBytes: 10 * 2 ** 30,
    largestBytes: 10 * 2 ** 30,
  });
  assert.equal(exec.size, 0);
});

test("tables are read as written", () => {
  const { forwardAllow, files, exec } = resolve(`
[forward]
allow = [{ peers = ["laptop"], targets = ["loopback:80"] }]
[files]
accept = ["nas"]
quota_mb = 5
largest_mb = 9
[exec.uptime]
run = ["/usr/bin/uptime", "-p"]
peers = ["laptop"]
timeout_s = 5
`);
  assert.deepEqual(forwardAllow, [{ peers: ["laptop"], targets: [parseTargetRule("loopback:80")] }]);
  assert.deepEqual(files, { accept: ["nas"], directory: undefined, quotaBytes: 5e6, largestBytes: 5e6 });
  assert.deepEqual(exec.get("uptime"), {
    name: "uptime",
    run: ["/usr/bin/uptime", "-p"],
    peers: ["laptop"],
    extraArguments: 0,
    timeoutMs: 5_000,
    directory: "/",
  });
  assert.deepEqual(resolve("[files]\naccept = false").files.accept, []);
});

test("every mistake is one line that names table and key", () => {
  for (const [toml, expected] of [
    ['[forward]\nallow = [{ targets = ["loopback"] }]', /forward\.allow\.0\.targets\.0 = "loopback" must be a target/],
    ["[forward]\nallow = [{ peers = [] }]", /forward\.allow\.0\.targets/],
    ['[files]\naccept = "all"', /files\.accept = "all" must be true/],
    ['[files]\ndirectory = "in"', /files\.directory = "in" must be an absolute path/],
    ['[exec.x]\nrun = ["uptime"]\npeers = []', /exec\.x\.run .* must begin with an absolute path/],
    ['[exec.x]\nrun = ["/bin/x"]', /exec\.x\.peers/],
    ['[exec."a b"]\nrun = ["/bin/x"]\npeers = []', /whose name is 1–64/],
  ] as const)
    assert.throws(() => resolve(toml), { code: "CONFIG_INVALID", message: expected }, toml);
  assert.throws(() => resolve('[exec.x]\nrun = ["/bin/x"]\npeers = []\ntimeout = 5'), {
    message: 'weft.toml: unknown key "exec.x.timeout"',
    remedy: /did you mean "exec\.x\.timeout_s"/,
  });
});
