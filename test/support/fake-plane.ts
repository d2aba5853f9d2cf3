/**
 * A data plane without threads, sockets or ciphers, and the network between several of them: enough for two NodeRuntimes to shake hands,
 * exchange control messages and echo in virtual time. Epochs are found by the index the peer was given, as in the real one; what is not
 * installed here is dropped, so a runtime that forgets a command shows.
 */
import { toHex } from "../../src/base/bytes.ts";
import type { Command, DataplaneHandle, EndpointBytes, PeerFigures, PlaneEvent } from "../../src/dataplane/messages.ts";
import type { EpochKeys } from "../../src/session/types.ts";
import { InnerKind } from "../../src/wire/data.ts";
import type { VirtualClock } from "./virtual-clock.ts";

const ONE_WAY_MS = 1;
const YOUNG_MS = 10_000;

interface Epoch {
  readonly peer: number;
  readonly keys: EpochKeys;
  readonly installedAtMs: number;
  proven: boolean;
}

interface Peer {
  candidates: readonly EndpointBytes[];
  sending: Epoch | undefined;
  endpoint: EndpointBytes | undefined;
  lastReceivedMs: number;
}

export class FakeNetwork {
  readonly clock: VirtualClock;
  readonly #planes = new Map<string, FakePlane>();
  /** @returns true to lose this datagram */
  loses: (from: FakePlane, to: EndpointBytes) => boolean = () => false;

  constructor(clock: VirtualClock) {
    this.clock = clock;
  }

  plane(address: EndpointBytes, onEvent: (event: PlaneEvent) => void): FakePlane {
    const plane = new FakePlane(this, address, onEvent);
    this.#planes.set(toHex(address), plane);
    return plane;
  }

  remove(plane: FakePlane): void {
    if (this.#planes.get(toHex(plane.address)) === plane) this.#planes.delete(toHex(plane.address));
  }

  deliver(from: FakePlane, to: EndpointBytes, action: (plane: FakePlane) => void): void {
    if (this.loses(from, to)) return;
    this.clock.schedule(this.clock.nowMs + ONE_WAY_MS, () => {
      const plane = this.#planes.get(toHex(to));
      if (plane !== undefined) action(plane);
    });
  }
}

export class FakePlane implements DataplaneHandle {
  readonly address: EndpointBytes;
  readonly commands: Command[] = [];
  readonly #network: FakeNetwork;
  readonly #onEvent: (event: PlaneEvent) => void;
  readonly #peers = new Map<number, Peer>();
  readonly #epochs = new Map<number, Epoch>();
  /** Commands refused as by a full ring while this is above 0. */
  refuse = 0;
  drops = 0;

  constructor(network: FakeNetwork, address: EndpointBytes, onEvent: (event: PlaneEvent) => void) {
    this.#network = network;
    this.address = address;
    this.#onEvent = onEvent;
  }

  emit(event: PlaneEvent): void {
    this.#onEvent(event);
  }

  send(command: Command): boolean {
    if (this.refuse > 0) {
      this.refuse--;
      return false;
    }
    this.commands.push(command);
    this.#take(structuredClone(command));
    return true;
  }

  peerFigures(slot: number): PeerFigures {
    const peer = this.#peers.get(slot);
    const epoch = peer?.sending;
    const nowMs = this.#network.clock.nowMs;
    return {
      txBytes: 0,
      rxBytes: 0,
      txPackets: 0,
      rxPackets: 0,
      rttMs: peer?.endpoint === undefined ? -1 : 2 * ONE_WAY_MS,
      lossRatio: 0,
      mtuBytes: peer?.endpoint === undefined ? 0 : 1500,
      lastDeliveryMs: peer === undefined || peer.lastReceivedMs < 0 ? -1 : nowMs - peer.lastReceivedMs,
      epochAgeMs: epoch === undefined ? -1 : nowMs - epoch.installedAtMs,
      cipher: epoch?.keys.cipher ?? 0,
      hybrid: epoch?.keys.hybrid ?? false,
      established: epoch?.keys.userData === true,
      queuedPackets: 0,
      droppedTx: 0,
      droppedRx: 0,
      spoofed: 0,
      deliveryBps: 0,
      forwardedBytes: 0,
      forwardDrops: 0,
    };
  }

  counters(): Map<string, number> {
    return new Map([["fakeDrops", this.drops]]);
  }

  stop(): Promise<void> {
    this.#network.remove(this);
    return Promise.resolve();
  }

  handshake(from: EndpointBytes, datagram: Uint8Array): void {
    this.#onEvent({ kind: "handshake", from, datagram });
  }

  inner(from: EndpointBytes, index: number, innerKind: number, payload: Uint8Array, flags = 0, aux = 0): void {
    const epoch = this.#epochs.get(index);
    const peer = epoch === undefined ? undefined : this.#peers.get(epoch.peer);
    if (epoch === undefined || peer === undefined) {
      this.drops++;
      return;
    }
    const nowMs = this.#network.clock.nowMs;
    peer.lastReceivedMs = nowMs;
    const slot = epoch.peer;
    const epochId = epoch.keys.epochId;
    if (!epoch.proven) {
      epoch.proven = true;
      this.#onEvent({ kind: "proof", peer: slot, epochId });
    }
    if (peer.endpoint === undefined || toHex(peer.endpoint) !== toHex(from)) {
      peer.endpoint = from;
      this.#onEvent({ kind: "path", peer: slot, endpoint: from, mtuBytes: 1500 });
    }
    if (innerKind !== InnerKind.KEEPALIVE || nowMs - epoch.installedAtMs < YOUNG_MS) {
      this.#onEvent({ kind: "inner", peer: slot, epochId, innerKind, flags, aux, payload });
    }
  }

  /** What a user packet for that peer would cause. */
  traffic(slot: number): void {
    if (this.#peers.get(slot)?.sending === undefined) this.#onEvent({ kind: "needSession", peer: slot });
  }

  #take(command: Command): void {
    const network = this.#network;
    switch (command.kind) {
      case "peer":
        this.#peers.set(command.peer, { candidates: [], sending: undefined, endpoint: undefined, lastReceivedMs: -1 });
        return;
      case "peerRemove":
        this.#peers.delete(command.peer);
        for (const [index, epoch] of this.#epochs) if (epoch.peer === command.peer) this.#epochs.delete(index);
        return;
      case "candidates": {
        const peer = this.#peers.get(command.peer);
        if (peer !== undefined) peer.candidates = command.endpoints;
        return;
      }
      case "install": {
        const peer = this.#peers.get(command.peer);
        if (peer === undefined) return;
        this.#epochs.set(command.epoch.localIndex, {
          peer: command.peer,
          keys: command.epoch,
          installedAtMs: network.clock.nowMs,
          proven: false,
        });
        if (command.endpoint !== undefined && command.epoch.initiator) {
          peer.endpoint = command.endpoint;
          this.#onEvent({ kind: "path", peer: command.peer, endpoint: command.endpoint, mtuBytes: 1500 });
        }
        return;
      }
      case "activate": {
        const peer = this.#peers.get(command.peer);
        const epoch = [...this.#epochs.values()].find((candidate) => candidate.keys.epochId === command.epochId);
        if (peer !== undefined && epoch !== undefined) peer.sending = epoch;
        return;
      }
      case "retire":
        network.clock.schedule(network.clock.nowMs + command.afterMs, () => {
          for (const [index, epoch] of this.#epochs)
            if (epoch.keys.epochId === command.epochId) this.#epochs.delete(index);
        });
        return;
      case "inner": {
        const peer = this.#peers.get(command.peer);
        const epoch =
          command.epochId === 0
            ? peer?.sending
            : [...this.#epochs.values()].find((candidate) => candidate.keys.epochId === command.epochId);
        const to = peer?.endpoint;
        if (epoch === undefined || to === undefined) {
          this.drops++;
          return;
        }
        const { innerKind, payload, flags, aux } = command;
        network.deliver(this, to, (plane) =>
          plane.inner(this.address, epoch.keys.remoteIndex, innerKind, payload, flags, aux),
        );
        return;
      }
      case "transmit": {
        const peer = this.#peers.get(command.peer);
        const targets =
          command.to === undefined
            ? [...(peer?.endpoint === undefined ? [] : [peer.endpoint]), ...(peer?.candidates ?? [])]
            : [command.to];
        for (const to of targets) network.deliver(this, to, (plane) => plane.handshake(this.address, command.datagram));
        return;
      }
      case "ping": {
        const peer = this.#peers.get(command.peer);
        const to = peer?.endpoint;
        if (to === undefined || peer?.sending === undefined) return;
        const { token, peer: slot } = command;
        network.deliver(this, to, (plane) =>
          network.deliver(plane, this.address, () =>
            this.#onEvent({ kind: "pong", peer: slot, token, rttMs: 2 * ONE_WAY_MS, endpoint: to }),
          ),
        );
        return;
      }
      default:
    }
  }
}
