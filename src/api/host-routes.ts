/** Routes of the local API for names, subnet routes and exits; schemas beside them, because limits are part of the contract. */
import type { Context, Hono } from "hono";
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import type { HostControl } from "./host-control.ts";

const OBJECT = "must be a JSON object";
const text = (most: number): z.ZodMiniType<string> => {
  const message = `must be text of 1 to ${most} characters`;
  return z.string(message).check(z.minLength(1, message), z.maxLength(most, message));
};
const flag = z.boolean("must be true or false");

const announceBody = z.strictObject({ prefix: text(64), on: flag }, OBJECT);
const approveBody = z.strictObject({ node: text(256), prefix: text(64), approved: flag }, OBJECT);
const switchBody = z.strictObject({ on: flag }, OBJECT);
const useBody = z.strictObject(
  {
    nodes: z.optional(z.array(text(256), "must be a list").check(z.maxLength(16, "has too many entries"))),
    allowLan: z.optional(flag),
    off: z.optional(flag),
  },
  OBJECT,
);
const emptyBody = z.strictObject({}, OBJECT);

type ReadBody = <T extends z.ZodMiniType>(context: Context, schema: T) => Promise<z.output<T>>;

/** @param host undefined: the node has no interface @param body reads and validates */
export function addHostRoutes(app: Hono, host: () => HostControl | undefined, body: ReadBody): void {
  const need = (): HostControl => {
    const control = host();
    if (control === undefined) {
      throw new WeftError(
        "NO_INTERFACE",
        "this node has no interface, so it has no routes and names",
        "start it as root without --no-tun",
      );
    }
    return control;
  };
  app.get("/v1/routes", (context) => context.json(need().routes()));
  app.post("/v1/routes/announce", async (context) => {
    const { prefix, on } = await body(context, announceBody);
    return context.json(await need().announce(prefix, on));
  });
  app.post("/v1/routes/approve", async (context) => {
    const { node, prefix, approved } = await body(context, approveBody);
    return context.json(await need().approve(node, prefix, approved));
  });
  app.post("/v1/routes/accept", async (context) => {
    const { on } = await body(context, switchBody);
    return context.json(await need().acceptRoutes(on));
  });
  app.get("/v1/exit", (context) => context.json(need().exit()));
  app.post("/v1/exit/use", async (context) => {
    const { nodes, allowLan, off } = await body(context, useBody);
    return context.json(await need().useExit(off === true ? undefined : { nodes: nodes ?? [], allowLan }));
  });
  app.post("/v1/exit/offer", async (context) => {
    const { on } = await body(context, switchBody);
    return context.json(await need().offerExit(on));
  });
  app.get("/v1/dns", (context) => context.json(need().dns()));
  app.post("/v1/repair", async (context) => {
    await body(context, emptyBody);
    return context.json({ items: await need().repair() });
  });
}
