import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encode, type Packet, type Question } from "dns-packet";
import fc from "fast-check";
import { answerQuery, failure, Rcode } from "./answer.ts";
import { reverseName, Zone } from "./zone.ts";

const zone = new Zone({
  network: "home",
  ipv4Prefix: "100.64.0.0/15",
  ipv6Prefix: "fd12:3456:789a::/48",
  hosts: [
    { name: "nas", ipv4: "100.64.0.1", ipv6: "fd12:3456:789a::1" },
    { name: "laptop", ipv4: "100.65.3.4", ipv6: "fd12:3456:789a:1:2:3:4:5" },
  ],
  services: [
    { label: "_http._tcp", host: "nas", port: 8080 },
    { label: "_http._tcp", host: "laptop", port: 80 },
    { label: "_ssh._tcp", host: "nobody", port: 22 },
  ],
  serial: 7,
});

interface AskOptions {
  readonly transport?: "udp" | "tcp";
  readonly forwards?: boolean;
  readonly edns?: number;
  readonly class?: Question["class"];
}

function ask(
  name: string,
  type: string,
  options: AskOptions = {},
): (Packet & { readonly rcode: string }) | "forward" | "drop" {
  const query = encode({
    id: 4711,
    type: "query",
    flags: 0x0100,
    questions: [{ name, type: type as Question["type"], class: options.class }],
    additionals:
      options.edns === undefined
        ? []
        : [
            {
              type: "OPT",
              name: ".",
              udpPayloadSize: options.edns,
              extendedRcode: 0,
              ednsVersion: 0,
              flags: 0,
              flag_do: false,
              options: [],
            },
          ],
  });
  const result = answerQuery(zone, query, {
    transport: options.transport ?? "udp",
    forwards: options.forwards === true,
  });
  if (result.kind !== "reply") return result.kind;
  const packet = decode(Buffer.from(result.bytes)) as unknown as Packet & { rcode: string };
  assert.equal(packet.id, 4711);
  assert.equal(packet.type, "response");
  return packet;
}

function reply(name: string, type: string, options: AskOptions = {}): Packet & { readonly rcode: string } {
  const packet = ask(name, type, options);
  assert.ok(typeof packet === "object", `${name} ${type}: ${String(packet)}`);
  return packet;
}

const data = (packet: Packet): unknown[] =>
  (packet.answers ?? []).map((answer) => ("data" in answer ? answer.data : undefined));

test("a member's addresses, in any case of letters", () => {
  assert.deepEqual(data(reply("nas.home.weft", "A")), ["100.64.0.1"]);
  assert.deepEqual(data(reply("NAS.Home.Weft", "AAAA")), ["fd12:3456:789a::1"]);
  assert.equal(reply("NAS.Home.Weft", "A").answers?.[0]?.name, "NAS.Home.Weft");
  assert.equal((reply("nas.home.weft", "A").flags ?? 0) & 0x0400, 0x0400, "authoritative");
});

test("reverse names of both families", () => {
  assert.equal(reverseName("fd12:3456:789a::1").length, 72);
  assert.deepEqual(data(reply("1.0.64.100.in-addr.arpa", "PTR")), ["nas.home.weft"]);
  assert.deepEqual(data(reply(reverseName("fd12:3456:789a:1:2:3:4:5"), "PTR")), ["laptop.home.weft"]);
  assert.deepEqual(zone.reverseDomains.slice(0, 2), ["64.100.in-addr.arpa", "65.100.in-addr.arpa"]);
});

test("services of one member and of all, with addresses beside them", () => {
  const all = reply("_http._tcp.home.weft", "SRV", { edns: 1232 });
  assert.deepEqual(
    data(all)
      .map((one) => (one as { target: string; port: number }).port)
      .toSorted(),
    [80, 8080],
  );
  assert.ok((all.additionals ?? []).some((extra) => extra.type === "AAAA" && extra.name === "nas.home.weft"));
  assert.equal(data(reply("_http._tcp.nas.home.weft", "SRV")).length, 1);
  assert.equal(reply("_ssh._tcp.home.weft", "SRV").rcode, "NXDOMAIN", "nobody of that name is a member");
});

test("no such name, no such data, and names with something below them differ", () => {
  for (const [name, type, rcode] of [
    ["nobody.home.weft", "A", "NXDOMAIN"],
    ["x.nas.home.weft", "A", "NXDOMAIN"],
    ["nas.home.weft", "MX", "NOERROR"],
    ["_tcp.home.weft", "A", "NOERROR"],
    ["0.64.100.in-addr.arpa", "PTR", "NOERROR"],
    ["9.0.64.100.in-addr.arpa", "PTR", "NXDOMAIN"],
  ] as const) {
    const packet = reply(name, type);
    assert.equal(packet.rcode, rcode, `${name} ${type}`);
    assert.deepEqual(packet.answers, []);
    assert.equal(packet.authorities?.[0]?.type, "SOA");
  }
});

test("the zone's own records, and a small answer to ANY", () => {
  assert.equal((data(reply("home.weft", "SOA"))[0] as { serial: number }).serial, 7);
  assert.deepEqual(data(reply("home.weft", "NS")), ["home.weft"]);
  assert.equal(reply("nas.home.weft", "ANY").answers?.[0]?.type, "HINFO");
});

test("names of other zones are refused, or forwarded when that was asked for", () => {
  for (const name of [
    "example.org",
    "other.weft",
    "weft",
    "nas.home.weft.example.org",
    "xhome.weft",
    "1.1.1.1.in-addr.arpa",
  ]) {
    assert.equal((reply(name, "A") as { rcode: string }).rcode, "REFUSED", name);
    assert.equal(ask(name, "A", { forwards: true }), "forward");
  }
  assert.equal(reply("nas.home.weft", "A", { forwards: true }).rcode, "NOERROR");
  assert.equal(reply("nas.home.weft", "A", { class: "CH" }).rcode, "REFUSED");
});

test("an answer that does not fit is cut with the TC bit; over TCP it is whole", () => {
  const many = new Zone({
    network: "home",
    ipv4Prefix: "100.64.0.0/16",
    ipv6Prefix: "fd12:3456:789a::/48",
    hosts: Array.from({ length: 200 }, (_, i) => ({
      name: `n${i}`,
      ipv4: `100.64.1.${i}`,
      ipv6: `fd12:3456:789a::${i + 1}`,
    })),
    services: Array.from({ length: 200 }, (_, i) => ({ label: "_http._tcp", host: `n${i}`, port: 80 })),
    serial: 1,
  });
  const query = encode({ id: 1, type: "query", questions: [{ name: "_http._tcp.home.weft", type: "SRV" }] });
  const udp = answerQuery(many, query, { transport: "udp", forwards: false });
  assert.ok(udp.kind === "reply" && udp.bytes.length <= 512);
  assert.equal(udp.bytes[2] & 0x02, 0x02);
  const tcp = answerQuery(many, query, { transport: "tcp", forwards: false });
  assert.ok(tcp.kind === "reply" && tcp.bytes.length > 1232);
  assert.equal(decode(Buffer.from(tcp.bytes)).answers?.length, 200);
});

test("over UDP nothing is encoded that cannot fit: no addresses are looked up for too many services", () => {
  let lookups = 0;
  class CountingZone extends Zone {
    override host(name: string): ReturnType<Zone["host"]> {
      lookups++;
      return super.host(name);
    }
  }
  const hosts = Array.from({ length: 65 }, (_, i) => ({
    name: `h${i}`,
    ipv4: `100.64.1.${i}`,
    ipv6: `fd12:3456:789a::${i + 1}`,
  }));
  const full = new CountingZone({
    network: "home",
    ipv4Prefix: "100.64.0.0/15",
    ipv6Prefix: "fd12:3456:789a::/48",
    hosts,
    services: hosts.map(({ name }) => ({ label: "_http._tcp", host: name, port: 80 })),
    serial: 1,
  });
  const query = encode({ id: 1, type: "query", questions: [{ name: "_http._tcp.home.weft", type: "SRV" }] });
  const udp = answerQuery(full, query, { transport: "udp", forwards: false });
  assert.ok(udp.kind === "reply" && decode(Buffer.from(udp.bytes)).flag_tc);
  assert.ok(lookups <= 1, `${lookups} lookups`);
  const tcp = answerQuery(full, query, { transport: "tcp", forwards: false });
  assert.ok(tcp.kind === "reply");
  const whole = decode(Buffer.from(tcp.bytes));
  assert.deepEqual([whole.answers?.length, whole.additionals?.length], [65, 130]);
});

test("what is no query gets no answer; what is no simple query gets a code", () => {
  const query = encode({ id: 9, type: "query", questions: [{ name: "nas.home.weft", type: "A" }] });
  const code = (bytes: Uint8Array): number | string => {
    const result = answerQuery(zone, bytes, { transport: "udp", forwards: true });
    return result.kind === "reply" ? result.rcode : result.kind;
  };
  assert.equal(code(query), Rcode.NOERROR);
  const changed = (at: number, value: number): Uint8Array => {
    const copy = Uint8Array.from(query);
    copy[at] = value;
    return copy;
  };
  assert.equal(code(changed(2, 0x80)), "drop", "a response");
  assert.equal(code(changed(2, 0x28)), Rcode.NOTIMP, "an update");
  assert.equal(code(changed(5, 2)), Rcode.FORMERR, "two questions");
  assert.equal(code(changed(7, 1)), Rcode.FORMERR, "an answer");
  assert.equal(code(changed(11, 9)), Rcode.FORMERR, "nine additional records");
  assert.equal(code(query.subarray(0, 11)), "drop");
  assert.equal(code(new Uint8Array(1233)), "drop");
  assert.equal(failure(query)[3] & 15, Rcode.SERVFAIL);
});

test("fuzz: any bytes, and any change to a good query, give a bounded answer or none", () => {
  const good = encode({ id: 9, type: "query", questions: [{ name: "_http._tcp.home.weft", type: "SRV" }] });
  const check = (bytes: Uint8Array, transport: "udp" | "tcp"): void => {
    const result = answerQuery(zone, bytes, { transport, forwards: false });
    if (result.kind !== "reply") return;
    assert.ok(result.bytes.length >= 12 && result.bytes.length <= (transport === "udp" ? 1232 : 65_535));
    assert.equal(result.bytes[0], bytes[0]);
    assert.equal(result.bytes[1], bytes[1]);
    assert.equal(result.bytes[2] & 0x80, 0x80);
  };
  const transport = fc.constantFrom("udp" as const, "tcp" as const);
  fc.assert(fc.property(fc.uint8Array({ maxLength: 1300 }), transport, check), { numRuns: 2_000 });
  const edit = fc.tuple(fc.nat(good.length - 1), fc.nat(255));
  fc.assert(
    fc.property(
      fc.array(edit, { maxLength: 6 }),
      fc.nat(good.length),
      fc.uint8Array({ maxLength: 40 }),
      transport,
      (edits, keep, tail, how) => {
        const copy = Buffer.from(good);
        for (const [at, value] of edits) copy[at] = value;
        check(Buffer.concat([copy.subarray(0, keep), tail]), how);
      },
    ),
    { numRuns: 3_000 },
  );
});
