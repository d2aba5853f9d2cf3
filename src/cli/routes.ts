/** weft routes: prefixes behind members; announced by routers, approved by admins, used by everybody else. */
import type { Command } from "@commander-js/extra-typings";
import type { RoutesView } from "../api/host-control.ts";
import { add, client, createCommand, show, UsageError } from "./context.ts";
import { table } from "./format.ts";

const EXAMPLE = `$ weft routes                               # what there is
$ weft routes announce 10.20.0.0/24         # on the router
$ weft routes approve office 10.20.0.0/24   # on an admin
$ weft routes withdraw 10.20.0.0/24         # on the router
$ weft routes accept off                    # use no routes of others`;

export function register(program: Command): void {
  add(
    program,
    createCommand("routes", "prefixes behind members: list, announce, approve", EXAMPLE)
      .argument("[ACTION]", "announce, withdraw, approve, disapprove or accept; none lists")
      .argument("[WHAT]", "PREFIX, for approve and disapprove NODE; on or off for accept")
      .argument("[PREFIX]", "for approve and disapprove")
      .action(async (action, what, prefix, options) => {
        const api = client(options);
        switch (action) {
          case undefined:
            return show(options, await api.routes(), describe);
          case "announce":
          case "withdraw":
            return show(options, await api.announceRoute(need(what, "PREFIX"), action === "announce"), describe);
          case "approve":
          case "disapprove": {
            const node = need(what, "NODE");
            const text = need(prefix, "PREFIX");
            const found = await api.approveRoute(node, text, action === "approve");
            return show(options, { ...found, prefix: text, approved: action === "approve" }, (done) =>
              done.approved
                ? `${done.prefix} through ${done.name} is approved`
                : `${done.prefix} through ${done.name} is not approved any more`,
            );
          }
          case "accept":
            if (what !== "on" && what !== "off")
              throw new UsageError("accept takes on or off", "write: weft routes accept on");
            return show(options, await api.acceptRoutes(what === "on"), describe);
          default:
            throw new UsageError(`"${action}" is no action`, "use announce, withdraw, approve, disapprove or accept");
        }
      }),
  );
}

function need(value: string | undefined, what: string): string {
  if (value === undefined) throw new UsageError(`${what} is missing`, "see `weft routes --help`");
  return value;
}

function describe(view: RoutesView): string {
  const parts: string[] = [];
  if (view.own.length > 0) {
    const rows = view.own.map((own) => [
      own.prefix,
      own.serving ? "served" : own.approved ? "approved" : "waits for an admin",
    ]);
    parts.push(table(["OWN PREFIX", "STATE"], rows));
  }
  if (view.routes.length > 0) {
    const rows = view.routes.map((route) => [
      route.prefix,
      route.node.name,
      route.active
        ? "in use"
        : route.announced && route.approved
          ? "spare"
          : route.announced
            ? "not approved"
            : "not announced",
      route.health,
    ]);
    parts.push(table(["PREFIX", "ROUTER", "STATE", "HEALTH"], rows));
  }
  if (!view.accept) parts.push("Routes of others are not used (weft routes accept on).");
  return parts.length === 0 ? "no member announces a prefix" : parts.join("\n\n");
}
