/**
 * The key-value store, the task lists, the groups and the history as one part of messaging: the first three share spaces, comparison and tables, and
 * what comes to groups and inboxes goes into the history.
 */
import { equal, toHex } from "../../base/bytes.ts";
import type { InboxEntry, SendRequest, SendResult } from "../../messaging/direct/types.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import { GROUP_FIRST } from "../../messaging/groups/groups.ts";
import { GroupRooms } from "./groups.ts";
import { History } from "./history.ts";
import { createKvControl } from "./kv.ts";
import type { MessagingPart, PartContext } from "./part.ts";
import { Spaces, type SpacesDeps } from "./spaces.ts";
import { TaskLists } from "./tasks.ts";

export interface ReplicatedDeps extends SpacesDeps {
  /** Every message that enters an inbox of this node. @returns ends it */
  onDelivered(listener: (entry: InboxEntry) => void): () => void;
  /** Every message that this node sent, with its outcome. @returns ends it */
  onSent(listener: (request: SendRequest, result: SendResult) => void): () => void;
  /** Name of an agent of this node by its key; undefined: there is none. */
  agentNamed(key: Uint8Array): string | undefined;
}

export function createReplicatedPart(context: PartContext, deps: ReplicatedDeps): MessagingPart {
  const spaces = new Spaces(context, deps);
  const tasks = new TaskLists(context, spaces);
  const history = new History(context, (kind, conversation) =>
    kind === "group" ? groups.nameOf(conversation) : conversation,
  );
  const groups: GroupRooms = new GroupRooms(context, spaces, history, (nodeId) => deps.isBlocked(nodeId));
  spaces.use(groups);
  const stopListening = deps.onDelivered((entry) =>
    history.record({
      ref: `direct/${toHex(entry.from)}/${entry.inbox}/${entry.id}`,
      kind: "direct",
      conversation: entry.name,
      agent: entry.inbox === "" ? "node" : (deps.agentNamed(Uint8Array.fromHex(entry.inbox)) ?? entry.inbox),
      sender: entry.from,
      senderAgent: entry.fromAgent === undefined ? "" : toHex(entry.fromAgent),
      recipient: undefined,
      atMs: entry.receivedWallMs,
      payload: entry.payload,
    }),
  );
  const stopListeningToSent = deps.onSent((request, { id, to, outcome }) => {
    const { identity, clock } = context;
    if (outcome === "refused" || equal(to, identity.nodeId)) return;
    const { fromAgent, name = "", payload } = request;
    const agent = fromAgent === undefined ? "node" : (deps.agentNamed(fromAgent) ?? toHex(fromAgent));
    history.record({
      ref: `sent/${id}`,
      kind: "direct",
      conversation: name,
      agent,
      sender: identity.nodeId,
      senderAgent: agent === "node" ? "" : agent,
      recipient: to,
      atMs: clock.now().wallMs,
      payload,
    });
  });
  return {
    name: "replicated",
    types: [...spaces.types, ...groups.types],
    channels: {
      [FrameChannel.DIRECT]: (from, frame) => (frame[0] >= GROUP_FIRST ? groups : spaces).handleFrame(from, frame),
      [FrameChannel.BULK]: (from, frame) => spaces.handleFrame(from, frame),
    },
    control: {
      kv: createKvControl(spaces, context.clock),
      tasks: tasks.control,
      groups: groups.control,
      history: history.control,
    },
    async start() {
      await history.start();
      tasks.start();
      await spaces.start();
    },
    async close() {
      stopListening();
      stopListeningToSent();
      await history.close();
      tasks.close();
      groups.close();
      spaces.close();
    },
    peerUp(nodeId) {
      spaces.peerUp(nodeId);
      groups.peerUp(nodeId);
    },
    memberGone(nodeId) {
      spaces.memberGone(nodeId);
      groups.memberGone(nodeId);
    },
    membersChanged: () => spaces.membersChanged(),
    metrics: () => [...spaces.metrics(), ...groups.metrics(), ...history.metrics()],
    diagnostics: () => ({
      spaces: spaces.diagnostics(),
      groups: groups.diagnostics(),
      history: history.control.figures(),
    }),
  };
}
