/**
 * Typed client of the local API over the unix socket. One request per call; nothing is retried, because the caller knows better.
 * Errors of the daemon arrive as the same WeftError it threw.
 */
import { request } from "node:http";
import type { ExplainView } from "./explain-view.ts";
import type { NetcheckView } from "./netcheck-view.ts";
import { WeftError } from "../base/errors.ts";
import type {
  DecisionView,
  ImportView,
  InviteInfoView,
  MemberChange,
  PolicyView,
  RequestView,
  RosterView,
} from "./roster-control.ts";
import type { DnsView, ExitRequest, ExitView, NodeRef, RepairItem, RoutesView } from "./host-control.ts";
import type {
  DoctorFact,
  HealthItem,
  InviteRequest,
  InviteView,
  MemberView,
  PeerView,
  PingView,
  StatusView,
  WhoisView,
} from "./control.ts";

/** Longer than the longest the daemon may take for one answer (a ping of 60 s). */
const TIMEOUT_MS = 75_000;
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export class ApiClient {
  readonly socketPath: string;

  constructor(socketPath: string) {
    this.socketPath = socketPath;
  }

  status(): Promise<StatusView> {
    return this.#json("GET", "/v1/status");
  }

  async peers(): Promise<readonly PeerView[]> {
    return (await this.#json<{ peers: PeerView[] }>("GET", "/v1/peers")).peers;
  }

  async members(): Promise<readonly MemberView[]> {
    return (await this.#json<{ members: MemberView[] }>("GET", "/v1/members")).members;
  }

  async health(): Promise<readonly HealthItem[]> {
    return (await this.#json<{ health: HealthItem[] }>("GET", "/v1/health")).health;
  }

  async doctor(): Promise<readonly DoctorFact[]> {
    return (await this.#json<{ facts: DoctorFact[] }>("GET", "/v1/doctor")).facts;
  }

  whois(query: string): Promise<WhoisView> {
    return this.#json("GET", `/v1/whois?query=${encodeURIComponent(query)}`);
  }

  invite(options: InviteRequest): Promise<InviteView> {
    return this.#json("POST", "/v1/invite", options);
  }

  revoke(node: string, reason: string): Promise<{ id: string; name: string }> {
    return this.#json("POST", "/v1/revoke", { node, reason });
  }

  async invites(): Promise<readonly InviteInfoView[]> {
    return (await this.#json<{ invites: InviteInfoView[] }>("GET", "/v1/invites")).invites;
  }

  endInvite(id: string, reason: string): Promise<InviteInfoView> {
    return this.#json("POST", "/v1/invites/end", { id, reason });
  }

  async requests(): Promise<readonly RequestView[]> {
    return (await this.#json<{ requests: RequestView[] }>("GET", "/v1/requests")).requests;
  }

  approve(node: string, name: string | undefined): Promise<DecisionView> {
    return this.#json("POST", "/v1/requests/approve", { node, name });
  }

  deny(node: string, reason: string): Promise<DecisionView> {
    return this.#json("POST", "/v1/requests/deny", { node, reason });
  }

  updateMember(change: MemberChange): Promise<DecisionView> {
    return this.#json("POST", "/v1/members", change);
  }

  roster(): Promise<RosterView> {
    return this.#json("GET", "/v1/roster");
  }

  setPolicy(stale: "allow" | "refuse"): Promise<PolicyView> {
    return this.#json("POST", "/v1/roster/policy", { stale });
  }

  async exportRoster(): Promise<string> {
    return (await this.#json<{ text: string }>("GET", "/v1/roster/export")).text;
  }

  /** @param statements base64, at most 40 */
  importRoster(network: string, statements: readonly string[]): Promise<ImportView> {
    return this.#json("POST", "/v1/roster/import", { network, statements });
  }

  ping(peer: string, timeoutMs: number): Promise<PingView> {
    return this.#json("POST", "/v1/ping", { peer, timeoutMs });
  }

  explain(peer: string): Promise<ExplainView> {
    return this.#json("GET", `/v1/explain?query=${encodeURIComponent(peer)}`);
  }

  /** @param timeoutMs how long the sources may look */
  netcheck(timeoutMs: number): Promise<NetcheckView> {
    return this.#json("POST", "/v1/netcheck", { timeoutMs });
  }

  routes(): Promise<RoutesView> {
    return this.#json("GET", "/v1/routes");
  }

  announceRoute(prefix: string, on: boolean): Promise<RoutesView> {
    return this.#json("POST", "/v1/routes/announce", { prefix, on });
  }

  approveRoute(node: string, prefix: string, approved: boolean): Promise<NodeRef> {
    return this.#json("POST", "/v1/routes/approve", { node, prefix, approved });
  }

  acceptRoutes(on: boolean): Promise<RoutesView> {
    return this.#json("POST", "/v1/routes/accept", { on });
  }

  exit(): Promise<ExitView> {
    return this.#json("GET", "/v1/exit");
  }

  /** @param request undefined: no exit any more */
  useExit(request: ExitRequest | undefined): Promise<ExitView> {
    return this.#json("POST", "/v1/exit/use", request ?? { off: true });
  }

  offerExit(on: boolean): Promise<ExitView> {
    return this.#json("POST", "/v1/exit/offer", { on });
  }

  dns(): Promise<DnsView> {
    return this.#json("GET", "/v1/dns");
  }

  async repair(): Promise<readonly RepairItem[]> {
    return (await this.#json<{ items: RepairItem[] }>("POST", "/v1/repair", {})).items;
  }

  async leave(): Promise<void> {
    await this.#json("POST", "/v1/leave", {});
  }

  async down(): Promise<void> {
    await this.#json("POST", "/v1/down", {});
  }

  /** Prometheus text. */
  metrics(): Promise<string> {
    return this.#text("GET", "/metrics");
  }

  async #json<T>(method: string, path: string, body?: unknown): Promise<T> {
    const text = await this.#text(method, path, body);
    return JSON.parse(text) as T;
  }

  #text(method: string, path: string, body?: unknown): Promise<string> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const outgoing = request(
        {
          socketPath: this.socketPath,
          method,
          path,
          agent: false,
          headers: {
            host: "weft",
            ...(payload === undefined
              ? {}
              : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
          },
        },
        (response) => {
          const chunks: Buffer[] = [];
          let total = 0;
          response.on("data", (chunk: Buffer) => {
            total += chunk.length;
            if (total > MAX_ANSWER_BYTES) outgoing.destroy(new Error("answer too large"));
            else chunks.push(chunk);
          });
          response.on("error", (error) => reject(this.#unreachable(error)));
          response.on("end", () => {
            const text = Buffer.concat(chunks).toString("utf8");
            if (response.statusCode === 200) resolve(text);
            else reject(remoteError(text, response.statusCode ?? 0));
          });
        },
      );
      outgoing.setTimeout(TIMEOUT_MS, () => outgoing.destroy(new Error(`no answer for ${TIMEOUT_MS / 1000} s`)));
      outgoing.on("error", (error) => reject(this.#unreachable(error)));
      outgoing.end(payload);
    });
  }

  #unreachable(error: NodeJS.ErrnoException): WeftError {
    if (error.code === "EACCES" || error.code === "EPERM") {
      return new WeftError(
        "API_DENIED",
        `no permission to use ${this.socketPath}`,
        "run the command as the user that runs the daemon, or with sudo",
        { cause: error },
      );
    }
    if (error.code === "ENOENT" || error.code === "ECONNREFUSED" || error.code === "ENOTDIR") {
      return new WeftError(
        "DAEMON_DOWN",
        `no daemon is running on ${this.socketPath}`,
        "start it with `weft up`, or name its directory with --state DIR",
        {
          cause: error,
        },
      );
    }
    return new WeftError(
      "API_FAILED",
      `the daemon did not answer: ${error.message}`,
      "see the daemon's log, or start it again with `weft up`",
      { cause: error },
    );
  }
}

function remoteError(text: string, status: number): WeftError {
  try {
    const value = JSON.parse(text) as Record<string, unknown>;
    if (
      typeof value["code"] === "string" &&
      typeof value["message"] === "string" &&
      typeof value["remedy"] === "string"
    ) {
      return new WeftError(value["code"], value["message"], value["remedy"]);
    }
  } catch {
    // not ours: fall through to the plain message
  }
  return new WeftError(
    "API_FAILED",
    `the daemon answered with status ${status}`,
    "check that client and daemon are of the same version: `weft version`",
  );
}
