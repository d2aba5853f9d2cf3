/** What the services for members (forwards, SOCKS, execution, files) need of the node. */
import { WeftError } from "../../../base/errors.ts";
import { formatNodeId } from "../../../crypto/node-id.ts";
import type { Member } from "../../../mesh/types.ts";
import type { PeerNames } from "../../../messaging/services/targets.ts";
import type { PartContext } from "../part.ts";

export type ServiceContext = Pick<
  PartContext,
  "identity" | "random" | "clock" | "log" | "streams" | "stateDirectory" | "members" | "find" | "resolve" | "isUp"
>;

/** @throws WeftError NODE_UNKNOWN, NODE_AMBIGUOUS */
export function needMember(context: Pick<ServiceContext, "resolve">, query: string): Member {
  const member = context.resolve(query);
  if (member === undefined) throw new WeftError("NODE_UNKNOWN", `no member is called "${query}"`, "see `weft members`");
  return member;
}

/** For rules that name peers. */
export function namesOf(member: Member): PeerNames {
  return { id: formatNodeId(member.nodeId), name: member.name, tags: member.tags };
}

export interface NodeName {
  readonly id: string;
  readonly name: string;
}

/** For views; a member that is gone keeps its id. */
export function nodeName(context: Pick<ServiceContext, "find">, nodeId: Uint8Array): NodeName {
  const id = formatNodeId(nodeId);
  return { id, name: context.find(nodeId)?.name ?? id.slice(0, 8) };
}
