/** weft ping: echoes through the encrypted session, with the path each reply took. Works in agent mode too. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "@commander-js/extra-typings";
import type { PathView } from "../api/control.ts";
import { add, client, createCommand, duration, Exit, print, wholeNumber } from "./context.ts";
import { milliseconds, path } from "./format.ts";

interface Reply {
  readonly seq: number;
  readonly rttMs: number;
  readonly path: PathView;
}

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "ping",
      "measure the way to a peer",
      "$ weft ping nas\n$ weft ping nas --count 20 --interval 100ms --json",
    )
      .argument("<PEER>", "name, id or overlay address")
      .option("-c, --count <N>", "how many", "5")
      .option("-i, --interval <TIME>", "pause between two", "1s")
      .option("-W, --timeout <TIME>", "wait at most this long for each", "2s")
      .action(async (peer, options) => {
        const api = client(options);
        const count = wholeNumber(options.count, "--count", 1, 1_000_000);
        const intervalMs = duration(options.interval, "--interval");
        const timeoutMs = Math.min(60_000, Math.max(1, Math.round(duration(options.timeout, "--timeout"))));
        const replies: Reply[] = [];
        let lost = 0;
        let target = { id: "", name: peer };
        for (let seq = 1; seq <= count; seq++) {
          const startedMs = performance.now();
          const echo = await api.ping(peer, timeoutMs);
          target = echo.peer;
          if (echo.rttMs === null) {
            lost++;
            if (options.json !== true) print(`${seq}: no reply from ${echo.peer.name} within ${timeoutMs} ms`);
          } else {
            replies.push({ seq, rttMs: echo.rttMs, path: echo.path });
            if (options.json !== true)
              print(`${seq}: reply from ${echo.peer.name} in ${milliseconds(echo.rttMs)} (${path(echo.path)})`);
          }
          const pauseMs = intervalMs - (performance.now() - startedMs);
          if (seq < count && pauseMs > 0) await sleep(pauseMs);
        }
        if (options.json === true) {
          print(JSON.stringify({ peer: target, replies, lost }, null, 2));
        } else {
          const times = replies.map((reply) => reply.rttMs).toSorted((a, b) => a - b);
          const mean = times.reduce((sum, time) => sum + time, 0) / times.length;
          const figures =
            times.length === 0
              ? ""
              : `, ${milliseconds(times[0])} / ${milliseconds(mean)} / ${milliseconds(times.at(-1) as number)} (least / mean / most)`;
          print(`${count} sent, ${replies.length} answered, ${lost} lost${figures}`);
        }
        if (replies.length === 0) process.exitCode = Exit.FAILURE;
      }),
  );
}
