import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { concat } from "../../../base/bytes.ts";
import { u64 } from "../../../messaging/fields.ts";
import {
  ANSWER_HEADER_BYTES,
  decodeRequest,
  FileCode,
  FileRequest,
  FILES_KIND,
  REQUEST_BYTES,
  writeAnswerHeader,
} from "../../../messaging/files/frames.ts";
import { CHUNK_BYTES, chunkLength } from "../../../messaging/files/tree.ts";
import type { MeshStream } from "../../../stream/types.ts";
import type { ServiceContext } from "../services/context.ts";
import { readBytes } from "../services/splice.ts";
import { createTestPair, type TestPair } from "../services/testing.ts";
import { Fetch } from "./fetch.ts";
import { type Source, sourceOf } from "./testing.ts";

let world: TestPair;
afterEach(() => world.close());

type Twist = (type: number, index: number, bytes: Uint8Array, stream: number) => Uint8Array | undefined;

/** Serves by hand. @param twist may change the bytes of an answer, or return undefined to leave it out @param volunteers type of what is sent without having been asked for */
function serve(
  { shape, leaves, bytes }: Source,
  twist: Twist,
  volunteers?: FileRequest,
): { streams: number; pages: number; asked: number[] } {
  /** Chunks asked for, by stream. */
  const seen = { streams: 0, pages: 0, asked: [] as number[] };
  const signal = new AbortController().signal;
  const run = async (stream: MeshStream): Promise<void> => {
    const which = seen.streams++;
    seen.asked[which] = 0;
    const say = (type: number, index: number, answer: Uint8Array): void => {
      const twisted = twist(type, index, answer, which);
      if (twisted === undefined) return;
      const out = new Uint8Array(ANSWER_HEADER_BYTES + twisted.length);
      out.set(twisted, ANSWER_HEADER_BYTES);
      writeAnswerHeader(out, type, FileCode.OK, index, twisted.length);
      stream.write(out);
    };
    for (;;) {
      const request = decodeRequest(await readBytes(stream, REQUEST_BYTES, signal));
      if (request === undefined) return;
      const { type, first, count } = request;
      if (type === FileRequest.DESCRIBE) {
        say(type, 0, concat(u64(shape.sizeBytes), shape.pageRoots));
        if (volunteers === FileRequest.CHUNKS) say(volunteers, 0, bytes.slice(0, CHUNK_BYTES));
        if (volunteers === FileRequest.DESCRIBE) say(volunteers, 0, concat(u64(shape.sizeBytes), shape.pageRoots));
      } else if (type === FileRequest.PAGE) {
        seen.pages++;
        say(type, first, leaves);
      } else {
        seen.asked[which] += count;
        for (let chunk = first; chunk < first + count; chunk++) {
          const at = chunk * CHUNK_BYTES;
          say(type, chunk, bytes.slice(at, at + chunkLength(bytes.length, chunk)));
        }
      }
    }
  };
  world.pair.server.serve(FILES_KIND, (stream) => void run(stream).catch(() => undefined));
  return seen;
}

type Open = ServiceContext["streams"]["open"];

function fetchOf(
  source: Source,
  opener: (open: Open, two: Uint8Array) => Open = (open) => open,
): { fetch: Fetch; abort: AbortController; over: Promise<void>; directory: string } {
  const [one, two] = world.nodes;
  const directory = join(one.context.stateDirectory, "job");
  const streams = { ...one.context.streams, open: opener(one.context.streams.open, two.nodeId) };
  const fetch = new Fetch(
    { ...one.context, streams },
    {
      id: source.shape.id,
      directory,
      shape: undefined,
      figures: { chunksBad: 0, chunksLate: 0, bytesFetched: 0 },
      reserve: () => undefined,
      onShape: () => Promise.resolve(),
    },
  );
  fetch.addSource(two.nodeId);
  const abort = new AbortController();
  return { fetch, abort, over: fetch.run(abort.signal), directory };
}

const LIES: readonly (readonly [name: string, twist: Twist, why: RegExp])[] = [
  [
    "another size",
    (type, _, bytes) => (type === FileRequest.DESCRIBE ? concat(u64(7), bytes.subarray(8)) : bytes),
    /not true/,
  ],
  [
    "other hashes",
    (type, _, bytes) => (type === FileRequest.PAGE ? bytes.map((byte, i) => (i === 40 ? byte ^ 1 : byte)) : bytes),
    /hashes are not the file's/,
  ],
  [
    "a chunk with one wrong bit",
    (type, index, bytes) =>
      type === FileRequest.CHUNKS && index === 3 ? bytes.map((byte, i) => (i === 1_000 ? byte ^ 1 : byte)) : bytes,
    /bytes that are not the file's/,
  ],
  [
    "a chunk that is too short",
    (type, index, bytes) => (type === FileRequest.CHUNKS && index === 2 ? bytes.subarray(1) : bytes),
    /bytes that are not the file's/,
  ],
];

for (const [name, twist, why] of LIES) {
  test(`a source that sends ${name} is not asked again, and nothing wrong is kept`, async () => {
    world = createTestPair();
    const source = sourceOf(randomBytes(6 * CHUNK_BYTES + 9));
    const seen = serve(source, twist);
    const { fetch, abort, over, directory } = fetchOf(source);
    const [entry] = fetch.sources.values();
    for (let i = 0; i < 500 && entry.state !== "banned"; i++) await sleep(10);
    assert.equal(entry.state, "banned");
    assert.match(entry.error as string, why);
    await sleep(700);
    assert.equal(seen.streams, 1);
    abort.abort(new Error("enough"));
    await assert.rejects(over, /enough/);
    const data = join(directory, "data");
    if (!existsSync(data)) return;
    const kept = readFileSync(data);
    // every byte on disk is the file's, or was never written
    for (let i = 0; i < kept.length; i++) assert.ok(kept[i] === source.bytes[i] || kept[i] === 0);
  });
}

for (const type of [FileRequest.CHUNKS, FileRequest.DESCRIBE]) {
  test(`a source that sends what nobody asked for is not asked again: type ${type}`, async () => {
    world = createTestPair();
    const source = sourceOf(randomBytes(2 * CHUNK_BYTES));
    // the chunks stay away, so that it cannot be over before
    serve(source, (kind, _, bytes) => (kind === FileRequest.CHUNKS && kind !== type ? undefined : bytes), type);
    const { fetch, abort, over } = fetchOf(source);
    const [entry] = fetch.sources.values();
    for (let i = 0; i < 500 && entry.state !== "banned"; i++) await sleep(10);
    assert.match(entry.error as string, /was not asked/);
    abort.abort(new Error("enough"));
    await assert.rejects(over, /enough/);
  });
}

test("a source that keeps the hashes of a page to itself does not keep the file from the others", async () => {
  world = createTestPair();
  const source = sourceOf(randomBytes(3 * CHUNK_BYTES));
  const seen = serve(source, (type, _, bytes, stream) =>
    type === FileRequest.PAGE && stream === 0 ? undefined : bytes,
  );
  const { fetch, over, directory } = fetchOf(source, (open, two) => (_, options) => open(two, options));
  for (let i = 0; i < 500 && seen.pages === 0; i++) await sleep(10);
  // another member, whose streams end at the same server
  fetch.addSource(randomBytes(32));
  await over;
  assert.equal(seen.streams, 2);
  assert.ok(readFileSync(join(directory, "data")).equals(Buffer.from(source.bytes)));
});

test("a source whose stream breaks is asked again, and only for what is missing", async () => {
  world = createTestPair();
  const source = sourceOf(randomBytes(40 * CHUNK_BYTES));
  let leavesOut = true;
  const seen = serve(source, (type, index, bytes) => {
    if (type !== FileRequest.CHUNKS || index !== 20 || !leavesOut) return bytes;
    leavesOut = false;
    return undefined;
  });
  const { fetch, over, directory } = fetchOf(source);
  for (let i = 0; i < 1_000 && fetch.haveBytes < 39 * CHUNK_BYTES; i++) await sleep(10);
  world.pair.server.peerRestarted(world.pair.clientId);
  await over;
  assert.ok(readFileSync(join(directory, "data")).equals(Buffer.from(source.bytes)));
  assert.deepEqual(seen.asked, [40, 1]);
});
