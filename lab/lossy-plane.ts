/**
 * A data plane that loses or delays what goes through it, and connections of streams that are killed, for nodes in processes without root: everything behind it is
 * real. Lost are control messages, datagrams of streams and handshakes, in both directions, with one probability.
 */
import type { Command, DataplaneHandle, PlaneEvent, StartDataplane } from "../src/dataplane/messages.ts";
import type { Random } from "../src/base/random.ts";
import { startDataplane } from "../src/node/dataplane-handle.ts";
import { StreamFlag } from "../src/stream/types.ts";
import { InnerKind } from "../src/wire/data.ts";

export interface LossyPlane {
  readonly start: StartDataplane;
  /** 0–1 */
  loss: number;
  /** What is received comes so much later, in order. */
  delayMs: number;
  lost: number;
  /** This node's connections with all its peers lose their state, as if the other side had forgotten them. @returns how many */
  killConnections(): number;
}

export function lossyPlane(random: Random): LossyPlane {
  /** By slot: the tag in use, and an epoch from which something came. */
  const tags = new Map<number, number>();
  const epochs = new Map<number, number>();
  let tell: (event: PlaneEvent) => void = () => undefined;
  const isLost = (): boolean => {
    if (random.unit() >= plane.loss) return false;
    plane.lost++;
    return true;
  };
  const plane: LossyPlane = {
    loss: 0,
    delayMs: 0,
    lost: 0,
    async start(options, onEvent) {
      tell = onEvent;
      const real = await startDataplane(options, (event) => {
        if (event.kind === "inner") {
          epochs.set(event.peer, event.epochId);
          if (isLost()) return;
        }
        if (event.kind === "handshake" && isLost()) return;
        if (plane.delayMs === 0 || (event.kind !== "inner" && event.kind !== "handshake")) onEvent(event);
        else setTimeout(onEvent, plane.delayMs, event);
      });
      const send = (command: Command): boolean => {
        if (command.kind === "inner" && command.innerKind === InnerKind.STREAM && command.aux !== 0)
          tags.set(command.peer, command.aux);
        if ((command.kind === "inner" || command.kind === "transmit") && isLost()) return true;
        return real.send(command);
      };
      const handle: DataplaneHandle = {
        send,
        peerFigures: (peer) => real.peerFigures(peer),
        counters: () => real.counters(),
        stop: () => real.stop(),
      };
      return handle;
    },
    killConnections() {
      let killed = 0;
      for (const [peer, aux] of tags) {
        const epochId = epochs.get(peer);
        if (epochId === undefined) continue;
        killed++;
        const payload = new Uint8Array(0);
        tell({ kind: "inner", peer, epochId, innerKind: InnerKind.STREAM, flags: StreamFlag.RESET, aux, payload });
      }
      return killed;
    },
  };
  return plane;
}
