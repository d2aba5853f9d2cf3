/** What the local API may ask of groups. Fields may be added, never renamed. */
import type { HistoryMessageView } from "./history-control.ts";

export interface GroupView {
  /** 64 hexadecimal digits; commands take the name, or the first 8 digits. */
  readonly id: string;
  readonly name: string;
  /** Counts the changes of its members; each has a key of its own. */
  readonly epoch: number;
  /** This node's part: "admin", "member", or "none" when it was removed or its membership has ended. */
  readonly role: "admin" | "member" | "none";
  readonly members: readonly {
    readonly id: string;
    readonly name: string;
    readonly role: "admin" | "member";
    /** RFC 3339; admins renew it before. */
    readonly until: string;
  }[];
  /** Of the last change. */
  readonly changedAt: string;
}

export interface CardView {
  readonly group: string;
  readonly name: string;
  readonly node: { readonly id: string; readonly name: string };
  readonly role: "admin" | "member";
  readonly epoch: number;
  /** RFC 3339 */
  readonly until: string;
  readonly issuer: { readonly id: string; readonly name: string };
  /** This node is in the group, the issuer was an admin of it and the holder is in it with that role; it has not expired. */
  readonly valid: boolean;
  /** Why. "issuer-unknown": this node is not in the group, so it cannot tell whether the issuer may say so. */
  readonly verdict: "valid" | "expired" | "issuer-unknown" | "issuer-no-admin" | "not-member" | "other-role";
}

/** `group` is a name or the beginning of an id. Every method may throw WeftError NOT_READY, GROUP_UNKNOWN, GROUP_AMBIGUOUS. */
export interface GroupsControl {
  groups(): readonly GroupView[];
  group(group: string): GroupView;
  /** @param nodes names or ids of members @throws WeftError GROUP_NAME, GROUP_EXISTS, GROUPS_FULL, GROUP_FULL, NODE_UNKNOWN */
  create(name: string, nodes: readonly string[]): Promise<GroupView>;
  /** Also makes a member admin or a plain member. @throws WeftError GROUP_DENIED, GROUP_FULL, NODE_UNKNOWN, GROUP_LAST_ADMIN */
  add(group: string, node: string, isAdmin: boolean): Promise<GroupView>;
  /** It can read nothing that is said from now on. @throws WeftError GROUP_DENIED, NODE_UNKNOWN, GROUP_LAST_ADMIN */
  remove(group: string, node: string): Promise<GroupView>;
  leave(group: string): Promise<GroupView>;
  /** Resolves when it is on disk here and on its way. @throws WeftError GROUP_DENIED, MESSAGE_TOO_LARGE, SPACE_FULL */
  send(group: string, payload: Uint8Array, agent: string): Promise<{ readonly id: string; readonly epoch: number }>;
  /** In the order in which they came. @param after an id; undefined: the latest ones @param limit 1–500 */
  messages(group: string, after: number | undefined, limit: number): Promise<readonly HistoryMessageView[]>;
  /** @param more called when there may be new messages @returns stops it */
  watch(group: string, more: () => void): () => void;
  /** A member's card as text. @param node undefined: this node @throws WeftError NODE_UNKNOWN */
  card(group: string, node: string | undefined): string;
  /** @throws WeftError CARD_INVALID when it is no card or not signed by its issuer */
  verifyCard(text: string): CardView;
}
