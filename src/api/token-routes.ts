/** Routes for bearer tokens. Only whoever may do everything may hand out rights: no token without "admin" makes another. */
import * as z from "zod/mini";
import { list, OBJECT, oneOf, text, whole } from "./fields.ts";
import { defineRoute, need, SCOPES } from "./messaging/route.ts";
import type { AnyRoute } from "./messaging/route.ts";
import type { NewTokenView, TokenControl, TokenView } from "./token-control.ts";

const viewShape = {
  id: z.string(),
  name: z.string(),
  scopes: z.array(z.enum(SCOPES)),
  agent: z.nullable(z.string()),
  createdAt: z.string(),
  expiresAt: z.nullable(z.string()),
  lastUsedAt: z.nullable(z.string()),
};
const tokenView: z.ZodMiniType<TokenView> = z.object(viewShape);
const newTokenView: z.ZodMiniType<NewTokenView> = z.object({ ...viewShape, token: z.string() });

const createBody = z.strictObject(
  {
    name: text(64, 1),
    scopes: list(oneOf(SCOPES), SCOPES.length).check(z.minLength(1, "must not be empty")),
    agent: z.optional(text(64, 1)),
    expiresSeconds: z.optional(whole(1, 3650 * 86_400)),
  },
  OBJECT,
);

/** @param address where tokens are good for something, "127.0.0.1:9339"; null: the daemon listens on its socket alone */
export function tokenRoutes(tokens: TokenControl | undefined, address: () => string | null): readonly AnyRoute[] {
  const control = (): TokenControl => need(tokens, "tokens");
  return [
    defineRoute({
      method: "GET",
      path: "/v1/tokens",
      scope: "admin",
      summary: "Bearer tokens, without their secrets.",
      response: z.object({ tokens: z.array(tokenView), address: z.nullable(z.string()) }),
      handler: () => ({ tokens: control().list(), address: address() }),
    }),
    defineRoute({
      method: "POST",
      path: "/v1/tokens",
      scope: "admin",
      summary: "Makes a bearer token; it is shown this one time.",
      body: createBody,
      response: newTokenView,
      handler: ({ body }) => control().create(body),
    }),
    defineRoute({
      method: "POST",
      path: "/v1/tokens/revoke",
      scope: "admin",
      summary: "Ends a bearer token at once.",
      body: z.strictObject({ id: text(64, 1) }, OBJECT),
      response: tokenView,
      handler: ({ body }) => control().revoke(body.id),
    }),
  ];
}
