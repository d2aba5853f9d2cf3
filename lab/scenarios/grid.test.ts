/** What the grid expects of a pair. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SITE_KINDS, type SiteKindName } from "../nat-sites.ts";
import { expectation } from "./grid.ts";

test("pairs are easy, have one hard side, or are relayed; the order of the sides does not matter", () => {
  const cases: readonly (readonly [SiteKindName, SiteKindName, string])[] = [
    ["linux", "port-restricted", "easy"],
    ["firewall", "ipv6", "easy"],
    ["double", "double", "easy"],
    ["firewall", "symmetric", "one-hard"],
    ["full-cone", "linux-random", "one-hard"],
    ["address-dependent", "symmetric", "relayed"],
    ["udp-blocked", "full-cone", "relayed"],
    ["ipv6", "linux", "relayed"],
  ];
  for (const [a, b, expected] of cases) {
    assert.equal(expectation(SITE_KINDS[a], SITE_KINDS[b]), expected);
    assert.equal(expectation(SITE_KINDS[b], SITE_KINDS[a]), expected);
  }
});
