import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAddress } from "./endpoint.ts";
import { type ListeningServer, OwnListeners } from "./own-listeners.ts";

const at = (text: string): Uint8Array => parseAddress(text) as Uint8Array;

class TestServer implements ListeningServer {
  listening = true;
  readonly #bound: ReturnType<ListeningServer["address"]>;
  onClose: () => void = () => undefined;

  constructor(bound: ReturnType<ListeningServer["address"]>) {
    this.#bound = bound;
  }

  address(): ReturnType<ListeningServer["address"]> {
    return this.#bound;
  }

  once(_event: "close", listener: () => void): void {
    this.onClose = listener;
  }
}

test("a listener takes what comes to its address, and an unspecified one what comes to any of its family", () => {
  const cases: readonly (readonly [bound: string, address: string, taken: boolean])[] = [
    ["127.0.0.1", "127.0.0.1", true],
    ["127.0.0.1", "127.0.0.2", false],
    ["127.0.0.1", "::1", false],
    ["0.0.0.0", "127.0.0.9", true],
    ["0.0.0.0", "10.0.0.5", true],
    ["0.0.0.0", "::1", false],
    ["::", "::1", true],
    ["::", "10.0.0.5", true],
    ["::1", "::1", true],
  ];
  for (const [bound, address, taken] of cases) {
    const own = new OwnListeners();
    own.claim(new TestServer({ address: bound, port: 1080 }));
    assert.equal(own.takes(at(address), 1080), taken, `${bound} ${address}`);
    assert.equal(own.takes(at(address), 1081), false);
  }
});

test("a port is free again as soon as its listener is closed, and unix sockets have none", () => {
  const own = new OwnListeners();
  const server = new TestServer({ address: "127.0.0.1", port: 80 });
  own.claim(server);
  server.listening = false;
  assert.equal(own.takes(at("127.0.0.1"), 80), false);
  server.listening = true;
  server.onClose();
  assert.equal(own.takes(at("127.0.0.1"), 80), false);
  own.claim(new TestServer("/run/weft.sock"));
  own.claim(new TestServer(null));
  assert.equal(own.takes(at("127.0.0.1"), 80), false);
});
