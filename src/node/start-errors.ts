/** What to do about a data plane that cannot start, in the words of the command line: the rooms below know no options. */
import { WeftError } from "../base/errors.ts";

const REMEDIES: Readonly<Record<string, string>> = {
  TUN_DENIED: "run as root (or with CAP_NET_ADMIN), or start an agent node without an interface: weft up --no-tun",
  TUN_MISSING: "load the tun module or give the container /dev/net/tun, or start an agent node: weft up --no-tun",
  TUN_BUSY: "choose another name with --tun NAME",
  TUN_NAME: "choose another name with --tun NAME",
  PORT_BUSY: "stop that program, or choose another port with --listen ADDR:PORT",
  PORT_DENIED: "choose a port above 1023 with --listen ADDR:PORT, or run as root",
  ADDRESS_MISSING: "choose an address of this machine with --listen ADDR:PORT",
};

/** @returns the same error with a remedy that names the option, where there is one */
export function withOptions(error: unknown): unknown {
  if (!(error instanceof WeftError)) return error;
  const remedy = REMEDIES[error.code];
  return remedy === undefined ? error : new WeftError(error.code, error.message, remedy, { cause: error });
}
