/** weft tasks: replicated task lists with claims that end by themselves. */
import type { Command } from "@commander-js/extra-typings";
import type { SpaceView } from "../api/messaging/kv-control.ts";
import type { TaskEvent, TaskView } from "../api/messaging/tasks-control.ts";
import type { WeftClient } from "../client/client.ts";
import { add, client, type CommonOptions, createCommand, duration, print, show, UsageError } from "./context.ts";
import { table } from "./format.ts";
import { describeSpaces } from "./kv.ts";
import { oneLine } from "./terminal.ts";

const EXAMPLE = `$ weft tasks add "rotate the keys" --body "see the runbook"
$ weft tasks                                  # what there is
$ weft tasks claim --for 30m                  # the oldest free one; again renews it
$ weft tasks done 3f2a --result "all rotated"
$ weft tasks release 3f2a
$ weft tasks watch --list builds`;

interface TaskOptions extends CommonOptions {
  readonly list: string;
  readonly body?: string | undefined;
  readonly title?: string | undefined;
  readonly result: string;
  readonly agent?: string | undefined;
  readonly for: string;
}

export function register(program: Command): void {
  add(
    program,
    createCommand("tasks", "replicated task lists: add, claim, finish", EXAMPLE)
      .argument(
        "[ACTION]",
        "list, add, show, edit, claim, release, done, fail, reopen, remove, watch, lists or close; none lists",
      )
      .argument("[TASK]", "the title for add, else the first 4 or more digits of the id")
      .option("--list <NAME>", "which list; the first use of it replicates it here", "default")
      .option("--body <TEXT>", "for add and edit: the text below the title")
      .option("--title <TEXT>", "for edit")
      .option("--result <TEXT>", "for done and fail", "")
      .option("--agent <NAME>", "who acts on this node (default: node)")
      .option("--for <TIME>", "for claim: how long, up to 24h", "10m")
      .action(async (action, what, options) => run(client(options), action ?? "list", what, options)),
  );
}

async function run(api: WeftClient, action: string, what: string | undefined, options: TaskOptions): Promise<void> {
  const { list, agent } = options;
  const at = (id: string): { params: Record<string, string> } => ({ params: { list, id } });
  const one = async (
    method: "GET" | "POST" | "PUT" | "DELETE",
    path: string,
    body: Readonly<Record<string, unknown>> | undefined,
    done: string,
  ): Promise<void> => {
    const call = { ...at(need(what)), ...(body === undefined ? {} : { body }) };
    const task = await api.call<TaskView>(method, path, call);
    show(options, task, () => `${task.id}  ${done}: ${oneLine(task.title)}`);
  };
  switch (action) {
    case "list": {
      const { tasks } = await api.call<{ tasks: TaskView[] }>("GET", "/v1/tasks/:list", {
        params: { list },
        query: { agent },
      });
      return show(options, { tasks }, describe);
    }
    case "lists": {
      const { lists } = await api.call<{ lists: SpaceView[] }>("GET", "/v1/tasks");
      return show(options, { lists }, () => describeSpaces(lists, "LIST", "no task list is replicated here"));
    }
    case "add": {
      const body = { title: need(what), body: options.body, agent };
      const task = await api.call<TaskView>("POST", "/v1/tasks/:list", { params: { list }, body });
      return show(options, task, () => `${task.id}  added: ${oneLine(task.title)}`);
    }
    case "show": {
      const task = await api.call<TaskView>("GET", "/v1/tasks/:list/:id", { ...at(need(what)), query: { agent } });
      return show(options, task, whole);
    }
    case "edit":
      return one("PUT", "/v1/tasks/:list/:id", { title: options.title, body: options.body, agent }, "changed");
    case "claim": {
      const seconds = Math.max(1, Math.round(duration(options.for, "--for") / 1000));
      const body = { seconds, agent };
      const task =
        what === undefined
          ? await api.call<TaskView>("POST", "/v1/tasks/:list/claim", { params: { list }, body })
          : await api.call<TaskView>("POST", "/v1/tasks/:list/:id/claim", { ...at(what), body });
      return show(options, task, () => `${task.id}  claimed until ${task.claim?.until ?? "–"}: ${oneLine(task.title)}`);
    }
    case "release":
      return one("POST", "/v1/tasks/:list/:id/release", { agent }, "released");
    case "done":
      return one("POST", "/v1/tasks/:list/:id/finish", { state: "done", result: options.result, agent }, "done");
    case "fail":
      return one("POST", "/v1/tasks/:list/:id/finish", { state: "failed", result: options.result, agent }, "failed");
    case "reopen":
      return one("POST", "/v1/tasks/:list/:id/finish", { state: "open", result: "", agent }, "open again");
    case "remove":
      return one("DELETE", "/v1/tasks/:list/:id", undefined, "removed");
    case "watch":
      return watch(api, options);
    case "close": {
      const closed = await api.call<SpaceView>("POST", "/v1/tasks/:list/close", { params: { list } });
      return show(options, closed, () => `${closed.name} is not replicated here any more`);
    }
    default:
      throw new UsageError(`"${action}" is no action`, "see `weft tasks --help`");
  }
}

async function watch(api: WeftClient, options: TaskOptions): Promise<void> {
  const where = { params: { list: options.list }, query: { agent: options.agent } };
  for await (const { event, data } of api.events<TaskEvent>("/v1/tasks/:list/events", where)) {
    if (options.json === true) print(JSON.stringify({ event, data }));
    else if (event === "task")
      print(
        data.task === null ? `${data.id}  removed` : `${data.id}  ${stateOf(data.task)}  ${oneLine(data.task.title)}`,
      );
    else if (event === "gap") print("(changes are missing here: list again)");
  }
}

function need(what: string | undefined): string {
  if (what === undefined) throw new UsageError("TASK is missing", "see `weft tasks --help`");
  return what;
}

function stateOf(task: TaskView): string {
  if (task.claim === null) return task.state;
  const { node, agent } = task.claim;
  return `claimed by ${task.claim.mine ? "this node" : node.name}${agent === "node" ? "" : `/${agent}`}`;
}

function describe({ tasks }: { readonly tasks: readonly TaskView[] }): string {
  if (tasks.length === 0) return "no tasks";
  const rows = tasks.map((task) => [
    task.id.slice(0, 8),
    stateOf(task),
    task.title.length > 60 ? `${task.title.slice(0, 59)}…` : task.title,
    task.author.name,
    task.changedAt.slice(0, 16).replace("T", " "),
  ]);
  return table(["TASK", "STATE", "TITLE", "BY", "CHANGED (UTC)"], rows);
}

function whole(task: TaskView): string {
  const lines = [`${task.id}  ${stateOf(task)}`, oneLine(task.title)];
  if (task.claim !== null) lines.push(`claimed until ${task.claim.until}`);
  if (task.body !== "") lines.push("", task.body);
  if (task.result !== "") lines.push("", `result, by ${task.finishedBy?.name ?? "–"}:`, task.result);
  return lines.join("\n");
}
