/** The bare veth pair: no tunnel at all, the ceiling that the machine sets. */
import type { TwoHosts } from "../../lab/topologies.ts";
import type { Found, Subject, Tunnel } from "./types.ts";

export const veth: Subject = {
  name: "veth",
  find(): Promise<Found> {
    return Promise.resolve({ version: "kernel, no encryption" });
  },
  start({ a, b, link }: TwoHosts): Promise<Tunnel> {
    return Promise.resolve({
      a: { host: a, address: link.a.address4, device: link.a.device, pid: undefined },
      b: { host: b, address: link.b.address4, device: link.b.device, pid: undefined },
      mtuBytes: 1500,
      portB: undefined,
      stop: () => Promise.resolve(),
    });
  },
};
