/** Routes of files. Paths of this machine are taken from the unix socket and admins alone: the daemon may read and write more than a token's holder. */
import * as z from "zod/mini";
import { WeftError } from "../../base/errors.ts";
import { list, nodeReference, OBJECT, text } from "../fields.ts";
import type { NodeControl } from "../control.ts";
import type { FilesControl, FilesView, ShareView, TransferView } from "./files-control.ts";
import { defineRoute, need } from "./route.ts";
import type { AnyRoute, Caller } from "./route.ts";

const node = { id: z.string(), name: z.string() };
const shareView: z.ZodMiniType<ShareView> = z.object({
  id: z.string(),
  name: z.string(),
  path: z.string(),
  sizeBytes: z.number(),
  everybody: z.boolean(),
  peers: z.array(z.object(node)),
  bytesServed: z.number(),
  addedAt: z.string(),
});
const transferView: z.ZodMiniType<TransferView> = z.object({
  key: z.string(),
  kind: z.enum(["get", "receive", "send", "share"]),
  id: z.nullable(z.string()),
  name: z.string(),
  sizeBytes: z.nullable(z.number()),
  doneBytes: z.number(),
  bytesPerSecond: z.number(),
  state: z.enum([
    "queued",
    "hashing",
    "offering",
    "waiting",
    "checking",
    "fetching",
    "done",
    "failed",
    "refused",
    "cancelled",
  ]),
  error: z.nullable(z.string()),
  path: z.nullable(z.string()),
  peers: z.array(z.object({ ...node, state: z.string(), bytes: z.number(), error: z.nullable(z.string()) })),
  startedAt: z.string(),
  finishedAt: z.nullable(z.string()),
});
const filesView: z.ZodMiniType<FilesView> = z.object({
  shares: z.array(shareView),
  transfers: z.array(transferView),
  directory: z.string(),
  usedBytes: z.number(),
  quotaBytes: z.number(),
});

const path = text(4_096, 1);
const name = z.optional(text(255, 1));
const fileId = text(58, 58);
const key = text(16, 1);
const of = (control: NodeControl): FilesControl => need(control.messaging?.files, "files");

function mayNamePaths(caller: Caller): void {
  if (caller.via === "socket" || caller.scopes.has("admin")) return;
  throw new WeftError(
    "FORBIDDEN",
    "this token may not name paths of the machine that the daemon runs on",
    "use the weft command there, or a token with the scope admin",
  );
}

export const FILE_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/files",
    scope: "files",
    summary: "What is shared, what is being sent and fetched, and the quota.",
    response: filesView,
    handler: ({ control }) => of(control).files(),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/files/transfers/:key",
    scope: "files",
    summary: "How far a transfer is.",
    params: z.strictObject({ key }, OBJECT),
    response: transferView,
    handler: ({ control, params }) => of(control).transfer(params.key),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/files/share",
    scope: "files",
    summary: "Hashes a file of this machine; then every member that knows its id may fetch it.",
    body: z.strictObject({ path, name }, OBJECT),
    response: transferView,
    handler: ({ control, caller, body }) => {
      mayNamePaths(caller);
      return of(control).share(body.path, body.name);
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/files/unshare",
    scope: "files",
    summary: "Ends a share; the file stays.",
    body: z.strictObject({ id: fileId }, OBJECT),
    response: shareView,
    handler: ({ control, body }) => of(control).unshare(body.id),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/files/send",
    scope: "files",
    summary: "Offers a file to a member until it has it, over restarts of both.",
    body: z.strictObject({ path, to: nodeReference(), name }, OBJECT),
    response: transferView,
    handler: ({ control, caller, body }) => {
      mayNamePaths(caller);
      return of(control).send(body.path, body.to, body.name);
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/files/get",
    scope: "files",
    summary: "Fetches a file by its id from one or several members.",
    body: z.strictObject(
      { id: fileId, from: z.optional(list(nodeReference(), 32)), path: z.optional(path), name },
      OBJECT,
    ),
    response: transferView,
    handler: ({ control, caller, body }) => {
      if (body.path !== undefined) mayNamePaths(caller);
      return of(control).get(body);
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/files/cancel",
    scope: "files",
    summary: "Ends a transfer; one that has ended is forgotten.",
    body: z.strictObject({ key }, OBJECT),
    response: transferView,
    handler: ({ control, body }) => of(control).cancel(body.key),
  }),
];
