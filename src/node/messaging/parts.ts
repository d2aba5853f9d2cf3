/** The parts of messaging and what they know of each other. Source: docs/architecture.md, "A message's way". */
import { TopicRole } from "../../messaging/directory/types.ts";
import type { Space } from "../../messaging/kv/space.ts";
import { AgentsPart } from "./agents.ts";
import { DirectPart } from "./direct.ts";
import { MembershipPart } from "./membership.ts";
import type { MessagingPart, PartContext } from "./part.ts";
import { PubSubPart } from "./pubsub.ts";
import { createReplicatedPart } from "./replicated.ts";
import { createServices } from "./services/services.ts";

/** Where the nodes that keep messages for others are found. */
const MAILBOX_TOPIC = "\0mailbox";

/** In the order in which they start. */
export function createParts(context: PartContext): readonly MessagingPart[] {
  const membership = new MembershipPart(context);
  const direct = new DirectPart(context, {
    sample: (count) => membership.topics.sample(MAILBOX_TOPIC, count),
    start: (isKeeper) => membership.topics.follow(MAILBOX_TOPIC, isKeeper ? TopicRole.VOLUNTEER : TopicRole.VISITOR),
  });
  const agents = new AgentsPart(context, {
    directory: membership.agents,
    inboxes: direct,
    isBlocked: (nodeId) => direct.isBlocked(nodeId),
  });
  direct.agents = agents;
  const agentKey = (name: string): Uint8Array | undefined => (name === "node" ? undefined : agents.local(name));
  const pubsub = new PubSubPart(context, {
    topics: membership.topics,
    agentKey,
    livesOn: (agent, nodeId) => agents.livesOn(agent, nodeId),
  });
  const replicated = createReplicatedPart(context, {
    candidates: (space, count) => membership.topics.sample(spaceTopic(space), count),
    follows: (space, isFollowed) => {
      if (isFollowed) membership.topics.follow(spaceTopic(space), TopicRole.SUBSCRIBER);
      else membership.topics.unfollow(spaceTopic(space));
    },
    isBlocked: (nodeId) => direct.isBlocked(nodeId),
    onDelivered: (listener) => direct.onDelivered(listener),
    onSent: (listener) => direct.onSent(listener),
    agentNamed: (key) => agents.nameOf(key),
  });
  return [membership, direct, agents, pubsub, replicated, ...createServices(context)];
}

/** Where the nodes that replicate a space find each other; no name that a person can give to a topic. */
function spaceTopic(space: Space): string {
  return `\0space/${space.kind}/${space.name}`;
}
