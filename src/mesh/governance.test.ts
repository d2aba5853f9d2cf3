import assert from "node:assert/strict";
import { test } from "node:test";
import { toHex } from "../base/bytes.ts";
import { parseRosterText } from "./roster-text.ts";
import { TestWorld, type TestNode } from "./testing.ts";
import { JoinCode } from "./types.ts";

/** All running members have one roster. */
function agree(nodes: readonly TestNode[]): boolean {
  const prints = nodes.map((node) => toHex(node.mesh.rosterInfo()?.fingerprint ?? new Uint8Array(0)));
  return prints[0] !== "" && new Set(prints).size === 1;
}

function names(node: TestNode): string[] {
  return node.mesh.members().map((member) => member.name);
}

function refusalOf(node: TestNode): string | undefined {
  const result = node.joinResult;
  return result?.ok === false ? result.code : undefined;
}

function rolesOf(node: TestNode, name: string): string {
  return node.mesh.find(name)?.roles.join() ?? "";
}

test("name, roles, tags and expiry of a member change everywhere; what is left out stays", () => {
  const world = new TestWorld(1);
  const nodes = world.network(3);
  const [a, b, c] = nodes as [TestNode, TestNode, TestNode];
  a.mesh.updateMember(world.now(a), "n1", { name: "desk", roles: ["beacon", "exit"], tags: ["office"] });
  a.mesh.updateMember(world.now(a), "desk", { expiresAtMs: world.now(a).wallMs + 3_600_000 });
  world.runUntil(() => agree(nodes) && c.mesh.find("desk") !== undefined);
  const desk = c.mesh.find("desk");
  assert.deepEqual([desk?.roles, desk?.tags, desk?.requestedName], [["beacon", "exit"], ["office"], "desk"]);
  world.runUntil(() => b.mesh.self?.name === "desk");
  assert.ok(desk?.expiresAtMs !== undefined);
  a.mesh.updateMember(world.now(a), "desk", { tags: [], expiresAtMs: null });
  world.runUntil(() => c.mesh.find("desk")?.expiresAtMs === undefined);
  assert.deepEqual(c.mesh.find("desk")?.roles, ["beacon", "exit"]);
  a.mesh.updateMember(world.now(a), "n2", { name: "desk" });
  world.runUntil(() => agree(nodes) && names(b).includes("desk-2"));
  assert.deepEqual(names(b), ["n0", "desk", "desk-2"], "the later claim to a name gets a suffix");
  assert.throws(() => b.mesh.updateMember(world.now(b), "n0", { tags: [] }), { code: "NOT_ADMIN" });
  assert.throws(() => a.mesh.updateMember(world.now(a), "desk", { name: "No!" }), { code: "NAME_INVALID" });
  assert.throws(() => a.mesh.updateMember(world.now(a), "nobody", { tags: [] }), { code: "NODE_UNKNOWN" });
  assert.throws(() => a.mesh.updateMember(world.now(a), "desk", { tags: [""] }), { code: "UPDATE_INVALID" });
});

test("admins are made and unmade; the last one stays; a demoted one keeps its membership and loses its say", () => {
  const world = new TestWorld(2);
  const nodes = world.network(3);
  const [a, b, c] = nodes as [TestNode, TestNode, TestNode];
  assert.throws(() => a.mesh.updateMember(world.now(a), "n0", { roles: [] }), { code: "LAST_ADMIN" });
  a.mesh.updateMember(world.now(a), "n1", { roles: ["admin", "router"] });
  world.runUntil(() => b.mesh.isAdmin);
  b.mesh.updateMember(world.now(b), "n0", { roles: ["beacon"] });
  world.runUntil(() => agree(nodes) && !a.mesh.isAdmin);
  assert.deepEqual([rolesOf(c, "n0"), rolesOf(c, "n1")], ["beacon", "admin,router"]);
  assert.throws(() => a.mesh.createInvite(world.now(a)), { code: "NOT_ADMIN" });
  b.mesh.updateMember(world.now(b), "n0", { roles: ["admin", "beacon"] });
  world.runUntil(() => a.mesh.isAdmin);
  a.mesh.createInvite(world.now(a));
});

test("routes and the policy reach everybody, with an output; a revoked router's routes are gone", () => {
  const world = new TestWorld(3);
  const nodes = world.network(3);
  const [a, b, c] = nodes as [TestNode, TestNode, TestNode];
  a.mesh.approveRoute(world.now(a), "n1", "10.9.0.0/16", true);
  a.mesh.approveRoute(world.now(a), "n2", "10.9.0.0/16", true);
  a.mesh.approveRoute(world.now(a), "n1", "::/0", true);
  world.runUntil(() => agree(nodes) && c.mesh.approvedRoutes().length === 3);
  assert.deepEqual(
    b.mesh.approvedRoutes().map((route) => [route.prefix, route.family, route.bits, route.address.length]),
    [
      ["10.9.0.0/16", 4, 16, 4],
      ["10.9.0.0/16", 4, 16, 4],
      ["::/0", 6, 0, 16],
    ],
  );
  assert.ok(c.outputs("routesChanged").length > 0);
  a.mesh.approveRoute(world.now(a), "n1", "::/0", false);
  world.runUntil(() => c.mesh.approvedRoutes().length === 2);
  a.mesh.revoke(world.now(a), "n1");
  world.runUntil(() => c.mesh.approvedRoutes().length === 1);
  assert.equal(toHex(c.mesh.approvedRoutes()[0].nodeId), toHex(c.identity.nodeId));
  assert.throws(() => a.mesh.approveRoute(world.now(a), "n2", "10.9.0.1/16", true), { code: "ROUTE_INVALID" });
  const inside = `${a.mesh.self?.ipv4}/32`;
  assert.throws(() => a.mesh.approveRoute(world.now(a), "n2", inside, true), { code: "ROUTE_OVERLAY" });
  assert.deepEqual(c.mesh.policy(), { version: 0, stale: "allow", rules: {} });
  a.mesh.setPolicy(world.now(a), { stale: "refuse", rules: { later: [1, "x"] } });
  a.mesh.setPolicy(world.now(a), { stale: "allow" });
  world.runUntil(() => c.mesh.policy().version === 2);
  assert.deepEqual(c.mesh.policy(), { version: 2, stale: "allow", rules: { later: [1, "x"] } });
  assert.ok(c.outputs("policyChanged").length > 0);
  assert.throws(() => a.mesh.setPolicy(world.now(a), { rules: { much: "x".repeat(600) } }), { code: "POLICY_INVALID" });
  assert.throws(() => c.mesh.setPolicy(world.now(c), { stale: "refuse" }), { code: "NOT_ADMIN" });
});

test("admins make a checkpoint by themselves when an admin came or went, and a network with one admin makes none", () => {
  const world = new TestWorld(4);
  const nodes = world.network(4);
  const [a, b, c, d] = nodes as [TestNode, TestNode, TestNode, TestNode];
  world.run(60_000);
  assert.equal(a.mesh.rosterInfo()?.finalAtMs, undefined);
  for (const name of ["n1", "n2"]) a.mesh.updateMember(world.now(a), name, { roles: ["admin"] });
  world.runUntil(() => nodes.every((node) => node.mesh.rosterInfo()?.finalAtMs !== undefined));
  world.runUntil(() => agree(nodes));
  const first = d.mesh.rosterInfo()?.finalAtMs as number;
  world.run(30_000);
  const { statements } = d.mesh.rosterInfo() as { statements: number };
  world.run(120_000);
  assert.equal(d.mesh.rosterInfo()?.statements, statements, "nothing more is said about a settled network");
  b.mesh.revoke(world.now(b), "n0", "stolen");
  const rest = [b, c, d];
  world.runUntil(() => rest.every((node) => (node.mesh.rosterInfo()?.finalAtMs as number) > first));
  assert.ok(b.mesh.counters.checkpointsProposed + c.mesh.counters.checkpointsProposed > 0);
  assert.ok(b.mesh.counters.checkpointVotes + c.mesh.counters.checkpointVotes > 0);
  assert.deepEqual(names(d), ["n1", "n2", "n3"]);
});

test("a founder who hands over and goes at once leaves admins behind who can settle things among themselves", () => {
  for (const way of ["demoted", "left", "revoked"] as const) {
    const world = new TestWorld(17);
    const [a, b, c, d] = world.network(4) as [TestNode, TestNode, TestNode, TestNode];
    for (const name of ["n1", "n2", "n3"]) a.mesh.updateMember(world.now(a), name, { roles: ["admin"] });
    if (way === "demoted") a.mesh.updateMember(world.now(a), "n0", { roles: [] });
    else if (way === "left") a.mesh.leave(world.now(a));
    else {
      world.runUntil(() => a.mesh.rosterInfo()?.finalAtMs !== undefined && agree([a, b, c, d]));
      b.mesh.revoke(world.now(b), "n0");
    }
    world.run(60_000);
    b.mesh.revoke(world.now(b), "n3", "stolen");
    world.runUntil(() => agree([b, c]) && c.mesh.rosterInfo()?.proposals === 0);
    world.run(30_000);
    const [left, right] = [b.mesh.rosterInfo(), c.mesh.rosterInfo()];
    assert.equal(left?.finalAtMs, right?.finalAtMs);
    assert.ok((left?.finalAtMs as number) > world.now(b).wallMs - 60_000, way);
    assert.equal(d.outputs("selfRemoved").length, 1);
  }
});

test("with --approve a node waits, is listed, and is let in under the name the admin gives", () => {
  const world = new TestWorld(5);
  const [a] = world.network(2) as [TestNode, TestNode];
  const { token } = a.mesh.createInvite(world.now(a), { approve: true, tags: ["guest"], roles: ["router"] });
  const node = world.add({ joinTimeoutMs: 20_000 });
  node.mesh.startJoin(world.now(node), token, { name: "laptop" });
  world.runUntil(() => a.mesh.requests(world.now(a)).length === 1);
  // longer than the patience of a join that nobody answers
  world.run(90_000);
  assert.equal(node.outputs("joinResult").length, 0);
  const [request] = a.mesh.requests(world.now(a));
  assert.deepEqual(
    [request.name, request.isWaiting, request.via, request.tags, request.roles],
    ["laptop", true, undefined, ["guest"], ["router"]],
  );
  assert.ok(a.outputs("keepJoiner").length > 3, "its place is kept while it asks");
  assert.ok(node.outputs("joinProgress").some(({ text }) => text.includes("weft approve laptop")));
  assert.throws(() => a.mesh.approve(world.now(a), "somebody"), { code: "REQUEST_UNKNOWN" });
  assert.throws(() => a.mesh.approve(world.now(a), "laptop", "No!"), { code: "NAME_INVALID" });
  assert.throws(() => a.mesh.approve(world.now(a), "laptop", "w1abcdef"), { code: "NAME_INVALID" });
  assert.equal(a.mesh.approve(world.now(a), "laptop", "kitchen").name, "kitchen");
  world.runUntil(() => node.joinResult !== undefined);
  assert.equal(node.joinResult?.ok, true);
  assert.deepEqual([node.mesh.self?.name, node.mesh.self?.tags], ["kitchen", ["guest"]]);
  assert.deepEqual(a.mesh.requests(world.now(a)), []);
});

test("a denied node hears why, also from another admin, and gets in with an invite made afterwards", () => {
  const world = new TestWorld(6);
  const nodes = world.network(2);
  const [a, b] = nodes as [TestNode, TestNode];
  a.mesh.updateMember(world.now(a), "n1", { roles: ["admin"] });
  world.runUntil(() => b.mesh.isAdmin);
  const { token } = a.mesh.createInvite(world.now(a), { approve: true, uses: 2 });
  const node = world.add();
  node.mesh.startJoin(world.now(node), token, { name: "evil" });
  world.runUntil(() => a.mesh.requests(world.now(a)).length === 1);
  a.mesh.deny(world.now(a), "evil", "not today");
  world.runUntil(() => node.joinResult !== undefined);
  assert.ok(node.joinResult?.ok === false && node.joinResult.code === JoinCode.DENIED);
  assert.match(node.joinResult.text, /not today/);
  world.runUntil(() => agree([a, b]));
  node.mesh.startJoin(world.now(node), token, { name: "evil" });
  world.runUntil(() => node.outputs("joinResult").length === 2);
  assert.equal(refusalOf(node), JoinCode.DENIED);
  node.mesh.startJoin(world.now(node), b.mesh.createInvite(world.now(b)).token, { name: "friend" });
  world.runUntil(() => node.outputs("joinResult").length === 3);
  assert.equal(node.joinResult?.ok, true, JSON.stringify(node.joinResult));
});

test("nobody decides before the invite expires: the joiner says so", () => {
  const world = new TestWorld(7);
  const [a] = world.network(1) as [TestNode];
  const { token } = a.mesh.createInvite(world.now(a), { approve: true, expiresMs: 30_000 });
  const node = world.add();
  node.mesh.startJoin(world.now(node), token, { name: "late" });
  world.runUntil(() => node.joinResult !== undefined);
  assert.ok(node.joinResult?.ok === false);
  assert.ok(([JoinCode.NO_ADMIN, JoinCode.EXPIRED] as string[]).includes(node.joinResult.code), node.joinResult.code);
  assert.deepEqual(a.mesh.requests(world.now(a)), [], "an expired invite's request needs no decision");
});

test("a node joins through a beacon to an admin that it cannot reach, with and without approval", () => {
  for (const approve of [false, true]) {
    const world = new TestWorld(8);
    const nodes = world.network(2);
    const [a, beacon] = nodes as [TestNode, TestNode];
    a.mesh.updateMember(world.now(a), "n1", { roles: ["beacon"] });
    world.runUntil(() => beacon.mesh.self?.roles.includes("beacon") === true);
    const { token } = a.mesh.createInvite(world.now(a), { approve });
    a.isHidden = true;
    const node = world.add();
    node.mesh.startJoin(world.now(node), token, { name: "remote" });
    if (approve) {
      world.runUntil(() => a.mesh.requests(world.now(a)).length === 1);
      assert.equal(toHex(a.mesh.requests(world.now(a))[0].via ?? new Uint8Array(0)), toHex(beacon.identity.nodeId));
      a.mesh.approve(world.now(a), "remote");
    }
    world.runUntil(() => node.joinResult !== undefined);
    assert.equal(node.joinResult?.ok, true, JSON.stringify(node.joinResult));
    assert.ok(beacon.mesh.counters.joinsRelayed > 0);
    world.runUntil(() => agree([a, beacon, node]));
    assert.deepEqual(names(a), ["n0", "n1", "remote"]);
  }
});

test("a beacon without an admin says what is missing, and the join goes on when one is back", () => {
  const world = new TestWorld(9);
  const [a, beacon] = world.network(2) as [TestNode, TestNode];
  a.mesh.updateMember(world.now(a), "n1", { roles: ["beacon"] });
  world.runUntil(() => beacon.mesh.self?.roles.includes("beacon") === true);
  const { token } = a.mesh.createInvite(world.now(a));
  world.runUntil(() => agree([a, beacon]));
  a.isHidden = true;
  world.disconnect(a, beacon);
  const node = world.add();
  node.mesh.startJoin(world.now(node), token, { name: "remote" });
  world.runUntil(() => node.outputs("joinProgress").some(({ text }) => text.includes("connected to no admin")));
  world.connect(a, beacon);
  world.runUntil(() => node.joinResult !== undefined);
  assert.equal(node.joinResult?.ok, true);
});

test("a plain member passes no request on, and an admin takes none from it", () => {
  const world = new TestWorld(10);
  const [a, b] = world.network(2) as [TestNode, TestNode];
  const { token, inviteId } = a.mesh.createInvite(world.now(a));
  world.runUntil(() => agree([a, b]));
  assert.equal(b.mesh.acceptsInvite(inviteId, world.now(b).wallMs), "unknown");
  assert.equal(a.mesh.acceptsInvite(inviteId, world.now(a).wallMs), "live");
  assert.ok(token.length > 0);
});

test("an exported roster heals a partition by hand, and a damaged or foreign one is refused", () => {
  const world = new TestWorld(11);
  const nodes = world.network(3);
  const [a, b, c] = nodes as [TestNode, TestNode, TestNode];
  world.runUntil(() => agree(nodes));
  world.stop(c);
  c.isRunning = true;
  a.isHidden = true;
  b.isHidden = true;
  a.mesh.updateMember(world.now(a), "n1", { tags: ["new"] });
  const text = a.mesh.exportRoster();
  const { networkId, wires } = parseRosterText(text);
  assert.deepEqual(c.mesh.find("n1")?.tags, []);
  const half = c.mesh.importStatements(world.now(c), networkId, wires.slice(-1));
  assert.equal(half.added + half.waiting, 1);
  const result = c.mesh.importStatements(world.now(c), networkId, wires);
  assert.equal(result.refused.size, 0);
  assert.equal(result.added + result.known + half.added, wires.length + half.added);
  assert.deepEqual(c.mesh.find("n1")?.tags, ["new"]);
  assert.equal(c.mesh.exportRoster(), text);
  assert.throws(() => c.mesh.importStatements(world.now(c), new Uint8Array(32), wires), { code: "ROSTER_FOREIGN" });
  const forged = wires.map((wire) => wire.map((byte, i) => (i === 3 ? byte ^ 1 : byte)));
  const [fresh] = new TestWorld(12).network(1) as [TestNode];
  const refused = fresh.mesh.importStatements(
    { nowMs: 0, wallMs: world.now(c).wallMs },
    fresh.mesh.networkId as Uint8Array,
    forged,
  );
  assert.equal(refused.added, 0);
  const lines = text.split("\n");
  for (const broken of [
    lines.toSpliced(3, 1).join("\n"),
    text.slice(0, -30),
    text.replace("roster 1", "roster 9"),
    lines.map((line) => (line.startsWith("statement") ? line.replace(/A/, "B") : line)).join("\n"),
    "",
  ])
    assert.throws(() => parseRosterText(broken), { code: "ROSTER_TEXT" });
  assert.equal(parseRosterText(`# sent by mail\n\n${text.replaceAll("\n", "\r\n")}`).wires.length, wires.length);
});

test("two partitions that changed the roster agree after healing: both changes where they fit, seniority where not", () => {
  const world = new TestWorld(13);
  const nodes = world.network(4);
  const [a, b, c, d] = nodes as [TestNode, TestNode, TestNode, TestNode];
  a.mesh.updateMember(world.now(a), "n1", { roles: ["admin"] });
  world.runUntil(() => agree(nodes) && b.mesh.isAdmin);
  world.run(20_000);
  for (const [left, right] of [
    [a, b],
    [a, d],
    [c, b],
    [c, d],
  ] as const)
    world.disconnect(left, right);
  for (const node of nodes) node.isHidden = true;
  a.mesh.updateMember(world.now(a), "n2", { tags: ["left"] });
  b.mesh.updateMember(world.now(b), "n3", { tags: ["right"] });
  a.mesh.revoke(world.now(a), "n1");
  b.mesh.revoke(world.now(b), "n0");
  world.run(30_000);
  for (const node of nodes) node.isHidden = false;
  world.connect(c, d);
  world.runUntil(() => agree([c, d]));
  for (const node of [c, d]) {
    assert.deepEqual(names(node), ["n0", "n2", "n3"]);
    assert.deepEqual(node.mesh.find("n2")?.tags, ["left"]);
  }
});

test("a node that comes back holds user data until a member has agreed; without one the policy decides after 5 s", () => {
  for (const stale of ["allow", "refuse"] as const) {
    const world = new TestWorld(14);
    const nodes = world.network(2);
    const [a, b] = nodes as [TestNode, TestNode];
    a.mesh.setPolicy(world.now(a), { stale });
    world.runUntil(() => agree(nodes) && b.mesh.policy().stale === stale);
    world.run(200_000);
    assert.equal(b.mesh.userData, "open", "in a working network nothing is ever held");
    assert.equal(b.outputs("userData").length, 0);
    world.stop(b);
    b.isRunning = true;
    b.restart(world.now(b));
    assert.equal(b.mesh.userData, "held");
    world.connect(a, b);
    world.runUntil(() => b.mesh.userData === "open", 1000);
    world.disconnect(a, b);
    a.isHidden = true;
    b.isHidden = true;
    world.run(50_000);
    assert.equal(b.mesh.userData, "open");
    world.runUntil(() => b.mesh.userData === "held", 15_000);
    world.run(5100);
    assert.equal(b.mesh.userData, stale === "allow" ? "open" : "refused");
    world.run(300_000);
    assert.equal(b.mesh.userData, stale === "allow" ? "open" : "refused");
    b.wallOffsetMs = 86_400_000;
    world.run(1000);
    assert.equal(b.mesh.userData, stale === "allow" ? "open" : "refused", "the wall clock decides nothing");
    b.wallOffsetMs = 0;
    a.isHidden = false;
    b.isHidden = false;
    world.connect(a, b);
    world.runUntil(() => b.mesh.userData === "open", 10_000);
  }
});

test("a network of one is never held", () => {
  const world = new TestWorld(15);
  const [a] = world.network(1) as [TestNode];
  world.run(100_000);
  a.restart(world.now(a));
  assert.equal(a.mesh.userData, "open");
  world.run(200_000);
  assert.equal(a.mesh.userData, "open");
});

test("memberships under an invite with a life end by themselves", () => {
  const world = new TestWorld(16);
  const [a] = world.network(1) as [TestNode];
  const { token } = a.mesh.createInvite(world.now(a), { lifeMs: 60_000 });
  const node = world.add();
  node.mesh.startJoin(world.now(node), token, { name: "guest" });
  world.runUntil(() => node.joinResult !== undefined);
  assert.ok(a.mesh.find("guest") !== undefined);
  world.run(61_000);
  assert.equal(a.mesh.find("guest"), undefined);
  assert.equal(node.outputs("selfRemoved").length, 1);
});
