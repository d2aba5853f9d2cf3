/**
 * Entry of the data-plane worker thread: opens the ports, then runs the engine's turns until it is told to stop. It never returns to its
 * event loop; commands come through a ring, and an eventfd wakes it from poll. Source: docs/protocol.md "Threads".
 */
import { isMainThread, workerData } from "node:worker_threads";
import { WeftError } from "../base/errors.ts";
import type { Random } from "../base/random.ts";
import { ByteRing } from "../base/ring.ts";
import { Slab } from "../base/slab.ts";
import { Engine } from "../dataplane/engine.ts";
import {
  decodeCommand,
  encodeEvent,
  INNER_HEADER,
  mayHoldKeys,
  writeInnerHeader,
} from "../dataplane/messages-codec.ts";
import type { PlaneEvent, PlaneOptions } from "../dataplane/messages.ts";
import { QUEUE_MAX_PACKETS } from "../dataplane/queues.ts";
import { PlaneStats } from "../dataplane/stats.ts";
import { createAead } from "../sys/aead.ts";
import { createMac } from "../sys/mac.ts";
import { createPacketMemory, releasePacketMemory } from "../sys/memory.ts";
import { openNetlink } from "../sys/netlink.ts";
import { createPoll } from "../sys/poll.ts";
import { openTun } from "../sys/tun.ts";
import { openUdp } from "../sys/udp.ts";
import { systemRandom } from "./random.ts";

export interface WorkerSetup {
  readonly options: PlaneOptions;
  readonly commands: SharedArrayBuffer;
  readonly events: SharedArrayBuffer;
  readonly stats: SharedArrayBuffer;
  readonly wakeFd: number;
}

const FIXED_SLAB_BYTES = 4 << 20;
const SLAB_BYTES_PER_PEER = 1_024;

function run(setup: WorkerSetup): void {
  const { options } = setup;
  const commands = new ByteRing(setup.commands);
  const events = new ByteRing(setup.events);
  const innerHeader = new DataView(new ArrayBuffer(INNER_HEADER));
  const innerHeaderBytes = new Uint8Array(innerHeader.buffer);
  const emit = (event: PlaneEvent): boolean => {
    if (event.kind === "inner") {
      writeInnerHeader(event, innerHeader);
      const isTaken = events.pushTwo(innerHeaderBytes, event.payload);
      events.wake();
      return isTaken;
    }
    const record = encodeEvent(event);
    const taken = events.push(record, 0, record.length);
    events.wake();
    return taken;
  };
  const queueBytes = QUEUE_MAX_PACKETS * (Math.max(2_048, options.settings.underlayMtuBytes + 4) + 64);
  const slab = new Slab(createPacketMemory(FIXED_SLAB_BYTES + queueBytes + options.maxPeers * SLAB_BYTES_PER_PEER));
  const closers: (() => void)[] = [];
  try {
    const tun =
      options.tunName === undefined
        ? undefined
        : openTun({ name: options.tunName, slab, offload: options.settings.tso });
    if (tun !== undefined) closers.push(() => tun.close());
    const udp = openUdp({
      slab,
      sockets: options.listen.map(({ address, port }) => ({ family: address.includes(":") ? 6 : 4, address, port })),
      gro: options.settings.gro,
      mark: options.mark,
    });
    closers.push(() => udp.close());
    const netlink = openNetlink({ slab, ignoreInterface: tun?.index ?? 0 });
    closers.push(() => netlink.close());
    const aead = createAead({ slab });
    closers.push(() => aead.close());
    const mac = createMac({ slab });
    closers.push(() => mac.close());
    const poll = createPoll(
      { slab },
      { tun: tun?.fd ?? -1, udp4: udp.fd4, udp6: udp.fd6, wake: setup.wakeFd, netlink, udpExtra: udp.fdExtra },
    );
    const random: Random = systemRandom;
    const engine = new Engine(
      {
        slab,
        tun,
        udp,
        poll,
        aead,
        mac,
        random,
        stats: new PlaneStats(setup.stats),
        clock: () => performance.now(),
        emit,
        eventLoad: () => events.usedBytes / events.capacityBytes,
        nextCommand: () => {
          const record = commands.pop();
          if (record === undefined) return undefined;
          const command = decodeCommand(record);
          // keys travel through the ring: nothing of them stays behind in this copy
          if (mayHoldKeys(record)) record.fill(0);
          return command;
        },
        park: () => {
          commands.park();
          if (commands.isEmpty) return true;
          commands.unpark();
          return false;
        },
        unpark: () => commands.unpark(),
      },
      {
        maxPeers: options.maxPeers,
        staticKey: options.staticKey,
        settings: options.settings,
        hasUdp4: udp.fd4 >= 0,
        hasUdp6: udp.fd6 >= 0,
      },
    );
    closers.push(() => engine.close());
    for (const skipped of udp.skipped)
      emit({ kind: "log", level: "warn", text: `${skipped.message}; going on without it` });
    emit({
      kind: "ready",
      tunName: tun?.name ?? "",
      port4: udp.localPort(4),
      port6: udp.localPort(6),
      offloads: tun?.offloads ?? 0,
    });
    while (!engine.stopped) engine.turn();
    emit({ kind: "stopped" });
  } catch (error) {
    const known = error instanceof WeftError;
    emit({
      kind: "failed",
      code: known ? error.code : "DATAPLANE_FAILED",
      text: known
        ? error.message
        : `the data plane stopped: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      remedy: known ? error.remedy : "this is unexpected: restart the daemon and report it with its log",
    });
  } finally {
    for (const close of closers.toReversed()) close();
    releasePacketMemory(slab.buffer);
  }
}

if (!isMainThread) run(workerData as WorkerSetup);
