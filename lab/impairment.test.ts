/** The impairment router as a whole: real packets through real TUN devices. Needs root. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { whyNoNamespaces } from "./namespaces.ts";
import { impairedHosts } from "./topologies.ts";
import { iperf, mean, ping } from "./traffic.ts";

const skip = whyNoNamespaces() ?? false;

test(
  "delay, loss, partition and MTU hold for both families, change at run time and are counted",
  { skip },
  async () => {
    const { lab, hosts, impairment } = await impairedHosts(["a", "b"], { delayMs: 20 });
    try {
      const [a, b] = [hosts[0], hosts[1]];
      for (const address of [b.address4, b.address6]) {
        const slow = await ping(a, address, { count: 5, intervalMs: 20 });
        assert.equal(slow.received, 5);
        assert.ok(mean(slow.rttMs) >= 40, `${mean(slow.rttMs)} ms`);
      }
      await impairment.set({ delayMs: 0, loss: 0.5 }, a, b);
      const lossy = await ping(a, b.address4, { count: 200, intervalMs: 2, graceMs: 500 });
      assert.ok(lossy.received > 60 && lossy.received < 140, `${lossy.received} of 200 with half lost`);
      await impairment.set({ loss: 0, partition: true });
      assert.equal((await ping(a, b.address4, { count: 3, intervalMs: 20, graceMs: 300 })).received, 0);
      await impairment.set({ partition: false, mtuBytes: 1_300 });
      await a.exec("ping", ["-c1", "-W1", "-M", "do", "-s", "1400", b.address4]);
      const route = await a.ip("route", "get", b.address4);
      assert.match(route, /mtu 1300/, "the host has learned the MTU from the ICMP error");
      const counters = await impairment.counters();
      assert.equal(counters["imp0>imp1"]?.["lost"], 200 - lossy.received);
      assert.ok((counters["imp0>imp1"]?.["partitioned"] ?? 0) >= 3);
      assert.ok((counters["imp0>imp1"]?.["tooBig"] ?? 0) >= 1);
      assert.equal(counters["router"]?.["writeFailed"], 0);
      await assert.rejects(impairment.set({ loss: 7 }), /loss must be/);
    } finally {
      await lab.close();
    }
  },
);

test("100 Mbit/s with half a second of delay each way is carried without a loss of its own", { skip }, async () => {
  const { lab, hosts, impairment } = await impairedHosts(["a", "b"], { delayMs: 500 });
  try {
    const [a, b] = [hosts[0], hosts[1]];
    const result = await iperf(a, b, b.address4, { seconds: 4, protocol: "udp", rateBps: 100e6, lengthBytes: 1_200 });
    const counters = await impairment.counters();
    assert.ok(result.packets > 40_000, `${result.packets} packets sent`);
    assert.equal(counters["router"]?.["full"], 0);
    assert.equal(counters["router"]?.["writeFailed"], 0);
    // What the receiving program was too slow to take is not the router's loss.
    const snmp = /^Udp: (\d.*)$/m.exec(await b.must("cat", ["/proc/net/snmp"]))?.[1]?.split(" ") ?? [];
    const overflowed = Number(snmp[4]);
    assert.ok(Number.isInteger(overflowed));
    const lost = result.lossRatio * result.packets - overflowed;
    assert.ok(lost < result.packets * 0.001, `${lost} of ${result.packets} lost, ${overflowed} more by the receiver`);
  } finally {
    await lab.close();
  }
});
