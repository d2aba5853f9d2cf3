import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { WeftError } from "../base/errors.ts";
import {
  defaultNodeName,
  isNodeName,
  loadConfig,
  nearest,
  parseConfig,
  parseHostPort,
  parseListen,
  parsePsk,
} from "./config.ts";

function refusal(source: string): { message: string; remedy: string } {
  try {
    parseConfig(source, "/x/weft.toml");
  } catch (error) {
    assert.ok(error instanceof WeftError, String(error));
    assert.equal(error.code, "CONFIG_INVALID");
    assert.doesNotMatch(`${error.message} ${error.remedy}`, /\n/);
    return { message: error.message, remedy: error.remedy };
  }
  throw new assert.AssertionError({ message: `accepted: ${source}` });
}

test("an unknown key names the file, the key and the nearest valid one", () => {
  assert.deepEqual(refusal('nmae = "x"'), {
    message: '/x/weft.toml: unknown key "nmae"',
    remedy: 'did you mean "name"? Otherwise remove it',
  });
  assert.deepEqual(refusal('[log]\nlvl = "info"'), {
    message: '/x/weft.toml: unknown key "log.lvl"',
    remedy: 'did you mean "log.level"? Otherwise remove it',
  });
  assert.match(refusal("frobnicate = 1").remedy, /known keys: name, listen/);
});

test("a wrong value names the key, the value and what would be right", () => {
  const cases: [string, RegExp][] = [
    ['name = "Big Box"', /name = "Big Box" must be 1–63 of a–z/],
    ["mtu = 900", /mtu = 900 must be a whole number of bytes .* from 1280 to 9216/],
    ["gso = 1", /gso = 1 must be true or false/],
    ['listen = ["1.2.3.4"]', /listen\.0 = "1\.2\.3\.4" must be an address and port/],
    ['listen = "0.0.0.0:1"', /listen = "0\.0\.0\.0:1" must be a list/],
    ['endpoints = ["host:0"]', /endpoints\.0 = "host:0" must be HOST:PORT/],
    ['endpoints = ["wss://user@host/"]', /endpoints\.0 = "wss:\/\/user@host\/" must be HOST:PORT/],
    ['relay = "yes"', /relay = "yes" must be true or false/],
    ['[websocket]\nlisten = "9339"', /websocket\.listen = "9339" must be an address and port/],
    ['[websocket]\nurl = "https://host/"', /websocket\.url = "https:\/\/host\/" must be a URL/],
    ['[websocket]\nca = "ca.pem"', /websocket\.ca = "ca\.pem" must be an absolute path/],
    ['[websocket]\ntrusted_proxies = ["proxy"]', /trusted_proxies\.0 = "proxy" must be an address or prefix/],
    ["[websocket]\nport = 1", /unknown key "websocket\.port"/],
    ['pq = "never"', /pq = "never" must be "require" or "prefer"/],
    ['tun = "a-name-that-is-too-long"', /tun = "a-name-that-is-too-long" must be an interface name/],
    ["max_peers = 0", /max_peers = 0 must be a whole number of peers from 1/],
    ['log = "info"', /log = "info" must be a table/],
  ];
  for (const [source, expected] of cases) assert.match(refusal(source).message, expected);
});

test("a wrong pre-shared key is named but never printed", () => {
  const { message } = refusal('[psk]\nnas = "secretsecret"');
  assert.match(message, /psk\.nas must be 32 bytes/);
  assert.doesNotMatch(message, /secretsecret/);
});

test("broken TOML is reported with its line", () => {
  assert.match(refusal('name = "a"\nlisten = [').message, /^\/x\/weft\.toml:2:\d+: not valid TOML/);
});

test("any text is either a configuration or one clear refusal", () => {
  fc.assert(
    fc.property(fc.string(), (source) => {
      try {
        parseConfig(source, "f");
      } catch (error) {
        assert.ok(error instanceof WeftError, String(error));
      }
    }),
  );
});

test("options win over the file and the file over the defaults", () => {
  const directory = mkdtempSync(join(tmpdir(), "weft-config-"));
  try {
    assert.equal(loadConfig(directory).tun, "weft%d");
    assert.equal(loadConfig(directory).pq, "require");
    writeFileSync(
      join(directory, "weft.toml"),
      `name = "box"\ntun = "w0"\npq = "prefer"\n[psk]\nnas = "${"ab".repeat(32)}"\n`,
      { mode: 0o644 },
    );
    assert.throws(() => loadConfig(directory), { code: "CONFIG_INVALID", message: /others may read it/ });
    chmodSync(join(directory, "weft.toml"), 0o600);
    const fromFile = loadConfig(directory);
    assert.equal(fromFile.name, "box");
    assert.equal(fromFile.tun, "w0");
    assert.equal(fromFile.pq, "prefer");
    assert.equal(fromFile.psk.get("nas")?.length, 32);
    const overridden = loadConfig(directory, { name: "other", tun: false, listen: ["127.0.0.1:0"] });
    assert.equal(overridden.name, "other");
    assert.equal(overridden.tun, undefined);
    assert.deepEqual(overridden.listen, [{ address: "127.0.0.1", port: 0 }]);
    assert.throws(() => loadConfig(directory, { listen: ["nowhere"] }), { code: "USAGE" });
    assert.throws(() => loadConfig(directory, { endpoints: ["nowhere"] }), { code: "USAGE" });
    assert.throws(() => loadConfig(directory, { endpoints: ["wss://user@host/"] }), { code: "USAGE", message: /URL/ });
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("a URL among the endpoints is one for channels, as is one of [websocket]; at most two count", () => {
  const directory = mkdtempSync(join(tmpdir(), "weft-config-"));
  try {
    const defaults = loadConfig(directory);
    assert.deepEqual(defaults.websocket, {
      listen: undefined,
      urls: [],
      connect: true,
      caFile: undefined,
      trustedProxies: ["127.0.0.0/8", "::1"],
    });
    assert.equal(defaults.relay, false);
    writeFileSync(
      join(directory, "weft.toml"),
      `endpoints = ["vpn.example.org:9338", "wss://a.example.org/"]
relay = true
[websocket]
listen = "127.0.0.1:9339"
url = ["wss://b.example.org/", "wss://c.example.org/"]
connect = false
ca = "/etc/ssl/own.pem"
trusted_proxies = ["10.0.0.0/8"]
`,
    );
    const config = loadConfig(directory);
    assert.deepEqual(config.endpoints, ["vpn.example.org:9338"]);
    assert.equal(config.relay, true);
    assert.deepEqual(config.websocket, {
      listen: { address: "127.0.0.1", port: 9339 },
      urls: ["wss://a.example.org/", "wss://b.example.org/"],
      connect: false,
      caFile: "/etc/ssl/own.pem",
      trustedProxies: ["10.0.0.0/8"],
    });
    const given = loadConfig(directory, { endpoints: ["wss://d.example.org/", "192.0.2.1:1"] });
    assert.deepEqual(given.endpoints, ["192.0.2.1:1"]);
    assert.deepEqual(given.websocket.urls, ["wss://d.example.org/", "wss://b.example.org/"]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("addresses, hosts and keys are taken in their documented forms only", () => {
  assert.deepEqual(parseListen("[::]:0"), { address: "::", port: 0 });
  assert.deepEqual(parseListen("0.0.0.0:9338"), { address: "0.0.0.0", port: 9338 });
  assert.equal(parseListen("example.org:1"), undefined);
  assert.equal(parseListen("1.2.3.4:70000"), undefined);
  assert.deepEqual(parseHostPort("vpn.example.org:9338"), { host: "vpn.example.org", port: 9338 });
  assert.deepEqual(parseHostPort("[2001:db8::1]:9338"), { host: "2001:db8::1", port: 9338 });
  assert.equal(parseHostPort("2001:db8::1:9338"), undefined);
  assert.equal(parseHostPort("[nonsense]:1"), undefined);
  assert.equal(parsePsk(Buffer.alloc(32, 7).toString("base64"))?.[31], 7);
  assert.equal(parsePsk("zz".repeat(32)), undefined);
  assert.equal(parsePsk(""), undefined);
});

test("the default name is always a valid one", () => {
  fc.assert(fc.property(fc.string(), (hostname) => isNodeName(defaultNodeName(hostname))));
  assert.equal(defaultNodeName("My Laptop.local"), "my-laptop");
});

test("the nearest key is near", () => {
  assert.equal(nearest("listn", ["listen", "name"]), "listen");
  assert.equal(nearest("qqqqqqq", ["listen", "name"]), undefined);
});

test("who may send through this node, and how much, is up to its file", () => {
  const directory = mkdtempSync(join(tmpdir(), "weft-config-"));
  const load = (toml: string): ReturnType<typeof loadConfig> => {
    writeFileSync(join(directory, "weft.toml"), toml);
    return loadConfig(directory);
  };
  try {
    const defaults = load("");
    assert.equal(defaults.transit, undefined);
    assert.equal(defaults.forwardBytesPerSecond, 50_000_000);
    assert.equal(load("transit = true").transit, undefined);
    assert.deepEqual(load("transit = false").transit, []);
    const limited = load('transit = ["nas", "box"]\nforward_mbps = 8');
    assert.deepEqual(limited.transit, ["nas", "box"]);
    assert.equal(limited.forwardBytesPerSecond, 1_000_000);
    assert.equal(load("forward_mbps = 0").forwardBytesPerSecond, 0);
    assert.throws(() => load('transit = "nas"'), /transit/);
    assert.throws(() => load("forward_mbps = -1"), /forward_mbps/);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("routes that are an exit in pieces are refused", () => {
  for (const prefix of ["128.0.0.0/1", "2000::/3", "0.0.0.0/0"])
    assert.match(refusal(`routes = ["${prefix}"]`).message, /routes/, prefix);
  assert.deepEqual(parseConfig('routes = ["10.0.0.0/8", "fd00::/16"]', "/x/weft.toml").routes, [
    "10.0.0.0/8",
    "fd00::/16",
  ]);
});
