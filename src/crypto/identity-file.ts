/**
 * The identity file as text, with a checksum so that damage is noticed before the key is used. Reading and writing (mode 0600,
 * temporary file, fsync, rename) is the owner's.
 *   line 1 "weft identity 1" | "id w1…" | "seed " base32 of 32 bytes | "check " base32 of the first 10 bytes of
 *   SHA-256("weft identity v1" ‖ the lines before it, each with its newline). Lines that begin with "#" are comments and not summed.
 */
import { decodeBase32, encodeBase32 } from "../base/base32.ts";
import { equal, utf8 } from "../base/bytes.ts";
import { WeftError } from "../base/errors.ts";
import { Identity, SEED_BYTES } from "./identity.ts";
import { sha256 } from "./kdf.ts";
import { formatNodeId } from "./node-id.ts";

const FIRST_LINE = "weft identity 1";
const CHECK_LABEL = utf8("weft identity v1");
const CHECK_BYTES = 10;
const COMMENT = "# The secret key of this node. Whoever has this file is this node: keep it, and keep it private.";

function check(body: string): string {
  return encodeBase32(sha256(CHECK_LABEL, utf8(body)).subarray(0, CHECK_BYTES));
}

export function encodeIdentityFile(identity: Identity): string {
  const body = `${FIRST_LINE}\nid ${formatNodeId(identity.nodeId)}\nseed ${encodeBase32(identity.seed)}\n`;
  return `${COMMENT}\n${body}check ${check(body)}\n`;
}

/** @throws WeftError IDENTITY_DAMAGED when any part is missing, changed or does not belong together */
export function decodeIdentityFile(text: string): Identity {
  const lines = text.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#"));
  const [first, id, seedLine, checkLine] = lines;
  if (lines.length !== 4 || first !== FIRST_LINE) throw damaged("its layout is not that of an identity file");
  if (checkLine !== `check ${check(`${first}\n${id}\n${seedLine}\n`)}`) throw damaged("its checksum does not match");
  const seed = seedLine?.startsWith("seed ") ? decodeBase32(seedLine.slice(5)) : undefined;
  if (seed === undefined || seed.length !== SEED_BYTES) throw damaged("its seed is not 32 bytes of base32");
  const identity = new Identity(seed);
  if (!equal(utf8(`id ${formatNodeId(identity.nodeId)}`), utf8(id ?? "")))
    throw damaged("its id does not belong to its seed");
  return identity;
}

function damaged(why: string): WeftError {
  return new WeftError(
    "IDENTITY_DAMAGED",
    `the identity file is damaged: ${why}`,
    "restore it from a backup; a node without its file has to join again under a fresh identity",
  );
}
