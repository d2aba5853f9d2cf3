/** weft explain: how a peer is reached, what else was tried, and why the path is not direct. */
import type { Command } from "@commander-js/extra-typings";
import type { ExplainView } from "../api/explain-view.ts";
import type { DeliveryView } from "../api/messaging/control.ts";
import { add, client, createCommand, Exit, show } from "./context.ts";
import { age, milliseconds, paint, path, table } from "./format.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "explain",
      "say how a peer is reached, and why not directly",
      "$ weft explain laptop\n$ weft explain laptop --json | jq .verdict\n$ weft explain laptop --messages      # why messages do, or do not, get there",
    )
      .argument("<PEER>", "name, id or overlay address")
      .option("--messages", "say why messages get there or not, stage by stage")
      .action(async (peer, options) => {
        if (options.messages === true) {
          const view = await client(options).delivery(peer);
          show(options, view, renderDelivery);
          if (!view.delivers) process.exitCode = Exit.FAILURE;
          return;
        }
        show(options, await client(options).explain(peer), render);
      }),
  );
}

function renderDelivery({ verdict, facts }: DeliveryView): string {
  const rows = facts.map((fact) => [
    fact.ok ? paint("green", "ok") : paint("red", "no"),
    fact.part,
    fact.stage,
    fact.text,
    Object.entries(fact.figures)
      .map(([name, value]) => `${name} ${Number.isInteger(value) ? value : value.toFixed(1)}`)
      .join(", "),
  ]);
  return [
    `${verdict.text}${verdict.remedy === "" ? "" : `\n  → ${verdict.remedy}`}`,
    ...(rows.length === 0 ? [] : ["", table(["", "PART", "STAGE", "WHAT", "FIGURES"], rows)]),
  ].join("\n");
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
      one.local ?? "",
      one.state === "alive" ? paint("green", one.state) : one.state === "dead" ? paint("red", one.state) : one.state,
      milliseconds(one.rttMs),
      `${(one.loss * 100).toFixed(0)} %`,
      String(one.pmtu),
      age(one.lastReceivedMs),
      one.reason,
    ]);
    lines.push(
      "",
      table(["", "PATH", "WHERE", "FROM", "STATE", "RTT", "LOSS", "PMTU", "HEARD", "WHY"], rows, [5, 6, 7, 8]),
    );
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
