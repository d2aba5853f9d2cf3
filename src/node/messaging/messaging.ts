/**
 * Messaging of a node: the links, the store and the parts, composed. Frames go to the part that has their channel and type; sessions that
 * come and go, members that leave and roster changes are told to every part. A part that throws is logged and harms no other one.
 *
 *   runtime ──► peerUp, peerDown, memberGone ──► links, parts          links ──► frame ──► part by (channel, type)
 *
 * Source: docs/architecture.md, "A message's way".
 */
import type { MetricSample, PathView } from "../../api/control.ts";
import type { DeliveryFact, DeliveryView, MessagingControl } from "../../api/messaging/control.ts";
import { equal } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import type { Identity } from "../../crypto/identity.ts";
import { formatNodeId } from "../../crypto/node-id.ts";
import type { Member } from "../../mesh/types.ts";
import { FRAME_CHANNELS, type FrameChannel } from "../../messaging/frames.ts";
import type { Clock } from "../clock.ts";
import type { MessagingConfig } from "../config.ts";
import type { PeerStreams } from "../streams.ts";
import { PeerFrameLinks } from "./links.ts";
import { messagingSamples } from "./metrics.ts";
import type { MessagingPart, PartContext } from "./part.ts";
import { createParts } from "./parts.ts";
import { type MessageStoreHost, MessageStoreThread } from "./store.ts";
import { ALL_TABLES } from "./tables/all.ts";

/** Parts have so long to write what they have when the node stops. */
const CLOSE_MS = 2_000;
const TYPES = 256;
/** Nothing works without the store. */
const NO_STORE: ReadonlySet<string> = new Set(["STORE_FAILED", "STORE_NEWER", "STORE_DAMAGED", "STORE_CLOSED"]);

export interface MessagingDeps {
  readonly identity: Identity;
  readonly random: Random;
  readonly clock: Clock;
  readonly log: Logger;
  readonly config: MessagingConfig;
  readonly stateDirectory: string;
  /** Of the message store; its directory exists. */
  readonly databaseFile: string;
  /** The thread that the message store lives in. @default one of its own */
  readonly storeHost?: MessageStoreHost | undefined;
  readonly streams: Pick<PeerStreams, "open" | "serve">;
  networkId(): Uint8Array | undefined;
  members(): readonly Member[];
  find(nodeId: Uint8Array): Member | undefined;
  /** Of one that find() does not know: wall-clock time at which its membership ended; undefined when it never was a member. */
  memberUntilMs?(nodeId: Uint8Array): number | undefined;
  resolve(nameOrIdOrAddress: string): Member | undefined;
  rttMs(nodeId: Uint8Array): number | undefined;
  isUp(nodeId: Uint8Array): boolean;
  pathOf(nodeId: Uint8Array): PathView;
}

export class Messaging {
  readonly links: PeerFrameLinks;
  readonly control: MessagingControl;
  readonly #deps: MessagingDeps;
  readonly #store: MessageStoreThread;
  readonly #parts: readonly MessagingPart[];
  /** By channel, then type. */
  readonly #byType: readonly (MessagingPart | undefined)[][];
  /** Parts that could not start, and why: they get nothing. */
  readonly #failed = new Map<MessagingPart, string>();
  #isRunning = false;

  constructor(deps: MessagingDeps, make: (context: PartContext) => readonly MessagingPart[] = createParts) {
    this.#deps = deps;
    this.links = new PeerFrameLinks({
      streams: deps.streams,
      clock: deps.clock,
      random: deps.random,
      log: deps.log,
      isMember: (nodeId) => !equal(nodeId, deps.identity.nodeId) && deps.find(nodeId) !== undefined,
      broken: (nodeId) => {
        if (this.#isRunning) this.#tell((part) => part.connectionReplaced?.(nodeId));
      },
      handle: (channel, from, frame) => this.#handle(channel, from, frame),
    });
    this.#store = new MessageStoreThread(deps.databaseFile, ALL_TABLES, {
      quotaBytes: deps.config.storeBytes,
      host: deps.storeHost,
    });
    try {
      this.#parts = make({ ...deps, links: this.links, store: this.#store });
      this.#byType = table(this.#parts);
    } catch (error) {
      void this.#store.close();
      throw error;
    }
    const control: MessagingControl = {
      delivery: (peer) => this.#delivery(peer),
      diagnostics: () => this.#diagnostics(),
    };
    this.control = Object.freeze(Object.assign(control, ...this.#parts.map((part) => part.control)));
  }

  /** Parts first, then frames. A part that cannot start takes no other one down. @throws WeftError when the store cannot be opened */
  async start(): Promise<void> {
    for (const part of this.#parts) {
      try {
        await part.start?.();
      } catch (error) {
        if (error instanceof WeftError && NO_STORE.has(error.code)) throw error;
        this.#failed.set(part, textOf(error));
        this.#deps.log.error(`${part.name} cannot start, the rest goes on without it: ${textOf(error)}`);
      }
    }
    this.#isRunning = true;
    this.links.start();
    const self = this.#deps.identity.nodeId;
    for (const { nodeId } of this.#deps.members())
      if (!equal(nodeId, self) && this.#deps.isUp(nodeId)) this.peerUp(nodeId);
  }

  peerUp(nodeId: Uint8Array): void {
    if (!this.#isRunning) return;
    this.links.peerUp(nodeId);
    this.#tell((part) => part.peerUp?.(nodeId));
  }

  peerDown(nodeId: Uint8Array): void {
    if (this.#isRunning) this.#tell((part) => part.peerDown?.(nodeId));
  }

  memberGone(nodeId: Uint8Array): void {
    if (!this.#isRunning) return;
    this.links.memberGone(nodeId);
    this.#tell((part) => part.memberGone?.(nodeId));
  }

  membersChanged(): void {
    if (this.#isRunning) this.#tell((part) => part.membersChanged?.());
  }

  metrics(): readonly MetricSample[] {
    return [
      ...messagingSamples(this.links.counters, this.#store.counters()),
      ...this.#parts.flatMap((part) => part.metrics?.() ?? []),
    ];
  }

  /** Parts in the reverse order of their start, then the links, then the store: what a part says as it goes still leaves. */
  async close(): Promise<void> {
    this.#isRunning = false;
    for (const part of this.#parts.toReversed()) {
      try {
        await within(this.#deps.clock, CLOSE_MS, part.close?.());
      } catch (error) {
        this.#deps.log.error(`${part.name}: ${textOf(error)}`);
      }
    }
    this.links.close();
    await this.#store.close();
  }

  #handle(channel: FrameChannel, from: Uint8Array, frame: Uint8Array): boolean {
    const part = this.#byType[channel][frame[0]];
    const take = part?.channels?.[channel];
    if (part === undefined || take === undefined || !this.#isRunning || this.#failed.has(part)) return false;
    take.call(part.channels, from, frame);
    return true;
  }

  #tell(what: (part: MessagingPart) => void): void {
    for (const part of this.#parts) {
      if (this.#failed.has(part)) continue;
      try {
        what(part);
      } catch (error) {
        this.#deps.log.error(`${part.name}: ${textOf(error)}`);
      }
    }
  }

  #diagnostics(): Readonly<Record<string, unknown>> {
    const all: Record<string, unknown> = { links: { ...this.links.counters }, store: this.#store.counters() };
    for (const part of this.#parts) if (part.diagnostics !== undefined) all[part.name] = part.diagnostics();
    for (const [part, why] of this.#failed) all[part.name] = { failed: why };
    return all;
  }

  #delivery(query: string): DeliveryView {
    const member = this.#deps.resolve(query);
    if (member === undefined)
      throw new WeftError("NODE_UNKNOWN", `no member is called "${query}"`, "see `weft members`");
    const { nodeId, name } = member;
    const isSelf = equal(nodeId, this.#deps.identity.nodeId);
    const facts: DeliveryFact[] = isSelf ? [] : [this.#sessionFact(nodeId, name), this.#linkFact(nodeId, name)];
    for (const part of this.#parts) facts.push(...(part.delivery?.(nodeId) ?? []));
    const first = facts.find((fact) => !fact.ok);
    return {
      peer: { id: formatNodeId(nodeId), name },
      delivers: first === undefined,
      verdict:
        first === undefined
          ? { code: "delivers", text: `messages reach ${name}`, remedy: "" }
          : { code: first.code, text: first.text, remedy: first.remedy },
      facts,
    };
  }

  #sessionFact(nodeId: Uint8Array, name: string): DeliveryFact {
    const isUp = this.#deps.isUp(nodeId);
    const path = this.#deps.pathOf(nodeId);
    const rttMs = this.#deps.rttMs(nodeId);
    return {
      part: "session",
      stage: "open",
      ok: isUp,
      code: isUp ? "session" : "no-session",
      text: isUp
        ? `${name} is connected, ${path.kind}${path.via === null ? "" : ` by ${path.via}`}`
        : `there is no session with ${name}, or it was not heard of lately`,
      remedy: isUp ? "" : `weft ping ${name}, weft explain ${name}`,
      figures: rttMs === undefined ? {} : { rttMs },
    };
  }

  #linkFact(nodeId: Uint8Array, name: string): DeliveryFact {
    const figures: Record<string, number> = {};
    let isFull = false;
    for (const channel of FRAME_CHANNELS) {
      const bytes = this.links.queuedBytes(nodeId, channel);
      figures[`queued${CHANNEL_NAMES[channel]}Bytes`] = bytes;
      isFull ||= this.links.isFull(nodeId, channel);
    }
    return {
      part: "links",
      stage: "write",
      ok: !isFull,
      code: isFull ? "queue-full" : "queue",
      text: isFull ? `what waits for ${name} has reached its bound: it reads slower than is sent` : "queues have room",
      remedy: isFull ? "send less, or look at that node's load" : "",
      figures,
    };
  }
}

const CHANNEL_NAMES: readonly string[] = ["Membership", "Ack", "Direct", "Pubsub", "Bulk"];

/** @throws RangeError when two parts want the same type: a mistake in the program */
function table(parts: readonly MessagingPart[]): (MessagingPart | undefined)[][] {
  const byType = FRAME_CHANNELS.map(() => Array.from<MessagingPart | undefined>({ length: TYPES }));
  for (const part of parts) {
    for (const [channel, first, last] of part.types ?? []) {
      if (part.channels?.[channel] === undefined) throw new RangeError(`${part.name} does not take channel ${channel}`);
      for (let type = first; type <= last; type++) {
        const other = byType[channel][type];
        if (other !== undefined)
          throw new RangeError(`${part.name} and ${other.name} both take type ${type} of channel ${channel}`);
        byType[channel][type] = part;
      }
    }
  }
  return byType;
}

async function within(clock: Clock, forMs: number, work: Promise<void> | void): Promise<void> {
  if (work === undefined) return;
  let cancel = (): void => undefined;
  const late = new Promise<void>((resolve) => (cancel = clock.schedule(clock.now().nowMs + forMs, resolve)));
  await Promise.race([work, late]);
  cancel();
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
