/** Publish/subscribe as the local API, the metrics and the diagnostics see it: views of the machine, listeners of subscriptions. */
import type { MetricSample } from "../../api/control.ts";
import type { DeliveryFact } from "../../api/messaging/control.ts";
import type {
  PublishView,
  PubSubControl,
  PubSubPeerView,
  TopicEvent,
  TopicMessageView,
  TopicView,
} from "../../api/messaging/pubsub-control.ts";
import { payloadView } from "../../api/fields.ts";
import type { Now } from "../../base/clock.ts";
import { formatAgentId } from "../../messaging/agents/agent-id.ts";
import { decodeMessage, streamRefOf, wallOf } from "../../messaging/pubsub/message.ts";
import type { PubSub } from "../../messaging/pubsub/pubsub.ts";
import { REFUSED_BELOW } from "../../messaging/pubsub/scores.ts";
import type { PeerKey, ReceivedMessage, SubscriberEvent } from "../../messaging/pubsub/types.ts";
import type { PubSubLog } from "./pubsub-log.ts";
import type { VerifyPool } from "./verify-pool.ts";

const MAX_LISTED = 100;

interface NodeRef {
  readonly id: string;
  readonly name: string;
}

export interface PubSubPanelDeps {
  readonly machine: PubSub;
  readonly log: PubSubLog;
  now(): Now;
  nodeRef(nodeId: Uint8Array): NodeRef;
  agentKey(name: string): Uint8Array | undefined;
  /** The publisher alone signs: what it says about its agent counts only with a lease that places the agent there. */
  livesOn(agent: Uint8Array, nodeId: Uint8Array): boolean;
  /** Does what the machine wants done. */
  settle(): void;
  /** @throws WeftError NOT_READY before this node is in a network */
  ready(): void;
}

export class PubSubPanel implements PubSubControl {
  readonly #deps: PubSubPanelDeps;
  readonly #listeners = new Map<number, (event: TopicEvent) => void>();
  #unprovenAgents = 0;

  constructor(deps: PubSubPanelDeps) {
    this.#deps = deps;
  }

  topics(): readonly TopicView[] {
    const subscribers = Map.groupBy(this.#deps.machine.subscribers(), (one) => one.topic);
    return this.#deps.machine.topics().map((topic) => ({
      topic: topic.name,
      role: topic.isSource ? "publisher" : subscribers.has(topic.name) ? "subscriber" : "volunteer",
      subscribers: subscribers.get(topic.name)?.length ?? 0,
      eager: topic.tree.eager,
      lazy: topic.tree.lazy,
      publishers: topic.streams.size,
      cached: topic.cache.size,
      missing: topic.recovery.missing,
    }));
  }

  publish(agent: string, topic: string, payload: Uint8Array): PublishView {
    this.#deps.ready();
    const key = this.#deps.agentKey(agent);
    const done = this.#deps.machine.publish(this.#deps.now(), topic, payload, key);
    this.#deps.settle();
    return { id: `${done.ref}-${done.sequence}`, topic, sequence: done.sequence, neighbours: done.neighbours };
  }

  subscribe(topic: string, isOrdered: boolean, listener: (event: TopicEvent) => void): () => void {
    const { machine } = this.#deps;
    const { id } = machine.subscribe(this.#deps.now(), topic, { isOrdered });
    this.#listeners.set(id, listener);
    this.#deps.settle();
    return () => {
      if (!this.#listeners.delete(id)) return;
      machine.unsubscribe(this.#deps.now(), id);
      this.#deps.settle();
    };
  }

  async messages(topic: string, after: number, limit: number): Promise<readonly TopicMessageView[]> {
    const views: TopicMessageView[] = [];
    for (const { cursor, frame } of await this.#deps.log.after(topic, after, limit)) {
      const message = decodeMessage(frame);
      if (message === undefined) continue;
      const ref = streamRefOf(message.publisher, message.epoch);
      views.push(this.#view({ ...message, topic, ref, cursor }));
    }
    return views;
  }

  peers(): readonly PubSubPeerView[] {
    const { machine } = this.#deps;
    const cooled = Map.groupBy(machine.cooled(), (one) => one.peer);
    return machine
      .scores(this.#deps.now().nowMs)
      .map(({ peer, score, sends, timeouts, firstDeliveries, invalidFrames }) => ({
        peer: this.#deps.nodeRef(Uint8Array.fromHex(peer)),
        score: round(score),
        sends: round(sends),
        timeouts: round(timeouts),
        firstDeliveries: round(firstDeliveries),
        invalidFrames: round(invalidFrames),
        cooled: (cooled.get(peer) ?? []).map((one) => this.#nameOf(one.topic)),
      }));
  }

  /** A subscription has events. */
  wake(id: number): void {
    const listener = this.#listeners.get(id);
    if (listener === undefined) return;
    for (let event = this.#deps.machine.poll(id); event !== undefined; event = this.#deps.machine.poll(id)) {
      const told = this.#event(event);
      if (told !== undefined) listener(told);
    }
  }

  close(): void {
    for (const id of this.#listeners.keys()) this.#deps.machine.unsubscribe(this.#deps.now(), id);
    this.#listeners.clear();
  }

  metrics(pool: VerifyPool, log: PubSubLog): readonly MetricSample[] {
    const samples: MetricSample[] = [];
    const add = (name: string, type: "counter" | "gauge", help: string, value: number): void => {
      samples.push({ name, type, help, labels: {}, value });
    };
    for (const [name, value] of Object.entries(this.#deps.machine.counters))
      add(`weft_pubsub_${snake(name)}_total`, "counter", `Publish/subscribe: ${words(name)}.`, value);
    for (const [name, value] of Object.entries(this.#deps.machine.gauges))
      add(`weft_pubsub_${snake(name)}`, "gauge", `Publish/subscribe now: ${words(name)}.`, value);
    add(
      "weft_pubsub_unproven_agents_total",
      "counter",
      "Messages whose agent is not shown: no valid lease places it on the publisher.",
      this.#unprovenAgents,
    );
    add("weft_pubsub_topics", "gauge", "Topics that this node takes part in.", this.#deps.machine.topics().length);
    add("weft_pubsub_cooled", "gauge", "Pairs of peer and topic that are spared.", this.#deps.machine.cooled().length);
    add("weft_pubsub_verify_threads", "gauge", "Threads that check signatures.", pool.threads);
    add("weft_pubsub_verify_inline_total", "counter", "Signatures checked at once.", pool.counters.inline);
    add("weft_pubsub_verify_threads_total", "counter", "Signatures checked in threads.", pool.counters.inThreads);
    add("weft_pubsub_log_bytes", "gauge", "Bytes of the retained log.", log.storedBytes);
    add("weft_pubsub_log_dropped_total", "counter", "Messages that the disk was too slow for.", log.dropped);
    add("weft_pubsub_log_trimmed_total", "counter", "Messages that went at the quota of the log.", log.trimmed);
    return samples;
  }

  delivery(peer: PeerKey): readonly DeliveryFact[] {
    const { machine } = this.#deps;
    const { nowMs } = this.#deps.now();
    const cooled = machine.cooled().filter((one) => one.peer === peer);
    const score = machine.scores(nowMs).find((one) => one.peer === peer);
    const shared = machine.topics().filter((topic) => topic.tree.link(peer) !== undefined);
    const isRefused = score !== undefined && score.score < REFUSED_BELOW;
    const figures = {
      topics: shared.length,
      cooledTopics: cooled.length,
      score: round(score?.score ?? 0),
      timeouts: round(score?.timeouts ?? 0),
    };
    if (isRefused)
      return [
        fact(
          false,
          "refused",
          "its frames were invalid too often; they are not taken for a while",
          "update that node",
          figures,
        ),
      ];
    if (cooled.length > 0)
      return [
        fact(
          false,
          "cooled",
          `too slow for ${cooled.length} topics, spared until it answers a probe; messages reach it when it asks`,
          "look at that node's load and its path",
          figures,
        ),
      ];
    return [fact(true, "neighbours", `a neighbour in ${shared.length} topics`, "", figures)];
  }

  diagnostics(pool: VerifyPool, log: PubSubLog): unknown {
    const { machine } = this.#deps;
    const { nowMs } = this.#deps.now();
    return {
      counters: { ...machine.counters },
      gauges: machine.gauges,
      topics: this.topics().slice(0, MAX_LISTED),
      peers: this.peers().slice(0, MAX_LISTED),
      cooled: machine
        .cooled()
        .slice(0, MAX_LISTED)
        .map(({ peer, topic, phase, dueMs, coolMs }) => ({
          peer: this.#deps.nodeRef(Uint8Array.fromHex(peer)),
          topic: this.#nameOf(topic),
          phase,
          inMs: Math.max(0, Math.round(dueMs - nowMs)),
          coolMs,
        })),
      subscribers: machine
        .subscribers()
        .slice(0, MAX_LISTED)
        .map(({ topic, isOrdered, waiting, bytes, dropped, delivered }) => ({
          topic,
          isOrdered,
          waiting,
          bytes,
          dropped,
          delivered,
        })),
      verify: { threads: pool.threads, backlog: pool.backlog, ...pool.counters },
      log: { bytes: log.storedBytes, dropped: log.dropped, trimmed: log.trimmed },
    };
  }

  #event(event: SubscriberEvent): TopicEvent | undefined {
    switch (event.kind) {
      case "message":
        return { event: "message", data: this.#view(event.message) };
      case "dropped":
        return { event: "dropped", data: { count: event.count } };
      case "gap":
        return {
          event: "missing",
          data: { from: this.#deps.nodeRef(event.publisher), first: event.from, last: event.to },
        };
      case "missed":
        // nobody asks to go on here: the API has its own ring
        return undefined;
    }
  }

  #view(message: ReceivedMessage): TopicMessageView {
    const { ref, topic, publisher, agent, sequence, hlc, cursor, payload } = message;
    return {
      id: `${ref}-${sequence}`,
      topic,
      from: this.#deps.nodeRef(publisher),
      agent: this.#agentOf(agent, publisher),
      sequence,
      publishedAt: new Date(wallOf(hlc)).toISOString(),
      cursor,
      ...payloadView(payload),
    };
  }

  #agentOf(agent: Uint8Array | undefined, publisher: Uint8Array): string | null {
    if (agent === undefined) return null;
    if (this.#deps.livesOn(agent, publisher)) return formatAgentId(agent);
    this.#unprovenAgents++;
    return null;
  }

  #nameOf(topicHex: string): string {
    return this.#deps.machine.topics().find((topic) => topic.hex === topicHex)?.name ?? topicHex;
  }
}

function fact(
  ok: boolean,
  code: string,
  text: string,
  remedy: string,
  figures: Readonly<Record<string, number>>,
): DeliveryFact {
  return { part: "pubsub", stage: "publish", ok, code, text, remedy, figures };
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function snake(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function words(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}
