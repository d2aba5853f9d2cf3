/** What the local API may ask of the message history. Fields may be added, never renamed. */

export interface HistoryMessageView {
  /** Grows with every message. */
  readonly id: number;
  /** "direct" or "group" */
  readonly kind: string;
  /** Name of the group, or of the direct message (empty: it has none). */
  readonly conversation: string;
  /** Whose message it is on this node: "node", or an agent. */
  readonly agent: string;
  readonly from: { readonly id: string; readonly name: string };
  /** Of a message that this node sent to another one; null: to this node or the group. */
  readonly to: { readonly id: string; readonly name: string } | null;
  /** Of the sender; empty: the node itself. */
  readonly fromAgent: string;
  /** RFC 3339, when it came */
  readonly at: string;
  /** null: not UTF-8 */
  readonly text: string | null;
  /** base64, at most the first 64 KiB */
  readonly payload: string;
}

export interface HistoryFigures {
  readonly messages: number;
  readonly bytes: number;
  readonly maxMessages: number;
  readonly maxBytes: number;
}

export interface HistoryControl {
  /**
   * The latest first.
   * @param typed words, "phrases" and begin* that must all be there; empty: everything @param agent whose messages
   * @param before an id; undefined: from the latest @param limit 1–500
   */
  search(
    typed: string,
    agent: string,
    before: number | undefined,
    limit: number,
  ): Promise<readonly HistoryMessageView[]>;
  figures(): HistoryFigures;
}
