/**
 * The replicated task lists as the API sees them: spaces of the kind TASKS. Claims of this node that are of no use any more are withdrawn once a
 * minute and when news come. Source: docs/guide.md, "Task lists".
 */
import type { TasksControl, TaskView } from "../../api/messaging/tasks-control.ts";
import { equal } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { SpaceKind } from "../../messaging/kv/entry.ts";
import type { Space } from "../../messaging/kv/space.ts";
import { type Task, TaskList } from "../../messaging/tasks/task-list.ts";
import { spaceView, unknownSpace } from "./kv.ts";
import type { PartContext } from "./part.ts";
import type { Spaces } from "./spaces.ts";

const TIDY_MS = 60_000;
/** News come in bursts. */
const TIDY_SOON_MS = 1_000;

export class TaskLists {
  readonly control: TasksControl;
  readonly #context: PartContext;
  readonly #spaces: Spaces;
  /** One for each open space, which are bounded. */
  readonly #lists = new Map<Space, TaskList>();
  readonly #stopListening: () => void;
  #cancelTidy: (() => void) | undefined;
  #tidyAtMs = Infinity;

  constructor(context: PartContext, spaces: Spaces) {
    this.#context = context;
    this.#spaces = spaces;
    this.#stopListening = spaces.onChange((space, entry) => {
      const list = this.#lists.get(space);
      if (list === undefined) return;
      list.changed(entry);
      this.#tidyLater(TIDY_SOON_MS);
    });
    this.control = this.#createControl();
  }

  /** Lists that were open before the restart go on. */
  start(): void {
    this.#tidyLater(TIDY_MS);
  }

  close(): void {
    this.#cancelTidy?.();
    this.#stopListening();
  }

  #createControl(): TasksControl {
    const { clock } = this.#context;
    const wallMs = (): number => clock.now().wallMs;
    const done = async (task: Task, agent: string): Promise<TaskView> => {
      await this.#spaces.flush();
      return this.#view(task, agent);
    };
    return {
      lists: () => this.#spaces.replicas.spaces(SpaceKind.TASKS).map(spaceView),
      list: async (name, agent) => (await this.#open(name)).list(wallMs()).map((task) => this.#view(task, agent)),
      get: async (name, id, agent) => this.#view((await this.#open(name)).find(id, wallMs()), agent),
      add: async (name, title, body, agent) => {
        const list = await this.#open(name);
        return done(list.add(clock.now(), title, body), agent);
      },
      edit: async (name, id, title, body, agent) => {
        const list = await this.#open(name);
        const task = list.find(id, wallMs());
        return done(list.edit(clock.now(), task, title ?? task.title, body ?? task.body), agent);
      },
      remove: async (name, id) => {
        const list = await this.#open(name);
        const task = list.find(id, wallMs());
        list.remove(clock.now(), task);
        return done(task, "");
      },
      claim: (name, id, agent, forMs, settleMs) => this.#claim(name, id, agent, forMs, settleMs),
      release: async (name, id, agent) => {
        const list = await this.#open(name);
        return done(list.release(clock.now(), list.find(id, wallMs()), agent), agent);
      },
      finish: async (name, id, agent, state, result) => {
        const list = await this.#open(name);
        return done(list.finish(clock.now(), list.find(id, wallMs()), agent, state, result), agent);
      },
      close: async (name) => {
        const space = this.#spaces.replicas.find(SpaceKind.TASKS, name);
        if (space === undefined) throw unknownSpace(name);
        const last = spaceView(space);
        this.#lists.delete(space);
        await this.#spaces.closeSpace(space);
        return last;
      },
      watch: async (name, agent, listener) => {
        const list = await this.#open(name);
        return this.#spaces.onChange((space, entry) => {
          if (space !== list.space) return;
          const id = list.changed(entry);
          if (id === undefined) return;
          const task = list.get(id, wallMs());
          listener({ id, task: task === undefined ? null : this.#view(task, agent) });
        });
      },
    };
  }

  async #claim(
    name: string,
    id: string | undefined,
    agent: string,
    forMs: number,
    settleMs: number,
  ): Promise<TaskView> {
    const { clock } = this.#context;
    const list = await this.#open(name);
    const { wallMs } = clock.now();
    const wanted =
      id === undefined
        ? list.list(wallMs).find((task) => task.state === "open" && task.claim === undefined)
        : list.find(id, wallMs);
    if (wanted === undefined)
      throw new WeftError("TASK_NONE", `no open task of "${name}" is free`, "wait for one: weft tasks watch");
    const claimed = list.claim(clock.now(), wanted, agent, forMs);
    await this.#spaces.flush();
    if (settleMs > 0 && this.#context.members().length > 1) {
      await new Promise<void>((resolve) => void clock.schedule(clock.now().nowMs + settleMs, resolve));
      const now = list.get(claimed.id, clock.now().wallMs);
      if (now === undefined || !this.#isMine(now, agent)) {
        list.tidy(clock.now());
        await this.#spaces.flush();
        throw new WeftError("TASK_CLAIMED", "another one claimed the task a moment earlier", "take another task");
      }
    }
    return this.#view(claimed, agent);
  }

  async #open(name: string): Promise<TaskList> {
    return this.#listOf(await this.#spaces.open(SpaceKind.TASKS, name));
  }

  #listOf(space: Space): TaskList {
    let list = this.#lists.get(space);
    if (list === undefined) {
      const { identity, random } = this.#context;
      list = new TaskList({ replicas: this.#spaces.replicas, random, nodeId: identity.nodeId }, space);
      this.#lists.set(space, list);
    }
    return list;
  }

  #tidyLater(inMs: number): void {
    const { clock } = this.#context;
    const atMs = clock.now().nowMs + inMs;
    if (atMs >= this.#tidyAtMs) return;
    this.#cancelTidy?.();
    this.#tidyAtMs = atMs;
    this.#cancelTidy = clock.schedule(atMs, () => {
      this.#tidyAtMs = Infinity;
      try {
        if (this.#spaces.counters === undefined) return this.#tidyLater(TIDY_MS);
        for (const space of this.#spaces.replicas.spaces(SpaceKind.TASKS)) this.#listOf(space).tidy(clock.now());
        this.#spaces.flushSoon();
      } catch (error) {
        this.#context.log.warn(
          `claims could not be withdrawn: ${error instanceof Error ? error.message : String(error)}`,
        );
      }
      this.#tidyLater(TIDY_MS);
    });
  }

  #isMine(task: Task, agent: string): boolean {
    const { claim } = task;
    return claim !== undefined && claim.agent === agent && equal(claim.nodeId, this.#context.identity.nodeId);
  }

  #view(task: Task, agent: string): TaskView {
    const { claim } = task;
    return {
      id: task.id,
      title: task.title,
      body: task.body,
      state: task.state,
      result: task.result,
      finishedBy: task.stateBy === undefined || task.state === "open" ? null : this.#spaces.nodeRef(task.stateBy),
      claim:
        claim === undefined
          ? null
          : {
              node: this.#spaces.nodeRef(claim.nodeId),
              agent: claim.agent,
              until: new Date(claim.untilMs).toISOString(),
              mine: this.#isMine(task, agent),
            },
      author: this.#spaces.nodeRef(task.author),
      changedAt: new Date(task.changedAtMs).toISOString(),
    };
  }
}
