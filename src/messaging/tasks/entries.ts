/**
 * How a task list lies in a replicated space. A task is an element of an observed-remove set (Shapiro and others, 2011): it is there while one of its
 * tags is; removing it deletes the tags that the remover knew, so that a change made at the same time survives the removal.
 *
 *   t/TASK/AUTHOR.NONCE   a tag: {t: title, b: body}              its author alone gives it a value, everybody may delete it
 *   c/TASK/AUTHOR/AGENT   a claim: {s: since hlc, u: until ms}    its author alone
 *   d/TASK                what became of it: {s: state, r: result, a: agent}
 *
 * TASK and NONCE are 16 hexadecimal digits, AUTHOR 64, AGENT a name of 1–64 characters. Values are CBOR.
 * Source: docs/protocol.md, "Task lists".
 */
import { toHex } from "../../base/bytes.ts";
import { asMap, asText, asUint, decodeCbor, encodeCbor } from "../../mesh/cbor.ts";
import { MAX_HLC, wallFromHlc } from "../../mesh/statement.ts";
import type { Entry } from "../kv/entry.ts";

export const MAX_TITLE_CHARACTERS = 512;
export const MAX_BODY_CHARACTERS = 12_000;
export const MAX_RESULT_CHARACTERS = 12_000;
/** A claim ends at most this long after it was last renewed. */
export const MAX_CLAIM_MS = 86_400_000;
/** A row of renewals counts from its first claim so long; then it counts anew. */
export const MAX_SINCE_MS: number = 30 * 86_400_000;
const MAX_BYTES = 49_152;

export interface TagValue {
  readonly title: string;
  readonly body: string;
}

export interface ClaimValue {
  /** Stamp of the first claim of an unbroken row of them. */
  readonly since: number;
  /** Wall-clock milliseconds. */
  readonly untilMs: number;
}

export const TASK_STATES = ["open", "done", "failed"] as const;
export type TaskState = (typeof TASK_STATES)[number];

export interface StateValue {
  readonly state: TaskState;
  readonly result: string;
  readonly agent: string;
}

export type TaskKey =
  | { readonly kind: "tag"; readonly task: string; readonly author: string }
  | { readonly kind: "claim"; readonly task: string; readonly author: string; readonly agent: string }
  | { readonly kind: "state"; readonly task: string };

const TAG = /^t\/([0-9a-f]{16})\/([0-9a-f]{64})\.[0-9a-f]{16}$/;
const CLAIM = /^c\/([0-9a-f]{16})\/([0-9a-f]{64})\/([a-z0-9][a-z0-9._-]{0,63})$/;
const STATE = /^d\/([0-9a-f]{16})$/;

export function readTaskKey(key: string): TaskKey | undefined {
  const tag = TAG.exec(key);
  if (tag !== null) return { kind: "tag", task: tag[1], author: tag[2] };
  const claim = CLAIM.exec(key);
  if (claim !== null) return { kind: "claim", task: claim[1], author: claim[2], agent: claim[3] };
  const state = STATE.exec(key);
  return state === null ? undefined : { kind: "state", task: state[1] };
}

export function isAgentName(name: string): boolean {
  return /^[a-z0-9][a-z0-9._-]{0,63}$/.test(name);
}

export function tagKey(task: string, author: string, nonce: string): string {
  return `t/${task}/${author}.${nonce}`;
}

export function claimKey(task: string, author: string, agent: string): string {
  return `c/${task}/${author}/${agent}`;
}

export function stateKey(task: string): string {
  return `d/${task}`;
}

export function encodeTag(value: TagValue): Uint8Array {
  return encodeCbor({ t: value.title, b: value.body });
}

export function encodeClaim(value: ClaimValue): Uint8Array {
  return encodeCbor({ s: value.since, u: value.untilMs });
}

export function encodeState(value: StateValue): Uint8Array {
  return encodeCbor({ s: value.state, r: value.result, a: value.agent });
}

export function readTag(bytes: Uint8Array): TagValue | undefined {
  const map = asMap(decodeCbor(bytes, MAX_BYTES));
  const title = asText(map?.["t"], MAX_TITLE_CHARACTERS);
  const body = asText(map?.["b"], MAX_BODY_CHARACTERS);
  return title === undefined || body === undefined ? undefined : { title, body };
}

export function readClaim(bytes: Uint8Array): ClaimValue | undefined {
  const map = asMap(decodeCbor(bytes, MAX_BYTES));
  const since = asUint(map?.["s"], MAX_HLC);
  const untilMs = asUint(map?.["u"]);
  return since === undefined || untilMs === undefined ? undefined : { since, untilMs };
}

export function readState(bytes: Uint8Array): StateValue | undefined {
  const map = asMap(decodeCbor(bytes, MAX_BYTES));
  const state = TASK_STATES.find((one) => one === map?.["s"]);
  const result = asText(map?.["r"], MAX_RESULT_CHARACTERS);
  const agent = asText(map?.["a"], 64);
  return state === undefined || result === undefined || agent === undefined ? undefined : { state, result, agent };
}

/** May this entry be in a task list? The same on every replica, because it is judged from the entry alone. */
export function isTaskEntry(entry: Entry): boolean {
  const key = readTaskKey(entry.key);
  if (key === undefined) return false;
  const isOwn = key.kind === "state" || key.author === toHex(entry.author);
  if (entry.value === undefined) return key.kind !== "claim" || isOwn;
  if (!isOwn) return false;
  if (key.kind === "tag") return readTag(entry.value) !== undefined;
  if (key.kind === "state") return readState(entry.value) !== undefined;
  const claim = readClaim(entry.value);
  if (claim === undefined) return false;
  const madeMs = wallFromHlc(entry.hlc);
  const isRecent = claim.since <= entry.hlc && wallFromHlc(claim.since) >= madeMs - MAX_SINCE_MS;
  return isRecent && claim.untilMs <= madeMs + MAX_CLAIM_MS;
}
