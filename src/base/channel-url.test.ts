import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { looksLikeChannelUrl, MAX_CHANNEL_URL_CHARACTERS, parseChannelUrl } from "./channel-url.ts";

test("a channel URL says host, port, path and whether it is encrypted", () => {
  assert.deepEqual(parseChannelUrl("wss://relay.example.org/weft?a=1"), {
    secure: true,
    host: "relay.example.org",
    port: 443,
    path: "/weft?a=1",
  });
  assert.deepEqual(parseChannelUrl("ws://192.0.2.1"), { secure: false, host: "192.0.2.1", port: 80, path: "/" });
  assert.deepEqual(parseChannelUrl("WSS://[2001:db8::1]:8443/"), {
    secure: true,
    host: "2001:db8::1",
    port: 8443,
    path: "/",
  });
});

test("other schemes, credentials, fragments, ports beyond the range and overlong texts are refused", () => {
  for (const text of [
    "",
    "relay.example.org:443",
    "https://relay.example.org/",
    "wss://",
    "wss:///path",
    "wss://user:secret@relay.example.org/",
    "wss://relay.example.org/#part",
    "wss://relay.example.org:0/",
    "wss://relay.example.org:65536/",
    "wss://relay example.org/",
    "wss://relay.example.org/\n",
    "wss://relais.exämple.org/",
    `wss://relay.example.org/${"a".repeat(MAX_CHANNEL_URL_CHARACTERS)}`,
  ])
    assert.equal(parseChannelUrl(text), undefined, text);
  assert.equal(looksLikeChannelUrl("wss://"), true);
  assert.equal(looksLikeChannelUrl("vpn.example.org:9338"), false);
});

test("any text is judged without an exception, and what is accepted can be written down again", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.webUrl().map((url) => url.replace(/^https?/, "wss")),
      ),
      (text) => {
        const url = parseChannelUrl(text);
        if (url === undefined) return;
        assert.ok(url.port >= 1 && url.port <= 65_535 && url.path.startsWith("/"));
        const host = url.host.includes(":") ? `[${url.host}]` : url.host;
        const again = `${url.secure ? "wss" : "ws"}://${host}:${url.port}${url.path}`;
        if (again.length <= MAX_CHANNEL_URL_CHARACTERS) assert.deepEqual(parseChannelUrl(again), url);
      },
    ),
  );
});
