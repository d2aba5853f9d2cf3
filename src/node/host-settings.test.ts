import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeHostSettings, DEFAULT_HOST_SETTINGS, encodeHostSettings } from "./host-settings.ts";

test("settings survive the store, and a first start has the defaults", () => {
  assert.deepEqual(decodeHostSettings(undefined), DEFAULT_HOST_SETTINGS);
  for (const settings of [
    DEFAULT_HOST_SETTINGS,
    { announce: ["10.0.0.0/8"], acceptRoutes: false, offerExit: true, exit: undefined },
    { announce: [], acceptRoutes: true, offerExit: false, exit: { nodes: ["w1"], allowLan: true } },
    { announce: [], acceptRoutes: true, offerExit: false, exit: { nodes: [], allowLan: false } },
  ])
    assert.deepEqual(decodeHostSettings(encodeHostSettings(settings)), settings);
});

test("fuzz: whatever is in the store, the settings have their types", () => {
  const check = (bytes: Uint8Array): void => {
    const settings = decodeHostSettings(bytes);
    assert.ok(Array.isArray(settings.announce) && settings.announce.length <= 16);
    assert.equal(typeof settings.acceptRoutes, "boolean");
    assert.equal(typeof settings.offerExit, "boolean");
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), check));
  fc.assert(fc.property(fc.json(), (text) => check(new TextEncoder().encode(text))));
});
