/** Makes data packets: takes a counter, writes the header and seals. Nothing allocates. Source: docs/protocol.md, "Data". */
import { Drop } from "../base/drop.ts";
import type { Slab } from "../base/slab.ts";
import type { Epoch, EpochTable } from "../session/epochs.ts";
import { DATA_HEADER_BYTES, DATA_TYPE, INNER_HEADER_BYTES } from "../wire/data.ts";
import type { AeadPort } from "./ports.ts";

export class Sealer {
  readonly #view: DataView;
  readonly #aead: AeadPort;
  readonly #epochs: EpochTable;

  constructor(slab: Slab, aead: AeadPort, epochs: EpochTable) {
    this.#view = slab.view;
    this.#aead = aead;
    this.#epochs = epochs;
  }

  /**
   * At the table's time: seals inner header and payload (`bytes` long behind the 4 bytes at `plain`) into a whole data packet at `target`, which does not overlap.
   * @returns false when the key is past its limits
   */
  seal(epoch: Epoch, plain: number, bytes: number, target: number): boolean {
    if (this.#epochs.take(epoch, bytes + INNER_HEADER_BYTES) !== Drop.NONE) return false;
    const low = epoch.takenLow;
    const high = epoch.takenHigh;
    const view = this.#view;
    view.setUint32(target, DATA_TYPE, true);
    view.setUint32(target + 4, epoch.remoteIndex, true);
    view.setUint32(target + 8, low, true);
    view.setUint32(target + 12, high, true);
    this.#aead.seal(epoch.sealHandle, low, high, plain, bytes + INNER_HEADER_BYTES, target + DATA_HEADER_BYTES);
    return true;
  }
}
