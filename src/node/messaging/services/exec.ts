/**
 * Execution as a part of messaging: programs of other nodes that this node's clients run, and the server side.
 *
 *   client ─► run ─► stream ─► request        stream ─► records ─► chunks that wait ─► read (position) ─► client
 *
 * A run keeps at most WAIT_MOST_BYTES for its client, each record counted with what it costs besides its bytes; beyond, its stream is not read, which holds the program. A client that does not read for
 * CLIENT_MS has gone: the run is ended. Source: docs/protocol.md, "Execution".
 */
import type {
  ExecChunk,
  ExecControl,
  ExecExit,
  ExecOutput,
  ExecRequestView,
  ExecStarted,
} from "../../../api/messaging/exec-control.ts";
import type { MetricSample } from "../../../api/control.ts";
import { equal, toHex } from "../../../base/bytes.ts";
import { WeftError } from "../../../base/errors.ts";
import {
  encodeExecRequest,
  EXEC_KIND,
  execEndText,
  ExecRecord,
  ExecRecordReader,
} from "../../../messaging/services/exec-frames.ts";
import { type MeshStream, StreamClass } from "../../../stream/types.ts";
import type { MessagingPart } from "../part.ts";
import type { ExecCommand } from "./config.ts";
import { needMember, nodeName, type ServiceContext } from "./context.ts";
import { ExecServer } from "./exec-server.ts";
import { Audit } from "./limits.ts";

const MAX_RUNS = 64;
const WAIT_MOST_BYTES = 262_144;
/** Of one answer. */
const READ_BYTES = 131_072;
const CLIENT_MS = 60_000;
const TICK_MS = 5_000;
const LIST_MS = 20_000;
/** 256 names of 64 characters have place twice. */
const LIST_MOST_BYTES = 32_768;
/** What a record takes of memory, and of an answer, besides its bytes: a flood of tiny ones is bounded as well. */
const RECORD_COST_BYTES = 128;

interface Waiting {
  readonly type: ExecRecord;
  readonly bytes: Uint8Array;
}

class Run {
  readonly key: string;
  readonly stream: Promise<MeshStream>;
  readonly abort: AbortController;
  readonly waiting: Waiting[] = [];
  waitingBytes = 0;
  /** Position of waiting[0]. */
  base = 0;
  exit: ExecExit | undefined;
  readAtMs: number;
  wake: () => void = () => undefined;

  constructor(key: string, stream: Promise<MeshStream>, abort: AbortController, nowMs: number) {
    this.key = key;
    this.stream = stream;
    this.abort = abort;
    this.readAtMs = nowMs;
  }
}

export class ExecPart implements MessagingPart, ExecControl {
  readonly name = "exec";
  readonly control: { readonly exec: ExecControl } = { exec: this };
  readonly #context: ServiceContext;
  readonly #audit: Audit;
  readonly #server: ExecServer;
  readonly #runs = new Map<string, Run>();
  #timer: NodeJS.Timeout | undefined;
  #started = 0;
  #abandoned = 0;

  constructor(context: ServiceContext, commands: ReadonlyMap<string, ExecCommand>) {
    this.#context = context;
    this.#audit = new Audit(context.log, context.clock);
    this.#server = new ExecServer(context, this.#audit, commands);
  }

  start(): void {
    this.#server.start();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  close(): void {
    clearInterval(this.#timer);
    for (const run of this.#runs.values()) run.abort.abort(new Error("this node is stopping"));
    this.#server.close();
  }

  async commands(node: string): Promise<readonly string[]> {
    const run = this.#begin(node, "", [], false);
    let text = "";
    const untilMs = this.#nowMs() + LIST_MS;
    try {
      for (let after = 0; ;) {
        const output = await this.read(run.key, after, Math.max(0, untilMs - this.#nowMs()));
        after = output.next;
        const bytes = output.chunks.reduce((sum, { data }) => sum + Buffer.byteLength(data, "base64"), text.length);
        if (bytes > LIST_MOST_BYTES)
          throw new WeftError("EXEC_FAILED", `${node}: what it answers is no list of commands`, "see that node's log");
        text += output.chunks.map(({ data }) => Buffer.from(data, "base64").toString("latin1")).join("");
        if (output.exit === null && this.#nowMs() < untilMs) continue;
        const why = output.exit === null ? "it does not answer" : output.exit.reason;
        if (why !== null) throw new WeftError("EXEC_FAILED", `${node}: ${why}`, "see `weft ping` and that node's log");
        return text.split("\n").filter((name) => name !== "");
      }
    } finally {
      this.stop(run.key);
    }
  }

  run({ node, command, args, input }: ExecRequestView): ExecStarted {
    if (!/^[\x21-\x7e]{1,64}$/.test(command))
      throw new WeftError("EXEC_BAD", `"${command}" is no name of a command`, "see `weft exec NODE`");
    const run = this.#begin(node, command, args ?? [], input === true);
    const { nodeId, name } = needMember(this.#context, node);
    this.#audit.note(`exec: ${command} is run on ${name}`);
    this.#started++;
    return { key: run.key, node: nodeName(this.#context, nodeId) };
  }

  #begin(node: string, name: string, args: readonly string[], hasInput: boolean): Run {
    const member = needMember(this.#context, node);
    if (equal(member.nodeId, this.#context.identity.nodeId))
      throw new WeftError("EXEC_SELF", `"${node}" is this node itself`, "name another member");
    if (this.#runs.size >= MAX_RUNS)
      throw new WeftError("EXEC_LIMIT", `${MAX_RUNS} programs of other nodes run already`, "wait for one to end");
    let request: Uint8Array;
    try {
      request = encodeExecRequest({ name, args });
    } catch {
      throw new WeftError("EXEC_BAD", "there are too many or too long arguments", "at most 64, and 64 KiB in all");
    }
    const abort = new AbortController();
    const { signal } = abort;
    const opened = this.#context.streams.open(member.nodeId, { kind: EXEC_KIND, class: StreamClass.PUBSUB, signal });
    const run = new Run(toHex(this.#context.random.bytes(8)), opened, abort, this.#nowMs());
    this.#runs.set(run.key, run);
    opened.then(
      (stream) => this.#carry(run, stream, request, hasInput),
      (error: unknown) => this.#end(run, { code: null, signal: null, reason: textOf(error) }),
    );
    return run;
  }

  #carry(run: Run, stream: MeshStream, request: Uint8Array, hasInput: boolean): void {
    const reader = new ExecRecordReader();
    stream.on("data", (bytes: Buffer) => {
      if (!reader.add(bytes, (type, record) => this.#take(run, type, record))) {
        this.#end(run, { code: null, signal: null, reason: "what it answers is no output" });
        stream.destroy();
      }
      if (run.waitingBytes > WAIT_MOST_BYTES) stream.pause();
    });
    stream.once("error", (error) => this.#end(run, { code: null, signal: null, reason: textOf(error) }));
    stream.once("close", () => this.#end(run, { code: null, signal: null, reason: "the connection has ended" }));
    stream.write(request);
    if (!hasInput) stream.end();
  }

  #take(run: Run, type: ExecRecord, bytes: Uint8Array): void {
    if (type === ExecRecord.OUT || type === ExecRecord.ERR) {
      // behind the end nothing counts
      if (bytes.length === 0 || run.exit !== undefined) return;
      run.waiting.push({ type, bytes });
      run.waitingBytes += RECORD_COST_BYTES + bytes.length;
      run.wake();
      return;
    }
    if (type === ExecRecord.REFUSED)
      return this.#end(run, { code: null, signal: null, reason: execEndText(bytes[0] ?? 0) });
    const [code = 0, signal = 0, why = 0] = bytes;
    const reason = why === 0 ? null : execEndText(why);
    this.#end(run, signal === 0 ? { code, signal: null, reason } : { code: null, signal, reason });
  }

  /** The first end counts. */
  #end(run: Run, exit: ExecExit): void {
    if (run.exit !== undefined) return;
    run.exit = exit;
    run.wake();
  }

  async read(key: string, after: number, waitMs: number): Promise<ExecOutput> {
    const run = this.#need(key);
    run.readAtMs = this.#nowMs();
    this.#forget(run, after);
    if (run.waiting.length === 0 && run.exit === undefined) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, waitMs);
        // a second reader takes the place of the first, which then returns with nothing
        run.wake();
        run.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      run.readAtMs = this.#nowMs();
    }
    const chunks: ExecChunk[] = [];
    let bytes = 0;
    for (const one of run.waiting) {
      const cost = RECORD_COST_BYTES + one.bytes.length;
      if (bytes > 0 && bytes + cost > READ_BYTES) break;
      bytes += cost;
      chunks.push({
        stream: one.type === ExecRecord.OUT ? "out" : "err",
        data: Buffer.from(one.bytes).toString("base64"),
      });
    }
    const isLast = chunks.length === run.waiting.length;
    return { chunks, next: run.base + chunks.length, exit: isLast ? (run.exit ?? null) : null };
  }

  /** What is before the position has arrived at the client. */
  #forget(run: Run, after: number): void {
    const count = Math.max(0, Math.min(after - run.base, run.waiting.length));
    for (const { bytes } of run.waiting.splice(0, count)) run.waitingBytes -= RECORD_COST_BYTES + bytes.length;
    run.base += count;
    if (run.waitingBytes <= WAIT_MOST_BYTES / 2)
      void run.stream.then((stream) => stream.resume()).catch(() => undefined);
  }

  async input(key: string, data: string, end: boolean): Promise<void> {
    const run = this.#need(key);
    run.readAtMs = this.#nowMs();
    const ended = new WeftError("EXEC_ENDED", "the program takes no more input", "read what it has written");
    const stream = await run.stream.catch(() => undefined);
    if (stream === undefined || !stream.writable) throw ended;
    const bytes = Buffer.from(data, "base64");
    if (bytes.length > 0)
      await new Promise<void>((resolve, reject) => {
        stream.write(bytes, (error) => (error === null || error === undefined ? resolve() : reject(ended)));
      });
    if (end) stream.end();
  }

  stop(key: string): void {
    const run = this.#need(key);
    this.#runs.delete(key);
    run.abort.abort(new Error("it was stopped"));
    run.wake();
    void run.stream.then((stream) => stream.destroy()).catch(() => undefined);
  }

  #need(key: string): Run {
    const run = this.#runs.get(key);
    if (run === undefined)
      throw new WeftError("EXEC_UNKNOWN", `no run is called "${key}"`, "it has ended, or nobody read it");
    return run;
  }

  #tick(): void {
    const nowMs = this.#nowMs();
    for (const run of this.#runs.values()) {
      if (nowMs - run.readAtMs < CLIENT_MS) continue;
      if (run.exit === undefined) this.#abandoned++;
      this.stop(run.key);
    }
  }

  #nowMs(): number {
    return this.#context.clock.now().nowMs;
  }

  metrics(): readonly MetricSample[] {
    const sample = (name: string, type: "counter" | "gauge", help: string, value: number): MetricSample => ({
      name,
      type,
      help,
      labels: {},
      value,
    });
    return [
      sample("weft_exec_runs_total", "counter", "Programs of other nodes that clients here have run.", this.#started),
      sample(
        "weft_exec_abandoned_total",
        "counter",
        "Of these, ended because their client did not read.",
        this.#abandoned,
      ),
      sample("weft_exec_runs", "gauge", "Programs of other nodes whose output is kept now.", this.#runs.size),
      ...this.#server.metrics(),
    ];
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
