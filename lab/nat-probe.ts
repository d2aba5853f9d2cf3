/**
 * Finds out with plain UDP sockets what kind of translator is in between, as RFC 4787 names them (the probes are those of RFC 5780).
 *
 *   bin/weft-node lab/nat-probe.ts serve A1 A2 P1 P2                       on a host that has both addresses; prints "serving"
 *   bin/weft-node lab/nat-probe.ts classify A1 A2 P1 P2 [--local ADDR]     behind the translator; prints one NatClass as JSON
 *
 * Mapping: one socket asks (A1, P1), (A1, P2) and (A2, P1) how it looks from there. Filtering: another socket asks (A1, P1) only, and is
 * answered from (A2, P2), then from (A1, P2), then from (A1, P1): all take the same way, so after the last one the others have come
 * or will not come. Hairpin: two sockets send to each other's external endpoints.
 */
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { parseArgs } from "node:util";
import type { Dependence } from "./nat-model.ts";

/** What the probes saw. */
export interface NatClass {
  readonly mapping: Dependence;
  readonly filtering: Dependence;
  /** True when the external port of the first probe is the local one. */
  readonly keepsPort: boolean;
  readonly hairpin: boolean;
  /** Where a packet that came back in came from, "ADDR:PORT"; null without hairpin. */
  readonly hairpinSource: string | null;
  /** External endpoints of the mapping probes, "ADDR:PORT". */
  readonly external: readonly string[];
}

interface Request {
  readonly id: number;
  /** Answer from the other sockets as well. */
  readonly all: boolean;
}

interface Answer {
  readonly id: number;
  readonly from: "same" | "port" | "address";
  readonly observed: string;
}

const TRIES = 5;
const TRY_MS = 300;
/** After the last answer: room for packets that another processor handles. */
const SETTLE_MS = 50;

function bind(address: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createSocket("udp4");
    socket.once("error", reject);
    socket.bind(port, address, () => resolve(socket));
  });
}

function send(socket: Socket, message: unknown, address: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.send(JSON.stringify(message), port, address, (error) => (error === null ? resolve() : reject(error)));
  });
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const text = ({ address, port }: { readonly address: string; readonly port: number }): string => `${address}:${port}`;

async function serve(addresses: readonly string[], ports: readonly number[]): Promise<void> {
  const sockets = await Promise.all(addresses.map((address) => Promise.all(ports.map((port) => bind(address, port)))));
  for (const [a, row] of sockets.entries()) {
    for (const [p, socket] of row.entries()) {
      socket.on("message", (data: Buffer, from: RemoteInfo) => {
        const { id, all } = JSON.parse(data.toString("utf8")) as Request;
        const answer = (kind: Answer["from"], via: Socket | undefined): Promise<void> =>
          via === undefined
            ? Promise.resolve()
            : send(via, { id, from: kind, observed: text(from) } satisfies Answer, from.address, from.port);
        const others = all
          ? answer("address", sockets[1 - a]?.[1 - p]).then(() => answer("port", row[1 - p]))
          : Promise.resolve();
        others.then(() => answer("same", socket)).catch((error: unknown) => process.stderr.write(`${String(error)}\n`));
      });
    }
  }
  process.stdout.write("serving\n");
}

/** One socket that asks and collects. */
class Prober {
  readonly #socket: Socket;
  readonly #answers: Answer[] = [];
  /** "ADDR:PORT" of whoever sent something that is no answer. */
  readonly strangers: string[] = [];
  #nextId = 1;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("message", (data: Buffer, from: RemoteInfo) => {
      const message = JSON.parse(data.toString("utf8")) as Partial<Answer>;
      if (message.from === undefined) this.strangers.push(text(from));
      else this.#answers.push(message as Answer);
    });
  }

  get localPort(): number {
    return this.#socket.address().port;
  }

  /** @returns all answers to one request, complete when the one from the same endpoint is there */
  async ask(address: string, port: number, all: boolean): Promise<Answer[]> {
    for (let attempt = 0; attempt < TRIES; attempt++) {
      const id = this.#nextId++;
      await send(this.#socket, { id, all } satisfies Request, address, port);
      for (let waitedMs = 0; waitedMs < TRY_MS; waitedMs += 5) {
        await sleep(5);
        if (!this.#answers.some((one) => one.id === id && one.from === "same")) continue;
        await sleep(SETTLE_MS);
        return this.#answers.filter((one) => one.id === id);
      }
    }
    throw new Error(`no answer from ${address}:${port}`);
  }

  async observed(address: string, port: number): Promise<string> {
    const [first] = (await this.ask(address, port, false)).filter(({ from }) => from === "same");
    return first?.observed ?? "";
  }

  /** Sends something that is no request. */
  async knock(endpoint: string): Promise<void> {
    const [address = "", port = ""] = endpoint.split(":");
    await send(this.#socket, {}, address, Number(port));
  }

  close(): void {
    this.#socket.close();
  }
}

async function classify(
  local: string,
  [a1, a2]: readonly [string, string],
  [p1, p2]: readonly [number, number],
): Promise<NatClass> {
  const probers = await Promise.all(Array.from({ length: 4 }, async () => new Prober(await bind(local, 0))));
  const [mapper, filterer, left, right] = probers as [Prober, Prober, Prober, Prober];
  try {
    const external = [await mapper.observed(a1, p1), await mapper.observed(a1, p2), await mapper.observed(a2, p1)];
    const mapping: Dependence =
      external[0] !== external[1]
        ? "address-and-port-dependent"
        : external[0] === external[2]
          ? "endpoint-independent"
          : "address-dependent";
    const answers = new Set((await filterer.ask(a1, p1, true)).map(({ from }) => from));
    const filtering: Dependence = answers.has("address")
      ? "endpoint-independent"
      : answers.has("port")
        ? "address-dependent"
        : "address-and-port-dependent";
    const [one, other] = [await left.observed(a1, p1), await right.observed(a1, p1)];
    for (let round = 0; round < 3; round++) {
      await left.knock(other);
      await right.knock(one);
    }
    // Answers from outside take longer than packets that turn round at the translator.
    await left.observed(a1, p1);
    await right.observed(a1, p1);
    const came = [...left.strangers, ...right.strangers];
    return {
      mapping,
      filtering,
      keepsPort: external[0].endsWith(`:${mapper.localPort}`),
      hairpin: came.length > 0,
      hairpinSource: came[0] ?? null,
      external,
    };
  } finally {
    for (const prober of probers) prober.close();
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { local: { type: "string", default: "0.0.0.0" } },
  });
  const [what, a1 = "", a2 = "", p1 = "", p2 = ""] = positionals;
  const ports = [Number(p1), Number(p2)] as const;
  if (positionals.length !== 5 || (what !== "serve" && what !== "classify")) {
    process.stderr.write("nat-probe: serve|classify A1 A2 P1 P2 [--local ADDR]\n");
    process.exitCode = 2;
  } else if (what === "serve") await serve([a1, a2], ports);
  else process.stdout.write(`${JSON.stringify(await classify(values.local, [a1, a2], ports))}\n`);
}

if (import.meta.main) await main();
