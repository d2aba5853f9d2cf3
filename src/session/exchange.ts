/**
 * One handshake with one peer, from the init to the proven final epoch, in either role. Holds its secrets and retained messages and
 * says nothing by itself; src/session/sessions.ts moves it. Source: docs/protocol.md, "Handshake".
 */
import type { KemKeyPair } from "../crypto/hybrid.ts";
import type { NoiseInitiator } from "../crypto/noise.ts";
import { zeroise } from "../crypto/secret.ts";
import { Resend } from "./rekey.ts";
import type { EndpointBytes } from "./types.ts";

/** What the exchange waits for. */
export const Stage = {
  /** initiator: the response */
  INIT_SENT: 0,
  /** responder: any packet under the classic epoch */
  RESPONDED: 1,
  /** responder: the ratchet message */
  PROVEN: 2,
  /** initiator: the ratchet answer */
  RATCHET_SENT: 3,
  /** responder: any packet under the final epoch */
  RATCHET_ANSWERED: 4,
  /** initiator: any packet under the final epoch */
  CONFIRMING: 5,
  DONE: 6,
  /** given up; nothing that still arrives revives it */
  ABANDONED: 7,
} as const;
export type Stage = (typeof Stage)[keyof typeof Stage];

export class Exchange {
  /** True when this node sent the init. */
  readonly initiator: boolean;
  /** Node id order: true when the initiator's id is the smaller of the two. */
  readonly begunBySmaller: boolean;
  readonly startedAtMs: number;
  /** Our sender index, which is also the classic epoch's receiver index. */
  readonly localIndex: number;
  /** The init or response that we sent, with macs. */
  readonly datagram: Uint8Array;
  /** The init that we answered, up to its macs. */
  readonly answered: Uint8Array | undefined;
  noise: NoiseInitiator | undefined;
  stage: Stage;
  remoteIndex = 0;
  remoteCapabilities = 0;
  remoteMtuBytes = 0;
  remoteBootId = 0;
  /** Where the peer's message came from. */
  from: EndpointBytes | undefined = undefined;
  /** Epoch ids; 0 = not yet. The final one is the hybrid one, or the classic one when a side knows no other. */
  classicEpochId = 0;
  finalEpochId = 0;
  hybridIndex = 0;
  kem: KemKeyPair | undefined = undefined;
  transcriptHash: Uint8Array | undefined = undefined;
  exporter: Uint8Array | undefined = undefined;
  /** Ratchet message as received (responder), to know it again. */
  ratchetIn: Uint8Array | undefined = undefined;
  /** Ratchet message as sent, to resend it. */
  ratchetOut: Uint8Array | undefined = undefined;
  readonly resend: Resend = new Resend();
  /** When the initiator first confirmed the final epoch; Infinity before. */
  confirmedAtMs: number = Infinity;
  /** Given up then; Infinity when a timer of the attempt decides. */
  deadlineMs: number = Infinity;
  /** It has opened the session; later ones are rekeys. */
  isFirst = false;
  /** Answers that did not authenticate, and resends on request: both bounded. */
  badAnswers = 0;
  requestedResends = 0;

  constructor(
    initiator: boolean,
    begunBySmaller: boolean,
    startedAtMs: number,
    localIndex: number,
    datagram: Uint8Array,
    answered: Uint8Array | undefined,
    noise: NoiseInitiator | undefined,
  ) {
    this.initiator = initiator;
    this.begunBySmaller = begunBySmaller;
    this.startedAtMs = startedAtMs;
    this.localIndex = localIndex;
    this.datagram = datagram;
    this.answered = answered;
    this.noise = noise;
    this.stage = initiator ? Stage.INIT_SENT : Stage.RESPONDED;
  }

  /** Overwrites what could give keys away; the retained public messages stay. */
  forgetSecrets(): void {
    this.noise?.destroy();
    this.noise = undefined;
    this.kem = undefined;
    zeroise(this.exporter);
    this.exporter = undefined;
    this.transcriptHash = undefined;
  }
}
