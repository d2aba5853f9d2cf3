/**
 * Changes to the machine that outlive a process, each with its undoing: kernel parameters, policy rules, a routing table of our own, nft tables,
 * files, a block of lines in a file, what was told to systemd-resolved or resolvconf. Everything goes through the journal first: intent on
 * disk, then the change; undone newest first, then struck out.
 *
 * Undoing is idempotent and never takes what is not ours: a parameter or file is put back only while it still holds what we wrote, a
 * block is cut out of whatever the file has become, a rule or table is removed by its full name. What the kernel forgot at a reboot
 * is only struck out. Files are written in place, so that mode, owner, links and bind mounts stay.
 * Source: docs/protocol.md, "Changes to the machine".
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Journal, JournalEntry } from "./journal.ts";
import { runProgram } from "./run-program.ts";
import { findBlock, isMixture, overwrite, readSmall } from "./system-changes-files.ts";
import { isScopeAlive, scopeOf } from "./system-changes-scope.ts";

/** Whole files are kept in the journal; of files that get a block only the block's marks are. */
const MAX_WHOLE_FILE_BYTES = 64 * 1024;
const MAX_BLOCK_FILE_BYTES = 8 * 1024 * 1024;

export type Change =
  /** `path` below /proc/sys, for example "net/ipv4/ip_forward"; values as read, without the line's end. */
  | { readonly kind: "sysctl"; readonly path: string; readonly before: string; readonly after: string }
  /** `ip -FAMILY rule add SPEC` */
  | { readonly kind: "rule"; readonly family: 4 | 6; readonly spec: string }
  /** A routing table nobody else uses. */
  | { readonly kind: "table"; readonly family: 4 | 6; readonly table: number }
  /** `table inet NAME`; a guard keeps packets in until somebody decides. */
  | { readonly kind: "nft"; readonly table: string; readonly guard: boolean }
  /** A whole file; base64. */
  | { readonly kind: "file"; readonly path: string; readonly before: string; readonly after: string }
  /** Lines from `begin` to `end` in a file; `lead` was put before them because the file's last line had no end. */
  | {
      readonly kind: "block";
      readonly path: string;
      readonly begin: string;
      readonly end: string;
      readonly lead: string;
    }
  /** Settings of one interface in systemd-resolved. */
  | { readonly kind: "resolved"; readonly interface: string }
  | { readonly kind: "resolvconf"; readonly key: string };

/** What of the machine these functions use; tests give their own. */
export interface Machine {
  /** @throws WeftError */
  run(program: string, args: readonly string[], input?: string): Promise<string>;
  /** Root of kernel parameters. */
  readonly sysctlRoot: string;
  /** See scopeOf(). */
  readonly scope: string;
  isScopeAlive(scope: string): boolean;
}

export const hostMachine = (): Machine => ({
  run: runProgram,
  sysctlRoot: "/proc/sys",
  scope: scopeOf(),
  isScopeAlive,
});

export interface UndoResult {
  readonly change: Change;
  /** undone: put back; gone: there was nothing left to undo; foreign: somebody changed it since, so it stays; failed: see text. */
  readonly outcome: "undone" | "gone" | "foreign" | "failed";
  readonly text: string;
}

export class SystemChanges {
  readonly journal: Journal;
  readonly #machine: Machine;
  readonly #log: Logger;

  constructor(deps: { readonly journal: Journal; readonly machine: Machine; readonly log: Logger }) {
    this.journal = deps.journal;
    this.#machine = deps.machine;
    this.#log = deps.log;
  }

  run(program: string, args: readonly string[], input = ""): Promise<string> {
    return this.#machine.run(program, args, input);
  }

  /** @returns undefined when this kernel does not have it */
  readSysctl(path: string): string | undefined {
    try {
      return readFileSync(join(this.#machine.sysctlRoot, path), "utf8").trimEnd();
    } catch {
      return undefined;
    }
  }

  /** Names below a path, such as the devices of "net/ipv4/conf". */
  sysctlNames(path: string): string[] {
    try {
      return readdirSync(join(this.#machine.sysctlRoot, path)).toSorted();
    } catch {
      return [];
    }
  }

  /**
   * Sets a kernel parameter. @param always journal it even when it has that value, because another change will reset it
   * @returns false when there was nothing to set @throws WeftError SYSCTL_FAILED
   */
  async sysctl(path: string, after: string, always = false): Promise<boolean> {
    const before = this.readSysctl(path);
    if (before === undefined || (before === after && !always)) return false;
    await this.#make({ kind: "sysctl", path, before, after }, () => this.#writeSysctl(path, after));
    return true;
  }

  /** Adds a policy rule unless it was added in this run. @throws WeftError */
  async rule(family: 4 | 6, spec: string): Promise<void> {
    if (this.#find((change) => change.kind === "rule" && change.family === family && change.spec === spec)) return;
    await this.#make({ kind: "rule", family, spec }, () => this.#ip(family, `rule add ${spec}`));
  }

  /** Replaces the routes of a table of our own. @param lines "unicast 10.0.0.0/8 dev weft0", without the table @throws WeftError */
  async table(family: 4 | 6, table: number, lines: readonly string[]): Promise<void> {
    const apply = async (): Promise<void> => {
      const wanted = lines.map((line) => `route replace ${line} table ${table}`);
      if (wanted.length > 0) await this.run("ip", [`-${family}`, "-batch", "-"], `${wanted.join("\n")}\n`);
      await this.#prune(family, table, lines);
    };
    if (this.#find((change) => change.kind === "table" && change.family === family && change.table === table)) {
      await apply();
    } else {
      await this.#make({ kind: "table", family, table }, apply);
    }
  }

  /** Replaces an nft table in one transaction. @param body what is between the braces @throws WeftError */
  async nft(table: string, body: string, guard: boolean): Promise<void> {
    const apply = (): Promise<unknown> =>
      this.run(
        "nft",
        ["-f", "-"],
        `table inet ${table}\ndelete table inet ${table}\ntable inet ${table} {\n${body}\n}\n`,
      );
    if (this.#find((change) => change.kind === "nft" && change.table === table)) await apply();
    else await this.#make({ kind: "nft", table, guard }, apply);
  }

  /** Replaces a file's content. @returns false when it is that already @throws WeftError FILE_FAILED */
  async file(path: string, content: Buffer): Promise<boolean> {
    const before = readSmall(path, MAX_WHOLE_FILE_BYTES);
    if (before.equals(content)) return false;
    const earlier = this.#find((change) => change.kind === "file" && change.path === path);
    const change: Change = {
      kind: "file",
      path,
      // rewriting our own content keeps the original as what is to come back
      before:
        earlier?.change.kind === "file" && Buffer.from(earlier.change.after, "base64").equals(before)
          ? earlier.change.before
          : before.toString("base64"),
      after: content.toString("base64"),
    };
    await this.#make(change, () => overwrite(path, content));
    if (earlier !== undefined) await this.journal.done(earlier.id);
    return true;
  }

  /** Puts a block of lines into a file, or replaces the one that is there. @throws WeftError FILE_FAILED */
  async block(path: string, begin: string, end: string, lines: readonly string[]): Promise<void> {
    const now = readSmall(path, MAX_BLOCK_FILE_BYTES).toString("latin1");
    const body = `${[begin, ...lines, end].join("\n")}\n`;
    const place = findBlock(now, begin, end);
    if (place !== undefined) {
      const content = now.slice(0, place.from) + body + now.slice(place.to);
      if (content !== now) overwrite(path, Buffer.from(content, "latin1"));
      return;
    }
    const lead = now === "" || now.endsWith("\n") ? "" : "\n";
    await this.#make({ kind: "block", path, begin, end, lead }, () =>
      overwrite(path, Buffer.from(now + lead + body, "latin1")),
    );
  }

  /** `resolvectl` for one interface. @throws WeftError */
  async resolved(name: string, commands: readonly (readonly string[])[]): Promise<void> {
    const apply = async (): Promise<void> => {
      for (const command of commands) await this.run("resolvectl", command);
    };
    if (this.#find((change) => change.kind === "resolved" && change.interface === name)) await apply();
    else await this.#make({ kind: "resolved", interface: name }, apply);
  }

  /** `resolvconf -a KEY`. @throws WeftError */
  async resolvconf(key: string, args: readonly string[], content: string): Promise<void> {
    const apply = (): Promise<unknown> => this.run("resolvconf", [...args, "-a", key], content);
    if (this.#find((change) => change.kind === "resolvconf" && change.key === key)) await apply();
    else await this.#make({ kind: "resolvconf", key }, apply);
  }

  /** Undoes what `which` picks, newest first; a failure is reported and stays in the journal. */
  async undo(which: (change: Change) => boolean = () => true): Promise<UndoResult[]> {
    const results: UndoResult[] = [];
    for (const entry of this.journal.outstanding.toReversed()) {
      if (!which(entry.change)) continue;
      const result = await this.#undo(entry);
      results.push(result);
      if (result.outcome === "failed") this.#log.warn(`not undone: ${result.text}`);
      else await this.journal.done(entry.id);
    }
    return results;
  }

  async #undo(entry: JournalEntry): Promise<UndoResult> {
    const { change, scope } = entry;
    const result = (outcome: UndoResult["outcome"], text = describeChange(change)): UndoResult => ({
      change,
      outcome,
      text,
    });
    try {
      if (isKernelState(change) && scope !== this.#machine.scope) {
        if (!this.#machine.isScopeAlive(scope)) return result("gone");
        return result(
          "failed",
          `${describeChange(change)} was made in another network namespace; run \`weft repair\` there`,
        );
      }
      return result(await this.#revert(change));
    } catch (error) {
      return result("failed", `${describeChange(change)}: ${(error as Error).message}`);
    }
  }

  async #revert(change: Change): Promise<UndoResult["outcome"]> {
    switch (change.kind) {
      case "sysctl": {
        const now = this.readSysctl(change.path);
        if (now === undefined || now === change.before) return "gone";
        if (now !== change.after && change.before !== change.after) return "foreign";
        await this.#writeSysctl(change.path, change.before);
        return "undone";
      }
      case "rule":
        return this.#tolerant(() => this.#ip(change.family, `rule del ${change.spec}`));
      case "table":
        return this.#tolerant(() => this.#ip(change.family, `route flush table ${change.table}`));
      case "nft":
        return this.#tolerant(() => this.run("nft", ["delete", "table", "inet", change.table]));
      case "file": {
        const now = readSmall(change.path, MAX_WHOLE_FILE_BYTES);
        const before = Buffer.from(change.before, "base64");
        if (now.equals(before)) return "gone";
        // a write that was cut short left a mixture of both
        if (!isMixture(now, before, Buffer.from(change.after, "base64"))) return "foreign";
        overwrite(change.path, before);
        return "undone";
      }
      case "block": {
        const now = readSmall(change.path, MAX_BLOCK_FILE_BYTES).toString("latin1");
        const place = findBlock(now, change.begin, change.end);
        if (place === undefined) return "gone";
        const from =
          place.from - (change.lead !== "" && now[place.from - 1] === "\n" && place.to === now.length ? 1 : 0);
        overwrite(change.path, Buffer.from(now.slice(0, from) + now.slice(place.to), "latin1"));
        return "undone";
      }
      case "resolved":
        return this.#tolerant(() => this.run("resolvectl", ["revert", change.interface]));
      case "resolvconf":
        return this.#tolerant(() => this.run("resolvconf", ["-d", change.key, "-f"]));
    }
  }

  async #tolerant(action: () => Promise<unknown>): Promise<"undone" | "gone"> {
    try {
      await action();
      return "undone";
    } catch (error) {
      if (
        /No such (?:file|process|device)|does not exist|not found|No such interface|Failed to resolve interface/i.test(
          (error as Error).message,
        )
      )
        return "gone";
      throw error;
    }
  }

  /** Intent, change; when the change fails it is undone and struck out. */
  async #make(change: Change, apply: () => unknown): Promise<void> {
    const entry = await this.journal.add(change);
    try {
      await apply();
    } catch (error) {
      // where the program is missing, nothing was changed, and nothing could be undone
      const isMissing = error instanceof WeftError && error.code === "PROGRAM_MISSING";
      const undone = isMissing ? undefined : await this.#undo(entry);
      if (undone?.outcome !== "failed") await this.journal.done(entry.id);
      throw error;
    }
    this.#log.debug(`changed: ${describeChange(change)}`);
  }

  #find(which: (change: Change) => boolean): JournalEntry | undefined {
    return this.journal.outstanding.find((entry) => entry.scope === this.#machine.scope && which(entry.change));
  }

  async #writeSysctl(path: string, value: string): Promise<void> {
    try {
      writeFileSync(join(this.#machine.sysctlRoot, path), `${value}\n`);
    } catch (cause) {
      throw new WeftError(
        "SYSCTL_FAILED",
        `cannot set ${path.replaceAll("/", ".")} to ${value}: ${(cause as Error).message}`,
        "run weft as root; in a container allow it to write kernel parameters",
        { cause },
      );
    }
  }

  #ip(family: 4 | 6, line: string): Promise<string> {
    return this.run("ip", [`-${family}`, ...line.split(" ")]);
  }

  /** Removes what is in the table and not wanted any more. */
  async #prune(family: 4 | 6, table: number, lines: readonly string[]): Promise<void> {
    const text = await this.run("ip", [`-${family}`, "-j", "route", "show", "table", String(table)]).catch(() => "[]");
    const rows = JSON.parse(text.trim() === "" ? "[]" : text) as { dst?: string; type?: string }[];
    const wanted = new Set(lines.map((line) => canonicalTarget(line.split(" ")[1] ?? "")));
    const stale = rows.filter((row) => row.dst !== undefined && !wanted.has(canonicalTarget(row.dst)));
    if (stale.length === 0) return;
    const deletions = stale.map((row) => `route del ${row.type ?? "unicast"} ${row.dst} table ${table}`);
    await this.run("ip", [`-${family}`, "-force", "-batch", "-"], `${deletions.join("\n")}\n`);
  }
}

/** "default" and whole prefixes as `ip` prints them, so that both sides compare equal. */
function canonicalTarget(text: string): string {
  if (text === "0.0.0.0/0" || text === "::/0") return "default";
  return text.replace(/^(\d+\.\d+\.\d+\.\d+)\/32$/, "$1").replace(/^([0-9a-f:]*:[0-9a-f:]*)\/128$/, "$1");
}

export function describeChange(change: Change): string {
  switch (change.kind) {
    case "sysctl":
      return `kernel parameter ${change.path.replaceAll("/", ".")} (${change.before} → ${change.after})`;
    case "rule":
      return `policy rule IPv${change.family} ${change.spec}`;
    case "table":
      return `routing table IPv${change.family} ${change.table}`;
    case "nft":
      return `${change.guard ? "leak guard" : "nft table"} inet ${change.table}`;
    case "file":
      return `file ${change.path}`;
    case "block":
      return `lines in ${change.path}`;
    case "resolved":
      return `systemd-resolved settings of ${change.interface}`;
    case "resolvconf":
      return `resolvconf entry ${change.key}`;
  }
}

/** What a reboot or the end of a network namespace takes with it. */
function isKernelState(change: Change): boolean {
  return change.kind === "sysctl" || change.kind === "rule" || change.kind === "table" || change.kind === "nft";
}
