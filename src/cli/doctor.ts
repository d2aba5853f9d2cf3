/** weft doctor: checks what Weft needs from this machine, then asks the daemon, if one runs, how it is. */
import type { Command } from "@commander-js/extra-typings";
import type { DoctorFact } from "../api/control.ts";
import { stateDirectory } from "../api/paths.ts";
import { WeftError } from "../base/errors.ts";
import { add, client, createCommand, Exit, show } from "./context.ts";
import { paint } from "./format.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "doctor",
      "check this machine and the running node",
      "$ weft doctor\n$ weft doctor --json | jq '.checks[] | select(.ok | not)'",
    ).action(async (options) => {
      const { localFacts } = await import("../node/doctor.ts");
      const checks: DoctorFact[] = [...(await localFacts(stateDirectory(options.state)))];
      try {
        checks.push(...(await client(options).doctor()));
      } catch (error) {
        if (!(error instanceof WeftError)) throw error;
        checks.push({
          code: "daemon",
          ok: false,
          severity: error.code === "DAEMON_DOWN" ? "info" : "warning",
          text: error.message,
          remedy: error.remedy,
        });
      }
      const failed = checks.filter((check) => !check.ok && check.severity === "error");
      show(options, { ok: failed.length === 0, checks }, () =>
        checks
          .map((check) => {
            const mark = check.ok
              ? paint("green", "ok  ")
              : check.severity === "error"
                ? paint("red", "FAIL")
                : check.severity === "warning"
                  ? paint("yellow", "warn")
                  : paint("cyan", "note");
            return `${mark}  ${check.text}${check.ok ? "" : `; ${check.remedy}`}`;
          })
          .join("\n"),
      );
      if (failed.length > 0) process.exitCode = Exit.FAILURE;
    }),
  );
}
