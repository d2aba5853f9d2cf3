/**
 * Every decoder of bytes or text from outside, fed with the saved corpus, its mutations and noise: none may throw, loop or read beyond
 * its input. Text decoders whose contract is a WeftError may throw just that. WEFT_FUZZ_SEED and WEFT_FUZZ_RUNS (mutations per target)
 * make a longer run or replay one.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { decodeBase32 } from "../../src/base/base32.ts";
import { utf8 } from "../../src/base/bytes.ts";
import { Drop } from "../../src/base/drop.ts";
import { endpointToBytes, parseAddress, parseEndpoint } from "../../src/base/endpoint.ts";
import { WeftError } from "../../src/base/errors.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { decodeIdentityFile, encodeIdentityFile } from "../../src/crypto/identity-file.ts";
import { Identity } from "../../src/crypto/identity.ts";
import { parseNodeId } from "../../src/crypto/node-id.ts";
import { NoiseInitiator, NoiseResponder } from "../../src/crypto/noise.ts";
import { X25519KeyPair } from "../../src/crypto/x25519.ts";
import { decodeCanonicalCbor, decodeCbor } from "../../src/mesh/cbor.ts";
import { ControlFault, decodeControl, encodeControl } from "../../src/mesh/control.ts";
import { openEndpoints, signEndpoints } from "../../src/mesh/endpoints.ts";
import { decodeToken, encodeToken } from "../../src/mesh/invite.ts";
import { NeighbourDigest } from "../../src/mesh/routing/digest.ts";
import { nearPayload, readNearPayload } from "../../src/mesh/routing/messages.ts";
import { systemKeys } from "../../src/mesh/keys.ts";
import { decodeDirectory, DirectoryType, encodeDirectory } from "../../src/messaging/directory/frames.ts";
import {
  decodeAck,
  decodeBody,
  decodeDirect,
  DirectType,
  encodeAck,
  encodeBody,
  encodeData,
  encodeMarks,
} from "../../src/messaging/direct/codec.ts";
import { decodeMailbox, encodeMailbox, MailboxType } from "../../src/messaging/direct/mailbox-codec.ts";
import { MessageKind } from "../../src/messaging/direct/types.ts";
import { decodeOverlay, encodeOverlay, OverlayType } from "../../src/messaging/membership/frames.ts";
import { decodePresence, encodePresence, PresenceType } from "../../src/messaging/presence/frames.ts";
import { admitBody, genesisBody, openStatement, signStatement, statementHash } from "../../src/mesh/statement.ts";
import { parseConfig } from "../../src/node/config.ts";
import { decodePayload, encodeInit, encodePayload, encodeTimestamp } from "../../src/session/handshake.ts";
import { DataHeader, decodeDataHeader, decodeInnerHeader, encodeDataHeader, InnerHeader } from "../../src/wire/data.ts";
import { classify } from "../../src/wire/demux.ts";
import { decodeFragment, encodeFragment, FragmentHeader } from "../../src/wire/fragment.ts";
import { checkHandshake } from "../../src/wire/handshake-sizes.ts";
import { buildIcmpError, ICMP_ERROR_MAX_BYTES, IcmpError } from "../../src/wire/icmp.ts";
import { decodeIp, IpPacket } from "../../src/wire/ip.ts";
import { decodeProbe, decodeProbeAck, encodeProbe, Probe, ProbeAck } from "../../src/wire/probe.ts";
import { decodeReport, encodeReport, Report } from "../../src/wire/report.ts";
import { clampMss, decodeTcp, TcpHeader } from "../../src/wire/tcp.ts";
import { decodeTransit, TransitHeader } from "../../src/wire/transit.ts";
import { decodeUdp, UdpHeader } from "../../src/wire/udp.ts";
import { fuzz, readCorpus, type Target } from "./harness.ts";

const SEED = Number(process.env["WEFT_FUZZ_SEED"] ?? 20_261_120);
const RUNS = Number(process.env["WEFT_FUZZ_RUNS"] ?? 0);
const random = new SeededRandom(1);

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** `bytes` zeroed, then written by `write`. */
function built(bytes: number, write: (view: DataView, u8: Uint8Array) => void): Uint8Array {
  const u8 = new Uint8Array(bytes);
  write(viewOf(u8), u8);
  return u8;
}

/** Runs a text decoder whose only exception is WeftError. */
function onlyWeftErrors(action: () => unknown): void {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof WeftError, `threw ${error instanceof Error ? error.stack : String(error)}`);
    assert.ok(error.code !== "" && error.remedy !== "");
  }
}

function ipPacket(version: 4 | 6, protocol: number, transport: Uint8Array): Uint8Array {
  const header = version === 4 ? 20 : 40;
  return built(header + transport.length, (view, u8) => {
    if (version === 4) {
      view.setUint8(0, 0x45);
      view.setUint16(2, header + transport.length);
      view.setUint8(8, 64);
      view.setUint8(9, protocol);
      view.setUint32(12, 0x64400001);
      view.setUint32(16, 0x64400002);
    } else {
      view.setUint32(0, 0x60000000);
      view.setUint16(4, transport.length);
      view.setUint8(6, protocol);
      view.setUint8(7, 64);
      u8[8] = 0xfd;
      u8[24] = 0xfd;
      u8[39] = 1;
    }
    u8.set(transport, header);
  });
}

const tcpSegment = built(32, (view, u8) => {
  view.setUint16(0, 40_000);
  view.setUint16(2, 5_201);
  view.setUint8(12, 0x80);
  view.setUint8(13, 2);
  u8.set([1, 1, 2, 4, 5, 0xb4, 1, 1, 4, 2, 0, 0], 20);
});
const udpDatagram = built(16, (view) => view.setUint16(4, 16));
const icmpEcho = Uint8Array.of(8, 0, 0, 0, 0, 1, 0, 1);

const identity = Identity.generate(random);
const genesis = signStatement(
  {
    networkId: undefined,
    parents: [],
    hlc: 1_024_000,
    kind: "genesis",
    body: genesisBody("home", "alpha", { base: 0x64400000, bits: 16 }, random.bytes(16)),
  },
  identity,
);
const networkId = statementHash(genesis);
const admission = signStatement(
  {
    networkId,
    parents: [networkId],
    hlc: 1_025_000,
    kind: "admit",
    body: admitBody({
      node: Identity.generate(random).nodeId,
      name: "beta",
      ipv4: 0x64400002,
      roles: ["member"],
      tags: [],
      expiresAtMs: undefined,
      invite: undefined,
    }),
  },
  identity,
);
const endpoint = endpointToBytes({ address: "10.1.2.3", port: 9_338 });
const endpoints = signEndpoints([endpoint], 5, 6_000, networkId, identity, ["wss://relay.example.org/weft"]);
const manyNodes = Array.from({ length: 60 }, () => random.bytes(32));
const near = nearPayload({ atMs: 1_800_000_000_000, relay: false, digest: NeighbourDigest.of([networkId]) });
const token = encodeToken({
  networkId,
  seed: random.bytes(32),
  expiresAtMs: 1_800_000_000_000,
  admins: [{ nodeId: identity.nodeId, endpoints: [endpoint], urls: ["wss://relay.example.org/weft"] }],
});

const responderKeys = new X25519KeyPair(random.bytes(32));
const initiatorKeys = new X25519KeyPair(random.bytes(32));
const prologue = utf8("fuzz");
const payload = encodePayload({
  timestamp: encodeTimestamp(1_700_000_000_000),
  bootId: 1,
  capabilities: 7,
  mtuBytes: 1_500,
  inviteId: undefined,
});
const noiseInit = new NoiseInitiator(prologue, initiatorKeys, responderKeys.publicKey, random.bytes(32)).writeInit(
  payload,
)!;
const init = encodeInit(5, noiseInit);
const psk = new Uint8Array(32);

const directHeader = { boot: 7, incarnation: 9_000, oldest: 8_000, floor: 40 };
const directBody = encodeBody({
  kind: MessageKind.RESPONSE,
  durable: false,
  failed: true,
  sentWallMs: 1_800_000_000_000,
  reference: { incarnation: 5, number: 6 },
  fromAgent: identity.nodeId,
  toAgent: identity.nodeId,
  name: "näme",
  payload: utf8("payload"),
})!;

const packet = new IpPacket();
const targets: readonly Target[] = [
  {
    name: "ip",
    seeds: [
      ipPacket(4, 6, tcpSegment),
      ipPacket(6, 6, tcpSegment),
      ipPacket(4, 17, udpDatagram),
      ipPacket(6, 17, udpDatagram),
      ipPacket(4, 1, icmpEcho),
      // Hop-by-hop options, then a fragment header, then UDP.
      ipPacket(6, 0, Uint8Array.of(44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9, ...udpDatagram)),
    ],
    mutations: 20_000,
    feed: (input) => {
      const view = viewOf(input);
      if (decodeIp(view, 0, input.length, packet) !== Drop.NONE) return;
      assert.ok(
        packet.totalBytes <= input.length && packet.headerBytes <= packet.totalBytes,
        "lengths lie within the packet",
      );
      assert.ok(packet.transportOffset + packet.transportBytes <= input.length, "the transport lies within the packet");
      const room = new Uint8Array(input.length + ICMP_ERROR_MAX_BYTES + 16);
      room.set(input);
      const roomView = viewOf(room);
      const bytes = buildIcmpError(room, roomView, packet, IcmpError.TOO_BIG, 1_280, input.length, input.length + 16);
      assert.ok(bytes <= ICMP_ERROR_MAX_BYTES);
      const tcp = new TcpHeader();
      if (packet.protocol === 6 && decodeTcp(view, packet.transportOffset, packet.transportBytes, tcp) === Drop.NONE) {
        clampMss(view, packet.transportOffset, tcp.headerBytes, 1_200, false);
      }
      if (packet.protocol === 17) decodeUdp(view, packet.transportOffset, packet.transportBytes, new UdpHeader());
    },
  },
  {
    name: "direct messages",
    seeds: [
      encodeData(directHeader, [
        { number: 41, leftMs: 1_000, body: directBody },
        { number: 44, leftMs: 1_000, body: directBody },
      ]),
      encodeMarks(DirectType.CLOSE, directHeader, [{ number: 42, boot: 7 }]),
      encodeAck({ boot: 7, incarnation: 9_000, admitMs: 1, commitMs: 2 }, 40, [{ first: 41, count: 3, verdict: 0 }]),
      encodeMailbox({ type: MailboxType.DEPOSIT, expiresWallMs: 5, recipient: identity.nodeId, sealed: directBody }),
      encodeMailbox({ type: MailboxType.KEPT, isKept: true, ticket: new Uint8Array(16) }),
    ],
    feed: (input) => {
      const frame = decodeDirect(input);
      if (frame?.type === DirectType.DATA) for (const { body } of frame.entries) decodeBody(body);
      decodeBody(input);
      decodeAck(input);
      decodeMailbox(input);
    },
  },
  {
    name: "tcp",
    seeds: [tcpSegment],
    feed: (input) =>
      fed(input, (view) => {
        const tcp = new TcpHeader();
        if (decodeTcp(view, 0, input.length, tcp) === Drop.NONE) clampMss(view, 0, tcp.headerBytes, 500, true);
      }),
  },
  {
    name: "datagram",
    seeds: [init, built(60, (view) => encodeDataHeader(view, 0, 7, 8, 9))],
    feed: (input) =>
      fed(input, (view) => {
        if (input.length > 0) classify(input[0]);
        checkHandshake(view, 0, input.length);
        decodeDataHeader(view, 0, input.length, new DataHeader());
        decodeInnerHeader(view, 0, input.length, new InnerHeader());
      }),
  },
  {
    name: "probe-report-fragment",
    seeds: [
      built(44, (view, u8) => encodeProbe(u8, view, 0, Object.assign(new Probe(), { pathId: 1, timestampUs: 5 }), 44)),
      built(44, (view) => encodeReport(view, 0, Object.assign(new Report(), { pathId: 1, packets: 5 }))),
      built(20, (view) => encodeFragment(view, 0, Object.assign(new FragmentHeader(), { count: 2, kind: 1 }))),
    ],
    feed: (input) =>
      fed(input, (view) => {
        decodeProbe(view, 0, input.length, new Probe());
        decodeProbeAck(view, 0, input.length, new ProbeAck());
        decodeReport(view, 0, input.length, new Report());
        decodeFragment(view, 0, input.length, new FragmentHeader());
        for (let flags = 0; flags < 4; flags++) decodeTransit(view, 0, input.length, flags, new TransitHeader());
      }),
  },
  {
    name: "noise-init",
    seeds: [noiseInit],
    mutations: 600,
    feed: (input) => {
      const responder = new NoiseResponder(prologue, responderKeys);
      if (responder.readInitStatic(input) === undefined) return;
      const opened = responder.readInitPayload(input);
      if (opened !== undefined && opened.length === payload.length) decodePayload(opened);
    },
  },
  {
    name: "noise-response",
    seeds: [noiseResponse()],
    mutations: 300,
    feed: (input) => {
      const initiator = new NoiseInitiator(
        prologue,
        initiatorKeys,
        responderKeys.publicKey,
        new Uint8Array(32).fill(3),
      );
      initiator.writeInit(payload);
      initiator.readResponse(input, psk);
    },
  },
  {
    name: "control",
    seeds: [
      encodeControl({ type: "hello", buildId: "x", protocol: [1, 1], capabilities: 7, name: "a" }),
      encodeControl({ type: "statements", wires: [genesis] }),
      encodeControl({ type: "want", hashes: [networkId] }),
      encodeControl({ type: "endpoints", wires: [endpoints.wire] }),
      encodeControl({ type: "bye" }),
      encodeControl({
        type: "lookup",
        id: new Uint8Array(16),
        target: networkId,
        path: [networkId],
        ttl: 2,
        label: 7,
        relay: true,
      }),
      encodeControl({
        type: "found",
        id: new Uint8Array(16),
        label: 7,
        hops: 2,
        relay: false,
        signature: new Uint8Array(64),
      }),
      encodeControl({ type: "near", signature: new Uint8Array(64), payload: near }),
    ],
    mutations: 10_000,
    feed: (input) => {
      const message = decodeControl(input);
      if (typeof message === "string") assert.ok(Object.values(ControlFault).includes(message));
      // What is taken can be written again: nothing in it is out of bounds.
      else assert.deepEqual(decodeControl(encodeControl(message)), message);
    },
  },
  {
    name: "membership",
    seeds: [
      encodeOverlay({ type: OverlayType.SHUFFLE, origin: networkId, hops: 6, nodes: [networkId, networkId] }),
      encodeOverlay({
        type: OverlayType.PING,
        flags: 1,
        sequence: 7,
        incarnation: 9,
        rumours: [3, 4].map((kind) => ({
          kind: kind as 3 | 4,
          node: networkId,
          incarnation: 9,
          accuser: networkId,
          signature: new Uint8Array(64),
        })),
      }),
      encodeDirectory({
        type: DirectoryType.VISITED,
        key: networkId,
        againS: 60,
        records: [{ node: networkId, version: 9, lifeS: 60, role: 1, signature: new Uint8Array(64) }],
      }),
      encodeDirectory({ type: DirectoryType.LOCATED, query: 7, agent: networkId, lease: new Uint8Array(216) }),
      encodePresence({ type: PresenceType.REDIRECT, subject: networkId, nodes: [networkId] }),
      encodePresence({
        type: PresenceType.BEACON,
        beacon: { node: networkId, version: 9, status: 1, note: new Uint8Array(5), signature: new Uint8Array(64) },
      }),
    ],
    mutations: 10_000,
    feed: (input) => {
      // what is taken can be written and read again: nothing in it is out of bounds
      const overlay = decodeOverlay(input);
      if (overlay !== undefined) assert.deepEqual(decodeOverlay(encodeOverlay(overlay)), overlay);
      const directory = decodeDirectory(input);
      if (directory !== undefined) assert.deepEqual(decodeDirectory(encodeDirectory(directory)), directory);
      const presence = decodePresence(input);
      if (presence !== undefined) assert.deepEqual(decodePresence(encodePresence(presence)), presence);
    },
  },
  {
    name: "neighbour-digest",
    seeds: [near, nearPayload({ atMs: 1, relay: true, digest: NeighbourDigest.of(manyNodes) })],
    mutations: 5_000,
    feed: (input) => {
      const content = readNearPayload(input);
      if (content === undefined) return;
      content.digest.has(networkId);
      assert.ok(content.digest.bytes.length <= 1_024);
    },
  },
  {
    name: "cbor",
    seeds: [genesis.subarray(64), admission.subarray(64)],
    mutations: 10_000,
    feed: (input) => {
      decodeCbor(input, 1_024);
      decodeCanonicalCbor(input, 1_024);
    },
  },
  {
    name: "statement",
    seeds: [genesis, admission],
    feed: (input) => {
      openStatement(input, networkId, systemKeys);
      if (input.length > 64) openStatement(input, statementHash(input), systemKeys);
    },
  },
  { name: "endpoints", seeds: [endpoints.wire], feed: (input) => void openEndpoints(input, networkId, systemKeys) },
  {
    name: "token",
    seeds: [utf8(token)],
    feed: (input) => onlyWeftErrors(() => decodeToken(Buffer.from(input).toString("utf8"))),
  },
  {
    name: "identity",
    seeds: [utf8(encodeIdentityFile(identity))],
    feed: (input) => onlyWeftErrors(() => decodeIdentityFile(Buffer.from(input).toString("utf8"))),
  },
  {
    name: "config",
    seeds: [
      utf8(
        'name = "a"\nlisten = ["0.0.0.0:9338", "[::]:9338"]\nendpoints = ["vpn.example.org:9338"]\ntun = "weft0"\nmtu = 1420\npq = "require"\n[log]\nlevel = "info"\n',
      ),
      utf8(`gso = false\nmark = 7\nmax_peers = 10\n[psk]\nbeta = "${"00".repeat(32)}"\n`),
    ],
    feed: (input) => onlyWeftErrors(() => parseConfig(Buffer.from(input).toString("utf8"), "weft.toml")),
  },
  {
    name: "text",
    seeds: [utf8("[fd57::1]:9338"), utf8("10.0.0.1:1"), utf8("::ffff:1.2.3.4"), utf8("mzxw6ytboi")],
    feed: (input) => {
      const text = Buffer.from(input).toString("latin1");
      parseEndpoint(text);
      parseAddress(text);
      decodeBase32(text);
      parseNodeId(text);
    },
  },
];

function fed(input: Uint8Array, action: (view: DataView) => void): void {
  action(viewOf(input));
}

function noiseResponse(): Uint8Array {
  const initiator = new NoiseInitiator(prologue, initiatorKeys, responderKeys.publicKey, new Uint8Array(32).fill(3));
  const responder = new NoiseResponder(prologue, responderKeys);
  const first = initiator.writeInit(payload)!;
  responder.readInitStatic(first);
  responder.readInitPayload(first);
  return responder.writeResponse(payload, psk, new Uint8Array(32).fill(4))!;
}

const corpusFile = (name: string): URL => new URL(`./corpus/${name}.hex`, import.meta.url);

for (const target of targets) {
  test(`${target.name}: corpus, mutations and noise are decoded or refused, never an exception`, () => {
    const runs = RUNS > 0 ? { ...target, mutations: RUNS } : target;
    assert.ok(fuzz(runs, readCorpus(corpusFile(target.name)), SEED) > 100);
  });
}

test("every corpus file belongs to a target", () => {
  const known = new Set(targets.map(({ name }) => `${name}.hex`));
  for (const name of readdirSync(new URL("./corpus/", import.meta.url)))
    assert.ok(known.has(name), `${name} is fed to nobody`);
});

test("negative control: a decoder that trusts a length is found", () => {
  const trusting: Target = {
    name: "trusting",
    seeds: [Uint8Array.of(3, 1, 2, 3)],
    feed: (input) => {
      const view = viewOf(input);
      if (input.length === 0) return;
      for (let index = 0; index < view.getUint8(0); index++) view.getUint8(1 + index);
    },
  };
  assert.throws(() => fuzz(trusting, [], SEED), /trusting misbehaves \(seed \d+\) on\n[0-9a-f]+/);
});
