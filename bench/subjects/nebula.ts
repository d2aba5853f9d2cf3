/** Nebula with the defaults of its example configuration: one certificate authority, two hosts that know each other's address. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { must, run, until, type Daemon } from "../../lab/process.ts";
import type { Host } from "../../lab/namespaces.ts";
import type { TwoHosts } from "../../lab/topologies.ts";
import { findProgram, goModuleVersion } from "../tools/binaries.ts";
import { deviceMtu, overlay, underlayPort, type Found, type Subject, type Tunnel } from "./types.ts";

export const nebula: Subject = {
  name: "nebula",

  async find(): Promise<Found> {
    const path = findProgram("nebula");
    if (path === undefined || findProgram("nebula-cert") === undefined) {
      return { why: "nebula and nebula-cert are not installed (npm run bench -- peers --install)" };
    }
    const said = /Version: (\S+)/.exec((await run(path, ["-version"])).stdout)?.[1];
    return { version: (await goModuleVersion(path)) ?? said ?? "unknown version" };
  },

  async start({ lab, a, b, link }: TwoHosts, index: number): Promise<Tunnel> {
    const program = findProgram("nebula");
    const cert = findProgram("nebula-cert");
    if (program === undefined || cert === undefined) throw new Error("nebula is not installed");
    const addresses = overlay(index);
    const port = underlayPort(index);
    const folder = join(lab.folder, `nebula-${index}`);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    await must(cert, ["ca", "-name", "bench"], { cwd: folder });
    const device = `nebula${index}`;
    const launch = async (
      host: Host,
      name: string,
      address: string,
      other: string,
      otherUnderlay: string,
    ): Promise<Daemon> => {
      await must(cert, ["sign", "-name", name, "-networks", `${address}/24`], { cwd: folder });
      const config = join(folder, `${name}.yml`);
      writeFileSync(config, configuration(name, port, device, other, `${otherUnderlay}:${port}`));
      const daemon = host.spawn(program, ["-config", config], { cwd: folder });
      await until(`nebula on ${host.name}`, 10_000, async () => {
        if (daemon.exitCode !== undefined) throw new Error(daemon.tail(5));
        const found = await host.exec("ip", ["-j", "addr", "show", "dev", device, "up"]);
        return found.code === 0 && found.stdout.includes(address) ? true : undefined;
      });
      return daemon;
    };
    const daemonA = await launch(a, "a", addresses.a, addresses.b, link.b.address4);
    const daemonB = await launch(b, "b", addresses.b, addresses.a, link.a.address4);
    return {
      a: { host: a, address: addresses.a, device, pid: daemonA.pid },
      b: { host: b, address: addresses.b, device, pid: daemonB.pid },
      mtuBytes: await deviceMtu(a, device),
      portB: port,
      async stop(): Promise<void> {
        await Promise.all([daemonA.stop("SIGTERM", 3_000), daemonB.stop("SIGTERM", 3_000)]);
      },
    };
  },
};

function configuration(name: string, port: number, device: string, other: string, otherEndpoint: string): string {
  return `pki: { ca: ca.crt, cert: ${name}.crt, key: ${name}.key }
static_host_map: { "${other}": ["${otherEndpoint}"] }
lighthouse: { am_lighthouse: false, hosts: [] }
listen: { host: 0.0.0.0, port: ${port} }
punchy: { punch: false }
tun: { dev: ${device} }
logging: { level: error, format: text }
firewall:
  outbound: [{ port: any, proto: any, host: any }]
  inbound: [{ port: any, proto: any, host: any }]
`;
}
