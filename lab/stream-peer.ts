/**
 * A real node with its interface (createNode) in a lab host, that sends a stream to another one and takes those that come:
 *
 *   bin/weft-node lab/stream-peer.ts --state DIR --name NAME
 *
 * One JSON object per line on standard input, one line of answer each; the end of standard input stops the node:
 *   {"join": token}                        joins and starts
 *   {"peer": name}                         {"online", "kind", "via", "pmtu"}: how that node is reached
 *   {"send": name, "bytesPerSecond": n}    opens a stream and begins to send: {"generation"}
 *   {"progress": true}                     {"sent", "arrived": bytes the other side has acknowledged, "generation", "failure": text or null}
 *   {"finish": true}                       ends it and waits: {"sent", "sentHash", "arrived", "arrivedHash", "generation", "nextGeneration": of a further stream}
 */
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { createNode, StreamClass, type WeftNode } from "../src/node/index.ts";
import { Flow, take } from "./stream-flow.ts";

const KIND = "lab-bytes";

interface Request {
  readonly join?: string;
  readonly peer?: string;
  readonly send?: string;
  readonly bytesPerSecond?: number;
  readonly progress?: boolean;
  readonly finish?: boolean;
}

const { values } = parseArgs({ options: { state: { type: "string" }, name: { type: "string" } } });
let node: WeftNode | undefined;
let flow: Flow | undefined;

function running<T>(part: T | undefined, what: string): T {
  if (part === undefined) throw new Error(`there is no ${what} yet`);
  return part;
}

async function answer(request: Request): Promise<object> {
  if (request.join !== undefined) {
    node = await createNode({
      stateDirectory: values.state ?? "",
      join: request.join,
      config: { name: values.name ?? "" },
    });
    node.streams.serve(KIND, take);
    return {};
  }
  const { control, streams } = running(node, "node");
  if (request.peer !== undefined) {
    const peer = control.peers().find(({ name }) => name === request.peer);
    return { online: peer?.online === true, kind: peer?.path.kind ?? "none", via: peer?.path.via, pmtu: peer?.pmtu };
  }
  if (request.send !== undefined) {
    const stream = await streams.open(request.send, { kind: KIND, class: StreamClass.BULK });
    flow = new Flow(request.send, stream, request.bytesPerSecond ?? 1_000_000);
    return { generation: stream.generation };
  }
  const { sent, arrived, failure, stream, to } = running(flow, "stream");
  if (request.progress === true) return { sent, arrived, failure, generation: stream.generation };
  if (request.finish !== true) throw new Error("no such request");
  const result = await running(flow, "stream").finish();
  const next = await streams.open(to, { kind: KIND });
  next.on("error", () => undefined);
  next.resume().end();
  return { sent: flow?.sent, ...result, generation: stream.generation, nextGeneration: next.generation };
}

for await (const line of createInterface({ input: process.stdin })) {
  let result: object;
  try {
    result = await answer(JSON.parse(line) as Request);
  } catch (error) {
    result = { error: (error as Error).message };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
await node?.stop();
process.exit(0);
