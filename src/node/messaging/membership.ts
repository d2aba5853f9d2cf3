/**
 * Membership, presence and the directory in a running node: the machines of src/messaging with the real clock, links and roster. They begin when this node
 * is in a network. Other parts get the faces `overlay`, `topics` and `agents`, which may be used before that; what was asked for is done then.
 *
 *   frames MEMBERSHIP 1–31 ──► overlay      frames DIRECT 48–55 ──► directory      56–63 ──► presence
 *                                 └── alive ──► directory
 * Source: docs/protocol.md, "Membership", "Directory", "Presence".
 */
import type { MetricSample } from "../../api/control.ts";
import type { DeliveryFact, MessagingControl } from "../../api/messaging/control.ts";
import { equal, toHex } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import { verifySignature } from "../../crypto/identity.ts";
import { openLease } from "../../messaging/agents/lease.ts";
import { Directory } from "../../messaging/directory/directory.ts";
import {
  type AgentDirectory,
  type AgentPlace,
  newDirectoryCounters,
  type TopicDirectory,
  type TopicRole,
} from "../../messaging/directory/types.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import { OverlayType } from "../../messaging/membership/frames.ts";
import { Overlay } from "../../messaging/membership/overlay.ts";
import { Liveness, newOverlayCounters, type OverlayView, type Signing } from "../../messaging/membership/types.ts";
import { Presence } from "../../messaging/presence/presence.ts";
import { newPresenceCounters } from "../../messaging/presence/types.ts";
import { membershipSamples } from "./membership-metrics.ts";
import type { FrameTypes, MessagingPart, PartContext } from "./part.ts";
import { PresencePanel } from "./presence.ts";

const LOCATE_MS = 3000;
const FAREWELL_MS = 500;
const FLUSH_MS = 50;
const MAX_LOCATING = 256;
const FIRST_PRESENCE_TYPE = 56;

/** What exists while this node is in a network. */
interface Machines {
  readonly networkId: Uint8Array;
  readonly overlay: Overlay;
  readonly directory: Directory;
  readonly presence: Presence;
}

interface Locating {
  readonly resolve: (place: AgentPlace | undefined) => void;
}

export class MembershipPart implements MessagingPart {
  readonly name = "membership";
  readonly types: readonly FrameTypes[] = [
    [FrameChannel.MEMBERSHIP, 1, 31],
    [FrameChannel.DIRECT, 48, 63],
  ];
  readonly channels: NonNullable<MessagingPart["channels"]> = {
    [FrameChannel.MEMBERSHIP]: (from, frame) => this.#feed((now, { overlay }) => overlay.handleFrame(now, from, frame)),
    [FrameChannel.DIRECT]: (from, frame) =>
      this.#feed((now, { directory, presence }) =>
        (frame[0] < FIRST_PRESENCE_TYPE ? directory : presence).handleFrame(now, from, frame),
      ),
  };
  readonly control: Partial<MessagingControl>;
  readonly overlay: OverlayView;
  readonly topics: TopicDirectory;
  readonly agents: AgentDirectory;
  readonly #context: PartContext;
  readonly #panel: PresencePanel;
  /** What this node follows and hosts, also before there is a network. */
  readonly #followed = new Map<string, TopicRole>();
  readonly #announced = new Map<string, Uint8Array>();
  readonly #locating = new Map<string, Locating[]>();
  readonly #topicListeners = new Set<(topic: string) => void>();
  #machines: Machines | undefined;
  #memberIds: readonly Uint8Array[] | undefined;
  #cancelTimer: (() => void) | undefined;
  #timerAtMs: number = Number.POSITIVE_INFINITY;
  #isStarted = false;
  #isSettling = false;
  /** While this node stops: what it says last. */
  #farewells: Promise<void>[] | undefined;

  constructor(context: PartContext) {
    this.#context = context;
    this.overlay = {
      active: () => this.#machines?.overlay.active() ?? [],
      passive: () => this.#machines?.overlay.passive() ?? [],
      liveness: (nodeId) => this.#machines?.overlay.liveness(nodeId) ?? Liveness.UNKNOWN,
    };
    this.topics = {
      follow: (topic, role) => this.#follow(topic, role),
      unfollow: (topic) => {
        this.#followed.delete(topic);
        this.#feed((now, { directory }) => directory.unfollow(now, topic));
      },
      sample: (topic, count) => this.#machines?.directory.sample(topic, count) ?? [],
      known: (topic) => this.#machines?.directory.known(topic) ?? 0,
      notThere: (topic, nodeId) => this.#feed((now, { directory }) => directory.notThere(now, topic, nodeId)),
      onSubscribers: (listener) => listen(this.#topicListeners, listener),
    };
    this.agents = {
      announce: (lease) => this.#announce(lease),
      withdraw: (agent) => {
        this.#announced.delete(toHex(agent));
        this.#feed((_, { directory }) => directory.withdraw(agent));
      },
      whereIs: (agent) => this.#machines?.directory.whereIs(context.clock.now().wallMs, agent),
      locate: (agent, timeoutMs) => this.#locate(agent, timeoutMs ?? LOCATE_MS),
    };
    this.#panel = new PresencePanel(context, {
      presence: () => this.#machines?.presence,
      feed: (action) => this.#feed((now, { presence }) => action(now, presence)),
    });
    this.control = { presence: this.#panel };
  }

  async start(): Promise<void> {
    await this.#panel.load();
    this.#isStarted = true;
    this.#begin();
  }

  /** Resolves when the good-byes are on their way. */
  async close(): Promise<void> {
    const farewells: Promise<void>[] = [];
    this.#farewells = farewells;
    this.#feed((now, { overlay, presence }) => {
      presence.stop(now);
      overlay.leave(now);
    });
    this.#isStarted = false;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#machines = undefined;
    for (const waiting of this.#locating.values()) for (const { resolve } of waiting) resolve(undefined);
    this.#locating.clear();
    if (farewells.length === 0) return;
    const { clock } = this.#context;
    const after = (ms: number): Promise<void> =>
      new Promise((resolve) => void clock.schedule(clock.now().nowMs + ms, resolve));
    await Promise.race([Promise.all(farewells), after(FAREWELL_MS)]);
    // QUIC has them; what closes now would take them back
    await after(FLUSH_MS);
  }

  peerUp(nodeId: Uint8Array): void {
    this.#feed((now, { overlay, directory, presence }) => {
      overlay.peerUp(now, nodeId);
      directory.alive(now, nodeId);
      presence.alive(now, nodeId);
    });
  }

  peerDown(nodeId: Uint8Array): void {
    this.#feed((now, { overlay }) => overlay.peerDown(now, nodeId));
  }

  memberGone(nodeId: Uint8Array): void {
    this.#memberIds = undefined;
    this.#feed((now, { overlay, directory, presence }) => {
      overlay.membersChanged(now);
      directory.membersChanged(now);
      directory.memberGone(now, nodeId);
      presence.memberGone(nodeId);
    });
    this.#panel.memberGone(nodeId);
  }

  membersChanged(): void {
    this.#memberIds = undefined;
    this.#begin();
    this.#feed((now, { overlay, directory }) => {
      overlay.membersChanged(now);
      directory.membersChanged(now);
    });
  }

  metrics(): readonly MetricSample[] {
    const machines = this.#machines;
    return membershipSamples(
      machines?.overlay.counters ?? newOverlayCounters(),
      machines?.directory.counters ?? newDirectoryCounters(),
      machines?.presence.counters ?? newPresenceCounters(),
      { active: machines?.overlay.active().length ?? 0, passive: machines?.overlay.passive().length ?? 0 },
    );
  }

  diagnostics(): unknown {
    const machines = this.#machines;
    if (machines === undefined) return { running: false };
    const { overlay, directory, presence } = machines;
    const nameOf = (nodeId: Uint8Array): string => this.#context.find(nodeId)?.name ?? toHex(nodeId).slice(0, 16);
    return {
      running: true,
      active: overlay.active().map(nameOf),
      passive: overlay.passive().map(nameOf),
      health: overlay.health,
      topics: Object.fromEntries(
        [...this.#followed.keys()].slice(0, 100).map((topic) => [topic, directory.known(topic)]),
      ),
      overlay: { ...overlay.counters },
      directory: { ...directory.counters },
      presence: { ...presence.counters },
    };
  }

  delivery(nodeId: Uint8Array): readonly DeliveryFact[] {
    const liveness = this.overlay.liveness(nodeId);
    const isNeighbour = this.overlay.active().some((one) => equal(one, nodeId));
    const isGone = liveness === Liveness.DEAD || liveness === Liveness.LEFT;
    return [
      {
        part: "membership",
        stage: "open",
        // hearsay keeps no message back
        ok: true,
        code: `believed-${liveness}`,
        text: isGone ? `others say that it is ${liveness}; it is tried nevertheless` : `it is believed ${liveness}`,
        remedy: "",
        figures: { neighbour: isNeighbour ? 1 : 0 },
      },
    ];
  }

  #begin(): void {
    const networkId = this.#context.networkId();
    const running = this.#machines?.networkId;
    // what was said in another network is worth nothing in this one
    if (running !== undefined && (networkId === undefined || !equal(running, networkId))) this.#machines = undefined;
    if (!this.#isStarted || networkId === undefined || this.#machines !== undefined) return;
    const context = this.#context;
    const { identity, random, clock } = context;
    const signing: Signing = {
      nodeId: identity.nodeId,
      sign: (kind, body) => identity.sign(kind, networkId, body),
      verify: (nodeId, kind, body, signature) => verifySignature(nodeId, kind, networkId, body, signature),
    };
    const isMember = (nodeId: Uint8Array): boolean => context.find(nodeId) !== undefined;
    const overlay = new Overlay({
      signing,
      random,
      isMember,
      memberCount: () => this.#members().length + 1,
      randomMember: () => {
        const ids = this.#members();
        return ids.length === 0 ? undefined : ids[random.u32() % ids.length];
      },
      rttMs: (nodeId) => context.rttMs(nodeId),
    });
    const directory = new Directory({
      signing,
      random,
      networkId,
      isMember,
      members: () => [identity.nodeId, ...this.#members()],
      liveness: (nodeId) => overlay.liveness(nodeId),
      openLease: (bytes, wallMs) => openLease(networkId, bytes, wallMs),
    });
    this.#machines = { networkId, overlay, directory, presence: new Presence({ signing, random, isMember }) };
    const now = clock.now();
    for (const [topic, role] of this.#followed) directory.follow(now, topic, role);
    this.#panel.begin(now);
    this.#feed((at, machines) => {
      machines.overlay.start(at);
      for (const [hex, lease] of this.#announced) {
        // one that has expired meanwhile is not worth a start that fails
        if (openLease(networkId, lease, at.wallMs) === undefined) this.#announced.delete(hex);
        else machines.directory.announce(at, lease);
      }
    });
  }

  /** Node ids of the other members. */
  #members(): readonly Uint8Array[] {
    const self = this.#context.identity.nodeId;
    this.#memberIds ??= this.#context
      .members()
      .map((member) => member.nodeId)
      .filter((nodeId) => !equal(nodeId, self));
    return this.#memberIds;
  }

  #follow(topic: string, role: TopicRole): void {
    const { directory } = this.#machines ?? {};
    if (directory !== undefined) {
      directory.follow(this.#context.clock.now(), topic, role);
      this.#settle();
    }
    this.#followed.set(topic, role);
  }

  #announce(lease: Uint8Array): void {
    const { directory, networkId } = this.#machines ?? {};
    const network = networkId ?? this.#context.networkId();
    if (network === undefined)
      throw new WeftError("NOT_READY", "this node is in no network", "weft up, then weft join");
    const now = this.#context.clock.now();
    const opened = openLease(network, lease, now.wallMs);
    if (opened === undefined) throw new WeftError("LEASE_INVALID", "the lease is not valid here", "sign a new one");
    directory?.announce(now, lease);
    this.#announced.set(toHex(opened.agent), lease);
    this.#settle();
  }

  #locate(agent: Uint8Array, timeoutMs: number): Promise<AgentPlace | undefined> {
    const known = this.agents.whereIs(agent);
    const hex = toHex(agent);
    const waiting = this.#locating.get(hex);
    if (
      known !== undefined ||
      this.#machines === undefined ||
      (waiting === undefined && this.#locating.size >= MAX_LOCATING)
    )
      return Promise.resolve(known);
    return new Promise((resolve) => {
      if (waiting !== undefined) {
        waiting.push({ resolve });
        return;
      }
      this.#locating.set(hex, [{ resolve }]);
      this.#feed((now, { directory }) => directory.locate(now, agent, timeoutMs));
    });
  }

  /** Gives something to the machines, then does what they want done. */
  #feed(action: (now: Now, machines: Machines) => void): void {
    const machines = this.#machines;
    if (machines === undefined) return;
    action(this.#context.clock.now(), machines);
    this.#settle();
  }

  #settle(): void {
    // what a listener does in between is seen by the loop that runs
    if (this.#isSettling) return;
    this.#isSettling = true;
    try {
      while (this.#drain());
    } finally {
      this.#isSettling = false;
    }
    this.#arm();
  }

  /** @returns whether there was anything */
  #drain(): boolean {
    const machines = this.#machines;
    if (machines === undefined) return false;
    let any = false;
    for (let output = machines.overlay.pollOutput(); output !== undefined; output = machines.overlay.pollOutput()) {
      any = true;
      if (output.kind === "send") this.#send(output.to, FrameChannel.MEMBERSHIP, output.frame);
      else if (output.kind === "liveness" && output.liveness === Liveness.ALIVE) {
        const now = this.#context.clock.now();
        machines.directory.alive(now, output.nodeId);
        machines.presence.alive(now, output.nodeId);
      }
    }
    for (let output = machines.directory.pollOutput(); output !== undefined; output = machines.directory.pollOutput()) {
      any = true;
      if (output.kind === "send") this.#send(output.to, FrameChannel.DIRECT, output.frame);
      else if (output.kind === "located") this.#located(output.agent, output.place);
      else for (const listener of this.#topicListeners) this.#call(() => listener(output.topic));
    }
    for (let output = machines.presence.pollOutput(); output !== undefined; output = machines.presence.pollOutput()) {
      any = true;
      if (output.kind === "send") this.#send(output.to, FrameChannel.DIRECT, output.frame);
      else this.#panel.changed(output.view);
    }
    return any;
  }

  #send(to: Uint8Array, channel: FrameChannel, frame: Uint8Array): void {
    const isOverlay = channel === FrameChannel.MEMBERSHIP;
    const { links } = this.#context;
    // it can wait for a time when nothing urgent does
    if (isOverlay && frame[0] === OverlayType.SHUFFLE && links.isPressed(to)) return;
    if (this.#farewells !== undefined) {
      this.#farewells.push(
        new Promise((resolve) => {
          if (links.send(to, channel, frame, () => resolve()) !== "accepted") resolve();
        }),
      );
      return;
    }
    const doubt = (): void => this.#feed((now, { overlay }) => overlay.doubt(now, to));
    const taken = links.send(to, channel, frame, isOverlay ? (fate) => fate === "lost" && doubt() : undefined);
    if (taken === "gone" && isOverlay) this.#machines?.overlay.doubt(this.#context.clock.now(), to);
  }

  #located(agent: Uint8Array, place: AgentPlace | undefined): void {
    const hex = toHex(agent);
    const waiting = this.#locating.get(hex) ?? [];
    this.#locating.delete(hex);
    for (const { resolve } of waiting) resolve(place);
  }

  #arm(): void {
    const machines = this.#machines;
    if (machines === undefined) return;
    const { overlay, directory, presence } = machines;
    const dueMs = Math.min(overlay.nextTimeoutMs(), directory.nextTimeoutMs(), presence.nextTimeoutMs());
    if (this.#cancelTimer !== undefined && dueMs >= this.#timerAtMs) return;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#timerAtMs = dueMs;
    if (dueMs === Number.POSITIVE_INFINITY) return;
    this.#cancelTimer = this.#context.clock.schedule(dueMs, () => {
      this.#cancelTimer = undefined;
      this.#timerAtMs = Number.POSITIVE_INFINITY;
      this.#feed((now, all) => {
        all.overlay.handleTimeout(now);
        all.directory.handleTimeout(now);
        all.presence.handleTimeout(now);
      });
    });
  }

  #call(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.#context.log.error(
        `after a change of membership: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }
}

function listen<T>(listeners: Set<T>, listener: T): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
