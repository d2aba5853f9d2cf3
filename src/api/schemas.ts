/** The bodies and queries that the local API accepts, validated before anything else sees them. Limits are part of the contract. */
import * as z from "zod/mini";
import type { InviteRequest } from "./control.ts";

const ROLES = ["member", "admin", "beacon", "router", "exit"] as const;

const text = (most: number, least = 0): z.ZodMiniType<string> => {
  const message = `must be text of ${least} to ${most} characters`;
  return z.string(message).check(z.minLength(least, message), z.maxLength(most, message));
};

const whole = (low: number, high: number): z.ZodMiniType<number> => {
  const message = `must be a whole number from ${low} to ${high}`;
  return z.int(message).check(z.gte(low, message), z.lte(high, message));
};

const OBJECT = "must be a JSON object";
const nodeReference = text(256, 1);
const roles = z
  .array(z.enum(ROLES, `must be one of ${ROLES.join(", ")}`), "must be a list")
  .check(z.minLength(1, "must not be empty"), z.maxLength(ROLES.length, "has too many entries"));

export const inviteBody: z.ZodMiniType<InviteRequest> = z.strictObject(
  {
    uses: z.optional(whole(1, 10_000)),
    expiresSeconds: z.optional(whole(1, 365 * 86_400)),
    roles: z.optional(roles),
    tags: z.optional(z.array(text(32, 1), "must be a list").check(z.maxLength(16, "has too many entries"))),
    approve: z.optional(z.boolean("must be true or false")),
    lifeSeconds: z.optional(whole(1, 3650 * 86_400)),
  },
  OBJECT,
);

export const revokeBody: z.ZodMiniType<{ node: string; reason?: string | undefined }> = z.strictObject(
  { node: nodeReference, reason: z.optional(text(256)) },
  OBJECT,
);

export const pingBody: z.ZodMiniType<{ peer: string; timeoutMs?: number | undefined }> = z.strictObject(
  { peer: nodeReference, timeoutMs: z.optional(whole(1, 60_000)) },
  OBJECT,
);

export const netcheckBody: z.ZodMiniType<{ timeoutMs?: number | undefined }> = z.strictObject(
  { timeoutMs: z.optional(whole(1, 30_000)) },
  OBJECT,
);

export const emptyBody: z.ZodMiniType<object> = z.strictObject({}, OBJECT);

export const whoisQuery: z.ZodMiniType<{ query: string }> = z.object({ query: nodeReference });
