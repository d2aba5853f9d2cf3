/**
 * Text that has the form of a node id, in full or from its short form on, means that id and nothing else: otherwise a member could take
 * another one's id for its name, and commands for one would hit the other. So no node is given such a name any more; rosters that have one
 * keep it, but it finds nobody. Source: docs/protocol.md, "Identity".
 */
import { WeftError } from "../base/errors.ts";

/** Why such a name is refused, and what to do. */
export const ID_NAME_TEXT = "has the form of a node id, and would stand for another node";
export const ID_NAME_REMEDY = "choose a name that does not begin with w1, or put a - into it";

/** @param text in lower case */
export function hasIdForm(text: string): boolean {
  return /^w1[a-z2-7]{6,56}$/.test(text);
}

export function idName(name: string): WeftError {
  return new WeftError("NAME_INVALID", `"${name}" ${ID_NAME_TEXT}`, `${ID_NAME_REMEDY}: --name NAME`);
}
