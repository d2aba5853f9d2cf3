/** How an error of the local API looks: {code, message, remedy} and an HTTP status that follows from the code. */
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";

export type ErrorStatus = 400 | 401 | 403 | 404 | 409 | 413 | 429 | 500 | 503 | 504;

export interface ErrorBody {
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
}

const STATUS_OF_CODE: Readonly<Record<string, ErrorStatus>> = {
  BAD_REQUEST: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  TOO_LARGE: 413,
  BUSY: 429,
  INTERNAL: 500,
  NOT_READY: 503,
};

/** For codes that are not in the table; all else is a conflict with the state of the node. */
const STATUS_OF_ENDING: readonly (readonly [ending: string, status: ErrorStatus])[] = [
  ["_UNKNOWN", 404],
  ["_DENIED", 403],
  ["_FULL", 429],
  ["_BUSY", 429],
  ["_TIMEOUT", 504],
  ["_TOO_LARGE", 413],
];

export function statusOf(code: string): ErrorStatus {
  return (
    (Object.hasOwn(STATUS_OF_CODE, code) ? STATUS_OF_CODE[code] : undefined) ??
    STATUS_OF_ENDING.find(([ending]) => code.endsWith(ending))?.[1] ??
    409
  );
}

/** A WeftError as it is; anything else is a defect: logged with its stack, told without it. */
export function errorBody(error: unknown, what: string, log: Logger): ErrorBody {
  if (error instanceof WeftError) return { code: error.code, message: error.message, remedy: error.remedy };
  const message = error instanceof Error ? error.message : String(error);
  log.error(`${what} failed: ${message}`, error instanceof Error ? { stack: error.stack } : {});
  return { code: "INTERNAL", message, remedy: "see the daemon's log; this is a defect worth reporting" };
}

export function errorResponse(body: ErrorBody, headers: Readonly<Record<string, string>> = {}): Response {
  const status = statusOf(body.code);
  const wait = status === 429 ? { "retry-after": "1" } : {};
  const challenge = status === 401 ? { "www-authenticate": "Bearer" } : {};
  return Response.json(body, { status, headers: { ...wait, ...challenge, ...headers } });
}
