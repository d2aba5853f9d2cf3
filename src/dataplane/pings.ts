/** Probes asked for by the control thread (`weft ping`) that wait for an answer: 64 in all, the oldest goes. */
const SLOTS = 64;

export class Pings {
  readonly #token = new Float64Array(SLOTS);
  readonly #probe = new Float64Array(SLOTS);
  readonly #peer = new Int32Array(SLOTS).fill(-1);
  #next = 0;

  /** @param probe number of the probe, as PeerPaths.ping() returned it */
  add(peer: number, probe: number, token: number): void {
    const at = this.#next;
    this.#next = (at + 1) % SLOTS;
    this.#token[at] = token;
    this.#probe[at] = probe;
    this.#peer[at] = peer;
  }

  /** This probe of the peer was answered. @param told called with the token of each ping that waited for it */
  answered(peer: number, probe: number, told: (token: number) => void): void {
    for (let i = 0; i < SLOTS; i++) {
      if (this.#peer[i] !== peer || this.#probe[i] !== probe) continue;
      this.#peer[i] = -1;
      told(this.#token[i]);
    }
  }
}
