/**
 * Configures the TUN interface: addresses, the network's prefixes and one route per peer whose path carries another size, each with
 * its `mtu`. All of it hangs on the interface, which lives as long as the daemon's descriptor: when the process ends, however it ends,
 * the kernel removes interface, addresses and routes together, and nothing else on the host was touched.
 *
 * Changes are coalesced: at most one `ip -batch -` runs, and the next one carries the difference to what is wanted by then.
 */
import type { Logger } from "../base/log.ts";
import { DATA_OVERHEAD_BYTES, innerPayloadBytes } from "../wire/data.ts";
import { runProgram } from "./run-program.ts";

const MIN_IPV6_MTU_BYTES = 1280;
const MIN_IPV4_MTU_BYTES = 576;

export interface InterfacePlan {
  readonly name: string;
  /** Without prefix length. */
  readonly addresses: readonly string[];
  /** The network's prefixes, for example "100.64.0.0/16". */
  readonly prefixes: readonly string[];
  readonly mtuBytes: number;
  /** For the prefixes, bytes; IPv6 gets at least 1,280. */
  readonly prefixMtuBytes: number;
}

/** MTU of the interface: IPv6 needs 1,280 on every link; what a path does not take in one piece travels in fragments. */
export function interfaceMtu(underlayMtuBytes: number): number {
  return Math.max(MIN_IPV6_MTU_BYTES, overlayMtu(underlayMtuBytes, 4));
}

/** Overlay MTU of a path. @param family of the underlay */
export function overlayMtu(underlayMtuBytes: number, family: 4 | 6): number {
  return Math.max(MIN_IPV4_MTU_BYTES, innerPayloadBytes(underlayMtuBytes, family));
}

/** Datagrams of one send: 65,000 bytes at most (docs/protocol.md, "UDP"). */
const TRAIN_BYTES = 65_000;
const TCP_IPV6_HEADER_BYTES = 60;
/** Room that the kernel's TCP keeps free below gso_max_size (MAX_TCP_HEADER + 1). */
const TCP_RESERVE_BYTES = 321;
const MAX_SUPER_PACKET_BYTES = 65_536;

/**
 * gso_max_size that makes one super-packet of the kernel just one train of datagrams, so that it is one read here, one send, one receive and
 * one write at the other end; a larger one leaves a rest of a few segments each time.
 * @param innerBytes largest packet inside the tunnel
 */
export function superPacketBytes(innerBytes: number): number {
  const segments = Math.floor(TRAIN_BYTES / (innerBytes + DATA_OVERHEAD_BYTES));
  const bytes = Math.floor((segments + 0.5) * (innerBytes - TCP_IPV6_HEADER_BYTES)) + TCP_RESERVE_BYTES;
  return Math.min(MAX_SUPER_PACKET_BYTES, bytes);
}

type RunIp = (args: readonly string[], input: string) => Promise<string>;

export class InterfaceConfigurator {
  readonly #plan: InterfacePlan;
  readonly #log: Logger;
  readonly #run: RunIp;
  /** Overlay address → MTU. */
  readonly #wanted = new Map<string, number>();
  readonly #applied = new Map<string, number>();
  #running: Promise<void> | undefined;
  #closed = false;

  constructor(deps: { readonly log: Logger; readonly run?: RunIp }, plan: InterfacePlan) {
    this.#plan = plan;
    this.#log = deps.log;
    this.#run = deps.run ?? ((args, input) => runProgram("ip", args, input));
  }

  /** Addresses, link up, prefix routes. @throws WeftError when `ip` is missing or refuses */
  async start(): Promise<void> {
    const { name, addresses, prefixes, mtuBytes, prefixMtuBytes } = this.#plan;
    const lines = [`link set dev ${name} mtu ${mtuBytes}`];
    for (const address of addresses) {
      lines.push(
        address.includes(":")
          ? `address replace ${address}/128 dev ${name} nodad`
          : `address replace ${address}/32 dev ${name}`,
      );
    }
    lines.push(`link set dev ${name} up`);
    for (const prefix of prefixes) {
      const six = prefix.includes(":");
      const mtu = six ? Math.max(MIN_IPV6_MTU_BYTES, prefixMtuBytes) : prefixMtuBytes;
      // added, not replaced: a prefix that this machine already routes elsewhere is not the network's to take;
      // the own address is named as the source, since a /32 gives the kernel no reason to prefer it
      const source = addresses.find((address) => address.includes(":") === six);
      lines.push(`route add ${prefix} dev ${name} mtu ${mtu}${source === undefined ? "" : ` src ${source}`}`);
    }
    await this.#run(["-batch", "-"], `${lines.join("\n")}\n`);
    try {
      await this.#run(["-batch", "-"], `link set dev ${name} gso_max_size ${superPacketBytes(prefixMtuBytes)}\n`);
    } catch (error) {
      this.#log.debug(`super-packets keep the kernel's size: ${(error as Error).message}`);
    }
  }

  /** @param mtuBytes of the path's overlay packets; undefined = the prefix's route is right for it */
  setPeer(addresses: readonly string[], mtuBytes: number | undefined): void {
    for (const address of addresses) {
      const six = address.includes(":");
      const mtu =
        mtuBytes === undefined
          ? undefined
          : Math.max(six ? MIN_IPV6_MTU_BYTES : MIN_IPV4_MTU_BYTES, Math.min(this.#plan.mtuBytes, mtuBytes));
      const prefixMtu = six ? Math.max(MIN_IPV6_MTU_BYTES, this.#plan.prefixMtuBytes) : this.#plan.prefixMtuBytes;
      if (mtu === undefined || mtu === prefixMtu) this.#wanted.delete(address);
      else this.#wanted.set(address, mtu);
    }
    this.#schedule();
  }

  /** Resolves when everything asked for so far is applied or failed. */
  async settled(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  close(): void {
    this.#closed = true;
  }

  #schedule(): void {
    if (this.#running !== undefined || this.#closed) return;
    // a turn of the event loop collects the changes of one burst of events
    this.#running = new Promise<void>((resolve) => setImmediate(resolve))
      .then(() => this.#apply())
      .finally(() => {
        this.#running = undefined;
        if (this.#difference().length > 0) this.#schedule();
      });
  }

  #difference(): { readonly address: string; readonly mtu: number | undefined }[] {
    const changes: { address: string; mtu: number | undefined }[] = [];
    for (const [address, mtu] of this.#wanted) if (this.#applied.get(address) !== mtu) changes.push({ address, mtu });
    for (const address of this.#applied.keys())
      if (!this.#wanted.has(address)) changes.push({ address, mtu: undefined });
    return changes;
  }

  async #apply(): Promise<void> {
    const changes = this.#difference();
    if (changes.length === 0 || this.#closed) return;
    const { name, addresses } = this.#plan;
    const lines = changes.map(({ address, mtu }) => {
      const six = address.includes(":");
      const source = addresses.find((own) => own.includes(":") === six);
      const target = `${address}/${six ? 128 : 32} dev ${name}`;
      return mtu === undefined
        ? `route del ${target}`
        : `route replace ${target} mtu ${mtu}${source === undefined ? "" : ` src ${source}`}`;
    });
    // recorded first: a route that fails is reported once and not tried again until its value changes
    for (const { address, mtu } of changes) {
      if (mtu === undefined) this.#applied.delete(address);
      else this.#applied.set(address, mtu);
    }
    try {
      await this.#run(["-force", "-batch", "-"], `${lines.join("\n")}\n`);
    } catch (error) {
      if (!this.#closed)
        this.#log.warn(`routes: ${(error as Error).message}; traffic goes on with the network's own MTU`);
    }
  }
}
