import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { concat, toHex } from "../../../base/bytes.ts";
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
import { readBytes } from "../services/splice.ts";
import { createTestPair, type TestPair } from "../services/testing.ts";
import type { FetchJob } from "./fetch-job.ts";
import { Fetches } from "./fetches.ts";
import { type Source, sourceOf } from "./testing.ts";

/** A node that fetches from any number of members. All streams end at one server that knows files by id; some members never answer. */
class World {
  readonly pair: TestPair = createTestPair();
  readonly files = new Map<string, { source: Source; servesChunks: boolean }>();
  readonly silent = new Set<string>();
  readonly directory: string;
  readonly fetches: Fetches;
  readonly limits = { quotaBytes: 2_000_000, largestBytes: 2_000_000 };
  /** Ahead of the real clock. */
  aheadMs = 0;

  constructor() {
    const [one, two] = this.pair.nodes;
    this.directory = one.context.stateDirectory;
    this.pair.pair.server.serve(FILES_KIND, (stream) => void this.#serve(stream).catch(() => undefined));
    const now = (): { nowMs: number; wallMs: number } => ({
      nowMs: performance.now() + this.aheadMs,
      wallMs: Date.now() + this.aheadMs,
    });
    const open: typeof one.context.streams.open = (to, options) =>
      this.silent.has(toHex(to))
        ? new Promise((_, reject) => options.signal?.addEventListener("abort", () => reject(new Error("no"))))
        : one.context.streams.open(two.nodeId, options);
    this.fetches = new Fetches({
      context: {
        ...one.context,
        clock: { ...one.context.clock, now },
        streams: { ...one.context.streams, open },
      },
      directory: join(this.directory, "incoming"),
      keptFile: join(this.directory, "kept.json"),
      limits: this.limits,
      onDone: () => Promise.resolve(),
    });
  }

  async #serve(stream: MeshStream): Promise<void> {
    stream.on("error", () => undefined);
    for (;;) {
      const request = decodeRequest(await readBytes(stream, REQUEST_BYTES, new AbortController().signal));
      const file = request === undefined ? undefined : this.files.get(toHex(request.id));
      if (request === undefined || file === undefined) {
        stream.destroy();
        return;
      }
      const { type, first, count } = request;
      const { shape, leaves, bytes } = file.source;
      const say = (index: number, answer: Uint8Array): void => {
        const out = new Uint8Array(ANSWER_HEADER_BYTES + answer.length);
        out.set(answer, ANSWER_HEADER_BYTES);
        writeAnswerHeader(out, type, FileCode.OK, index, answer.length);
        stream.write(out);
      };
      if (type === FileRequest.DESCRIBE) say(0, concat(u64(shape.sizeBytes), shape.pageRoots));
      else if (type === FileRequest.PAGE) say(first, leaves);
      else if (file.servesChunks)
        for (let chunk = first; chunk < first + count; chunk++)
          say(chunk, bytes.slice(chunk * CHUNK_BYTES, chunk * CHUNK_BYTES + chunkLength(bytes.length, chunk)));
    }
  }

  /** A member that offers files and is never reached. */
  mute(): Uint8Array {
    const peer = randomBytes(32);
    this.silent.add(toHex(peer));
    return peer;
  }

  offer(peer: Uint8Array, sizeBytes: number, id: Uint8Array = randomBytes(32)): Promise<FetchJob> {
    const target = join(this.directory, "received");
    const offeredBy = toHex(peer);
    return this.fetches.add({ id, name: "file", target, exact: false, offeredBy, sources: [peer], sizeBytes });
  }

  file(sizeBytes: number, servesChunks: boolean): Uint8Array {
    const source = sourceOf(randomBytes(sizeBytes));
    this.files.set(toHex(source.shape.id), { source, servesChunks });
    return source.shape.id;
  }
}

let world: World;
afterEach(async () => {
  await world.fetches.close();
  world.pair.close();
});

async function start(): Promise<World> {
  world = new World();
  await world.fetches.start();
  return world;
}

async function until(look: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !look(); i++) await sleep(10);
  assert.ok(look(), "it did not come about");
}

test("a member that offers files and never serves them does not stop those of others", async () => {
  const { fetches } = await start();
  const mute = world.mute();
  for (let i = 0; i < 8; i++) await world.offer(mute, 10);
  assert.equal(fetches.running, 2);
  const honest = await world.offer(randomBytes(32), 5, world.file(5, true));
  await until(() => honest.state === "done");
});

test("members that never serve leave places to this node's own transfers, and give way to members that do", async () => {
  const { fetches } = await start();
  for (let peer = 0; peer < 3; peer++) {
    const mute = world.mute();
    for (let i = 0; i < 3; i++) await world.offer(mute, 10);
  }
  assert.equal(fetches.running, 6);
  const own = await fetches.add({
    id: world.file(7, true),
    name: "own",
    target: join(world.directory, "own"),
    exact: true,
    offeredBy: undefined,
    sources: [randomBytes(32)],
    sizeBytes: undefined,
  });
  await until(() => own.state === "done");
  const honest = await world.offer(randomBytes(32), 5, world.file(5, true));
  assert.equal(honest.state, "queued");
  world.aheadMs += 40_000;
  await until(() => honest.state === "done");
});

test("an offer that never comes is given up after a day, one that has begun after a week", async () => {
  const { fetches } = await start();
  const [never, begun] = [
    await world.offer(world.mute(), 10),
    await world.offer(randomBytes(32), 9, world.file(9, false)),
  ];
  await until(() => begun.reservedBytes === 9);
  world.aheadMs += 86_400_000 + 1;
  await until(() => fetches.byKey(never.key) === undefined);
  assert.equal(never.state, "cancelled");
  assert.equal(fetches.byKey(begun.key), begun);
  world.aheadMs += 6 * 86_400_000;
  await until(() => fetches.byKey(begun.key) === undefined);
  await until(() => !existsSync(join(world.directory, "incoming", begun.key)));
});

test("a file that is not as large as it was offered is not written", async () => {
  await start();
  const job = await world.offer(randomBytes(32), 0, world.file(600_000, true));
  await until(() => job.state === "failed");
  assert.equal(job.errorCode, "FILE_SIZE");
  assert.ok(!existsSync(join(world.directory, "incoming", job.key, "data")));
});

test("files that come together take no more than the quota together", async () => {
  const { fetches, limits } = await start();
  const jobs: FetchJob[] = [];
  for (let i = 0; i < 6; i++) jobs.push(await world.offer(randomBytes(32), 700_000, world.file(700_000, i % 2 === 0)));
  await until(() => jobs.filter(({ errorCode }) => errorCode === "FILES_QUOTA").length === 4);
  assert.ok(fetches.usedBytes <= limits.quotaBytes);
});

test("what is reserved and not brought gives way to a member that brings its file", async () => {
  await start();
  const held = await world.offer(randomBytes(32), 1_400_000, world.file(1_400_000, false));
  await until(() => held.reservedBytes === 1_400_000);
  const peer = randomBytes(32);
  const id = world.file(900_000, true);
  const early = await world.offer(peer, 900_000, id);
  await until(() => early.errorCode === "FILES_QUOTA");
  world.aheadMs += 40_000;
  assert.equal(await world.offer(peer, 900_000, id), early);
  await until(() => early.state === "done");
});

test("a received file counts until it is removed, also when its transfer is forgotten and the node restarted", async () => {
  const { fetches } = await start();
  const job = await world.offer(randomBytes(32), 500_000, world.file(500_000, true));
  await until(() => job.state === "done");
  assert.equal(fetches.usedBytes, 500_000);
  await until(() => job.fetch === undefined);
  await fetches.cancel(job);
  assert.equal(fetches.byKey(job.key), undefined);
  assert.equal(fetches.usedBytes, 500_000);
  const again = new Fetches({
    context: world.pair.nodes[0].context,
    directory: join(world.directory, "incoming"),
    keptFile: join(world.directory, "kept.json"),
    limits: world.limits,
    onDone: () => Promise.resolve(),
  });
  await again.start();
  assert.equal(again.usedBytes, 500_000);
  rmSync(job.path as string);
  await again.close();
  world.aheadMs += 20_000;
  await fetches.look();
  assert.equal(fetches.usedBytes, 0);
});
