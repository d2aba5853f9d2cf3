/** The translator's table: kinds, ports, time-outs, bounds, and a plain reference under random use. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SeededRandom } from "../src/base/random.ts";
import { DEPENDENCES, NatTable, Verdict, type Dependence, type NatSettings } from "./nat-model.ts";

const UDP = 17;
const HOME = 0xc0a8010a;
const OUTSIDE = 0x0b000065;
const [R1, R2] = [0x01010101, 0x02020202];

function table(settings: Partial<NatSettings> = {}, externals: readonly number[] = [OUTSIDE]): NatTable {
  return new NatTable(new SeededRandom(1), externals, settings);
}

/** The external port of a packet from inside; −1 when it was refused. */
function out(nat: NatTable, nowMs: number, port: number, remote: number, remotePort: number): number {
  return nat.outbound(nowMs, UDP, HOME, port, remote, remotePort) === Verdict.TRANSLATED ? nat.port : -1;
}

test("a mapping depends on the destination as its kind says", () => {
  const expected: Record<Dependence, { readonly samePort: boolean; readonly sameAddress: boolean }> = {
    "endpoint-independent": { samePort: true, sameAddress: true },
    "address-dependent": { samePort: false, sameAddress: true },
    "address-and-port-dependent": { samePort: false, sameAddress: false },
  };
  for (const mapping of DEPENDENCES) {
    for (const ports of ["preserve", "random"] as const) {
      const nat = table({ mapping, ports });
      const first = out(nat, 0, 5_000, R1, 80);
      assert.equal(out(nat, 1, 5_000, R1, 81) === first, expected[mapping].sameAddress, mapping);
      assert.equal(out(nat, 2, 5_000, R2, 80) === first, expected[mapping].samePort, mapping);
      assert.equal(first === 5_000, ports === "preserve");
    }
  }
});

test("a filter lets in what its kind says", () => {
  for (const filtering of DEPENDENCES) {
    const nat = table({ filtering });
    const external = out(nat, 0, 5_000, R1, 80);
    const from = (remote: number, port: number): Verdict => nat.inbound(1, UDP, OUTSIDE, external, remote, port);
    assert.equal(from(R1, 80), Verdict.TRANSLATED);
    assert.deepEqual([nat.address, nat.port], [HOME, 5_000]);
    assert.equal(from(R1, 81) === Verdict.TRANSLATED, filtering !== "address-and-port-dependent");
    assert.equal(from(R2, 80) === Verdict.TRANSLATED, filtering === "endpoint-independent");
    assert.equal(nat.inbound(1, UDP, OUTSIDE, external + 1, R1, 80), Verdict.NO_MAPPING);
  }
});

test("time ends a mapping after the last packet from inside, and a permission that is no longer used", () => {
  const nat = table({ udpTimeoutMs: 1_000 });
  assert.equal(out(nat, 0, 5_000, R1, 80), 5_000);
  assert.equal(out(nat, 900, 5_000, R2, 80), 5_000);
  assert.equal(nat.inbound(999, UDP, OUTSIDE, 5_000, R1, 80), Verdict.TRANSLATED);
  assert.equal(nat.inbound(1_000, UDP, OUTSIDE, 5_000, R1, 80), Verdict.FILTERED);
  assert.equal(nat.inbound(1_899, UDP, OUTSIDE, 5_000, R2, 80), Verdict.TRANSLATED);
  assert.equal(nat.inbound(1_900, UDP, OUTSIDE, 5_000, R2, 80), Verdict.NO_MAPPING);
  assert.deepEqual([nat.mappings, nat.expired], [0, 1]);
  const kept = table({ udpTimeoutMs: 1_000, inboundRefresh: true, filtering: "endpoint-independent" });
  out(kept, 0, 5_000, R1, 80);
  assert.equal(kept.inbound(900, UDP, OUTSIDE, 5_000, R1, 80), Verdict.TRANSLATED);
  assert.equal(kept.inbound(1_800, UDP, OUTSIDE, 5_000, R1, 80), Verdict.TRANSLATED);
});

test("a port that is taken is not shared, and preserved ports go to the next free one", () => {
  const nat = table();
  assert.equal(nat.outbound(0, UDP, HOME, 5_000, R1, 80), Verdict.TRANSLATED);
  assert.equal(nat.outbound(0, UDP, HOME + 1, 5_000, R1, 80), Verdict.TRANSLATED);
  assert.equal(nat.port, 5_001);
  assert.equal(nat.outbound(0, 6, HOME + 1, 5_000, R1, 80), Verdict.TRANSLATED);
  assert.equal(nat.port, 5_000, "TCP has ports of its own");
});

test("bounds: refused beyond the largest number of mappings, the oldest permission goes, expired ones make room", () => {
  const nat = table({ maxMappings: 2, maxPermits: 2, udpTimeoutMs: 1_000 });
  assert.equal(out(nat, 0, 1, R1, 80), 1);
  assert.equal(out(nat, 500, 2, R1, 80), 2);
  assert.equal(out(nat, 600, 3, R1, 80), -1);
  assert.equal(nat.refused, 1);
  out(nat, 601, 2, R1, 81);
  out(nat, 602, 2, R1, 82);
  assert.equal(nat.inbound(603, UDP, OUTSIDE, 2, R1, 80), Verdict.FILTERED);
  assert.equal(nat.permitsEvicted, 1);
  assert.equal(out(nat, 1_000, 3, R1, 80), 3, "the first one's time is over");
});

test("every port of an address can be used, and then none", () => {
  const nat = table({ ports: "random", mapping: "address-and-port-dependent", maxMappings: 100_000 });
  const seen = new Set<number>();
  for (let remotePort = 0; remotePort < 64_512; remotePort++) seen.add(out(nat, 0, 5_000, R1, remotePort));
  assert.equal(seen.size, 64_512);
  assert.ok(Math.min(...seen) >= 1_024);
  assert.equal(out(nat, 0, 5_000, R2, 1), -1);
});

test("several external addresses: paired keeps one for all mappings of a host, arbitrary does not", () => {
  const externals = [OUTSIDE, OUTSIDE + 1, OUTSIDE + 2];
  const used = (pooling: "paired" | "arbitrary"): number => {
    const nat = table({ pooling, mapping: "address-and-port-dependent" }, externals);
    const addresses = new Set<number>();
    for (let port = 0; port < 50; port++) {
      out(nat, 0, 5_000, R1, port);
      addresses.add(nat.address);
    }
    return addresses.size;
  };
  assert.deepEqual([used("paired"), used("arbitrary")], [1, 3]);
});

interface Plain {
  readonly key: string;
  readonly port: number;
  readonly externalPort: number;
  usedMs: number;
  readonly sent: { readonly remote: number; readonly port: number; readonly atMs: number }[];
}

test("random use: the table answers as a list that is searched from the front", () => {
  const step = fc.record({
    waitMs: fc.integer({ min: 0, max: 400 }),
    inward: fc.boolean(),
    port: fc.integer({ min: 5_000, max: 5_002 }),
    remote: fc.constantFrom(R1, R2),
    remotePort: fc.integer({ min: 80, max: 81 }),
  });
  const kind = fc.constantFrom(...DEPENDENCES);
  fc.assert(
    fc.property(kind, kind, fc.boolean(), fc.array(step, { maxLength: 60 }), (mapping, filtering, refresh, steps) => {
      const nat = table({ mapping, filtering, udpTimeoutMs: 1_000, inboundRefresh: refresh });
      let list: Plain[] = [];
      let nowMs = 0;
      const part = (dependence: Dependence, remote: number, port: number): string =>
        dependence === "endpoint-independent"
          ? ""
          : dependence === "address-dependent"
            ? `${remote}`
            : `${remote}:${port}`;
      for (const { waitMs, inward, port, remote, remotePort } of steps) {
        nowMs += waitMs;
        list = list.filter(({ usedMs }) => nowMs - usedMs < 1_000);
        if (inward) {
          const found = list.find(({ externalPort }) => externalPort === port);
          const passes =
            filtering === "endpoint-independent" ||
            found?.sent.some(
              (one) =>
                nowMs - one.atMs < 1_000 &&
                part(filtering, one.remote, one.port) === part(filtering, remote, remotePort),
            ) === true;
          const expected = found === undefined ? Verdict.NO_MAPPING : passes ? Verdict.TRANSLATED : Verdict.FILTERED;
          assert.equal(nat.inbound(nowMs, UDP, OUTSIDE, port, remote, remotePort), expected);
          if (expected !== Verdict.TRANSLATED || found === undefined) continue;
          assert.equal(nat.port, found.port);
          if (refresh) found.usedMs = nowMs;
          continue;
        }
        const key = `${port} ${part(mapping, remote, remotePort)}`;
        const externalPort = out(nat, nowMs, port, remote, remotePort);
        let found = list.find((one) => one.key === key);
        if (found === undefined) {
          let free = port;
          while (list.some((one) => one.externalPort === free)) free++;
          found = { key, port, externalPort: free, usedMs: nowMs, sent: [] };
          list.push(found);
        }
        assert.equal(externalPort, found.externalPort);
        found.usedMs = nowMs;
        found.sent.push({ remote, port: remotePort, atMs: nowMs });
      }
    }),
    { numRuns: 300 },
  );
});
