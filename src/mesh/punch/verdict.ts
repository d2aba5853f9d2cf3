/**
 * Why two nodes do not talk directly, in words for a person, and what would change it. A pure function of what an attempt found out.
 * Source: docs/protocol.md, "Hole punching".
 */
import { Mapping } from "./messages.ts";

export interface Verdict {
  /** Stable, for programs. */
  readonly code:
    | "direct"
    | "trying"
    | "no-answer"
    | "no-address"
    | "both-hard"
    | "probably-hard"
    | "not-confirmed"
    | "port-not-met"
    | "filtered"
    | "not-tried";
  readonly text: string;
  /** What would make it direct; empty when nothing has to be done. */
  readonly remedy: string;
}

export interface Findings {
  readonly isDirect: boolean;
  readonly isUnderWay: boolean;
  /** Begun by this side. */
  readonly attempts: number;
  /** The peer has said where it may be met. */
  readonly answered: boolean;
  readonly own: Mapping;
  readonly peer: Mapping;
  /** How many addresses each side offered. */
  readonly ownEndpoints: number;
  readonly peerEndpoints: number;
  /** A third member sees the peer too. */
  readonly confirmed: boolean;
  readonly tried: ReadonlySet<"plain" | "fan" | "guess">;
}

const OPEN_A_PORT =
  "forward a UDP port to one of them and name it with --endpoint, or enable UPnP or NAT-PMP on a router";

export function judge(found: Findings): Verdict {
  const isHard = found.own >= Mapping.ADDRESS_DEPENDENT;
  const isPeerHard = found.peer >= Mapping.ADDRESS_DEPENDENT;
  if (found.isDirect) return { code: "direct", text: "the path is direct", remedy: "" };
  if (found.isUnderWay) return { code: "trying", text: "an attempt is under way", remedy: "" };
  if (!found.answered && found.attempts === 0)
    return { code: "not-tried", text: "nothing was tried yet: no traffic needs it", remedy: "" };
  if (!found.answered)
    return {
      code: "no-answer",
      text: "the peer did not answer through the relay",
      remedy: "look at `weft doctor` on the peer",
    };
  if (found.peerEndpoints === 0)
    return {
      code: "no-address",
      text: "the peer knows no address at which it could be met",
      remedy: "give it one with --endpoint, or let its firewall pass UDP",
    };
  if (isHard && isPeerHard)
    return {
      code: "both-hard",
      text: "both NATs give every destination another port, so neither side can know where to send",
      remedy: OPEN_A_PORT,
    };
  const { tried } = found;
  const wasSupposed = tried.has("plain") && (isHard || tried.has("guess")) && (isPeerHard || tried.has("fan"));
  if (mayBeHard(found.own) && mayBeHard(found.peer) && wasSupposed)
    return {
      code: "probably-hard",
      text: "probably both NATs give every destination another port: all ways for one NAT of that kind were tried, and nothing arrived",
      remedy: `${OPEN_A_PORT}; a STUN server or a second beacon tells for sure`,
    };
  if (isPeerHard && !found.confirmed)
    return {
      code: "not-confirmed",
      text: "the peer's NAT gives every destination another port, and no third member sees the peer to confirm its address",
      remedy: "add a beacon that both nodes reach",
    };
  if (isHard || isPeerHard)
    return {
      code: "port-not-met",
      text: `${isHard ? "this node's" : "the peer's"} NAT gives every destination another port, and none of those tried was met`,
      remedy: `it is tried again by itself; to be sure, ${OPEN_A_PORT}`,
    };
  const isOwnSupposed = found.own === Mapping.UNKNOWN && tried.has("fan");
  if (isOwnSupposed || (found.peer === Mapping.UNKNOWN && tried.has("guess")))
    return {
      code: "port-not-met",
      text: `${isOwnSupposed ? "this node's" : "the peer's"} NAT probably gives every destination another port, and none of those tried was met`,
      remedy: `it is tried again by itself; a STUN server or a second beacon tells for sure; or ${OPEN_A_PORT}`,
    };
  return {
    code: "filtered",
    text: "both sides sent at the same time and nothing arrived: a firewall on the way drops UDP",
    remedy: `let UDP pass the firewall, or ${OPEN_A_PORT}`,
  };
}

/** Hard, or not found out. */
function mayBeHard(mapping: Mapping): boolean {
  return mapping === Mapping.UNKNOWN || mapping >= Mapping.ADDRESS_DEPENDENT;
}
