/**
 * `bench micro`: the routines that run once per packet, each by itself, with mitata. Beside a fast routine stands the plain one it
 * replaces, where there is one. Nanoseconds per call.
 */
import { createCipheriv, randomBytes } from "node:crypto";
import { bench, group, run } from "mitata";
import { parseAddress } from "../src/base/endpoint.ts";
import { SeededRandom } from "../src/base/random.ts";
import { createRingMemory, ByteRing } from "../src/base/ring.ts";
import { Slab } from "../src/base/slab.ts";
import { ReplayWindow } from "../src/crypto/replay.ts";
import { RouteTable } from "../src/dataplane/routes.ts";
import { Cipher } from "../src/session/types.ts";
import { createAead } from "../src/sys/aead.ts";
import { createMac } from "../src/sys/mac.ts";
import { fold, sum16, transportChecksumOk } from "../src/wire/checksum.ts";
import { DataHeader, decodeDataHeader, encodeDataHeader } from "../src/wire/data.ts";
import { describeMachine } from "./tools/machine.ts";
import { figure, publish, type OutputOptions } from "./tools/report.ts";

export interface MicroOptions extends OutputOptions {
  /** Part of the names to run; undefined = all. */
  readonly filter: string | undefined;
  readonly command: string;
}

const PACKET_BYTES = 1_400;
const ROUTES = 1_000;

/** Keeps results alive, so that no loop is optimised away. */
let sink = 0;

function checksums(): void {
  const slab = new Slab(1 << 20);
  const offset = slab.allocate(65_536);
  slab.u8.set(randomBytes(65_536), offset);
  slab.u8[offset] = 0x45;
  group("checksum", () => {
    for (const bytes of [20, PACKET_BYTES, 65_000]) {
      bench(`checksum ${bytes} bytes`, () => {
        sink ^= fold(sum16(slab.u8, slab.view, offset, bytes));
      });
    }
    bench("checksum 1400 bytes, 16 bits at a time", () => {
      let sum = 0;
      for (let at = offset; at < offset + PACKET_BYTES; at += 2) sum += slab.view.getUint16(at);
      sink ^= fold(sum);
    });
    bench("checksum verify, TCP in 1400 bytes", () => {
      sink ^= transportChecksumOk(slab.u8, slab.view, offset, offset + 20, PACKET_BYTES - 20, 6) ? 1 : 0;
    });
  });
}

function routes(): void {
  const random = new SeededRandom(1);
  const table = new RouteTable(ROUTES);
  const prefix = (text: string): Uint8Array => parseAddress(text) as Uint8Array;
  table.load(
    Array.from({ length: ROUTES }, (_, peer) => ({
      prefix: prefix(`10.${(peer >> 8) & 255}.${peer & 255}.0`),
      prefixBits: 96 + 24,
      peer,
    })),
  );
  const addresses = Uint32Array.from({ length: 1_024 }, () => ((10 << 24) | (random.u32() % (ROUTES << 8))) >>> 0);
  const slab = new Slab(65_536);
  const at = slab.allocate(1_024 * 16);
  for (let i = 0; i < 1_024; i++) slab.u8.set(prefix("fd00::1"), at + i * 16);
  let next = 0;
  group("routes", () => {
    bench(`route lookup IPv4 in ${ROUTES}`, () => {
      sink ^= table.lookup4(addresses[next++ & 1_023]);
    });
    bench(`route lookup IPv6, no match`, () => {
      sink ^= table.lookup6(slab.view, at + (next++ & 1_023) * 16);
    });
  });
}

function replay(): void {
  const window = new ReplayWindow();
  let counter = 0;
  group("replay", () => {
    bench("replay check and mark, in order", () => {
      sink ^= window.check(counter >>> 0, 0);
      window.mark(counter >>> 0, 0);
      counter++;
    });
    bench("replay check of a repeated counter", () => {
      sink ^= window.check((counter - 1) >>> 0, 0);
    });
  });
}

function ciphers(): void {
  const slab = new Slab(1 << 20);
  const aead = createAead({ slab });
  const key = randomBytes(32);
  const plain = slab.allocate(PACKET_BYTES + 64);
  const sealed = slab.allocate(PACKET_BYTES + 64);
  let counter = 0;
  group("aead", () => {
    for (const [name, cipher] of [
      ["AES-256-GCM", Cipher.AES_256_GCM],
      ["ChaCha20-Poly1305", Cipher.CHACHA20_POLY1305],
    ] as const) {
      const seal = aead.create(cipher, key, "seal");
      const open = aead.create(cipher, key, "open");
      for (const bytes of [64, PACKET_BYTES]) {
        bench(`seal ${bytes} bytes, ${name}`, () => aead.seal(seal, counter++ >>> 0, 0, plain, bytes, sealed));
        const one = slab.allocate(bytes + 16);
        const out = slab.allocate(bytes);
        aead.seal(seal, 7, 0, plain, bytes, one);
        bench(`open ${bytes} bytes, ${name}`, () => {
          sink ^= aead.open(open, 7, 0, one, bytes, out) ? 1 : 0;
        });
      }
    }
    const source = randomBytes(PACKET_BYTES);
    const nonce = randomBytes(12);
    bench("seal 1400 bytes, AES-256-GCM, node:crypto", () => {
      const cipher = createCipheriv("aes-256-gcm", key, nonce);
      sink ^= cipher.update(source).length + cipher.final().length + cipher.getAuthTag().length;
    });
  });
  const mac = createMac({ slab });
  const handle = mac.create(key);
  const message = slab.allocate(176);
  const tag = slab.allocate(32);
  group("mac", () => {
    bench("HMAC-SHA256 of a handshake init", () => mac.compute(handle, message, 144, tag));
  });
}

function codecs(): void {
  const slab = new Slab(65_536);
  const offset = slab.allocate(2_048);
  const header = new DataHeader();
  group("codec", () => {
    bench("data header, encode and decode", () => {
      encodeDataHeader(slab.view, offset, 7, 8, 0);
      sink ^= decodeDataHeader(slab.view, offset, 100, header);
    });
  });
  const ring = new ByteRing(createRingMemory(1 << 16));
  const message = randomBytes(64);
  group("ring", () => {
    bench("ring push and pop, 64 bytes", () => {
      ring.push(message, 0, 64);
      sink ^= ring.pop()?.length ?? 0;
    });
  });
}

interface Trial {
  readonly alias: string;
  readonly runs: readonly {
    readonly stats?: { readonly avg: number; readonly p50: number; readonly p99: number };
    readonly error?: unknown;
  }[];
}

export async function runMicro(options: MicroOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  for (const register of [checksums, routes, replay, ciphers, codecs]) register();
  const settings = options.filter === undefined ? {} : { filter: new RegExp(options.filter, "i") };
  const result = (await run({ ...settings, format: "quiet", throw: false })) as unknown as {
    readonly benchmarks: readonly Trial[];
  };
  const rows = result.benchmarks.flatMap((trial) =>
    trial.runs.map(({ stats, error }) =>
      stats === undefined
        ? [trial.alias, "n/a", "n/a", "n/a", String(error)]
        : [trial.alias, figure(stats.avg), figure(stats.p50), figure(stats.p99), ""],
    ),
  );
  const columns = ["", "mean, ns", "median, ns", "p99, ns", ""];
  publish(
    {
      name: "micro",
      startedAt,
      machine: await describeMachine(),
      command: options.command,
      tables: [{ title: "Routines of the packet path, one call each", columns, rows }],
      notes: [],
      notCompared: [],
      data: { rows, sink },
    },
    options,
  );
}
