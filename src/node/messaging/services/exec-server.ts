/**
 * Programs that members run here: those of [exec.NAME] in weft.toml and no others, by an absolute path, without a shell, with arguments that are passed
 * as they are. Nothing of the daemon's environment goes with them.
 *
 *   stream ─► place free? ─► request (10 s) ─► command of that name for that member? ─► spawn in a process group of its own
 *   standard input ◄─ stream; output ─► records, read only as fast as they go; exit ─► EXIT
 *
 * A program ends with its stream, its time or its share of output: the group gets SIGTERM, two seconds later SIGKILL. Every start, end and
 * refusal is an audit line and counted. Source: docs/protocol.md, "Execution".
 */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
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
    this.#audit.note(`exec: ${peer.name} may not run "${request?.name ?? ""}": ${execEndText(end)}`);
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
    this.#children.add(child);
    let why: ExecEnd = ExecEnd.NONE;
    let outputBytes = 0;
    let killTimer: NodeJS.Timeout | undefined;
    const end = (reason: ExecEnd): void => {
      if (why === ExecEnd.NONE) why = reason;
      killGroup(child, "SIGTERM");
      killTimer ??= setTimeout(() => killGroup(child, "SIGKILL"), KILL_MS);
    };
    const forward = (from: Readable, type: ExecRecord): void => {
      from.on("data", (bytes: Buffer) => {
        outputBytes += bytes.length;
        if (outputBytes > MAX_OUTPUT_BYTES) return end(ExecEnd.TOO_MUCH_OUTPUT);
        let isTaken = true;
        for (let at = 0; at < bytes.length; at += MAX_RECORD_BYTES)
          isTaken = stream.write(encodeExecRecord(type, bytes.subarray(at, at + MAX_RECORD_BYTES)));
        if (isTaken) return;
        from.pause();
        stream.once("drain", () => from.resume());
      });
    };
    const timer = setTimeout(() => end(ExecEnd.TIMEOUT), command.timeoutMs);
    const onClose = (): void => end(ExecEnd.NONE);
    stream.once("close", onClose);
    stream.on("error", () => undefined);
    child.stdin.on("error", () => undefined);
    stream.pipe(child.stdin);
    forward(child.stdout, ExecRecord.OUT);
    forward(child.stderr, ExecRecord.ERR);
    child.once("spawn", () => this.#audit.note(`exec: ${peer.name} runs ${command.name} as process ${child.pid}`));
    const [code, signal] = await exitOf(child);
    clearTimeout(timer);
    clearTimeout(killTimer);
    stream.off("close", onClose);
    this.#children.delete(child);
    if (code === undefined) why = ExecEnd.FAILED;
    this.#results[why]++;
    const tookMs = Math.round(this.#context.clock.now().nowMs - startedMs);
    const result =
      code === undefined
        ? "could not be started"
        : signal === 0
          ? `ended with ${code}`
          : `was ended by signal ${signal}`;
    this.#audit.note(
      `exec: ${command.name} of ${peer.name} ${result} after ${tookMs} ms ${execEndText(why)}`.trimEnd(),
    );
    stream.unpipe(child.stdin);
    stream.resume();
    if (!stream.destroyed) stream.end(encodeExecRecord(ExecRecord.EXIT, Uint8Array.of(code ?? 0, signal, why)));
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

/** @returns code and signal number once all output has been read; no code: it never started */
function exitOf(child: ChildProcessWithoutNullStreams): Promise<readonly [code: number | undefined, signal: number]> {
  return new Promise((resolve) => {
    child.once("error", () => {
      if (child.pid === undefined) resolve([undefined, 0]);
    });
    // what it left running in its group would hold its output open
    child.once("exit", () => killGroup(child, "SIGKILL"));
    child.once("close", (code, signal) => resolve([code ?? 0, signal === null ? 0 : constants.signals[signal]]));
  });
}

function killGroup(child: ChildProcessWithoutNullStreams, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // nobody is left in it
  }
}
