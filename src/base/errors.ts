/**
 * Errors for people: misuse, configuration and system failures. Hostile input is never one of these; it is a counted Drop.
 * `message` says what and which value, `remedy` what to do; both fit one or two lines.
 */
export class WeftError extends Error {
  /** Stable, upper case, e.g. "PORT_BUSY". */
  readonly code: string;
  /** What the person can do. */
  readonly remedy: string;

  constructor(code: string, message: string, remedy: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "WeftError";
    this.code = code;
    this.remedy = remedy;
  }
}
