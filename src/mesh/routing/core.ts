/**
 * What the parts of the routing machine share: the neighbours, the ways of this node, the paths through it, counters and outputs. Labels are
 * chosen here, so that none is used twice between two nodes.
 */
import { ForwardTable } from "./forwards.ts";
import { type Found, foundBody, type RoutingMessage } from "./messages.ts";
import { type Neighbour, Neighbourhood } from "./neighbourhood.ts";
import {
  newRoutingCounters,
  type RoutingCounters,
  type RoutingDeps,
  type RoutingOptions,
  type RoutingOutput,
  RoutingSignature,
} from "./types.ts";
import { ViaTable } from "./vias.ts";

export class RoutingCore {
  readonly counters: RoutingCounters = newRoutingCounters();
  readonly deps: RoutingDeps;
  readonly options: Required<RoutingOptions>;
  readonly neighbours: Neighbourhood;
  readonly vias: ViaTable = new ViaTable();
  readonly forwards: ForwardTable = new ForwardTable();
  readonly #outputs: RoutingOutput[] = [];
  #outputAt = 0;

  constructor(deps: RoutingDeps, options: RoutingOptions) {
    this.deps = deps;
    this.options = Object.freeze({
      relay: options.relay ?? false,
      forwardBytesPerSecond: options.forwardBytesPerSecond ?? 50_000_000,
      maxForwardsPerNode: options.maxForwardsPerNode ?? 128,
      maxForwards: options.maxForwards ?? 4096,
    });
    this.neighbours = new Neighbourhood(deps.random);
  }

  /** This node forwards for any two members. */
  get isRelay(): boolean {
    return this.options.relay || this.deps.isBeacon(this.deps.nodeId);
  }

  push(output: RoutingOutput): void {
    this.#outputs.push(output);
  }

  send(nodeId: Uint8Array, message: RoutingMessage): void {
    this.#outputs.push({ kind: "send", nodeId, message });
  }

  poll(): RoutingOutput | undefined {
    const output = this.#outputs[this.#outputAt];
    if (output !== undefined) {
      this.#outputAt++;
      return output;
    }
    this.#outputs.length = 0;
    this.#outputAt = 0;
    return undefined;
  }

  /** By which this node will receive from that neighbour. */
  newLabel(from: Uint8Array): number {
    for (;;) {
      const label = this.deps.random.u32();
      if (label !== 0 && !this.forwards.isTaken(from, label) && this.vias.byLabel(from, label) === undefined)
        return label;
    }
  }

  /** A random few. @param list not changed */
  some(list: readonly Neighbour[], count: number): Neighbour[] {
    if (list.length <= count) return [...list];
    const rest = [...list];
    const out: Neighbour[] = [];
    while (out.length < count) {
      const at = this.deps.random.u32() % rest.length;
      out.push(rest[at]);
      rest[at] = rest[rest.length - 1];
      rest.pop();
    }
    return out;
  }

  isSigned(found: Found, target: Uint8Array, requester: Uint8Array): boolean {
    const body = foundBody(found.id, target, requester);
    if (this.deps.verify(target, RoutingSignature.FOUND, body, found.signature)) return true;
    this.counters.foundForged++;
    return false;
  }
}
