/** weft groups: named groups whose messages only their members can read. */
import { readFileSync } from "node:fs";
import type { Command } from "@commander-js/extra-typings";
import type { CardView, GroupView } from "../api/messaging/groups-control.ts";
import type { HistoryMessageView } from "../api/messaging/history-control.ts";
import type { WeftClient } from "../client/client.ts";
import { add, client, type CommonOptions, createCommand, print, show, UsageError, wholeNumber } from "./context.ts";
import { table } from "./format.ts";
import { messageLine } from "./history.ts";

const EXAMPLE = `$ weft groups create team alice bob       # this node is its admin
$ weft groups send team "hello, all"
$ weft groups messages team               # on any member
$ weft groups watch team
$ weft groups add team carol              # --admin: may change the group too
$ weft groups remove team bob             # it can read nothing from now on
$ weft groups card team                   # expiring proof that this node is in it
$ weft groups verify weftcard1.…`;

interface GroupOptions extends CommonOptions {
  readonly admin?: true | undefined;
  readonly agent?: string | undefined;
  readonly limit: string;
}

export function register(program: Command): void {
  add(
    program,
    createCommand("groups", "sealed groups: create, add, remove, send, messages", EXAMPLE)
      .argument("[ACTION]", "list, create, show, add, remove, leave, send, messages, watch, card or verify; none lists")
      .argument("[GROUP]", "name, or the first 8 or more digits of the id; for verify the card")
      .argument("[REST...]", "nodes, or the text to send (- or none: standard input)")
      .option("--admin", "for add: may change the group too")
      .option("--agent <NAME>", "for send: who sends on this node (default: node)")
      .option("--limit <N>", "for messages: the latest so many, 1 to 500", "50")
      .action(async (action, group, rest, options) => run(client(options), action ?? "list", group, rest, options)),
  );
}

async function run(
  api: WeftClient,
  action: string,
  group: string | undefined,
  rest: readonly string[],
  options: GroupOptions,
): Promise<void> {
  const params = (): Record<string, string> => ({ group: need(group, "GROUP") });
  const change = async (path: string, body: unknown): Promise<void> =>
    show(options, await api.call<GroupView>("POST", path, { params: params(), body }), describe);
  switch (action) {
    case "list": {
      const { groups } = await api.call<{ groups: GroupView[] }>("GET", "/v1/groups");
      return show(options, { groups }, () => describeAll(groups));
    }
    case "create": {
      const body = { name: need(group, "NAME"), nodes: rest };
      return show(options, await api.call<GroupView>("POST", "/v1/groups", { body }), describe);
    }
    case "show":
      return show(options, await api.call<GroupView>("GET", "/v1/groups/:group", { params: params() }), describe);
    case "add":
      need(rest[0], "NODE");
      for (const node of rest.slice(0, -1))
        await api.call("POST", "/v1/groups/:group/members", { params: params(), body: { node, admin: options.admin } });
      return change("/v1/groups/:group/members", { node: rest.at(-1), admin: options.admin });
    case "remove":
      return change("/v1/groups/:group/remove", { node: need(rest[0], "NODE") });
    case "leave": {
      const left = await api.call<GroupView>("POST", "/v1/groups/:group/leave", { params: params() });
      return show(options, left, () => `this node has left ${left.name}`);
    }
    case "send": {
      const bytes = rest.length === 0 || rest[0] === "-" ? readFileSync(0) : Buffer.from(rest.join(" "));
      const body = { payload: bytes.toString("base64"), agent: options.agent };
      const sent = await api.call<{ id: string; epoch: number }>("POST", "/v1/groups/:group/messages", {
        params: params(),
        body,
      });
      return show(options, sent, () => `sent to ${group} (${sent.id})`);
    }
    case "messages": {
      const query = { limit: wholeNumber(options.limit, "--limit", 1, 500) };
      const { messages } = await api.call<{ messages: HistoryMessageView[] }>("GET", "/v1/groups/:group/messages", {
        params: params(),
        query,
      });
      return show(options, { messages }, () =>
        messages.length === 0 ? "no messages" : messages.map(messageLine).join("\n"),
      );
    }
    case "watch":
      for await (const { event, data } of api.events<HistoryMessageView>("/v1/groups/:group/events", {
        params: params(),
      })) {
        if (options.json === true) print(JSON.stringify({ event, data }));
        else if (event === "message") print(messageLine(data));
        else if (event === "gap") print("(messages are missing here: see weft groups messages)");
      }
      return;
    case "card": {
      const query = { node: rest[0] };
      const { card } = await api.call<{ card: string }>("GET", "/v1/groups/:group/card", { params: params(), query });
      return show(options, { card }, () => card);
    }
    case "verify": {
      const body = { card: need(group, "CARD") };
      const view = await api.call<CardView>("POST", "/v1/groups/cards/verify", { body });
      show(options, view, describeCard);
      if (!view.valid) process.exitCode = 1;
      return;
    }
    default:
      throw new UsageError(`"${action}" is no action`, "see `weft groups --help`");
  }
}

function need(value: string | undefined, what: string): string {
  if (value === undefined) throw new UsageError(`${what} is missing`, "see `weft groups --help`");
  return value;
}

function describeAll(groups: readonly GroupView[]): string {
  if (groups.length === 0) return "no groups";
  const rows = groups.map((group) => [
    group.name,
    group.role === "none" ? "not in it" : group.role,
    String(group.members.length),
    String(group.epoch),
    group.id.slice(0, 8),
  ]);
  return table(["GROUP", "THIS NODE", "MEMBERS", "EPOCH", "ID"], rows, [2, 3]);
}

function describe(group: GroupView): string {
  const rows = group.members.map((member) => [
    member.name,
    member.role,
    member.until.slice(0, 10),
    member.id.slice(0, 8),
  ]);
  return `${group.name}, epoch ${group.epoch}\n${table(["MEMBER", "ROLE", "UNTIL", "ID"], rows)}`;
}

const CARD_VERDICTS: Readonly<Record<CardView["verdict"], string>> = {
  valid: "valid",
  expired: "NOT VALID, it has expired",
  "issuer-unknown": "CANNOT BE CHECKED, this node is not in the group and cannot tell who may sign for it",
  "issuer-no-admin": "NOT VALID, its issuer is no admin of the group",
  "not-member": "NOT VALID, its holder is not in the group, or not for so long",
  "other-role": "NOT VALID, its holder has another role",
};

function describeCard(card: CardView): string {
  return `${CARD_VERDICTS[card.verdict]}: ${card.node.name} is ${card.role} of ${card.name} until ${card.until.slice(0, 16).replace("T", " ")} UTC, says ${card.issuer.name}`;
}
