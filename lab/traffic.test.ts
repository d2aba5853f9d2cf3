/** The measuring tools on a plain link, where the truth is known. The traffic itself needs root. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { whyNoNamespaces } from "./namespaces.ts";
import { Capture } from "./pcap.ts";
import { twoHosts } from "./topologies.ts";
import { iperf, parsePing, percentile, ping, sendFile } from "./traffic.ts";

const skip = whyNoNamespaces() ?? false;

test("ping's output is read: times, duplicates, gaps and the summary", () => {
  const result = parsePing(`PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.
[1700000000.000000] 64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.500 ms
[1700000000.100000] 64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=1.50 ms
[1700000000.100100] 64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=1.60 ms (DUP!)
[1700000000.600000] 64 bytes from 10.0.0.1: icmp_seq=7 ttl=64 time=0.700 ms

--- 10.0.0.1 ping statistics ---
7 packets transmitted, 3 received, +1 duplicates, 57% packet loss, time 600ms
`);
  assert.deepEqual([result.sent, result.received, result.duplicates], [7, 3, 1]);
  assert.deepEqual(result.rttMs, [0.5, 1.5, 0.7]);
  assert.equal(Math.round(result.longestGapMs), 500);
  assert.throws(() => parsePing("", "ping: unknown host"), /no summary: ping: unknown host/);
});

test("percentiles are taken from the sorted values", () => {
  assert.equal(percentile([5, 1, 3], 0.5), 3);
  assert.equal(percentile([5, 1, 3], 0.99), 5);
  assert.ok(Number.isNaN(percentile([], 0.5)));
});

test("ping, iperf3, a file and a capture on one link", { skip }, async () => {
  const { lab, a, b, link } = await twoHosts();
  try {
    const echo = await ping(a, b.address6, { count: 5, intervalMs: 10 });
    assert.deepEqual([echo.sent, echo.received], [5, 5]);
    const paced = await iperf(a, b, b.address4, { seconds: 1, rateBps: 50e6, intervalSeconds: 0.1 });
    assert.ok(paced.bitsPerSecond > 30e6 && paced.bitsPerSecond < 80e6, `${paced.bitsPerSecond}`);
    assert.ok(paced.intervals.length >= 9);
    const capture = await Capture.start(b, link.b.device, join(lab.folder, "udp.pcap"), "udp port 5300");
    await a.must("bash", ["-c", `printf hello > /dev/udp/${b.address4}/5300`]);
    const seen = await capture.stop();
    assert.deepEqual(
      seen.map(({ payload, destinationPort }) => [Buffer.from(payload).toString(), destinationPort]),
      [["hello", 5_300]],
    );
    const udp = await iperf(a, b, b.address6, { seconds: 1, protocol: "udp", rateBps: 10e6, lengthBytes: 1_000 });
    assert.ok(udp.packets > 1_000 && udp.lossRatio < 0.01);
    const file = await sendFile(a, b, a.address6, lab.folder, 1 << 20);
    assert.ok(file.intact && file.bytes === 1 << 20);
    await a.limit(link.a.device, { rateBps: 10e6 });
    const limited = await iperf(a, b, b.address4, { seconds: 1, protocol: "udp", rateBps: 20e6, lengthBytes: 1_000 });
    assert.ok(limited.bitsPerSecond > 8e6 && limited.bitsPerSecond < 10.5e6, `${limited.bitsPerSecond}`);
    await a.limit(link.a.device, undefined);
    const free = await iperf(a, b, b.address4, { seconds: 1, protocol: "udp", rateBps: 20e6, lengthBytes: 1_000 });
    assert.ok(free.bitsPerSecond > 19e6, `${free.bitsPerSecond}`);
  } finally {
    await lab.close();
  }
});
