import assert from "node:assert/strict";
import { constants } from "node:os";
import { describe, it } from "node:test";
import { Worker } from "node:worker_threads";
import { WeftError } from "../base/errors.ts";
import { Errno, errnoName, errnoText, SysError } from "./errno.ts";
import { lastErrno, libc, loadCrypto, rawAddress, selfTestCalls } from "./libc.ts";
import { createPacketMemory, releasePacketMemory, setU64, slabAddress } from "./memory.ts";
import { selfTest } from "./self-test.ts";

describe("foreign calls", () => {
  it("pass the self-test, repeatedly", () => {
    selfTestCalls();
    selfTestCalls();
  });

  it("and ciphers pass the self-test of `weft doctor`", () => {
    selfTest();
  });

  it("pass the self-test in a worker thread", async () => {
    const url = new URL("./libc.ts", import.meta.url).href;
    const code = `import(${JSON.stringify(url)}).then((m) => { m.selfTestCalls(); require("node:worker_threads").parentPort.postMessage("held"); })`;
    const worker = new Worker(code, { eval: true });
    const answer = await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    assert.equal(answer, "held");
    await worker.terminate();
  });

  it("load OpenSSL 3 once", () => {
    assert.equal(loadCrypto(), loadCrypto());
  });

  it("report errno of a failed call", () => {
    assert.equal(libc.open("/no/such/file", 0, 0), -1);
    assert.equal(lastErrno(), constants.errno.ENOENT);
  });
});

describe("memory", () => {
  it("has the address that foreign calls write to", () => {
    for (const buffer of [new ArrayBuffer(4096), createPacketMemory(4096)]) {
      const u8 = new Uint8Array(buffer);
      u8.set([1, 2, 3, 4]);
      const view = new DataView(buffer);
      const address = slabAddress({ buffer, u8, view, allocate: () => 0 });
      assert.equal(address, rawAddress(buffer));
      libc.memcpy(address + 100, address, 4);
      assert.deepEqual([...u8.subarray(99, 105)], [0, 1, 2, 3, 4, 0]);
    }
  });

  it("from createPacketMemory() is zero, of the asked size, and its blocks do not overlap", () => {
    const first = new Uint8Array(createPacketMemory(10_000));
    const second = new Uint8Array(createPacketMemory(10_000));
    assert.equal(first.length, 10_000);
    assert.ok(first.every((byte) => byte === 0));
    first.fill(7);
    assert.ok(second.every((byte) => byte === 0));
  });

  it("lies below 2^31 on x86-64, so that addresses are small integers", { skip: process.arch !== "x64" }, () => {
    const buffer = createPacketMemory(1 << 20);
    const address = rawAddress(buffer);
    assert.ok(address > 0 && address + (1 << 20) <= 2 ** 31, address.toString(16));
    releasePacketMemory(buffer);
  });

  it("given back leaves empty views, not dangling ones, and can be had again without end", () => {
    for (let i = 0; i < 200; i++) {
      const buffer = createPacketMemory(32 << 20);
      const u8 = new Uint8Array(buffer);
      u8[0] = 1;
      u8[u8.length - 1] = 1;
      releasePacketMemory(buffer);
      releasePacketMemory(buffer);
      assert.equal(u8.length, 0);
      assert.equal(u8[0], undefined);
    }
    const ordinary = new ArrayBuffer(10);
    releasePacketMemory(ordinary);
    assert.equal(ordinary.byteLength, 10);
  });

  it("setU64 writes pointers of 47 bits", () => {
    const view = new DataView(new ArrayBuffer(16));
    for (const value of [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 0x7fff_ffff_ffff, 0x7f3d_3ec8_6010]) {
      setU64(view, 8, value);
      assert.equal(view.getBigUint64(8, true), BigInt(value));
    }
  });
});

describe("errno", () => {
  it("constants are those of this platform", () => {
    for (const [name, value] of Object.entries(Errno)) {
      if (name === "EBADFD") continue; // not in node:os
      assert.equal(value, (constants.errno as Record<string, number>)[name], name);
    }
  });

  it("has a name and a sentence", () => {
    assert.equal(errnoName(1), "EPERM");
    assert.equal(errnoName(11), "EAGAIN");
    assert.equal(errnoName(77), "EBADFD");
    assert.equal(errnoName(9999), "errno 9999");
    assert.equal(errnoText(1), "operation not permitted (EPERM)");
    assert.equal(errnoText(9999), "errno 9999");
  });

  it("becomes an error that says what failed, why and what to do", () => {
    const error = new SysError("bind", Errno.EPERM, { what: "cannot bind", code: "PORT_DENIED" });
    assert.ok(error instanceof WeftError);
    assert.equal(error.message, "cannot bind: operation not permitted (EPERM)");
    assert.equal(error.code, "PORT_DENIED");
    assert.equal(error.call, "bind");
    assert.equal(error.errno, 1);
    assert.match(error.remedy, /CAP_NET_ADMIN/);
    const plain = new SysError("frob", 0);
    assert.equal(plain.message, "frob failed");
    assert.equal(plain.code, "SYS_FAILED");
    assert.notEqual(plain.remedy, "");
  });
});
