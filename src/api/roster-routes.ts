/** Routes of the local API for invites, requests, changes of members, policy, export and import; schemas beside them, because limits are part of the contract. */
import type { Context, Hono } from "hono";
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import type { RosterControl } from "./roster-control.ts";

/** Statements in one import request: 40 of the longest fit a body. */
export const MAX_IMPORT_STATEMENTS = 40;
const ROLES = ["member", "admin", "beacon", "router", "exit"] as const;
const OBJECT = "must be a JSON object";

const text = (most: number, least = 0): z.ZodMiniType<string> => {
  const message = `must be text of ${least} to ${most} characters`;
  return z.string(message).check(z.minLength(least, message), z.maxLength(most, message));
};
const list = <T>(item: z.ZodMiniType<T>, most: number): z.ZodMiniType<T[]> =>
  z.array(item, "must be a list").check(z.maxLength(most, "has too many entries"));
const stale = z.enum(["allow", "refuse"], "must be allow or refuse");

const endBody = z.strictObject({ id: text(64, 4), reason: z.optional(text(200)) }, OBJECT);
const approveBody = z.strictObject({ node: text(256, 1), name: z.optional(text(63, 1)) }, OBJECT);
const denyBody = z.strictObject({ node: text(256, 1), reason: z.optional(text(200)) }, OBJECT);
const memberBody = z.strictObject(
  {
    node: text(256, 1),
    name: z.optional(text(63, 1)),
    roles: z.optional(list(z.enum(ROLES, `must be one of ${ROLES.join(", ")}`), ROLES.length)),
    tags: z.optional(list(text(32, 1), 16)),
    expiresAt: z.optional(text(40, 1)),
  },
  OBJECT,
);
const policyBody = z.strictObject({ stale }, OBJECT);
const importBody = z.strictObject(
  { network: text(64, 64), statements: list(text(1400, 1), MAX_IMPORT_STATEMENTS) },
  OBJECT,
);

type ReadBody = <T extends z.ZodMiniType>(context: Context, schema: T) => Promise<z.output<T>>;

/** @param roster undefined: this program embeds no membership @param body reads and validates */
export function addRosterRoutes(app: Hono, roster: () => RosterControl | undefined, body: ReadBody): void {
  const need = (): RosterControl => {
    const control = roster();
    if (control === undefined) throw new WeftError("NOT_READY", "there is no roster here", "start the node first");
    return control;
  };
  app.get("/v1/invites", (context) => context.json({ invites: need().invites() }));
  app.post("/v1/invites/end", async (context) => {
    const { id, reason } = await body(context, endBody);
    return context.json(await need().endInvite(id, reason ?? ""));
  });
  app.get("/v1/requests", (context) => context.json({ requests: need().requests() }));
  app.post("/v1/requests/approve", async (context) => {
    const { node, name } = await body(context, approveBody);
    return context.json(await need().approve(node, name));
  });
  app.post("/v1/requests/deny", async (context) => {
    const { node, reason } = await body(context, denyBody);
    return context.json(await need().deny(node, reason ?? ""));
  });
  app.post("/v1/members", async (context) => context.json(await need().updateMember(await body(context, memberBody))));
  app.get("/v1/roster", (context) => context.json(need().roster()));
  app.get("/v1/roster/export", (context) => context.json({ text: need().exportRoster() }));
  app.post("/v1/roster/import", async (context) => {
    const { network, statements } = await body(context, importBody);
    return context.json(await need().importRoster(network, statements));
  });
  app.post("/v1/roster/policy", async (context) => {
    const { stale: rule } = await body(context, policyBody);
    return context.json(await need().setPolicy(rule));
  });
}
