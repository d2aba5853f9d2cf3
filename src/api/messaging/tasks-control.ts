/** What the local API may ask of the replicated task lists. Fields may be added, never renamed. */
import type { SpaceView } from "./kv-control.ts";

export interface TaskView {
  /** 16 hexadecimal digits; commands take the first 4 or more. */
  readonly id: string;
  readonly title: string;
  readonly body: string;
  readonly state: "open" | "done" | "failed";
  /** What whoever finished it left; empty while it is open. */
  readonly result: string;
  readonly finishedBy: { readonly id: string; readonly name: string } | null;
  /** Who works on it. */
  readonly claim: {
    readonly node: { readonly id: string; readonly name: string };
    readonly agent: string;
    /** RFC 3339; it ends then unless it is renewed. */
    readonly until: string;
    /** This node and the agent that asks. */
    readonly mine: boolean;
  } | null;
  readonly author: { readonly id: string; readonly name: string };
  /** RFC 3339, by its author's clock */
  readonly changedAt: string;
}

export interface TaskEvent {
  readonly id: string;
  /** null: removed */
  readonly task: TaskView | null;
}

/**
 * A list is replicated by the nodes on which it was used; its first use opens it. `agent` is who acts on this node. Every method may throw
 * WeftError NOT_READY, SPACE_NAME, SPACES_FULL; those that take an id TASK_UNKNOWN, TASK_AMBIGUOUS.
 */
export interface TasksControl {
  lists(): readonly SpaceView[];
  list(list: string, agent: string): Promise<readonly TaskView[]>;
  get(list: string, id: string, agent: string): Promise<TaskView>;
  /** @throws WeftError TASK_TOO_LONG, SPACE_FULL */
  add(list: string, title: string, body: string, agent: string): Promise<TaskView>;
  /** @param title undefined: stays @param body undefined: stays */
  edit(list: string, id: string, title: string | undefined, body: string | undefined, agent: string): Promise<TaskView>;
  remove(list: string, id: string): Promise<TaskView>;
  /**
   * Claims the task, or renews the claim, and waits `settleMs` for the claims of others.
   * @param id undefined: the oldest open task that nobody has claimed
   * @throws WeftError TASK_CLAIMED (also when another one turns out to have been first), TASK_CLOSED, TASK_NONE
   */
  claim(list: string, id: string | undefined, agent: string, forMs: number, settleMs: number): Promise<TaskView>;
  release(list: string, id: string, agent: string): Promise<TaskView>;
  /** @throws WeftError TASK_CLAIMED by another */
  finish(list: string, id: string, agent: string, state: "open" | "done" | "failed", result: string): Promise<TaskView>;
  /** This node does not replicate the list any more. @throws WeftError SPACE_UNKNOWN */
  close(list: string): Promise<SpaceView>;
  /** @returns stops it */
  watch(list: string, agent: string, listener: (event: TaskEvent) => void): Promise<() => void>;
}
