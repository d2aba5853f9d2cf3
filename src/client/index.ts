/** What `weft/client` exports. */
export { WeftClient } from "./client.ts";
export type { ApiEvent, EventOptions } from "./events.ts";
export type { CallOptions, Place } from "./transport.ts";
export { WeftError } from "../base/errors.ts";
