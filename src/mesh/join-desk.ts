/**
 * The admin's side of a join: judges a request against the roster. Pure: what to sign and what to answer; MeshNode does both.
 * Source: docs/protocol.md, "Join".
 */
import { equal, toHex } from "../base/bytes.ts";
import { parseIpv4, nextFreeIpv4 } from "./addresses.ts";
import type { JoinDetails, JoinRequest } from "./control.ts";
import { describeSeconds, inviteIdOf, joinProofBody } from "./invite.ts";
import { type MeshKeys, SignKind } from "./keys.ts";
import { suffixedName } from "./clashes.ts";
import { isAncestor } from "./dag.ts";
import { hasIdForm, ID_NAME_REMEDY, ID_NAME_TEXT } from "./id-form.ts";
import type { InviteUse } from "./resolve.ts";
import type { Roster } from "./roster.ts";
import { type AdmitBody, isName } from "./statement.ts";
import { InviteState, JoinCode, type Member } from "./types.ts";

/** Largest difference between the two wall clocks. */
export const CLOCK_TOLERANCE_MS = 300_000;
/** Ended invites are answered with the reason for this long; afterwards they are unknown. */
export const REMEMBER_ENDED_MS: number = 30 * 86_400_000;

export type JoinVerdict =
  /** Already a member: the same answer again, nothing to sign. */
  | { readonly verdict: "member"; readonly member: Member }
  | { readonly verdict: "admit"; readonly body: Omit<AdmitBody, "kind">; readonly inviteHash: Uint8Array }
  /** Everything fits, but the invite asks for an admin's decision. */
  | { readonly verdict: "wait"; readonly use: InviteUse }
  | {
      readonly verdict: "refuse";
      readonly code: JoinCode;
      readonly text: string;
      readonly remedy: string;
      readonly details: JoinDetails;
    };

export interface JoinDeskDeps {
  readonly roster: Roster;
  readonly keys: MeshKeys;
  /** True when this node may decide, or may pass the request on to one that does. */
  readonly isDesk: boolean;
}

/** An admin's decision about a request that waited. */
export interface Approval {
  /** The name the admin gives; undefined: the one that was asked for. */
  readonly name: string | undefined;
}

/** Best match for an invite id: a live one first, else the one that ended last. */
export function findInvite(roster: Roster, inviteId: Uint8Array, wallMs: number): InviteUse | undefined {
  let best: InviteUse | undefined;
  let bestRank = Number.NEGATIVE_INFINITY;
  for (const use of roster.state.invites) {
    if (!equal(inviteIdOf(use.body.key), inviteId)) continue;
    const rank = roster.inviteState(use, wallMs).endedAtMs ?? Number.POSITIVE_INFINITY;
    if (rank > bestRank) {
      best = use;
      bestRank = rank;
    }
  }
  return best;
}

/** @param staticKey the X25519 key that the session has authenticated */
export function judgeJoin(
  deps: JoinDeskDeps,
  request: JoinRequest,
  staticKey: Uint8Array,
  wallMs: number,
  approval?: Approval,
): JoinVerdict {
  const { roster, keys } = deps;
  if (!equal(request.networkId, roster.networkId)) {
    return refuse(JoinCode.WRONG_NETWORK, "the invite is for another network", "check which network the token is for");
  }
  const ownKey = keys.staticKeyOf(request.nodeId);
  if (ownKey === undefined || !equal(ownKey, staticKey)) {
    return refuse(
      JoinCode.KEY_REFUSED,
      "the node id does not belong to the key of this session",
      "remove the state directory and join again",
    );
  }
  const member = roster.member(request.nodeId);
  if (member !== undefined && wallMs < (member.expiresAtMs ?? Number.POSITIVE_INFINITY))
    return { verdict: "member", member };
  if (!deps.isDesk) {
    return refuse(JoinCode.NOT_ADMIN, "the node that was asked is not an admin", "ask for a token that names an admin");
  }
  const use = findInvite(roster, request.inviteId, wallMs);
  if (use === undefined) {
    return refuse(
      JoinCode.UNKNOWN_INVITE,
      "the admin does not know this invite",
      "wait until it has reached the admin, or ask for another token",
    );
  }
  const proof = joinProofBody(request.nodeId, request.name);
  if (!keys.verify(use.body.key, SignKind.JOIN, roster.networkId, proof, request.signature)) {
    return refuse(
      JoinCode.BAD_SIGNATURE,
      "the request is not signed with the invite's key",
      "copy the whole token again",
    );
  }
  const refusal = judgeInvite(roster, use, wallMs) ?? judgeNode(roster, use, request, wallMs);
  if (refusal !== undefined) return refusal;
  if (use.body.approve === true && approval === undefined) return { verdict: "wait", use };
  return admit(roster, use, { ...request, name: approval?.name ?? request.name }, wallMs);
}

function judgeInvite(roster: Roster, use: InviteUse, wallMs: number): JoinVerdict | undefined {
  const { state, endedAtMs } = roster.inviteState(use, wallMs);
  if (state === InviteState.LIVE || endedAtMs === undefined) return undefined;
  const ago = describeSeconds(Math.max(1, Math.round((wallMs - endedAtMs) / 1000)));
  const details = { endedAtMs };
  const remedy = "ask the admin for another token: weft invite";
  switch (state) {
    case InviteState.EXPIRED:
      return refuse(JoinCode.EXPIRED, `the invite expired ${ago} ago`, remedy, details);
    case InviteState.USED_UP: {
      const times = use.body.uses === 1 ? "its one use was" : `its ${use.body.uses} uses were`;
      return refuse(JoinCode.USED_UP, `the invite is used up: ${times} taken ${ago} ago`, remedy, {
        ...details,
        uses: use.body.uses,
      });
    }
    case InviteState.REVOKED:
      return refuse(JoinCode.REVOKED, `the invite was revoked ${ago} ago`, remedy, details);
  }
}

function judgeNode(roster: Roster, use: InviteUse, request: JoinRequest, wallMs: number): JoinVerdict | undefined {
  const offsetMs = request.wallMs - wallMs;
  if (Math.abs(offsetMs) > CLOCK_TOLERANCE_MS) {
    const seconds = Math.round(Math.abs(offsetMs) / 1000);
    const direction = offsetMs > 0 ? "ahead of" : "behind";
    return refuse(
      JoinCode.CLOCK_OFF,
      `clock off by ${seconds} s: this machine's clock is ${direction} the admin's`,
      "set the clock (timedatectl set-ntp true) and join again",
      { offsetSeconds: Math.round(offsetMs / 1000) },
    );
  }
  const removedAfterInvite = roster.state.removals
    .get(toHex(request.nodeId))
    ?.find((removal) => !equal(removal.statement.issuer, request.nodeId) && !isAncestor(removal, use.entry));
  const wasMember = [...roster.statements()].some(
    ({ body }) => body.kind === "admit" && equal(body.node, request.nodeId),
  );
  if (removedAfterInvite?.statement.body.kind === "revoke" && !wasMember) {
    const { reason } = removedAfterInvite.statement.body;
    return refuse(
      JoinCode.DENIED,
      `an admin has denied the request${reason === "" ? "" : `: ${reason}`}`,
      "ask the admin; a new invite opens the door again",
    );
  }
  if (removedAfterInvite !== undefined) {
    return refuse(
      JoinCode.NODE_REVOKED,
      "this node was revoked by an admin",
      "an admin can let it in again with an invite made after the revocation",
    );
  }
  if (!isName(request.name)) {
    return refuse(
      JoinCode.NAME_INVALID,
      `"${request.name}" is no valid name`,
      "use 1–63 of a–z, 0–9 and -: weft up --join TOKEN --name NAME",
    );
  }
  if (hasIdForm(request.name)) {
    const remedy = `${ID_NAME_REMEDY}: weft up --join TOKEN --name NAME`;
    return refuse(JoinCode.NAME_INVALID, `"${request.name}" ${ID_NAME_TEXT}`, remedy);
  }
  if (roster.state.members.length >= roster.maxMembers) return full(roster);
  return undefined;
}

function admit(roster: Roster, use: InviteUse, request: JoinRequest, wallMs: number): JoinVerdict {
  const names = new Set(otherMembers(roster, request.nodeId).map((member) => member.name));
  let name = request.name;
  if (names.has(name)) {
    const free = suffixedName(name, names);
    if (request.exactName) {
      return refuse(
        JoinCode.NAME_TAKEN,
        `the name "${name}" is taken`,
        `choose another one: weft up --join TOKEN --name ${free}`,
        { suggestion: free },
      );
    }
    name = free;
  }
  const ipv4 = nextIpv4(roster, request.nodeId);
  if (ipv4 === undefined) return full(roster);
  const { roles, tags, lifeMs } = use.body;
  const body = {
    node: request.nodeId,
    name,
    ipv4,
    roles,
    tags,
    expiresAtMs: lifeMs === undefined ? undefined : Math.floor(wallMs + lifeMs),
    invite: use.entry.statement.hash,
  };
  return { verdict: "admit", body, inviteHash: use.entry.statement.hash };
}

/** The one after the highest ever given, so that an address is reused as late as possible. */
function nextIpv4(roster: Roster, nodeId: Uint8Array): number | undefined {
  const { prefix } = roster.state.genesis;
  const taken = new Set<number>();
  let highest = 0;
  for (const member of otherMembers(roster, nodeId)) {
    const address = parseIpv4(member.ipv4) as number;
    taken.add(address);
    highest = Math.max(highest, address);
  }
  for (const statement of roster.statements())
    if (statement.body.kind === "admit") highest = Math.max(highest, statement.body.ipv4);
  return nextFreeIpv4(prefix, highest, taken);
}

/** A node whose membership has expired still stands in the roster; it does not clash with itself. */
function otherMembers(roster: Roster, nodeId: Uint8Array): Member[] {
  return roster.state.members.filter((member) => !equal(member.nodeId, nodeId));
}

function full(roster: Roster): JoinVerdict {
  const count = roster.state.members.length;
  return refuse(JoinCode.NETWORK_FULL, `the network is full: it has ${count} members`, "revoke members that are gone", {
    members: count,
  });
}

function refuse(code: JoinCode, text: string, remedy: string, details: JoinDetails = {}): JoinVerdict {
  return { verdict: "refuse", code, text, remedy, details };
}
