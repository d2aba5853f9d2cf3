/** Presence as the API sees it: the machine's views with names, and what is kept over restarts. Source: docs/protocol.md, "Presence". */
import type {
  OwnPresenceView,
  PeerPresenceView,
  PresenceControl,
  PresenceView as PresenceOverview,
} from "../../api/messaging/presence-control.ts";
import { equal, utf8 } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import { formatNodeId, NODE_ID_BYTES, shortNodeId } from "../../crypto/node-id.ts";
import { MAX_NOTE_BYTES } from "../../messaging/presence/frames.ts";
import type { Presence } from "../../messaging/presence/presence.ts";
import type { PresenceView } from "../../messaging/presence/types.ts";
import type { PartContext } from "./part.ts";

const MAX_LOADED = 1024;

export interface PanelDeps {
  /** Undefined while this node is in no network. */
  presence(): Presence | undefined;
  feed(action: (now: Now, presence: Presence) => void): void;
}

export class PresencePanel implements PresenceControl {
  readonly #context: PartContext;
  readonly #deps: PanelDeps;
  readonly #listeners = new Set<(peer: PeerPresenceView) => void>();
  #own: OwnPresenceView = { state: "online", note: "" };
  /** Read from the store, not watched yet. */
  #loaded: readonly Uint8Array[] = [];

  constructor(context: PartContext, deps: PanelDeps) {
    this.#context = context;
    this.#deps = deps;
  }

  async load(): Promise<void> {
    const { store } = this.#context;
    const [own] = await store.query("presence.self", [], 1);
    const { state, note } = own ?? {};
    if ((state === "online" || state === "away") && typeof note === "string") this.#own = { state, note };
    const rows = await store.query("presence.watched", [], MAX_LOADED);
    this.#loaded = rows
      .map((row) => row["node"])
      .filter((node): node is Uint8Array => node instanceof Uint8Array && node.length === NODE_ID_BYTES);
  }

  /** The machine is there. */
  begin(now: Now): void {
    const presence = this.#deps.presence();
    if (presence === undefined) return;
    presence.set(now, this.#own.state, this.#own.note);
    for (const nodeId of this.#loaded) if (this.#context.find(nodeId) !== undefined) presence.watch(now, nodeId);
    this.#loaded = [];
  }

  view(): PresenceOverview {
    const views = this.#need().views(this.#context.clock.now());
    return { self: this.#own, peers: views.map((one) => this.#peerView(one)).toSorted(byName) };
  }

  async set(state: "online" | "away", note: string): Promise<OwnPresenceView> {
    if (utf8(note).length > MAX_NOTE_BYTES)
      throw new WeftError("PRESENCE_INVALID", "the note is too long", `use at most ${MAX_NOTE_BYTES} bytes`);
    this.#need();
    await this.#context.store.commit([{ name: "presence.set", values: [state, note] }]);
    this.#own = { state, note };
    this.#deps.feed((now, presence) => presence.set(now, state, note));
    return this.#own;
  }

  async watch(peer: string): Promise<PeerPresenceView> {
    const presence = this.#need();
    const nodeId = this.#resolve(peer);
    if (equal(nodeId, this.#context.identity.nodeId))
      throw new WeftError("NODE_IS_SELF", "a node does not watch itself", "name another one; see `weft members`");
    this.#deps.feed((now) => presence.watch(now, nodeId));
    await this.#context.store.commit([{ name: "presence.watch", values: [nodeId] }]);
    return this.#peerView(presence.view(this.#context.clock.now(), nodeId));
  }

  async unwatch(peer: string): Promise<PeerPresenceView> {
    const presence = this.#need();
    const nodeId = this.#resolve(peer);
    if (!presence.isWatched(nodeId))
      throw new WeftError("NOT_WATCHED", `"${peer}" is not watched`, "see the list of those that are");
    const last = this.#peerView(presence.view(this.#context.clock.now(), nodeId));
    this.#deps.feed(() => presence.unwatch(nodeId));
    await this.#context.store.commit([{ name: "presence.unwatch", values: [nodeId] }]);
    return last;
  }

  onChange(listener: (peer: PeerPresenceView) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The machine says so. */
  changed(view: PresenceView): void {
    const peer = this.#peerView(view);
    for (const listener of this.#listeners) listener(peer);
  }

  memberGone(nodeId: Uint8Array): void {
    this.#context.store.commit([{ name: "presence.unwatch", values: [nodeId] }]).catch((error: unknown) => {
      // it stays in the list and is no member: it is skipped at the next start
      this.#context.log.debug(`presence: ${error instanceof Error ? error.message : String(error)}`);
    });
  }

  #need(): Presence {
    const presence = this.#deps.presence();
    if (presence === undefined)
      throw new WeftError("NOT_READY", "this node is in no network", "weft up, or weft join TOKEN");
    return presence;
  }

  #resolve(peer: string): Uint8Array {
    const member = this.#context.resolve(peer);
    if (member === undefined)
      throw new WeftError("NODE_UNKNOWN", `no member is called "${peer}"`, "see `weft members`");
    return member.nodeId;
  }

  #peerView(view: PresenceView): PeerPresenceView {
    return {
      node: {
        id: formatNodeId(view.nodeId),
        name: this.#context.find(view.nodeId)?.name ?? shortNodeId(view.nodeId),
      },
      state: view.state,
      lastSeen: view.lastSeenMs === undefined ? null : new Date(view.lastSeenMs).toISOString(),
      note: view.note,
      timeoutSeconds: Math.round(view.timeoutMs / 1000),
    };
  }
}

function byName(a: PeerPresenceView, b: PeerPresenceView): number {
  return a.node.name < b.node.name ? -1 : 1;
}
