/** Weft itself, through its command line alone: init, up, invite, up --join, exactly as a person does it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { WeftNode } from "../../lab/network.ts";
import type { Host } from "../../lab/namespaces.ts";
import type { TwoHosts } from "../../lab/topologies.ts";
import { ROOT } from "../tools/binaries.ts";
import { deviceMtu, overlay, underlayPort, type Found, type Subject, type Tunnel } from "./types.ts";

export interface WeftOptions {
  /** Name in tables. @default "weft" */
  readonly name?: string;
  /** Added to the environment of both daemons. */
  readonly env?: Readonly<Record<string, string>>;
  /** Overlay prefix of the network. @default 10.200.INDEX.0/24 */
  readonly prefix?: string;
  /** Runs after `init` and before `up` of the founder. */
  readonly prepare?: (founder: WeftNode, hosts: TwoHosts) => void | Promise<void>;
}

export interface WeftTunnel extends Tunnel {
  /** Founder and admin. */
  readonly nodeA: WeftNode;
  readonly nodeB: WeftNode;
}

export interface WeftSubject extends Subject {
  start(hosts: TwoHosts, index: number): Promise<WeftTunnel>;
}

export function weftSubject(options: WeftOptions = {}): WeftSubject {
  return {
    name: options.name ?? "weft",

    find(): Promise<Found> {
      const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
      return Promise.resolve({ version });
    },

    async start(hosts: TwoHosts, index: number): Promise<WeftTunnel> {
      const { lab, a, b, link } = hosts;
      const port = underlayPort(index);
      const device = `weft${index}`;
      const node = (host: Host, name: string, address: string): WeftNode =>
        new WeftNode({
          host,
          name,
          state: join(lab.folder, `weft-${index}-${name}`),
          upArgs: ["--listen", `0.0.0.0:${port}`, "--tun", device, "--endpoint", `${address}:${port}`],
          env: options.env ?? {},
        });
      const nodeA = node(a, "a", link.a.address4);
      const nodeB = node(b, "b", link.b.address4);
      await nodeA.init("bench", ["--ipv4", options.prefix ?? overlay(index).prefix]);
      await options.prepare?.(nodeA, hosts);
      const daemonA = await nodeA.up();
      const { token } = await nodeA.invite();
      const daemonB = await nodeB.join(token);
      await nodeA.peer("b");
      await nodeB.peer("a");
      return {
        a: { host: a, address: await nodeA.address(4), device, pid: daemonA.pid },
        b: { host: b, address: await nodeB.address(4), device, pid: daemonB.pid },
        mtuBytes: await deviceMtu(a, device),
        portB: port,
        nodeA,
        nodeB,
        async stop(): Promise<void> {
          await Promise.all([nodeA.stop(), nodeB.stop()]);
        },
      };
    },
  };
}
