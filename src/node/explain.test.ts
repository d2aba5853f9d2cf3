import assert from "node:assert/strict";
import { test } from "node:test";
import { endpointToBytes, parseAddress, virtualEndpoint, VirtualType } from "../base/endpoint.ts";
import type { PlanePath } from "../dataplane/messages.ts";
import { Mapping } from "../mesh/punch/messages.ts";
import type { PunchReport } from "../mesh/punch/puncher.ts";
import { type Evidence, explain } from "./explain.ts";

const address = endpointToBytes({ address: "203.0.113.9", port: 9338 });
const relay = virtualEndpoint(VirtualType.LABEL, 1, 7);

const path = (endpoint: Uint8Array, more: Partial<PlanePath> = {}): PlanePath => ({
  endpoint,
  local: new Uint8Array(16),
  socket: 0,
  active: false,
  duplicate: false,
  state: 2,
  reason: "answered",
  rttMs: 12,
  lossRatio: 0,
  mtuBytes: 1500,
  lastReceivedAgoMs: 5,
  ...more,
});

const evidence = (more: Partial<Evidence>): Evidence => ({
  peer: { id: "w1", name: "nas" },
  established: true,
  online: true,
  lastError: null,
  path: { kind: "direct", endpoint: "203.0.113.9:9338", via: null },
  paths: [path(address, { active: true })],
  candidates: [address],
  through: [],
  punch: undefined,
  ...more,
});

const bothHard: PunchReport = {
  state: "resting",
  attempts: 2,
  ownMapping: Mapping.PORT_DEPENDENT,
  peerMapping: Mapping.ADDRESS_DEPENDENT,
  peerEndpoints: [address],
  seenAt: [address],
  tried: ["plain"],
  nextAttemptInMs: 20_000,
  verdict: { code: "both-hard", text: "both NATs are hard", remedy: "forward a port" },
};

test("a direct path needs no more words", () => {
  const view = explain(evidence({}));
  assert.deepEqual(view.verdict, { code: "direct", text: "the path is direct", remedy: "" });
  assert.deepEqual(view.paths[0].via, []);
  assert.equal(view.paths[0].endpoint, "203.0.113.9:9338");
});

test("a relayed path names the relay, its state, and why it is not direct", () => {
  const view = explain(
    evidence({
      path: { kind: "relay", endpoint: null, via: "hub" },
      paths: [path(address, { state: 3, reason: "unanswered", rttMs: -1 }), path(relay, { active: true })],
      through: [{ id: 7, kind: "relay", via: ["hub"], state: "up", reason: "" }],
      punch: bothHard,
    }),
  );
  assert.equal(view.verdict.code, "both-hard");
  assert.match(view.verdict.text, /^data goes through hub: both NATs are hard$/);
  assert.deepEqual(view.paths[1].via, ["hub"]);
  assert.equal(view.paths[1].kind, "relay");
  assert.equal(view.paths[1].endpoint, null);
  assert.equal(view.paths[0].state, "dead");
  assert.equal(view.paths[0].rttMs, null);
  assert.equal(view.punching?.ownNat, "address-and-port-dependent");
});

test("a peer that nobody can reach: what is missing, and what to do", () => {
  const none = { kind: "none", endpoint: null, via: null } as const;
  const lost = explain(evidence({ path: none, online: false, established: false, paths: [], candidates: [] }));
  assert.equal(lost.verdict.code, "no-address");
  assert.match(lost.verdict.remedy, /--endpoint/);
  const silent = explain(evidence({ path: none, online: false, lastError: "no answer for 90 s" }));
  assert.equal(silent.verdict.code, "unreachable");
  assert.match(silent.verdict.text, /no answer for 90 s/);
});

test("two paths to one address differ by where they leave from: own address, or socket of hole punching", () => {
  const local = parseAddress("192.168.1.10") as Uint8Array;
  const { paths } = explain(
    evidence({
      paths: [path(address, { local }), path(address), path(address, { local, socket: 3 }), path(relay, { local })],
    }),
  );
  assert.deepEqual(
    paths.map((one) => one.local),
    ["192.168.1.10", null, "192.168.1.10#3", null],
  );
});
