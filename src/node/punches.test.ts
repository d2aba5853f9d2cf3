/** What a witness tells about a member that it sees at addresses of both families. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  endpointToBytes,
  formatEndpoint,
  parseEndpoint,
  endpointFromBytes,
  virtualEndpoint,
} from "../base/endpoint.ts";
import { SeededRandom } from "../base/random.ts";
import type { PlanePath } from "../dataplane/messages.ts";
import type { MeshNode } from "../mesh/mesh-node.ts";
import { Mapping, type PunchControl } from "../mesh/punch/messages.ts";
import { PathState } from "../path/path.ts";
import type { PeerRecord, PeerTable } from "./peer-table.ts";
import { Punches } from "./punches.ts";

const endpoint = (text: string): Uint8Array => endpointToBytes(parseEndpoint(text)!);
const NODE = new Uint8Array(32).fill(1);
const ASKER = new Uint8Array(32).fill(2);

function path(bytes: Uint8Array, extra: Partial<PlanePath> = {}): PlanePath {
  return {
    endpoint: bytes,
    local: new Uint8Array(16),
    socket: 0,
    active: false,
    duplicate: false,
    state: PathState.ALIVE,
    reason: "",
    rttMs: 1,
    lossRatio: 0,
    mtuBytes: 1_500,
    lastReceivedAgoMs: 1,
    ...extra,
  };
}

async function seenAt(active: Uint8Array, paths: readonly PlanePath[]): Promise<string[]> {
  const told: string[] = [];
  const tell = (nodeId: Uint8Array, message: PunchControl): void => {
    assert.deepEqual(nodeId, ASKER);
    if (message.type === "seen") told.push(formatEndpoint(endpointFromBytes(message.endpoint)));
  };
  const peer = { slot: 3, nodeId: NODE, endpoint: active } as PeerRecord;
  const punches = new Punches({
    mesh: { ownEndpoints: [], memberById: () => ({ staticKey: NODE }), tell } as unknown as MeshNode,
    peers: () => ({ all: () => [peer], byKey: () => peer }) as unknown as PeerTable,
    random: new SeededRandom(1),
    send: () => undefined,
    figures: () => undefined,
    mapping: () => Mapping.UNKNOWN,
    paths: (slot) => Promise.resolve(slot === 3 ? paths : []),
    tell,
  });
  punches.handle({ nowMs: 0, wallMs: 0 }, ASKER, { type: "sight", node: NODE });
  await new Promise((resolve) => setImmediate(resolve));
  return told;
}

test("a witness names the address in use and those of other working direct paths", async () => {
  const [six, four] = [endpoint("[2001:db8::1]:9338"), endpoint("192.0.2.1:9338")];
  assert.deepEqual(await seenAt(six, [path(six, { active: true }), path(four)]), [
    "[2001:db8::1]:9338",
    "192.0.2.1:9338",
  ]);
});

test("it names no address that is dead, of another socket or of no underlay, and nothing of a member it reaches through others", async () => {
  const [six, four] = [endpoint("[2001:db8::1]:9338"), endpoint("192.0.2.1:9338")];
  const relayed = virtualEndpoint(1, 1, 7);
  const others = [path(four, { state: PathState.DEAD }), path(four, { socket: 2 }), path(relayed)];
  assert.deepEqual(await seenAt(six, [path(six, { active: true }), ...others]), ["[2001:db8::1]:9338"]);
  assert.deepEqual(await seenAt(relayed, [path(relayed, { active: true }), path(four)]), []);
});
