/** What the local API may ask of publish/subscribe. Fields may be added, never renamed. */

export interface TopicView {
  readonly topic: string;
  /** Why this node takes part: it has subscribers, carries it for others, or only publishes. */
  readonly role: "subscriber" | "volunteer" | "publisher";
  readonly subscribers: number;
  /** Links that carry messages, and links that only say what there is. */
  readonly eager: number;
  readonly lazy: number;
  readonly publishers: number;
  /** Messages kept in memory. */
  readonly cached: number;
  /** Streams with something missing. */
  readonly missing: number;
}

export interface PublishView {
  /** Names the message in its topic. */
  readonly id: string;
  readonly topic: string;
  readonly sequence: number;
  /** Neighbours it was handed to at once; 0 when nobody else is known to subscribe. */
  readonly neighbours: number;
}

export interface TopicMessageView {
  readonly id: string;
  readonly topic: string;
  readonly from: { readonly id: string; readonly name: string };
  /** Id of the agent that published, when a valid lease places it on `from`; null: the node itself, or not proven (yet). */
  readonly agent: string | null;
  readonly sequence: number;
  /** RFC 3339, by the publisher's clock */
  readonly publishedAt: string;
  /** Position in this node's order of arrival. */
  readonly cursor: number;
  /** null when it is no UTF-8 */
  readonly text: string | null;
  /** base64 */
  readonly data: string;
}

export type TopicEvent =
  | { readonly event: "message"; readonly data: TopicMessageView }
  /** Order was asked for, and these are not coming. */
  | {
      readonly event: "missing";
      readonly data: {
        readonly from: { readonly id: string; readonly name: string };
        readonly first: number;
        readonly last: number;
      };
    }
  /** This subscription was too slow: so many of its oldest messages are gone. */
  | { readonly event: "dropped"; readonly data: { readonly count: number } };

export interface PubSubPeerView {
  readonly peer: { readonly id: string; readonly name: string };
  readonly score: number;
  readonly sends: number;
  readonly timeouts: number;
  readonly firstDeliveries: number;
  readonly invalidFrames: number;
  /** Topics for which it is spared because it was too slow. */
  readonly cooled: readonly string[];
}

/** Every method may throw WeftError NOT_READY, TOPIC_INVALID, TOPIC_LIMIT. */
export interface PubSubControl {
  topics(): readonly TopicView[];
  /** @param agent a local agent, "node" for the node itself @throws WeftError MESSAGE_TOO_BIG, AGENT_UNKNOWN */
  publish(agent: string, topic: string, payload: Uint8Array): PublishView;
  /** @returns ends it @throws WeftError SUBSCRIBER_LIMIT */
  subscribe(topic: string, isOrdered: boolean, listener: (event: TopicEvent) => void): () => void;
  /** Retained messages in the order of their arrival here. @param after cursor of the last one known, 0 begins @param limit 1–1000 */
  messages(topic: string, after: number, limit: number): Promise<readonly TopicMessageView[]>;
  peers(): readonly PubSubPeerView[];
}
