/**
 * One DNS query in, at most one reply out (RFC 1034, 1035, 2308, 6891, 8482): authoritative for the zones of zone.ts, everything else is refused or,
 * when asked for, left to a forwarder. Sans-I/O; any bytes may come in. Work is bounded: at most MAX_QUERY_BYTES, one question, no
 * answers, at most one additional record, all checked on the header before anything is decoded. What is no query gets no reply, so two
 * servers never talk to each other.
 */
import { AUTHORITATIVE_ANSWER, decode, encode, TRUNCATED_RESPONSE } from "dns-packet";
import type { Answer, OptAnswer, Packet, Question } from "dns-packet";
import type { Zone } from "./zone.ts";

export const MAX_QUERY_BYTES = 1232;
/** UDP answer to somebody without EDNS, and the largest to anybody (fits every path). */
const PLAIN_UDP_BYTES = 512;
const EDNS_UDP_BYTES = 1232;
/** More records than that (20 bytes at least where there can be several) fit no UDP answer, so none is encoded. */
const MAX_UDP_ANSWERS = 64;
const MAX_TCP_BYTES = 65_535;
const HEADER_BYTES = 12;
const TTL_SECONDS = 30;
/** Longest that "there is no such name" is remembered. */
const NEGATIVE_TTL_SECONDS = 10;

export const Rcode = { NOERROR: 0, FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5 } as const;
export type Rcode = (typeof Rcode)[keyof typeof Rcode];

export type DnsResult =
  | { readonly kind: "reply"; readonly bytes: Uint8Array; readonly rcode: Rcode }
  /** Not ours: ask somebody else with the very same bytes; failure() makes the reply when that fails. */
  | { readonly kind: "forward"; readonly maxBytes: number }
  /** No query at all. */
  | { readonly kind: "drop" };

export interface AnswerOptions {
  readonly transport: "udp" | "tcp";
  /** Names of other zones are forwarded rather than refused. */
  readonly forwards: boolean;
}

const DROP: DnsResult = { kind: "drop" };

interface Query {
  readonly id: number;
  readonly recursionDesired: boolean;
  readonly question: Question;
  /** Lower case, without the last dot. */
  readonly name: string;
  readonly edns: OptAnswer | undefined;
  readonly maxBytes: number;
}

/** @param bytes one message as it came @param zone undefined: this node is in no network, everything is refused */
export function answerQuery(zone: Zone | undefined, bytes: Uint8Array, options: AnswerOptions): DnsResult {
  if (bytes.length < HEADER_BYTES || bytes.length > MAX_QUERY_BYTES) return DROP;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const flags = view.getUint16(2);
  if ((flags & 0x8000) !== 0) return DROP;
  const opcode = (flags >>> 11) & 15;
  if (opcode !== 0) return bare(view, Rcode.NOTIMP);
  const isOneQuestion = view.getUint16(4) === 1 && view.getUint16(6) === 0 && view.getUint16(8) === 0;
  if (!isOneQuestion || view.getUint16(10) > 1) return bare(view, Rcode.FORMERR);
  const query = read(bytes, options.transport);
  if (query === undefined) return bare(view, Rcode.FORMERR);
  try {
    return resolve(zone, query, options.forwards);
  } catch {
    // a name that decodes and does not encode again
    return bare(view, Rcode.FORMERR);
  }
}

/** The reply when a forwarder gave none: SERVFAIL with the question, or without when even that does not fit. */
export function failure(bytes: Uint8Array): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const reply = bare(view, Rcode.SERVFAIL);
  return reply.kind === "reply" ? reply.bytes : new Uint8Array(0);
}

function read(bytes: Uint8Array, transport: "udp" | "tcp"): Query | undefined {
  let packet: Packet;
  try {
    packet = decode(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
  } catch {
    return undefined;
  }
  const question = packet.questions?.[0];
  if (question === undefined || !/^[\x21-\x7e]{1,253}$/.test(question.name)) return undefined;
  const extra = packet.additionals?.[0];
  const edns = extra?.type === "OPT" ? extra : undefined;
  const udpBytes =
    edns === undefined
      ? PLAIN_UDP_BYTES
      : Math.min(EDNS_UDP_BYTES, Math.max(PLAIN_UDP_BYTES, edns.udpPayloadSize ?? 0));
  return {
    id: packet.id ?? 0,
    recursionDesired: ((packet.flags ?? 0) & 0x0100) !== 0,
    question,
    name: question.name.toLowerCase().replace(/\.$/, ""),
    edns,
    maxBytes: transport === "tcp" ? MAX_TCP_BYTES : udpBytes,
  };
}

function resolve(zone: Zone | undefined, query: Query, forwards: boolean): DnsResult {
  const { question, name } = query;
  const apex = zone?.zoneOf(name);
  if (zone === undefined || apex === undefined) {
    return forwards ? { kind: "forward", maxBytes: query.maxBytes } : reply(query, { rcode: Rcode.REFUSED });
  }
  if (query.edns !== undefined && query.edns.ednsVersion !== 0)
    return reply(query, { rcode: Rcode.NOERROR, extended: 1 });
  if (question.class !== undefined && question.class !== "IN" && question.class !== "ANY")
    return reply(query, { rcode: Rcode.REFUSED });
  const answers = records(zone, apex, query);
  if (answers.length > 0) {
    const extra = isTooMany(query, answers) ? [] : glue(zone, answers);
    return reply(query, { rcode: Rcode.NOERROR, authoritative: true, answers, extra });
  }
  const rcode = zone.exists(name) ? Rcode.NOERROR : Rcode.NXDOMAIN;
  return reply(query, { rcode, authoritative: true, authorities: [soa(zone, apex, NEGATIVE_TTL_SECONDS)] });
}

function records(zone: Zone, apex: string, query: Query): Answer[] {
  const { name, question } = query;
  const owner = question.name;
  const type = question.type;
  const host = zone.host(name);
  const ttl = TTL_SECONDS;
  // RFC 8482: a small answer to ANY
  if ((type as string) === "ANY") {
    return zone.exists(name) ? [{ type: "HINFO", name: owner, ttl, data: { cpu: "RFC8482", os: "" } }] : [];
  }
  if (name === apex && type === "SOA") return [soa(zone, apex, ttl)];
  if (name === apex && type === "NS") return [{ type: "NS", name: owner, ttl, data: nameServer(zone) }];
  if (host !== undefined && type === "A") return [{ type: "A", name: owner, ttl, data: host.ipv4 }];
  if (host !== undefined && type === "AAAA") return [{ type: "AAAA", name: owner, ttl, data: host.ipv6 }];
  const pointer = type === "PTR" ? zone.pointer(name) : undefined;
  if (pointer !== undefined) return [{ type: "PTR", name: owner, ttl, data: pointer }];
  if (type !== "SRV") return [];
  return zone
    .services(name)
    .map(({ port, target }) => ({ type: "SRV", name: owner, ttl, data: { priority: 0, weight: 0, port, target } }));
}

/** Addresses of the hosts that SRV records name. */
function glue(zone: Zone, answers: readonly Answer[]): Answer[] {
  const targets = new Set(answers.map((answer) => (answer.type === "SRV" ? answer.data.target : "")));
  const extra: Answer[] = [];
  for (const name of targets) {
    const host = zone.host(name);
    if (host === undefined) continue;
    extra.push(
      { type: "A", name, ttl: TTL_SECONDS, data: host.ipv4 },
      { type: "AAAA", name, ttl: TTL_SECONDS, data: host.ipv6 },
    );
  }
  return extra;
}

function soa(zone: Zone, apex: string, ttl: number): Answer {
  return {
    type: "SOA",
    name: apex,
    ttl,
    data: {
      mname: nameServer(zone),
      rname: `hostmaster.${zone.domain}`,
      serial: zone.serial,
      refresh: 3600,
      retry: 600,
      expire: 86_400,
      minimum: NEGATIVE_TTL_SECONDS,
    },
  };
}

/** Every member answers for itself, so the name in SOA and NS is the zone's own. */
function nameServer(zone: Zone): string {
  return zone.domain;
}

interface ReplyParts {
  readonly rcode: Rcode;
  /** Upper bits of the code (RFC 6891): 1 = BADVERS. */
  readonly extended?: number;
  readonly authoritative?: boolean;
  readonly answers?: Answer[];
  readonly authorities?: Answer[];
  readonly extra?: Answer[];
}

/** Whole if it fits, else without the additional records, else cut with the TC bit. */
function reply(query: Query, parts: ReplyParts): DnsResult {
  const opt: Answer[] =
    query.edns === undefined
      ? []
      : [
          {
            type: "OPT",
            name: ".",
            udpPayloadSize: EDNS_UDP_BYTES,
            extendedRcode: parts.extended ?? 0,
            ednsVersion: 0,
            flags: 0,
            flag_do: false,
            options: [],
          },
        ];
  const make = (answers: Answer[], authorities: Answer[], extra: Answer[], flags: number): Buffer =>
    encode({
      id: query.id,
      type: "response",
      flags:
        flags |
        parts.rcode |
        (parts.authoritative === true ? AUTHORITATIVE_ANSWER : 0) |
        (query.recursionDesired ? 0x0100 : 0),
      questions: [query.question],
      answers,
      authorities,
      additionals: [...extra, ...opt],
    });
  const { answers = [], authorities = [], extra = [], rcode } = parts;
  if (isTooMany(query, answers)) return { kind: "reply", bytes: make([], [], [], TRUNCATED_RESPONSE), rcode };
  let bytes = make(answers, authorities, extra, 0);
  if (bytes.length > query.maxBytes && extra.length > 0) bytes = make(answers, authorities, [], 0);
  if (bytes.length > query.maxBytes) bytes = make([], [], [], TRUNCATED_RESPONSE);
  return { kind: "reply", bytes, rcode };
}

function isTooMany(query: Query, answers: readonly Answer[]): boolean {
  return query.maxBytes < MAX_TCP_BYTES && answers.length > MAX_UDP_ANSWERS;
}

/** Twelve bytes: the same id and opcode, QR, the code, nothing else. */
function bare(query: DataView, rcode: Rcode): DnsResult {
  if (query.byteLength < HEADER_BYTES) return DROP;
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, query.getUint16(0));
  view.setUint16(2, 0x8000 | (query.getUint16(2) & 0x7900) | rcode);
  return { kind: "reply", bytes, rcode };
}
