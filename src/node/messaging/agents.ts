/**
 * Agents, with this node's store, links and directory, and as direct messages and publish/subscribe see them. Every change writes one audit line.
 * Source: docs/protocol.md, "Agents".
 */
import type { MetricSample } from "../../api/control.ts";
import type { AgentPlaceView, AgentsControl, AgentView } from "../../api/messaging/agents-control.ts";
import type { MessagingControl } from "../../api/messaging/control.ts";
import { equal, fromHex, toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { formatNodeId, shortNodeId } from "../../crypto/node-id.ts";
import { formatAgentId, parseAgentId } from "../../messaging/agents/agent-id.ts";
import {
  AGENT_FIRST,
  AGENT_LAST,
  type AgentAccess,
  Agents,
  type KnownAgent,
  type LocalAgent,
} from "../../messaging/agents/agents.ts";
import type { AgentDirectory } from "../../messaging/directory/types.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import { SenderRates } from "../../messaging/sender-rates.ts";
import type { StoreOp } from "../../messaging/store-types.ts";
import type { DirectAgents } from "./direct.ts";
import type { FrameTypes, MessagingPart, PartContext } from "./part.ts";

/** How long find() waits for a node or the directory. */
const FIND_MS = 3_000;
const FIND_STEP_MS = 50;
const MAX_PLACES = 1_000;
/** Agents that messages of one node name and that are asked for, a second. */
const LOCATES_PER_S = 2;
const LOCATES_BURST = 8;

export interface AgentsPartDeps {
  readonly directory: AgentDirectory;
  isBlocked(nodeId: Uint8Array): boolean;
  readonly inboxes: { openInbox(agent: Uint8Array): boolean; closeInbox(agent: Uint8Array): void };
}

export class AgentsPart implements MessagingPart, DirectAgents {
  readonly name = "agents";
  readonly types: readonly FrameTypes[] = [[FrameChannel.DIRECT, AGENT_FIRST, AGENT_LAST]];
  readonly channels: NonNullable<MessagingPart["channels"]> = {
    [FrameChannel.DIRECT]: (from, frame) => {
      this.#agents?.handleFrame(this.#context.clock.now(), from, frame);
      this.#flushSoon();
    },
  };
  readonly control: Partial<MessagingControl>;
  readonly #context: PartContext;
  readonly #deps: AgentsPartDeps;
  #agents: Agents | undefined;
  #isStarting = false;
  #isClosed = false;
  readonly #locateRates = new SenderRates(LOCATES_PER_S, LOCATES_BURST);
  #storeFailures = 0;
  #cancelTimer: (() => void) | undefined;

  constructor(context: PartContext, deps: AgentsPartDeps) {
    this.#context = context;
    this.#deps = deps;
    this.control = { agents: this.#createControl() };
  }

  async start(): Promise<void> {
    const { identity, random, clock, store } = this.#context;
    const networkId = this.#context.networkId();
    if (networkId === undefined || this.#agents !== undefined || this.#isStarting) return;
    this.#isStarting = true;
    const agents = new Agents({
      node: identity,
      random,
      networkId,
      isBlocked: (nodeId) => this.#deps.isBlocked(nodeId),
    });
    for (const row of await store.query("agents.all", [])) {
      // agents go with the machine's network: leases of another one are worth nothing here, keys are kept
      agents.restore(
        clock.now(),
        row["name"] as string,
        row["seed"] as Uint8Array,
        row["lease"] as Uint8Array,
        readAccess(row["access"] as string),
        (row["moved_to"] as Uint8Array | null) ?? undefined,
      );
    }
    this.#agents = agents;
    this.#flushSoon();
  }

  close(): void {
    this.#isClosed = true;
    this.#cancelTimer?.();
    this.#agents?.close();
  }

  peerUp(nodeId: Uint8Array): void {
    this.#agents?.peerUp(nodeId);
    this.#flushSoon();
  }

  peerDown(nodeId: Uint8Array): void {
    this.#agents?.peerDown(nodeId);
  }

  memberGone(nodeId: Uint8Array): void {
    this.#agents?.peerDown(nodeId);
  }

  membersChanged(): void {
    if (this.#agents !== undefined || this.#context.networkId() === undefined) return;
    this.start().catch((error: unknown) =>
      this.#context.log.error(`agents: ${error instanceof Error ? error.message : String(error)}`),
    );
  }

  // ── as direct messages and publish/subscribe see them ────────────────────────────────────────────────────────────────

  local(name: string): Uint8Array {
    return this.#need().find(name).key;
  }

  nameOf(key: Uint8Array): string | undefined {
    return this.#agents?.byKey(key)?.name;
  }

  target(text: string): { readonly nodeId: Uint8Array; readonly agent: Uint8Array } | undefined {
    const agent = parseAgentId(text);
    const at = text.lastIndexOf("@");
    if (agent === undefined && at < 0) return undefined;
    if (agent !== undefined) {
      const nodeId = this.#placeOf(agent);
      if (nodeId !== undefined) return { nodeId, agent };
      this.#locate(agent).catch(() => undefined);
      throw unknownAgent(text);
    }
    const { nodeId, key } = this.#named(text, at);
    if (key !== undefined) return { nodeId, agent: key };
    this.#need().ask(nodeId);
    this.#flushSoon();
    throw unknownAgent(text);
  }

  judge(from: Uint8Array, fromAgent: Uint8Array | undefined, toAgent: Uint8Array | undefined): number | undefined {
    if (fromAgent === undefined && toAgent === undefined) return undefined;
    return this.#need().judge(this.#context.clock.now(), from, fromAgent, toAgent);
  }

  /** Does a valid lease place that agent on that node? What is not known is asked for, at a rate for each node; false until then. */
  livesOn(agent: Uint8Array, nodeId: Uint8Array): boolean {
    if (this.#agents === undefined || this.#isClosed) return false;
    const place = this.#placeOf(agent);
    if (place !== undefined) return equal(place, nodeId);
    const { nowMs } = this.#context.clock.now();
    if (this.#locateRates.take(nowMs, toHex(nodeId))) this.#locate(agent).catch(() => undefined);
    return false;
  }

  present(agent: Uint8Array, to: Uint8Array): void {
    this.#agents?.present(agent, to);
    this.#flushSoon();
  }

  metrics(): readonly MetricSample[] {
    const c = this.#agents?.counters;
    if (c === undefined) return [];
    const rows: readonly (readonly [string, string, number])[] = [
      ["frames_received", "Frames about agents.", c.framesIn],
      ["frames_refused", "Frames that are malformed, or speak for another node.", c.framesRefused],
      ["frames_over_rate", "Frames beyond what one sender may send.", c.framesOverRate],
      ["leases_taken", "Leases of other nodes that count.", c.leasesTaken],
      ["leases_old", "Leases that a higher one had replaced.", c.leasesOld],
      ["leases_refused", "Leases that are wrongly signed, expired or malformed.", c.leasesRefused],
      ["leases_evicted", "Leases forgotten for want of room.", c.leasesEvicted],
      ["moves", "Agents of this node that moved to another one.", c.moves],
      [
        "messages_refused",
        "Messages without a lease, or from senders that are not on the access list.",
        c.messagesRefused,
      ],
      ["store_failures", "Changes that could not be written to disk.", this.#storeFailures],
    ];
    return [
      ...rows.map(([name, help, value]): MetricSample => ({
        name: `weft_agents_${name}_total`,
        type: "counter",
        help,
        labels: {},
        value,
      })),
      { name: "weft_agents_hosted", type: "gauge", help: "Agents of this node.", labels: {}, value: c.hosted },
      {
        name: "weft_agents_known",
        type: "gauge",
        help: "Agents of other nodes with a lease.",
        labels: {},
        value: c.known,
      },
    ];
  }

  diagnostics(): unknown {
    return this.#agents?.counters ?? {};
  }

  // ── the API ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #createControl(): AgentsControl {
    const { clock, log } = this.#context;
    const done = async (agent: LocalAgent, what: string): Promise<AgentView> => {
      log.info(`agent "${agent.name}" (${formatAgentId(agent.key).slice(0, 8)}) ${what}`);
      await this.#flush();
      return this.#view(agent);
    };
    return {
      agents: () =>
        this.#need()
          .list()
          .map((agent) => this.#view(agent)),
      known: () =>
        this.#need()
          .known()
          .slice(0, MAX_PLACES)
          .map((known) => this.#placeView(known)),
      create: (name) => done(this.#need().create(clock.now(), name), "was created"),
      remove: (name) => done(this.#need().remove(name), "was removed"),
      setAccess: (name, open, allowed) => {
        const keys = allowed.map((text) => this.#principal(text));
        return done(
          this.#need().setAccess(name, open, keys),
          open ? "is open to everybody" : `is open to ${keys.length}`,
        );
      },
      export: (name) => {
        const secret = this.#need().export(name);
        log.info(`agent "${name}": its secret was exported`);
        return secret;
      },
      import: (name, secret) => done(this.#need().import(clock.now(), name, secret), "was imported and lives here now"),
      find: (text) => this.#find(text),
    };
  }

  #need(): Agents {
    if (this.#agents === undefined || this.#isClosed)
      throw new WeftError("NOT_READY", "this node is in no network yet", "join one first: weft up --join TOKEN");
    return this.#agents;
  }

  async #find(text: string): Promise<AgentPlaceView> {
    const { clock } = this.#context;
    const endMs = clock.now().nowMs + FIND_MS;
    const agent = parseAgentId(text);
    const at = text.lastIndexOf("@");
    if (agent === undefined && at < 0)
      throw new WeftError("AGENT_UNKNOWN", `"${text}" names no agent`, "write its id, a1…, or NAME@NODE");
    if (agent !== undefined && this.#placeOf(agent) === undefined) await this.#locate(agent);
    if (agent === undefined && this.#named(text, at).key === undefined) this.#need().ask(this.#named(text, at).nodeId);
    this.#flushSoon();
    for (;;) {
      const key = agent ?? this.#named(text, at).key;
      const nodeId = key === undefined ? undefined : this.#placeOf(key);
      if (key !== undefined && nodeId !== undefined) return this.#placeOfKey(key, nodeId);
      if (agent !== undefined || clock.now().nowMs >= endMs) throw unknownAgent(text);
      await new Promise<void>((resolve) => void clock.schedule(clock.now().nowMs + FIND_STEP_MS, resolve));
    }
  }

  /** @param at of the @ in `text` @throws WeftError NODE_UNKNOWN */
  #named(text: string, at: number): { readonly nodeId: Uint8Array; readonly key: Uint8Array | undefined } {
    const name = text.slice(0, at);
    const member = this.#context.resolve(text.slice(at + 1));
    if (member === undefined)
      throw new WeftError("NODE_UNKNOWN", `no member is called "${text.slice(at + 1)}"`, "see `weft members`");
    const { nodeId } = member;
    const isSelf = equal(nodeId, this.#context.identity.nodeId);
    return { nodeId, key: isSelf ? this.#need().find(name).key : this.#need().named(nodeId, name) };
  }

  #placeOf(agent: Uint8Array): Uint8Array | undefined {
    const { wallMs } = this.#context.clock.now();
    this.#takePlace(this.#deps.directory.whereIs(agent)?.lease);
    return this.#need().placeOf(agent, wallMs);
  }

  async #locate(agent: Uint8Array): Promise<void> {
    this.#takePlace((await this.#deps.directory.locate(agent, FIND_MS))?.lease);
  }

  /** What the directory knows is judged like everything else; it may say that an agent of this node has moved. */
  #takePlace(lease: Uint8Array | undefined): void {
    if (lease === undefined) return;
    this.#need().takeLease(this.#context.clock.now(), lease, "");
    this.#flushSoon();
  }

  /** A node or an agent of an access list. */
  #principal(text: string): Uint8Array {
    const agent = parseAgentId(text);
    if (agent !== undefined) return agent;
    const named = text.includes("@") ? this.target(text)?.agent : this.#context.resolve(text)?.nodeId;
    if (named === undefined)
      throw new WeftError(
        "NODE_UNKNOWN",
        `"${text}" is neither a member nor an agent`,
        "see `weft members` and `weft agents`",
      );
    return named;
  }

  #view(agent: LocalAgent): AgentView {
    return {
      id: formatAgentId(agent.key),
      name: agent.name,
      movedTo: agent.movedTo === undefined ? null : this.#nodeRef(agent.movedTo),
      leaseUntil: new Date(agent.lease.expiresAtMs).toISOString(),
      access: { open: agent.access.open, allowed: agent.access.allowed.map((hex) => this.#principalName(hex)) },
    };
  }

  #principalName(hex: string): string {
    const key = fromHex(hex) ?? new Uint8Array(32);
    const member = this.#context.find(key);
    if (member !== undefined) return member.name;
    const { wallMs } = this.#context.clock.now();
    return this.#need().placeOf(key, wallMs) === undefined ? hex : formatAgentId(key);
  }

  #placeView(known: KnownAgent): AgentPlaceView {
    return {
      id: formatAgentId(known.key),
      name: known.name,
      node: this.#nodeRef(known.nodeId),
      leaseUntil: new Date(known.expiresAtMs).toISOString(),
    };
  }

  #placeOfKey(key: Uint8Array, nodeId: Uint8Array): AgentPlaceView {
    const known = this.#need()
      .known()
      .find((one) => equal(one.key, key));
    if (known !== undefined) return this.#placeView(known);
    const local = this.#need().byKey(key);
    return this.#placeView({
      key,
      nodeId,
      name: local?.name ?? "",
      wire: new Uint8Array(0),
      expiresAtMs: local?.lease.expiresAtMs ?? 0,
    });
  }

  #nodeRef(nodeId: Uint8Array): { readonly id: string; readonly name: string } {
    return { id: formatNodeId(nodeId), name: this.#context.find(nodeId)?.name ?? shortNodeId(nodeId) };
  }

  // ── outputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #flush(): Promise<void> {
    const agents = this.#agents;
    if (agents === undefined || this.#isClosed) return;
    const ops: StoreOp[] = [];
    for (let output = agents.pollOutput(); output !== undefined; output = agents.pollOutput()) {
      if (output.kind === "send") this.#context.links.send(output.to, output.channel, output.frame);
      else if (output.kind === "store") ops.push(output.op);
      else if (output.kind === "hosts") {
        this.#deps.inboxes.openInbox(output.agent.key);
        this.#announce(output.agent);
      } else {
        const { key, name, movedTo } = output.agent;
        this.#deps.inboxes.closeInbox(key);
        this.#deps.directory.withdraw(key);
        if (movedTo !== undefined)
          this.#context.log.info(
            `agent "${name}" lives on ${this.#nodeRef(movedTo).name} now; it is not served here any more`,
          );
      }
    }
    this.#arm();
    if (ops.length > 0) await this.#context.store.commit(ops);
  }

  #announce(agent: LocalAgent): void {
    try {
      this.#deps.directory.announce(agent.leaseWire);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#context.log.warn(`agent "${agent.name}" is not in the directory (${why}); connected nodes still find it`);
    }
  }

  #flushSoon(): void {
    this.#flush().catch((error: unknown) => {
      this.#storeFailures++;
      this.#context.log.warn(`agents are not on disk: ${error instanceof Error ? error.message : String(error)}`);
    });
  }

  #arm(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const atMs = this.#agents?.nextTimeoutMs() ?? Infinity;
    if (this.#isClosed || atMs === Infinity) return;
    this.#cancelTimer = this.#context.clock.schedule(atMs, () => {
      this.#agents?.handleTimeout(this.#context.clock.now());
      this.#flushSoon();
    });
  }
}

function unknownAgent(text: string): WeftError {
  return new WeftError(
    "AGENT_UNKNOWN",
    `nobody here knows the agent "${text}" yet`,
    "it is being looked for: try again, or see weft agents find",
  );
}

function readAccess(text: string): AgentAccess {
  try {
    const { open, allowed } = JSON.parse(text) as AgentAccess;
    if (typeof open === "boolean" && Array.isArray(allowed)) return { open, allowed };
  } catch {
    // a damaged row: nobody but this node may write until it is set again
  }
  return { open: false, allowed: [] };
}
