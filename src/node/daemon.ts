/** `weft up`: a node, its local API and the signals of a foreground program. */
import type { StatusView } from "../api/control.ts";
import { socketPathOf } from "../api/paths.ts";
import { serveApi } from "../api/server.ts";
import { ApiTokens } from "./api-tokens.ts";
import type { ConfigOverrides } from "./config.ts";
import { loadConfig } from "./config.ts";
import { createNode } from "./index.ts";
import { createLogger } from "./log.ts";
import { systemRandom } from "./random.ts";

export interface DaemonOptions {
  /** absolute */
  readonly stateDirectory: string;
  readonly token: string | undefined;
  readonly overrides: ConfigOverrides;
  /** Called once, when the interface is up and the roster is there. */
  readonly onReady: (status: StatusView) => void;
}

/**
 * Runs until it is told to stop (SIGINT, SIGTERM, `weft down`). A second signal ends it at once.
 * @returns exit code 0 @throws WeftError when it cannot start, or ended for another reason
 */
export async function runDaemon(options: DaemonOptions): Promise<number> {
  const config = loadConfig(options.stateDirectory, options.overrides);
  const log = await createLogger(config.logLevel, config.logFormat);
  let interrupted = false;
  let stop = (): void => process.exit(130);
  const onSignal = (signal: NodeJS.Signals): void => {
    if (interrupted) process.exit(130);
    interrupted = true;
    log.info(`${signal}: stopping`);
    stop();
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  const node = await createNode({
    stateDirectory: options.stateDirectory,
    join: options.token,
    config: options.overrides,
    logger: log,
  });
  stop = () => void node.stop();
  try {
    const tokens = new ApiTokens(options.stateDirectory, { random: systemRandom, wallMs: () => Date.now() });
    const api = await serveApi(node.control, socketPathOf(options.stateDirectory), log.child("api"), {
      ...config.api,
      tokens,
    });
    try {
      options.onReady(node.control.status());
      const reason = await node.closed;
      if (reason !== undefined) throw reason;
      return 0;
    } finally {
      await api.close();
    }
  } finally {
    await node.stop();
    process.off("SIGINT", onSignal);
    process.off("SIGTERM", onSignal);
  }
}
