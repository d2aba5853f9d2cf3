/** Names of files as other nodes call them, made fit to be a name in a directory of this one. Source: docs/protocol.md, "Files"; sans-I/O. */

const MAX_NAME_BYTES = 200;

/** The last part of a path without what could leave the directory, hide or confuse: never empty, at most 200 bytes of UTF-8. */
export function safeFileName(text: string): string {
  const last = text.normalize("NFC").split(/[/\\]/).at(-1) ?? "";
  // control and format characters (directions of writing among them), lone surrogates
  const plain = last.replaceAll(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, "").trim();
  const visible = plain.replace(/^\.+/, "_");
  return cut(visible, MAX_NAME_BYTES) || "file";
}

/** "report.pdf", 2 → "report (2).pdf" */
export function numberedName(name: string, number: number): string {
  if (number < 2) return name;
  const dot = name.lastIndexOf(".");
  const at = dot <= 0 ? name.length : dot;
  return `${name.slice(0, at)} (${number})${name.slice(at)}`;
}

/** Whole characters alone. */
function cut(text: string, maxBytes: number): string {
  let bytes = 0;
  let out = "";
  for (const character of text) {
    bytes += Buffer.byteLength(character);
    if (bytes > maxBytes) break;
    out += character;
  }
  return out;
}
