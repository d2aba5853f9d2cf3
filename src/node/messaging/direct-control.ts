/** Direct messages as the API sees them: names instead of keys, base64 instead of bytes. Source: docs/guide.md, "Direct messages". */
import type {
  DirectControl,
  InboxMessageView,
  InboxView,
  NodeRef,
  RequestView,
  SendArguments,
  SendView,
  ServedRequestView,
} from "../../api/messaging/direct-control.ts";
import { equal, fromHex, toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { formatNodeId } from "../../crypto/node-id.ts";
import type {
  AgentKey,
  InboxEntry,
  IncomingRequest,
  RequestResult,
  SendRequest,
  SendResult,
} from "../../messaging/direct/types.ts";
import type { DirectPart } from "./direct.ts";

/** The name of a node's own inbox. */
const NODE_AGENT = "node";
const MAX_OUTGOING = 1_000;

const decoder = new TextDecoder("utf-8", { fatal: true });

export function createDirectControl(part: DirectPart): DirectControl {
  const { context } = part;

  const nodeRef = (nodeId: Uint8Array): NodeRef => ({
    id: formatNodeId(nodeId),
    name: context.find(nodeId)?.name ?? "",
  });
  const local = (agent: string): AgentKey => {
    if (agent === NODE_AGENT) return undefined;
    if (part.agents === undefined)
      throw new WeftError("AGENT_UNKNOWN", `this node has no agent "${agent}"`, "see weft agents");
    return part.agents.local(agent);
  };
  const inboxOf = (agent: string): string => {
    const key = local(agent);
    return key === undefined ? "" : toHex(key);
  };
  const isOf = (agent: string | undefined, id: string): boolean =>
    agent === undefined || part.sentAs(id) === inboxOf(agent);
  const target = (text: string): { nodeId: Uint8Array; agent: AgentKey } => {
    const agent = part.agents?.target(text);
    if (agent !== undefined) return agent;
    const member = context.resolve(text);
    if (member === undefined)
      throw new WeftError("NODE_UNKNOWN", `no member is called "${text}"`, "see `weft members`");
    return { nodeId: member.nodeId, agent: undefined };
  };
  const toRequest = ({ from, to, name, payload, deadlineMs, durable, keepMs }: SendArguments): SendRequest => {
    const fromAgent = local(from);
    const { nodeId, agent } = target(to);
    if (fromAgent !== undefined) part.agents?.present(fromAgent, nodeId);
    return {
      to: nodeId,
      toAgent: agent,
      fromAgent,
      name,
      payload,
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
      ...(durable === undefined ? {} : { durable }),
      ...(keepMs === undefined ? {} : { keepMs }),
    };
  };
  const sendView = (result: SendResult): SendView => {
    const { id, to, outcome, reason, isFinal, isQueued, attempts, stages, clippedDeadlineMs } = result;
    const isSelf = equal(to, context.identity.nodeId);
    return {
      id,
      to: nodeRef(to),
      outcome,
      reason: reason ?? null,
      final: isFinal,
      queued: isQueued,
      attempts,
      path: isSelf ? { kind: "none", endpoint: null, via: null } : context.pathOf(to),
      stages: {
        openMs: known(stages.openMs),
        writeMs: known(stages.writeMs),
        admitMs: known(stages.admitMs),
        commitMs: known(stages.commitMs),
        answerMs: known(stages.answerMs),
        totalMs: known(stages.totalMs),
      },
      clippedDeadlineMs: clippedDeadlineMs ?? null,
    };
  };
  const agentName = (inbox: string): string => {
    if (inbox === "") return NODE_AGENT;
    return part.agents?.nameOf(fromHex(inbox) ?? new Uint8Array(0)) ?? inbox;
  };
  const inboxView = (name: string): InboxView => {
    const found = part.machine.inboxes().find(({ inbox }) => inbox === name);
    const { messages = 0, bytes = 0, cursor = 0, frontier = 0 } = found ?? {};
    return { agent: agentName(name), messages, bytes, cursor, last: frontier };
  };
  const messageView = (entry: InboxEntry): InboxMessageView => ({
    sequence: entry.sequence,
    id: entry.id,
    from: nodeRef(entry.from),
    fromAgent: entry.fromAgent === undefined ? null : toHex(entry.fromAgent),
    name: entry.name,
    payload: entry.payload.toBase64(),
    text: textOf(entry.payload),
    sentAt: timeOf(entry.sentWallMs),
    receivedAt: timeOf(entry.receivedWallMs),
    durable: entry.durable,
  });
  const servedView = (request: IncomingRequest): ServedRequestView => ({
    key: request.key,
    from: nodeRef(request.from),
    fromAgent: request.fromAgent === undefined ? null : toHex(request.fromAgent),
    name: request.name,
    payload: request.payload.toBase64(),
    text: textOf(request.payload),
    leftMs: Math.max(0, Math.round(request.deadlineAtMs - context.clock.now().nowMs)),
  });

  return {
    async send(message) {
      return sendView(await part.send(toRequest(message)));
    },
    status(id, agent) {
      if (!isOf(agent, id)) return undefined;
      const result = part.machine.status(id);
      return result === undefined ? undefined : sendView(result);
    },
    outgoing: (agent) =>
      part.machine
        .outgoing()
        .filter(({ id }) => isOf(agent, id))
        .slice(0, MAX_OUTGOING)
        .map(({ id, to, attempts, isClosing, createdWallMs, bytes }) => ({
          id,
          to: nodeRef(to),
          state: isClosing ? "asking" : "delivering",
          attempts,
          bytes,
          createdAt: timeOf(createdWallMs),
        })),
    async request(message, signal) {
      return requestView(await part.request(toRequest(message), signal));
    },
    inboxes: (agent) =>
      agent === undefined ? part.machine.inboxes().map(({ inbox }) => inboxView(inbox)) : [inboxView(inboxOf(agent))],
    async inbox(agent, after, limit) {
      const name = inboxOf(agent);
      const { cursor } = part.machine.inbox(name, 0, 0);
      const found = await part.read(name, after ?? cursor, Math.min(1_000, limit + 1));
      return { messages: found.slice(0, limit).map(messageView), cursor, more: found.length > limit };
    },
    async acknowledge(agent, upTo) {
      const name = inboxOf(agent);
      await part.acknowledge(name, upTo);
      return inboxView(name);
    },
    watchInbox: (agent, more) => part.watch(inboxOf(agent), more),
    serve(agent, name, listener, cancelled) {
      const end = part.serve(local(agent), name, { request: (request) => listener(servedView(request)), cancelled });
      if (end === undefined)
        throw new WeftError("SERVICE_TAKEN", `"${name}" is served already`, "end the other one, or use another name");
      return end;
    },
    respond(key, payload, failed, agent) {
      if (agent !== undefined && part.servedAs(key) !== inboxOf(agent)) return false;
      return part.respond(key, payload, failed);
    },
    trust: () => part.machine.trusts().map(({ nodeId, level }) => ({ node: nodeRef(nodeId), trust: level })),
    async setTrust(node, trust) {
      const { nodeId } = target(node);
      await part.setTrust(nodeId, trust);
      return { node: nodeRef(nodeId), trust };
    },
  };
}

function requestView(result: RequestResult): RequestView {
  const { id, totalMs } = result;
  if (result.outcome !== "answered")
    return { id, outcome: result.outcome, reason: result.reason, payload: null, text: null, totalMs };
  const { failed, payload } = result;
  const outcome = failed ? "failed" : "answered";
  return { id, outcome, reason: null, payload: payload.toBase64(), text: textOf(payload), totalMs };
}

function known(ms: number): number | null {
  return Number.isNaN(ms) ? null : Math.round(ms * 1000) / 1000;
}

function timeOf(wallMs: number): string {
  // a peer's clock may say anything; the calendar ends in the year 275760
  return new Date(Math.min(wallMs, 8.64e15)).toISOString();
}

function textOf(bytes: Uint8Array): string | null {
  try {
    return decoder.decode(bytes);
  } catch {
    // not text: the base64 form says what it is
    return null;
  }
}
