/** What `weft explain` tells about one member: every path with its figures, why the one in use is in use, and why it is not direct. */
import type { PathView } from "./control.ts";

export interface ExplainedPath {
  readonly kind: "direct" | "relay" | "transit";
  /** "ADDR:PORT"; null for a path through others. */
  readonly endpoint: string | null;
  /** Own address that it leaves from, with "#N" by the N-th socket of hole punching; null = the kernel's choice, or a path through others. */
  readonly local: string | null;
  /** Names of the nodes in between, nearest first; empty for a direct path. */
  readonly via: readonly string[];
  readonly state: "untried" | "probing" | "alive" | "dead";
  /** Why it is in that state. */
  readonly reason: string;
  readonly active: boolean;
  /** Carries a copy of the data while delivery on the active one is in doubt. */
  readonly duplicate: boolean;
  readonly rttMs: number | null;
  /** 0–1 */
  readonly loss: number;
  /** Underlay IP packet size in force, bytes. */
  readonly pmtu: number;
  /** Since the last authenticated packet on it; null = never. */
  readonly lastReceivedMs: number | null;
}

export type NatMapping = "unknown" | "endpoint-independent" | "address-dependent" | "address-and-port-dependent";

export interface ExplainView {
  readonly peer: { readonly id: string; readonly name: string };
  readonly session: {
    readonly established: boolean;
    /** Why there is none; null = nothing to report. */
    readonly lastError: string | null;
  };
  /** The path in use. */
  readonly path: PathView;
  readonly paths: readonly ExplainedPath[];
  /** Underlay addresses known for the peer, best first. */
  readonly candidates: readonly string[];
  /** Ways through other members, also those not in use. */
  readonly through: readonly {
    readonly kind: "relay" | "transit";
    readonly via: readonly string[];
    readonly state: string;
    readonly reason: string;
  }[];
  readonly punching: {
    readonly state: string;
    readonly attempts: number;
    readonly tried: readonly string[];
    readonly ownNat: NatMapping;
    readonly peerNat: NatMapping;
    readonly peerEndpoints: readonly string[];
    /** Where other members see the peer. */
    readonly seenAt: readonly string[];
    /** 0 = none planned. */
    readonly nextAttemptInMs: number;
  } | null;
  /** One sentence, and what would change it; remedy is empty when nothing has to be done. */
  readonly verdict: { readonly code: string; readonly text: string; readonly remedy: string };
}
