/**
 * Files as a part of messaging: what is shared, what is sent and fetched, and the receiver's side of offers. What a member offers is taken when
 * [files] in weft.toml lets it, while the quota lasts, into the directory for received files; its name is made harmless there.
 * Source: docs/protocol.md, "Files".
 */
import { stat } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import type { MetricSample } from "../../../api/control.ts";
import type {
  FilesControl,
  FilesView,
  GetRequest,
  ShareView,
  TransferView,
} from "../../../api/messaging/files-control.ts";
import { equal, toHex } from "../../../base/bytes.ts";
import { WeftError } from "../../../base/errors.ts";
import {
  decodeOffer,
  encodeStatus,
  OFFER_HEADER_BYTES,
  OFFER_KIND,
  type Offer,
  offerNameBytes,
  OfferState,
  type OfferStatus,
  RefusalCode,
  refusalText,
} from "../../../messaging/files/frames.ts";
import { parseFileId } from "../../../messaging/files/tree.ts";
import { matchesPeer } from "../../../messaging/services/targets.ts";
import { type MeshStream, StreamCode } from "../../../stream/types.ts";
import type { MessagingPart } from "../part.ts";
import type { FilesConfig } from "../services/config.ts";
import { namesOf, needMember, type ServiceContext } from "../services/context.ts";
import { Audit, Slots } from "../services/limits.ts";
import { readBytes } from "../services/splice.ts";
import { freeBytes } from "./disk.ts";
import { type FetchJob, isUnfinished } from "./fetch-job.ts";
import { Fetches } from "./fetches.ts";
import { FileServer } from "./file-server.ts";
import { Outgoing } from "./outgoing.ts";
import { isInside } from "./paths.ts";
import { largestOffer } from "./quota.ts";
import { privateFile, Shares } from "./shares.ts";
import { viewOfJob, viewOfSend, viewOfShare } from "./views.ts";

const MAX_OFFER_STREAMS = 256;
const MAX_OFFERS_PER_PEER = 32;
const OFFER_READ_MS = 10_000;
const STATUS_MS = 250;
const HEARTBEAT_MS = 5_000;
/** Members that are asked when nobody says who has a file. */
const MAX_ASKED = 32;

export class FilesPart implements MessagingPart, FilesControl {
  readonly name = "files";
  readonly control: { readonly files: FilesControl } = { files: this };
  readonly #context: ServiceContext;
  readonly #config: FilesConfig;
  readonly #audit: Audit;
  readonly #shares: Shares;
  readonly #server: FileServer;
  readonly #outgoing: Outgoing;
  readonly #fetches: Fetches;
  readonly #offers = new Slots(MAX_OFFER_STREAMS, MAX_OFFERS_PER_PEER);
  readonly #ending = new AbortController();
  readonly #refused = new Float64Array(Object.keys(RefusalCode).length);
  readonly #received: string;
  readonly #directory: string;
  #accepted = 0;
  #stop: (() => void) | undefined;

  constructor(context: ServiceContext, config: FilesConfig) {
    this.#context = context;
    this.#config = config;
    this.#directory = join(context.stateDirectory, "files");
    this.#received = config.directory ?? join(this.#directory, "received");
    this.#audit = new Audit(context.log, context.clock);
    this.#shares = new Shares(this.#directory, context.log, context.stateDirectory);
    this.#server = new FileServer(context, this.#audit, this.#shares);
    this.#outgoing = new Outgoing(context, this.#shares, this.#directory);
    this.#fetches = new Fetches({
      context,
      directory: join(this.#directory, "incoming"),
      keptFile: join(this.#directory, "kept.json"),
      limits: config,
      onDone: (job, leaves) => this.#done(job, leaves),
    });
  }

  async start(): Promise<void> {
    await this.#shares.load();
    this.#server.start();
    // offers are judged by what is there already
    await this.#fetches.start();
    this.#stop = this.#context.streams.serve(OFFER_KIND, (stream) => void this.#takeOffer(stream));
    await this.#outgoing.start();
  }

  async close(): Promise<void> {
    this.#stop?.();
    this.#ending.abort(new Error("this node is stopping"));
    this.#outgoing.close();
    this.#server.close();
    await this.#fetches.close();
  }

  peerUp(nodeId: Uint8Array): void {
    this.#fetches.peerUp(nodeId);
    this.#outgoing.peerUp(nodeId);
  }

  memberGone(nodeId: Uint8Array): void {
    this.#outgoing.memberGone(nodeId);
  }

  // ── FilesControl ─────────────────────────────────────────────────────────────────────────────────────────────────────

  files(): FilesView {
    return {
      shares: this.#shares.all.map((share) => viewOfShare(this.#context, share)),
      transfers: [
        ...this.#outgoing.all.map((send) => viewOfSend(this.#context, send)),
        ...this.#fetches.all.map((job) => viewOfJob(this.#context, job)),
      ].toSorted((a, b) => (a.startedAt < b.startedAt ? -1 : 1)),
      directory: this.#received,
      usedBytes: this.#fetches.usedBytes,
      quotaBytes: this.#config.quotaBytes,
    };
  }

  transfer(key: string): TransferView {
    const send = this.#outgoing.byKey(key);
    if (send !== undefined) return viewOfSend(this.#context, send);
    const job = this.#fetches.byKey(key);
    if (job !== undefined) return viewOfJob(this.#context, job);
    throw new WeftError("TRANSFER_UNKNOWN", `no transfer is called "${key}"`, "see `weft files`");
  }

  async share(path: string, name: string | undefined): Promise<TransferView> {
    await this.#needFile(path);
    const send = await this.#outgoing.add(path, name, undefined);
    this.#audit.note(`files: ${path} is shared with every member that knows its id`);
    return viewOfSend(this.#context, send);
  }

  async unshare(id: string): Promise<ShareView> {
    const share = this.#shares.byId(toHex(needId(id)));
    const view = share === undefined ? undefined : viewOfShare(this.#context, share);
    if (share === undefined || view === undefined || (await this.#shares.unshare(share.idHex)) === undefined)
      throw new WeftError("FILE_UNKNOWN", "no file with this id is shared", "see `weft files`");
    this.#audit.note(`files: ${share.path} is not shared any more`);
    return { ...view, everybody: false };
  }

  async send(path: string, to: string, name: string | undefined): Promise<TransferView> {
    const member = needMember(this.#context, to);
    if (equal(member.nodeId, this.#context.identity.nodeId))
      throw new WeftError("SEND_SELF", `"${to}" is this node itself`, "name another member");
    await this.#needFile(path);
    const send = await this.#outgoing.add(path, name, member.nodeId);
    this.#audit.note(`files: ${path} is sent to ${member.name}`);
    return viewOfSend(this.#context, send);
  }

  async get(request: GetRequest): Promise<TransferView> {
    const id = needId(request.id);
    const { path } = request;
    if (path !== undefined && !isAbsolute(path))
      throw new WeftError("FILE_PATH", `${path} is no absolute path`, "give the whole path");
    if (path !== undefined && (await exists(path)))
      throw new WeftError("FILE_EXISTS", `${path} is there already`, "choose another name");
    const self = this.#context.identity.nodeId;
    const sources =
      request.from === undefined || request.from.length === 0
        ? this.#context
            .members()
            .map(({ nodeId }) => nodeId)
            .filter((nodeId) => !equal(nodeId, self) && this.#context.isUp(nodeId))
        : request.from.map((query) => needMember(this.#context, query).nodeId);
    await this.#fetches.look();
    const job = await this.#fetches.add({
      id,
      name: request.name ?? request.id.slice(0, 16),
      target: path ?? this.#received,
      exact: path !== undefined,
      offeredBy: undefined,
      sources: sources.filter((nodeId) => !equal(nodeId, self)).slice(0, MAX_ASKED),
      sizeBytes: undefined,
    });
    this.#audit.note(`files: ${request.id.slice(0, 16)}… is fetched`);
    return viewOfJob(this.#context, job);
  }

  async cancel(key: string): Promise<TransferView> {
    const send = this.#outgoing.byKey(key);
    if (send !== undefined) {
      await this.#outgoing.cancel(send);
      return viewOfSend(this.#context, send);
    }
    const job = this.#fetches.byKey(key);
    if (job === undefined)
      throw new WeftError("TRANSFER_UNKNOWN", `no transfer is called "${key}"`, "see `weft files`");
    await this.#fetches.cancel(job);
    return viewOfJob(this.#context, job);
  }

  /** @throws WeftError FILE_UNREADABLE, FILE_PRIVATE: what can be seen now is said now */
  async #needFile(path: string): Promise<void> {
    const remedy = "name a file that the daemon may read, by its absolute path";
    if (!isAbsolute(path)) throw new WeftError("FILE_UNREADABLE", `${path} is no absolute path`, remedy);
    const found = await stat(path).catch((cause: Error) => {
      throw new WeftError("FILE_UNREADABLE", `cannot read ${path}: ${cause.message}`, remedy, { cause });
    });
    if (await isInside(this.#context.stateDirectory, path)) throw privateFile(path);
    if (!found.isFile())
      throw new WeftError("FILE_UNREADABLE", `${path} is no regular file`, "send files one by one, or an archive");
  }

  // ── offers of members ────────────────────────────────────────────────────────────────────────────────────────────────

  async #takeOffer(stream: MeshStream): Promise<void> {
    const member = this.#context.find(stream.peerId);
    if (member === undefined) return stream.reset(StreamCode.APPLICATION);
    const release = this.#offers.take(toHex(stream.peerId));
    try {
      const signal = AbortSignal.any([this.#ending.signal, AbortSignal.timeout(OFFER_READ_MS)]);
      const head = await readBytes(stream, OFFER_HEADER_BYTES, signal);
      const length = offerNameBytes(head);
      const offer = length === undefined ? undefined : decodeOffer(head, await readBytes(stream, length, signal));
      const peer = namesOf(member);
      const job =
        release === undefined
          ? RefusalCode.BUSY
          : offer === undefined
            ? RefusalCode.BAD
            : !matchesPeer(this.#config.accept, peer)
              ? RefusalCode.NOT_ACCEPTED
              : await this.#accept(stream.peerId, offer);
      if (typeof job === "number") {
        this.#refused[job]++;
        this.#audit.refused(
          peer.id,
          `files: ${peer.name} offers ${offer?.sizeBytes ?? 0} bytes: refused, ${refusalText(job)}`,
        );
        stream.resume();
        stream.end(encodeStatus({ state: OfferState.REFUSED, code: job, haveBytes: 0 }));
        return;
      }
      if (isUnfinished(job))
        this.#audit.used(peer.id, `files: ${peer.name} sends "${job.name}", ${job.sizeBytes} bytes`);
      await this.#report(stream, job);
    } catch {
      // the sender is gone: it offers again
      if (!stream.destroyed) stream.destroy();
    } finally {
      release?.();
    }
  }

  #refusal(hex: string, offer: Offer, free: number): RefusalCode {
    if (offer.sizeBytes > largestOffer(this.#config)) return RefusalCode.TOO_LARGE;
    if (offer.sizeBytes > this.#fetches.roomFor(hex)) return RefusalCode.QUOTA;
    const theirs = this.#fetches.all.filter((job) => job.offeredBy === hex && isUnfinished(job));
    if (theirs.length >= MAX_OFFERS_PER_PEER || !this.#fetches.hasPlaceForOffer) return RefusalCode.BUSY;
    return offer.sizeBytes > free ? RefusalCode.DISK : RefusalCode.NONE;
  }

  /** A transfer of this file from this member that goes on, or has ended with the file where it was put. */
  #jobOf(nodeId: Uint8Array, offer: Offer): FetchJob | undefined {
    const [hex, idHex] = [toHex(nodeId), toHex(offer.id)];
    return this.#fetches.all.find(
      (job) => job.idHex === idHex && job.offeredBy === hex && (isUnfinished(job) || job.state === "done"),
    );
  }

  async #accept(nodeId: Uint8Array, offer: Offer): Promise<FetchJob | RefusalCode> {
    const hex = toHex(nodeId);
    const ended = this.#jobOf(nodeId, offer);
    if (ended?.state === "done") {
      if (await exists(ended.path ?? "")) return ended;
      // somebody has removed it since: it comes again
      ended.isGone = true;
      await this.#fetches.cancel(ended);
    }
    if (offer.sizeBytes > this.#fetches.roomFor(hex)) await this.#fetches.look();
    const free = await freeBytes(this.#directory);
    // from here to the record in one turn: offers that come together are not judged by the same numbers
    const known = this.#jobOf(nodeId, offer);
    if (known !== undefined) {
      await this.#fetches.heard(known);
      return known;
    }
    const code = this.#refusal(hex, offer, free);
    if (code !== RefusalCode.NONE) return code;
    this.#accepted++;
    return this.#fetches.add({
      id: offer.id,
      name: offer.name,
      target: this.#received,
      exact: false,
      offeredBy: hex,
      sources: [nodeId],
      sizeBytes: offer.sizeBytes,
    });
  }

  /** Tells the sender how far it is, until it is over or the stream is. */
  async #report(stream: MeshStream, job: FetchJob): Promise<void> {
    let last = "";
    let lastMs = 0;
    stream.resume();
    for (;;) {
      const status = statusOf(job);
      const { nowMs } = this.#context.clock.now();
      const text = `${status.state} ${status.haveBytes}`;
      if (text !== last || nowMs - lastMs >= HEARTBEAT_MS) {
        stream.write(encodeStatus(status));
        last = text;
        lastMs = nowMs;
      }
      if (status.state >= OfferState.DONE) {
        stream.end();
        return;
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, STATUS_MS);
        job.ended = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      if (stream.destroyed || this.#ending.signal.aborted) return;
    }
  }

  // ── what is finished ─────────────────────────────────────────────────────────────────────────────────────────────────

  async #done(job: FetchJob, leaves: Uint8Array): Promise<void> {
    const { path, name, sizeBytes } = job;
    if (path === undefined) return;
    const arrived = `files: ${path}, ${sizeBytes} bytes, has arrived`;
    if (job.offeredBy === undefined) this.#audit.note(arrived);
    else this.#audit.used(job.offeredBy, arrived);
    if (job.offeredBy !== undefined) return;
    // whoever has fetched a file that many may have is a source for the next one
    await this.#shares.adopt(path, name, leaves, this.#context.clock.now().wallMs).catch((error: Error) => {
      this.#context.log.debug(`files: ${path} is not shared on: ${error.message}`);
    });
  }

  metrics(): readonly MetricSample[] {
    const { figures } = this.#fetches;
    const sample = (name: string, type: "counter" | "gauge", help: string, value: number): MetricSample => ({
      name,
      type,
      help,
      labels: {},
      value,
    });
    return [
      sample("weft_files_shares", "gauge", "Files that members may fetch from here.", this.#shares.all.length),
      sample("weft_files_fetching", "gauge", "Files being fetched now.", this.#fetches.running),
      sample("weft_files_fetched_bytes_total", "counter", "Bytes of files fetched and verified.", figures.bytesFetched),
      sample(
        "weft_files_wrong_total",
        "counter",
        "Sources given up because what they sent was not the file.",
        figures.chunksBad,
      ),
      sample("weft_files_late_total", "counter", "Chunks that another source had brought before.", figures.chunksLate),
      sample("weft_files_offers_accepted_total", "counter", "Files of members taken.", this.#accepted),
      sample(
        "weft_files_used_bytes",
        "gauge",
        "What received and unfinished files take of the quota.",
        this.#fetches.usedBytes,
      ),
      ...[...this.#refused].slice(1).map((value, i): MetricSample => ({
        name: "weft_files_offers_refused_total",
        type: "counter",
        help: "Files of members refused, by reason.",
        labels: { reason: REASONS[i + 1] },
        value,
      })),
      ...this.#server.metrics(),
    ];
  }

  diagnostics(): unknown {
    return {
      used: this.#fetches.usedBytes,
      quota: this.#config.quotaBytes,
      shares: this.files().shares.length,
      transfers: this.files().transfers.length,
    };
  }
}

const REASONS = Object.keys(RefusalCode).map((name) => name.toLowerCase());

function statusOf(job: FetchJob): OfferStatus {
  const haveBytes = job.state === "done" ? (job.sizeBytes ?? 0) : (job.fetch?.haveBytes ?? 0);
  const code = RefusalCode.NONE;
  switch (job.state) {
    case "done":
      return { state: OfferState.DONE, code, haveBytes };
    case "failed":
      return { state: OfferState.REFUSED, code: refusalOf(job), haveBytes };
    case "cancelled":
      return { state: OfferState.CANCELLED, code, haveBytes };
    case "queued":
      return { state: OfferState.WAITING, code, haveBytes };
    case "running":
      return { state: job.fetch?.state === "fetching" ? OfferState.FETCHING : OfferState.WAITING, code, haveBytes };
  }
}

function refusalOf({ errorCode }: FetchJob): RefusalCode {
  if (errorCode === "FILE_SIZE") return RefusalCode.BAD;
  return errorCode === "FILES_QUOTA" ? RefusalCode.QUOTA : RefusalCode.DISK;
}

function needId(text: string): Uint8Array {
  const id = parseFileId(text);
  if (id === undefined)
    throw new WeftError(
      "FILE_ID",
      `"${text.slice(0, 64)}" is no file id`,
      "copy the whole id: f1 and 56 letters and digits",
    );
  return id;
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
