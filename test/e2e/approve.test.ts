/** Who may join is decided by people: approval, denial, ended invites, beacons that pass requests on, two admins at once; and what both sides see of it. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { MemberView, StatusView } from "../../src/api/control.ts";
import type { InviteInfoView, RequestView, RosterView } from "../../src/api/roster-control.ts";
import type { Host } from "../../lab/namespaces.ts";
import { WeftNode } from "../../lab/network.ts";
import { until } from "../../lab/process.ts";
import { routedHosts } from "../../lab/topologies.ts";
import { ping } from "../../lab/traffic.ts";
import { assertErrorLine, skip, withLab } from "./support.ts";

type Lab = Awaited<ReturnType<typeof routedHosts>>;

function nodesOf({ lab, hosts }: Lab): WeftNode[] {
  return hosts.map((host) => new WeftNode({ host, name: host.name, state: join(lab.folder, host.name) }));
}

async function members(node: WeftNode): Promise<MemberView[]> {
  return (await node.json<{ members: MemberView[] }>(["members"])).members;
}

function requests(node: WeftNode, count: number): Promise<RequestView[]> {
  return until(`${count} requests at ${node.name}`, 15_000, async () => {
    const found = (await node.json<{ requests: RequestView[] }>(["requests"])).requests;
    return found.length === count ? found : undefined;
  });
}

/** All have the same roster. */
async function agree(nodes: readonly WeftNode[]): Promise<void> {
  await until("one roster", 15_000, async () => {
    const prints = await Promise.all(nodes.map(async (node) => (await node.json<RosterView>(["roster"])).fingerprint));
    return new Set(prints).size === 1 ? true : undefined;
  });
}

test("approval, denial, an ended invite, and a name that the admin gives", { skip }, async (t) => {
  await withLab(
    () => routedHosts(["a", "b", "c"]),
    async (topology) => {
      const [a, b, c] = nodesOf(topology) as [WeftNode, WeftNode, WeftNode];
      await a.init("home");
      await a.up();
      await t.test("a node waits until it is approved, and both sides say so", async () => {
        const { token } = await a.invite(["--approve", "--tag", "guest", "--role", "router"]);
        const daemon = b.start(["--join", token, "--name", "laptop"]);
        await daemon.waitFor(/waits for an admin's approval.*weft approve laptop/, 15_000);
        const [request] = await requests(a, 1);
        assert.deepEqual(
          [request.name, request.waiting, request.via, request.tags, request.roles],
          ["laptop", true, null, ["guest"], ["router"]],
        );
        const { health } = await a.json<StatusView>(["status"]);
        assert.ok(health.some(({ code, text }) => code === "requests-waiting" && text.includes("laptop")));
        await a.daemon?.waitFor(/"laptop" \(w1\w{6}\) asks to join/, 1_000);
        assertErrorLine(await a.weft(["approve", "nobody"]), /no request by "nobody"/);
        await a.json(["approve", request.id.slice(0, 12), "--name", "kitchen"]);
        await daemon.waitFor(/^ready\b/, 15_000);
        const [self] = (await members(b)).filter((member) => member.self);
        assert.deepEqual([self?.name, self?.tags, self?.roles], ["kitchen", ["guest"], ["router"]]);
        await a.peer("kitchen");
        const echo = await ping(b.host, await a.address(4), { count: 5, intervalMs: 20 });
        assert.equal(echo.received, echo.sent);
        await requests(a, 0);
      });
      await t.test("a denied node ends with the reason, and so it does when it asks again", async () => {
        const { token } = await a.invite(["--approve", "--uses", "2"]);
        const daemon = c.start(["--join", token, "--name", "stranger"]);
        await requests(a, 1);
        await a.json(["deny", "stranger", "--reason", "not before Monday"]);
        assert.equal(await daemon.exited, 1);
        assert.match(daemon.tail(), /weft: .*denied.*not before Monday/);
        assertErrorLine(await c.weft(["up", "--join", token, "--name", "stranger"]), /denied.*not before Monday/);
        await c.join((await a.invite()).token);
        assert.equal((await members(a)).length, 3);
      });
      await t.test("invites are listed and ended; an ended one admits nobody and says why", async () => {
        const invite = await a.invite(["--expires", "2h"]);
        const list = async (): Promise<InviteInfoView[]> =>
          (await a.json<{ invites: InviteInfoView[] }>(["invite", "--list"])).invites;
        assert.equal((await list()).find(({ id }) => id === invite.id)?.state, "live");
        await a.json(["invite", "--end", invite.id.slice(0, 6)]);
        assert.equal((await list()).find(({ id }) => id === invite.id)?.state, "revoked");
        const late = new WeftNode({ host: c.host, name: "late", state: join(topology.lab.folder, "late") });
        const result = await late.weft(["up", "--join", invite.token, "--listen", "0.0.0.0:9440", "--no-tun"]);
        assertErrorLine(result, /invite was revoked/);
        assertErrorLine(await b.weft(["invite", "--end", invite.id]), /only an admin/);
        assertErrorLine(await a.weft(["invite", "--end", "00000000"]), /no invite has the id/);
      });
      await t.test("name, roles, tags and expiry change from the command line, and a clash is visible", async () => {
        await a.json(["members", "set", "c", "--name", "kitchen", "--tag", "x", "--role", "beacon", "--expires", "7d"]);
        await agree([a, b, c]);
        const changed = (await members(b)).find((member) => member.requestedName === "kitchen" && !member.self);
        assert.deepEqual([changed?.name, changed?.tags, changed?.roles], ["kitchen-2", ["x"], ["beacon"]]);
        assert.ok(typeof changed?.expiresAt === "string");
        const { health } = await c.json<StatusView>(["status"]);
        assert.ok(health.some(({ code, text }) => code === "name-clash" && text.includes("kitchen-2")));
        assertErrorLine(await b.weft(["members", "set", "a", "--tag", "y"]), /only an admin/);
        assertErrorLine(await a.weft(["members", "set", "a", "--role", "member"]), /only admin/);
      });
      await t.test("the roster goes out as text and comes in again, and a cut file is refused", async () => {
        const file = join(topology.lab.folder, "home.roster");
        await a.json(["roster", "export", file]);
        assert.match(readFileSync(file, "utf8"), /^weft roster 1\nnetwork [0-9a-f]{64}\nstatement /);
        const same = await b.json<{ added: number; known: number }>(["roster", "import", file]);
        assert.equal(same.added, 0);
        assert.ok(same.known > 5);
        writeFileSync(file, readFileSync(file, "utf8").slice(0, -40));
        assertErrorLine(await b.weft(["roster", "import", file]), /no whole roster/);
        const policy = await a.json<{ stale: string; version: number }>(["roster", "policy", "--stale", "refuse"]);
        assert.deepEqual(policy, { version: 1, stale: "refuse" });
        await agree([a, b, c]);
        const { network } = await c.json<StatusView>(["status"]);
        assert.deepEqual([network.stale, network.userData], ["refuse", "open"]);
        assert.ok(network.rosterAgeMs !== null);
      });
    },
  );
});

test("two nodes that want one name join at two admins at once, and all agree who is who", { skip }, async () => {
  await withLab(
    () => routedHosts(["a", "b", "c", "d"]),
    async (topology) => {
      const [a, b, c, d] = nodesOf(topology) as [WeftNode, WeftNode, WeftNode, WeftNode];
      await a.init("home");
      await a.up();
      await b.join((await a.invite(["--role", "admin"])).token);
      await a.peer("b");
      const [first, second] = [(await a.invite()).token, (await b.invite()).token];
      await Promise.all([c.join(first, ["--name", "twin"]), d.join(second, ["--name", "twin"])]);
      await agree([a, b, c, d]);
      const views = await Promise.all([a, b, c, d].map((node) => members(node)));
      for (const view of views) {
        assert.deepEqual(view.map((member) => member.name).toSorted(), ["a", "b", "twin", "twin-2"]);
        assert.deepEqual(
          view.map((member) => [member.id, member.addresses]),
          views[0].map((member) => [member.id, member.addresses]),
        );
      }
      const addresses = views[0].flatMap((member) => member.addresses);
      assert.equal(new Set(addresses).size, addresses.length);
      await until("a checkpoint by both admins", 30_000, async () =>
        (await c.json<RosterView>(["roster"])).checkpointAt === null ? undefined : true,
      );
    },
  );
});

test(
  "a node joins through a beacon to an admin that it cannot reach; without an admin it says what is missing",
  { skip },
  async () => {
    await withLab(
      () => routedHosts(["a", "b", "c"]),
      async (topology) => {
        const [a, b, c] = nodesOf(topology) as [WeftNode, WeftNode, WeftNode];
        await a.init("home");
        await a.up();
        await b.join((await a.invite(["--role", "beacon"])).token);
        await a.peer("b");
        await cutOff(a.host, c.host);
        const { token } = await a.invite(["--approve", "--uses", "2"]);
        const daemon = c.start(["--join", token, "--name", "c"]);
        const [request] = await requests(a, 1);
        assert.equal(request.via, "b");
        await a.json(["approve", "c"]);
        await daemon.waitFor(/^ready\b/, 20_000);
        await agree([a, b, c]);
        assert.deepEqual(
          (await members(a)).map((member) => member.name),
          ["a", "b", "c"],
        );
        await c.peer("b");
        await a.stop();
        const late = new WeftNode({ host: c.host, name: "late", state: join(topology.lab.folder, "late") });
        const waiting = late.start(["--join", token, "--listen", "0.0.0.0:9440", "--no-tun", "--name", "late"]);
        await waiting.waitFor(/the beacon is connected to no admin/, 15_000);
        await a.up();
        await requests(a, 1);
        await a.json(["approve", "late"]);
        await waiting.waitFor(/^ready\b/, 20_000);
        await waiting.stop("SIGKILL");
      },
    );
  },
);

/** Nothing of `to` reaches `host` any more. */
async function cutOff(host: Host, to: Host): Promise<void> {
  const rules = [
    "add table inet cut",
    "add chain inet cut input { type filter hook input priority 0; }",
    `add rule inet cut input ip saddr ${to.address4} drop`,
    `add rule inet cut input ip6 saddr ${to.address6} drop`,
    "add chain inet cut output { type filter hook output priority 0; }",
    `add rule inet cut output ip daddr ${to.address4} drop`,
    `add rule inet cut output ip6 daddr ${to.address6} drop`,
  ];
  for (const rule of rules) {
    const result = await host.exec("nft", [rule]);
    assert.equal(result.code, 0, result.stderr);
  }
}
