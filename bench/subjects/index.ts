/** All subjects of the comparison, and which of them can be measured here. */
import { nebula } from "./nebula.ts";
import type { Subject } from "./types.ts";
import { veth } from "./veth.ts";
import { weftSubject } from "./weft.ts";
import { boringtun, wireguardGo } from "./wireguard.ts";

/** The one every ratio is computed against. */
export const REFERENCE = "wireguard-go";

export const SUBJECTS: readonly Subject[] = [weftSubject(), wireguardGo, boringtun, nebula, veth];

/** @param names as in --subjects; empty = all @throws Error naming an unknown one */
export function chooseSubjects(names: readonly string[]): Subject[] {
  for (const name of names) {
    if (!SUBJECTS.some((subject) => subject.name === name)) {
      throw new Error(`unknown subject "${name}": choose from ${SUBJECTS.map((subject) => subject.name).join(", ")}`);
    }
  }
  return SUBJECTS.filter((subject) => names.length === 0 || names.includes(subject.name));
}
