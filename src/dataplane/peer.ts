/**
 * What the data plane knows of one peer. One object per declared slot, made when the control thread declares the peer, so that the
 * packet path finds everything in fixed fields.
 */
import type { PeerPaths } from "../path/peer-paths.ts";
import type { Epoch } from "../session/epochs.ts";
import { BurstControl } from "./burst.ts";
import { PeerQueue } from "./queues.ts";

export class PeerState {
  readonly slot: number;
  readonly nodeId: Uint8Array;
  readonly paths: PeerPaths;
  readonly queue: PeerQueue = new PeerQueue();
  /** Index of the peer's first cell in the statistics. */
  readonly row: number;
  /** Epoch to seal under; undefined without a session. */
  sendEpoch: Epoch | undefined = undefined;
  /** Standing in the outbound round-robin list. */
  backlogged = false;
  /** When something was last sealed for it, and when something authenticated last came in; −1 = never. */
  lastSentMs = -1;
  lastReceivedMs = -1;
  /** First data received since the last send (keepalive duty), or −1. */
  unansweredReceiveMs = -1;
  /** First user data sent since the last receive (silence detection), or −1. */
  unansweredSendMs = -1;
  /** Last needSession / silent event, for rate limiting. */
  needSessionMs = -1e9;
  silentMs = -1e9;
  /** Epoch id for which wantRekey was told. */
  rekeyToldFor = 0;
  /** Largest IP packet that fits the active path, bytes; follows the path. */
  maxPacketBytes = 1_280;
  readonly burst: BurstControl = new BurstControl();
  /** When the replay windows were last fitted to the paths. */
  windowFittedMs = -1e9;
  windowPackets = 0;
  /** Last path reported to the control thread: slot and MTU. */
  toldPath = -1;
  toldMtuBytes = 0;
  nextFragmentId = 0;
  /** IPv4 source found to be its own last, as u32; −1 = none (0 is an address that anybody can write). */
  checkedSource4 = -1;

  constructor(slot: number, nodeId: Uint8Array, paths: PeerPaths, row: number) {
    this.slot = slot;
    this.nodeId = nodeId;
    this.paths = paths;
    this.row = row;
  }
}
