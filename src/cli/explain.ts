/** weft explain: how a peer is reached, what else was tried, and why the path is not direct. */
import type { Command } from "@commander-js/extra-typings";
import type { ExplainView } from "../api/explain-view.ts";
import { add, client, createCommand, show } from "./context.ts";
import { age, milliseconds, paint, path, table } from "./format.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "explain",
      "say how a peer is reached, and why not directly",
      "$ weft explain laptop\n$ weft explain laptop --json | jq .verdict",
    )
      .argument("<PEER>", "name, id or overlay address")
      .action(async (peer, options) => {
        show(options, await client(options).explain(peer), render);
      }),
  );
}

function render(view: ExplainView): string {
  const { verdict } = view;
  const lines = [
    `${paint("bold", view.peer.name)}  ${path(view.path)}`,
    `${verdict.text}${verdict.remedy === "" ? "" : `\n  → ${verdict.remedy}`}`,
  ];
  if (view.session.lastError !== null) lines.push(`session: ${view.session.lastError}`);
  if (view.paths.length > 0) {
    const rows = view.paths.map((one) => [
      one.active ? "→" : one.duplicate ? "+" : "",
      one.kind,
      one.endpoint ?? `via ${one.via.join(" → ") || "?"}`,
      one.state === "alive" ? paint("green", one.state) : one.state === "dead" ? paint("red", one.state) : one.state,
      milliseconds(one.rttMs),
      `${(one.loss * 100).toFixed(0)} %`,
      String(one.pmtu),
      age(one.lastReceivedMs),
      one.reason,
    ]);
    lines.push("", table(["", "PATH", "WHERE", "STATE", "RTT", "LOSS", "PMTU", "HEARD", "WHY"], rows, [4, 5, 6, 7]));
  }
  const waiting = view.through.filter((way) => !view.paths.some((one) => one.via.join() === way.via.join()));
  for (const way of waiting) lines.push(`${way.kind} via ${way.via.join(" → ")}: ${way.state} (${way.reason})`);
  lines.push("", `addresses known: ${view.candidates.join("  ") || "none"}`);
  const { punching } = view;
  if (punching !== null) {
    lines.push(
      `hole punching: ${punching.state}, ${punching.attempts} attempt${punching.attempts === 1 ? "" : "s"} by this node${punching.tried.length === 0 ? "" : `, last one: ${punching.tried.join(", ")}`}${punching.nextAttemptInMs > 0 ? `, next in ${age(punching.nextAttemptInMs)}` : ""}`,
      `  NAT here ${punching.ownNat}, there ${punching.peerNat}; the peer names ${punching.peerEndpoints.join("  ") || "no address"}; others see it at ${punching.seenAt.join("  ") || "no address"}`,
    );
  }
  return lines.join("\n");
}
