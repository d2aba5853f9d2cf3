/**
 * The way of all text to the terminal. Names, titles, topics, reasons and bodies come from other members; a terminal obeys control sequences
 * in them (it types, hides, overwrites lines, sets the clipboard), so on a terminal every control character is shown instead: ESC as \u001b.
 * That is also how JSON writes it. What passes is a new line, a tab, and the few colours that this command itself paints with. Into a pipe or
 * a file goes the text as it is.
 * Source: ECMA-48; Unicode Standard Annex 9 (characters that turn the direction of what stands behind them).
 */

/** What paint() of format.ts emits, or a character to be shown. */
const SPECIAL =
  // oxlint-disable-next-line no-control-regex -- finding them is the point
  /\u001b\[(?:1|22|3[1236]|39|90)m|[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

export function forTerminal(text: string): string {
  return text.replace(SPECIAL, (found) => (found.length > 1 ? found : shown(found)));
}

/** For a value that belongs on one line: it cannot pretend to be another one. */
export function oneLine(text: string): string {
  return text.replace(/[\n\t]/g, shown);
}

function shown(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

export function write(text: string, stream: NodeJS.WriteStream = process.stdout): void {
  stream.write(stream.isTTY ? forTerminal(text) : text);
}

/** To standard error, so that a pipe has the output alone. */
export function notice(text: string): void {
  write(`weft: ${text}\n`, process.stderr);
}

/** Bytes of others: as they are for pipes; on a terminal as text, or as base64 when they are none. Resolves when they are out. */
export function writeBytes(bytes: Uint8Array, stream: NodeJS.WriteStream = process.stdout): Promise<void> {
  if (!stream.isTTY) return new Promise((resolve) => stream.write(bytes, () => resolve()));
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    text = `base64:${bytes.toBase64()}`;
  }
  write(text === "" || text.endsWith("\n") ? text : `${text}\n`, stream);
  return Promise.resolve();
}
