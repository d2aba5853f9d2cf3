/**
 * The data-plane worker as the control thread sees it: starts the thread, carries commands and events through two rings, and reads the
 * shared statistics. Rings are bounded: a command that does not fit is refused and counted, never waited for.
 */
import { Worker } from "node:worker_threads";
import { WeftError } from "../base/errors.ts";
import { ByteRing, createRingMemory } from "../base/ring.ts";
import { decodeEvent, encodeCommand, INNER_HEADER, writeInnerHeader } from "../dataplane/messages-codec.ts";
import type { Command, DataplaneHandle, PeerFigures, PlaneEvent, PlaneOptions } from "../dataplane/messages.ts";
import { PEER_FIELDS, PeerField, PlaneStats, createStatsMemory } from "../dataplane/stats.ts";
import { closeEventFd, createEventFd, signalEventFd } from "../sys/eventfd.ts";
import type { WorkerSetup } from "./dataplane-worker.ts";

const COMMAND_RING_BYTES = 1 << 20;
const EVENT_RING_BYTES = 512 << 10;
const STOP_TIMEOUT_MS = 3_000;
const EVENTS_PER_TICK = 256;
/** Datagrams of streams come in bursts: a sleeping worker is woken once for so many. */
const INNER_PER_SIGNAL = 64;

class Handle implements DataplaneHandle {
  readonly #worker: Worker;
  readonly #commands: ByteRing;
  readonly #events: ByteRing;
  readonly #stats: PlaneStats;
  readonly #wakeFd: number;
  readonly #onEvent: (event: PlaneEvent) => void;
  readonly ready: Promise<void>;
  readonly #innerHeader = new DataView(new ArrayBuffer(INNER_HEADER));
  readonly #innerHeaderBytes = new Uint8Array(this.#innerHeader.buffer);
  /** Pushed since the worker was last woken. */
  #unsignalled = 0;
  #ended = false;
  #refusedCommands = 0;
  #failedEvents = 0;
  #resolveEnd: () => void = () => {};
  readonly #end: Promise<void>;

  constructor(options: PlaneOptions, onEvent: (event: PlaneEvent) => void) {
    const commandMemory = createRingMemory(COMMAND_RING_BYTES);
    const eventMemory = createRingMemory(EVENT_RING_BYTES);
    const statsMemory = createStatsMemory(options.maxPeers);
    this.#commands = new ByteRing(commandMemory);
    this.#events = new ByteRing(eventMemory);
    this.#stats = new PlaneStats(statsMemory);
    this.#wakeFd = createEventFd();
    this.#onEvent = onEvent;
    this.#end = new Promise((resolve) => (this.#resolveEnd = resolve));
    const setup: WorkerSetup = {
      options,
      commands: commandMemory,
      events: eventMemory,
      stats: statsMemory,
      wakeFd: this.#wakeFd,
    };
    this.#worker = new Worker(new URL("./dataplane-worker.ts", import.meta.url), {
      workerData: setup,
      name: "weft-dataplane",
      resourceLimits: { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 128 },
    });
    let settle: { resolve: () => void; reject: (error: Error) => void } | undefined;
    this.ready = new Promise((resolve, reject) => (settle = { resolve, reject }));
    const fail = (error: Error): void => {
      settle?.reject(error);
      settle = undefined;
    };
    this.#worker.once("error", (error: Error) => {
      fail(error);
      this.#onEvent({
        kind: "failed",
        code: "DATAPLANE_FAILED",
        text: `the data plane stopped: ${error.message}`,
        remedy: "restart the daemon and report this with its log",
      });
    });
    this.#worker.once("exit", () => {
      this.#drain();
      this.#ended = true;
      this.#events.wake();
      this.#resolveEnd();
      fail(new Error("the data-plane worker ended while starting"));
    });
    void this.#pump((event) => {
      if (settle === undefined) return this.#onEvent(event);
      if (event.kind === "failed") return fail(new WeftError(event.code, event.text, event.remedy));
      if (event.kind === "ready") {
        settle.resolve();
        settle = undefined;
      }
      return this.#onEvent(event);
    });
  }

  send(command: Command): boolean {
    if (command.kind === "inner") {
      writeInnerHeader(command, this.#innerHeader);
      const taken = this.#commands.pushTwo(this.#innerHeaderBytes, command.payload);
      if (!taken) this.#refusedCommands++;
      this.#unsignalled++;
      if (!taken || this.#unsignalled >= INNER_PER_SIGNAL) this.#signal();
      else if (this.#unsignalled === 1) queueMicrotask(() => this.#signal());
      return taken;
    }
    const record = encodeCommand(command);
    const taken = this.#commands.push(record, 0, record.length);
    record.fill(0);
    if (!taken) this.#refusedCommands++;
    this.#signal();
    return taken;
  }

  #signal(): void {
    this.#unsignalled = 0;
    if (!this.#ended && this.#commands.takeParked()) signalEventFd(this.#wakeFd);
  }

  peerFigures(peer: number): PeerFigures {
    const cells = this.#stats.cells;
    const row = this.#stats.peerRow(peer);
    const nowMs = this.#stats.clockMs;
    const at = (field: number): number => (row + PEER_FIELDS <= cells.length ? cells[row + field] : 0);
    const receivedMs = at(PeerField.lastReceivedMs);
    const epochMs = at(PeerField.epochStartedMs);
    const established = at(PeerField.established) === 1;
    return {
      txBytes: at(PeerField.txBytes),
      rxBytes: at(PeerField.rxBytes),
      txPackets: at(PeerField.txPackets),
      rxPackets: at(PeerField.rxPackets),
      rttMs: at(PeerField.rttMs),
      lossRatio: at(PeerField.lossRatio),
      mtuBytes: at(PeerField.mtuBytes),
      lastDeliveryMs: receivedMs === 0 ? -1 : Math.max(0, nowMs - receivedMs),
      epochAgeMs: established ? Math.max(0, nowMs - epochMs) : -1,
      cipher: at(PeerField.cipher),
      hybrid: at(PeerField.hybrid) === 1,
      established,
      queuedPackets: at(PeerField.queued),
      droppedTx: at(PeerField.dropsTx),
      droppedRx: at(PeerField.dropsRx),
      spoofed: at(PeerField.spoofed),
      deliveryBps: at(PeerField.rateBps),
      forwardedBytes: at(PeerField.forwardedBytes),
      forwardDrops: at(PeerField.forwardDrops),
    };
  }

  counters(): Map<string, number> {
    const out = this.#stats.snapshot();
    out.set("commandsRefused", this.#refusedCommands);
    out.set("eventsFailed", this.#failedEvents);
    return out;
  }

  async stop(): Promise<void> {
    if (this.#ended) return;
    this.send({ kind: "stop" });
    signalEventFd(this.#wakeFd);
    const timer = setTimeout(() => this.#resolveEnd(), STOP_TIMEOUT_MS);
    await this.#end;
    clearTimeout(timer);
    if (!this.#ended) await this.#worker.terminate();
    this.#ended = true;
    this.#events.wake();
    closeEventFd(this.#wakeFd);
  }

  /** Hands on events as they come, a bounded number per tick, so that a flood of them never starves the rest of the thread. */
  async #pump(onEvent: (event: PlaneEvent) => void): Promise<void> {
    this.#deliver = onEvent;
    while (!this.#ended) {
      await this.#events.waitAsync();
      while (!this.#ended && this.#drain() === EVENTS_PER_TICK) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  #deliver: (event: PlaneEvent) => void = () => {};

  #drain(): number {
    let count = 0;
    for (; count < EVENTS_PER_TICK; count++) {
      const record = this.#events.pop();
      if (record === undefined) break;
      try {
        this.#deliver(decodeEvent(record));
      } catch (error) {
        // whatever came in from the network, it must not end the thread that serves everybody else
        this.#failedEvents++;
        const text = `an event could not be handled: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
        this.#onEvent({ kind: "log", level: "error", text });
      }
    }
    return count;
  }
}

/** Starts the worker; resolves when it is ready. @throws WeftError with the code of what failed (TUN_DENIED, PORT_BUSY, …) */
export async function startDataplane(
  options: PlaneOptions,
  onEvent: (event: PlaneEvent) => void,
): Promise<DataplaneHandle> {
  const handle = new Handle(options, onEvent);
  try {
    await handle.ready;
  } catch (error) {
    await handle.stop();
    throw error;
  }
  return handle;
}
