/**
 * The roster as text, for a file, a mail or a memory stick:
 *
 *   weft roster 1
 *   network HEX of the network id
 *   statement BASE64 of signature ‖ payload          (one line each, parents before children)
 *   end COUNT CHECK                                  (CHECK: base32 of the first 10 bytes of SHA-256 over all lines before, with newlines)
 *
 * Nothing in it is secret beyond who is a member. Every statement carries its signature, so the text needs none; the check finds damage.
 * Empty lines and lines that begin with # are ignored and not part of the check. Source: docs/protocol.md, "Roster" (text).
 */
import { createHash } from "node:crypto";
import { encodeBase32 } from "../base/base32.ts";
import { fromHex, toHex } from "../base/bytes.ts";
import { WeftError } from "../base/errors.ts";

const HEADER = "weft roster 1";

export interface RosterText {
  /** 32 bytes */
  readonly networkId: Uint8Array;
  readonly wires: readonly Uint8Array[];
}

export function formatRosterText(networkId: Uint8Array, wires: Iterable<Uint8Array>): string {
  const lines = [HEADER, `network ${toHex(networkId)}`];
  for (const wire of wires) lines.push(`statement ${Buffer.from(wire).toString("base64")}`);
  lines.push(`end ${lines.length - 2} ${checkOf(lines)}`);
  return `${lines.join("\n")}\n`;
}

/** @throws WeftError ROSTER_TEXT, naming the line */
export function parseRosterText(text: string): RosterText {
  const lines = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
  if (lines[0] !== HEADER) {
    throw damaged(
      /^weft roster \d+$/.test(lines[0] ?? "") ? "its version is not known" : `it does not begin with "${HEADER}"`,
    );
  }
  const network = /^network ([0-9a-f]{64})$/.exec(lines[1] ?? "");
  if (network === null) throw damaged("its second line names no network");
  const end = /^end (\d+) ([a-z2-7]+)$/.exec(lines.at(-1) ?? "");
  if (end === null) throw damaged("its last line is missing: it was cut off");
  const body = lines.slice(2, -1);
  if (Number(end[1]) !== body.length) throw damaged(`it has ${body.length} statements and should have ${end[1]}`);
  if (end[2] !== checkOf(lines.slice(0, -1))) throw damaged("its checksum does not fit");
  const wires = body.map((line, i) => {
    const match = /^statement ([A-Za-z0-9+/]+={0,2})$/.exec(line);
    if (match === null) throw damaged(`statement ${i + 1} is no statement`);
    return new Uint8Array(Buffer.from(match[1], "base64"));
  });
  return { networkId: fromHex(network[1]) as Uint8Array, wires };
}

function checkOf(lines: readonly string[]): string {
  const hash = createHash("sha256");
  for (const line of lines) hash.update(`${line}\n`);
  return encodeBase32(hash.digest().subarray(0, 10));
}

function damaged(why: string): WeftError {
  return new WeftError("ROSTER_TEXT", `this is no whole roster: ${why}`, "export it again: weft roster export FILE");
}
