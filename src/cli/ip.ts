/** weft ip: overlay addresses, for scripts. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, show } from "./context.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand("ip", "print the overlay addresses of this node or of another", "$ weft ip\n$ ssh $(weft ip -4 nas)")
      .argument("[NODE]", "name, id or address (default: this node)")
      .option("-4, --ipv4", "IPv4 only")
      .option("-6, --ipv6", "IPv6 only")
      .action(async (node, options) => {
        const api = client(options);
        const all = node === undefined ? (await api.status()).node.addresses : (await api.whois(node)).addresses;
        const addresses = all.filter((address) =>
          address.includes(":") ? options.ipv4 !== true : options.ipv6 !== true,
        );
        show(options, { addresses }, () => addresses.join("\n"));
      }),
  );
}
