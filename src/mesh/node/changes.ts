/**
 * What follows when the roster changes or time passes: statements are kept and handed on, members come and go, rules take effect, checkpoints are proposed and
 * consented to, and user data is held while the roster's age says so (freshness.ts).
 */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import { Ask, Freshness } from "../freshness.ts";
import type { Link } from "../links.ts";
import type { Membership } from "../membership.ts";
import { NO_POLICY } from "../resolve.ts";
import type { Statement } from "../statement.ts";
import { type Member, type NetworkPolicy, UserDataState } from "../types.ts";
import type { Circle } from "./circle.ts";
import type { MeshCore } from "./core.ts";

/** Smallest distance between two looks at a growing roster for changes, except after a revocation. */
const REFRESH_GAP_MS = 50;
/** Looked at again at least this often, because the wall clock may jump. */
const EXPIRY_LOOK_MS = 3_600_000;
/** Consent to a checkpoint follows soon; a proposal gives senior admins time to make theirs first. */
const CONSENT_MS = 300;
const PROPOSE_MS = 2000;
const PROPOSE_STEP_MS = 3000;

export interface ChangesDeps {
  readonly core: MeshCore;
  readonly circle: Circle;
  /** The roster of the network being joined has grown. */
  readonly joinProgressed: (now: Now) => void;
}

export class Changes {
  readonly #core: MeshCore;
  readonly #circle: Circle;
  readonly #joinProgressed: (now: Now) => void;
  readonly #freshness: Freshness = new Freshness();
  #userData: UserDataState = UserDataState.OPEN;
  #checkpointDueMs: number = Number.POSITIVE_INFINITY;
  #refreshDueMs: number = Number.POSITIVE_INFINITY;
  #lastRefreshMs: number = Number.NEGATIVE_INFINITY;

  constructor(deps: ChangesDeps) {
    this.#core = deps.core;
    this.#circle = deps.circle;
    this.#joinProgressed = deps.joinProgressed;
  }

  /** Whether user data may flow: see freshness.ts. */
  get userData(): UserDataState {
    return this.#userData;
  }

  policy(): NetworkPolicy {
    const { join, membership } = this.#core;
    return join === undefined ? (membership?.policy ?? NO_POLICY) : NO_POLICY;
  }

  nextTimeout(): number {
    const { join, isRemoved } = this.#core;
    return Math.min(
      this.#refreshDueMs,
      this.#checkpointDueMs,
      join === undefined && !isRemoved ? this.#freshness.nextTimeout() : Number.POSITIVE_INFINITY,
    );
  }

  refreshIfDue(now: Now): void {
    if (now.nowMs >= this.#refreshDueMs) this.refresh(now);
  }

  handleTimeout(now: Now): void {
    if (now.nowMs >= this.#checkpointDueMs) this.#advanceCheckpoint(now);
    if (now.nowMs >= this.#freshness.nextTimeout()) this.#checkFreshness(now);
  }

  /** Statements that have entered: keep, hand on, see what they change. @param from undefined: this node made them */
  accepted(now: Now, statements: readonly Statement[], from: Link | undefined): void {
    const core = this.#core;
    let isUrgent = from === undefined;
    for (const statement of statements) {
      core.counters.statementsAccepted++;
      if (statement.body.kind === "revoke" || statement.body.kind === "unadmin") isUrgent = true;
      if (core.join !== undefined) continue;
      core.persist(statement);
      core.gossip.announceStatement(now, statement, from);
    }
    if (core.join !== undefined) return this.#joinProgressed(now);
    if (isUrgent) this.refresh(now);
    else this.#refreshDueMs = Math.min(this.#refreshDueMs, Math.max(now.nowMs, this.#lastRefreshMs + REFRESH_GAP_MS));
    this.refreshIfDue(now);
  }

  /** The network was taken back from the disk. */
  restored(now: Now, membership: Membership): void {
    this.refresh(now);
    this.#freshness.start(now.nowMs, membership.members().length > 1);
    this.#checkFreshness(now);
  }

  /** The network was joined: an admin has just shown its roster. */
  joined(now: Now): void {
    this.#freshness.confirmed(now.nowMs);
    this.refresh(now);
  }

  /** After a message that may have confirmed the roster. */
  noteConfirmed(now: Now): void {
    if (this.#core.gossip.confirmedAtMs !== now.nowMs || this.#core.join !== undefined) return;
    this.#freshness.confirmed(now.nowMs);
    this.#checkFreshness(now);
  }

  refresh(now: Now): void {
    const core = this.#core;
    this.#circle.membersChanged();
    this.#lastRefreshMs = now.nowMs;
    this.#refreshDueMs = Number.POSITIVE_INFINITY;
    const { membership } = core;
    if (membership === undefined || core.join !== undefined || core.isRemoved) return;
    const changes = membership.refresh(now);
    const nextExpiryMs = membership.nextExpiryMs();
    if (nextExpiryMs !== Number.POSITIVE_INFINITY) {
      this.#refreshDueMs = now.nowMs + Math.min(EXPIRY_LOOK_MS, Math.max(1, nextExpiryMs - now.wallMs));
    }
    this.#applyRules(now, membership);
    this.#scheduleCheckpoint(now, membership);
    if (changes === undefined) return;
    core.outbox.push({ kind: "rosterChanged", ...changes });
    for (const member of changes.removed) this.#drop(membership, member);
    for (const member of changes.added) {
      // a joiner whose request a beacon has passed on hears its first words when the admission arrives
      const link = core.gossip.link(toHex(member.staticKey));
      if (link !== undefined && link.hello === undefined) core.welcome(now, link);
    }
    for (const member of [...changes.added, ...changes.changed]) {
      if (member.name === member.requestedName) continue;
      core.outbox.log(
        "warn",
        `the name "${member.requestedName}" was taken twice at once: one node is now called "${member.name}"`,
      );
    }
    this.#circle.look(now);
  }

  #drop(membership: Membership, member: Member): void {
    const core = this.#core;
    const { reason, by } = membership.removalOf(member.nodeId);
    core.reach.cache.remove(member.nodeId);
    this.#circle.forget(member.nodeId);
    core.gossip.endpointsChanged();
    if (core.isSelf(member.nodeId)) {
      core.isRemoved = true;
      core.outbox.push({ kind: "selfRemoved", reason, by });
    } else {
      core.gossip.down(toHex(member.staticKey));
      core.outbox.push({ kind: "dropPeer", staticKey: member.staticKey, nodeId: member.nodeId, reason });
    }
  }

  #applyRules(now: Now, membership: Membership): void {
    const changed = membership.refreshRules();
    if (changed.routes) this.#core.outbox.push({ kind: "routesChanged" });
    if (!changed.policy) return;
    this.#core.outbox.push({ kind: "policyChanged" });
    this.#freshness.ruleChanged(now.nowMs, membership.policy.stale);
    this.#checkFreshness(now);
  }

  // Checkpoints

  #scheduleCheckpoint(now: Now, membership: Membership): void {
    const step = membership.governance.checkpointStep();
    if (step === undefined) {
      this.#checkpointDueMs = Number.POSITIVE_INFINITY;
      return;
    }
    const jitter = this.#core.deps.random.unit();
    const waitMs =
      step === "consent"
        ? CONSENT_MS * (0.5 + jitter)
        : PROPOSE_MS + PROPOSE_STEP_MS * (membership.governance.adminPlace + jitter / 2);
    this.#checkpointDueMs = Math.min(this.#checkpointDueMs, now.nowMs + waitMs);
  }

  #advanceCheckpoint(now: Now): void {
    this.#checkpointDueMs = Number.POSITIVE_INFINITY;
    const { membership, join, isRemoved, counters, outbox } = this.#core;
    if (membership === undefined || join !== undefined || isRemoved) return;
    try {
      const step = membership.governance.checkpointStep();
      const statements = membership.governance.advanceCheckpoint(now);
      if (step === "propose") counters.checkpointsProposed++;
      if (step === "consent") counters.checkpointVotes++;
      if (statements.length > 0) this.accepted(now, statements, undefined);
    } catch (error) {
      // a full roster or a clock far ahead; the next change of the roster tries again
      outbox.log("warn", `no checkpoint: ${(error as Error).message}`);
    }
  }

  // Freshness

  /** Asks members to compare rosters when that is due, and says when user data may flow or not. */
  #checkFreshness(now: Now): void {
    const { gossip, counters, deps, outbox } = this.#core;
    const hasOthers = this.#core.members().length > 1;
    const ask = this.#freshness.handleTimeout(now.nowMs, this.policy().stale, hasOthers);
    counters.rosterHolds = this.#freshness.holds;
    if (ask !== Ask.NONE) {
      const links = [...gossip.links()].filter((link) => this.#core.isTrusted(link.hex));
      const first = links.length === 0 ? 0 : deps.random.u32() % links.length;
      const asked = ask === Ask.ALL ? links : links.slice(first, first + 1);
      for (const link of asked) gossip.compareSoon(now, link);
    }
    if (this.#freshness.state === this.#userData) return;
    this.#userData = this.#freshness.state;
    outbox.push({ kind: "userData", state: this.#userData });
  }
}
