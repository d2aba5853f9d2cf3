/**
 * The data plane's figures: one Float64Array in shared memory, written by the worker alone and read by anyone at any time without
 * stopping it. A reader may see a row in the middle of an update; each cell by itself is always a whole value.
 * Layout: plane counters | drops outbound | drops inbound | 3 histograms | one row of PEER_FIELDS cells per peer slot.
 */
import { DROP_COUNT, DROP_NAMES } from "../base/drop.ts";
import { HISTOGRAM_BUCKETS, HISTOGRAM_FIELDS, recordHistogram } from "../base/histogram.ts";

/**
 * Plane counters. "Packets" are IP packets after splitting and before merging; "datagrams" are UDP payloads on the underlay.
 * Conservation: tunRxPackets = txPackets + queued + Σ outbound drops; udpRxDatagrams = rxPackets + rxInternal + Σ inbound drops.
 */
export const Counter = {
  tunRxReads: 0,
  /** IP packets read from the TUN, segments of super-packets counted one by one. */
  tunRxPackets: 1,
  tunRxBytes: 2,
  tunTxWrites: 3,
  tunTxPackets: 4,
  tunTxBytes: 5,
  udpRxCalls: 6,
  udpRxDatagrams: 7,
  udpRxBytes: 8,
  udpTxCalls: 9,
  udpTxDatagrams: 10,
  udpTxBytes: 11,
  /** IP packets sealed and accepted by the kernel. */
  txPackets: 12,
  /** IP packets opened, checked and written to the TUN. */
  rxPackets: 13,
  /** Datagrams received that were not user packets: handshake, keepalive, probe, report, control, fragments of a pending packet. */
  rxInternal: 14,
  /** Messages of our own sent: handshake, keepalive, probe, report, control. */
  txInternal: 15,
  /** Packets we made ourselves into the overlay: ICMP errors. */
  icmpSent: 16,
  gsoFallbacks: 17,
  sendAgain: 18,
  sendNoBuffers: 19,
  sendErrors: 20,
  receiveErrors: 21,
  socketErrors: 22,
  tunReadErrors: 23,
  tunWriteErrors: 24,
  tunWriteAgain: 25,
  /** Packets standing in queues now (a gauge). */
  queued: 26,
  /** Datagrams the kernel dropped before we could read them (SO_RXQ_OVFL). */
  receiveOverflow: 27,
  turns: 28,
  polls: 29,
  fragmentsSent: 30,
  fragmentsReceived: 31,
  eventsRefused: 32,
  cookieReplies: 33,
  /** Packets or trains given more than one datagram in a GSO send; segments per batch = udpTxDatagrams / udpTxCalls. */
  gsoSends: 34,
  coalescedPackets: 35,
  /** Datagrams sent on a second path as well while delivery on the first was in doubt: the same bytes, once more. */
  duplicated: 36,
  /** Merged writes that the TUN refused as such: merging is off since then. */
  mergesRefused: 37,
  /** Datagrams of this node that left inside another peer's session, and those that came in so. */
  viaSent: 38,
  viaReceived: 39,
  /** Datagrams of others: taken to be handed on, handed to the kernel, and lost in between. forwardTaken = forwarded + forwardLost + in the open batch. */
  forwardTaken: 40,
  forwarded: 41,
  forwardLost: 42,
  forwardedBytes: 43,
  /** Transit errors sent back, received, and not sent because of their rate. */
  transitErrorsSent: 44,
  transitErrorsReceived: 45,
  transitErrorsLimited: 46,
  /** Vias, forward entries and channels refused because of their bound or a label in use. */
  transitRefused: 47,
  /** Datagrams into and out of channels. */
  channelSent: 48,
  channelReceived: 49,
  rawSent: 50,
  stunReceived: 51,
} as const;
export const COUNTER_NAMES: readonly string[] = Object.keys(Counter);

export const Stage = { TUN_TO_UDP: 0, UDP_TO_TUN: 1, QUEUE_WAIT: 2 } as const;
export const STAGE_NAMES: readonly string[] = ["tun_to_udp", "udp_to_tun", "queue_wait"];

/** Cells of a peer's row. Times are milliseconds on the worker's clock, 0 = never. */
export const PeerField = {
  txBytes: 0,
  rxBytes: 1,
  txPackets: 2,
  rxPackets: 3,
  rttMs: 4,
  lossRatio: 5,
  mtuBytes: 6,
  lastReceivedMs: 7,
  epochStartedMs: 8,
  cipher: 9,
  hybrid: 10,
  established: 11,
  queued: 12,
  dropsTx: 13,
  dropsRx: 14,
  spoofed: 15,
  rateBps: 16,
  /** What came from it and was handed on to others: bytes, and datagrams dropped because they were over its quota. */
  forwardedBytes: 17,
  forwardDrops: 18,
} as const;
export const PEER_FIELDS = 20;

const COUNTERS = COUNTER_NAMES.length + 4;
const DROPS_TX = COUNTERS;
const DROPS_RX = DROPS_TX + DROP_COUNT;
const HISTOGRAMS = DROPS_RX + DROP_COUNT;
const PEERS = HISTOGRAMS + STAGE_NAMES.length * HISTOGRAM_FIELDS;
/** Cell in which the worker publishes its clock, so that readers can turn times into ages. */
const CLOCK = COUNTER_NAMES.length;

export function createStatsMemory(maxPeers: number): SharedArrayBuffer {
  return new SharedArrayBuffer((PEERS + maxPeers * PEER_FIELDS) * 8);
}

export class PlaneStats {
  readonly cells: Float64Array;

  constructor(memory: SharedArrayBuffer) {
    this.cells = new Float64Array(memory);
  }

  add(counter: number, amount: number): void {
    this.cells[counter] = this.cells[counter] + amount;
  }

  get(counter: number): number {
    return this.cells[counter];
  }

  set(counter: number, value: number): void {
    this.cells[counter] = value;
  }

  dropTx(reason: number, packets: number): void {
    this.cells[DROPS_TX + reason] = this.cells[DROPS_TX + reason] + packets;
  }

  dropRx(reason: number, packets: number): void {
    this.cells[DROPS_RX + reason] = this.cells[DROPS_RX + reason] + packets;
  }

  droppedTx(reason: number): number {
    return this.cells[DROPS_TX + reason];
  }

  droppedRx(reason: number): number {
    return this.cells[DROPS_RX + reason];
  }

  record(stage: number, durationMs: number): void {
    recordHistogram(this.cells, HISTOGRAMS + stage * HISTOGRAM_FIELDS, durationMs);
  }

  /** Index of the first cell of a peer's row. */
  peerRow(peer: number): number {
    return PEERS + peer * PEER_FIELDS;
  }

  clearPeer(peer: number): void {
    this.cells.fill(0, PEERS + peer * PEER_FIELDS, PEERS + (peer + 1) * PEER_FIELDS);
  }

  get clockMs(): number {
    return this.cells[CLOCK];
  }

  set clockMs(value: number) {
    this.cells[CLOCK] = value;
  }

  /** Name → value: counters by their name, drops as drop_tx_REASON / drop_rx_REASON, histograms as hist_STAGE_{count,sum_us,bucket_i}. */
  snapshot(): Map<string, number> {
    const out = new Map<string, number>();
    COUNTER_NAMES.forEach((name, i) => out.set(name, this.get(i)));
    DROP_NAMES.forEach((name, i) => {
      if (i === 0) return;
      out.set(`drop_tx_${name}`, this.droppedTx(i));
      out.set(`drop_rx_${name}`, this.droppedRx(i));
    });
    STAGE_NAMES.forEach((name, stage) => {
      const base = HISTOGRAMS + stage * HISTOGRAM_FIELDS;
      out.set(`hist_${name}_count`, this.cells[base]);
      out.set(`hist_${name}_sum_us`, this.cells[base + 1]);
      for (let i = 0; i < HISTOGRAM_BUCKETS; i++) out.set(`hist_${name}_bucket_${i}`, this.cells[base + 2 + i]);
    });
    return out;
  }
}
