/**
 * The journal of changes to the machine: what must be undone, written down and fsynced before it is done. One JSON line for each intent and one for
 * each that was undone, appended; a last line without its end is an intent whose change never began. When nothing is outstanding the
 * file is empty again.
 *
 * Guarantees: add() resolves when the intent is on disk; whatever kills the process, the next open() knows every change that may have
 * been made. A damaged line is left out and counted, so that the rest can still be undone. Bounds: MAX_OUTSTANDING intents,
 * MAX_LINE_BYTES each; beyond, the change is refused. Source: docs/protocol.md, "Changes to the machine".
 */
import { constants, fsyncSync, openSync, closeSync } from "node:fs";
import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { dirname, join } from "node:path";
import { WeftError } from "../base/errors.ts";
import type { Change } from "./system-changes.ts";

export const JOURNAL_NAME = "journal";
const MAX_OUTSTANDING = 1024;
const MAX_LINE_BYTES = 256 * 1024;
const MAX_FILE_BYTES = 64 * 1024 * 1024;

export interface JournalEntry {
  readonly id: number;
  /** Boot and network namespace in which the change was made: "BOOT/INODE". */
  readonly scope: string;
  readonly change: Change;
}

export class Journal {
  /** Lines that could not be read. */
  damaged = 0;
  readonly #file: string;
  readonly #scope: string;
  readonly #handle: FileHandle;
  readonly #outstanding = new Map<number, JournalEntry>();
  #nextId = 1;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(file: string, scope: string, handle: FileHandle) {
    this.#file = file;
    this.#scope = scope;
    this.#handle = handle;
  }

  /**
   * Reads what is outstanding; makes the file when it is missing.
   * @param stateDirectory whose lock the caller holds @param scope of this process, see system-changes.ts
   * @throws WeftError JOURNAL_FAILED
   */
  static async open(stateDirectory: string, scope: string): Promise<Journal> {
    const file = join(stateDirectory, JOURNAL_NAME);
    let handle: FileHandle | undefined;
    try {
      handle = await open(file, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
      const journal = new Journal(file, scope, handle);
      await journal.#read();
      syncDirectory(stateDirectory);
      return journal;
    } catch (cause) {
      await handle?.close();
      throw failed(file, cause);
    }
  }

  /** Oldest first. */
  get outstanding(): readonly JournalEntry[] {
    return [...this.#outstanding.values()];
  }

  /** Writes the intent down. @throws WeftError JOURNAL_FULL, JOURNAL_FAILED: then the change must not be made */
  add(change: Change): Promise<JournalEntry> {
    return this.#serially(async () => {
      const entry: JournalEntry = { id: this.#nextId++, scope: this.#scope, change };
      const line = `${JSON.stringify(entry)}\n`;
      if (this.#outstanding.size >= MAX_OUTSTANDING || Buffer.byteLength(line) > MAX_LINE_BYTES) {
        throw new WeftError(
          "JOURNAL_FULL",
          `the journal ${this.#file} holds ${this.#outstanding.size} changes, or this one is too large for it`,
          "run `weft repair` while the daemon is stopped",
        );
      }
      await this.#append(line, true);
      this.#outstanding.set(entry.id, entry);
      return entry;
    });
  }

  /** The change was undone, or never made. Not fsynced: undoing twice does no harm. */
  done(id: number): Promise<void> {
    return this.#serially(async () => {
      if (!this.#outstanding.delete(id)) return;
      if (this.#outstanding.size > 0) return this.#append(`${JSON.stringify({ done: id })}\n`, false);
      try {
        await this.#handle.truncate(0);
        await this.#handle.datasync();
      } catch (cause) {
        throw failed(this.#file, cause);
      }
    });
  }

  async close(): Promise<void> {
    await this.#last.catch(() => undefined);
    await this.#handle.close();
  }

  async #append(line: string, durable: boolean): Promise<void> {
    try {
      const { size } = await this.#handle.stat();
      await this.#handle.write(line, size);
      if (durable) await this.#handle.datasync();
    } catch (cause) {
      throw failed(this.#file, cause);
    }
  }

  async #read(): Promise<void> {
    const { size } = await this.#handle.stat();
    if (size > MAX_FILE_BYTES) throw new Error(`it has ${size} bytes`);
    const bytes = await this.#handle.readFile();
    const end = bytes.lastIndexOf(0x0a) + 1;
    for (const line of bytes.toString("utf8", 0, end).split("\n")) {
      if (line === "") continue;
      const value = parse(line);
      if (value === undefined) {
        this.damaged++;
        continue;
      }
      if ("done" in value) {
        this.#outstanding.delete(value.done);
        continue;
      }
      this.#outstanding.set(value.id, value);
      this.#nextId = Math.max(this.#nextId, value.id + 1);
    }
    // a later append must not continue a torn line
    if (end < bytes.length) await this.#handle.truncate(end);
  }

  #serially<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#last.then(action, action);
    this.#last = result.catch(() => undefined);
    return result;
  }
}

function parse(line: string): JournalEntry | { readonly done: number } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { id, scope, change, done } = value as Record<string, unknown>;
  if (Number.isSafeInteger(done)) return { done: done as number };
  const kind = (change as { kind?: unknown } | null | undefined)?.kind;
  if (!Number.isSafeInteger(id) || typeof scope !== "string" || typeof kind !== "string") return undefined;
  return { id: id as number, scope, change: change as Change };
}

function syncDirectory(path: string): void {
  const descriptor = openSync(dirname(join(path, JOURNAL_NAME)), constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function failed(file: string, cause: unknown): WeftError {
  if (cause instanceof WeftError) return cause;
  return new WeftError(
    "JOURNAL_FAILED",
    `cannot use the journal ${file}: ${(cause as Error).message}`,
    "check the free space and the permissions of the state directory; nothing on this machine was changed",
    { cause },
  );
}
