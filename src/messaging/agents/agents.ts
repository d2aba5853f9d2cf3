/**
 * The agents of this node and what it knows of others' agents. Sans-I/O.
 *
 *   create, import ──► lease signed by agent and node ──► directory, every connected node          half its life later: renewed
 *   lease of another node with a higher version ──► this node stops: its inbox closes, its messages are refused
 *
 * A message of an agent is believed when the node that delivers it has a valid lease for it and no higher one is known. An agent's access list says
 * who may write to its inbox. Names are for people: the node that hosts an agent says them, the key alone counts.
 *
 *   agents  0 type 32 | 1 number u8 | { lease 216 ‖ name length u8 ‖ name } …
 *   ask     0 type 33                                                             which agents do you host?
 *
 * Bounds: 64 agents here, 64 leases of each other node and 4,096 of all (the one expiring first goes), frames and signature checks per sender.
 * Source: docs/protocol.md, "Agents".
 */
import { concat, equal, toHex, utf8 } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import { zeroise } from "../../crypto/secret.ts";
import { FrameChannel } from "../frames.ts";
import { SenderRates } from "../sender-rates.ts";
import type { StoreOp } from "../store-types.ts";
import { formatAgentSecret, parseAgentSecret } from "./agent-id.ts";
import {
  compareLeases,
  generationOf,
  type Lease,
  LEASE_BYTES,
  type LeaseSigner,
  MAX_GENERATION,
  openLease,
  readLease,
  signLease,
} from "./lease.ts";

export const AgentFrame = { AGENTS: 32, ASK: 33 } as const;
export const AGENT_FIRST = 32;
export const AGENT_LAST = 33;

const MAX_AGENTS = 64;
const MAX_KNOWN = 4_096;
const MAX_ALLOWED = 256;
const LEASE_MS = 86_400_000;

/** Who may write to an agent's inbox. */
export interface AgentAccess {
  /** False: those of `allowed` alone, and this node and its other agents. */
  readonly open: boolean;
  /** Node ids and agents' keys in hexadecimal. */
  readonly allowed: readonly string[];
}

export interface LocalAgent {
  readonly name: string;
  /** 32 bytes */
  readonly key: Uint8Array;
  readonly lease: Lease;
  readonly leaseWire: Uint8Array;
  readonly access: AgentAccess;
  /** The node that has it now; undefined: this one. */
  readonly movedTo: Uint8Array | undefined;
}

export interface KnownAgent {
  readonly key: Uint8Array;
  readonly nodeId: Uint8Array;
  /** As its node calls it. */
  readonly name: string;
  readonly wire: Uint8Array;
  readonly expiresAtMs: number;
}

export type AgentsOutput =
  | { readonly kind: "send"; readonly to: Uint8Array; readonly channel: FrameChannel; readonly frame: Uint8Array }
  | { readonly kind: "store"; readonly op: StoreOp }
  /** This node hosts it from now on, or with this lease: its inbox is open, the directory is told. */
  | { readonly kind: "hosts"; readonly agent: LocalAgent }
  /** Not any more. */
  | { readonly kind: "stops"; readonly agent: LocalAgent };

/** May it deliver, and to whom? The numbers are verdicts of direct messages. */
export const AgentVerdict = { BLOCKED: 2, NO_INBOX: 7 } as const;
export type AgentVerdict = (typeof AgentVerdict)[keyof typeof AgentVerdict];

export interface AgentsDeps {
  readonly node: LeaseSigner;
  readonly random: Random;
  /** 32 bytes */
  readonly networkId: Uint8Array;
  /** Nothing is taken from it. */
  isBlocked(nodeId: Uint8Array): boolean;
}

/** Everything counted; values only grow, except the last two. */
export interface AgentsCounters {
  framesIn: number;
  framesRefused: number;
  framesOverRate: number;
  leasesTaken: number;
  leasesOld: number;
  leasesRefused: number;
  leasesEvicted: number;
  moves: number;
  messagesRefused: number;
  hosted: number;
  known: number;
}

interface Hosted {
  agent: LocalAgent;
  readonly identity: Identity;
  renewAtMs: number;
}

export class Agents {
  readonly #deps: AgentsDeps;
  readonly #hosted = new Map<string, Hosted>();
  /** By the agent's key in hexadecimal. */
  readonly #known = new Map<string, KnownAgent>();
  readonly #up = new Map<string, Uint8Array>();
  readonly #outputs: AgentsOutput[] = [];
  readonly #rates = new SenderRates(5, 50);
  readonly #counts = {
    framesIn: 0,
    framesRefused: 0,
    framesOverRate: 0,
    leasesTaken: 0,
    leasesOld: 0,
    leasesRefused: 0,
    leasesEvicted: 0,
    moves: 0,
    messagesRefused: 0,
  };

  constructor(deps: AgentsDeps) {
    this.#deps = deps;
  }

  get counters(): AgentsCounters {
    return { ...this.#counts, hosted: this.#hosted.size, known: this.#known.size };
  }

  list(): LocalAgent[] {
    return Array.from(this.#hosted.values(), (one) => one.agent);
  }

  known(): KnownAgent[] {
    return [...this.#known.values()];
  }

  /** @throws WeftError AGENT_UNKNOWN, AGENT_MOVED */
  find(name: string): LocalAgent {
    const { agent } = this.#need(name);
    if (agent.movedTo !== undefined)
      throw new WeftError(
        "AGENT_MOVED",
        `the agent "${name}" lives on another node now`,
        "use it there, or import it here again",
      );
    return agent;
  }

  byKey(key: Uint8Array): LocalAgent | undefined {
    return this.#byKey(key)?.agent;
  }

  /** Where it lives, as far as this node knows by itself. */
  placeOf(key: Uint8Array, wallMs: number): Uint8Array | undefined {
    const local = this.#byKey(key)?.agent;
    if (local !== undefined) return local.movedTo ?? this.#deps.node.nodeId;
    const known = this.#known.get(toHex(key));
    return known !== undefined && known.expiresAtMs > wallMs ? known.nodeId : undefined;
  }

  /** An agent of another node by the name that its node gives it. */
  named(nodeId: Uint8Array, name: string): Uint8Array | undefined {
    for (const known of this.#known.values()) if (known.name === name && equal(known.nodeId, nodeId)) return known.key;
    return undefined;
  }

  // ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** At start, from the store. @param seed 32 bytes */
  restore(
    now: Now,
    name: string,
    seed: Uint8Array,
    leaseWire: Uint8Array,
    access: AgentAccess,
    movedTo: Uint8Array | undefined,
  ): void {
    const lease = readLease(leaseWire);
    if (lease === undefined) return;
    const identity = new Identity(seed);
    const agent = { name, key: identity.nodeId, lease, leaseWire, access, movedTo };
    const hosted = { agent, identity, renewAtMs: Infinity };
    this.#hosted.set(name, hosted);
    if (movedTo === undefined) this.#host(now, hosted, generationOf(lease));
  }

  /** @throws WeftError AGENT_NAME, AGENT_EXISTS, AGENTS_FULL */
  create(now: Now, name: string): LocalAgent {
    return this.#adopt(now, name, Identity.generate(this.#deps.random), 0);
  }

  /** An agent that lived elsewhere lives here from now on. @param secret from export() @throws WeftError AGENT_SECRET and those of create() */
  import(now: Now, name: string, secret: string): LocalAgent {
    const parsed = parseAgentSecret(secret.trim());
    if (parsed === undefined || parsed.generation >= MAX_GENERATION)
      throw new WeftError(
        "AGENT_SECRET",
        "that is no agent's secret, or it was changed",
        "make it again: weft agents export NAME",
      );
    const identity = new Identity(parsed.seed);
    zeroise(parsed.seed);
    const known = this.#known.get(toHex(identity.nodeId));
    const seen = known === undefined ? undefined : readLease(known.wire);
    const generation = Math.max(parsed.generation, seen === undefined ? 0 : generationOf(seen)) + 1;
    const before = this.#byKey(identity.nodeId);
    if (before !== undefined) this.remove(before.agent.name);
    return this.#adopt(now, name, identity, generation);
  }

  /** Secret text with which another node can import it. */
  export(name: string): string {
    const { agent, identity } = this.#need(name);
    return formatAgentSecret(identity.seed, generationOf(agent.lease));
  }

  /** @param allowed node ids and agents' keys, 32 bytes each @throws WeftError AGENT_UNKNOWN, AGENT_ACCESS_FULL */
  setAccess(name: string, open: boolean, allowed: readonly Uint8Array[]): LocalAgent {
    const hosted = this.#need(name);
    if (allowed.length > MAX_ALLOWED)
      throw new WeftError(
        "AGENT_ACCESS_FULL",
        `an access list has at most ${MAX_ALLOWED} entries`,
        "take others off its list first: see weft agents --help",
      );
    hosted.agent = { ...hosted.agent, access: { open, allowed: allowed.map(toHex) } };
    this.#persist(hosted);
    return hosted.agent;
  }

  /** Its key is gone with it, unless it was exported. */
  remove(name: string): LocalAgent {
    const { agent } = this.#need(name);
    this.#hosted.delete(name);
    this.#outputs.push({ kind: "store", op: { name: "agents.delete", values: [name] } });
    if (agent.movedTo === undefined) this.#outputs.push({ kind: "stops", agent });
    return agent;
  }

  // ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param fromAgent undefined: the node itself @param toAgent undefined: the node's own inbox @returns undefined: it may */
  judge(
    now: Now,
    from: Uint8Array,
    fromAgent: Uint8Array | undefined,
    toAgent: Uint8Array | undefined,
  ): AgentVerdict | undefined {
    const verdict = this.#judge(now, from, fromAgent, toAgent);
    if (verdict !== undefined) this.#counts.messagesRefused++;
    return verdict;
  }

  #judge(
    now: Now,
    from: Uint8Array,
    fromAgent: Uint8Array | undefined,
    toAgent: Uint8Array | undefined,
  ): AgentVerdict | undefined {
    if (fromAgent !== undefined) {
      const place = this.placeOf(fromAgent, now.wallMs);
      if (place === undefined || !equal(place, from)) return AgentVerdict.BLOCKED;
    }
    if (toAgent === undefined) return undefined;
    const local = this.#byKey(toAgent)?.agent;
    if (local === undefined || local.movedTo !== undefined) return AgentVerdict.NO_INBOX;
    const { open, allowed } = local.access;
    if (open || equal(from, this.#deps.node.nodeId)) return undefined;
    const isAllowed = allowed.includes(toHex(from)) || (fromAgent !== undefined && allowed.includes(toHex(fromAgent)));
    return isAllowed ? undefined : AgentVerdict.BLOCKED;
  }

  /** Before a message of that agent goes to that node: its lease goes first. */
  present(key: Uint8Array, to: Uint8Array): void {
    const local = this.#byKey(key)?.agent;
    if (local !== undefined && local.movedTo === undefined) this.#tell(to, [local]);
  }

  /** Asks a node which agents it hosts. */
  ask(to: Uint8Array): void {
    this.#send(to, Uint8Array.of(AgentFrame.ASK));
  }

  // ── others ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  peerUp(nodeId: Uint8Array): void {
    this.#up.set(toHex(nodeId), nodeId);
    this.#tell(nodeId, this.#present());
  }

  peerDown(nodeId: Uint8Array): void {
    this.#up.delete(toHex(nodeId));
  }

  /** @param from 32 bytes, the authenticated sender @param frame anything */
  handleFrame(now: Now, from: Uint8Array, frame: Uint8Array): void {
    this.#counts.framesIn++;
    if (!this.#rates.take(now.nowMs, toHex(from))) {
      this.#counts.framesOverRate++;
      return;
    }
    if (this.#deps.isBlocked(from)) {
      this.#counts.framesRefused++;
      return;
    }
    if (frame[0] === AgentFrame.ASK && frame.length === 1) return this.#tell(from, this.#present());
    if (frame[0] !== AgentFrame.AGENTS || !this.#takeAgents(now, from, frame)) this.#counts.framesRefused++;
  }

  /** A lease that came another way, such as by the directory. @param name "" when it is not known */
  takeLease(now: Now, wire: Uint8Array, name: string): void {
    const lease = readLease(wire);
    if (lease === undefined) {
      this.#counts.leasesRefused++;
      return;
    }
    const hex = toHex(lease.agent);
    const hosted = this.#byKey(lease.agent);
    const before = this.#known.get(hex)?.wire;
    const best = hosted !== undefined && hosted.agent.movedTo === undefined ? hosted.agent.leaseWire : before;
    if (best !== undefined && compareLeases(wire, best) <= 0) {
      this.#counts.leasesOld++;
      return;
    }
    if (openLease(this.#deps.networkId, wire, now.wallMs) === undefined) {
      this.#counts.leasesRefused++;
      return;
    }
    this.#counts.leasesTaken++;
    if (equal(lease.nodeId, this.#deps.node.nodeId)) return;
    if (!this.#known.has(hex)) this.#makeRoom(lease.nodeId);
    const known = {
      key: lease.agent,
      nodeId: lease.nodeId,
      name: name === "" ? (this.#known.get(hex)?.name ?? "") : name,
    };
    this.#known.set(hex, { ...known, wire: Uint8Array.from(wire), expiresAtMs: lease.expiresAtMs });
    if (hosted === undefined) return;
    const wasHere = hosted.agent.movedTo === undefined;
    hosted.agent = { ...hosted.agent, movedTo: lease.nodeId };
    hosted.renewAtMs = Infinity;
    this.#persist(hosted);
    if (!wasHere) return;
    this.#counts.moves++;
    this.#outputs.push({ kind: "stops", agent: hosted.agent });
  }

  nextTimeoutMs(): number {
    let next = Infinity;
    for (const { renewAtMs } of this.#hosted.values()) next = Math.min(next, renewAtMs);
    return next;
  }

  handleTimeout(now: Now): void {
    for (const hosted of this.#hosted.values()) {
      if (hosted.renewAtMs <= now.nowMs) this.#host(now, hosted, generationOf(hosted.agent.lease));
    }
    for (const [hex, known] of this.#known) if (known.expiresAtMs <= now.wallMs) this.#known.delete(hex);
  }

  pollOutput(): AgentsOutput | undefined {
    return this.#outputs.shift();
  }

  close(): void {
    for (const { identity } of this.#hosted.values()) zeroise(identity.seed);
    this.#hosted.clear();
  }

  #takeAgents(now: Now, from: Uint8Array, frame: Uint8Array): boolean {
    const count = frame[1];
    if (frame.length < 2 || count > MAX_AGENTS) return false;
    let at = 2;
    for (let i = 0; i < count; i++) {
      const nameAt = at + LEASE_BYTES;
      if (nameAt >= frame.length) return false;
      const end = nameAt + 1 + frame[nameAt];
      if (end > frame.length) return false;
      const lease = frame.subarray(at, nameAt);
      const name = Buffer.from(frame.subarray(nameAt + 1, end)).toString("latin1");
      // a node speaks for itself alone
      if (!isAgentName(name) || !equal(readLease(lease)?.nodeId ?? from, from)) return false;
      this.takeLease(now, lease, name);
      at = end;
    }
    return at === frame.length;
  }

  #adopt(now: Now, name: string, identity: Identity, generation: number): LocalAgent {
    if (!isAgentName(name))
      throw new WeftError(
        "AGENT_NAME",
        `"${name}" is no name for an agent`,
        "use 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit, and not node",
      );
    if (this.#hosted.has(name))
      throw new WeftError(
        "AGENT_EXISTS",
        `there is an agent "${name}" already`,
        "choose another name, or remove that one",
      );
    if (this.#hosted.size >= MAX_AGENTS)
      throw new WeftError("AGENTS_FULL", `this node has ${MAX_AGENTS} agents`, "remove one: weft agents remove NAME");
    const lease = { agent: identity.nodeId, nodeId: this.#deps.node.nodeId, version: 0, expiresAtMs: 0 };
    const access = { open: true, allowed: [] };
    const agent = { name, key: identity.nodeId, lease, leaseWire: new Uint8Array(0), access, movedTo: undefined };
    const hosted = { agent, identity, renewAtMs: Infinity };
    this.#hosted.set(name, hosted);
    this.#host(now, hosted, generation);
    return hosted.agent;
  }

  /** Signs a new lease and tells everybody. */
  #host(now: Now, hosted: Hosted, generation: number): void {
    const { networkId, node, random } = this.#deps;
    const leaseWire = signLease(networkId, hosted.identity, node, now.wallMs, LEASE_MS, generation);
    hosted.agent = { ...hosted.agent, leaseWire, lease: readLease(leaseWire)!, movedTo: undefined };
    hosted.renewAtMs = now.nowMs + (LEASE_MS / 2) * (0.75 + 0.5 * random.unit());
    this.#known.delete(toHex(hosted.agent.key));
    this.#persist(hosted);
    this.#outputs.push({ kind: "hosts", agent: hosted.agent });
    for (const nodeId of this.#up.values()) this.#tell(nodeId, [hosted.agent]);
  }

  #persist({ agent, identity }: Hosted): void {
    const access = JSON.stringify(agent.access);
    const values = [agent.name, identity.seed, agent.leaseWire, access, agent.movedTo ?? null, this.#deps.networkId];
    this.#outputs.push({ kind: "store", op: { name: "agents.put", values } });
  }

  /** Agents that live here. */
  #present(): LocalAgent[] {
    return this.list().filter((agent) => agent.movedTo === undefined);
  }

  #tell(to: Uint8Array, agents: readonly LocalAgent[]): void {
    if (agents.length === 0 || equal(to, this.#deps.node.nodeId)) return;
    const parts = agents.flatMap(({ leaseWire, name }) => [leaseWire, Uint8Array.of(name.length), utf8(name)]);
    this.#send(to, concat(Uint8Array.of(AgentFrame.AGENTS, agents.length), ...parts));
  }

  #send(to: Uint8Array, frame: Uint8Array): void {
    this.#outputs.push({ kind: "send", to, channel: FrameChannel.DIRECT, frame });
  }

  #need(name: string): Hosted {
    const hosted = this.#hosted.get(name);
    if (hosted === undefined)
      throw new WeftError("AGENT_UNKNOWN", `this node has no agent "${name}"`, "see `weft agents`");
    return hosted;
  }

  #byKey(key: Uint8Array): Hosted | undefined {
    for (const hosted of this.#hosted.values()) if (equal(hosted.agent.key, key)) return hosted;
    return undefined;
  }

  /** A node takes room from its own agents first. */
  #makeRoom(nodeId: Uint8Array): void {
    const own = [...this.#known].filter(([, known]) => equal(known.nodeId, nodeId));
    const crowd = own.length >= MAX_AGENTS ? own : this.#known.size >= MAX_KNOWN ? [...this.#known] : [];
    if (crowd.length === 0) return;
    const [first] = crowd.reduce((a, b) => (b[1].expiresAtMs < a[1].expiresAtMs ? b : a));
    this.#known.delete(first);
    this.#counts.leasesEvicted++;
  }
}

function isAgentName(name: string): boolean {
  return name !== "node" && /^[a-z0-9][a-z0-9._-]{0,63}$/.test(name);
}
