/** weft agents: programs on this node with keys, inboxes and access lists of their own. */
import { readFileSync } from "node:fs";
import type { Command } from "@commander-js/extra-typings";
import type { AgentPlaceView, AgentView } from "../api/messaging/agents-control.ts";
import type { WeftClient } from "../client/client.ts";
import { add, client, type CommonOptions, createCommand, show, UsageError } from "./context.ts";
import { table } from "./format.ts";

const EXAMPLE = `$ weft agents create builder
$ weft send builder@hub "hello"                    # from any node
$ weft agents access builder alice ci@bob          # they alone may write to it
$ weft agents access builder                       # everybody may
$ weft agents export builder > builder.secret      # to move it …
$ weft agents import builder @builder.secret       # … on the other node
$ weft agents find builder@hub`;

export function register(program: Command): void {
  add(
    program,
    createCommand("agents", "agents of this node: create, access, move", EXAMPLE)
      .argument("[ACTION]", "list, create, remove, access, export, import or find; none lists")
      .argument("[AGENT]", "its name; for find its id or NAME@NODE")
      .argument("[REST...]", "for access: nodes and agents; for import: @FILE with the secret, or - for standard input")
      .action(async (action, agent, rest, options) => run(client(options), action ?? "list", agent, rest, options)),
  );
}

async function run(
  api: WeftClient,
  action: string,
  agent: string | undefined,
  rest: readonly string[],
  options: CommonOptions,
): Promise<void> {
  switch (action) {
    case "list": {
      const found = await api.call<{ agents: AgentView[]; known: AgentPlaceView[] }>("GET", "/v1/agents");
      return show(options, found, describe);
    }
    case "create": {
      const made = await api.call<AgentView>("POST", "/v1/agents", { body: { name: need(agent) } });
      return show(options, made, () => `${made.name}  ${made.id}`);
    }
    case "remove": {
      const gone = await api.call<AgentView>("DELETE", "/v1/agents/:agent", { params: { agent: need(agent) } });
      return show(options, gone, () => `${gone.name} is removed`);
    }
    case "access": {
      const body = { open: rest.length === 0, allowed: rest };
      const view = await api.call<AgentView>("POST", "/v1/agents/:agent/access", {
        params: { agent: need(agent) },
        body,
      });
      return show(options, view, () => `${view.name}: ${accessOf(view)}`);
    }
    case "export": {
      const secret = await api.call<{ secret: string }>("POST", "/v1/agents/:agent/export", {
        params: { agent: need(agent) },
      });
      return show(options, secret, () => secret.secret);
    }
    case "import": {
      const body = { name: need(agent), secret: secretFrom(rest[0]) };
      const view = await api.call<AgentView>("POST", "/v1/agents/import", { body });
      return show(options, view, () => `${view.name} lives here now`);
    }
    case "find": {
      const place = await api.call<AgentPlaceView>("GET", "/v1/agents/find", { query: { agent: need(agent) } });
      return show(options, place, () => `${place.id}  lives on ${place.node.name}`);
    }
    default:
      throw new UsageError(`"${action}" is no action`, "use list, create, remove, access, export, import or find");
  }
}

function need(agent: string | undefined): string {
  if (agent === undefined) throw new UsageError("AGENT is missing", "see `weft agents --help`");
  return agent;
}

/** Never from the command line itself, where everybody could read it. */
function secretFrom(place: string | undefined): string {
  if (place === undefined || place === "-") return readFileSync(0, "utf8").trim();
  if (!place.startsWith("@"))
    throw new UsageError("a secret does not belong on the command line", "write @FILE, or - for standard input");
  try {
    return readFileSync(place.slice(1), "utf8").trim();
  } catch (error) {
    throw new UsageError(`cannot read the secret: ${(error as Error).message}`, "name a file, or - for standard input");
  }
}

function accessOf(agent: AgentView): string {
  if (agent.access.open) return "everybody may write";
  return agent.access.allowed.length === 0 ? "this node alone may write" : agent.access.allowed.join(", ");
}

function describe({
  agents,
  known,
}: {
  readonly agents: readonly AgentView[];
  readonly known: readonly AgentPlaceView[];
}): string {
  const rows = [
    ...agents.map((one) => [
      one.name,
      one.movedTo === null ? "here" : `moved to ${one.movedTo.name}`,
      accessOf(one),
      one.id,
    ]),
    ...known.map((one) => [one.name === "" ? "–" : one.name, one.node.name, "", one.id]),
  ];
  return rows.length === 0 ? "no agents" : table(["AGENT", "WHERE", "ACCESS", "ID"], rows);
}
