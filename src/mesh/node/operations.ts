/** What a person asks of a member: found a network, invite, change members and rules, revoke, leave, export and import. Each signs statements or refuses. */
import type { Now } from "../../base/clock.ts";
import { equal } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import type { CborMap } from "../cbor.ts";
import { encodeToken, MAX_TOKEN_ADMINS, type TokenAdmin } from "../invite.ts";
import { Leaving } from "../leaving.ts";
import { Membership } from "../membership.ts";
import { formatRosterText } from "../roster-text.ts";
import type { Statement } from "../statement.ts";
import type {
  CreatedInvite,
  CreateInviteOptions,
  CreateNetworkOptions,
  ImportResult,
  Member,
  MemberUpdate,
  StaleRule,
} from "../types.ts";
import type { Changes } from "./changes.ts";
import type { MeshCore } from "./core.ts";

export class Operations {
  readonly #core: MeshCore;
  readonly #changes: Changes;
  #leaving: Leaving | undefined;

  constructor(core: MeshCore, changes: Changes) {
    this.#core = core;
    this.#changes = changes;
  }

  // The network itself

  /** See MeshNode.createNetwork. */
  createNetwork(now: Now, network: CreateNetworkOptions): Uint8Array {
    const core = this.#core;
    if (core.membership?.self !== undefined || core.join !== undefined) {
      throw new WeftError(
        "ALREADY_MEMBER",
        `this node belongs to the network "${core.membership?.roster.genesis?.network ?? "?"}" already`,
        "leave it first: weft leave",
      );
    }
    const membership = Membership.found(core.deps, now, network, core.options);
    core.membership = membership;
    core.isRemoved = false;
    for (const statement of membership.roster.statements()) core.persist(statement);
    this.#changes.refresh(now);
    core.signEndpoints(now);
    return membership.networkId;
  }

  /** See MeshNode.restore. */
  restore(now: Now, networkId: Uint8Array, wires: readonly Uint8Array[]): number {
    const core = this.#core;
    const membership = new Membership(core.deps, networkId, core.options);
    const { refused, orphans } = membership.load(wires);
    for (const reason of refused) core.outbox.log("warn", `a stored statement is left out: ${reason}`);
    if (orphans > 0) core.outbox.log("warn", `${orphans} stored statements wait for ones that are not stored`);
    if (membership.roster.size === 0) return 0;
    core.membership = membership;
    core.isRemoved = false;
    this.#changes.restored(now, membership);
    if (membership.self === undefined) {
      core.isRemoved = true;
      core.outbox.push({ kind: "selfRemoved", ...membership.removalOf(core.deps.identity.nodeId) });
    }
    return membership.roster.size;
  }

  exportRoster(): string {
    const { roster, networkId } = this.#core.requireInside();
    return formatRosterText(
      networkId,
      [...roster.statements()].map((statement) => statement.wire),
    );
  }

  /** See MeshNode.importStatements. */
  importStatements(now: Now, networkId: Uint8Array, wires: readonly Uint8Array[]): ImportResult {
    const membership = this.#core.requireInside();
    if (!equal(networkId, membership.networkId)) {
      throw new WeftError(
        "ROSTER_FOREIGN",
        "these statements belong to another network",
        "export the roster on a member of this one: weft roster export",
      );
    }
    const added: Statement[] = [];
    const refused = new Map<string, number>();
    let known = 0;
    let waiting = 0;
    for (const wire of wires) {
      const taken = membership.take(wire, now);
      added.push(...taken.added);
      if (taken.result.status === "known") known++;
      if (taken.result.status === "missing") waiting++;
      if (taken.result.status === "refused")
        refused.set(taken.result.reason, (refused.get(taken.result.reason) ?? 0) + 1);
    }
    if (added.length > 0) this.#changes.accepted(now, added, undefined);
    return { added: added.length, known, waiting, refused };
  }

  // Invites

  /** See MeshNode.createInvite. */
  createInvite(now: Now, options: CreateInviteOptions): CreatedInvite {
    const membership = this.#core.requireInside();
    const invite = membership.createInvite(now, options);
    this.#changes.accepted(now, [invite.statement], undefined);
    const admins = this.#tokenAdmins(now);
    if (admins[0]?.endpoints.length === 0 && admins[0].urls?.length === 0)
      this.#core.outbox.log("warn", "the token names no address of this node: give one with --endpoint");
    const { seed, inviteId, expiresAtMs, uses } = invite;
    return {
      token: encodeToken({ networkId: membership.networkId, seed, expiresAtMs, admins }),
      inviteId,
      expiresAtMs,
      uses,
    };
  }

  endInvite(now: Now, inviteId: Uint8Array, reason: string): void {
    this.#changes.accepted(now, [this.#core.requireInside().endInvite(now, inviteId, reason)], undefined);
  }

  #tokenAdmins(now: Now): TokenAdmin[] {
    const core = this.#core;
    const { reach } = core;
    const admins: TokenAdmin[] = [{ nodeId: core.deps.identity.nodeId, endpoints: reach.own, urls: reach.ownUrls }];
    // a beacon passes requests on to an admin that cannot be reached otherwise
    const desks = (["beacon", "admin"] as const).flatMap((role) =>
      core.members().filter((member) => member.roles.includes(role)),
    );
    for (const member of new Set(desks)) {
      if (admins.length === MAX_TOKEN_ADMINS) break;
      if (core.isSelf(member.nodeId)) continue;
      const endpoints = core.candidates(member.nodeId, now.wallMs);
      const urls = core.urls(member.nodeId);
      if (endpoints.length + urls.length > 0) admins.push({ nodeId: member.nodeId, endpoints, urls });
    }
    return admins;
  }

  // Members and rules

  updateMember(now: Now, node: string | Uint8Array, change: MemberUpdate): Member {
    const membership = this.#core.requireInside();
    const member = this.#memberNamed(membership, node);
    this.#changes.accepted(now, membership.governance.update(now, member, change), undefined);
    return membership.byNode(member.nodeId) ?? member;
  }

  approveRoute(now: Now, node: string | Uint8Array, prefix: string, approved: boolean): Member {
    const membership = this.#core.requireInside();
    const member = this.#memberNamed(membership, node);
    this.#changes.accepted(now, [membership.governance.approveRoute(now, member, prefix, approved)], undefined);
    return member;
  }

  setPolicy(now: Now, change: { readonly stale?: StaleRule | undefined; readonly rules?: CborMap | undefined }): void {
    this.#changes.accepted(now, this.#core.requireInside().governance.setPolicy(now, change), undefined);
  }

  revoke(now: Now, node: string | Uint8Array, reason: string): Member {
    const membership = this.#core.requireInside();
    const member = this.#memberNamed(membership, node);
    if (this.#core.isSelf(member.nodeId)) {
      throw new WeftError("REVOKE_SELF", "a node cannot revoke itself", "to leave the network: weft leave");
    }
    this.#changes.accepted(now, membership.revoke(now, member, reason), undefined);
    return member;
  }

  #memberNamed(membership: Membership, node: string | Uint8Array): Member {
    const member = typeof node === "string" ? membership.find(node) : membership.byNode(node);
    if (member !== undefined) return member;
    const shown = typeof node === "string" ? node : this.#core.deps.keys.formatNodeId(node);
    throw new WeftError("NODE_UNKNOWN", `no member is called "${shown}"`, "weft members lists them");
  }

  // Leaving

  /** See MeshNode.leave. */
  leave(now: Now, isForced: boolean): void {
    const membership = this.#core.requireInside();
    const others = membership.members().filter((member) => !this.#core.isSelf(member.nodeId));
    const isLastAdmin = membership.isAdmin && !others.some((member) => member.roles.includes("admin"));
    if (isLastAdmin && others.length > 0 && !isForced) {
      throw new WeftError(
        "LAST_ADMIN",
        `this node is the only admin of ${others.length + 1} members: without it nobody can invite or revoke`,
        "invite another admin first (weft invite --role admin), or leave with --yes",
      );
    }
    if (membership.self !== undefined)
      this.#changes.accepted(now, membership.governance.settleBefore(now, membership.self), undefined);
    const statement = membership.leave(now);
    this.#leaving = new Leaving(statement, now);
    this.#core.persist(statement);
    this.#advanceLeaving(now);
    this.#changes.refresh(now);
  }

  /** A member has the statement that this node leaves. */
  onLeft(hash: Uint8Array): void {
    if (this.#leaving?.isConfirmedBy(hash) === true) this.#finishLeaving(true);
  }

  nextTimeout(): number {
    return this.#leaving?.dueMs ?? Number.POSITIVE_INFINITY;
  }

  handleTimeout(now: Now): void {
    if (this.#leaving !== undefined && now.nowMs >= this.#leaving.dueMs) this.#advanceLeaving(now);
  }

  #advanceLeaving(now: Now): void {
    const { gossip, membership } = this.#core;
    const links = [...gossip.links()].filter((link) => membership?.byStaticHex(link.hex) !== undefined);
    const message = this.#leaving?.next(now, links.length);
    if (message === undefined) return this.#finishLeaving(false);
    for (const link of links) this.#core.send(link.staticKey, message, true);
  }

  #finishLeaving(delivered: boolean): void {
    this.#leaving = undefined;
    this.#core.outbox.push({ kind: "left", delivered });
  }
}
