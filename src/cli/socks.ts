/** weft socks: SOCKS5 proxies of this machine that lead to the members, for programs on nodes without an interface. */
import type { Command } from "@commander-js/extra-typings";
import type { ProxyView } from "../api/messaging/forwards-control.ts";
import { add, client, createCommand, show, UsageError } from "./context.ts";
import { bytes, table } from "./format.ts";

const EXAMPLE = `$ weft socks 1080                                    # then, without root and without an interface:
$ curl --proxy socks5h://127.0.0.1:1080 http://nas/
$ weft socks 1081 --via office                       # what is no member goes through office, if it lets this node
$ weft socks                                         # what there is
$ weft socks --stop 1080`;

export function register(program: Command): void {
  add(
    program,
    createCommand("socks", "SOCKS5 proxies to the members", EXAMPLE)
      .argument("[LISTEN]", "PORT (on 127.0.0.1) or ADDR:PORT; port 0: any free one; none lists")
      .option("--via <NODE>", "where everything goes that is no member (default: nowhere)")
      .option("--stop", "close the proxy on LISTEN; connections that are open go on")
      .action(async (listen, options) => {
        const api = client(options);
        if (listen === undefined) {
          if (options.stop === true) throw new UsageError("LISTEN is missing", "write: weft socks --stop 1080");
          const found = await api.call<{ proxies: ProxyView[] }>("GET", "/v1/socks");
          return show(options, found, ({ proxies }) => describe(proxies));
        }
        if (options.stop === true) {
          const stopped = await api.call<ProxyView>("POST", "/v1/socks/stop", { body: { listen } });
          return show(options, stopped, (one) => `${one.listen} is closed`);
        }
        const made = await api.call<ProxyView>("POST", "/v1/socks", { body: { listen, via: options.via } });
        return show(options, made, (one) => `socks5h://${one.listen} leads to the members${through(one)}`);
      }),
  );
}

function through({ via }: ProxyView): string {
  return via === null ? "" : `, everything else goes through ${via.name}`;
}

function describe(proxies: readonly ProxyView[]): string {
  if (proxies.length === 0) return "no proxy listens (weft socks 1080)";
  const rows = proxies.map((one) => [
    one.listen,
    one.via?.name ?? "–",
    one.listening ? "listens" : `waits: ${one.error ?? ""}`,
    String(one.connections),
    String(one.failures),
    bytes(one.bytesUp),
    bytes(one.bytesDown),
  ]);
  const refusals = proxies.flatMap(({ listen, refusal }) => (refusal === null ? [] : `${listen}: ${refusal}`));
  const head = ["LISTEN", "VIA", "STATE", "CONNECTIONS", "FAILED", "UP", "DOWN"];
  return [table(head, rows, [3, 4, 5, 6]), ...refusals].join("\n");
}
