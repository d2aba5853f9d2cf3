/**
 * What every part of messaging (membership, publish/subscribe, direct messages, files, …) gets, and what it gives back. messaging.ts
 * composes the parts; none of them knows another one except through what it is given here or by its constructor.
 * Source: docs/architecture.md, "Messages".
 */
import type { MetricSample, PathView } from "../../api/control.ts";
import type { DeliveryFact, MessagingControl } from "../../api/messaging/control.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import type { Identity } from "../../crypto/identity.ts";
import type { Member } from "../../mesh/types.ts";
import type { FrameChannel } from "../../messaging/frames.ts";
import type { Clock } from "../clock.ts";
import type { MessagingConfig } from "../config.ts";
import type { PeerStreams } from "../streams.ts";
import type { FrameLinks } from "./links.ts";
import type { MessageStore } from "./store.ts";

export interface PartContext {
  readonly identity: Identity;
  readonly random: Random;
  readonly clock: Clock;
  readonly log: Logger;
  readonly config: MessagingConfig;
  readonly links: FrameLinks;
  readonly streams: Pick<PeerStreams, "open" | "serve">;
  readonly store: MessageStore;
  /** Absolute; files of a part go into a directory of their own in it. */
  readonly stateDirectory: string;
  /** 32 bytes; undefined before this node has joined. */
  networkId(): Uint8Array | undefined;
  /** All, this node included. */
  members(): readonly Member[];
  find(nodeId: Uint8Array): Member | undefined;
  /** Of one that find() does not know: wall-clock time at which its membership ended; undefined when it never was a member. */
  memberUntilMs?(nodeId: Uint8Array): number | undefined;
  /** @throws WeftError NODE_AMBIGUOUS */
  resolve(nameOrIdOrAddress: string): Member | undefined;
  /** Of the active path; undefined when there is none or nothing was measured. */
  rttMs(nodeId: Uint8Array): number | undefined;
  /** There is a session with that member, and it was heard of lately. */
  isUp(nodeId: Uint8Array): boolean;
  /** The way a message takes now; `kind` "none" without a session. */
  pathOf(nodeId: Uint8Array): PathView;
}

/** Frames of a channel come to the part that has their type (the first byte) in a range of its own. */
export type FrameTypes = readonly [channel: FrameChannel, firstType: number, lastType: number];

/** What a part does; everything but the name may be missing. Nothing here may block or throw; a frame may hold anything. */
export interface MessagingPart {
  readonly name: string;
  /** After all parts exist and the store is open; before any frame or event comes. */
  start?(): Promise<void> | void;
  close?(): Promise<void> | void;
  readonly types?: readonly FrameTypes[];
  /** By channel. @param from 32 bytes, the authenticated peer, a member @param frame at least one byte, the callee's */
  readonly channels?: Readonly<Partial<Record<FrameChannel, (from: Uint8Array, frame: Uint8Array) => void>>>;
  /** A session with a member came up. Those that are up when messaging starts come right after start(). */
  peerUp?(nodeId: Uint8Array): void;
  /** The session is gone. It may come back any time. */
  peerDown?(nodeId: Uint8Array): void;
  /** Its connection was replaced: what was "flushed" may not have arrived. At most once a quarter of a second. */
  connectionReplaced?(nodeId: Uint8Array): void;
  /** It was removed, left, or its membership ended. */
  memberGone?(nodeId: Uint8Array): void;
  /** The roster changed. */
  membersChanged?(): void;
  metrics?(): readonly MetricSample[];
  /** What it gives to the local API: `{ pubsub: … }`. */
  readonly control?: Partial<MessagingControl> | undefined;
  /** What this part knows of delivery to that member, in the order of the way. */
  delivery?(nodeId: Uint8Array): readonly DeliveryFact[];
  /** For `GET /v1/messaging/diagnostics`: plain values only, no secrets, bounded. */
  diagnostics?(): unknown;
}
