/** weft files: files to and from members. The daemon does the work and goes on after a restart; the command shows how far it is. */
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "@commander-js/extra-typings";
import type { FilesView, ShareView, TransferView } from "../api/messaging/files-control.ts";
import type { WeftClient } from "../client/client.ts";
import { add, client, type CommonOptions, createCommand, Exit, show, UsageError } from "./context.ts";
import { bytes, table } from "./format.ts";
import { forTerminal, write } from "./terminal.ts";

const EXAMPLE = `$ weft files send report.pdf nas          # nas gets it now or when it is back
$ weft files share film.mkv               # prints the file id: whoever knows it may fetch it
$ weft files get f1… --from nas --from pi # from both at once
$ weft files                              # what is shared, sent and fetched
$ weft files cancel KEY`;

const POLL_MS = 250;
/** Without a terminal a line this often. */
const LINE_MS = 10_000;
const ENDED: ReadonlySet<string> = new Set(["done", "failed", "refused", "cancelled"]);

export function register(program: Command): void {
  const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];
  add(
    program,
    createCommand("files", "send, share and fetch files", EXAMPLE)
      .argument("[ACTION]", "send, share, unshare, get, watch or cancel; none lists")
      .argument("[WHAT]", "PATH for send and share, file id for get and unshare, KEY for watch and cancel")
      .argument("[NODE]", "for send")
      .option(
        "--from <NODE>",
        "get: a member that has it; may be repeated (default: all that are up are asked)",
        collect,
      )
      .option("--output <PATH>", "get: where it goes (default: the directory for received files)")
      .option("--name <NAME>", "what it is called at the other end")
      .option("--no-wait", "do not wait for the end; the daemon goes on in any case")
      .action(async (action, what, node, options) => {
        const api = client(options);
        if (action === undefined) return show(options, await api.call<FilesView>("GET", "/v1/files"), describe);
        const body = bodyOf(action, need(what, "WHAT"), node, options);
        if (action === "unshare") {
          const ended = await api.call<ShareView>("POST", "/v1/files/unshare", { body });
          return show(options, ended, (one) => `${one.path} is not shared any more`);
        }
        if (action === "cancel") {
          const ended = await api.call<TransferView>("POST", "/v1/files/cancel", { body });
          return show(options, ended, (one) => `${one.name}: ${one.state}`);
        }
        const begun =
          action === "watch"
            ? await look(api, need(what, "KEY"))
            : await api.call<TransferView>("POST", `/v1/files/${action}`, { body });
        return finish(api, begun, options);
      }),
  );
}

interface Options extends CommonOptions {
  readonly from?: string[] | undefined;
  readonly output?: string | undefined;
  readonly name?: string | undefined;
  readonly wait: boolean;
}

function bodyOf(action: string, what: string, node: string | undefined, options: Options): Record<string, unknown> {
  const { name } = options;
  switch (action) {
    case "send":
      return { path: resolve(what), to: need(node, "NODE"), name };
    case "share":
      return { path: resolve(what), name };
    case "unshare":
      return { id: what };
    case "get":
      return {
        id: what,
        from: options.from,
        path: options.output === undefined ? undefined : resolve(options.output),
        name,
      };
    case "watch":
    case "cancel":
      return { key: what };
    default:
      throw new UsageError(`"${action}" is no action`, "use send, share, unshare, get, watch or cancel");
  }
}

function need(value: string | undefined, what: string): string {
  if (value === undefined) throw new UsageError(`${what} is missing`, "see `weft files --help`");
  return value;
}

function look(api: WeftClient, key: string): Promise<TransferView> {
  return api.call<TransferView>("GET", "/v1/files/transfers/:key", { params: { key } });
}

async function finish(api: WeftClient, begun: TransferView, options: Options): Promise<void> {
  let view = begun;
  if (options.wait) {
    const progress = new Progress();
    while (!ENDED.has(view.state)) {
      progress.show(view);
      await sleep(POLL_MS);
      view = await look(api, view.key);
    }
    progress.end();
  }
  show(options, view, summary);
  if (view.state === "failed" || view.state === "refused" || view.state === "cancelled")
    process.exitCode = Exit.FAILURE;
}

/** On a terminal one line that is drawn anew, else a line now and then; always on stderr. */
class Progress {
  readonly #isTerminal = process.stderr.isTTY;
  #last = "";
  #lineAtMs = -Infinity;

  show(view: TransferView): void {
    const line = progressLine(view);
    if (this.#isTerminal) {
      process.stderr.write(`\r${forTerminal(line)}\u001B[K`);
      return;
    }
    const nowMs = performance.now();
    if (view.state === this.#last && nowMs - this.#lineAtMs < LINE_MS) return;
    this.#last = view.state;
    this.#lineAtMs = nowMs;
    write(`${line}\n`, process.stderr);
  }

  end(): void {
    if (this.#isTerminal) process.stderr.write("\r\u001B[K");
  }
}

function progressLine(view: TransferView): string {
  const { name, sizeBytes, doneBytes, bytesPerSecond, state, error } = view;
  const parts = [name];
  if (sizeBytes !== null) {
    parts.push(
      `${Math.floor((100 * doneBytes) / Math.max(1, sizeBytes))} %`,
      `${bytes(doneBytes)} of ${bytes(sizeBytes)}`,
    );
  } else if (doneBytes > 0) parts.push(bytes(doneBytes));
  if (bytesPerSecond > 0) {
    parts.push(`${bytes(bytesPerSecond)}/s`);
    if (sizeBytes !== null) parts.push(`${Math.ceil((sizeBytes - doneBytes) / bytesPerSecond)} s left`);
  }
  parts.push(error === null ? state : `${state} (${error})`);
  return parts.join("  ");
}

function summary(view: TransferView): string {
  const size = view.sizeBytes === null ? "" : `, ${bytes(view.sizeBytes)}`;
  if (view.state !== "done")
    return `${view.name}${size}: ${view.state}${view.error === null ? "" : `, ${view.error}`} (${view.key})`;
  switch (view.kind) {
    case "share":
      return view.id ?? "";
    case "send":
      return `${view.name}${size}: ${view.peers[0]?.name ?? ""} has it`;
    default:
      return view.path ?? view.name;
  }
}

function describe(view: FilesView): string {
  const parts: string[] = [];
  if (view.transfers.length > 0) {
    const rows = view.transfers.map((one) => [
      one.key,
      one.kind,
      one.name,
      one.sizeBytes === null ? "–" : bytes(one.sizeBytes),
      one.sizeBytes === null ? "–" : `${Math.floor((100 * one.doneBytes) / Math.max(1, one.sizeBytes))} %`,
      one.bytesPerSecond > 0 ? `${bytes(one.bytesPerSecond)}/s` : "–",
      one.error === null ? one.state : `${one.state}: ${one.error}`,
      one.peers.map(({ name }) => name).join(" "),
    ]);
    parts.push(table(["KEY", "KIND", "NAME", "SIZE", "DONE", "RATE", "STATE", "NODES"], rows, [3, 4, 5]));
  }
  if (view.shares.length > 0) {
    const rows = view.shares.map((one) => [
      one.id,
      one.everybody ? "every member" : one.peers.map(({ name }) => name).join(" "),
      bytes(one.sizeBytes),
      bytes(one.bytesServed),
      one.path,
    ]);
    parts.push(table(["ID", "FOR", "SIZE", "SERVED", "PATH"], rows, [2, 3]));
  }
  parts.push(`Received files: ${view.directory} (${bytes(view.usedBytes)} of ${bytes(view.quotaBytes)})`);
  return parts.join("\n\n");
}
