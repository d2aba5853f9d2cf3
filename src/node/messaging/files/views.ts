/** Shares and transfers as the API shows them. */
import type { ShareView, TransferPeerView, TransferView } from "../../../api/messaging/files-control.ts";
import { fromHex } from "../../../base/bytes.ts";
import { formatFileId } from "../../../messaging/files/tree.ts";
import { nodeName, type ServiceContext } from "../services/context.ts";
import type { FetchJob } from "./fetch-job.ts";
import type { Send } from "./outgoing.ts";
import type { Share } from "./shares.ts";

type Names = Pick<ServiceContext, "find">;

function time(wallMs: number): string {
  return new Date(wallMs).toISOString();
}

export function viewOfShare(context: Names, share: Share): ShareView {
  return {
    id: formatFileId(share.id),
    name: share.name,
    path: share.path,
    sizeBytes: share.sizeBytes,
    everybody: share.isPublic,
    peers: [...share.peers].map((hex) => nodeName(context, fromHex(hex) as Uint8Array)),
    bytesServed: share.bytesServed,
    addedAt: time(share.addedAtMs),
  };
}

export function viewOfSend(context: Names, send: Send): TransferView {
  const to = send.to === undefined ? undefined : nodeName(context, fromHex(send.to) as Uint8Array);
  return {
    key: send.key,
    kind: send.to === undefined ? "share" : "send",
    id: send.idHex === undefined ? null : formatFileId(fromHex(send.idHex) as Uint8Array),
    name: send.name,
    sizeBytes: send.sizeBytes ?? null,
    doneBytes: send.doneBytes,
    bytesPerSecond: Math.round(send.bytesPerSecond),
    state: send.state,
    error: send.error ?? null,
    path: send.path,
    peers: to === undefined ? [] : [{ ...to, state: "to", bytes: send.doneBytes, error: null }],
    startedAt: time(send.startedAtMs),
    finishedAt: send.finishedAtMs === undefined ? null : time(send.finishedAtMs),
  };
}

export function viewOfJob(context: Names, job: FetchJob): TransferView {
  const { fetch } = job;
  const state =
    job.state !== "running" ? job.state : fetch === undefined || fetch.state === "starting" ? "waiting" : fetch.state;
  return {
    key: job.key,
    kind: job.offeredBy === undefined ? "get" : "receive",
    id: formatFileId(job.id),
    name: job.name,
    sizeBytes: job.sizeBytes ?? null,
    doneBytes: job.state === "done" ? (job.sizeBytes ?? 0) : (fetch?.haveBytes ?? 0),
    bytesPerSecond: Math.round(job.bytesPerSecond),
    state,
    error: job.error ?? null,
    path: job.path ?? (job.exact ? job.target : null),
    peers: [...job.sources].map((hex): TransferPeerView => {
      const source = fetch?.sources.get(hex);
      return {
        ...nodeName(context, fromHex(hex) as Uint8Array),
        state: source?.state ?? "waiting",
        bytes: source?.bytes ?? 0,
        error: source?.error ?? null,
      };
    }),
    startedAt: time(job.startedAtMs),
    finishedAt: job.finishedAtMs === undefined ? null : time(job.finishedAtMs),
  };
}
