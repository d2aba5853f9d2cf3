/** Plain values to JSON and back: bytes stand as {"hex": "…"}, fields that are undefined are left out. */
export function toPlain(value: unknown): unknown {
  if (value instanceof Uint8Array) return { hex: Buffer.from(value).toString("hex") };
  if (Array.isArray(value)) return value.map(toPlain);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(([, field]) => field !== undefined);
  return Object.fromEntries(entries.map(([key, field]) => [key, toPlain(field)]));
}

export function fromPlain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(fromPlain);
  if (typeof value !== "object" || value === null) return value;
  if ("hex" in value && typeof value.hex === "string") return Uint8Array.from(Buffer.from(value.hex, "hex"));
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, fromPlain(field)]));
}
