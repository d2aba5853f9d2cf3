/**
 * The way of commands to the data plane. When its ring is full they wait here in order and are tried again shortly; state (keys, peers,
 * routes) always gets through, while datagrams and echoes, which their senders repeat anyway, are dropped and counted once 1,024 wait.
 */
import type { Command, DataplaneHandle } from "../dataplane/messages.ts";
import type { Clock } from "./clock.ts";

const MAX_DROPPABLE = 1024;
const RETRY_MS = 2;

function isDroppable(command: Command): boolean {
  return (
    command.kind === "transmit" ||
    command.kind === "ping" ||
    command.kind === "channelIn" ||
    command.kind === "raw" ||
    (command.kind === "inner" && command.innerKind === 2)
  );
}

export class PlaneLink {
  readonly #plane: DataplaneHandle;
  readonly #clock: Clock;
  #waiting: Command[] = [];
  #cancel: (() => void) | undefined;
  dropped = 0;

  constructor(plane: DataplaneHandle, clock: Clock) {
    this.#plane = plane;
    this.#clock = clock;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** For senders that keep what does not fit and offer it again. @returns false when there is no room now */
  trySend(command: Command): boolean {
    return this.#waiting.length === 0 && this.#plane.send(command);
  }

  send(command: Command): void {
    if (this.#waiting.length === 0 && this.#plane.send(command)) return;
    if (isDroppable(command) && this.#waiting.length >= MAX_DROPPABLE) {
      this.dropped++;
      return;
    }
    // whole tables replace each other, so only the newest has to wait; that bounds what stands here by the number of peers and epochs
    if (command.kind === "routes" || command.kind === "local" || command.kind === "settings") {
      this.#waiting = this.#waiting.filter((other) => other.kind !== command.kind);
    } else if (command.kind === "candidates") {
      this.#waiting = this.#waiting.filter((other) => other.kind !== "candidates" || other.peer !== command.peer);
    }
    this.#waiting.push(command);
    this.#retryLater();
  }

  close(): void {
    this.#cancel?.();
    this.#waiting = [];
  }

  #retryLater(): void {
    this.#cancel ??= this.#clock.schedule(this.#clock.now().nowMs + RETRY_MS, () => {
      this.#cancel = undefined;
      let sent = 0;
      while (sent < this.#waiting.length && this.#plane.send(this.#waiting[sent])) sent++;
      this.#waiting.splice(0, sent);
      if (this.#waiting.length > 0) this.#retryLater();
    });
  }
}
