/** weft version: of this program, the runtime and the protocol. */
import type { Command } from "@commander-js/extra-typings";
import { PROTOCOL_RANGE, weftVersion } from "../api/paths.ts";
import { add, createCommand, show } from "./context.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "version",
      "print the versions of weft, its protocol and its runtime",
      "$ weft version --json",
    ).action((options) => {
      const value = {
        version: weftVersion(),
        protocol: PROTOCOL_RANGE,
        node: process.versions.node,
        openssl: process.versions.openssl,
        platform: `${process.platform}-${process.arch}`,
      };
      show(
        options,
        value,
        () =>
          `weft ${value.version} (protocol ${value.protocol.join("–")}, Node ${value.node}, OpenSSL ${value.openssl}, ${value.platform})`,
      );
    }),
  );
}
