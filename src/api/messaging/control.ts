/**
 * What the local API may ask of the messaging of a node. Each part has its own interface in <part>-control.ts; it is undefined on a node
 * that runs without that part. The views are the contract of `--json`: fields may be added, never renamed.
 */
import type { AgentsControl } from "./agents-control.ts";
import type { DirectControl } from "./direct-control.ts";
import type { ExecControl } from "./exec-control.ts";
import type { FilesControl } from "./files-control.ts";
import type { ForwardsControl } from "./forwards-control.ts";
import type { GroupsControl } from "./groups-control.ts";
import type { HistoryControl } from "./history-control.ts";
import type { KvControl } from "./kv-control.ts";
import type { PresenceControl } from "./presence-control.ts";
import type { PubSubControl } from "./pubsub-control.ts";
import type { TasksControl } from "./tasks-control.ts";

/** One thing that is known about delivery to a peer; parts add theirs with figures. */
export interface DeliveryFact {
  /** Who says so: "member", "session", "links", "direct", "pubsub", … */
  readonly part: string;
  /** Where on the way: "open", "write", "admit", "commit", "answer", … */
  readonly stage: string;
  readonly ok: boolean;
  /** Stable, lower case: "no-session", "queue-full", "cooled", "busy", "blocked", … */
  readonly code: string;
  readonly text: string;
  /** Empty when nothing has to be done. */
  readonly remedy: string;
  /** With units in the names: queuedBytes, p95Ms, … */
  readonly figures: Readonly<Record<string, number>>;
}

/** Why messages do, or do not, get to a peer. */
export interface DeliveryView {
  readonly peer: { readonly id: string; readonly name: string };
  /** False when one of the facts keeps messages from arriving. */
  readonly delivers: boolean;
  /** The first fact that is not ok, or that all is well. */
  readonly verdict: { readonly code: string; readonly text: string; readonly remedy: string };
  /** In the order of the way: membership, session, links, then the parts. */
  readonly facts: readonly DeliveryFact[];
}

export interface MessagingControl {
  /** @param peer name, id or overlay address @throws WeftError NODE_UNKNOWN */
  delivery(peer: string): DeliveryView | Promise<DeliveryView>;
  /** What every part says about itself, by its name. */
  diagnostics(): Readonly<Record<string, unknown>>;
  readonly agents?: AgentsControl | undefined;
  readonly direct?: DirectControl | undefined;
  readonly files?: FilesControl | undefined;
  /** Programs of other nodes. */
  readonly exec?: ExecControl | undefined;
  /** Forwards and SOCKS proxies. */
  readonly forwards?: ForwardsControl | undefined;
  readonly groups?: GroupsControl | undefined;
  readonly history?: HistoryControl | undefined;
  readonly kv?: KvControl | undefined;
  readonly presence?: PresenceControl | undefined;
  readonly pubsub?: PubSubControl | undefined;
  readonly tasks?: TasksControl | undefined;
}
