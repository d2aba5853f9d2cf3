/**
 * What one foreign call, one seal, one datagram costs on this machine: `bin/weft-node bench/sys.ts [--json]`, about 6 seconds.
 *
 * Every line is measured over low packet memory (createPacketMemory) and over an ordinary ArrayBuffer, in interleaved rounds; figures
 * are medians in nanoseconds per operation. Datagrams travel over loopback, so a send includes the kernel's delivery to the
 * receiving socket. TUN lines need root and are left out without it.
 */
import { styleText } from "node:util";
import { parseAddress } from "../src/base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_PORT } from "../src/base/name.ts";
import { Slab } from "../src/base/slab.ts";
import { Ready } from "../src/dataplane/ports.ts";
import { CIPHER_NAMES, Cipher } from "../src/session/types.ts";
import { createAead } from "../src/sys/aead.ts";
import { closeEventFd, createEventFd } from "../src/sys/eventfd.ts";
import { libc } from "../src/sys/libc.ts";
import { createMac } from "../src/sys/mac.ts";
import { createPacketMemory, releasePacketMemory } from "../src/sys/memory.ts";
import { createPoll } from "../src/sys/poll.ts";
import { skipWithoutNamespaces } from "../src/sys/testing.ts";
import { openTun } from "../src/sys/tun.ts";
import { openUdp } from "../src/sys/udp.ts";

interface Line {
  readonly name: string;
  /** Operations that one run() performs. */
  readonly operations: number;
  run(): void;
}

interface Workbench {
  readonly lines: readonly Line[];
  close(): void;
}

const ROUNDS = 9;
const RUN_MS = 20;

function prepare(slab: Slab): Workbench {
  const closers: (() => void)[] = [];
  const lines: Line[] = [];
  const repeat = (name: string, one: (i: number) => void): void => {
    const operations = 1000;
    lines.push({
      name,
      operations,
      run: () => {
        for (let i = 0; i < operations; i++) one(i);
      },
    });
  };
  const packet = slab.allocate(65_600);
  const target = slab.allocate(65_600);

  const aead = createAead({ slab });
  closers.push(() => aead.close());
  const key = new Uint8Array(32).fill(1);
  for (const cipher of [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]) {
    const seal = aead.create(cipher, key, "seal");
    const open = aead.create(cipher, key, "open");
    for (const bytes of [64, 1400]) {
      const sealed = slab.allocate(bytes + 16);
      aead.seal(seal, 1, 0, packet, bytes, sealed);
      repeat(`seal ${bytes} B, ${CIPHER_NAMES[cipher]}`, (i) => aead.seal(seal, i, 0, packet, bytes, target));
      repeat(`open ${bytes} B, ${CIPHER_NAMES[cipher]}`, () => {
        if (!aead.open(open, 1, 0, sealed, bytes, target)) throw new Error("open failed");
      });
    }
  }
  const mac = createMac({ slab });
  closers.push(() => mac.close());
  const macKey = mac.create(key);
  repeat("HMAC-SHA256 of 144 B", () => mac.compute(macKey, packet, 144, target));

  repeat("foreign call without a system call", () => libc.memcpy(1, 1, 0));
  const wake = createEventFd();
  const udp = openUdp({ slab, sockets: [{ family: 4, address: "127.0.0.1", port: 0 }] });
  const plain = openUdp({ slab, sockets: [{ family: 4, address: "127.0.0.1", port: 0 }], gro: false });
  closers.push(
    () => udp.close(),
    () => plain.close(),
    () => closeEventFd(wake),
  );
  const poll = createPoll({ slab }, { udp4: udp.fd4, wake });
  repeat("ppoll of 2 descriptors, nothing ready", () => poll.wait(Ready.UDP4 | Ready.WAKE, 0));
  repeat("recvmsg, nothing waits", () => udp.receive(4, 1));

  const name = (port: number): number => {
    const at = slab.allocate(NAME_BYTES);
    slab.u8.set(parseAddress("127.0.0.1") as Uint8Array, at);
    slab.view.setUint16(at + NAME_PORT, port, true);
    slab.view.setUint8(at + NAME_FAMILY, 4);
    return at;
  };
  const toPlain = name(plain.localPort(4));
  const toUdp = name(udp.localPort(4));
  const datagrams = 64;
  for (const bytes of [64, 1400]) {
    const fill = (): void => {
      for (let i = 0; i < datagrams; i++) udp.send(packet, bytes, bytes, toPlain);
    };
    const drain = (batch: number): number => {
      let count = 0;
      for (let got = plain.receive(4, batch); got > 0; got = plain.receive(4, batch)) count += got;
      if (count !== datagrams) throw new Error(`${count} of ${datagrams} datagrams arrived`);
      return count;
    };
    for (const [how, batch] of [
      ["recvmsg", 1],
      ["recvmmsg of 16", 16],
    ] as const) {
      lines.push({
        name: `sendmsg + ${how}, ${bytes} B`,
        operations: datagrams,
        run: () => {
          fill();
          drain(batch);
        },
      });
    }
  }
  lines.push({
    name: "sendmsg + recvmsg of a train, per 1,400 B segment",
    operations: 46 * 4,
    run: () => {
      for (let i = 0; i < 4; i++) {
        udp.send(packet, 46 * 1400, 1400, toUdp);
        let bytes = 0;
        while (udp.receive(4, 1) > 0) bytes += udp.messageBytes[0];
        if (bytes !== 46 * 1400) throw new Error(`${bytes} bytes of a train arrived`);
      }
    },
  });

  if (skipWithoutNamespaces === false) {
    // down and without an address: reads find nothing, writes are refused after their checks, so only the way in is measured
    const tun = openTun({ name: "wbench%d", slab, offload: true });
    closers.push(() => tun.close());
    repeat("TUN read, nothing waits", () => tun.read(target, 65_546));
    repeat("TUN write of 2 parts, refused", () => {
      tun.beginWrite();
      tun.addPart(packet, 10);
      tun.addPart(target, 1400);
      tun.commitWrite();
    });
  }
  return {
    lines,
    close: () => {
      for (const close of closers) close();
    },
  };
}

/** Runs the line for RUN_MS. @returns nanoseconds per operation */
function measure(line: Line): number {
  let operations = 0;
  const start = performance.now();
  let elapsed = 0;
  do {
    line.run();
    operations += line.operations;
    elapsed = performance.now() - start;
  } while (elapsed < RUN_MS);
  return (elapsed * 1e6) / operations;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

const memories = { low: createPacketMemory(8 << 20), ordinary: new ArrayBuffer(8 << 20) };
const low = prepare(new Slab(memories.low));
const ordinary = prepare(new Slab(memories.ordinary));
const rows = low.lines.map((line) => ({ name: line.name, low: [] as number[], ordinary: [] as number[] }));
for (let round = -1; round < ROUNDS; round++) {
  for (const [i, row] of rows.entries()) {
    const figures = { low: measure(low.lines[i]), ordinary: measure(ordinary.lines[i]) };
    // round −1 warms up
    if (round < 0) continue;
    row.low.push(figures.low);
    row.ordinary.push(figures.ordinary);
  }
}
low.close();
ordinary.close();
releasePacketMemory(memories.low);

const results = rows.map((row) => ({
  name: row.name,
  lowNs: Number(median(row.low).toFixed(1)),
  ordinaryNs: Number(median(row.ordinary).toFixed(1)),
}));
if (process.argv.includes("--json")) {
  process.stdout.write(`${JSON.stringify({ benchmark: "sys", unit: "ns per operation", rounds: ROUNDS, results })}\n`);
} else {
  const width = Math.max(...results.map((result) => result.name.length));
  const line = (name: string, a: string, b: string): string =>
    `${name.padEnd(width)}  ${a.padStart(10)}  ${b.padStart(10)}\n`;
  process.stdout.write(styleText("bold", line("ns per operation", "low memory", "ordinary")));
  for (const { name, lowNs, ordinaryNs } of results)
    process.stdout.write(line(name, lowNs.toFixed(0), ordinaryNs.toFixed(0)));
}
