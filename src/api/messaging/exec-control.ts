/** What the local API may ask of programs of other nodes. Fields may be added, never renamed. */

export interface ExecRequestView {
  /** Name, id or overlay address of the member whose program it is. */
  readonly node: string;
  /** As the member's configuration calls it. */
  readonly command: string;
  readonly args?: readonly string[] | undefined;
  /** Standard input is given with input(); else it is empty. @default false */
  readonly input?: boolean | undefined;
}

export interface ExecStarted {
  /** Names the run on this node. */
  readonly key: string;
  readonly node: { readonly id: string; readonly name: string };
}

export interface ExecChunk {
  readonly stream: "out" | "err";
  /** base64 */
  readonly data: string;
}

export interface ExecExit {
  /** Exit code; null when a signal ended it or it never ran. */
  readonly code: number | null;
  readonly signal: number | null;
  /** Why it was ended, or never ran; null when it ended by itself. */
  readonly reason: string | null;
}

export interface ExecOutput {
  readonly chunks: readonly ExecChunk[];
  /** To be given as `after` the next time: what is before it is forgotten then. */
  readonly next: number;
  /** null while it runs, or there is more to read. */
  readonly exit: ExecExit | null;
}

export interface ExecControl {
  /** What this node may run there. @throws WeftError NODE_UNKNOWN, EXEC_FAILED */
  commands(node: string): Promise<readonly string[]>;
  /** @throws WeftError NODE_UNKNOWN, EXEC_LIMIT, EXEC_BAD */
  run(request: ExecRequestView): ExecStarted;
  /**
   * Output from a position on; waits for some.
   * @param after 0, then `next` of the answer before @param waitMs at most 30,000 @throws WeftError EXEC_UNKNOWN
   */
  read(key: string, after: number, waitMs: number): Promise<ExecOutput>;
  /** Resolves when there is room for more. @param data base64, at most 32 KiB decoded @throws WeftError EXEC_UNKNOWN, EXEC_ENDED */
  input(key: string, data: string, end: boolean): Promise<void>;
  /** @throws WeftError EXEC_UNKNOWN */
  stop(key: string): void;
}
