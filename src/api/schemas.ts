/** The bodies and queries that the local API accepts, validated before anything else sees them. Limits are part of the contract. */
import * as z from "zod/mini";
import type { InviteRequest } from "./control.ts";

const nodeReference = z.string().check(z.minLength(1), z.maxLength(256));

export const inviteBody: z.ZodMiniType<InviteRequest> = z.strictObject({
  uses: z.optional(z.int().check(z.gte(1), z.lte(10_000))),
  expiresSeconds: z.optional(z.int().check(z.gte(1), z.lte(365 * 86_400))),
  roles: z.optional(
    z.array(z.enum(["member", "admin", "beacon", "router", "exit"])).check(z.minLength(1), z.maxLength(5)),
  ),
});

export const revokeBody: z.ZodMiniType<{ node: string; reason?: string | undefined }> = z.strictObject({
  node: nodeReference,
  reason: z.optional(z.string().check(z.maxLength(256))),
});

export const pingBody: z.ZodMiniType<{ peer: string; timeoutMs?: number | undefined }> = z.strictObject({
  peer: nodeReference,
  timeoutMs: z.optional(z.int().check(z.gte(1), z.lte(60_000))),
});

export const emptyBody: z.ZodMiniType<object> = z.strictObject({});

export const whoisQuery: z.ZodMiniType<{ query: string }> = z.object({ query: nodeReference });
