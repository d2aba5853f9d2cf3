import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, Socket, type AddressInfo } from "node:net";
import { test } from "node:test";
import { SysError } from "./errno.ts";
import { libc, rawAddress } from "./libc.ts";
import { hasNetAdmin } from "./process.ts";
import { openMarkedTcp } from "./tcp.ts";

function markOf(fd: number): number {
  const memory = Uint32Array.of(0, 4);
  const at = rawAddress(memory);
  assert.equal(libc.getsockopt(fd, 1, 36, at, at + 4), 0);
  return memory[0];
}

for (const address of ["127.0.0.1", "::1"]) {
  test(`a connection to ${address} carries its mark and works as an ordinary socket`, async () => {
    const server = createServer((socket) => socket.pipe(socket)).listen(0, address);
    await once(server, "listening");
    const { fd, marked } = openMarkedTcp(address, 0x77);
    assert.equal(marked, hasNetAdmin());
    if (marked) assert.equal(markOf(fd), 0x77);
    const socket = new Socket({ fd });
    socket.connect({ host: address, port: (server.address() as AddressInfo).port });
    await once(socket, "connect");
    if (marked) assert.equal(markOf(fd), 0x77, "Node has kept the socket");
    socket.write("echo");
    const [chunk] = (await once(socket, "data")) as [Buffer];
    assert.equal(chunk.toString(), "echo");
    socket.destroy();
    server.close();
    await once(server, "close");
  });
}

test("a refused connection is the usual error event", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  const socket = new Socket({ fd: openMarkedTcp("127.0.0.1", 1).fd });
  socket.connect({ host: "127.0.0.1", port });
  const [error] = (await once(socket, "error")) as [NodeJS.ErrnoException];
  assert.equal(error.code, "ECONNREFUSED");
});

test("what is no address gets no socket", () => {
  assert.throws(
    () => openMarkedTcp("host", 9),
    (error) => error instanceof SysError && error.code === "SOCKET_FAILED" && /host/.test(error.message),
  );
});
