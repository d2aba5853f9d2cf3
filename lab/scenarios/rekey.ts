/** One rekey a second for a minute under 100 pings a second: none may be lost (docs/protocol.md, "Epochs, rekey, replay"). */
import { formNetwork } from "../network.ts";
import { testEnvironment } from "../test-hooks.ts";
import { twoHosts } from "../topologies.ts";
import { ping } from "../traffic.ts";
import { atLeast, atMost, type Finding, type Scenario } from "./types.ts";

const SECONDS = 60;
/** A little more than 100 a second: from 10 ms on ping rounds up to 16. */
const PING_MS = 9;

export const rekey: Scenario = {
  name: "rekey",
  about: `${SECONDS} s at 100 pings a second with a rekey every second, none lost`,
  run: async (): Promise<readonly Finding[]> => {
    const { lab, a, b } = await twoHosts();
    try {
      const network = await formNetwork(lab, [a, b], { env: testEnvironment({ rekeyMs: 1_000 }) });
      await network.allPairs();
      const to = network.node("a");
      const from = network.node("b");
      let rekeys = 0;
      let lastAgeMs = 0;
      const timer = setInterval(() => {
        from.status().then(
          ({ peers }) => {
            const ageMs = peers[0]?.epochAgeMs ?? 0;
            if (ageMs < lastAgeMs) rekeys++;
            lastAgeMs = ageMs;
          },
          () => undefined,
        );
      }, 200);
      try {
        const echo = await ping(from.host, await to.address(4), {
          count: Math.ceil((SECONDS * 1_000) / PING_MS),
          intervalMs: PING_MS,
        });
        return [
          atMost("pings lost", echo.sent - echo.received, 0, `of ${echo.sent}`),
          atLeast("rekeys seen", rekeys, SECONDS * 0.7, "times"),
          atMost("duplicates", echo.duplicates, 0, "pings"),
        ];
      } finally {
        clearInterval(timer);
      }
    } finally {
      await lab.close();
    }
  },
};
