/** Two nodes for tests of services: real streams over a channel in memory, real sockets and files, no mesh. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { equal } from "../../../base/bytes.ts";
import { nullLogger } from "../../../base/log.ts";
import type { Logger } from "../../../base/log.ts";
import { formatNodeId } from "../../../crypto/node-id.ts";
import type { Member } from "../../../mesh/types.ts";
import { StreamPair } from "../../../stream/testing.ts";
import { systemClock } from "../../clock.ts";
import { systemRandom } from "../../random.ts";
import type { ServiceContext } from "./context.ts";

export interface TestNode {
  readonly context: ServiceContext;
  readonly nodeId: Uint8Array;
  /** Lines of the audit log. */
  readonly audit: string[];
}

export interface TestPair {
  readonly pair: StreamPair;
  /** Called "one" and "two". */
  readonly nodes: readonly [TestNode, TestNode];
  /** The node as after a restart: same key and directory, fresh streams; the other side's connection breaks. */
  restart(index: 0 | 1): TestNode;
  close(): void;
}

export function createTestPair(): TestPair {
  const pair = new StreamPair();
  const root = mkdtempSync(join(tmpdir(), "weft-services-"));
  for (const name of ["one", "two"]) mkdirSync(join(root, name));
  const ids = [pair.clientId, pair.serverId] as const;
  const names = ["one", "two"] as const;
  const members = ids.map((nodeId, i) => ({ nodeId, name: names[i], tags: [] }) as unknown as Member);
  const make = (index: 0 | 1): TestNode => {
    const audit: string[] = [];
    const log: Logger = { ...nullLogger, child: () => ({ ...nullLogger, info: (line) => void audit.push(line) }) };
    const nodeId = ids[index];
    const endpoint = index === 0 ? pair.client : pair.server;
    const current = replaced[index] ?? endpoint;
    return {
      nodeId,
      audit,
      context: {
        identity: { nodeId } as ServiceContext["identity"],
        random: systemRandom,
        clock: systemClock,
        log,
        streams: {
          open: (to, options) => current.open(to, options),
          serve: (kind, handler) => current.serve(kind, handler),
        },
        stateDirectory: join(root, names[index]),
        members: () => members,
        find: (wanted) => members.find((member) => equal(member.nodeId, wanted)),
        resolve: (query) => members.find((member) => member.name === query || formatNodeId(member.nodeId) === query),
        isUp: () => true,
      },
    };
  };
  const replaced: [StreamPair["client"] | undefined, StreamPair["client"] | undefined] = [undefined, undefined];
  const nodes: readonly [TestNode, TestNode] = [make(0), make(1)];
  return {
    pair,
    nodes,
    restart: (index) => {
      replaced[index] = pair.replace(index === 0 ? "client" : "server");
      return make(index);
    },
    close: () => {
      pair.close();
      rmSync(root, { recursive: true, force: true });
    },
  };
}
