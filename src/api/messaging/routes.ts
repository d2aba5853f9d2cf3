/** All routes of messaging; every part adds its own here. */
import type { AnyRoute } from "./route.ts";
import { AGENT_ROUTES } from "./agents-routes.ts";
import { DELIVERY_ROUTES } from "./delivery-routes.ts";
import { DIRECT_ROUTES } from "./direct-routes.ts";
import { EXEC_ROUTES } from "./exec-routes.ts";
import { FILE_ROUTES } from "./files-routes.ts";
import { FORWARD_ROUTES } from "./forwards-routes.ts";
import { GROUP_ROUTES } from "./groups-routes.ts";
import { HISTORY_ROUTES } from "./history-routes.ts";
import { KV_ROUTES } from "./kv-routes.ts";
import { PRESENCE_ROUTES } from "./presence-routes.ts";
import { PUBSUB_ROUTES } from "./pubsub-routes.ts";
import { TASK_ROUTES } from "./tasks-routes.ts";

export const MESSAGING_ROUTES: readonly AnyRoute[] = [
  ...AGENT_ROUTES,
  ...DELIVERY_ROUTES,
  ...DIRECT_ROUTES,
  ...EXEC_ROUTES,
  ...FILE_ROUTES,
  ...FORWARD_ROUTES,
  ...GROUP_ROUTES,
  ...HISTORY_ROUTES,
  ...KV_ROUTES,
  ...PRESENCE_ROUTES,
  ...PUBSUB_ROUTES,
  ...TASK_ROUTES,
];
