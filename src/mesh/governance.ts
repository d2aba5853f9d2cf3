/**
 * What an admin says about a network that exists: changes of members, admin rights, routes, the policy, checkpoints. Signs through its
 * owner (membership.ts), which also decides whether this node is an admin now. Source: docs/protocol.md, "Roster".
 */
import type { Now } from "../base/clock.ts";
import { equal, toHex } from "../base/bytes.ts";
import { WeftError } from "../base/errors.ts";
import { type CborMap, encodeCbor } from "./cbor.ts";
import { isAncestor } from "./dag.ts";
import { hasIdForm, idName } from "./id-form.ts";
import { overlayPrefixes, type Resolution } from "./resolve.ts";
import type { Roster } from "./roster.ts";
import { containsPrefix, parseRoutePrefix } from "./route-prefix.ts";
import {
  adminBody,
  checkpointBody,
  isName,
  MAX_TAGS,
  policyBody,
  routeBody,
  type Statement,
  unadminBody,
  updateBody,
} from "./statement.ts";
import { type Member, type MemberUpdate, ROLES, type StaleRule } from "./types.ts";

const MAX_TAG_BYTES = 256;
/** Of a policy's rules, encoded. */
const MAX_RULES_BYTES = 512;
/** A checkpoint is due when so many statements stand above the last one, even if no admin came or went. */
const CHECKPOINT_EVERY = 512;
export const TAG_RULE: string = `${MAX_TAGS} tags of 1–32 characters, ${MAX_TAG_BYTES} bytes together`;

export interface GovernanceDeps {
  readonly roster: Roster;
  /** 32 bytes: this node. */
  readonly nodeId: Uint8Array;
  /** Members that count now. */
  members(): readonly Member[];
  isAdmin(): boolean;
  /** @throws WeftError NOT_ADMIN */
  requireAdmin(what: string): void;
  /** Folds more heads than one statement can name, so that nothing known stays concurrent to what follows. */
  foldHeads(now: Now): Statement[];
  /** @param required hashes that shall be below it @throws WeftError STATEMENT_REFUSED */
  sign(now: Now, kind: string, body: CborMap, required: readonly Uint8Array[]): Statement;
}

export class Governance {
  readonly #deps: GovernanceDeps;

  constructor(deps: GovernanceDeps) {
    this.#deps = deps;
  }

  /** @returns what was signed; empty when nothing changes @throws WeftError NOT_ADMIN, UPDATE_INVALID, LAST_ADMIN */
  update(now: Now, member: Member, change: MemberUpdate): Statement[] {
    this.#deps.requireAdmin("change a member");
    const { name, tags } = change;
    const expiresAtMs = typeof change.expiresAtMs === "number" ? Math.floor(change.expiresAtMs) : change.expiresAtMs;
    if (name !== undefined && !isName(name)) throw badName("node", name);
    if (name !== undefined && name !== member.requestedName && hasIdForm(name)) throw idName(name);
    const unknown = change.roles?.find((role) => !ROLES.includes(role));
    if (unknown !== undefined) throw badUpdate(`"${unknown}" is no role`, ROLES.join(", "));
    if (tags !== undefined && !areTags(tags)) throw badUpdate(`its ${tags.length} tags do not fit`, TAG_RULE);
    if (typeof expiresAtMs === "number" && !(Number.isSafeInteger(expiresAtMs) && expiresAtMs > 0))
      throw badUpdate(`the expiry is ${expiresAtMs}`, "wall-clock milliseconds");
    const roles = change.roles?.filter((role) => role !== "admin" && role !== "member");
    const isAdmin = member.roles.includes("admin");
    const becomes = change.roles === undefined ? isAdmin : change.roles.includes("admin");
    const others = this.#deps
      .members()
      .filter((other) => other.roles.includes("admin") && !equal(other.nodeId, member.nodeId));
    const ends = typeof expiresAtMs === "number" && expiresAtMs <= now.wallMs;
    if (isAdmin && (!becomes || ends) && others.length === 0) {
      throw new WeftError(
        "LAST_ADMIN",
        `${member.name} is the only admin: without it nobody can invite or revoke`,
        "make another member an admin first: weft members set NODE --role admin",
      );
    }
    const out: Statement[] = [];
    const hasBody = name !== undefined || roles !== undefined || tags !== undefined || expiresAtMs !== undefined;
    const isNews =
      (name !== undefined && name !== member.requestedName) ||
      (roles !== undefined &&
        roles.join() !== member.roles.filter((role) => role !== "admin" && role !== "member").join()) ||
      (tags !== undefined && tags.join("\0") !== member.tags.join("\0")) ||
      (expiresAtMs !== undefined && (expiresAtMs ?? undefined) !== member.expiresAtMs);
    if (hasBody && isNews) {
      const body = updateBody({ node: member.nodeId, name, roles, tags, expiresAtMs });
      out.push(this.#deps.sign(now, "update", body, [member.admission]));
    }
    if (becomes && !isAdmin) out.push(this.#deps.sign(now, "admin", adminBody(member.nodeId), [member.admission]));
    if (!becomes && isAdmin) {
      out.push(...this.settleBefore(now, member));
      out.push(...this.#deps.foldHeads(now));
      out.push(this.#deps.sign(now, "unadmin", unadminBody(member.nodeId, ""), [member.admission]));
    }
    return out;
  }

  /** @throws WeftError NOT_ADMIN, POLICY_INVALID */
  setPolicy(
    now: Now,
    change: { readonly stale?: StaleRule | undefined; readonly rules?: CborMap | undefined },
  ): Statement[] {
    const { roster } = this.#deps;
    this.#deps.requireAdmin("set the policy");
    const present = roster.state.policy;
    const rules = change.rules ?? present.rules;
    const size = encodeCbor(rules).length;
    if (size > MAX_RULES_BYTES) {
      throw new WeftError(
        "POLICY_INVALID",
        `the rules take ${size} bytes`,
        `at most ${MAX_RULES_BYTES} fit into one policy`,
      );
    }
    const out = this.#deps.foldHeads(now);
    const version = roster.policyVersion(roster.parentsFor([], now.wallMs).parents) + 1;
    const body = policyBody({ version, stale: change.stale ?? present.stale, rules });
    return [...out, this.#deps.sign(now, "policy", body, [])];
  }

  /** @throws WeftError NOT_ADMIN, ROUTE_INVALID, ROUTE_OVERLAY */
  approveRoute(now: Now, member: Member, text: string, approved: boolean): Statement {
    this.#deps.requireAdmin("approve a route");
    const prefix = parseRoutePrefix(text);
    if (prefix === undefined) {
      throw new WeftError(
        "ROUTE_INVALID",
        `"${text}" is no prefix`,
        "write it like 10.20.0.0/24 or fd12::/64, with zeros behind the prefix",
      );
    }
    const genesis = this.#deps.roster.state.genesis;
    if (overlayPrefixes(genesis, this.#deps.roster.networkId).some((overlay) => containsPrefix(overlay, prefix))) {
      throw new WeftError(
        "ROUTE_OVERLAY",
        `${text} lies inside the network's own addresses`,
        "those lead to members by themselves",
      );
    }
    return this.#deps.sign(now, "route", routeBody(member.nodeId, prefix, approved), [member.admission]);
  }

  /**
   * What this admin may do for the next checkpoint now: consent to a proposal that it agrees with, or propose one because an admin came or
   * went since the last one, or many statements were made.
   */
  checkpointStep(): "consent" | "propose" | undefined {
    if (!this.#deps.isAdmin() || this.#deps.roster.isFull) return undefined;
    const { state } = this.#deps.roster;
    if (this.#toConsent(state) !== undefined) return "consent";
    const everAlone = state.admins.size === 1 && state.unsettled.length === 0 && state.finals.length === 0;
    const isDue = state.unsettled.length > 0 || state.aboveFinals > CHECKPOINT_EVERY;
    if (everAlone || !isDue) return undefined;
    const open = state.proposals.filter((one) => !one.isFinal && agrees(one.entry.view?.admins, state));
    const isProposed = open.some(
      ({ entry }) =>
        state.unsettled.every((change) => isAncestor(change, entry)) && state.aboveFinals <= 2 * CHECKPOINT_EVERY,
    );
    return isProposed ? undefined : "propose";
  }

  /** Does it. @returns what was signed */
  advanceCheckpoint(now: Now): Statement[] {
    const step = this.checkpointStep();
    if (step === undefined) return [];
    if (step === "propose") {
      const folded = this.#deps.foldHeads(now);
      return [...folded, this.#deps.sign(now, "checkpoint", checkpointBody(undefined), [])];
    }
    const of = this.#toConsent(this.#deps.roster.state) as Uint8Array;
    return [this.#deps.sign(now, "checkpoint", checkpointBody(of), [of])];
  }

  /**
   * Before an admin goes, by whatever way: a checkpoint that is due and that this node's signature may complete is made now. A founder who
   * hands a young network over and leaves would otherwise be the only one whose signature counts for ever.
   */
  settleBefore(now: Now, member: Member): Statement[] {
    const isAdmin = member.roles.includes("admin");
    return isAdmin && this.checkpointStep() === "propose" ? this.advanceCheckpoint(now) : [];
  }

  /** How many admins are senior to this node: they propose first. */
  get adminPlace(): number {
    const admins = this.#deps.members().filter((member) => member.roles.includes("admin"));
    return Math.max(
      0,
      admins.findIndex((member) => equal(member.nodeId, this.#deps.nodeId)),
    );
  }

  /** The newest open proposal that waits for this node's consent and that it agrees with. */
  #toConsent(state: Resolution): Uint8Array | undefined {
    const own = toHex(this.#deps.nodeId);
    for (const { entry, signers, isFinal } of state.proposals.toReversed()) {
      const { view } = entry;
      if (isFinal || view === undefined || signers.has(own)) continue;
      if (!view.electorate.has(own) || !view.admins.has(own) || !state.admins.has(entry.statement.issuerHex)) continue;
      if (state.finals.some((final) => isAncestor(entry, final)) || !agrees(view.admins, state)) continue;
      return entry.statement.hash;
    }
    return undefined;
  }
}

/** True when everybody who was an admin there still is one: consent must not make statements of a removed one final. */
function agrees(then: ReadonlyMap<string, number> | undefined, state: Resolution): boolean {
  return then !== undefined && [...then.keys()].every((node) => state.admins.has(node));
}

/** True when they obey TAG_RULE. */
export function areTags(tags: readonly string[]): boolean {
  const bytes = tags.reduce((total, tag) => total + Buffer.byteLength(tag), 0);
  return tags.length <= MAX_TAGS && bytes <= MAX_TAG_BYTES && tags.every((tag) => tag !== "" && tag.length <= 32);
}

function badUpdate(what: string, allowed: string): WeftError {
  return new WeftError("UPDATE_INVALID", `the member cannot be changed: ${what}`, `allowed: ${allowed}`);
}

export function badName(what: string, name: string): WeftError {
  return new WeftError(
    "NAME_INVALID",
    `"${name}" is no valid ${what} name`,
    "use 1–63 of a–z, 0–9 and -, not beginning or ending with -",
  );
}
