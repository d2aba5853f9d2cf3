/** A thread that checks signatures of published messages: a batch comes, the verdicts go back in the same order. */
import { parentPort } from "node:worker_threads";
import { verifySignature } from "../../crypto/identity.ts";

export interface VerifyJob {
  readonly id: number;
  readonly publisher: Uint8Array;
  readonly body: Uint8Array;
  readonly signature: Uint8Array;
}

export interface VerifyBatch {
  readonly kind: string;
  readonly networkId: Uint8Array;
  readonly jobs: readonly VerifyJob[];
}

export interface VerifyVerdict {
  readonly id: number;
  readonly isGood: boolean;
}

parentPort?.on("message", ({ kind, networkId, jobs }: VerifyBatch) => {
  const verdicts: VerifyVerdict[] = jobs.map(({ id, publisher, body, signature }) => ({
    id,
    isGood: verifySignature(publisher, kind, networkId, body, signature),
  }));
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
  parentPort?.postMessage(verdicts);
});
