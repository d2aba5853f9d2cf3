/**
 * Child processes with bounds: every run has a time limit, every output a size limit, and nothing outlives this process.
 * Guarantees: a child started here is killed when this process exits for any reason that JavaScript sees; output beyond the limit is
 * dropped from its beginning (for logs) or its end (for results) and never grows memory.
 */
import { spawn, type ChildProcess } from "node:child_process";

/** Failure of a lab action: the command, what it said, and what to do. */
export class LabError extends Error {
  /** Stable name of the failure, for tests. */
  readonly code: string;
  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "LabError";
    this.code = code;
  }
}

export interface RunOptions {
  /** @default 30_000 */
  readonly timeoutMs?: number;
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Largest stdout or stderr kept, bytes. @default 4 MiB */
  readonly maxOutputBytes?: number;
}

export interface RunResult {
  /** Exit code; null when a signal or the time limit ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly timedOut: boolean;
}

const live = new Set<ChildProcess>();
let exitHookInstalled = false;

function track(child: ChildProcess): void {
  if (!exitHookInstalled) {
    exitHookInstalled = true;
    process.on("exit", () => {
      for (const one of live) one.kill("SIGKILL");
    });
  }
  live.add(child);
  const forget = (): void => void live.delete(child);
  child.once("exit", forget);
  child.once("error", forget);
}

/** Runs a program to its end. Never rejects for an exit code; rejects with LabError when it cannot be started. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const timeoutMs = options.timeoutMs ?? 30_000;
  const limit = options.maxOutputBytes ?? 4 << 20;
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      env: { ...process.env, ...options.env },
      cwd: options.cwd,
    });
    track(child);
    const out = collect(child.stdout, limit);
    const err = collect(child.stderr, limit);
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill("SIGKILL");
      // A grandchild may hold the pipes open after the child is gone: do not wait for it.
      child.stdout?.destroy();
      child.stderr?.destroy();
    }, timeoutMs);
    child.once("error", (cause) => {
      clearTimeout(timer);
      reject(new LabError("SPAWN", `cannot start ${command}: ${cause.message}`, { cause }));
    });
    child.once("close", (code) => {
      clearTimeout(timer);
      resolve({ code, stdout: out(), stderr: err(), timedOut });
    });
    if (options.input !== undefined) {
      child.stdin?.on("error", () => undefined);
      child.stdin?.end(options.input);
    }
  });
}

/** run() that rejects with LabError unless the exit code is 0. @returns stdout */
export async function must(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await run(command, args, options);
  if (result.code === 0) return result.stdout;
  const why = result.timedOut ? `no end within ${options.timeoutMs ?? 30_000} ms` : `exit code ${result.code}`;
  const said = (result.stderr.trim() || result.stdout.trim()).slice(-2_000);
  throw new LabError("COMMAND", `${command} ${args.join(" ")}: ${why}${said === "" ? "" : `\n${said}`}`);
}

function collect(stream: NodeJS.ReadableStream | null, limit: number): () => string {
  const parts: Buffer[] = [];
  let bytes = 0;
  stream?.on("data", (chunk: Buffer) => {
    if (bytes >= limit) return;
    parts.push(chunk);
    bytes += chunk.length;
  });
  return () => Buffer.concat(parts).toString("utf8").slice(0, limit);
}

export interface DaemonOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Lines kept of stdout and stderr together. @default 2_000 */
  readonly maxLines?: number;
}

/** A program that keeps running: its lines are captured, it can be waited for, written to and stopped. */
export class Daemon {
  readonly name: string;
  readonly pid: number;
  /** Resolves with the exit code (null after a signal) once it is gone. */
  readonly exited: Promise<number | null>;
  /** The last lines of stdout and stderr, oldest first. */
  readonly lines: string[] = [];
  exitCode: number | null | undefined = undefined;
  readonly #child: ChildProcess;
  readonly #watchers = new Set<(line: string | undefined) => void>();
  readonly #maxLines: number;

  constructor(name: string, command: string, args: readonly string[], options: DaemonOptions = {}) {
    this.name = name;
    this.#maxLines = options.maxLines ?? 2_000;
    const child = spawn(command, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, ...options.env },
      cwd: options.cwd,
    });
    track(child);
    this.#child = child;
    this.pid = child.pid ?? -1;
    child.stdin.on("error", () => undefined);
    this.#follow(child.stdout);
    this.#follow(child.stderr);
    this.exited = new Promise((resolve) => {
      const end = (code: number | null): void => {
        if (this.exitCode !== undefined) return;
        this.exitCode = code;
        for (const watch of this.#watchers) watch(undefined);
        resolve(code);
      };
      child.once("error", (error) => {
        this.#line(`cannot start ${command}: ${error.message}`);
        end(127);
      });
      child.once("close", end);
    });
  }

  /** Calls `watch` for every following line, and once with undefined at the end. @returns stops watching */
  watch(watch: (line: string | undefined) => void): () => void {
    this.#watchers.add(watch);
    return () => void this.#watchers.delete(watch);
  }

  /** First line (already seen or to come) that matches. Rejects with LabError when it ends or `timeoutMs` pass before. */
  waitFor(pattern: RegExp, timeoutMs: number): Promise<string> {
    const seen = this.lines.find((line) => pattern.test(line));
    if (seen !== undefined) return Promise.resolve(seen);
    if (this.exitCode !== undefined) return Promise.reject(this.#failure(`ended (${this.exitCode}) before ${pattern}`));
    return new Promise((resolve, reject) => {
      const finish = (act: () => void): void => {
        clearTimeout(timer);
        stop();
        act();
      };
      const stop = this.watch((line) => {
        if (line === undefined) finish(() => reject(this.#failure(`ended (${this.exitCode}) before ${pattern}`)));
        else if (pattern.test(line)) finish(() => resolve(line));
      });
      const timer = setTimeout(
        () => finish(() => reject(this.#failure(`no ${pattern} within ${timeoutMs} ms`))),
        timeoutMs,
      );
    });
  }

  /** Writes one line to its standard input. */
  write(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /**
   * Writes `command` as a line of JSON and takes the next line that is a JSON object as its answer: one question at a time.
   * Rejects with LabError when there is none in time, or with the text of its `error`.
   */
  ask(command: Readonly<Record<string, unknown>>, timeoutMs = 5_000): Promise<Record<string, unknown>> {
    return new Promise((resolve, reject) => {
      const finish = (act: () => void): void => {
        clearTimeout(timer);
        stop();
        act();
      };
      const stop = this.watch((line) => {
        if (line === undefined) finish(() => reject(this.#failure("ended")));
        else if (line.startsWith("{")) {
          const answer = JSON.parse(line) as Record<string, unknown>;
          if (answer["error"] === undefined) finish(() => resolve(answer));
          else finish(() => reject(new LabError("REFUSED", `${this.name}: ${String(answer["error"])}`)));
        }
      });
      const timer = setTimeout(
        () => finish(() => reject(this.#failure(`no answer within ${timeoutMs} ms`))),
        timeoutMs,
      );
      this.write(JSON.stringify(command));
    });
  }

  signal(signal: NodeJS.Signals): void {
    if (this.exitCode === undefined) this.#child.kill(signal);
  }

  /** Asks with `signal`, then kills after `graceMs`. @returns exit code, null when a signal ended it */
  async stop(signal: NodeJS.Signals = "SIGTERM", graceMs = 5_000): Promise<number | null> {
    if (this.exitCode !== undefined) return this.exitCode;
    this.#child.kill(signal);
    const timer = setTimeout(() => {
      this.#child.kill("SIGKILL");
      // A grandchild may hold the pipes: the "close" event must not wait for it.
      this.#child.stdout?.destroy();
      this.#child.stderr?.destroy();
    }, graceMs);
    const code = await this.exited;
    clearTimeout(timer);
    return code;
  }

  /** The last `count` lines as one text, each with the name in front. */
  tail(count = 40): string {
    return this.lines
      .slice(-count)
      .map((line) => `[${this.name}] ${line}`)
      .join("\n");
  }

  #failure(what: string): LabError {
    return new LabError("DAEMON", `${this.name}: ${what}\n${this.tail()}`);
  }

  #line(line: string): void {
    this.lines.push(line);
    if (this.lines.length > this.#maxLines) this.lines.shift();
    for (const watch of this.#watchers) watch(line);
  }

  #follow(stream: NodeJS.ReadableStream): void {
    let rest = "";
    stream.setEncoding("utf8");
    stream.on("data", (chunk: string) => {
      const parts = (rest + chunk).split("\n");
      rest = (parts.pop() ?? "").slice(-65_536);
      for (const part of parts) this.#line(part.trimEnd());
    });
    stream.on("end", () => {
      if (rest !== "") this.#line(rest.trimEnd());
      rest = "";
    });
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * Asks `probe` again and again until it gives a value. A rejection of the probe counts as "not yet".
 * Rejects with LabError naming `what` and the last failure after `timeoutMs`.
 */
export async function until<T>(
  what: string,
  timeoutMs: number,
  probe: () => Promise<T | undefined>,
  everyMs = 100,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  let last = "";
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined) return value;
    } catch (error) {
      last = error instanceof Error ? error.message : String(error);
    }
    if (performance.now() >= deadline) {
      throw new LabError("TIMEOUT", `${what}: not within ${timeoutMs} ms${last === "" ? "" : ` (last: ${last})`}`);
    }
    await sleep(everyMs);
  }
}
