/**
 * Networks that block UDP: channels over WebSocket through the real nginx with TLS, in a namespace of its own.
 *
 *   a (UDP blocked) ──┐
 *   b ────────────────┤ router ── proxy (nginx, TLS) … admin (serves channels on TCP in the clear, for the proxy only)
 *   admin ────────────┘
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Host } from "../../lab/namespaces.ts";
import { WeftNode } from "../../lab/network.ts";
import { type Daemon, sleep, until } from "../../lab/process.ts";
import { ensureTools } from "../../lab/tools.ts";
import { routedHosts } from "../../lab/topologies.ts";
import { iperf, ping } from "../../lab/traffic.ts";
import { decodeToken } from "../../src/mesh/invite.ts";
import { UNDERLAY_MARK } from "../../src/node/exit.ts";
import { makeCertificates } from "../support/certificates.ts";
import { assertConservation, skip, sum, withLab } from "./support.ts";

const CHANNEL = /^channel#\d+$/;
const BLOCK = `
table inet block {
  chain out { type filter hook output priority filter; policy accept; meta l4proto udp drop; }
  chain in { type filter hook input priority filter; policy accept; meta l4proto udp drop; }
}
`;

/** The configuration of a reverse proxy as docs/guide.md gives it; only paths and addresses are the test's. */
function nginxConf(folder: string, address: string, upstream: string, certificate: string, key: string): string {
  return `
daemon off;
pid ${folder}/nginx.pid;
error_log stderr notice;
user root;
worker_processes 1;
events { worker_connections 256; }
http {
  access_log ${folder}/access.log;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
  server {
    listen ${address}:443 ssl;
    ssl_certificate ${certificate};
    ssl_certificate_key ${key};
    location /weft {
      proxy_pass http://${upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_read_timeout 90s;
      proxy_send_timeout 90s;
    }
    location / { return 404; }
  }
}
`;
}

async function startNginx(host: Host, folder: string, configuration: string): Promise<Daemon> {
  const file = join(folder, "nginx.conf");
  writeFileSync(file, configuration);
  const nginx = host.spawn("nginx", ["-e", "stderr", "-p", folder, "-c", file], { name: "nginx" });
  await nginx.waitFor(/start worker process \d+/, 10_000);
  return nginx;
}

interface World {
  readonly admin: WeftNode;
  readonly a: WeftNode;
  readonly b: WeftNode;
  readonly proxy: Host;
  readonly router: Host;
  /** The router's port to a. */
  readonly portOfA: string;
  /** Holds nginx's access.log. */
  readonly folder: string;
  nginx: Daemon;
  restartNginx(): Promise<void>;
}

/** The admin is up, it or b serves channels behind nginx; a's UDP is blocked; nobody has joined yet. */
async function withProxy(body: (world: World) => Promise<void>, serving: "admin" | "b" = "admin"): Promise<void> {
  await ensureTools(["ip", "nft", "ping", "iperf3", "nginx", "openssl"]);
  await withLab(
    () => routedHosts(["admin", "a", "b", "proxy"]),
    async ({ lab, hosts, router, links }) => {
      const [admin, a, b, proxy] = hosts;
      const folder = join(lab.folder, "nginx");
      mkdirSync(folder);
      const certificates = makeCertificates(folder, [`IP:${proxy.address4}`]);
      const configuration = nginxConf(
        folder,
        proxy.address4,
        `${(serving === "admin" ? admin : b).address4}:9339`,
        certificates.certificate,
        certificates.key,
      );
      const node = (host: Host, toml: string): WeftNode => {
        const state = join(lab.folder, `state-${host.name}`);
        mkdirSync(state, { mode: 0o700 });
        writeFileSync(join(state, "weft.toml"), toml, { mode: 0o600 });
        return new WeftNode({ host, name: host.name, state, upArgs: ["--log", "debug"] });
      };
      const trusts = `[websocket]\nca = "${certificates.authority}"\n`;
      const serves = (host: Host): string =>
        `relay = true\nendpoints = ["wss://${proxy.address4}/weft"]\n[websocket]\nlisten = "${host.address4}:9339"\ntrusted_proxies = ["${proxy.address4}"]\n`;
      const world: World = {
        admin: node(admin, serving === "admin" ? serves(admin) : ""),
        a: node(a, trusts),
        b: node(b, serving === "b" ? serves(b) : trusts),
        proxy,
        router,
        portOfA: links[1].b.device,
        folder,
        nginx: await startNginx(proxy, folder, configuration),
        async restartNginx() {
          await world.nginx.stop();
          world.nginx = await startNginx(proxy, folder, configuration);
        },
      };
      const nodes = [world.admin, world.a, world.b];
      lab.onClose(async () => {
        await Promise.all(nodes.map((one) => one.stop()));
        await world.nginx.stop();
      });
      await a.nft(BLOCK);
      await world.admin.init("lab");
      await world.admin.up();
      try {
        await body(world);
      } catch (error) {
        if (error instanceof Error) {
          const logs = nodes.map((one) => one.daemon?.tail(60) ?? "").join("\n");
          error.message += `\n--- logs\n${logs}\n${world.nginx.tail()}`;
        }
        throw error;
      }
    },
  );
}

async function throughChannel(from: WeftNode, to: WeftNode, timeoutMs = 15_000): Promise<void> {
  await from.peer(to.name, timeoutMs, (peer) => peer.online && CHANNEL.test(peer.path.endpoint ?? ""));
  await to.peer(from.name, timeoutMs, (peer) => peer.online && CHANNEL.test(peer.path.endpoint ?? ""));
}

async function openedBySelf(node: WeftNode): Promise<number> {
  return sum(await node.metrics(), "weft_channels", 'opened_by="self"');
}

test("with UDP blocked a node joins, pings and transfers over nginx with TLS", { skip }, async (t) => {
  await withProxy(async ({ admin, a, proxy, folder }) => {
    // no route of the overlay may ever swallow the underlay: not one packet of the channel goes out unmarked
    await a.host.nft(`
table inet marks {
  counter marked {}
  counter bare {}
  chain out {
    type filter hook output priority -10; policy accept;
    tcp dport 443 meta mark ${UNDERLAY_MARK} counter name marked
    tcp dport 443 meta mark != ${UNDERLAY_MARK} counter name bare
  }
}
`);
    const { token } = await admin.invite();
    await a.join(token);
    await throughChannel(a, admin);
    for (const family of [4, 6] as const) {
      const echo = await ping(a.host, await admin.address(family), { count: 20, intervalMs: 20 });
      assert.equal(echo.received, 20, `IPv${family}`);
      const back = await ping(admin.host, await a.address(family), { count: 20, intervalMs: 20 });
      assert.equal(back.received, 20, `IPv${family}, from the admin`);
    }
    const large = await ping(a.host, await admin.address(4), { count: 5, intervalMs: 50, bytes: 4_000 });
    assert.equal(large.received, 5, "4,000 bytes");
    const counters = await a.host.must("nft", ["list", "counters", "table", "inet", "marks"]);
    assert.match(counters, /counter marked \{\s*packets [1-9]/);
    assert.match(counters, /counter bare \{\s*packets 0 /);
    const flow = await iperf(a.host, admin.host, await admin.address(4), { seconds: 3 });
    t.diagnostic(`TCP through the channel: ${Math.round(flow.bitsPerSecond / 1e6)} Mbit/s`);
    assert.ok(flow.bitsPerSecond > 1e6);
    const peer = await a.peer("admin", 5_000, (one) => one.online);
    assert.equal(peer.hybrid, true);
    assert.deepEqual([peer.path.kind, peer.path.via], ["relay", proxy.address4]);
    const access = readFileSync(join(folder, "access.log"), "utf8");
    assert.doesNotMatch(access, /HTTP\/1\.1" (?!101)/, "nothing but upgrades");
    assert.equal(sum(await admin.metrics(), "weft_channels", 'opened_by="other"'), 1);
    assert.equal(await openedBySelf(a), 1);
    for (const node of [admin, a]) await assertConservation(node);
  });
});

/** A TCP flow that goes on until it is told to end. */
class Flow {
  readonly #server: Daemon;
  readonly #client: Daemon;

  private constructor(server: Daemon, client: Daemon) {
    this.#server = server;
    this.#client = client;
  }

  /** From `from` to `to`, so that the lines of the client show what arrived. */
  static async start(from: Host, to: Host, address: string): Promise<Flow> {
    const server = from.spawn("iperf3", ["-s", "-1", "-B", address, "--forceflush"], { name: `${from.name}:iperf3` });
    await server.waitFor(/listening/i, 10_000);
    const args = ["-c", address, "-t", "300", "-i", "0.5", "-b", "5M", "-R", "-f", "k", "--forceflush"];
    const client = to.spawn("iperf3", args, { name: `${to.name}:iperf3` });
    await client.waitFor(/0\.50 +sec/, 10_000);
    return new Flow(server, client);
  }

  /** @returns kbit/s of every half second so far */
  rates(): number[] {
    return this.#client.lines.flatMap((line) => {
      const rate = /sec +[\d.]+ KBytes +([\d.]+) Kbits\/sec/.exec(line)?.[1];
      return rate === undefined ? [] : [Number(rate)];
    });
  }

  /** The longest time without a byte, in half seconds. */
  longestGap(): number {
    let gap = 0;
    let longest = 0;
    for (const rate of this.rates()) {
      gap = rate === 0 ? gap + 1 : 0;
      longest = Math.max(longest, gap);
    }
    return longest;
  }

  get isAlive(): boolean {
    return this.#client.exitCode === undefined && this.#server.exitCode === undefined;
  }

  async stop(): Promise<void> {
    await this.#client.stop("SIGINT");
    await this.#server.stop("SIGKILL");
  }
}

test(
  "UDP opens: traffic moves to the direct path under a TCP connection, and the channel closes; UDP is blocked again: it comes back",
  { skip },
  async (t) => {
    await withProxy(async ({ admin, a }) => {
      let beganMs = 0;
      const since = (what: string): void => t.diagnostic(`${what}: ${Math.round(performance.now() - beganMs)} ms`);
      await a.join((await admin.invite()).token);
      await throughChannel(a, admin);
      const flow = await Flow.start(admin.host, a.host, await admin.address(4));
      await sleep(2_000);
      await a.host.nft("delete table inet block");
      beganMs = performance.now();
      await a.peer("admin", 60_000);
      await admin.peer("a", 60_000);
      since("UDP opens, until both send directly");
      await sleep(1_000);
      assert.equal(flow.longestGap(), 0, "half seconds without a byte while traffic moved");
      await until("the channel is closed", 20_000, async () => ((await openedBySelf(a)) === 0 ? true : undefined));
      await sleep(1_000);
      assert.ok(flow.isAlive);
      assert.equal(flow.longestGap(), 0);
      await a.host.nft(BLOCK);
      beganMs = performance.now();
      await throughChannel(a, admin, 30_000);
      since("UDP is blocked, until both send through the channel");
      await sleep(3_000);
      assert.ok(flow.isAlive, "the same TCP connection goes on");
      assert.ok((flow.rates().at(-1) ?? 0) > 0);
      await flow.stop();
    });
  },
);

test("a channel that breaks, and a proxy that restarts: the way is there again by itself", { skip }, async () => {
  await withProxy(async (world) => {
    const { admin, a, router, portOfA } = world;
    // a firewall in the network this time, which says nothing, instead of one on the host
    await router.nft(
      `table inet block { chain forward { type filter hook forward priority filter; iifname "${portOfA}" meta l4proto udp drop; }\n}\n`,
    );
    await a.host.nft("delete table inet block");
    await a.join((await admin.invite()).token);
    await throughChannel(a, admin);
    await world.restartNginx();
    await until("the channel is open again", 20_000, async () => ((await openedBySelf(a)) === 1 ? true : undefined));
    await throughChannel(a, admin, 20_000);
    const echo = await ping(a.host, await admin.address(4), { count: 20, intervalMs: 20 });
    assert.equal(echo.received, 20);
  });
});

test("two members meet through the node that serves the channel when one of them has no UDP", { skip }, async () => {
  await withProxy(async ({ admin, a, b }) => {
    await a.join((await admin.invite()).token);
    await b.join((await admin.invite()).token);
    await throughChannel(a, admin);
    const address = await b.address(4);
    await until("a reaches b", 15_000, async () =>
      (await ping(a.host, address, { count: 3, intervalMs: 50, graceMs: 500 })).received === 3 ? true : undefined,
    );
    const peer = await a.peer("b", 10_000, (one) => one.online);
    assert.notEqual(peer.path.kind, "direct");
  });
});

test("without UDP a node joins through a beacon's channel, and the beacon relays to the admin", { skip }, async () => {
  await withProxy(async ({ admin, a, b }) => {
    await b.join((await admin.invite(["--role", "beacon"])).token);
    await b.peer("admin", 10_000);
    const { token } = await until("the admin knows the beacon's URL", 10_000, async () => {
      const invite = await admin.invite();
      return (decodeToken(invite.token).admins.at(-1)?.urls?.length ?? 0) > 0 ? invite : undefined;
    });
    await a.join(token);
    await throughChannel(a, b);
    const address = await admin.address(4);
    await until("a reaches the admin", 15_000, async () =>
      (await ping(a.host, address, { count: 3, intervalMs: 50, graceMs: 500 })).received === 3 ? true : undefined,
    );
    const peer = await a.peer("admin", 10_000, (one) => one.online);
    assert.equal(peer.path.kind, "relay");
    assert.equal(peer.path.via, "b");
  }, "b");
});

test(
  "a server whose certificate nobody vouches for is not talked to, and the log says what to do",
  { skip },
  async () => {
    await withProxy(async ({ admin, a }) => {
      const { token } = await admin.invite();
      writeFileSync(join(a.state, "weft.toml"), "");
      const joining = a.start(["--join", token, "--name", "a"]);
      const line = await joining.waitFor(/channel to .*certificate/, 15_000);
      assert.match(line, /`ca` of \[websocket\]/);
      await joining.stop();
      a.daemon = undefined;
    });
  },
);
