/**
 * Multicast DNS service discovery (RFC 6762, RFC 6763) of `_weft._udp.local`, sans-I/O: announces this node, answers queries, asks with growing
 * pauses, remembers who is there until the records' life ends. What is announced is sealed (lan-announcement.ts).
 *
 *   _weft._udp.local      PTR  LABEL._weft._udp.local          LABEL = 16 random hexadecimal digits
 *   LABEL._weft._udp.local SRV 0 0 PORT LABEL.local;  TXT "v=1" "b=BASE64URL of the sealed announcement"
 *
 * Guarantees: packets cost nothing beyond a token bucket per link (before they are parsed); at most MAX_OPENS_PER_S announcements per link
 * are opened; MAX_PEERS nodes are remembered, the one that ends first goes first; answers go out at most once a second.
 */
import { decode, encode } from "dns-packet";
import type { Answer, Packet } from "dns-packet";
import { equal, toHex } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import type { Announcement } from "./lan-announcement.ts";

const SERVICE = "_weft._udp.local";
const SUFFIX = `.${SERVICE}`;
const PTR_TTL_S = 4_500;
const SRV_TTL_S = 120;
const MAX_LIFE_MS = 900_000;
const MIN_LIFE_MS = 10_000;
const MAX_PACKET_BYTES = 1_500;
const MAX_RECORDS = 64;
const MAX_PEERS = 256;
const PACKETS_PER_S = 50;
const MAX_OPENS_PER_S = 20;
const BURST_S = 2;
/** A link that brings more is a flood: whoever owns its socket closes it for a while, so that not even looking costs anything. */
const FLOOD_PER_S = 2_000;
const ANSWER_GAP_MS = 1_000;
const ANSWER_DELAY_MS = 100;
const SECOND_ANNOUNCEMENT_MS = 1_000;
const FIRST_QUERY_GAP_MS = 1_000;
const MAX_QUERY_GAP_MS = 300_000;
/** A good-bye takes effect after a second, so that a restart or a forgery does no harm in between (RFC 6762 section 10.1). */
const GOODBYE_MS = 1_000;
const MAX_LINKS = 16;

export interface LanPeer extends Announcement {
  readonly label: string;
}

export interface LanDeps {
  readonly random: Random;
  seal(label: string, endpoints: readonly Uint8Array[]): Uint8Array;
  open(label: string, sealed: Uint8Array): Announcement | undefined;
}

interface Heard {
  readonly sealed: Uint8Array;
  readonly announcement: Announcement;
  expiresAtMs: number;
}

class Link {
  packets: number = PACKETS_PER_S * BURST_S;
  opens: number = MAX_OPENS_PER_S * BURST_S;
  atMs: number;
  secondMs: number;
  inSecond = 0;

  constructor(nowMs: number) {
    this.atMs = nowMs;
    this.secondMs = nowMs;
  }

  /** @returns whether this packet is one of a flood */
  countPacket(nowMs: number): boolean {
    if (nowMs - this.secondMs >= 1_000) {
      this.secondMs = nowMs;
      this.inSecond = 0;
    }
    return ++this.inSecond > FLOOD_PER_S;
  }

  refill(nowMs: number): void {
    const seconds = Math.max(0, nowMs - this.atMs) / 1000;
    this.atMs = nowMs;
    this.packets = Math.min(PACKETS_PER_S * BURST_S, this.packets + seconds * PACKETS_PER_S);
    this.opens = Math.min(MAX_OPENS_PER_S * BURST_S, this.opens + seconds * MAX_OPENS_PER_S);
  }
}

export class LanMachine {
  readonly counters = {
    packets: 0,
    outsiders: 0,
    floods: 0,
    limited: 0,
    malformed: 0,
    strangers: 0,
    answers: 0,
    queries: 0,
    evicted: 0,
  };
  readonly #deps: LanDeps;
  readonly #links = new Map<string, Link>();
  readonly #heard = new Map<string, Heard>();
  readonly #out: Uint8Array[] = [];
  #label = "";
  #sealed = "";
  #port = 0;
  #own: readonly Uint8Array[] = [];
  #queryAtMs = Infinity;
  #queryGapMs = FIRST_QUERY_GAP_MS;
  #answerAtMs = Infinity;
  #answeredAtMs = -Infinity;
  #announceAtMs = Infinity;
  #changed = false;

  constructor(deps: LanDeps) {
    this.#deps = deps;
  }

  /** @param endpoints own ones on this host's networks, 18 bytes each; a change gets a fresh label @param isMoved the links changed */
  setOwn(nowMs: number, endpoints: readonly Uint8Array[], isMoved: boolean): void {
    const isSame = endpoints.length === this.#own.length && endpoints.every((one, i) => equal(one, this.#own[i]));
    if (isSame && !isMoved) return;
    this.goodbye();
    this.#own = endpoints.map((endpoint) => endpoint.slice());
    this.#queryAtMs = nowMs;
    this.#queryGapMs = FIRST_QUERY_GAP_MS;
    if (endpoints.length === 0) return;
    this.#label = toHex(this.#deps.random.bytes(8));
    this.#sealed = Buffer.from(this.#deps.seal(this.#label, endpoints)).toString("base64url");
    this.#port = endpoints[0][16] | (endpoints[0][17] << 8);
    this.#answer(nowMs);
    this.#announceAtMs = nowMs + SECOND_ANNOUNCEMENT_MS;
  }

  /** The records' last words; nothing is announced until the next setOwn(). */
  goodbye(): void {
    if (this.#label !== "") this.#out.push(this.#records(true));
    this.#label = "";
    this.#own = [];
    this.#answerAtMs = Infinity;
    this.#announceAtMs = Infinity;
  }

  /** @param link where it came in @param bytes any @returns false when the link is flooded and its socket should be closed for a while */
  handlePacket(nowMs: number, link: string, bytes: Uint8Array): boolean {
    const state = this.#count(nowMs, link);
    if (state === undefined) return false;
    state.refill(nowMs);
    if (state.packets < 1) {
      this.counters.limited++;
      return true;
    }
    state.packets--;
    if (bytes.length > MAX_PACKET_BYTES) {
      this.counters.malformed++;
      return true;
    }
    let packet: Packet;
    try {
      packet = decode(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    } catch {
      this.counters.malformed++;
      return true;
    }
    if (packet.type === "query") this.#takeQuery(nowMs, packet);
    else this.#takeResponse(nowMs, packet, state);
    return true;
  }

  /** A packet that came from nowhere near: not looked at, but it counts. @returns as handlePacket() */
  refuse(nowMs: number, link: string): boolean {
    this.counters.outsiders++;
    return this.#count(nowMs, link) !== undefined;
  }

  handleTimeout(nowMs: number): void {
    if (nowMs >= this.#announceAtMs) {
      this.#announceAtMs = Infinity;
      this.#answer(nowMs);
    }
    if (nowMs >= this.#answerAtMs) {
      this.#answerAtMs = Infinity;
      this.#answer(nowMs);
    }
    if (nowMs >= this.#queryAtMs) {
      this.counters.queries++;
      this.#out.push(bytesOf({ type: "query", questions: [{ name: SERVICE, type: "PTR", class: "IN" }] }));
      this.#queryAtMs = nowMs + this.#queryGapMs * (0.9 + 0.2 * this.#deps.random.unit());
      this.#queryGapMs = Math.min(MAX_QUERY_GAP_MS, this.#queryGapMs * 3);
    }
    for (const [label, heard] of this.#heard) {
      if (nowMs < heard.expiresAtMs) continue;
      this.#heard.delete(label);
      this.#changed = true;
    }
  }

  nextTimeout(): number {
    let next = Math.min(this.#queryAtMs, this.#answerAtMs, this.#announceAtMs);
    for (const heard of this.#heard.values()) next = Math.min(next, heard.expiresAtMs);
    return next;
  }

  /** A packet for every link. */
  pollTransmit(): Uint8Array | undefined {
    return this.#out.shift();
  }

  /** @returns whether peers() changed since this was asked */
  takeChanged(): boolean {
    const changed = this.#changed;
    this.#changed = false;
    return changed;
  }

  peers(): LanPeer[] {
    return [...this.#heard].map(([label, { announcement }]) => ({ label, ...announcement }));
  }

  /** @returns undefined when the link is flooded */
  #count(nowMs: number, link: string): Link | undefined {
    let state = this.#links.get(link);
    if (state === undefined) {
      if (this.#links.size >= MAX_LINKS) this.#links.delete(this.#links.keys().next().value as string);
      this.#links.set(link, (state = new Link(nowMs)));
    }
    this.counters.packets++;
    if (!state.countPacket(nowMs)) return state;
    this.counters.floods++;
    this.#links.delete(link);
    return undefined;
  }

  #takeQuery(nowMs: number, packet: Packet): void {
    const questions = (packet.questions ?? []).slice(0, MAX_RECORDS);
    if (this.#label === "" || !questions.some((one) => one.name.toLowerCase() === SERVICE)) return;
    const own = `${this.#label}${SUFFIX}`;
    // known answers (RFC 6762 section 7.1): who asks has us already
    const knows = (packet.answers ?? [])
      .slice(0, MAX_RECORDS)
      .some((one) => one.type === "PTR" && one.data === own && (one.ttl ?? 0) > PTR_TTL_S / 2);
    if (knows) return;
    const delayMs = ANSWER_DELAY_MS * (0.2 + this.#deps.random.unit());
    const dueMs = Math.max(nowMs + delayMs, this.#answeredAtMs + ANSWER_GAP_MS);
    this.#answerAtMs = Math.min(this.#answerAtMs, dueMs);
  }

  #takeResponse(nowMs: number, packet: Packet, link: Link): void {
    const records = [...(packet.answers ?? []), ...(packet.additionals ?? [])].slice(0, MAX_RECORDS);
    for (const record of records) {
      if (record.type !== "TXT" || !record.name.endsWith(SUFFIX)) continue;
      const label = record.name.slice(0, -SUFFIX.length);
      if (!/^[0-9a-f]{16}$/.test(label) || label === this.#label) continue;
      const heard = this.#heard.get(label);
      if (record.ttl === 0) {
        if (heard !== undefined) heard.expiresAtMs = Math.min(heard.expiresAtMs, nowMs + GOODBYE_MS);
        continue;
      }
      const sealed = sealedOf(record.data);
      if (sealed === undefined) continue;
      const lifeMs = Math.min(MAX_LIFE_MS, Math.max(MIN_LIFE_MS, (record.ttl ?? 0) * 1000));
      if (heard !== undefined && equal(heard.sealed, sealed)) {
        heard.expiresAtMs = nowMs + lifeMs;
        continue;
      }
      if (link.opens < 1) {
        this.counters.limited++;
        continue;
      }
      link.opens--;
      const announcement = this.#deps.open(label, sealed);
      if (announcement === undefined) {
        this.counters.strangers++;
        continue;
      }
      this.#remember(label, { sealed, announcement, expiresAtMs: nowMs + lifeMs });
    }
  }

  #remember(label: string, heard: Heard): void {
    // a node has one label at a time: its new one replaces the old
    for (const [other, { announcement }] of this.#heard)
      if (equal(announcement.nodeId, heard.announcement.nodeId)) this.#heard.delete(other);
    if (this.#heard.size >= MAX_PEERS) {
      let first: string | undefined;
      let firstMs = Infinity;
      for (const [other, { expiresAtMs }] of this.#heard) {
        if (expiresAtMs < firstMs) [first, firstMs] = [other, expiresAtMs];
      }
      this.#heard.delete(first as string);
      this.counters.evicted++;
    }
    this.#heard.set(label, heard);
    this.#changed = true;
  }

  #answer(nowMs: number): void {
    if (this.#label === "") return;
    this.counters.answers++;
    this.#answeredAtMs = nowMs;
    this.#out.push(this.#records(false));
  }

  #records(isGoodbye: boolean): Uint8Array {
    const name = `${this.#label}${SUFFIX}`;
    const ttl = isGoodbye ? 0 : PTR_TTL_S;
    const answers: Answer[] = [
      { type: "PTR", name: SERVICE, ttl, class: "IN", data: name },
      {
        type: "SRV",
        name,
        ttl: isGoodbye ? 0 : SRV_TTL_S,
        class: "IN",
        flush: true,
        data: { priority: 0, weight: 0, port: this.#port, target: `${this.#label}.local` },
      },
      { type: "TXT", name, ttl, class: "IN", flush: true, data: ["v=1", `b=${this.#sealed}`] },
    ];
    // authoritative answer (RFC 6762 section 18.4)
    return bytesOf({ type: "response", flags: 0x400, answers });
  }
}

function bytesOf(packet: Packet): Uint8Array {
  return new Uint8Array(encode(packet));
}

function sealedOf(data: unknown): Uint8Array | undefined {
  for (const item of (Array.isArray(data) ? data : [data]).slice(0, 8)) {
    const text = item instanceof Uint8Array ? Buffer.from(item).toString("latin1") : String(item);
    if (text.startsWith("b=") && text.length <= 255) return new Uint8Array(Buffer.from(text.slice(2), "base64url"));
  }
  return undefined;
}
