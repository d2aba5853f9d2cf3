import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import type { RemoteInfo, Socket } from "node:dgram";
import { once } from "node:events";
import { test } from "node:test";
import { endpointFromBytes, endpointToBytes, formatEndpoint } from "../../base/endpoint.ts";
import type { Mapper, MapRequest, PortMap } from "./mapper.ts";
import { PortMappingSource } from "./port-mapping.ts";
import { ask } from "./udp-exchange.ts";
import { element, findService, soapBody, soapError, ssdpLocation, ssdpSearch } from "./upnp-messages.ts";

const GATEWAY = { address: "127.0.0.1", device: "lo", ownAddress: "127.0.0.1" };
const EXTERNAL = endpointToBytes({ address: "198.51.100.5", port: 9338 });
const never = new AbortController().signal;

/** A gateway on loopback that does `answer` with every datagram. */
async function gateway(
  answer: (socket: Socket, remote: RemoteInfo, datagram: Buffer) => void,
): Promise<{ socket: Socket; port: number }> {
  const socket = createSocket("udp4");
  socket.on("message", (datagram, remote) => answer(socket, remote, datagram));
  const listening = once(socket, "listening");
  socket.bind(0, "127.0.0.1");
  await listening;
  return { socket, port: socket.address().port };
}

function question(port: number, timeoutMs = 2_000): Parameters<typeof ask<string>>[0] {
  return {
    to: { address: "127.0.0.1", port },
    datagram: Uint8Array.of(1),
    take: (datagram) => (datagram.length === 3 ? Buffer.from(datagram).toString() : undefined),
    timeoutMs,
    from: "127.0.0.1",
    mark: 0,
  };
}

test("a question is asked again until the right answer comes", async () => {
  let asked = 0;
  const { socket, port } = await gateway((one, remote) => {
    if (++asked === 1) one.send("no", remote.port, remote.address);
    if (asked === 3) one.send("yes", remote.port, remote.address);
  });
  assert.equal(await ask(question(port), never), "yes");
  assert.equal(asked, 3);
  socket.close();
});

test("silence, an abort, and an answer from somebody else end in a refusal", async () => {
  const { socket, port } = await gateway((_, remote) => {
    const stranger = createSocket("udp4");
    stranger.send("yes", remote.port, remote.address, () => stranger.close());
  });
  await assert.rejects(ask(question(port, 300), never), { code: "NO_ANSWER" });
  await assert.rejects(ask(question(port, 10_000), AbortSignal.timeout(50)), { code: "NO_ANSWER" });
  await assert.rejects(ask(question(port, 10_000), AbortSignal.abort()), { code: "NO_ANSWER" });
  socket.close();
});

test("a flood of wrong answers is not read to its end", async () => {
  let taken = 0;
  const { socket, port } = await gateway((one, remote) => {
    for (let i = 0; i < 300; i++) one.send("wrong", remote.port, remote.address);
  });
  const asking = question(port, 300);
  const counting = {
    ...asking,
    take: (datagram: Uint8Array): string | undefined => {
      taken++;
      return asking.take(datagram);
    },
  };
  await assert.rejects(ask(counting, never), { code: "NO_ANSWER" });
  assert.ok(taken <= 64, `${taken} looked at`);
  socket.close();
});

test("a decoder that throws is a refusal of this question and of nothing else", async () => {
  const { socket, port } = await gateway((one, remote) => one.send("yes", remote.port, remote.address));
  const broken = {
    ...question(port),
    take: (): string => {
      throw new RangeError("out of range");
    },
  };
  await assert.rejects(ask(broken, never), RangeError);
  assert.equal(await ask(question(port), never), "yes");
  socket.close();
});

function mapper(name: Mapper["name"], map: (request: MapRequest) => Promise<PortMap>, unmapped: string[] = []): Mapper {
  return { name, map: (request) => map(request), unmap: () => Promise.resolve(void unmapped.push(name)) };
}
const works = (): Promise<PortMap> => Promise.resolve({ external: EXTERNAL, lifetimeSeconds: 3600 });
const fails = (): Promise<PortMap> => {
  throw new Error("broken");
};

test("the first protocol that works is kept, and those before it are not asked again", async () => {
  const asked: string[] = [];
  const unmapped: string[] = [];
  const source = new PortMappingSource({
    mappers: [
      mapper("pcp", () => (asked.push("pcp"), fails()), unmapped),
      mapper("nat-pmp", () => (asked.push("nat-pmp"), works()), unmapped),
      mapper("upnp", () => (asked.push("upnp"), works()), unmapped),
    ],
    readGateway: () => Promise.resolve(GATEWAY),
    port: () => 9338,
  });
  const look = await source.look(never);
  assert.deepEqual(
    look.endpoints.map((one) => formatEndpoint(endpointFromBytes(one))),
    ["198.51.100.5:9338"],
  );
  assert.equal(look.lifeMs, 3_600_000);
  assert.equal(look.againMs, 1_200_000);
  await source.look(never);
  assert.deepEqual(asked, ["pcp", "nat-pmp", "nat-pmp"]);
  assert.equal(source.inUse, "nat-pmp");
  await source.close();
  assert.deepEqual(unmapped, ["pcp", "nat-pmp", "upnp"]);
});

test("a mapping that stops working moves on to the next protocol, and all refusals are told", async () => {
  let pcp = true;
  const source = new PortMappingSource({
    mappers: [mapper("pcp", () => (pcp ? works() : fails())), mapper("upnp", () => (pcp ? fails() : works()))],
    readGateway: () => Promise.resolve(GATEWAY),
    port: () => 9338,
  });
  await source.look(never);
  pcp = false;
  assert.match((await source.look(never)).text, /^upnp: the router maps 198\.51\.100\.5:9338/);
  const none = new PortMappingSource({
    mappers: [mapper("pcp", fails), mapper("upnp", () => Promise.resolve({ external: EXTERNAL, lifetimeSeconds: 0 }))],
    readGateway: () => Promise.resolve(GATEWAY),
    port: () => 9338,
  });
  await assert.rejects(none.look(never), /pcp: broken; upnp: the answer maps nothing/);
  const lost = new PortMappingSource({ mappers: [], readGateway: () => Promise.resolve(undefined), port: () => 9338 });
  await assert.rejects(lost.look(never), { code: "NO_GATEWAY" });
});

test("a search answer leads to the answering device alone", () => {
  const answer = (location: string): string =>
    `HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nLOCATION: ${location}\r\nST: x\r\n\r\n`;
  assert.equal(ssdpLocation(answer("http://192.168.1.1:5000/rootDesc.xml"), "192.168.1.1")?.port, "5000");
  for (const bad of [
    "http://192.168.1.2:5000/rootDesc.xml",
    "https://192.168.1.1/rootDesc.xml",
    "http://user@192.168.1.1/",
    "file:///etc/passwd",
    "http://router.lan/",
    "nonsense",
  ])
    assert.equal(ssdpLocation(answer(bad), "192.168.1.1"), undefined, bad);
  assert.equal(ssdpLocation("NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1/\r\n\r\n", "192.168.1.1"), undefined);
  assert.match(ssdpSearch("a"), /^M-SEARCH \* HTTP\/1\.1\r\n(?:.+\r\n)+ST: a\r\n\r\n$/);
});

test("the mapping service is found in a description, the newest kind first, and stays on the device", () => {
  const service = (type: string, control: string): string =>
    `<service><serviceType>urn:schemas-upnp-org:service:${type}</serviceType><controlURL>${control}</controlURL></service>`;
  const base = new URL("http://192.168.1.1:5000/rootDesc.xml");
  const found = (...services: readonly string[]): string | undefined =>
    findService(`<root>${services.join("")}</root>`, base)?.control.href;
  assert.equal(
    found(service("WANIPConnection:1", "/one"), service("WANIPConnection:2", "/two")),
    "http://192.168.1.1:5000/two",
  );
  assert.equal(found(service("WANPPPConnection:1", "ctl")), "http://192.168.1.1:5000/ctl");
  assert.equal(found(service("WANIPConnection:1", "http://10.0.0.1/x")), undefined);
  assert.equal(found(service("Layer3Forwarding:1", "/x")), undefined);
  assert.equal(findService("<service>".repeat(100_000), base), undefined);
});

test("answers are read whatever their prefixes, and faults by their code", () => {
  assert.equal(
    element("<u:A><NewExternalIPAddress> 1.2.3.4 </NewExternalIPAddress></u:A>", "NewExternalIPAddress"),
    "1.2.3.4",
  );
  assert.equal(element('<x:NewPort a="b">7</x:NewPort>', "NewPort"), "7");
  assert.equal(element("<NewPort>", "NewPort"), undefined);
  assert.equal(soapError("<s:Fault><UPnPError><errorCode>718</errorCode></UPnPError></s:Fault>"), 718);
  assert.equal(soapError("<errorCode>x</errorCode>"), 0);
  assert.match(soapBody("urn:x", "Do", [["A", 1]]), /<u:Do xmlns:u="urn:x"><A>1<\/A><\/u:Do>/);
});
