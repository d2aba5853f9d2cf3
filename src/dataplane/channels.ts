/**
 * Channels: reliable byte streams of the control thread (WebSocket) that carry datagrams where UDP does not pass. A channel's virtual endpoint is an
 * address like any other; datagrams to it become events, datagrams out of it are judged like received ones.
 *
 * At most 256. When the ring to the control thread is half full, sending says ENOBUFS: the batch waits and packets queue behind it, as with a full
 * socket. Events allocate: a channel is the way of last resort, not the packet path. Source: docs/protocol.md, "Vias".
 */
import { NAME_REMOTE } from "../base/name.ts";
import type { Slab } from "../base/slab.ts";
import type { PlaneEvent } from "./messages.ts";
import { ENETUNREACH, ENOBUFS } from "./sender.ts";
import { Counter, type PlaneStats } from "./stats.ts";

export const MAX_CHANNELS = 256;
/** Largest datagram into or out of a channel. */
export const CHANNEL_DATAGRAM_BYTES = 9_216;
const RING_FULL = 0.5;

export interface ChannelsDeps {
  readonly slab: Slab;
  readonly stats: PlaneStats;
  readonly emit: (event: PlaneEvent) => boolean;
  /** How full the ring to the control thread is, 0–1. */
  readonly eventLoad: () => number;
}

export class Channels {
  readonly #deps: ChannelsDeps;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #open = new Set<number>();
  readonly #buffer: number;

  constructor(deps: ChannelsDeps) {
    this.#deps = deps;
    this.#u8 = deps.slab.u8;
    this.#view = deps.slab.view;
    this.#buffer = deps.slab.allocate(CHANNEL_DATAGRAM_BYTES + 64) + 64;
  }

  get size(): number {
    return this.#open.size;
  }

  /** @returns false when it is one too many */
  setOpen(id: number, open: boolean): boolean {
    if (!open) this.#open.delete(id);
    else if (this.#open.size < MAX_CHANNELS || this.#open.has(id)) this.#open.add(id);
    else return false;
    return true;
  }

  isOpen(id: number): boolean {
    return this.#open.has(id);
  }

  /** Copies a datagram into packet memory, where it may be opened in place; valid until the next one. @returns slab offset, or 0 when too large or empty */
  place(datagram: Uint8Array): number {
    if (datagram.length === 0 || datagram.length > CHANNEL_DATAGRAM_BYTES) return 0;
    this.#u8.set(datagram, this.#buffer);
    return this.#buffer;
  }

  /** As UdpPort.send(), for a name of family CHANNEL. */
  send(offset: number, bytes: number, segmentBytes: number, name: number): number {
    const id = this.#view.getUint32(name + NAME_REMOTE + 12);
    if (!this.#open.has(id)) return ENETUNREACH;
    if (this.#deps.eventLoad() >= RING_FULL) return ENOBUFS;
    for (let at = 0; at < bytes; at += segmentBytes) {
      const end = Math.min(at + segmentBytes, bytes);
      const datagram = this.#u8.slice(offset + at, offset + end);
      const sent = this.#deps.emit({ kind: "channelOut", id, datagram });
      this.#deps.stats.add(sent ? Counter.channelSent : Counter.sendErrors, 1);
    }
    return bytes;
  }
}
