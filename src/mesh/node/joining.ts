/** The joiner's side: from the token to a member of a verified roster. join-attempt.ts decides the steps, this carries them out. */
import type { Now } from "../../base/clock.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { hasIdForm, idName } from "../id-form.ts";
import { checkToken, decodeToken } from "../invite.ts";
import { failure, JoinAttempt, type JoinFailure, type JoinStep } from "../join-attempt.ts";
import type { Link } from "../links.ts";
import { Membership } from "../membership.ts";
import { isName } from "../statement.ts";
import { JoinCode, type JoinOptions } from "../types.ts";
import type { Circle } from "./circle.ts";
import type { MeshCore } from "./core.ts";

export interface JoiningDeps {
  readonly core: MeshCore;
  readonly circle: Circle;
  /** This node is a member now: see Changes.joined. */
  readonly joined: (now: Now) => void;
}

export class Joining {
  readonly #core: MeshCore;
  readonly #circle: Circle;
  readonly #joined: (now: Now) => void;

  constructor(deps: JoiningDeps) {
    this.#core = deps.core;
    this.#circle = deps.circle;
    this.#joined = deps.joined;
  }

  /** See MeshNode.startJoin. */
  start(now: Now, text: string, options: JoinOptions): void {
    const core = this.#core;
    if (core.join !== undefined)
      throw new WeftError("ALREADY_JOINING", "this node is joining already", "wait for the result");
    const token = decodeToken(text);
    const present = core.membership;
    const self = present?.self;
    if (present !== undefined && self !== undefined && equal(present.networkId, token.networkId)) {
      const network = present.roster.genesis?.network as string;
      core.outbox.push({ kind: "joinResult", result: { ok: true, member: self, network } });
      return;
    }
    checkToken(token, now.wallMs, self === undefined ? undefined : present?.networkId);
    if (!isName(options.name)) {
      throw new WeftError(
        "NAME_INVALID",
        `"${options.name}" is no valid node name`,
        "use 1–63 of a–z, 0–9 and -: --name NAME",
      );
    }
    if (hasIdForm(options.name)) throw idName(options.name);
    if (token.admins.length === 0) {
      throw new WeftError("TOKEN_EMPTY", "the token names no admin", "ask the admin for another token: weft invite");
    }
    core.isRemoved = false;
    core.membership = new Membership(core.deps, token.networkId, core.options);
    this.#circle.membersChanged();
    const attemptDeps = { keys: core.deps.keys, nodeId: core.deps.identity.nodeId, token };
    core.join = new JoinAttempt(attemptDeps, options, core.options.joinTimeoutMs, now);
    for (const admin of token.admins) core.reach.hint(admin.nodeId, admin.endpoints, admin.urls);
    const count = token.admins.length;
    core.outbox.push({
      kind: "joinProgress",
      text: `looking for ${count === 1 ? "the admin" : `one of ${count} admins`} named in the token`,
    });
  }

  cancel(): void {
    if (this.#core.join !== undefined)
      this.fail(failure(JoinCode.NO_ADMIN, "the join was cancelled", "start it again with the same token"));
  }

  handleTimeout(now: Now): void {
    const { join } = this.#core;
    if (join !== undefined && now.nowMs >= join.nextTimeout()) this.follow(now, join.handleTimeout(now));
  }

  /** @param answered the link whose answer led to these steps */
  follow(now: Now, steps: readonly JoinStep[], answered?: Link): void {
    const { outbox } = this.#core;
    for (const step of steps) {
      if (step.kind === "dial") {
        outbox.push({ kind: "dial", nodeId: step.nodeId, staticKey: step.staticKey, inviteId: step.inviteId });
      } else if (step.kind === "send") {
        this.#core.send(step.staticKey, step.message);
      } else if (step.kind === "progress") {
        outbox.push({ kind: "joinProgress", text: step.text });
      } else {
        this.fail(step.failure);
      }
    }
    if (answered !== undefined && this.#core.join?.phase === "syncing") this.#core.welcome(now, answered);
  }

  /** Done when this node is a member of a verified roster that has everything some admin has. */
  finish(now: Now): void {
    const core = this.#core;
    const { membership, join } = core;
    if (join?.phase !== "syncing" || membership === undefined || membership.roster.size === 0) return;
    const { roster } = membership;
    const isWhole = [...core.gossip.links()].some(
      (link) => link.hasSameRoster || (link.remoteCount > 0 && roster.size >= link.remoteCount),
    );
    if (!isWhole) return;
    if (!roster.state.byNode.has(toHex(core.deps.identity.nodeId))) {
      const { admission } = join;
      const why = admission === undefined ? undefined : roster.state.voids.get(toHex(admission));
      if (why !== undefined)
        this.fail(
          failure(JoinCode.BAD_ROSTER, `the admission has no effect: ${why}`, "ask the admin for another token"),
        );
      return;
    }
    core.join = undefined;
    this.#joined(now);
    const { self } = core;
    if (self === undefined) {
      return this.fail(failure(JoinCode.BAD_ROSTER, "the membership has expired", "ask the admin for another token"));
    }
    for (const statement of roster.statements()) core.persist(statement);
    const network = roster.genesis?.network as string;
    core.outbox.push({ kind: "joinResult", result: { ok: true, member: self, network } });
    core.signEndpoints(now);
  }

  fail(result: JoinFailure): void {
    const core = this.#core;
    core.join = undefined;
    core.membership = undefined;
    this.#circle.membersChanged();
    for (const link of core.gossip.links()) core.gossip.down(link.hex);
    core.outbox.push({ kind: "joinResult", result });
  }
}
