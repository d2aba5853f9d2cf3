/**
 * What the local API, the command line and embedding programs may see of a node and ask of it. The field names of the views are
 * the contract of `--json` (docs/guide.md): fields may be added, never renamed. Times are milliseconds unless the name says otherwise.
 */
import type { ExplainView } from "./explain-view.ts";
import type { HostControl } from "./host-control.ts";
import type { MessagingControl } from "./messaging/control.ts";
import type { NetcheckView } from "./netcheck-view.ts";
import type { RosterControl } from "./roster-control.ts";

/**
 * How payload reaches a peer at this moment. `endpoint` is "ADDR:PORT", or such as "channel#7" and "relay#7" where no address of the peer is
 * used; `via` the node in between, or the host to which a channel leads; both null when not applicable.
 */
export interface PathView {
  readonly kind: "direct" | "relay" | "transit" | "none";
  readonly endpoint: string | null;
  readonly via: string | null;
}

export interface PeerView {
  readonly id: string;
  readonly name: string;
  /** Overlay addresses, IPv4 first. */
  readonly addresses: readonly string[];
  /** True when a session carries user data and the peer was heard within 150 s; idle sessions rekey every 120 s. */
  readonly online: boolean;
  readonly path: PathView;
  /** Of the active path; null = not known. */
  readonly rttMs: number | null;
  /** Share of packets lost on the active path, 0–1. */
  readonly loss: number;
  /** Largest underlay IP packet of the active path, bytes; null = not known. */
  readonly pmtu: number | null;
  readonly txBytes: number;
  readonly rxBytes: number;
  /** Since the last authenticated packet; null = never. */
  readonly lastDeliveryMs: number | null;
  /** Age of the keys in use; null = no session. */
  readonly epochAgeMs: number | null;
  /** "aes-256-gcm", "chacha20-poly1305" or "none". */
  readonly cipher: string;
  /** True when an ML-KEM-768 secret protects the keys in use. */
  readonly hybrid: boolean;
  /** What signatures say who the peer is: "ed25519". Key agreement (`hybrid`) and authentication are separate promises. */
  readonly authentication: string;
  /** Packets waiting to be sent to it now. */
  readonly queuedPackets: number;
  /** Dropped packets to and from it; `spoofed`: those from it with another member's source address. */
  readonly dropped: { readonly tx: number; readonly rx: number; readonly spoofed: number };
  /** Delivery rate that it reports, bits per second; null = not measured. */
  readonly deliveryBps: number | null;
  /** What it sent through this node to others, and its datagrams that were dropped because they were more than its quota. */
  readonly forwarded: { readonly bytes: number; readonly dropped: number };
  readonly roles: readonly string[];
  /** "ADDR:PORT" of everything that may become a path. */
  readonly candidates: readonly string[];
  /** What the peer said in its first control message; null until then. */
  readonly build: string | null;
  readonly protocol: string | null;
  /** Names of what it announced; an unknown bit shows as its number. */
  readonly capabilities: readonly string[];
  /** Why there is no session, one line; null = nothing to report. */
  readonly lastError: string | null;
}

export interface NodeView {
  readonly id: string;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly version: string;
  /** "tun" has an interface, "agent" has none. */
  readonly mode: "tun" | "agent";
  /** Name of the interface; null in agent mode. */
  readonly interface: string | null;
  /** "ADDR:PORT" at which others may reach this node, then the URLs (wss://…) at which they open channels to it. */
  readonly endpoints: readonly string[];
  readonly listenPorts: readonly number[];
  readonly roles: readonly string[];
  readonly bootId: string;
  readonly pid: number;
  readonly uptimeMs: number;
}

export interface NetworkView {
  readonly id: string;
  readonly name: string;
  /** Members that count: admitted, neither revoked nor expired. */
  readonly members: number;
  readonly ipv4: string;
  readonly ipv6: string;
  /** Since another member last confirmed the roster; null = not in this run. */
  readonly rosterAgeMs: number | null;
  /** What a node does with user data while no other member confirms its roster. */
  readonly stale: "allow" | "refuse";
  /** "open", "held" (asking whether the roster is current) or "refused" (by `stale`). */
  readonly userData: string;
}

export interface HealthItem {
  readonly code: string;
  readonly severity: "info" | "warning" | "error";
  readonly text: string;
  readonly remedy: string;
}

export interface StatusView {
  readonly node: NodeView;
  readonly network: NetworkView;
  readonly peers: readonly PeerView[];
  readonly health: readonly HealthItem[];
}

export interface MemberView {
  readonly id: string;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly roles: readonly string[];
  readonly tags: readonly string[];
  /** The name it asked for; another one than `name` when that was taken. */
  readonly requestedName: string;
  readonly self: boolean;
  readonly online: boolean;
  /** RFC 3339 time of admission. */
  readonly admittedAt: string;
  /** RFC 3339; null = does not expire. */
  readonly expiresAt: string | null;
}

export interface InviteRequest {
  /** How many nodes may join with it, 1–10,000. @default 1 */
  readonly uses?: number | undefined;
  /** Seconds it stays valid, 1 s – 365 days. @default 3600 */
  readonly expiresSeconds?: number | undefined;
  /** Roles given to whoever joins with it; nobody gets fewer than "member". @default none */
  readonly roles?: readonly string[] | undefined;
  /** Tags given to whoever joins with it: at most 16 of 1–32 characters. @default none */
  readonly tags?: readonly string[] | undefined;
  /** Whoever comes with it waits until an admin has decided. @default false */
  readonly approve?: boolean | undefined;
  /** Seconds after which memberships under it end. @default never */
  readonly lifeSeconds?: number | undefined;
}

export interface InviteView {
  /** First 8 bytes of its public key, hexadecimal. */
  readonly id: string;
  readonly token: string;
  /** RFC 3339 */
  readonly expiresAt: string;
  readonly uses: number;
  /** What may keep others from using it, one line; null = nothing known. */
  readonly warning: string | null;
}

export interface WhoisView {
  readonly id: string;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly roles: readonly string[];
  readonly self: boolean;
}

/** One echo. `rttMs` null = no reply within the time given. */
export interface PingView {
  readonly peer: { readonly id: string; readonly name: string };
  readonly rttMs: number | null;
  readonly path: PathView;
}

/** One sample of one metric. Names follow the Prometheus conventions: weft_…_total, _seconds, _bytes. */
export interface MetricSample {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
  /** Only for histograms: upper bounds in seconds with cumulative counts, and the sum in seconds; `value` is the count. */
  readonly buckets?: readonly (readonly [upperSeconds: number, count: number])[];
  readonly sum?: number;
}

export interface DoctorFact {
  readonly code: string;
  readonly ok: boolean;
  readonly severity: "info" | "warning" | "error";
  readonly text: string;
  readonly remedy: string;
}

/** A running node. Every method may throw a WeftError, whose code, message and remedy reach the caller unchanged. */
export interface NodeControl {
  status(): StatusView;
  peers(): readonly PeerView[];
  members(): readonly MemberView[];
  /** Only on an admin. Resolves when the statement is on disk. */
  invite(request: InviteRequest): Promise<InviteView>;
  /** @param node name, id, first 8 or more characters of the id, or overlay address */
  revoke(node: string, reason: string): Promise<{ readonly id: string; readonly name: string }>;
  /** Tells the members, forgets the network, keeps the identity; the node stops afterwards. */
  leave(): Promise<void>;
  /** Asks the node to stop; resolves before it has. */
  down(): Promise<void>;
  /** @returns undefined when nobody in the roster has that name, id or address */
  whois(query: string): WhoisView | undefined;
  ping(peer: string, timeoutMs: number): Promise<PingView>;
  /** @param peer name, id or overlay address */
  explain(peer: string): Promise<ExplainView>;
  /** @param timeoutMs how long discovery sources may look, 1–30,000 */
  netcheck?(timeoutMs: number): Promise<NetcheckView>;
  /** Names, routes and exits; undefined on a node without an interface. */
  readonly host?: HostControl | undefined;
  /** Invites, requests, changes of members, policy, export. */
  readonly roster?: RosterControl | undefined;
  /** Messages and what stands on them; undefined on a node without messaging. */
  readonly messaging?: MessagingControl | undefined;
  metrics(): readonly MetricSample[];
  health(): readonly HealthItem[];
  doctor(): readonly DoctorFact[];
}
