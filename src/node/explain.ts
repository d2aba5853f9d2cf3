/** Puts together what `weft explain` tells: paths from the data plane, ways through members from the mesh, and what hole punching found. */
import type { PathView } from "../api/control.ts";
import type { ExplainedPath, ExplainView, NatMapping } from "../api/explain-view.ts";
import { endpointFromBytes, formatAddress, formatEndpoint, virtualOf, VirtualType } from "../base/endpoint.ts";
import type { PlanePath } from "../dataplane/messages.ts";
import { Mapping } from "../mesh/punch/messages.ts";
import type { PunchReport } from "../mesh/punch/puncher.ts";

const STATES = ["untried", "probing", "alive", "dead"] as const;
const MAPPINGS: Readonly<Record<Mapping, NatMapping>> = {
  [Mapping.UNKNOWN]: "unknown",
  [Mapping.ENDPOINT_INDEPENDENT]: "endpoint-independent",
  [Mapping.ADDRESS_DEPENDENT]: "address-dependent",
  [Mapping.PORT_DEPENDENT]: "address-and-port-dependent",
};

/** A way to the peer through other nodes. */
export interface Through {
  /** Id of its virtual endpoint. */
  readonly id: number;
  readonly kind: "relay" | "transit";
  /** Names, nearest first. */
  readonly via: readonly string[];
  readonly state: string;
  readonly reason: string;
}

export interface Evidence {
  readonly peer: { readonly id: string; readonly name: string };
  readonly established: boolean;
  readonly online: boolean;
  readonly lastError: string | null;
  readonly path: PathView;
  readonly paths: readonly PlanePath[];
  readonly candidates: readonly Uint8Array[];
  readonly through: readonly Through[];
  readonly punch: PunchReport | undefined;
}

export function explain(evidence: Evidence): ExplainView {
  const { peer, established, lastError, path, punch, through } = evidence;
  return {
    peer,
    session: { established, lastError },
    path,
    paths: evidence.paths.map((one) => explainPath(one, through)),
    candidates: evidence.candidates.map(text),
    through: through.map(({ kind, via, state, reason }) => ({ kind, via, state, reason })),
    punching:
      punch === undefined
        ? null
        : {
            state: punch.state,
            attempts: punch.attempts,
            tried: punch.tried,
            ownNat: MAPPINGS[punch.ownMapping],
            peerNat: MAPPINGS[punch.peerMapping],
            peerEndpoints: punch.peerEndpoints.map(text),
            seenAt: punch.seenAt.map(text),
            nextAttemptInMs: punch.nextAttemptInMs,
          },
    verdict: verdictOf(evidence),
  };
}

function explainPath(path: PlanePath, through: readonly Through[]): ExplainedPath {
  const virtual = virtualOf(path.endpoint);
  const isVia = virtual?.type === VirtualType.LABEL;
  const way = isVia ? through.find(({ id }) => id === virtual.id) : undefined;
  return {
    kind: virtual === undefined ? "direct" : virtual.pathKind === 1 ? "relay" : "transit",
    endpoint: isVia ? null : text(path.endpoint),
    local: virtual === undefined ? localText(path) : null,
    via: way?.via ?? [],
    state: STATES[path.state] ?? "untried",
    reason: path.reason,
    active: path.active,
    duplicate: path.duplicate,
    rttMs: path.rttMs < 0 ? null : path.rttMs,
    loss: path.lossRatio,
    pmtu: path.mtuBytes,
    lastReceivedMs: path.lastReceivedAgoMs < 0 ? null : path.lastReceivedAgoMs,
  };
}

function verdictOf(evidence: Evidence): ExplainView["verdict"] {
  const { path, punch, online, lastError, candidates, through } = evidence;
  if (path.kind === "direct" && online) return { code: "direct", text: "the path is direct", remedy: "" };
  if (path.kind === "none" || !online) {
    if (candidates.length === 0 && through.length === 0) {
      return {
        code: "no-address",
        text: "no address of the peer is known and no other member has a way to it",
        remedy: "start it with --endpoint HOST:PORT, or give a node that both reach the role beacon",
      };
    }
    return {
      code: "unreachable",
      text: lastError ?? "nothing that was tried has answered",
      remedy:
        "check that it runs and that its UDP port can be reached; `weft netcheck` on both says how they are connected",
    };
  }
  const how = path.via === null ? "through another node" : `through ${path.via}`;
  if (punch === undefined) {
    return {
      code: "not-tried",
      text: `data goes ${how}; a direct path was not tried yet, because little traffic needs it`,
      remedy: "",
    };
  }
  const { code, text: why, remedy } = punch.verdict;
  return { code, text: `data goes ${how}: ${why}`, remedy };
}

/** What tells two paths to one address apart. */
function localText({ local, socket }: PlanePath): string | null {
  const address = local.every((byte) => byte === 0) ? null : formatAddress(local);
  return socket === 0 ? address : `${address ?? ""}#${socket}`;
}

function text(endpoint: Uint8Array): string {
  return formatEndpoint(endpointFromBytes(endpoint));
}
