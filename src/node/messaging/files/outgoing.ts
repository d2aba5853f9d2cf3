/**
 * Files that this node offers to members: hashed, made available to that member alone, and offered until it has them. Each is a record in
 * files/outgoing of the state directory, so that an offer goes on after a restart of either side; the receiver fetches at its own pace.
 *
 *   send ─► hash ─► share with the receiver ─► stream "file-offer/1" ─► status … status (has it: done · no: refused · stream gone: again)
 *
 * Bounds: MAX_SENDS records, of which the oldest ended one is forgotten; HASHING at once. Source: docs/protocol.md, "Files".
 */
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { fromHex, toHex } from "../../../base/bytes.ts";
import { WeftError } from "../../../base/errors.ts";
import {
  decodeStatus,
  encodeOffer,
  OFFER_KIND,
  OfferState,
  RefusalCode,
  refusalText,
  STATUS_BYTES,
} from "../../../messaging/files/frames.ts";
import { safeFileName } from "../../../messaging/files/names.ts";
import { type MeshStream, StreamClass } from "../../../stream/types.ts";
import type { ServiceContext } from "../services/context.ts";
import { readBytes } from "../services/splice.ts";
import { saveDurably } from "./disk.ts";
import type { Share, Shares } from "./shares.ts";

const MAX_SENDS = 1_024;
const MAX_RECORD_BYTES = 65_536;
const HASHING = 2;
/** The receiver says something every five seconds. */
const SILENT_MS = 30_000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 60_000;
/** The receiver may change its mind about these. */
const PASSING: ReadonlySet<number> = new Set([RefusalCode.QUOTA, RefusalCode.BUSY, RefusalCode.DISK]);

export type SendState =
  | "queued"
  | "hashing"
  | "offering"
  | "waiting"
  | "fetching"
  | "done"
  | "refused"
  | "failed"
  | "cancelled";

export interface Send {
  readonly key: string;
  readonly path: string;
  name: string;
  /** Node id in hex; undefined: it is only made available to every member. */
  readonly to: string | undefined;
  readonly startedAtMs: number;
  idHex: string | undefined;
  sizeBytes: number | undefined;
  doneBytes: number;
  bytesPerSecond: number;
  state: SendState;
  error: string | undefined;
  finishedAtMs: number | undefined;
  readonly abort: AbortController;
  wake: () => void;
}

export class Outgoing {
  readonly #context: ServiceContext;
  readonly #shares: Shares;
  readonly #directory: string;
  readonly #sends = new Map<string, Send>();
  readonly #hashing: (() => void)[] = [];
  #hashingNow = 0;
  #isClosed = false;

  constructor(context: ServiceContext, shares: Shares, directory: string) {
    this.#context = context;
    this.#shares = shares;
    this.#directory = join(directory, "outgoing");
  }

  get all(): readonly Send[] {
    return [...this.#sends.values()];
  }

  byKey(key: string): Send | undefined {
    return this.#sends.get(key);
  }

  async start(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    for (const name of (await readdir(this.#directory)).filter((one) => one.endsWith(".json")).slice(0, MAX_SENDS)) {
      const text = await readFile(join(this.#directory, name), "utf8").catch(() => "");
      const send = text.length > MAX_RECORD_BYTES ? undefined : readSend(text);
      if (send === undefined || `${send.key}.json` !== name) continue;
      this.#sends.set(send.key, send);
      if (!isOver(send)) void this.#run(send);
    }
  }

  close(): void {
    this.#isClosed = true;
    for (const send of this.#sends.values()) send.abort.abort(new Error("this node is stopping"));
  }

  /** @param to undefined: for every member, not offered to anybody @throws WeftError FILES_FULL */
  async add(path: string, name: string | undefined, to: Uint8Array | undefined): Promise<Send> {
    this.#forgetOldest();
    if (this.#sends.size >= MAX_SENDS)
      throw new WeftError("FILES_FULL", `${MAX_SENDS} files are being sent`, "cancel one: weft files cancel KEY");
    const { random, clock } = this.#context;
    const send: Send = {
      key: toHex(random.bytes(4)),
      path,
      name: safeFileName(name ?? basename(path)),
      to: to === undefined ? undefined : toHex(to),
      startedAtMs: clock.now().wallMs,
      idHex: undefined,
      sizeBytes: undefined,
      finishedAtMs: undefined,
      ...freshState("queued"),
    };
    this.#sends.set(send.key, send);
    await this.#save(send);
    void this.#run(send);
    return send;
  }

  /** Ends it; one that has ended is forgotten. */
  async cancel(send: Send): Promise<void> {
    if (isOver(send)) {
      this.#sends.delete(send.key);
      await rm(this.#fileOf(send), { force: true });
      return;
    }
    await this.#finish(send, "cancelled", undefined);
    send.abort.abort(new Error("it was cancelled"));
  }

  peerUp(nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    for (const send of this.#sends.values()) if (send.to === hex) send.wake();
  }

  /** It is no member any more: nothing goes to it. */
  memberGone(nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    for (const send of this.#sends.values()) {
      if (send.to !== hex || isOver(send)) continue;
      void this.#finish(send, "failed", "the receiver is no member any more");
      send.abort.abort(new Error("the receiver is no member any more"));
    }
  }

  async #run(send: Send): Promise<void> {
    const { signal } = send.abort;
    try {
      const share = await this.#hash(send, signal);
      if (send.to === undefined) return await this.#finish(send, "done", undefined);
      await this.#offerUntilDone(send, share, fromHex(send.to) as Uint8Array, signal);
    } catch (error) {
      if (!signal.aborted) await this.#finish(send, "failed", error instanceof Error ? error.message : String(error));
    }
  }

  async #hash(send: Send, signal: AbortSignal): Promise<Share> {
    const known = send.idHex === undefined ? undefined : this.#shares.byId(send.idHex);
    if (known !== undefined) return known;
    await this.#hashingPlace(signal);
    try {
      send.state = "hashing";
      send.doneBytes = 0;
      let countedAtMs = this.#context.clock.now().nowMs;
      let counted = 0;
      const onProgress = (bytes: number): void => {
        send.doneBytes += bytes;
        counted += bytes;
        const { nowMs } = this.#context.clock.now();
        if (nowMs - countedAtMs < 500) return;
        send.bytesPerSecond = (counted / (nowMs - countedAtMs)) * 1_000;
        countedAtMs = nowMs;
        counted = 0;
      };
      const options = { name: send.name, peer: send.to, atMs: this.#context.clock.now().wallMs };
      const share = await this.#shares.add(send.path, options, onProgress, signal);
      send.idHex = share.idHex;
      send.sizeBytes = share.sizeBytes;
      send.bytesPerSecond = 0;
      if (send.to !== undefined) send.doneBytes = 0;
      if (!isOver(send)) await this.#save(send);
      return share;
    } finally {
      this.#hashingNow--;
      this.#hashing.shift()?.();
    }
  }

  async #hashingPlace(signal: AbortSignal): Promise<void> {
    while (this.#hashingNow >= HASHING) {
      await new Promise<void>((resolve) => {
        this.#hashing.push(resolve);
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
      signal.throwIfAborted();
    }
    this.#hashingNow++;
  }

  // ── offering ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #offerUntilDone(send: Send, share: Share, to: Uint8Array, signal: AbortSignal): Promise<void> {
    let retryMs = FIRST_RETRY_MS;
    while (!isOver(send) && !signal.aborted) {
      const before = send.doneBytes;
      try {
        send.state = "offering";
        await this.#offer(send, share, to, signal);
      } catch (error) {
        send.error = error instanceof Error ? error.message : String(error);
      }
      if (isOver(send) || signal.aborted) return;
      send.state = "waiting";
      send.bytesPerSecond = 0;
      if (send.doneBytes > before) retryMs = FIRST_RETRY_MS;
      await this.#pause(send, retryMs * (0.5 + this.#context.random.unit()), signal);
      retryMs = Math.min(LONGEST_RETRY_MS, retryMs * 2);
    }
  }

  async #offer(send: Send, share: Share, to: Uint8Array, signal: AbortSignal): Promise<void> {
    const stream = await this.#context.streams.open(to, { kind: OFFER_KIND, class: StreamClass.DIRECT, signal });
    try {
      stream.write(encodeOffer({ id: share.id, sizeBytes: share.sizeBytes, name: send.name }));
      let atMs = this.#context.clock.now().nowMs;
      while (!isOver(send)) {
        const status = await this.#status(stream, signal);
        const { nowMs } = this.#context.clock.now();
        const rate = ((status.haveBytes - send.doneBytes) / Math.max(1, nowMs - atMs)) * 1_000;
        send.bytesPerSecond += 0.3 * (Math.max(0, rate) - send.bytesPerSecond);
        atMs = nowMs;
        send.doneBytes = Math.min(share.sizeBytes, status.haveBytes);
        if (status.state === OfferState.DONE) await this.#finish(send, "done", undefined);
        else if (status.state === OfferState.CANCELLED)
          await this.#finish(send, "cancelled", "the receiver has cancelled it");
        else if (status.state === OfferState.REFUSED) {
          if (PASSING.has(status.code)) throw new Error(refusalText(status.code));
          await this.#finish(send, "refused", refusalText(status.code));
        } else {
          send.error = undefined;
          send.state = status.state === OfferState.FETCHING ? "fetching" : "waiting";
        }
      }
    } finally {
      stream.destroy();
    }
  }

  async #status(stream: MeshStream, signal: AbortSignal): Promise<NonNullable<ReturnType<typeof decodeStatus>>> {
    const bytes = await readBytes(stream, STATUS_BYTES, AbortSignal.any([signal, AbortSignal.timeout(SILENT_MS)]));
    const status = decodeStatus(bytes);
    if (status === undefined) throw new Error("what it answers is no status");
    return status;
  }

  #pause(send: Send, forMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, forMs);
      signal.addEventListener("abort", done, { once: true });
      send.wake = done;
    });
  }

  async #finish(
    send: Send,
    state: "done" | "refused" | "failed" | "cancelled",
    error: string | undefined,
  ): Promise<void> {
    send.state = state;
    send.error = error;
    send.finishedAtMs = this.#context.clock.now().wallMs;
    send.bytesPerSecond = 0;
    if (state === "done") send.doneBytes = send.sizeBytes ?? 0;
    // a restart must not find it unfinished
    await this.#save(send).catch((cause: Error) => this.#context.log.error(`files: ${cause.message}`));
    if (send.idHex === undefined || send.to === undefined) return;
    const isSentAgain = this.all.some((one) => one.to === send.to && one.idHex === send.idHex && !isOver(one));
    if (!isSentAgain) await this.#shares.forgetPeer(send.idHex, send.to).catch(() => undefined);
  }

  #forgetOldest(): void {
    if (this.#sends.size < MAX_SENDS) return;
    const [oldest] = this.all.filter(isOver).toSorted((a, b) => (a.finishedAtMs ?? 0) - (b.finishedAtMs ?? 0));
    if (oldest === undefined) return;
    this.#sends.delete(oldest.key);
    void rm(this.#fileOf(oldest), { force: true }).catch(() => undefined);
  }

  #fileOf(send: Send): string {
    return join(this.#directory, `${send.key}.json`);
  }

  async #save(send: Send): Promise<void> {
    if (this.#isClosed) return;
    const { key, path, name, to, startedAtMs, idHex, sizeBytes, error, finishedAtMs } = send;
    const state = isOver(send) ? send.state : "queued";
    const record = { key, path, name, to, startedAtMs, idHex, sizeBytes, state, error, finishedAtMs };
    await saveDurably(this.#fileOf(send), `${JSON.stringify(record)}\n`);
  }
}

export function isOver({ state }: Send): boolean {
  return state === "done" || state === "refused" || state === "failed" || state === "cancelled";
}

type Fresh = Pick<Send, "doneBytes" | "bytesPerSecond" | "state" | "error" | "abort" | "wake">;

function freshState(state: SendState): Fresh {
  return {
    doneBytes: 0,
    bytesPerSecond: 0,
    state,
    error: undefined,
    abort: new AbortController(),
    wake: () => undefined,
  };
}

/** @returns undefined for what is no record */
function readSend(text: string): Send | undefined {
  try {
    const value = JSON.parse(text) as Record<string, unknown>;
    const { key, path, name, to, startedAtMs, idHex, sizeBytes, state, error, finishedAtMs } = value;
    if (typeof key !== "string" || typeof path !== "string" || typeof name !== "string") return undefined;
    if (typeof startedAtMs !== "number" || (to !== undefined && !isId(to))) return undefined;
    const states: readonly SendState[] = ["queued", "done", "refused", "failed", "cancelled"];
    const known = states.find((one) => one === state);
    if (known === undefined) return undefined;
    const size = typeof sizeBytes === "number" ? sizeBytes : undefined;
    return {
      ...freshState(known),
      key,
      path,
      name: safeFileName(name),
      to,
      startedAtMs,
      idHex: isId(idHex) ? idHex : undefined,
      sizeBytes: size,
      doneBytes: known === "done" ? (size ?? 0) : 0,
      error: typeof error === "string" ? error : undefined,
      finishedAtMs: typeof finishedAtMs === "number" ? finishedAtMs : undefined,
    };
  } catch {
    return undefined;
  }
}

function isId(value: unknown): value is string {
  return typeof value === "string" && /^[0-9a-f]{64}$/.test(value);
}
