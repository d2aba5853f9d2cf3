/** weft forward: ports of this machine that lead to ports of members. They belong to the daemon and are kept over its restarts. */
import type { Command } from "@commander-js/extra-typings";
import type { ForwardView } from "../api/messaging/forwards-control.ts";
import { add, client, createCommand, show, UsageError } from "./context.ts";
import { bytes, table } from "./format.ts";

const EXAMPLE = `$ weft forward 8080 nas:80                  # http://127.0.0.1:8080 is port 80 of nas, on its loopback
$ weft forward 5432 office:db.internal:5432 # a place that office reaches, if it lets this node
$ weft forward                              # what there is
$ weft forward --stop 8080

The other node says who may: weft.toml there, [forward] allow = [{ peers = ["laptop"], targets = ["loopback:80"] }]`;

export function register(program: Command): void {
  add(
    program,
    createCommand("forward", "let ports of this machine lead to members", EXAMPLE)
      .argument("[LISTEN]", "PORT (on 127.0.0.1) or ADDR:PORT; port 0: any free one; none lists")
      .argument("[TARGET]", "NODE:PORT or NODE:HOST:PORT")
      .option("--stop", "close the forward on LISTEN; connections that are open go on")
      .action(async (listen, target, options) => {
        const api = client(options);
        if (listen === undefined) {
          if (options.stop === true) throw new UsageError("LISTEN is missing", "write: weft forward --stop 8080");
          const found = await api.call<{ forwards: ForwardView[] }>("GET", "/v1/forwards");
          return show(options, found, ({ forwards }) => describe(forwards));
        }
        if (options.stop === true) {
          const stopped = await api.call<ForwardView>("POST", "/v1/forwards/stop", { body: { listen } });
          return show(options, stopped, (one) => `${one.listen} is closed`);
        }
        if (target === undefined) throw new UsageError("TARGET is missing", "write: weft forward 8080 NODE:80");
        const made = await api.call<ForwardView>("POST", "/v1/forwards", { body: { listen, target } });
        return show(options, made, (one) => `${one.listen} leads to ${place(one)}`);
      }),
  );
}

function place({ node, host, port }: ForwardView): string {
  return `${node.name}:${host === "loopback" ? "" : `${host}:`}${port}`;
}

function describe(forwards: readonly ForwardView[]): string {
  if (forwards.length === 0) return "no port leads to a member (weft forward 8080 NODE:80)";
  const rows = forwards.map((one) => [
    one.listen,
    place(one),
    one.listening ? "listens" : `waits: ${one.error ?? ""}`,
    String(one.connections),
    String(one.failures),
    bytes(one.bytesUp),
    bytes(one.bytesDown),
  ]);
  const refusals = forwards.flatMap(({ listen, refusal }) => (refusal === null ? [] : `${listen}: ${refusal}`));
  const head = ["LISTEN", "TARGET", "STATE", "CONNECTIONS", "FAILED", "UP", "DOWN"];
  return [table(head, rows, [3, 4, 5, 6]), ...refusals].join("\n");
}
