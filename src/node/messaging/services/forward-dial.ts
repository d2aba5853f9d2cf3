/** Opens a connection through a peer: a stream with the target in its first bytes, and the peer's answer. Source: docs/protocol.md, "Forwards". */
import { answerName, encodeOpening, FORWARD_KIND, ForwardAnswer } from "../../../messaging/services/opening.ts";
import type { Target } from "../../../messaging/services/targets.ts";
import { type MeshStream, StreamClass } from "../../../stream/types.ts";
import type { ServiceContext } from "./context.ts";
import { readBytes } from "./splice.ts";

/** For session, stream and connection together. */
const DIAL_MS = 30_000;

/** Why there is no connection. */
export class ForwardError extends Error {
  readonly answer: ForwardAnswer;

  constructor(answer: ForwardAnswer, text: string) {
    super(text);
    this.answer = answer;
  }
}

/** @param signal ends the waiting @throws ForwardError */
export async function dialThrough(
  context: Pick<ServiceContext, "streams">,
  nodeId: Uint8Array,
  target: Target,
  signal: AbortSignal,
): Promise<MeshStream> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(DIAL_MS)]);
  let stream: MeshStream | undefined;
  try {
    // the class of publish/subscribe: whatever runs through it, messages do not wait for it
    stream = await context.streams.open(nodeId, { kind: FORWARD_KIND, class: StreamClass.PUBSUB });
    stream.write(encodeOpening(target));
    const [answer] = await readBytes(stream, 1, limit);
    if (answer === ForwardAnswer.CONNECTED) return stream;
    throw new ForwardError(answer as ForwardAnswer, `the other node says: ${answerName(answer)}`);
  } catch (error) {
    stream?.destroy();
    if (error instanceof ForwardError) throw error;
    throw new ForwardError(ForwardAnswer.UNREACHABLE, error instanceof Error ? error.message : String(error));
  }
}
