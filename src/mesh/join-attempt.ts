/**
 * The joining node's side: asks the admins named in a token until one answers, then waits for the whole roster. Every question can be asked
 * again: an admin answers the same node under the same invite with the same admission.
 *
 *   dialing ──session with an admin──► asking ──accepted──► syncing ──own membership in the verified roster──► done
 *      │                                ▲  │  an admin has to decide: asks on until the invite expires
 *      │                                └──┘
 *      └────────────── time-out ──────────┴──── refused ──────┴──► failed, with a code, one line and a remedy
 *
 * "Admin" here is every node that the token names; a beacon among them passes the request on to an admin and the answer back.
 * Source: docs/protocol.md, "Join".
 */
import type { Now } from "../base/clock.ts";
import { equal, toHex } from "../base/bytes.ts";
import type { ControlMessage } from "./control.ts";
import { inviteIdOf, joinProofBody, type InviteToken } from "./invite.ts";
import { type MeshKeys, SignKind, type Signer } from "./keys.ts";
import { JoinCode, type JoinOptions, type JoinResult } from "./types.ts";

const FIRST_ASK_MS = 1000;
const MAX_ASK_MS = 5000;
const REDIAL_MS = 5000;

export type JoinFailure = Extract<JoinResult, { ok: false }>;

interface AdminContact {
  readonly nodeId: Uint8Array;
  readonly staticKey: Uint8Array;
  readonly hex: string;
  isUp: boolean;
  /** Next request while up, next dial while down; monotonic. */
  dueMs: number;
  waitMs: number;
  refusal: JoinFailure | undefined;
}

export type JoinStep =
  | {
      readonly kind: "dial";
      readonly nodeId: Uint8Array;
      readonly staticKey: Uint8Array;
      readonly inviteId: Uint8Array;
    }
  | {
      readonly kind: "send";
      readonly nodeId: Uint8Array;
      readonly staticKey: Uint8Array;
      readonly message: ControlMessage;
    }
  | { readonly kind: "progress"; readonly text: string }
  | { readonly kind: "failed"; readonly failure: JoinFailure };

export interface JoinAttemptDeps {
  readonly keys: MeshKeys;
  readonly nodeId: Uint8Array;
  readonly token: InviteToken;
}

export class JoinAttempt {
  readonly token: InviteToken;
  readonly inviteId: Uint8Array;
  phase: "dialing" | "asking" | "syncing" = "dialing";
  /** Hash of this node's admission, once an admin has named it. */
  admission: Uint8Array | undefined;
  readonly #nodeId: Uint8Array;
  readonly #options: JoinOptions;
  readonly #timeoutMs: number;
  readonly #signer: Signer;
  readonly #proof: Uint8Array;
  readonly #contacts = new Map<string, AdminContact>();
  #deadlineMs: number;
  /** What was last said about waiting; a person reads every line once. */
  #waitText = "";
  /** An admin has to decide. */
  #isPending = false;

  /** @param options.name a valid name */
  constructor(deps: JoinAttemptDeps, options: JoinOptions, timeoutMs: number, now: Now) {
    this.token = deps.token;
    this.#nodeId = deps.nodeId;
    this.#options = options;
    this.#timeoutMs = timeoutMs;
    this.#signer = deps.keys.signerFromSeed(deps.token.seed);
    this.inviteId = inviteIdOf(this.#signer.nodeId);
    this.#proof = this.#signer.sign(SignKind.JOIN, deps.token.networkId, joinProofBody(deps.nodeId, options.name));
    this.#deadlineMs = now.nowMs + timeoutMs;
    for (const admin of deps.token.admins) {
      const staticKey = deps.keys.staticKeyOf(admin.nodeId);
      if (staticKey === undefined) continue;
      const hex = toHex(staticKey);
      this.#contacts.set(hex, {
        nodeId: admin.nodeId,
        staticKey,
        hex,
        isUp: false,
        dueMs: now.nowMs,
        waitMs: FIRST_ASK_MS,
        refusal: undefined,
      });
    }
  }

  get name(): string {
    return this.#options.name;
  }

  /** @returns the node id of the token's admin with that key, or undefined when the token names no such admin */
  adminOf(staticHex: string): Uint8Array | undefined {
    return this.#contacts.get(staticHex)?.nodeId;
  }

  peerUp(now: Now, staticHex: string): void {
    const contact = this.#contacts.get(staticHex);
    if (contact === undefined) return;
    contact.isUp = true;
    contact.dueMs = now.nowMs;
    contact.waitMs = FIRST_ASK_MS;
    if (this.phase === "dialing") this.phase = "asking";
  }

  peerDown(now: Now, staticHex: string): void {
    const contact = this.#contacts.get(staticHex);
    if (contact === undefined) return;
    contact.isUp = false;
    contact.dueMs = now.nowMs + REDIAL_MS;
  }

  nextTimeout(): number {
    let next = this.#deadlineMs;
    for (const contact of this.#contacts.values()) {
      if (!contact.isUp || (this.phase !== "syncing" && contact.refusal === undefined))
        next = Math.min(next, contact.dueMs);
    }
    return next;
  }

  handleTimeout(now: Now): JoinStep[] {
    if (now.nowMs >= this.#deadlineMs) return [{ kind: "failed", failure: this.#timedOut() }];
    const steps: JoinStep[] = [];
    for (const contact of this.#contacts.values()) {
      if (now.nowMs < contact.dueMs) continue;
      const { nodeId, staticKey } = contact;
      if (!contact.isUp) {
        contact.dueMs = now.nowMs + REDIAL_MS;
        steps.push({ kind: "dial", nodeId, staticKey, inviteId: this.inviteId });
      } else if (this.phase !== "syncing" && contact.refusal === undefined) {
        contact.dueMs = now.nowMs + contact.waitMs;
        contact.waitMs = Math.min(MAX_ASK_MS, contact.waitMs * 1.5);
        if (!this.#isPending) steps.push(...this.#progress("an admin is connected; waiting for its decision"));
        steps.push({ kind: "send", nodeId, staticKey, message: this.#request(now) });
      }
    }
    return steps;
  }

  /** @returns what to do next; empty for an answer that changes nothing */
  handleAnswer(now: Now, staticHex: string, answer: Extract<ControlMessage, { type: "answer" }>): JoinStep[] {
    const contact = this.#contacts.get(staticHex);
    if (contact === undefined || this.phase === "syncing") return [];
    // a late answer to an earlier attempt with another token
    if (answer.inviteId !== undefined && !equal(answer.inviteId, this.inviteId)) return [];
    if (answer.ok) {
      this.phase = "syncing";
      this.admission = answer.admission;
      this.#deadlineMs = now.nowMs + this.#timeoutMs;
      return [{ kind: "progress", text: "admitted; fetching the roster" }];
    }
    const { text, remedy, details } = answer;
    if (answer.code === JoinCode.PENDING) {
      this.#isPending = true;
      // as long as somebody may still decide
      const leftMs = Math.max(0, this.token.expiresAtMs - now.wallMs);
      this.#deadlineMs = now.nowMs + Math.min(this.#timeoutMs, leftMs);
      return this.#progress(`${text}; ${remedy}`);
    }
    // the beacon may reach an admin in a moment
    if (answer.code === JoinCode.NO_ADMIN) return this.#progress(`${text}; ${remedy}`);
    contact.refusal = { ok: false, code: knownCode(answer.code), text, remedy, details };
    // another admin may know better what this one cannot decide
    const isFinal = answer.code !== JoinCode.NOT_ADMIN && answer.code !== JoinCode.UNKNOWN_INVITE;
    const allRefused = [...this.#contacts.values()].every((one) => one.refusal !== undefined);
    return isFinal || allRefused ? [{ kind: "failed", failure: contact.refusal }] : [];
  }

  #progress(text: string): JoinStep[] {
    if (text === this.#waitText) return [];
    this.#waitText = text;
    return [{ kind: "progress", text }];
  }

  #request(now: Now): ControlMessage {
    return {
      type: "join",
      networkId: this.token.networkId,
      nodeId: this.#nodeId,
      name: this.#options.name,
      exactName: this.#options.exactName === true,
      inviteId: this.inviteId,
      wallMs: Math.max(0, Math.floor(now.wallMs)),
      signature: this.#proof,
    };
  }

  #timedOut(): JoinFailure {
    for (const contact of this.#contacts.values()) if (contact.refusal !== undefined) return contact.refusal;
    const seconds = Math.round(this.#timeoutMs / 1000);
    if (this.phase === "syncing") {
      return failure(
        JoinCode.BAD_ROSTER,
        `admitted, but the roster did not come whole within ${seconds} s`,
        "try again with the same token",
      );
    }
    if (this.#isPending) {
      return failure(
        JoinCode.NO_ADMIN,
        "no admin has decided about the request while the invite was valid, or the admin is gone",
        "ask an admin for another token, and to run `weft approve` while this node waits",
      );
    }
    if (this.phase === "asking") {
      return failure(
        JoinCode.NO_ADMIN,
        `an admin was connected but did not answer within ${seconds} s`,
        "look at the admin's log, then try again",
      );
    }
    const count = this.#contacts.size;
    return failure(
      JoinCode.NO_ADMIN,
      `no admin reachable: ${count === 1 ? "the admin named in the token did not answer" : `none of the ${count} admins named in the token answered`} within ${seconds} s`,
      "check that the admin's weft is up, that UDP reaches it, and that both clocks are right",
    );
  }
}

export function failure(code: JoinCode, text: string, remedy: string): JoinFailure {
  return { ok: false, code, text, remedy, details: {} };
}

/** Codes of later versions keep their text and count as a refusal. */
function knownCode(code: string): JoinCode {
  return Object.values(JoinCode).find((known) => known === code) ?? JoinCode.REFUSED;
}
