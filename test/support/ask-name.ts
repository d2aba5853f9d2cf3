/** Asks one DNS server: ask-name.ts SERVER TYPE NAME (for PTR an address); prints the records as JSON, or the error's code. */
import { Resolver } from "node:dns/promises";
import { reverseName } from "../../src/mesh/dns/zone.ts";

const [server = "", type = "A", name = ""] = process.argv.slice(2);
const resolver = new Resolver({ timeout: 1_000, tries: 2 });
resolver.setServers([server.includes(":") ? `[${server}]` : server]);
try {
  // reverse() would look into the hosts file first
  const records = await resolver.resolve(type === "PTR" ? reverseName(name) : name, type);
  process.stdout.write(`${JSON.stringify(records)}\n`);
} catch (error) {
  process.stdout.write(`${(error as { code?: string }).code ?? "FAILED"}\n`);
}
