/** The client's ways to any route and stream, and the methods about the node, its membership and its machine. */
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
} from "../api/control.ts";
import type { ExplainView } from "../api/explain-view.ts";
import type { DnsView, ExitRequest, ExitView, NodeRef, RepairItem, RoutesView } from "../api/host-control.ts";
import type { NetcheckView } from "../api/netcheck-view.ts";
import type {
  DecisionView,
  ImportView,
  InviteInfoView,
  MemberChange,
  PolicyView,
  RequestView,
  RosterView,
} from "../api/roster-control.ts";
import type { NewTokenView, TokenRequest, TokenView } from "../api/token-control.ts";
import { readEvents } from "./events.ts";
import type { ApiEvent, EventOptions } from "./events.ts";
import { Transport } from "./transport.ts";
import type { CallOptions, Place } from "./transport.ts";

export class NodeClient {
  readonly #transport: Transport;

  /** @param place path of the unix socket, or URL and token */
  constructor(place: string | Place) {
    this.#transport = new Transport(typeof place === "string" ? { socketPath: place } : place);
  }

  /** Where the daemon is looked for. */
  get place(): string {
    return this.#transport.name;
  }

  /** Any route. @param path as the OpenAPI document has it, parameters as ":name" */
  async call<T>(method: "GET" | "POST" | "PUT" | "DELETE", path: string, options: CallOptions = {}): Promise<T> {
    return JSON.parse(await this.text(method, path, options)) as T;
  }

  /** Any stream; comes back by itself when the daemon went away. */
  events<T = unknown>(path: string, options: EventOptions = {}): AsyncGenerator<ApiEvent<T>> {
    return readEvents<T>(this.#transport, path, options);
  }

  text(method: "GET" | "POST" | "PUT" | "DELETE", path: string, options: CallOptions = {}): Promise<string> {
    return this.#transport.text(method, path, options);
  }

  status(): Promise<StatusView> {
    return this.call("GET", "/v1/status");
  }

  async peers(): Promise<readonly PeerView[]> {
    return (await this.call<{ peers: PeerView[] }>("GET", "/v1/peers")).peers;
  }

  async members(): Promise<readonly MemberView[]> {
    return (await this.call<{ members: MemberView[] }>("GET", "/v1/members")).members;
  }

  async health(): Promise<readonly HealthItem[]> {
    return (await this.call<{ health: HealthItem[] }>("GET", "/v1/health")).health;
  }

  async doctor(): Promise<readonly DoctorFact[]> {
    return (await this.call<{ facts: DoctorFact[] }>("GET", "/v1/doctor")).facts;
  }

  whois(query: string): Promise<WhoisView> {
    return this.call("GET", "/v1/whois", { query: { query } });
  }

  invite(options: InviteRequest): Promise<InviteView> {
    return this.call("POST", "/v1/invite", { body: options });
  }

  revoke(node: string, reason: string): Promise<{ id: string; name: string }> {
    return this.call("POST", "/v1/revoke", { body: { node, reason } });
  }

  async invites(): Promise<readonly InviteInfoView[]> {
    return (await this.call<{ invites: InviteInfoView[] }>("GET", "/v1/invites")).invites;
  }

  endInvite(id: string, reason: string): Promise<InviteInfoView> {
    return this.call("POST", "/v1/invites/end", { body: { id, reason } });
  }

  async requests(): Promise<readonly RequestView[]> {
    return (await this.call<{ requests: RequestView[] }>("GET", "/v1/requests")).requests;
  }

  approve(node: string, name: string | undefined): Promise<DecisionView> {
    return this.call("POST", "/v1/requests/approve", { body: { node, name } });
  }

  deny(node: string, reason: string): Promise<DecisionView> {
    return this.call("POST", "/v1/requests/deny", { body: { node, reason } });
  }

  updateMember(change: MemberChange): Promise<DecisionView> {
    return this.call("POST", "/v1/members", { body: change });
  }

  roster(): Promise<RosterView> {
    return this.call("GET", "/v1/roster");
  }

  setPolicy(stale: "allow" | "refuse"): Promise<PolicyView> {
    return this.call("POST", "/v1/roster/policy", { body: { stale } });
  }

  async exportRoster(): Promise<string> {
    return (await this.call<{ text: string }>("GET", "/v1/roster/export")).text;
  }

  /** @param statements base64, at most 40 */
  importRoster(network: string, statements: readonly string[]): Promise<ImportView> {
    return this.call("POST", "/v1/roster/import", { body: { network, statements } });
  }

  ping(peer: string, timeoutMs: number): Promise<PingView> {
    return this.call("POST", "/v1/ping", { body: { peer, timeoutMs } });
  }

  explain(peer: string): Promise<ExplainView> {
    return this.call("GET", "/v1/explain", { query: { query: peer } });
  }

  /** @param timeoutMs how long the sources may look */
  netcheck(timeoutMs: number): Promise<NetcheckView> {
    return this.call("POST", "/v1/netcheck", { body: { timeoutMs } });
  }

  routes(): Promise<RoutesView> {
    return this.call("GET", "/v1/routes");
  }

  announceRoute(prefix: string, on: boolean): Promise<RoutesView> {
    return this.call("POST", "/v1/routes/announce", { body: { prefix, on } });
  }

  approveRoute(node: string, prefix: string, approved: boolean): Promise<NodeRef> {
    return this.call("POST", "/v1/routes/approve", { body: { node, prefix, approved } });
  }

  acceptRoutes(on: boolean): Promise<RoutesView> {
    return this.call("POST", "/v1/routes/accept", { body: { on } });
  }

  exit(): Promise<ExitView> {
    return this.call("GET", "/v1/exit");
  }

  /** @param request undefined: no exit any more */
  useExit(request: ExitRequest | undefined): Promise<ExitView> {
    return this.call("POST", "/v1/exit/use", { body: request ?? { off: true } });
  }

  offerExit(on: boolean): Promise<ExitView> {
    return this.call("POST", "/v1/exit/offer", { body: { on } });
  }

  dns(): Promise<DnsView> {
    return this.call("GET", "/v1/dns");
  }

  async repair(): Promise<readonly RepairItem[]> {
    return (await this.call<{ items: RepairItem[] }>("POST", "/v1/repair", { body: {} })).items;
  }

  async leave(): Promise<void> {
    await this.call("POST", "/v1/leave", { body: {} });
  }

  async down(): Promise<void> {
    await this.call("POST", "/v1/down", { body: {} });
  }

  /** Prometheus text. */
  metrics(): Promise<string> {
    return this.text("GET", "/metrics");
  }

  /** Bearer tokens, and where they are good for something; null: the daemon listens on its socket alone. */
  tokens(): Promise<{ readonly tokens: readonly TokenView[]; readonly address: string | null }> {
    return this.call("GET", "/v1/tokens");
  }

  createToken(request: TokenRequest): Promise<NewTokenView> {
    return this.call("POST", "/v1/tokens", { body: request });
  }

  /** @param id of the token, or its name */
  revokeToken(id: string): Promise<TokenView> {
    return this.call("POST", "/v1/tokens/revoke", { body: { id } });
  }
}
