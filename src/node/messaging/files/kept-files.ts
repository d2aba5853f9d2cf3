/**
 * Received files whose transfers are forgotten, for as long as they lie where they were put: they count for the quota until somebody moves or
 * removes them. One file, files/kept.json of the state directory. Bounds: MAX_FILES; full, nothing is taken from members any more.
 * Source: docs/protocol.md, "Files".
 */
import { readFile, stat } from "node:fs/promises";
import { saveDurably } from "./disk.ts";

const MAX_FILES = 16_384;
const MAX_LIST_BYTES = 128 << 20;

export class KeptFiles {
  readonly #file: string;
  /** Path → bytes. */
  readonly #files = new Map<string, number>();
  #saving: Promise<void> = Promise.resolve();
  bytes = 0;

  /** @param file absolute */
  constructor(file: string) {
    this.#file = file;
  }

  get isFull(): boolean {
    return this.#files.size >= MAX_FILES;
  }

  /** What cannot be read is no list: the files count as somebody else's. */
  async load(): Promise<void> {
    const found = await stat(this.#file).catch(() => undefined);
    if (found === undefined || found.size > MAX_LIST_BYTES) return;
    const value: unknown = await readFile(this.#file, "utf8")
      .then(JSON.parse)
      .catch(() => undefined);
    for (const entry of Array.isArray(value) ? value.slice(0, MAX_FILES) : []) {
      const [path, bytes] = Array.isArray(entry) ? (entry as unknown[]) : [];
      if (typeof path === "string" && typeof bytes === "number" && bytes >= 0) this.add(path, bytes);
    }
  }

  add(path: string, bytes: number): void {
    this.delete(path);
    this.#files.set(path, bytes);
    this.bytes += bytes;
  }

  delete(path: string): void {
    this.bytes -= this.#files.get(path) ?? 0;
    this.#files.delete(path);
  }

  /** Drops what is not there any more. */
  async refresh(): Promise<void> {
    const before = this.#files.size;
    for (const path of this.#files.keys()) if (await isMissing(path)) this.delete(path);
    if (this.#files.size < before) await this.save();
  }

  /** One after the other; the last state wins. */
  save(): Promise<void> {
    const write = (): Promise<void> => saveDurably(this.#file, `${JSON.stringify([...this.#files])}\n`);
    this.#saving = this.#saving.then(write, write);
    return this.#saving;
  }
}

/** @returns false as well when nobody can tell */
export async function isMissing(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === "ENOENT" || error.code === "ENOTDIR",
  );
}
