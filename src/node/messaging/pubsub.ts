/**
 * Publish/subscribe in a running node: the machine of src/messaging/pubsub with the real clock, links, directory, threads for signatures and
 * the retained log.
 *
 *   frames PUBSUB 1–31 ──► receive queue ──► (64 at a time, the event loop in between) ──► machine ──► links, subscribers, log, directory
 *
 * The transport never waits for it: what comes too fast is shed by the machine's rules. Source: docs/protocol.md, "Publish/subscribe".
 */
import type { MetricSample } from "../../api/control.ts";
import type { DeliveryFact, MessagingControl } from "../../api/messaging/control.ts";
import { toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { formatNodeId } from "../../crypto/node-id.ts";
import { type TopicDirectory, TopicRole } from "../../messaging/directory/types.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import { PubSub } from "../../messaging/pubsub/pubsub.ts";
import type { FollowRole, PubSubOutput, SendTicket } from "../../messaging/pubsub/types.ts";
import type { FrameTypes, MessagingPart, PartContext } from "./part.ts";
import { PubSubLog } from "./pubsub-log.ts";
import { PubSubPanel } from "./pubsub-panel.ts";
import { VerifyPool } from "./verify-pool.ts";

/** Purpose of the signatures. */
const SIGN_KIND = "publish";
const FRAMES_AT_ONCE = 64;
const MAX_TRIED_MEMBERS = 32;
const MAX_LOG_BYTES = 256 * 1_048_576;
/** Of the message store, for the retained log. */
const LOG_SHARE = 4;
const ROLES: Readonly<Record<FollowRole, TopicRole>> = {
  subscriber: TopicRole.SUBSCRIBER,
  volunteer: TopicRole.VOLUNTEER,
  source: TopicRole.VISITOR,
};

export interface PubSubPartDeps {
  readonly topics: TopicDirectory;
  /** Key of a local agent; undefined for "node". @throws WeftError AGENT_UNKNOWN */
  agentKey(name: string): Uint8Array | undefined;
  /** Does a valid lease place that agent on that node? */
  livesOn(agent: Uint8Array, nodeId: Uint8Array): boolean;
}

export class PubSubPart implements MessagingPart {
  readonly name = "pubsub";
  readonly types: readonly FrameTypes[] = [[FrameChannel.PUBSUB, 1, 31]];
  readonly channels: NonNullable<MessagingPart["channels"]> = {
    [FrameChannel.PUBSUB]: (from, frame) => {
      this.#machine.receive(this.#context.clock.now(), toHex(from), frame);
      this.#drainSoon();
    },
  };
  readonly control: Partial<MessagingControl>;
  readonly #context: PartContext;
  readonly #deps: PubSubPartDeps;
  readonly #machine: PubSub;
  readonly #pool: VerifyPool;
  readonly #log: PubSubLog;
  readonly #panel: PubSubPanel;
  #stopListening: (() => void) | undefined;
  #cancelTimer: (() => void) | undefined;
  #timerAtMs: number = Number.POSITIVE_INFINITY;
  #isDraining = false;
  #isSettling = false;
  #isClosed = false;

  constructor(context: PartContext, deps: PubSubPartDeps) {
    this.#context = context;
    this.#deps = deps;
    const { clock, identity } = context;
    this.#log = new PubSubLog(
      context.store,
      clock,
      context.log,
      Math.min(MAX_LOG_BYTES, context.config.storeBytes / LOG_SHARE),
    );
    this.#pool = new VerifyPool(
      SIGN_KIND,
      clock,
      () => context.networkId(),
      (id, isGood) => {
        this.#machine.verified(clock.now(), id, isGood);
        this.#drainSoon();
        this.#settle();
      },
    );
    this.#machine = new PubSub(
      {
        nodeId: identity.nodeId,
        random: context.random,
        directory: { sample: (topic, count) => this.#sample(topic, count) },
        sign: (body) => identity.sign(SIGN_KIND, this.#network(), body),
        isMember: (publisher) => context.find(publisher) !== undefined,
        verify: (id, publisher, body, signature) =>
          this.#pool.check({ id, publisher, body, signature }, (publisher[0] << 8) ^ (publisher[1] << 4) ^ body[1]),
        rttMs: (peer) => context.rttMs(Uint8Array.fromHex(peer)),
      },
      clock.now(),
      { hasLog: true },
    );
    this.#panel = new PubSubPanel({
      machine: this.#machine,
      log: this.#log,
      now: () => clock.now(),
      nodeRef: (nodeId) => ({ id: formatNodeId(nodeId), name: context.find(nodeId)?.name ?? "" }),
      agentKey: (name) => deps.agentKey(name),
      livesOn: (agent, nodeId) => deps.livesOn(agent, nodeId),
      settle: () => this.#settle(),
      ready: () => void this.#network(),
    });
    this.control = { pubsub: this.#panel };
  }

  async start(): Promise<void> {
    await this.#log.start();
    this.#stopListening = this.#deps.topics.onSubscribers((topic) => {
      this.#machine.subscribersChanged(this.#context.clock.now(), topic);
      this.#settle();
    });
    for (const topic of this.#context.config.volunteer) this.#machine.volunteer(this.#context.clock.now(), topic, true);
    this.#settle();
  }

  async close(): Promise<void> {
    this.#stopListening?.();
    this.#panel.close();
    this.#settle();
    this.#isClosed = true;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#pool.close();
    await this.#log.close();
  }

  peerUp(nodeId: Uint8Array): void {
    this.#machine.peerUp(this.#context.clock.now(), toHex(nodeId));
    this.#settle();
  }

  peerDown(nodeId: Uint8Array): void {
    this.#machine.peerDown(this.#context.clock.now(), toHex(nodeId));
    this.#settle();
  }

  memberGone(nodeId: Uint8Array): void {
    this.#machine.peerGone(this.#context.clock.now(), toHex(nodeId));
    this.#settle();
  }

  metrics(): readonly MetricSample[] {
    return this.#panel.metrics(this.#pool, this.#log);
  }

  delivery(nodeId: Uint8Array): readonly DeliveryFact[] {
    return this.#panel.delivery(toHex(nodeId));
  }

  diagnostics(): unknown {
    return this.#panel.diagnostics(this.#pool, this.#log);
  }

  /** In a small network, whoever is there is asked when the directory knows nobody yet; who does not take part says so. */
  #sample(topic: string, count: number): readonly string[] {
    const known = this.#deps.topics.sample(topic, count);
    const members = this.#context.members();
    if (known.length > 0 || members.length > MAX_TRIED_MEMBERS) return known.map(toHex);
    const self = toHex(this.#context.identity.nodeId);
    return members
      .filter(({ nodeId }) => this.#context.isUp(nodeId))
      .map(({ nodeId }) => toHex(nodeId))
      .filter((peer) => peer !== self)
      .slice(0, count);
  }

  /** @throws WeftError NOT_READY */
  #network(): Uint8Array {
    const networkId = this.#context.networkId();
    if (networkId === undefined)
      throw new WeftError("NOT_READY", "this node is in no network yet", "weft up --join, then try again");
    return networkId;
  }

  /** Works off what was received, a little at a time, so that everything else has its turn in between. */
  #drainSoon(): void {
    if (this.#isDraining || this.#isClosed) return;
    this.#isDraining = true;
    setImmediate(() => {
      this.#isDraining = false;
      if (this.#isClosed) return;
      const isMore = this.#machine.process(this.#context.clock.now(), FRAMES_AT_ONCE);
      this.#settle();
      if (isMore) this.#drainSoon();
    });
  }

  #settle(): void {
    // what is done in between is seen by the loop that runs
    if (this.#isSettling || this.#isClosed) return;
    this.#isSettling = true;
    try {
      for (let output = this.#machine.pollOutput(); output !== undefined; output = this.#machine.pollOutput())
        this.#follow(output);
    } finally {
      this.#isSettling = false;
    }
    this.#arm();
  }

  #follow(output: PubSubOutput): void {
    switch (output.kind) {
      case "send":
        return this.#send(output.ticket);
      case "wake":
        return this.#panel.wake(output.subscription);
      case "retain":
        return this.#log.put(output.message, output.frame);
      case "read":
        void this.#log.read(output.read).then((frames) => {
          this.#machine.logRead(this.#context.clock.now(), output.read, frames);
          this.#settle();
        });
        return;
      case "follow":
        try {
          this.#deps.topics.follow(output.topic, ROLES[output.role]);
        } catch (error) {
          this.#context.log.warn(`"${output.topic}" is not in the directory: ${(error as Error).message}`);
        }
        return;
      case "unfollow":
        return this.#deps.topics.unfollow(output.topic);
      case "log":
        this.#context.log[output.level](output.text);
    }
  }

  #send(ticket: SendTicket): void {
    const { clock, links } = this.#context;
    const taken = links.send(Uint8Array.fromHex(ticket.peer), FrameChannel.PUBSUB, ticket.frame, (fate) => {
      this.#machine.sent(clock.now(), ticket, fate);
      this.#settle();
    });
    if (taken !== "accepted") this.#machine.sent(clock.now(), ticket, taken);
  }

  #arm(): void {
    const dueMs = this.#machine.nextTimeoutMs;
    if (this.#cancelTimer !== undefined && dueMs >= this.#timerAtMs) return;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#timerAtMs = dueMs;
    if (dueMs === Number.POSITIVE_INFINITY) return;
    this.#cancelTimer = this.#context.clock.schedule(dueMs, () => {
      this.#cancelTimer = undefined;
      this.#timerAtMs = Number.POSITIVE_INFINITY;
      this.#machine.handleTimeout(this.#context.clock.now());
      this.#settle();
    });
  }
}
