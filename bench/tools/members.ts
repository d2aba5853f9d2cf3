/**
 * Members made in bulk: identities that are admitted to the roster in a state directory while its daemon is down, each by a statement
 * that the founder signs, exactly as its own would be. Joining a thousand nodes one by one would measure joining.
 */
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { toHex } from "../../src/base/bytes.ts";
import { Identity } from "../../src/crypto/identity.ts";
import { systemKeys } from "../../src/mesh/keys.ts";
import { Roster } from "../../src/mesh/roster.ts";
import { admitBody, signStatement } from "../../src/mesh/statement.ts";
import { StateDirectory } from "../../src/node/state-dir.ts";
import { Store } from "../../src/node/store.ts";

/** What responders.ts needs to play these members. */
export interface BulkMembers {
  /** 32 bytes, hexadecimal. */
  readonly networkId: string;
  /** Node id of the founder, 32 bytes, hexadecimal. */
  readonly founder: string;
  /** Identity seeds, 32 bytes each, hexadecimal. */
  readonly seeds: readonly string[];
}

/** @param state the founder's state directory, its daemon down @param file gets the BulkMembers as JSON, mode 0600 */
export function admitMembers(state: string, count: number, file: string): void {
  const directory = new StateDirectory(state);
  const store = new Store(directory.prepareDatabase());
  try {
    const founder = directory.readIdentity();
    if (founder === undefined) throw new Error(`${state} has no identity`);
    const { statements } = store.load();
    const genesis = statements[0];
    if (genesis === undefined) throw new Error(`${state} has no network`);
    const networkId = Uint8Array.from(genesis.hash);
    const roster = new Roster({ keys: systemKeys, networkId });
    const wallMs = Date.now();
    for (const { bytes } of statements) roster.add(bytes, wallMs);
    const prefix = roster.genesis?.prefix;
    if (prefix === undefined) throw new Error(`${state} holds no readable genesis`);
    const seeds: string[] = [];
    for (let index = 0; index < count; index++) {
      const seed = randomBytes(32);
      const member = new Identity(seed);
      const { parents, hlc } = roster.parentsFor([], wallMs);
      // The first addresses of the prefix stay free for the members that join by themselves.
      const body = admitBody({
        node: member.nodeId,
        name: `bulk-${index}`,
        ipv4: prefix.base + 1_024 + index,
        roles: [],
        tags: [],
        expiresAtMs: undefined,
        invite: undefined,
      });
      const added = roster.add(signStatement({ networkId, parents, hlc, kind: "admit", body }, founder), wallMs);
      if (added.status !== "added")
        throw new Error(`the roster refused member ${index}: ${"reason" in added ? added.reason : added.status}`);
      seeds.push(toHex(seed));
    }
    store.apply(
      [...roster.statements()].map((statement) => ({ kind: "statement", hash: statement.hash, bytes: statement.wire })),
    );
    writeFileSync(
      file,
      JSON.stringify({ networkId: toHex(networkId), founder: toHex(founder.nodeId), seeds } satisfies BulkMembers),
      { mode: 0o600 },
    );
  } finally {
    store.close();
    directory.close();
  }
}
