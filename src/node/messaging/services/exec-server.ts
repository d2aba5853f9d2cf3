/**
 * Programs that members run here: those of [exec.NAME] in weft.toml and no others, by an absolute path, without a shell, with arguments that are passed
 * as they are. Nothing of the daemon's environment goes with them.
 *
 *   stream ─► place free? ─► request (10 s) ─► command of that name for that member? ─► spawn in a process group of its own
 *   standard input ◄─ stream; output ─► records, read only as fast as they go; exit ─► EXIT
 *
 * A program ends with its stream, its time or its share of output: the group gets SIGTERM, two seconds later SIGKILL. Its place is free once it
 * has exited and its output is read, or nobody wants that any more, or nothing comes of it: what a program leaves behind holds no place.
 * Every start, end and refusal is an audit line and counted. Source: docs/protocol.md, "Execution".
 */
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { constants } from "node:os";
import type { Readable } from "node:stream";
import type { MetricSample } from "../../../api/control.ts";
import { toHex, utf8 } from "../../../base/bytes.ts";
import {
  decodeExecRequest,
  encodeExecRecord,
  EXEC_HEAD_BYTES,
  EXEC_KIND,
  execBodyBytes,
  ExecEnd,
  execEndText,
  ExecRecord,
  type ExecRequest,
  MAX_RECORD_BYTES,
} from "../../../messaging/services/exec-frames.ts";
import { matchesPeer, type PeerNames } from "../../../messaging/services/targets.ts";
import { type MeshStream, StreamCode } from "../../../stream/types.ts";
import type { ExecCommand } from "./config.ts";
import { isArgument } from "./config.ts";
import { namesOf, type ServiceContext } from "./context.ts";
import { type Audit, Slots } from "./limits.ts";
import { readBytes } from "./splice.ts";

const MAX_RUNNING = 16;
const MAX_PER_PEER = 4;
const REQUEST_MS = 10_000;
const KILL_MS = 2_000;
const MAX_OUTPUT_BYTES = 64 << 20;
const RESULTS = ["ended", "not_allowed", "busy", "arguments", "malformed", "failed", "timeout", "output"] as const;

export class ExecServer {
  readonly #context: ServiceContext;
  readonly #audit: Audit;
  readonly #commands: ReadonlyMap<string, ExecCommand>;
  readonly #slots = new Slots(MAX_RUNNING, MAX_PER_PEER);
  readonly #results = new Float64Array(RESULTS.length);
  readonly #ending = new AbortController();
  readonly #children = new Set<ChildProcessWithoutNullStreams>();
  #stop: (() => void) | undefined;

  constructor(context: ServiceContext, audit: Audit, commands: ReadonlyMap<string, ExecCommand>) {
    this.#context = context;
    this.#audit = audit;
    this.#commands = commands;
  }

  start(): void {
    this.#stop = this.#context.streams.serve(EXEC_KIND, (stream) => void this.#serve(stream));
  }

  close(): void {
    this.#stop?.();
    this.#ending.abort(new Error("this node is stopping"));
    for (const child of this.#children) killGroup(child, "SIGKILL");
  }

  async #serve(stream: MeshStream): Promise<void> {
    const member = this.#context.find(stream.peerId);
    if (member === undefined) return stream.reset(StreamCode.APPLICATION);
    const peer = namesOf(member);
    const release = this.#slots.take(toHex(stream.peerId));
    try {
      const request = await this.#read(stream);
      if (release === undefined) return this.#refuse(stream, peer, request, ExecEnd.BUSY);
      if (request === undefined) return this.#refuse(stream, peer, request, ExecEnd.BAD);
      if (request.name === "") return this.#list(stream, peer);
      const command = this.#commands.get(request.name);
      if (command === undefined || !matchesPeer(command.peers, peer))
        return this.#refuse(stream, peer, request, ExecEnd.NOT_ALLOWED);
      if (request.args.length > command.extraArguments || !request.args.every(isArgument))
        return this.#refuse(stream, peer, request, ExecEnd.TOO_MANY_ARGUMENTS);
      await this.#run(stream, peer, command, request.args);
    } catch {
      if (!stream.destroyed) stream.reset(StreamCode.APPLICATION);
    } finally {
      release?.();
    }
  }

  async #read(stream: MeshStream): Promise<ExecRequest | undefined> {
    const signal = AbortSignal.any([this.#ending.signal, AbortSignal.timeout(REQUEST_MS)]);
    const head = await readBytes(stream, EXEC_HEAD_BYTES, signal);
    const length = execBodyBytes(head);
    return length === undefined ? undefined : decodeExecRequest(head, await readBytes(stream, length, signal));
  }

  #list(stream: MeshStream, peer: PeerNames): void {
    const names = [...this.#commands.values()].filter(({ peers }) => matchesPeer(peers, peer)).map(({ name }) => name);
    stream.resume();
    if (names.length > 0) stream.write(encodeExecRecord(ExecRecord.OUT, utf8(`${names.join("\n")}\n`)));
    stream.end(encodeExecRecord(ExecRecord.EXIT, Uint8Array.of(0, 0, ExecEnd.NONE)));
  }

  #refuse(stream: MeshStream, peer: PeerNames, request: ExecRequest | undefined, end: ExecEnd): void {
    this.#results[end]++;
    this.#audit.refused(peer.id, `exec: ${peer.name} may not run "${request?.name ?? ""}": ${execEndText(end)}`);
    stream.resume();
    stream.end(encodeExecRecord(ExecRecord.REFUSED, Uint8Array.of(end)));
  }

  async #run(stream: MeshStream, peer: PeerNames, command: ExecCommand, args: readonly string[]): Promise<void> {
    const [program, ...fixed] = command.run;
    const startedMs = this.#context.clock.now().nowMs;
    const child = spawn(program, [...fixed, ...args], {
      shell: false,
      cwd: command.directory,
      // a group of its own: what it starts ends with it
      detached: true,
      stdio: ["pipe", "pipe", "pipe"],
      env: { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C.UTF-8", WEFT_PEER: peer.name, WEFT_PEER_ID: peer.id },
    });
    // before anything else: a process that could not be made says so in the next turn
    const exited = exitOf(child);
    const isMade = child.pid !== undefined && hasPipes(child);
    const [code, signal, why] = isMade
      ? await this.#carry(stream, peer, command, child, exited)
      : [undefined, 0, ExecEnd.FAILED];
    this.#results[why]++;
    const tookMs = Math.round(this.#context.clock.now().nowMs - startedMs);
    const result =
      code === undefined
        ? "could not be started"
        : signal === 0
          ? `ended with ${code}`
          : `was ended by signal ${signal}`;
    this.#audit.used(
      peer.id,
      `exec: ${command.name} of ${peer.name} ${result} after ${tookMs} ms ${execEndText(why)}`.trimEnd(),
    );
    stream.resume();
    if (!stream.destroyed) stream.end(encodeExecRecord(ExecRecord.EXIT, Uint8Array.of(code ?? 0, signal, why)));
  }

  /** A process that runs: its input, output and end. */
  async #carry(
    stream: MeshStream,
    peer: PeerNames,
    command: ExecCommand,
    child: ChildProcessWithoutNullStreams,
    exited: Exited,
  ): Promise<readonly [code: number | undefined, signal: number, why: ExecEnd]> {
    const { stdin, stdout, stderr } = child;
    let why: ExecEnd = ExecEnd.NONE;
    let outputBytes = 0;
    let quietBytes = -1;
    let hasExited = false;
    let killTimer: NodeJS.Timeout | undefined;
    let leftTimer: NodeJS.Timeout | undefined;
    const dropOutput = (): void => {
      stdout.destroy();
      stderr.destroy();
    };
    const end = (reason: ExecEnd): void => {
      if (why === ExecEnd.NONE) why = reason;
      // its number may be another process's by now
      if (hasExited) return dropOutput();
      killGroup(child, "SIGTERM");
      killTimer ??= setTimeout(() => killGroup(child, "SIGKILL"), KILL_MS);
    };
    const forward = (from: Readable, type: ExecRecord): void => {
      from.on("data", (bytes: Buffer) => {
        // nobody reads it any more, and nothing will say when to go on
        if (stream.destroyed) return;
        outputBytes += bytes.length;
        if (outputBytes > MAX_OUTPUT_BYTES) return end(ExecEnd.TOO_MUCH_OUTPUT);
        let isTaken = true;
        for (let at = 0; at < bytes.length; at += MAX_RECORD_BYTES)
          isTaken = stream.write(encodeExecRecord(type, bytes.subarray(at, at + MAX_RECORD_BYTES)));
        if (isTaken) return;
        from.pause();
        stream.once("drain", () => from.resume());
      });
      from.on("error", () => undefined);
    };
    // what it left behind may hold its output open; what a slow reader has not taken yet is waited for
    const dropWhenQuiet = (): void => {
      const isQuiet = !stdout.isPaused() && !stderr.isPaused() && outputBytes === quietBytes;
      if (quietBytes >= 0 && (isQuiet || why !== ExecEnd.NONE)) return dropOutput();
      quietBytes = outputBytes;
      leftTimer = setTimeout(dropWhenQuiet, KILL_MS);
    };
    const onClose = (): void => {
      end(ExecEnd.NONE);
      stdout.resume();
      stderr.resume();
    };
    const timer = setTimeout(() => end(ExecEnd.TIMEOUT), command.timeoutMs);
    this.#children.add(child);
    child.once("exit", () => {
      // what it left running in its group; in this very turn its number is its own
      killGroup(child, "SIGKILL");
      hasExited = true;
      clearTimeout(killTimer);
      this.#children.delete(child);
      if (stream.destroyed) dropOutput();
      else dropWhenQuiet();
    });
    try {
      stream.once("close", onClose);
      stream.on("error", () => undefined);
      stdin.on("error", () => undefined);
      stream.pipe(stdin);
      forward(stdout, ExecRecord.OUT);
      forward(stderr, ExecRecord.ERR);
      this.#audit.used(peer.id, `exec: ${peer.name} runs ${command.name} as process ${child.pid}`);
      if (stream.destroyed) onClose();
      const [code, signal] = await exited;
      return [code, signal, code === undefined ? ExecEnd.FAILED : why];
    } finally {
      clearTimeout(timer);
      clearTimeout(killTimer);
      clearTimeout(leftTimer);
      stream.off("close", onClose);
      stream.unpipe(stdin);
      this.#children.delete(child);
    }
  }

  metrics(): MetricSample[] {
    return [
      ...RESULTS.map((result, i): MetricSample => ({
        name: "weft_exec_served_total",
        type: "counter",
        help: "Programs that members wanted to run here, by what became of them.",
        labels: { result },
        value: this.#results[i],
      })),
      {
        name: "weft_exec_served",
        type: "gauge",
        help: "Programs that members run here now.",
        labels: {},
        value: this.#slots.taken,
      },
    ];
  }
}

type Exited = Promise<readonly [code: number | undefined, signal: number]>;

/** @returns code and signal number once all output has been read or given up; no code: it never started */
function exitOf(child: ChildProcess): Exited {
  return new Promise((resolve) => {
    // said again later when a signal could not be sent
    child.on("error", () => {
      if (child.pid === undefined) resolve([undefined, 0]);
    });
    child.once("close", (code, signal) => resolve([code ?? 0, signal === null ? 0 : constants.signals[signal]]));
  });
}

/** Out of file descriptors it comes back without them, whatever its type says. */
function hasPipes(child: ChildProcess): boolean {
  return [child.stdin, child.stdout, child.stderr].every((pipe) => pipe !== null && pipe !== undefined);
}

function killGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // nobody is left in it
  }
}
