/** The bodies and queries about the node and its membership, validated before anything else sees them. Limits are part of the contract. */
import * as z from "zod/mini";
import type { InviteRequest } from "./control.ts";
import { flag, list, nodeReference, nothing, OBJECT, oneOf, text, whole } from "./fields.ts";

export const ROLES = ["member", "admin", "beacon", "router", "exit"] as const;

const roles = list(oneOf(ROLES), ROLES.length).check(z.minLength(1, "must not be empty"));

export const inviteBody: z.ZodMiniType<InviteRequest> = z.strictObject(
  {
    uses: z.optional(whole(1, 10_000)),
    expiresSeconds: z.optional(whole(1, 365 * 86_400)),
    roles: z.optional(roles),
    tags: z.optional(list(text(32, 1), 16)),
    approve: z.optional(flag()),
    lifeSeconds: z.optional(whole(1, 3650 * 86_400)),
  },
  OBJECT,
);

export const revokeBody: z.ZodMiniType<{ node: string; reason?: string | undefined }> = z.strictObject(
  { node: nodeReference(), reason: z.optional(text(256)) },
  OBJECT,
);

export const pingBody: z.ZodMiniType<{ peer: string; timeoutMs?: number | undefined }> = z.strictObject(
  { peer: nodeReference(), timeoutMs: z.optional(whole(1, 60_000)) },
  OBJECT,
);

export const netcheckBody: z.ZodMiniType<{ timeoutMs?: number | undefined }> = z.strictObject(
  { timeoutMs: z.optional(whole(1, 30_000)) },
  OBJECT,
);

export const emptyBody: z.ZodMiniType<object> = nothing();

export const whoisQuery: z.ZodMiniType<{ query: string }> = z.object({ query: nodeReference() });
