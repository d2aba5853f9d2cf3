/**
 * The side of a join that decides: an admin, or a beacon that passes requests on to one. What a request deserves is judged by join-desk.ts;
 * here are the sessions, the answers, and the requests that wait for a person.
 *
 *   joiner ── join ──► admin: admit and answer, refuse, or keep the request and answer "an admin has to decide"
 *   joiner ── join ──► beacon ── joinVia ──► an admin it is connected to; answerVia goes back the same way
 *
 * A beacon vouches that a session has authenticated the joiner's static key; the request itself is signed with the invite's key over the
 * node id, so a beacon cannot put another node into it. Bounds: requests.ts, rates of links.ts. Source: docs/protocol.md, "Join".
 */
import type { Now } from "../base/clock.ts";
import { toHex } from "../base/bytes.ts";
import { WeftError } from "../base/errors.ts";
import type { ControlMessage, JoinRequest } from "./control.ts";
import { hasIdForm, idName } from "./id-form.ts";
import { findInvite, type JoinVerdict } from "./join-desk.ts";
import type { MeshKeys } from "./keys.ts";
import type { Link } from "./links.ts";
import type { Membership } from "./membership.ts";
import { Requests, type WaitingRequest } from "./requests.ts";
import { isName, type Statement } from "./statement.ts";
import { InviteState, JoinCode, type JoinRequestInfo, type Member, type MeshCounters } from "./types.ts";

/** A joiner whose request waits keeps its place for so long after each question. */
const KEEP_MS = 30_000;
const MIN_QUERY = 8;

export type Answer = Extract<ControlMessage, { type: "answer" }>;

export interface JoinOfficeDeps {
  readonly keys: MeshKeys;
  readonly counters: MeshCounters;
  /** undefined while this node is in no network or joining itself. */
  membership(): Membership | undefined;
  link(staticHex: string): Link | undefined;
  links(): Iterable<Link>;
  send(staticKey: Uint8Array, message: ControlMessage): void;
  /** Statements that this node has just signed. */
  accepted(now: Now, statements: readonly Statement[]): void;
  /** First words to a peer that may see the roster now. */
  welcome(now: Now, link: Link): void;
  keepJoiner(staticKey: Uint8Array, forMs: number): void;
  log(level: "info" | "warn", text: string): void;
}

export class JoinOffice {
  readonly #deps: JoinOfficeDeps;
  readonly #requests = new Requests();
  /** Which admin a beacon asks next. */
  #turn = 0;

  constructor(deps: JoinOfficeDeps) {
    this.#deps = deps;
  }

  /** A request in the joiner's own session. */
  handleJoin(now: Now, link: Link, request: JoinRequest): void {
    const membership = this.#deps.membership();
    if (membership === undefined || membership.roster.size === 0) return;
    const verdict = membership.judgeJoin(request, link.staticKey, now.wallMs);
    const isOpen = verdict.verdict === "admit" || verdict.verdict === "wait";
    if (isOpen && !membership.isAdmin) return this.#passOn(link, membership, request);
    const answer = this.#decide(now, membership, verdict, request, link.staticKey, undefined);
    this.#deps.send(link.staticKey, { ...answer, inviteId: request.inviteId });
    if (answer.ok) this.#deps.welcome(now, link);
    else if (answer.code === JoinCode.PENDING) this.#deps.keepJoiner(link.staticKey, KEEP_MS);
  }

  /** A request that a beacon passes on. @param link a member's */
  handleJoinVia(now: Now, link: Link, message: Extract<ControlMessage, { type: "joinVia" }>): void {
    const membership = this.#deps.membership();
    const beacon = membership?.byStaticHex(link.hex);
    if (membership === undefined || !membership.isAdmin) return;
    if (beacon?.roles.includes("beacon") !== true && beacon?.roles.includes("admin") !== true) return;
    const { staticKey, request } = message;
    const verdict = membership.judgeJoin(request, staticKey, now.wallMs);
    const answer = this.#decide(now, membership, verdict, request, staticKey, link.staticKey);
    const { inviteId } = request;
    this.#deps.send(link.staticKey, { type: "answerVia", staticKey, answer: { ...answer, inviteId } });
  }

  /** An admin's answer that this beacon passes back. @param link a member's @returns the admission to ask for when it is not here yet */
  handleAnswerVia(link: Link, message: Extract<ControlMessage, { type: "answerVia" }>): Uint8Array | undefined {
    const membership = this.#deps.membership();
    if (membership?.byStaticHex(link.hex)?.roles.includes("admin") !== true) return undefined;
    const joiner = this.#deps.link(toHex(message.staticKey));
    if (joiner === undefined) return undefined;
    const { answer } = message;
    this.#deps.send(joiner.staticKey, answer);
    if (!answer.ok && answer.code === JoinCode.PENDING) this.#deps.keepJoiner(joiner.staticKey, KEEP_MS);
    return answer.ok && !membership.isKnown(answer.admission) ? answer.admission : undefined;
  }

  /** Requests that wait for a decision, oldest first. */
  list(now: Now): JoinRequestInfo[] {
    return this.#waiting(now).map((waiting) => this.#describe(waiting, now));
  }

  /**
   * @param query name, node id, or at least its first 8 characters (never a name) @param name given instead of the one asked for
   * @throws WeftError NOT_ADMIN, REQUEST_UNKNOWN, REQUEST_AMBIGUOUS, NAME_INVALID, or the code of the refusal
   */
  approve(now: Now, query: string, name: string | undefined): Member {
    const membership = this.#requireAdmin("approve a request");
    const waiting = this.#find(now, query);
    if (name !== undefined && !isName(name)) {
      throw new WeftError("NAME_INVALID", `"${name}" is no valid node name`, "use 1–63 of a–z, 0–9 and -: --name NAME");
    }
    if (name !== undefined && hasIdForm(name)) throw idName(name);
    const { request, staticKey, via } = waiting;
    // its clock was compared when it asked last
    const asked = { ...request, wallMs: request.wallMs + (now.wallMs - waiting.lastWallMs) };
    const verdict = membership.judgeJoin(asked, staticKey, now.wallMs, { name });
    const answer = this.#decide(now, membership, verdict, request, staticKey, via);
    if (!answer.ok) {
      const code = answer.code.toUpperCase().replaceAll("-", "_");
      throw new WeftError(code, answer.text, answer.remedy);
    }
    this.#answer(now, waiting, answer);
    return membership.byNode(request.nodeId) as Member;
  }

  /** @throws WeftError NOT_ADMIN, REQUEST_UNKNOWN, REQUEST_AMBIGUOUS */
  deny(now: Now, query: string, reason: string): JoinRequestInfo {
    const membership = this.#requireAdmin("deny a request");
    const waiting = this.#find(now, query);
    const info = this.#describe(waiting, now);
    this.#deps.accepted(now, membership.deny(now, waiting.request.nodeId, reason));
    this.#requests.forget(waiting.request.nodeId);
    const verdict = membership.judgeJoin(waiting.request, waiting.staticKey, now.wallMs);
    if (verdict.verdict === "refuse") this.#answer(now, waiting, refusal(verdict));
    this.#deps.counters.joinsRefused++;
    this.#deps.log("info", `the request of "${info.name}" to join is denied`);
    return info;
  }

  #decide(
    now: Now,
    membership: Membership,
    verdict: JoinVerdict,
    request: JoinRequest,
    staticKey: Uint8Array,
    via: Uint8Array | undefined,
  ): Answer {
    const { counters } = this.#deps;
    if (verdict.verdict === "refuse") {
      counters.joinsRefused++;
      this.#deps.log("info", `a join is refused: ${verdict.text}`);
      return refusal(verdict);
    }
    if (verdict.verdict === "wait") {
      if (this.#requests.note(now, request, staticKey, via)) {
        const id = this.#deps.keys.formatNodeId(request.nodeId).slice(0, 8);
        this.#deps.log("info", `"${request.name}" (${id}) asks to join: weft approve ${id}, or weft deny ${id}`);
      }
      counters.requestsEvicted = this.#requests.evicted;
      const text = "the request waits for an admin's approval";
      const remedy = `ask an admin to run: weft approve ${request.name}`;
      return { type: "answer", ok: false, code: JoinCode.PENDING, text, remedy, details: {} };
    }
    if (verdict.verdict === "member") return { type: "answer", ok: true, admission: verdict.member.admission };
    let admitted: Statement;
    try {
      admitted = membership.admit(now, verdict);
    } catch (error) {
      // a roster that is full or whose clock ran ahead refuses our own statement: the joiner hears it, the node goes on
      counters.joinsRefused++;
      const text = `the roster takes no admission now: ${(error as Error).message}`;
      this.#deps.log("warn", text);
      const remedy = "the admin should look at its log and clock, then try again";
      return { type: "answer", ok: false, code: JoinCode.REFUSED, text: text.slice(0, 300), remedy, details: {} };
    }
    this.#deps.accepted(now, [admitted]);
    this.#requests.forget(request.nodeId);
    counters.joinsAccepted++;
    const member = membership.byNode(request.nodeId);
    if (member === undefined) {
      const why = membership.roster.state.voids.get(admitted.hashHex) ?? "its membership has expired";
      const remedy = "try again with another token";
      return {
        type: "answer",
        ok: false,
        code: JoinCode.REFUSED,
        text: `the admission has no effect: ${why}`,
        remedy,
        details: {},
      };
    }
    this.#deps.log("info", `"${member.name}" (${member.ipv4}) has joined`);
    return { type: "answer", ok: true, admission: member.admission };
  }

  /** To the admins it is connected to in turn: the joiner asks again until one has answered. */
  #passOn(link: Link, membership: Membership, request: JoinRequest): void {
    const admins = [...this.#deps.links()].filter(
      (one) => membership.byStaticHex(one.hex)?.roles.includes("admin") === true,
    );
    if (admins.length === 0) {
      const text = "the beacon is connected to no admin at the moment";
      const remedy = "an admin has to be running";
      const code = JoinCode.NO_ADMIN;
      this.#deps.keepJoiner(link.staticKey, KEEP_MS);
      const { inviteId } = request;
      return this.#deps.send(link.staticKey, { type: "answer", ok: false, code, text, remedy, details: {}, inviteId });
    }
    const admin = admins[this.#turn++ % admins.length];
    this.#deps.counters.joinsRelayed++;
    this.#deps.send(admin.staticKey, { type: "joinVia", staticKey: link.staticKey, request });
  }

  #answer(now: Now, waiting: WaitingRequest, decided: Answer): void {
    const { staticKey, via } = waiting;
    const answer = { ...decided, inviteId: waiting.request.inviteId };
    if (via !== undefined) return this.#deps.send(via, { type: "answerVia", staticKey, answer });
    const link = this.#deps.link(toHex(staticKey));
    if (link === undefined) return;
    this.#deps.send(staticKey, answer);
    if (answer.ok) this.#deps.welcome(now, link);
  }

  #waiting(now: Now): WaitingRequest[] {
    const membership = this.#deps.membership();
    if (membership === undefined || !membership.isAdmin) return [];
    return this.#requests.list(now, ({ request }) => {
      const use = findInvite(membership.roster, request.inviteId, now.wallMs);
      const isLive = use !== undefined && membership.roster.inviteState(use, now.wallMs).state === InviteState.LIVE;
      return isLive && membership.byNode(request.nodeId) === undefined;
    });
  }

  #find(now: Now, query: string): WaitingRequest {
    const text = query.trim().toLowerCase();
    const all = this.#waiting(now);
    const idOf = (waiting: WaitingRequest): string => this.#deps.keys.formatNodeId(waiting.request.nodeId);
    const isId = hasIdForm(text);
    const matching = all.filter(
      (waiting) =>
        (!isId && waiting.request.name === text) || (text.length >= MIN_QUERY && idOf(waiting).startsWith(text)),
    );
    const nodes = new Set(matching.map(idOf));
    if (nodes.size > 1) {
      throw new WeftError("REQUEST_AMBIGUOUS", `"${query}" fits ${nodes.size} requests`, "give the id: weft requests");
    }
    const found = matching.at(-1);
    if (found !== undefined) return found;
    throw new WeftError("REQUEST_UNKNOWN", `no request by "${query}" waits here`, "weft requests lists those that do");
  }

  #describe(waiting: WaitingRequest, now: Now): JoinRequestInfo {
    const membership = this.#deps.membership();
    const { request } = waiting;
    const use = membership === undefined ? undefined : findInvite(membership.roster, request.inviteId, now.wallMs);
    return {
      nodeId: request.nodeId,
      name: request.name,
      inviteId: request.inviteId,
      roles: use?.body.roles ?? [],
      tags: use?.body.tags ?? [],
      askedAtMs: waiting.firstWallMs,
      isWaiting: Requests.isWaiting(waiting, now.nowMs),
      via: waiting.via === undefined ? undefined : membership?.byStaticHex(toHex(waiting.via))?.nodeId,
    };
  }

  #requireAdmin(what: string): Membership {
    const membership = this.#deps.membership();
    if (membership?.isAdmin === true) return membership;
    throw new WeftError("NOT_ADMIN", `only an admin can ${what}`, "do it on an admin: weft members shows who is one");
  }
}

function refusal(verdict: Extract<JoinVerdict, { verdict: "refuse" }>): Answer {
  const { code, text, remedy, details } = verdict;
  return { type: "answer", ok: false, code, text: text.slice(0, 300), remedy, details };
}
