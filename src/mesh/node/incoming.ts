/**
 * Control messages as they come in: decoded, allowed or not (who it is, how many, how costly), and handed to whoever understands them. Anything may be in a
 * message; each is idempotent. Source: docs/protocol.md, "Control messages".
 */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import { type ControlMessage, ControlFault, decodeControl } from "../control.ts";
import { failure } from "../join-attempt.ts";
import type { JoinOffice } from "../join-office.ts";
import type { Link } from "../links.ts";
import type { PunchControl } from "../punch/messages.ts";
import type { RoutingMessage } from "../routing/messages.ts";
import { Refusal, type Statement, statementHash } from "../statement.ts";
import { JoinCode } from "../types.ts";
import type { Changes } from "./changes.ts";
import type { Circle } from "./circle.ts";
import type { MeshCore } from "./core.ts";
import type { Joining } from "./joining.ts";
import type { Operations } from "./operations.ts";

const COSTLY: ReadonlySet<string> = new Set([
  "digest",
  "ranges",
  "have",
  "known",
  "seek",
  "want",
  "join",
  "joinVia",
  "leave",
  "lookup",
  "found",
  "near",
  "punch",
  "sight",
]);
/** Reasons that lie in this node's clock and bounds: an honest member may have such a statement. */
const HONEST: ReadonlySet<Refusal> = new Set([Refusal.FUTURE, Refusal.ISSUER_QUOTA, Refusal.ROSTER_FULL]);

export interface IncomingDeps {
  readonly core: MeshCore;
  readonly circle: Circle;
  readonly changes: Changes;
  readonly joining: Joining;
  readonly operations: Operations;
  readonly office: JoinOffice;
  /** A message came through a session that was not told of yet. */
  readonly peerUp: (now: Now, staticKey: Uint8Array) => void;
}

export class Incoming {
  readonly #core: MeshCore;
  readonly #deps: IncomingDeps;

  constructor(deps: IncomingDeps) {
    this.#core = deps.core;
    this.#deps = deps;
  }

  /** See MeshNode.handleControl. */
  handle(now: Now, staticKey: Uint8Array, bytes: Uint8Array): void {
    const { counters, gossip } = this.#core;
    counters.controlReceived++;
    const message = decodeControl(bytes);
    if (message === ControlFault.MALFORMED) {
      counters.controlMalformed++;
    } else if (message === ControlFault.UNKNOWN_TYPE) {
      counters.controlUnknownType++;
    } else {
      const hex = toHex(staticKey);
      if (gossip.link(hex) === undefined && (message.type === "join" || this.#core.isTrusted(hex)))
        this.#deps.peerUp(now, staticKey);
      const link = gossip.link(hex);
      if (link === undefined) counters.controlRefusedSender++;
      else if (message.type === "join" && !link.mayJoin(now.nowMs)) counters.controlRateLimited++;
      else if (!link.mayReceive(now.nowMs, COSTLY.has(message.type))) counters.controlRateLimited++;
      else this.#dispatch(now, link, message);
    }
  }

  #dispatch(now: Now, link: Link, message: ControlMessage): void {
    const { gossip, outbox } = this.#core;
    const { office, joining } = this.#deps;
    if (message.type === "join") return office.handleJoin(now, link, message);
    if (message.type === "left") return this.#deps.operations.onLeft(message.hash);
    if (!this.#core.isTrusted(link.hex)) {
      this.#core.counters.controlRefusedSender++;
      return;
    }
    switch (message.type) {
      case "hello":
        return this.#onHello(link, message);
      case "statements":
        return this.#onStatements(now, link, message.wires);
      case "endpoints":
        return this.#onEndpoints(now, link, message.wires);
      case "answer": {
        const { join } = this.#core;
        if (join !== undefined) joining.follow(now, join.handleAnswer(now, link.hex, message), link);
        return;
      }
      case "joinVia":
        return office.handleJoinVia(now, link, message);
      case "answerVia": {
        const admission = office.handleAnswerVia(link, message);
        if (admission !== undefined) gossip.want(link, [admission]);
        return;
      }
      case "leave":
        return this.#onLeave(now, link, message.wire);
      case "idle":
        return outbox.push({ kind: "idle", staticKey: link.staticKey, message });
      case "punch":
      case "sight":
      case "seen":
        return this.#onPunch(link, message);
      case "lookup":
      case "found":
      case "unlabel":
      case "near":
        return this.#onRouting(link, message);
      case "bye":
        // nothing is asked of it any more; when it is back, its next session or message makes the link anew
        gossip.down(link.hex);
        return outbox.push({
          kind: "peerStopping",
          staticKey: link.staticKey,
          nodeId: this.#core.nodeIdOf(link.hex),
        });
      default:
        gossip.handle(now, link, message);
        this.#deps.changes.noteConfirmed(now);
        if (this.#core.join !== undefined) joining.finish(now);
    }
  }

  /** While joining, this node is nobody's way to anywhere. */
  #memberAt(link: Link): Uint8Array | undefined {
    const { join, membership } = this.#core;
    return join === undefined ? membership?.byStaticHex(link.hex)?.nodeId : undefined;
  }

  #onPunch(link: Link, message: PunchControl): void {
    const { outbox, reach } = this.#core;
    const nodeId = this.#memberAt(link);
    if (nodeId === undefined) return;
    if (message.type === "sight") return outbox.push({ kind: "punch", nodeId, message });
    const named = message.type === "punch" ? message.endpoints : [message.endpoint];
    const endpoints = reach.dialable(named);
    if (message.type === "punch") return outbox.push({ kind: "punch", nodeId, message: { ...message, endpoints } });
    if (endpoints.length === 1) outbox.push({ kind: "punch", nodeId, message });
  }

  #onRouting(link: Link, message: RoutingMessage): void {
    const nodeId = this.#memberAt(link);
    if (nodeId === undefined) this.#core.counters.controlRefusedSender++;
    else this.#core.outbox.push({ kind: "routing", nodeId, message });
  }

  /** Confirmed before it takes effect, because then the session is dropped. */
  #onLeave(now: Now, link: Link, wire: Uint8Array): void {
    const { membership, join } = this.#core;
    if (membership === undefined || join !== undefined) return;
    if (!link.mayOffer(now.nowMs)) return;
    const { added, result } = membership.take(wire, now);
    if (result.status === "refused") link.noteRefusal(now, !HONEST.has(result.reason));
    const hash = statementHash(wire);
    if (membership.roster.has(hash)) this.#core.send(link.staticKey, { type: "left", hash });
    if (added.length > 0) this.#deps.changes.accepted(now, added, link);
  }

  #onHello(link: Link, message: Extract<ControlMessage, { type: "hello" }>): void {
    const { outbox, options } = this.#core;
    const { buildId, protocol, capabilities, name } = message;
    link.hello = { buildId, protocol, capabilities, name };
    const [lowest, highest] = options.protocol;
    if (protocol[0] <= highest && protocol[1] >= lowest) return;
    const reason = `protocol ${protocol[0]}–${protocol[1]} of ${name} (build ${buildId}) and ${lowest}–${highest} of this node have nothing in common: update the older one`;
    outbox.log("warn", reason);
    outbox.push({ kind: "dropPeer", staticKey: link.staticKey, nodeId: this.#core.nodeIdOf(link.hex), reason });
    if (this.#core.join !== undefined)
      this.#deps.joining.fail(failure(JoinCode.PROTOCOL, reason, "update Weft on the older of the two machines"));
  }

  #onStatements(now: Now, link: Link, wires: readonly Uint8Array[]): void {
    const { membership, counters, gossip, outbox } = this.#core;
    if (membership === undefined) return;
    const added: Statement[] = [];
    const missing: Uint8Array[] = [];
    for (const wire of wires) {
      if (!link.mayOffer(now.nowMs)) {
        counters.controlRateLimited++;
        break;
      }
      const taken = membership.take(wire, now);
      added.push(...taken.added);
      if (taken.result.status === "known") counters.statementsDuplicate++;
      if (taken.result.status === "missing") missing.push(...taken.result.parents);
      if (taken.result.status === "refused") {
        counters.statementsRefused++;
        if (taken.result.reason === Refusal.BAD_SIGNATURE) link.noteForgery(now);
        else link.noteRefusal(now, !HONEST.has(taken.result.reason));
        outbox.log("debug", `a statement is refused: ${taken.result.reason}`);
      }
    }
    counters.statementsPendingEvicted = membership.pendingEvicted;
    const unknown = missing.filter((hash) => !membership.isKnown(hash)).slice(0, 16);
    if (unknown.length > 0) gossip.want(link, unknown);
    if (added.length === 0) return;
    this.#deps.changes.accepted(now, added, link);
    gossip.noteProgress(now, link, membership.roster.size);
  }

  #onEndpoints(now: Now, link: Link, wires: readonly Uint8Array[]): void {
    const { counters, gossip, outbox, reach } = this.#core;
    if (link.isMuted(now.nowMs)) return;
    const isWelcome = (nodeId: Uint8Array): boolean =>
      this.#core.join !== undefined || this.#core.membership?.byNode(nodeId) !== undefined;
    for (const wire of wires) {
      const heard = reach.hear(now, wire, isWelcome);
      if (heard.kind === "refused") {
        counters.endpointsRefused++;
        if (heard.isForged) link.noteForgery(now);
      }
      if (heard.kind !== "newer") continue;
      counters.endpointsAccepted++;
      counters.endpointsEvicted = reach.cache.evicted;
      const { message } = heard;
      if (this.#core.isSelf(message.nodeId)) {
        // said in an earlier run whose clock this one does not know
        gossip.endpointsChanged();
        this.#core.signEndpoints(now);
        continue;
      }
      gossip.announceEndpoints(now, message, link);
      outbox.push({ kind: "endpointsChanged", nodeId: message.nodeId });
      this.#deps.circle.look(now);
    }
  }
}
