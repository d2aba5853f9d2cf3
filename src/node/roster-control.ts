/** RosterControl of a running node: what the mesh knows and signs about membership, in the words of the local API. */
import type {
  DecisionView,
  ImportView,
  InviteInfoView,
  MemberChange,
  PolicyView,
  RequestView,
  RosterControl,
  RosterView,
} from "../api/roster-control.ts";
import { fromHex, toHex } from "../base/bytes.ts";
import { WeftError } from "../base/errors.ts";
import { formatNodeId, shortNodeId } from "../crypto/node-id.ts";
import type { InviteInfo, JoinRequestInfo, Member, Role } from "../mesh/types.ts";
import type { Clock } from "./clock.ts";
import type { NodeRuntime } from "./runtime.ts";

export class RuntimeRosterControl implements RosterControl {
  readonly #runtime: NodeRuntime;
  readonly #clock: Clock;

  constructor(runtime: NodeRuntime, clock: Clock) {
    this.#runtime = runtime;
    this.#clock = clock;
  }

  invites(): readonly InviteInfoView[] {
    return this.#runtime.mesh.invites(this.#clock.now()).map((invite) => this.#inviteView(invite));
  }

  async endInvite(id: string, reason: string): Promise<InviteInfoView> {
    const wanted = id.toLowerCase();
    const matching = this.#runtime.mesh
      .invites(this.#clock.now())
      .filter((invite) => toHex(invite.inviteId).startsWith(wanted));
    const ids = new Set(matching.map((invite) => toHex(invite.inviteId)));
    if (ids.size !== 1) {
      const what = ids.size === 0 ? `no invite has the id "${id}"` : `"${id}" fits ${ids.size} invites`;
      throw new WeftError(
        ids.size === 0 ? "INVITE_UNKNOWN" : "INVITE_AMBIGUOUS",
        what,
        "weft invite --list shows them",
      );
    }
    const { inviteId } = matching[0];
    await this.#runtime.operate((mesh, now) => mesh.endInvite(now, inviteId, reason));
    const ended = this.invites().find((invite) => invite.id === toHex(inviteId));
    return ended ?? this.#inviteView(matching[0]);
  }

  requests(): readonly RequestView[] {
    return this.#runtime.mesh.requests(this.#clock.now()).map((request) => this.#requestView(request));
  }

  async approve(node: string, name: string | undefined): Promise<DecisionView> {
    return decision(await this.#runtime.operate((mesh, now) => mesh.approve(now, node, name)));
  }

  async deny(node: string, reason: string): Promise<DecisionView> {
    const request = await this.#runtime.operate((mesh, now) => mesh.deny(now, node, reason));
    return { id: formatNodeId(request.nodeId), name: request.name, addresses: [] };
  }

  async updateMember(change: MemberChange): Promise<DecisionView> {
    const { node, name, tags } = change;
    const roles = change.roles as readonly Role[] | undefined;
    const expiresAtMs = expiryOf(change.expiresAt);
    return decision(
      await this.#runtime.operate((mesh, now) => mesh.updateMember(now, node, { name, roles, tags, expiresAtMs })),
    );
  }

  roster(): RosterView {
    const { mesh } = this.#runtime;
    const info = mesh.rosterInfo();
    const networkId = mesh.networkId;
    if (info === undefined || networkId === undefined)
      throw new WeftError("NOT_MEMBER", "this node is in no network", "join one: weft up --join TOKEN");
    const confirmed = mesh.rosterConfirmedAtMs;
    const { version, stale } = mesh.policy();
    return {
      network: toHex(networkId),
      statements: info.statements,
      fingerprint: toHex(info.fingerprint),
      heads: info.heads,
      voids: info.voids,
      checkpointAt: info.finalAtMs === undefined ? null : new Date(info.finalAtMs).toISOString(),
      unsettled: info.unsettled,
      proposals: info.proposals,
      policy: { version, stale },
      ageMs: confirmed === undefined ? null : Math.max(0, this.#clock.now().nowMs - confirmed),
      userData: mesh.userData,
    };
  }

  async setPolicy(stale: "allow" | "refuse"): Promise<PolicyView> {
    const policy = await this.#runtime.operate((mesh, now) => mesh.setPolicy(now, { stale }));
    return { version: policy.version, stale: policy.stale };
  }

  exportRoster(): string {
    return this.#runtime.mesh.exportRoster();
  }

  async importRoster(network: string, statements: readonly string[]): Promise<ImportView> {
    const networkId = fromHex(network);
    if (networkId?.length !== 32)
      throw new WeftError("BAD_REQUEST", "network: is no network id", "export the roster again: weft roster export");
    const wires = statements.map((statement) => new Uint8Array(Buffer.from(statement, "base64")));
    const done = await this.#runtime.operate((mesh, now) => mesh.importStatements(now, networkId, wires));
    const { added, known, waiting, refused } = done;
    return { added, known, waiting, refused: Object.fromEntries(refused) };
  }

  #inviteView(invite: InviteInfo): InviteInfoView {
    return {
      id: toHex(invite.inviteId),
      state: invite.state,
      uses: invite.uses,
      used: invite.used,
      expiresAt: new Date(invite.expiresAtMs).toISOString(),
      endedAt: invite.endedAtMs === undefined ? null : new Date(invite.endedAtMs).toISOString(),
      roles: invite.roles,
      tags: invite.tags,
      approve: invite.approve,
      issuer: this.#nameOf(invite.issuer),
    };
  }

  #requestView(request: JoinRequestInfo): RequestView {
    return {
      id: formatNodeId(request.nodeId),
      name: request.name,
      invite: toHex(request.inviteId),
      roles: request.roles,
      tags: request.tags,
      askedAt: new Date(request.askedAtMs).toISOString(),
      waiting: request.isWaiting,
      via: request.via === undefined ? null : this.#nameOf(request.via),
    };
  }

  #nameOf(nodeId: Uint8Array): string {
    return this.#runtime.mesh.memberById(nodeId)?.name ?? shortNodeId(nodeId);
  }
}

function decision(member: Member): DecisionView {
  return { id: formatNodeId(member.nodeId), name: member.name, addresses: [member.ipv4, member.ipv6] };
}

/** @throws WeftError BAD_REQUEST */
function expiryOf(text: string | undefined): number | null | undefined {
  if (text === undefined) return undefined;
  if (text === "never") return null;
  const at = Date.parse(text);
  if (Number.isSafeInteger(at) && at > 0) return at;
  throw new WeftError("BAD_REQUEST", `expiresAt: "${text}" is no time`, 'write RFC 3339, or "never"');
}
