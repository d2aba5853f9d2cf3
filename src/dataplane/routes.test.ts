import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseAddress } from "../base/endpoint.ts";
import type { RouteEntry } from "./messages.ts";
import { RouteTable } from "./routes.ts";

function route(prefix: string, bits: number, peer: number): RouteEntry {
  return { prefix: parseAddress(prefix)!, prefixBits: prefix.includes(":") ? bits : bits + 96, peer };
}

function lookup(table: RouteTable, address: string): number {
  const bytes = parseAddress(address)!;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return address.includes(":") ? table.lookup6(view, 0) : table.lookup4(view.getUint32(12));
}

function covers(prefix: Uint8Array, bits: number, address: Uint8Array): boolean {
  for (let bit = 0; bit < bits; bit++) {
    const mask = 128 >> (bit & 7);
    if ((prefix[bit >> 3] & mask) !== (address[bit >> 3] & mask)) return false;
  }
  return true;
}

const isMapped = (bytes: Uint8Array): boolean => covers(parseAddress("0.0.0.0")!, 96, bytes);

/** The definition: walk the whole list, keep the longest match, the later one of equals. */
function linear(routes: readonly RouteEntry[], address: Uint8Array): number {
  let best = -1;
  let longest = -1;
  for (const entry of routes) {
    const four = isMapped(entry.prefix) && entry.prefixBits >= 96;
    if (four !== isMapped(address)) continue;
    if (entry.prefixBits >= longest && covers(entry.prefix, entry.prefixBits, address)) {
      longest = entry.prefixBits;
      best = entry.peer;
    }
  }
  return best;
}

/** Addresses crowded together, so that prefixes nest, share bits and collide. */
const crowded: fc.Arbitrary<Uint8Array> = fc
  .tuple(fc.boolean(), fc.uint8Array({ minLength: 4, maxLength: 4, size: "max" }), fc.nat(15))
  .map(([four, tail, mask]) => {
    const bytes = four ? parseAddress("100.64.0.0")! : parseAddress("fd12:3456::")!;
    for (let i = 0; i < 4; i++) if ((mask >> i) & 1) bytes[(four ? 12 : 4 + i * 3) + (four ? i : 0)] = tail[i]!;
    return bytes;
  });
const entry: fc.Arbitrary<RouteEntry> = fc
  .tuple(crowded, fc.nat(128), fc.nat(1000))
  .map(([prefix, bits, peer]) => ({ prefix, prefixBits: isMapped(prefix) ? 96 + (bits % 33) : bits, peer }));

test("lookups equal a linear search for random nested routes, host bits and duplicates", () => {
  const table = new RouteTable(64);
  fc.assert(
    fc.property(
      fc.array(entry, { size: "max", maxLength: 60 }),
      fc.array(crowded, { size: "max", minLength: 1, maxLength: 40 }),
      (routes, addresses) => {
        table.load(routes);
        assert.equal(table.refused, 0);
        for (const address of [...addresses, ...routes.map((known) => known.prefix)]) {
          const view = new DataView(address.buffer, address.byteOffset);
          const actual = isMapped(address) ? table.lookup4(view.getUint32(12)) : table.lookup6(view, 0);
          assert.equal(actual, linear(routes, address));
        }
      },
    ),
    { numRuns: 500 },
  );
});

test("the longest prefix wins and the rest falls through to the default of its own family", () => {
  const table = new RouteTable(16);
  table.load([
    route("0.0.0.0", 0, 1),
    route("10.0.0.0", 8, 2),
    route("10.1.0.0", 16, 3),
    route("10.1.2.3", 32, 4),
    route("::", 0, 5),
    route("fd00::", 8, 6),
    route("fd00::1", 128, 7),
  ]);
  assert.deepEqual(
    ["10.1.2.3", "10.1.2.4", "10.2.0.0", "11.0.0.0", "255.255.255.255", "fd00::1", "fd00::2", "fe80::1", "::"].map(
      (a) => lookup(table, a),
    ),
    [4, 3, 2, 1, 1, 7, 6, 5, 5],
  );
});

test("an empty table and an address outside every prefix find nobody", () => {
  const table = new RouteTable(4);
  assert.equal(lookup(table, "10.0.0.1"), -1);
  assert.equal(lookup(table, "fd00::1"), -1);
  table.load([route("10.0.0.0", 8, 2), route("fd00::", 64, 3)]);
  assert.equal(lookup(table, "11.0.0.1"), -1);
  assert.equal(lookup(table, "fd01::1"), -1);
});

test("loading replaces the table, and what exceeds the bound or is malformed is counted", () => {
  const table = new RouteTable(2);
  table.load([route("10.0.0.1", 32, 1), route("10.0.0.1", 32, 9), route("10.0.0.2", 32, 2), route("10.0.0.3", 32, 3)]);
  assert.deepEqual([lookup(table, "10.0.0.1"), lookup(table, "10.0.0.2"), lookup(table, "10.0.0.3")], [9, 2, -1]);
  assert.deepEqual([table.size, table.refused], [2, 1]);
  table.load([
    { prefix: new Uint8Array(4), prefixBits: 8, peer: 1 },
    { prefix: new Uint8Array(16), prefixBits: 129, peer: 1 },
    { prefix: new Uint8Array(16), prefixBits: 1.5, peer: 1 },
    { prefix: new Uint8Array(16), prefixBits: 8, peer: -1 },
  ]);
  assert.deepEqual([table.size, table.refused, lookup(table, "10.0.0.1")], [0, 4, -1]);
});

test("a full table of host routes finds each of them", () => {
  const table = new RouteTable(2000);
  const routes: RouteEntry[] = [];
  for (let i = 0; i < 1000; i++) {
    routes.push(route(`100.64.${i >> 8}.${i & 255}`, 32, i));
    routes.push(route(`fd12:3456:789a:0:${((i * 40503) & 0xffff).toString(16)}::${i.toString(16)}`, 128, i));
  }
  table.load(routes);
  assert.deepEqual([table.size, table.refused], [2000, 0]);
  for (const known of routes) {
    const view = new DataView(known.prefix.buffer, known.prefix.byteOffset);
    assert.equal(isMapped(known.prefix) ? table.lookup4(view.getUint32(12)) : table.lookup6(view, 0), known.peer);
  }
});
