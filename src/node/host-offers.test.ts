import assert from "node:assert/strict";
import { test } from "node:test";
import type { MeshNode } from "../mesh/mesh-node.ts";
import { formatRoutePrefix, parseRoutePrefix } from "../mesh/route-prefix.ts";
import { HostOffers } from "./host-offers.ts";

const self = new Uint8Array(32).fill(1);
const other = new Uint8Array(32).fill(2);

/** The other member announces these, and an admin has approved them all. */
function offers(prefixes: readonly string[], announce: readonly string[] = []): HostOffers {
  const parsed = prefixes.map((text) => parseRoutePrefix(text)!);
  const mesh = {
    approvedRoutes: () => parsed.map((prefix) => ({ ...prefix, nodeId: other, prefix: formatRoutePrefix(prefix) })),
    memberById: (nodeId: Uint8Array) => ({ nodeId, roles: [] }),
    offers: () => ({ prefixes: parsed, services: [] }),
    members: () => [{ nodeId: other, roles: [] }],
  } as unknown as MeshNode;
  return new HostOffers(mesh, self, [], () => ({ announce, acceptRoutes: true, offerExit: false, exit: undefined }));
}

test("an exit in pieces is no network behind a member, whoever approved it", () => {
  const pieces = ["0.0.0.0/1", "128.0.0.0/1", "64.0.0.0/7", "::/1", "2000::/3", "fc00::/15", "0.0.0.0/0"];
  const networks = ["10.0.0.0/8", "192.0.2.0/24", "2001::/16", "fd77::/64"];
  assert.deepEqual(
    offers([...pieces, ...networks])
      .usable()
      .map(({ prefix }) => prefix),
    networks,
  );
  assert.deepEqual(offers([], [...pieces, ...networks]).announced(), networks, "kept from before, it is not announced");
});
