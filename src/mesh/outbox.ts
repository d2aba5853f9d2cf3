/**
 * Outputs in order, for pollOutput(). Bound: above MAX_OUTPUTS control messages are dropped and counted (their senders repeat); the other kinds
 * are few and always kept.
 */
import { type ControlMessage, encodeControl } from "./control.ts";
import type { MeshOutput } from "./types.ts";

const MAX_OUTPUTS = 32_768;

export class Outbox {
  dropped = 0;
  #outputs: MeshOutput[] = [];
  #at = 0;

  push(output: MeshOutput): void {
    this.#outputs.push(output);
  }

  send(staticKey: Uint8Array, nodeId: Uint8Array | undefined, message: ControlMessage): void {
    if (this.#outputs.length - this.#at >= MAX_OUTPUTS) this.dropped++;
    else this.#outputs.push({ kind: "send", staticKey, nodeId, bytes: encodeControl(message) });
  }

  log(level: "debug" | "info" | "warn", text: string): void {
    this.#outputs.push({ kind: "log", level, text });
  }

  poll(): MeshOutput | undefined {
    if (this.#at >= this.#outputs.length) return undefined;
    const output = this.#outputs[this.#at++];
    if (this.#at === this.#outputs.length) {
      this.#outputs = [];
      this.#at = 0;
    }
    return output;
  }
}
