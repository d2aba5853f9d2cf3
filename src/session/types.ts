/**
 * What the session state machine and the data plane exchange: epochs, their keys, and the outputs that ask the owner of
 * the sockets to do something. Source: docs/protocol.md, "Sessions".
 */

/** The two data ciphers. Nonce = 4 zero bytes ‖ counter u64 little-endian; no associated data; 16-byte tag. */
export const Cipher = { AES_256_GCM: 1, CHACHA20_POLY1305: 2 } as const;
export type Cipher = (typeof Cipher)[keyof typeof Cipher];
export const CIPHER_NAMES: readonly string[] = ["none", "aes-256-gcm", "chacha20-poly1305"];

/** Bits of the handshake payload; an unknown bit is ignored. */
export const Capability = { HARDWARE_AES: 1, PARTIAL_CHECKSUM: 2, HYBRID: 4 } as const;

/** One key generation of a session, as the session hands it to the data plane. */
export interface EpochKeys {
  /** Local number of the epoch, unique within this process run; never on the wire. */
  readonly epochId: number;
  /** Index the peer writes into data packets for us (u32, random). */
  readonly localIndex: number;
  /** Index we write into data packets for the peer (u32). */
  readonly remoteIndex: number;
  readonly cipher: Cipher;
  /** 32 bytes each; the receiver of this object owns them and overwrites them with zeros after use. */
  readonly sendKey: Uint8Array;
  readonly receiveKey: Uint8Array;
  /** True when an ML-KEM-768 secret went into the keys. */
  readonly hybrid: boolean;
  /** False for the classic epoch of a session that waits for the hybrid one: only ratchet and keepalive may use it. */
  readonly userData: boolean;
  /** True when this side sent the handshake init. */
  readonly initiator: boolean;
  /** Capability bits the peer announced. */
  readonly remoteCapabilities: number;
  /** Largest underlay IP packet the peer can receive (its MTU hint), bytes. */
  readonly remoteMtuBytes: number;
}

/** Where a datagram came from or goes: 18 bytes, v4-mapped address ‖ port u16 (base/endpoint.ts), kept opaque here. */
export type EndpointBytes = Uint8Array;

/** Everything the session state machine may ask of its owner. `peer` is the slot number of SessionPeer. */
export type SessionOutput =
  /** Send a handshake datagram (0x41–0x43). `to` undefined: to every candidate endpoint of the peer, and through its active path. */
  | {
      readonly kind: "transmit";
      readonly peer: number;
      readonly to: EndpointBytes | undefined;
      readonly datagram: Uint8Array;
    }
  /** Begin receiving under these keys (and sending, once activated). */
  | {
      readonly kind: "install";
      readonly peer: number;
      readonly epoch: EpochKeys;
      readonly endpoint: EndpointBytes | undefined;
    }
  /** From now on seal under this epoch. */
  | { readonly kind: "activate"; readonly peer: number; readonly epochId: number }
  /** Stop receiving under this epoch after `afterMs`, then zeroise. */
  | { readonly kind: "retire"; readonly peer: number; readonly epochId: number; readonly afterMs: number }
  /** Seal and send one inner message under exactly this epoch (kind 6 ratchet, kind 0 keepalive). */
  | {
      readonly kind: "inner";
      readonly peer: number;
      readonly epochId: number;
      readonly innerKind: number;
      readonly payload: Uint8Array;
    }
  /** User data may flow: the first usable epoch, or a later one, is active. */
  | {
      readonly kind: "established";
      readonly peer: number;
      readonly epochId: number;
      readonly hybrid: boolean;
      readonly initiator: boolean;
      readonly rekey: boolean;
    }
  /** The peer runs under another boot id than before. */
  | { readonly kind: "restarted"; readonly peer: number }
  /** Gave up after 90 s; `reason` is one line for a person. */
  | { readonly kind: "failed"; readonly peer: number; readonly reason: string };

/** Names for people of the bits in a handshake or hello; an unknown bit shows as its number. */
export function capabilityNames(bits: number): string[] {
  const names: string[] = [];
  for (let bit = 0; bit < 32; bit++) {
    if (((bits >>> bit) & 1) === 0) continue;
    const known = Object.entries(Capability).find(([, value]) => value === 1 << bit);
    names.push(known === undefined ? `bit ${bit}` : known[0].toLowerCase().replaceAll("_", "-"));
  }
  return names;
}
