/** Membership beyond the list of members, as the local API and the command line see it: invites, requests, changes, policy, export. Fields may be added, never renamed. */

export interface InviteInfoView {
  /** First 8 bytes of the invite's public key, hexadecimal. */
  readonly id: string;
  readonly state: "live" | "expired" | "used-up" | "revoked";
  readonly uses: number;
  readonly used: number;
  /** RFC 3339 */
  readonly expiresAt: string;
  /** RFC 3339; null = it is live. */
  readonly endedAt: string | null;
  readonly roles: readonly string[];
  readonly tags: readonly string[];
  /** Whoever comes with it waits for an admin's decision. */
  readonly approve: boolean;
  /** Name of the admin who made it, or the beginning of its id. */
  readonly issuer: string;
}

/** A node that waits for an admin's decision. */
export interface RequestView {
  readonly id: string;
  readonly name: string;
  /** Id of the invite it came with. */
  readonly invite: string;
  readonly roles: readonly string[];
  readonly tags: readonly string[];
  /** RFC 3339 */
  readonly askedAt: string;
  /** It asked again within the last seconds. */
  readonly waiting: boolean;
  /** Name of the beacon it asks through; null = directly. */
  readonly via: string | null;
}

export interface DecisionView {
  readonly id: string;
  readonly name: string;
  /** Overlay addresses of an approved node; empty for a denied one. */
  readonly addresses: readonly string[];
}

/** What is left out stays. */
export interface MemberChange {
  readonly node: string;
  readonly name?: string | undefined;
  /** The whole new set; "admin" in it or missing from it makes or unmakes an admin. */
  readonly roles?: readonly string[] | undefined;
  readonly tags?: readonly string[] | undefined;
  /** RFC 3339, or "never". */
  readonly expiresAt?: string | undefined;
}

export interface PolicyView {
  /** 0 = nobody has set one. */
  readonly version: number;
  /** What a node does with user data while no other member confirms its roster. */
  readonly stale: "allow" | "refuse";
}

export interface RosterView {
  /** Network id, hexadecimal. */
  readonly network: string;
  readonly statements: number;
  /** The same on every member that holds the same statements, hexadecimal. */
  readonly fingerprint: string;
  readonly heads: number;
  /** Statements without effect. */
  readonly voids: number;
  /** RFC 3339 of the last final checkpoint; null = none. */
  readonly checkpointAt: string | null;
  /** Statements that no final checkpoint covers. */
  readonly unsettled: number;
  /** Checkpoints that wait for the consent of other admins. */
  readonly proposals: number;
  readonly policy: PolicyView;
  /** Since another member last confirmed the roster; null = not in this run. */
  readonly ageMs: number | null;
  /** "open", "held" (asking whether the roster is current) or "refused" (by the policy). */
  readonly userData: string;
}

export interface ImportView {
  readonly added: number;
  readonly known: number;
  /** Wait for parents that are not here. */
  readonly waiting: number;
  /** Reason → how many. */
  readonly refused: Readonly<Record<string, number>>;
}

/** Every method may throw a WeftError; those that sign resolve when the statement is on disk. */
export interface RosterControl {
  invites(): readonly InviteInfoView[];
  /** @param id of an invite, at least its first 4 digits */
  endInvite(id: string, reason: string): Promise<InviteInfoView>;
  requests(): readonly RequestView[];
  /** @param node name, id, or at least the first 8 characters of the id @param name instead of the one that was asked for */
  approve(node: string, name: string | undefined): Promise<DecisionView>;
  deny(node: string, reason: string): Promise<DecisionView>;
  updateMember(change: MemberChange): Promise<DecisionView>;
  roster(): RosterView;
  setPolicy(stale: "allow" | "refuse"): Promise<PolicyView>;
  /** The whole roster as text. */
  exportRoster(): string;
  /** @param network id, hexadecimal @param statements base64, at most 40 */
  importRoster(network: string, statements: readonly string[]): Promise<ImportView>;
}
