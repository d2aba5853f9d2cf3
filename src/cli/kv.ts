/** weft kv: the replicated key-value store. */
import { readFileSync } from "node:fs";
import type { Command } from "@commander-js/extra-typings";
import type { KvChange, KvEntryView, SpaceView } from "../api/messaging/kv-control.ts";
import type { WeftClient } from "../client/client.ts";
import { add, client, type CommonOptions, createCommand, print, show, UsageError, wholeNumber } from "./context.ts";
import { bytes, table } from "./format.ts";
import { writeBytes } from "./terminal.ts";

const EXAMPLE = `$ weft kv set greeting "hello"            # on any node
$ weft kv get greeting                    # on any other one
$ weft kv set config - < config.json      # the value from standard input
$ weft kv list --prefix app/ --space prod
$ weft kv watch                           # changes as they come
$ weft kv del greeting
$ weft kv spaces                          # what this node replicates
$ weft kv close --space prod              # not here any more`;

interface KvOptions extends CommonOptions {
  readonly space: string;
  readonly prefix: string;
  readonly limit: string;
}

export function register(program: Command): void {
  add(
    program,
    createCommand("kv", "replicated key-value store: get, set, list, watch", EXAMPLE)
      .argument("[ACTION]", "get, set, del, list, watch, spaces or close; none lists")
      .argument("[KEY]", "1 to 256 bytes")
      .argument("[VALUE]", "for set; - or none reads standard input")
      .option("--space <NAME>", "which map; the first use of it replicates it here", "default")
      .option("--prefix <TEXT>", "for list and watch: keys that begin with it", "")
      .option("--limit <N>", "for list: at most so many, 1 to 1000", "1000")
      .action(async (action, key, value, options) => run(client(options), action ?? "list", key, value, options)),
  );
}

async function run(
  api: WeftClient,
  action: string,
  key: string | undefined,
  value: string | undefined,
  options: KvOptions,
): Promise<void> {
  const params = { space: options.space };
  switch (action) {
    case "get": {
      const query = { key: need(key) };
      const entry = await api.call<KvEntryView>("GET", "/v1/kv/:space/value", { params, query });
      if (options.json === true) return show(options, entry, () => "");
      return writeBytes(Uint8Array.fromBase64(entry.value));
    }
    case "set": {
      const body = { key: need(key), value: valueOf(value) };
      const entry = await api.call<KvEntryView>("PUT", "/v1/kv/:space/value", { params, body });
      return show(options, entry, () => `${entry.key} is set in ${options.space}`);
    }
    case "del": {
      const query = { key: need(key) };
      const done = await api.call<{ key: string; deleted: boolean }>("DELETE", "/v1/kv/:space/value", {
        params,
        query,
      });
      return show(options, done, () => (done.deleted ? `${done.key} is deleted` : `${done.key} had no value`));
    }
    case "list": {
      const limit = wholeNumber(options.limit, "--limit", 1, 1000);
      const query = { prefix: options.prefix, limit };
      const page = await api.call<{ entries: KvEntryView[]; more: boolean }>("GET", "/v1/kv/:space/entries", {
        params,
        query,
      });
      return show(options, page, describe);
    }
    case "watch": {
      const query = { prefix: options.prefix };
      for await (const { event, data } of api.events<KvChange>("/v1/kv/:space/changes", { params, query })) {
        if (options.json === true) print(JSON.stringify({ event, data }));
        else if (event === "change") print(`${data.key}\t${data.value === null ? "(deleted)" : oneLine(data)}`);
        else if (event === "gap") print("(changes are missing here: list again)");
      }
      return;
    }
    case "spaces": {
      const { spaces } = await api.call<{ spaces: SpaceView[] }>("GET", "/v1/kv");
      return show(options, { spaces }, () => describeSpaces(spaces, "SPACE", "no key-value space is replicated here"));
    }
    case "close": {
      const space = await api.call<SpaceView>("POST", "/v1/kv/:space/close", { params });
      return show(options, space, () => `${space.name} (${space.keys} keys) is not replicated here any more`);
    }
    default:
      throw new UsageError(`"${action}" is no action`, "use get, set, del, list, watch, spaces or close");
  }
}

function need(key: string | undefined): string {
  if (key === undefined) throw new UsageError("KEY is missing", "see `weft kv --help`");
  return key;
}

/** @returns base64 */
function valueOf(value: string | undefined): string {
  return value === undefined || value === "-"
    ? readFileSync(0).toString("base64")
    : Buffer.from(value).toString("base64");
}

function describe(page: { readonly entries: readonly KvEntryView[]; readonly more: boolean }): string {
  if (page.entries.length === 0) return "no keys";
  const rows = page.entries.map((entry) => [
    entry.key,
    oneLine(entry),
    entry.author.name,
    entry.changedAt.slice(0, 19).replace("T", " "),
  ]);
  return table(["KEY", "VALUE", "BY", "CHANGED (UTC)"], rows) + (page.more ? "\n(there are more; see --prefix)" : "");
}

function oneLine(entry: { readonly text: string | null; readonly value: string | null }): string {
  if (entry.text === null) return `(${bytes(Buffer.from(entry.value ?? "", "base64").length)})`;
  const shown = JSON.stringify(entry.text).slice(1, -1);
  return shown.length > 60 ? `${shown.slice(0, 59)}…` : shown;
}

export function describeSpaces(spaces: readonly SpaceView[], heading: string, none: string): string {
  if (spaces.length === 0) return none;
  const rows = spaces.map((space) => [space.name, String(space.keys), bytes(space.bytes), String(space.replicas)]);
  return table([heading, "ENTRIES", "BYTES", "OTHER NODES"], rows, [1, 2, 3]);
}
