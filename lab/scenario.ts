/**
 * Scenarios that take longer than a test run may, each with a verdict and its evidence. Benchmarks with figures of their own are under
 * bench/ (`npm run bench -- list`); these are about what must hold.
 *
 *   bin/weft-node lab/scenario.ts NAME [--json]     one of them; without a name: the list
 *   bin/weft-node lab/scenario.ts all
 *   … --quick            few rounds on few subjects
 *   … --rtt MS           underlay round trip where the scenario has several
 *   … --rounds N         how often the event happens
 *   … --only PART        parts of a scenario by name; may be repeated
 *
 * Prints PASS, FAIL or INVALID (the figure could not be taken) per limit with the measured value. Exit code 0 only when all passed.
 */
import { parseArgs } from "node:util";
import { whyNoNamespaces } from "./namespaces.ts";
import { addressChange } from "./scenarios/address-change.ts";
import { failover } from "./scenarios/failover.ts";
import { grid } from "./scenarios/grid.ts";
import { halfDead } from "./scenarios/half-dead.ts";
import { idle } from "./scenarios/idle.ts";
import { mtu } from "./scenarios/mtu.ts";
import { rekey } from "./scenarios/rekey.ts";
import { restart } from "./scenarios/restart.ts";
import { rollingRestart } from "./scenarios/rolling-restart.ts";
import { sleepScenario } from "./scenarios/sleep.ts";
import { transit } from "./scenarios/transit.ts";
import type { Finding, Scenario, ScenarioOptions } from "./scenarios/types.ts";
import { ensureTools } from "./tools.ts";

const SCENARIOS: readonly Scenario[] = [
  addressChange,
  rekey,
  restart,
  rollingRestart,
  failover,
  halfDead,
  mtu,
  transit,
  sleepScenario,
  idle,
  grid,
];

async function runOne(scenario: Scenario, options: ScenarioOptions, json: boolean): Promise<boolean> {
  const say = (line: string): void => void (json ? process.stderr : process.stdout).write(`${line}\n`);
  say(`${scenario.name}: ${scenario.about}`);
  let findings: readonly Finding[];
  try {
    findings = await scenario.run(say, options);
  } catch (error) {
    const evidence = error instanceof Error ? error.message : String(error);
    findings = [{ limit: "the scenario runs to its end", verdict: "INVALID", evidence }];
  }
  for (const { limit, verdict, evidence } of findings) say(`  ${verdict.padEnd(7)} ${limit}: ${evidence}`);
  const passed = findings.length > 0 && findings.every(({ verdict }) => verdict === "PASS");
  if (json) process.stdout.write(`${JSON.stringify({ scenario: scenario.name, passed, findings })}\n`);
  return passed;
}

function wholeNumber(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new Error(`--${option} ${text} is no positive whole number`);
  return value;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: "boolean", default: false },
      quick: { type: "boolean", default: false },
      rtt: { type: "string" },
      rounds: { type: "string" },
      only: { type: "string", multiple: true, default: [] },
    },
  });
  const options: ScenarioOptions = {
    quick: values.quick,
    rttMs: wholeNumber("rtt", values.rtt),
    rounds: wholeNumber("rounds", values.rounds),
    only: values.only,
  };
  const [name] = positionals;
  const chosen = name === "all" ? SCENARIOS : SCENARIOS.filter((scenario) => scenario.name === name);
  if (chosen.length === 0) {
    for (const scenario of SCENARIOS) process.stdout.write(`${scenario.name.padEnd(16)} ${scenario.about}\n`);
    if (name === undefined) return 0;
    process.stderr.write(`no scenario is called ${name}\n`);
    return 2;
  }
  // first what is missing, because without `ip` there are no namespaces either
  if (process.getuid?.() === 0) await ensureTools(["ip", "nft", "ping", "iperf3"]);
  const missing = whyNoNamespaces();
  if (missing !== undefined) {
    process.stderr.write(`scenarios need namespaces: ${missing}\n`);
    return 1;
  }
  let passed = true;
  for (const scenario of chosen) passed = (await runOne(scenario, options, values.json)) && passed;
  return passed ? 0 : 1;
}

process.exitCode = await main();
