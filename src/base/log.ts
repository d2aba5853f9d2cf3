/** The log as every room sees it; node/ makes the real one. Lines are for people: what happened, to whom, what happens next. */
export interface Logger {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
  child(name: string): Logger;
}

function nothing(): void {}

/** Discards everything; the default of libraries and tests. */
export const nullLogger: Logger = {
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
  child: () => nullLogger,
};
