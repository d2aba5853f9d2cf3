/** Names, subnet routes, exits and changes to the machine, as the local API and the command line see them. Fields may be added, never renamed. */

export interface NodeRef {
  readonly id: string;
  readonly name: string;
}

/** A prefix that this node offers to the others. */
export interface OwnRouteView {
  readonly prefix: string;
  /** An admin's statement says so. */
  readonly approved: boolean;
  /** Forwarding and translation are set up. */
  readonly serving: boolean;
}

/** A prefix behind another member. */
export interface RouteView {
  readonly prefix: string;
  readonly node: NodeRef;
  readonly announced: boolean;
  readonly approved: boolean;
  /** This node sends packets for the prefix through it now. */
  readonly active: boolean;
  readonly health: "good" | "unknown" | "bad";
}

export interface RoutesView {
  readonly own: readonly OwnRouteView[];
  readonly routes: readonly RouteView[];
  /** False: this node takes no routes from others. */
  readonly accept: boolean;
  /** Takeovers from one router to another since the start. */
  readonly failovers: number;
}

export interface ExitCandidateView {
  readonly node: NodeRef;
  readonly online: boolean;
  readonly rttMs: number | null;
  readonly active: boolean;
}

export interface ExitView {
  /** Names or ids asked for; empty: any; null: no exit is used. */
  readonly using: readonly string[] | null;
  readonly active: NodeRef | null;
  readonly allowLan: boolean;
  /** The leak guard is closed. */
  readonly guard: boolean;
  readonly offering: boolean;
  /** This node's offer counts: it has the role or an approved default route. */
  readonly approved: boolean;
  readonly candidates: readonly ExitCandidateView[];
}

export interface ExitRequest {
  /** Names, ids or addresses in any order; empty: the best of all. */
  readonly nodes: readonly string[];
  /** @default false */
  readonly allowLan?: boolean | undefined;
}

export interface DnsView {
  /** "home.weft" */
  readonly domain: string;
  /** Addresses on which this node answers. */
  readonly servers: readonly string[];
  /** Why it does not answer on some; one line each. */
  readonly problems: readonly string[];
  /** What of the machine was told: "resolved", "resolvconf", "hosts" or "off". */
  readonly mode: string;
  /** Where names of other zones go; empty: they are refused. */
  readonly forwarders: readonly string[];
  readonly names: readonly { readonly name: string; readonly addresses: readonly string[] }[];
  readonly counters: Readonly<Record<string, number>>;
}

export interface RepairItem {
  /** "undone", "gone", "foreign" or "failed" */
  readonly outcome: string;
  readonly text: string;
}

/** Only of a node with an interface; every method may throw a WeftError. */
export interface HostControl {
  routes(): RoutesView;
  /** @param prefix "10.20.0.0/24" @param on false: takes the offer back */
  announce(prefix: string, on: boolean): Promise<RoutesView>;
  /** Only on an admin. */
  approve(node: string, prefix: string, approved: boolean): Promise<NodeRef>;
  acceptRoutes(on: boolean): Promise<RoutesView>;
  exit(): ExitView;
  /** @param request undefined: no exit any more; resolves when the machine is set up */
  useExit(request: ExitRequest | undefined): Promise<ExitView>;
  offerExit(on: boolean): Promise<ExitView>;
  dns(): DnsView;
  /** Undoes every change to the machine and makes the wanted ones again. */
  repair(): Promise<readonly RepairItem[]>;
}
