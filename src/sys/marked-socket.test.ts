import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { test } from "node:test";
import { lastErrno, libc, rawAddress } from "./libc.ts";
import { openMarkedSocket } from "./marked-socket.ts";

test("a socket opened here works inside node:dgram, with the mark where that is allowed", async () => {
  for (const [type, address] of [
    ["udp4", "127.0.0.1"],
    ["udp6", "::1"],
  ] as const) {
    const { fd, marked } = openMarkedSocket({ address, port: 0, mark: 77 });
    const value = new Uint32Array(2);
    value[1] = 4;
    const at = rawAddress(value);
    assert.equal(libc.getsockopt(fd, 1, 36, at, at + 4), 0, `errno ${lastErrno()}`);
    assert.equal(value[0], marked ? 77 : 0);
    if (process.getuid?.() === 0) assert.equal(marked, true);
    const socket = createSocket(type);
    const listening = once(socket, "listening");
    socket.bind({ fd });
    await listening;
    const { port } = socket.address();
    assert.notEqual(port, 0);
    const got = once(socket, "message");
    socket.send("hello", port, address);
    const [message] = (await got) as [Buffer];
    assert.equal(message.toString(), "hello");
    await new Promise<void>((resolve) => void socket.close(resolve));
  }
});

test("a shared port can be had twice, any other only once", () => {
  const first = openMarkedSocket({ address: "127.0.0.1", port: 0, shared: true, mark: 0 });
  const name = new Uint8Array(16);
  const length = Uint32Array.of(16);
  assert.equal(libc.getsockname(first.fd, rawAddress(name), rawAddress(length)), 0);
  const port = (name[2] << 8) | name[3];
  const second = openMarkedSocket({ address: "127.0.0.1", port, shared: true, mark: 0 });
  assert.throws(() => openMarkedSocket({ address: "127.0.0.1", port, mark: 0 }), { code: "SOCKET_FAILED" });
  libc.close(first.fd);
  libc.close(second.fd);
});
