/** What the local API may ask of agents. Fields may be added, never renamed. */

interface NodeRef {
  readonly id: string;
  readonly name: string;
}

export interface AgentView {
  /** "a1…" */
  readonly id: string;
  readonly name: string;
  /** Where it lives; null = this node. */
  readonly movedTo: NodeRef | null;
  /** RFC 3339; renewed before. */
  readonly leaseUntil: string;
  readonly access: {
    /** Everybody may write to it. */
    readonly open: boolean;
    /** Names or ids of nodes and ids of agents that may, when it is not open. */
    readonly allowed: readonly string[];
  };
}

/** An agent of another node. */
export interface AgentPlaceView {
  readonly id: string;
  /** As its node calls it; empty = not known. */
  readonly name: string;
  readonly node: NodeRef;
  /** RFC 3339 */
  readonly leaseUntil: string;
}

/** Every method may throw WeftError NOT_READY; those that take a name AGENT_UNKNOWN. */
export interface AgentsControl {
  agents(): readonly AgentView[];
  /** Those of other nodes that this node has heard of. */
  known(): readonly AgentPlaceView[];
  /** @throws WeftError AGENT_NAME, AGENT_EXISTS, AGENTS_FULL */
  create(name: string): Promise<AgentView>;
  remove(name: string): Promise<AgentView>;
  /** @param allowed nodes, or agents as ids or NAME@NODE @throws WeftError NODE_UNKNOWN, AGENT_ACCESS_FULL */
  setAccess(name: string, open: boolean, allowed: readonly string[]): Promise<AgentView>;
  /** Its secret: whoever has it can take the agent to another node. */
  export(name: string): string;
  /** It lives here from now on, and the node that had it stops as soon as it hears of that. @throws WeftError AGENT_SECRET and those of create() */
  import(name: string, secret: string): Promise<AgentView>;
  /** @param agent id or NAME@NODE @throws WeftError AGENT_UNKNOWN when nobody knew within a few seconds */
  find(agent: string): Promise<AgentPlaceView>;
}
