/**
 * Closing sessions that nobody uses: after 180 s without user data and without bytes of streams a session with a member that is no neighbour is given up, by
 * agreement, so that neither side goes on sealing under keys that the other has thrown away. The one that would close it asks (`idle`); the other
 * agrees and closes, or keeps silent because the session is of use to it. The next packet opens a new one. Source: docs/protocol.md, "Neighbours".
 */
import type { Now } from "../base/clock.ts";
import type { PeerFigures } from "../dataplane/messages.ts";
import type { IdleMessage } from "../mesh/control.ts";
import type { PeerRecord } from "./peer-table.ts";

export const IDLE_MS = 180_000;
/** The one that is asked is ready somewhat earlier, because the two do not see the last packet at the same time. */
const AGREES_AFTER_MS = 150_000;
const ASK_AGAIN_MS = 60_000;
/** Between the word that the session is over and its end, so that the word goes out. */
const LINGER_MS = 1_000;

export interface IdleSessionsDeps {
  readonly peers: () => readonly PeerRecord[];
  readonly figures: (slot: number) => PeerFigures | undefined;
  /** Kept open whatever its use: neighbours, relays and hops of ways in use. */
  readonly isKept: (peer: PeerRecord) => boolean;
  readonly tell: (peer: PeerRecord, message: IdleMessage) => void;
  readonly disconnect: (now: Now, peer: PeerRecord) => void;
}

interface Use {
  bytes: number;
  lastMs: number;
  askAtMs: number;
  /** Agreed: the session ends then. */
  endsAtMs: number;
}

export class IdleSessions {
  closed = 0;
  readonly #deps: IdleSessionsDeps;
  /** Bound: slots of the plane. */
  readonly #uses = new Map<number, Use>();

  constructor(deps: IdleSessionsDeps) {
    this.#deps = deps;
  }

  /** Once a second. */
  tick(now: Now): void {
    for (const peer of this.#deps.peers()) {
      if (peer.member === undefined || !peer.established) {
        this.#uses.delete(peer.slot);
        continue;
      }
      const use = this.#look(now, peer);
      if (now.nowMs >= use.endsAtMs) this.#end(now, peer);
      else if (now.nowMs - use.lastMs >= IDLE_MS && now.nowMs >= use.askAtMs && !this.#deps.isKept(peer)) {
        use.askAtMs = now.nowMs + ASK_AGAIN_MS;
        this.#deps.tell(peer, { type: "idle", agreed: false });
      }
    }
  }

  handle(now: Now, peer: PeerRecord, message: IdleMessage): void {
    if (peer.member === undefined || !peer.established) return;
    const use = this.#look(now, peer);
    if (this.#deps.isKept(peer) || now.nowMs - use.lastMs < AGREES_AFTER_MS) return;
    if (message.agreed) return this.#end(now, peer);
    this.#deps.tell(peer, { type: "idle", agreed: true });
    use.endsAtMs = now.nowMs + LINGER_MS;
  }

  forget(slot: number): void {
    this.#uses.delete(slot);
  }

  #look(now: Now, peer: PeerRecord): Use {
    const figures = this.#deps.figures(peer.slot);
    const bytes = figures === undefined ? 0 : figures.txBytes + figures.rxBytes;
    let use = this.#uses.get(peer.slot);
    if (use === undefined) {
      use = { bytes, lastMs: now.nowMs, askAtMs: 0, endsAtMs: Infinity };
      this.#uses.set(peer.slot, use);
    } else if (bytes !== use.bytes) {
      use.bytes = bytes;
      use.lastMs = now.nowMs;
      // somebody needs it after all
      use.endsAtMs = Infinity;
    }
    return use;
  }

  #end(now: Now, peer: PeerRecord): void {
    this.closed++;
    this.#uses.delete(peer.slot);
    this.#deps.disconnect(now, peer);
  }
}
