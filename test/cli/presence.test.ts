/** `weft presence` as people use it, against two live nodes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { PresenceView } from "../../src/api/messaging/presence-control.ts";
import { startPair } from "../support/api-node.ts";
import { assertOneLine, weft } from "../support/weft-command.ts";

test("a watched member shows as online, then away with its note, in the list and in the table of peers", async () => {
  const [one, two] = (await startPair()).map(({ state }) => state);
  const list = async (): Promise<PresenceView> => {
    const { code, stdout, stderr } = await weft("presence", "--json", "--state", one);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as PresenceView;
  };
  const until = async (state: string): Promise<PresenceView> => {
    for (;;) {
      const view = await list();
      if (view.peers[0].state === state) return view;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  assert.match((await weft("presence", "--state", one)).stdout, /^this node: online\nnobody is watched/);
  assert.equal((await weft("presence", "watch", "two", "--state", one)).stdout, "two is watched\n");
  await until("online");
  const { stdout } = await weft("presence", "away", "back at \u001b[2Jtwo", "--state", two);
  assert.match(stdout, /^this node: away/);
  const { self, peers } = await until("away");
  assert.deepEqual(self, { state: "online", note: "" });
  assert.deepEqual([peers[0].node.name, peers[0].note], ["two", "back at \u001b[2Jtwo"]);
  // what others wrote does not move the cursor
  const table = (await weft("presence", "--state", one)).stdout;
  assert.match(table, /two +away +\d+ m?s ago +back at +\[2Jtwo/);
  assert.ok(!table.includes("\u001b[2J"));
  assert.match((await weft("peers", "--state", one)).stdout, /PRESENCE\n(?:.*\n)*two .* away\n/);
  assert.equal((await weft("presence", "unwatch", "two", "--state", one)).stdout, "two is not watched any more\n");
  assertOneLine(await weft("presence", "unwatch", "two", "--state", one), 1, /not watched/);
  assertOneLine(await weft("presence", "watch", "nobody", "--state", one), 4, /nobody/);
  assertOneLine(await weft("presence", "watch", "--state", one), 2, /member is missing/);
  assertOneLine(await weft("presence", "away", "x".repeat(129), "--state", one), 2, /128/);
});
