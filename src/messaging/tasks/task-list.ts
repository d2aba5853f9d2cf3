/**
 * A task list: add, change, remove, claim for a time, finish. A view on a replicated space (entries.ts) that keeps only an index of its own.
 *
 * Who holds a task: of all claims that have not ended, the one with the smallest (since, author, agent). Two nodes that claim at the same time
 * both believe for as long as news take that they hold it; then both agree, and the one that does not hold it withdraws (tidy()). A claim that
 * is not renewed ends by itself, and the next one holds. So work on a task must bear being done twice, or begin after settling.
 * Source: docs/protocol.md, "Task lists".
 */
import { compare, toHex } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import { hlcFromWall, wallFromHlc } from "../../mesh/statement.ts";
import type { Entry } from "../kv/entry.ts";
import type { Replicas } from "../kv/replicas.ts";
import type { Space } from "../kv/space.ts";
import {
  claimKey,
  encodeClaim,
  encodeState,
  encodeTag,
  isAgentName,
  MAX_BODY_CHARACTERS,
  MAX_CLAIM_MS,
  MAX_RESULT_CHARACTERS,
  MAX_SINCE_MS,
  MAX_TITLE_CHARACTERS,
  readClaim,
  readState,
  readTag,
  readTaskKey,
  stateKey,
  tagKey,
  type TaskState,
} from "./entries.ts";

export interface TaskClaim {
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  readonly agent: string;
  readonly since: number;
  readonly untilMs: number;
}

export interface Task {
  /** 16 hexadecimal digits */
  readonly id: string;
  readonly title: string;
  readonly body: string;
  readonly state: TaskState;
  readonly result: string;
  /** Who set the state; undefined while nobody has. */
  readonly stateBy: Uint8Array | undefined;
  readonly claim: TaskClaim | undefined;
  /** Who gave it its present text. */
  readonly author: Uint8Array;
  readonly changedAtMs: number;
}

/** Keys of what is known about one task. */
interface Indexed {
  readonly tags: Set<string>;
  readonly claims: Set<string>;
}

export interface TaskListDeps {
  readonly replicas: Pick<Replicas, "write" | "tick">;
  readonly random: Random;
  /** 32 bytes, this node's */
  readonly nodeId: Uint8Array;
}

export class TaskList {
  readonly space: Space;
  readonly #deps: TaskListDeps;
  readonly #authorHex: string;
  /** As large as the space, which is bounded. */
  readonly #index = new Map<string, Indexed>();

  constructor(deps: TaskListDeps, space: Space) {
    this.#deps = deps;
    this.space = space;
    this.#authorHex = toHex(deps.nodeId);
    for (const entry of space.map.entries()) this.changed(entry);
  }

  /** An entry of the space was written, here or elsewhere. @returns the task it is about */
  changed(entry: Entry): string | undefined {
    const key = readTaskKey(entry.key);
    if (key === undefined) return undefined;
    if (key.kind === "state") return key.task;
    let indexed = this.#index.get(key.task);
    if (indexed === undefined) this.#index.set(key.task, (indexed = { tags: new Set(), claims: new Set() }));
    const keys = key.kind === "tag" ? indexed.tags : indexed.claims;
    if (entry.value === undefined) keys.delete(entry.key);
    else keys.add(entry.key);
    if (indexed.tags.size + indexed.claims.size === 0) this.#index.delete(key.task);
    return key.task;
  }

  list(wallMs: number): Task[] {
    const tasks: Task[] = [];
    for (const id of this.#index.keys()) {
      const task = this.get(id, wallMs);
      if (task !== undefined) tasks.push(task);
    }
    return tasks.toSorted((a, b) => a.changedAtMs - b.changedAtMs || (a.id < b.id ? -1 : 1));
  }

  get(id: string, wallMs: number): Task | undefined {
    let text: Entry | undefined;
    for (const key of this.#index.get(id)?.tags ?? []) {
      const entry = this.space.map.get(key);
      if (entry?.value === undefined) continue;
      if (text === undefined || entry.hlc > text.hlc || (entry.hlc === text.hlc && entry.key > text.key)) text = entry;
    }
    const tag = text?.value === undefined ? undefined : readTag(text.value);
    if (text === undefined || tag === undefined) return undefined;
    const register = this.space.map.get(stateKey(id));
    const state = register?.value === undefined ? undefined : readState(register.value);
    const isOpen = state === undefined || state.state === "open";
    return {
      id,
      ...tag,
      state: state?.state ?? "open",
      result: state?.result ?? "",
      stateBy: state === undefined ? undefined : register?.author,
      claim: isOpen ? this.#holder(id, wallMs) : undefined,
      author: text.author,
      changedAtMs: wallFromHlc(Math.max(text.hlc, register?.hlc ?? 0)),
    };
  }

  /** @param prefix at least 4 digits of an id @throws WeftError TASK_UNKNOWN, TASK_AMBIGUOUS */
  find(prefix: string, wallMs: number): Task {
    const text = prefix.toLowerCase();
    const found = /^[0-9a-f]{4,16}$/.test(text)
      ? [...this.#index.keys()]
          .filter((id) => id.startsWith(text))
          .map((id) => this.get(id, wallMs))
          .filter((task) => task !== undefined)
      : [];
    if (found.length > 1) {
      throw new WeftError("TASK_AMBIGUOUS", `${found.length} tasks begin with "${prefix}"`, "give more of the id");
    }
    if (found.length === 0) {
      throw new WeftError("TASK_UNKNOWN", `no task "${prefix}" in "${this.space.name}"`, "see weft tasks");
    }
    return found[0];
  }

  /** @throws WeftError TASK_TOO_LONG, SPACE_FULL */
  add(now: Now, title: string, body: string): Task {
    const id = toHex(this.#deps.random.bytes(8));
    this.#writeTag(now, id, title, body);
    return this.get(id, now.wallMs)!;
  }

  /** Replaces the text. What others changed at the same time stays beside it; the latest shows. */
  edit(now: Now, task: Task, title: string, body: string): Task {
    const before = [...(this.#index.get(task.id)?.tags ?? [])];
    this.#writeTag(now, task.id, title, body);
    for (const key of before) this.#write(now, key, undefined);
    return this.get(task.id, now.wallMs)!;
  }

  remove(now: Now, task: Task): void {
    const indexed = this.#index.get(task.id);
    const own = [...(indexed?.claims ?? [])].filter((key) => this.#isOwn(key));
    for (const key of [...(indexed?.tags ?? []), ...own]) this.#write(now, key, undefined);
    if (this.space.map.get(stateKey(task.id))?.value !== undefined) this.#write(now, stateKey(task.id), undefined);
  }

  /**
   * Claims, or renews the claim.
   * @param agent who on this node @param forMs at most MAX_CLAIM_MS
   * @throws WeftError TASK_CLAIMED by somebody else, TASK_CLOSED, AGENT_INVALID
   */
  claim(now: Now, task: Task, agent: string, forMs: number): Task {
    if (task.state !== "open") {
      throw new WeftError("TASK_CLOSED", `the task is ${task.state}`, "open it again first: weft tasks reopen");
    }
    if (!isAgentName(agent)) {
      throw new WeftError("AGENT_INVALID", `"${agent}" cannot claim a task`, "use a name of 1 to 64 of a-z 0-9 . _ -");
    }
    this.#refuseOthers(task, agent);
    const held = task.claim?.since ?? 0;
    const since = held > hlcFromWall(now.wallMs - MAX_SINCE_MS / 2) ? held : this.#deps.replicas.tick(now);
    const untilMs = Math.floor(now.wallMs + Math.min(forMs, MAX_CLAIM_MS));
    this.#write(now, claimKey(task.id, this.#authorHex, agent), encodeClaim({ since, untilMs }));
    return this.get(task.id, now.wallMs)!;
  }

  /** Gives the claim back. */
  release(now: Now, task: Task, agent: string): Task {
    const key = claimKey(task.id, this.#authorHex, agent);
    if (this.space.map.get(key)?.value !== undefined) this.#write(now, key, undefined);
    return this.get(task.id, now.wallMs) ?? task;
  }

  /** Says what became of it. @throws WeftError TASK_CLAIMED by somebody else, TASK_TOO_LONG */
  finish(now: Now, task: Task, agent: string, state: TaskState, result: string): Task {
    if (result.length > MAX_RESULT_CHARACTERS) throw tooLong("result", MAX_RESULT_CHARACTERS);
    this.#refuseOthers(task, agent);
    this.#write(
      now,
      stateKey(task.id),
      encodeState({ state, result: result.toWellFormed(), agent: agent.toWellFormed() }),
    );
    return this.release(now, task, agent);
  }

  /** Withdraws claims of this node that are of no use any more: ended, not holding, or of a task that is closed or gone. */
  tidy(now: Now): void {
    for (const [id, { claims }] of this.#index) {
      for (const key of claims) {
        if (!this.#isOwn(key)) continue;
        const task = this.get(id, now.wallMs);
        const holder = task?.claim;
        const agent = key.slice(key.lastIndexOf("/") + 1);
        const holds = holder !== undefined && toHex(holder.nodeId) === this.#authorHex && holder.agent === agent;
        if (!holds) this.#write(now, key, undefined);
      }
    }
  }

  #holder(id: string, wallMs: number): TaskClaim | undefined {
    let first: TaskClaim | undefined;
    for (const key of this.#index.get(id)?.claims ?? []) {
      const entry = this.space.map.get(key);
      const claim = entry?.value === undefined ? undefined : readClaim(entry.value);
      if (entry === undefined || claim === undefined || claim.untilMs <= wallMs) continue;
      const one = { nodeId: entry.author, agent: key.slice(key.lastIndexOf("/") + 1), ...claim };
      if (first === undefined || isBefore(one, first)) first = one;
    }
    return first;
  }

  #refuseOthers(task: Task, agent: string): void {
    const { claim } = task;
    if (claim === undefined || (toHex(claim.nodeId) === this.#authorHex && claim.agent === agent)) return;
    throw new WeftError(
      "TASK_CLAIMED",
      `the task is claimed by another until ${new Date(claim.untilMs).toISOString()}`,
      "take another task, or wait until the claim ends",
    );
  }

  #isOwn(claim: string): boolean {
    const key = readTaskKey(claim);
    return key?.kind === "claim" && key.author === this.#authorHex;
  }

  #writeTag(now: Now, id: string, title: string, body: string): void {
    if (title === "" || title.length > MAX_TITLE_CHARACTERS) throw tooLong("title", MAX_TITLE_CHARACTERS);
    if (body.length > MAX_BODY_CHARACTERS) throw tooLong("body", MAX_BODY_CHARACTERS);
    const key = tagKey(id, this.#authorHex, toHex(this.#deps.random.bytes(8)));
    this.#write(now, key, encodeTag({ title: title.toWellFormed(), body: body.toWellFormed() }));
  }

  #write(now: Now, key: string, value: Uint8Array | undefined): void {
    this.changed(this.#deps.replicas.write(now, this.space, key, value));
  }
}

function isBefore(a: TaskClaim, b: TaskClaim): boolean {
  if (a.since !== b.since) return a.since < b.since;
  const order = compare(a.nodeId, b.nodeId);
  return order === 0 ? a.agent < b.agent : order < 0;
}

function tooLong(what: string, most: number): WeftError {
  return new WeftError(
    "TASK_TOO_LONG",
    `a ${what} has at most ${most} characters, and a title at least one`,
    "shorten it",
  );
}
