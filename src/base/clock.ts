/** Time as protocols see it: an argument, never a call. */
export interface Now {
  /** Monotonic, fractional milliseconds from an arbitrary start. */
  readonly nowMs: number;
  /** Milliseconds since 1970; may jump. */
  readonly wallMs: number;
}
