/** weft down: stops the daemon and waits until it is gone. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "@commander-js/extra-typings";
import { WeftError } from "../base/errors.ts";
import type { WeftClient } from "../client/client.ts";
import { add, client, createCommand, show } from "./context.ts";

const POLL_MS = 50;
const PATIENCE_MS = 15_000;

/** Resolves when nothing answers on the socket any more. @throws WeftError when it still does after 15 s */
export async function waitUntilGone(api: WeftClient): Promise<void> {
  for (let waitedMs = 0; waitedMs < PATIENCE_MS; waitedMs += POLL_MS) {
    try {
      await api.health();
    } catch (error) {
      if ((error as WeftError).code === "DAEMON_DOWN") return;
    }
    await sleep(POLL_MS);
  }
  throw new WeftError(
    "STILL_UP",
    `the daemon still answers after ${PATIENCE_MS / 1000} s`,
    "look at its log, or stop its process",
  );
}

export function register(program: Command): void {
  add(
    program,
    createCommand("down", "stop the daemon", "$ weft down").action(async (options) => {
      const api = client(options);
      await api.down();
      await waitUntilGone(api);
      show(options, { stopped: true }, () => "stopped");
    }),
  );
}
