/** What the local API may ask of presence: who is online, away or offline, as they say themselves. Fields may be added, never renamed. */

/** What this node says of itself to those who watch it. */
export interface OwnPresenceView {
  readonly state: "online" | "away";
  readonly note: string;
}

export interface PeerPresenceView {
  readonly node: { readonly id: string; readonly name: string };
  /** "unknown": nothing has come yet. */
  readonly state: "unknown" | "online" | "away" | "offline";
  /** RFC 3339; null: nothing has come yet. */
  readonly lastSeen: string | null;
  readonly note: string;
  /** Without a word for so long it counts as offline. */
  readonly timeoutSeconds: number;
}

export interface PresenceView {
  readonly self: OwnPresenceView;
  /** The nodes that this one watches, by name. */
  readonly peers: readonly PeerPresenceView[];
}

/** Every method may throw WeftError NOT_READY (no network yet). */
export interface PresenceControl {
  view(): PresenceView;
  /** Kept over restarts. @param note at most 128 bytes of UTF-8 @throws WeftError PRESENCE_INVALID */
  set(state: "online" | "away", note: string): Promise<OwnPresenceView>;
  /** Kept over restarts. @throws WeftError NODE_UNKNOWN, NODE_IS_SELF, PRESENCE_FULL */
  watch(peer: string): Promise<PeerPresenceView>;
  /** @throws WeftError NODE_UNKNOWN, NOT_WATCHED */
  unwatch(peer: string): Promise<PeerPresenceView>;
  /** Told when the state of a watched node changes. @returns stops it */
  onChange(listener: (peer: PeerPresenceView) => void): () => void;
}
