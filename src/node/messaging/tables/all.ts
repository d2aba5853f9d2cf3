/** All tables of the message store: each part adds its set here. */
import type { TableSet } from "../store.ts";
import { AGENT_TABLES } from "./agents.ts";
import { DIRECT_TABLES } from "./direct.ts";
import { GROUP_TABLES } from "./groups.ts";
import { HISTORY_TABLES } from "./history.ts";
import { KV_TABLES } from "./kv.ts";
import { PRESENCE_TABLES } from "./presence.ts";
import { PUBSUB_TABLES } from "./pubsub.ts";

export const ALL_TABLES: readonly TableSet[] = [
  AGENT_TABLES,
  DIRECT_TABLES,
  GROUP_TABLES,
  HISTORY_TABLES,
  KV_TABLES,
  PRESENCE_TABLES,
  PUBSUB_TABLES,
];
