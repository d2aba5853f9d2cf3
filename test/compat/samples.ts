/**
 * What the vectors of the present protocol version are made from: every format at least once, every control message, edge values. Run
 * `bin/weft-node test/compat/samples.ts` to write vectors-1.json anew; that is right only before a version is released, because
 * afterwards the file says what nodes in the field send. `npm run format` comes after it.
 */
import { writeFileSync } from "node:fs";
import { endpointToBytes } from "../../src/base/endpoint.ts";
import { systemKeys } from "../../src/mesh/keys.ts";
import { CODECS } from "./codecs.ts";
import { toPlain } from "./plain.ts";

const fill = (byte: number, length = 32): Uint8Array => new Uint8Array(length).fill(byte);
const count = (length: number, from = 0): Uint8Array => Uint8Array.from({ length }, (_, i) => (from + i) & 255);
const four = endpointToBytes({ address: "192.0.2.7", port: 9338 });
const six = endpointToBytes({ address: "2001:db8::7", port: 65_535 });
const networkId = count(32, 3);
const seed = count(32, 100);
const node = systemKeys.signerFromSeed(seed).nodeId;
const hash = fill(0x5a);

interface Sample {
  readonly codec: string;
  readonly name: string;
  readonly input: unknown;
}

const control = (name: string, input: object): Sample => ({ codec: "control", name, input });
const statement = (kind: string, body: object, more: object = {}): Sample => ({
  codec: "statement",
  name: kind,
  input: { seed, networkId, parents: [fill(1), fill(2)], hlc: 1_790_000_000_000_000, kind, body, ...more },
});

export const SAMPLES: readonly Sample[] = [
  {
    codec: "data header",
    name: "large counter",
    input: { receiver: 0xfedcba98, counterLow: 0xffffffff, counterHigh: 0x1fffff },
  },
  { codec: "inner header", name: "partial checksum", input: { kind: 1, flags: 1, aux: 1400 } },
  { codec: "inner header", name: "transit error", input: { kind: 4, flags: 2, aux: 0 } },
  {
    codec: "probe",
    name: "of a size",
    input: { transactionLow: 1, transactionHigh: 0x80000000, timestampUs: 5, pathId: 9, flags: 1 },
  },
  {
    codec: "probe ack",
    name: "seen at IPv4",
    input: {
      transactionLow: 7,
      transactionHigh: 8,
      echoedTimestampUs: 5,
      pathId: 9,
      flags: 0,
      datagramBytes: 1200,
      timestampUs: 77,
      address: four.slice(0, 16),
      port: 9338,
    },
  },
  {
    codec: "report",
    name: "beyond 32 bits",
    input: {
      pathId: 2,
      ceCount: 65_535,
      highestCounter: 2 ** 40 + 1,
      packets: 2 ** 33,
      receivedBytes: 2 ** 52,
      timestampUs: 1,
      echoUs: 2,
      holdUs: 3,
    },
  },
  { codec: "fragment", name: "last of four", input: { id: 0x01020304, index: 3, count: 4, kind: 6, flags: 0 } },
  { codec: "transit error", name: "unknown label", input: { label: 0xdeadbeef, isError: true, code: 1 } },
  {
    codec: "handshake",
    name: "with a psk, an invite and a cookie",
    input: {
      networkId,
      psk: fill(0x77),
      initiator: count(32, 1),
      responder: count(32, 2),
      initiatorEphemeral: count(32, 3),
      responderEphemeral: count(32, 4),
      initiatorIndex: 0x11223344,
      responderIndex: 0xaabbccdd,
      initiatorPayload: {
        timestamp: count(12),
        bootId: 0xffffffff,
        capabilities: 7,
        mtuBytes: 1500,
        inviteId: count(8, 9),
      },
      responderPayload: { timestamp: fill(0, 12), bootId: 1, capabilities: 4, mtuBytes: 9000, inviteId: undefined },
      kemPublicKey: fill(0x31, 1184),
      kemCiphertext: fill(0x32, 1088),
      kemSecret: fill(0x33),
      cookieSalt: fill(0x34, 16),
      cookie: fill(0x35, 16),
    },
  },
  {
    codec: "token",
    name: "two admins, one with a URL",
    input: {
      networkId,
      seed: fill(9),
      expiresAtMs: 1_900_000_000_000,
      admins: [
        { nodeId: fill(4), endpoints: [four, six], urls: ["wss://beacon.example/weft"] },
        { nodeId: fill(5), endpoints: [four] },
      ],
    },
  },
  {
    codec: "endpoints",
    name: "two addresses and a URL",
    input: {
      seed,
      networkId,
      endpoints: [four, six],
      urls: ["wss://beacon.example/weft"],
      hlc: 1_790_000_000_000_000,
      expiresAtMs: 1_800_000_000_000,
    },
  },
  statement(
    "genesis",
    { network: "home", name: "alpha", prefix: [Uint8Array.of(100, 64, 0, 0), 16], nonce: fill(8, 16) },
    { networkId: undefined, parents: [] },
  ),
  statement("invite", { key: node, uses: 3, expires: 1_900_000_000_000, roles: ["beacon"], tags: ["lab"] }),
  statement("admit", {
    node,
    name: "nas",
    ipv4: Uint8Array.of(100, 64, 0, 2),
    roles: [],
    tags: [],
    invite: hash,
  }),
  statement("revoke", { node: fill(6), reason: "lost" }),
  statement("merge", {}),
  statement("admin", { node: fill(6) }),
  statement("unadmin", { node: fill(6), reason: "on holiday" }),
  statement("update", { node: fill(6), name: "desk", roles: ["router"], tags: ["a"], expires: 1_900_000_000_000 }),
  statement("policy", { version: 1, stale: "refuse", rules: {} }),
  statement("route", { node: fill(6), prefix: [fill(0, 16), 0], approved: true }),
  statement("checkpoint", {}),
  control("lookup", {
    type: "lookup",
    id: fill(1, 16),
    target: fill(2),
    path: [fill(3), fill(4)],
    ttl: 3,
    label: 0xffffffff,
    relay: true,
  }),
  control("found", { type: "found", id: fill(1, 16), label: 1, hops: 2, relay: false, signature: fill(7, 64) }),
  control("unlabel", { type: "unlabel", label: 9 }),
  control("hello", { type: "hello", buildId: "0.1.0", protocol: [1, 1], capabilities: 7, name: "nas" }),
  control("digest", {
    type: "digest",
    roster: { count: 12, fingerprint: fill(1, 16) },
    endpoints: { count: 0, fingerprint: fill(0, 16) },
    isAnswer: true,
  }),
  control("ranges", { type: "ranges", lower: 0, ranges: [{ upper: 9, count: 2, fingerprint: fill(3, 16) }] }),
  control("have", { type: "have", lower: 1, upper: 2, from: fill(0), below: fill(9), hashes: [hash] }),
  control("want", { type: "want", hashes: [hash] }),
  control("statements", { type: "statements", wires: [count(70)] }),
  control("endpoints", { type: "endpoints", wires: [count(80)] }),
  control("known", {
    type: "known",
    from: fill(0, 8),
    below: undefined,
    entries: [{ idPrefix: fill(2, 8), hlc: 2 ** 50 }],
  }),
  control("seek", { type: "seek", idPrefixes: [fill(1, 8), fill(2, 8)] }),
  control("join", {
    type: "join",
    networkId,
    nodeId: node,
    name: "nas",
    exactName: false,
    inviteId: fill(3, 8),
    wallMs: 1_790_000_000_000,
    signature: fill(4, 64),
  }),
  control("admitted", { type: "answer", ok: true, admission: hash }),
  control("refused", {
    type: "answer",
    ok: false,
    code: "INVITE_EXPIRED",
    text: "too late",
    remedy: "ask again",
    details: { seconds: 3, who: "a" },
  }),
  control("leave", { type: "leave", wire: count(90) }),
  control("left", { type: "left", hash }),
  control("bye", { type: "bye" }),
  control("punch", {
    type: "punch",
    attempt: 0xffffffff,
    isAnswer: false,
    mapping: 3,
    supposes: true,
    endpoints: [four, six],
  }),
  control("sight", { type: "sight", node }),
  control("seen", { type: "seen", node, endpoint: four }),
];

if (process.argv[1] === import.meta.filename) {
  const vectors = SAMPLES.map(({ codec, name, input }) => {
    const { encode, decode } = CODECS[codec];
    const bytes = encode(input);
    return {
      codec,
      name,
      input: toPlain(input),
      hex: Buffer.from(bytes).toString("hex"),
      value: toPlain(decode(bytes, input)),
    };
  });
  const file = new URL("./vectors-1.json", import.meta.url);
  writeFileSync(file, `${JSON.stringify({ protocol: 1, vectors }, undefined, 1)}\n`);
  process.stdout.write(`${vectors.length} vectors written\n`);
}
