/**
 * Client of the WireGuard cross-platform userspace API: one text request over the unix socket of an interface, one text answer.
 * Source: https://www.wireguard.com/xplatform/. Spoken by wireguard-go and boringtun.
 */
import { connect } from "node:net";
import { generateKeyPairSync } from "node:crypto";

export const UAPI_FOLDER = "/var/run/wireguard";

/** 32-byte X25519 keys as lowercase hexadecimal, the form of this API. */
export interface HexKeyPair {
  readonly privateKey: string;
  readonly publicKey: string;
}

export function generateKeys(): HexKeyPair {
  const jwk = generateKeyPairSync("x25519").privateKey.export({ format: "jwk" });
  const hex = (text: string | undefined): string => Buffer.from(text ?? "", "base64url").toString("hex");
  return { privateKey: hex(jwk.d), publicKey: hex(jwk.x) };
}

export interface UapiPeer {
  readonly publicKey: string;
  /** ADDRESS:PORT */
  readonly endpoint: string;
  /** CIDRs */
  readonly allowedIps: readonly string[];
}

export function uapiPath(device: string): string {
  return `${UAPI_FOLDER}/${device}.sock`;
}

/** Sends one request and resolves with the lines of the answer. Rejects when errno is not 0 or after `timeoutMs`. */
export function uapiRequest(device: string, lines: readonly string[], timeoutMs = 5_000): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const socket = connect(uapiPath(device));
    let answer = "";
    const fail = (why: string): void => {
      socket.destroy();
      reject(new Error(`${uapiPath(device)}: ${why}`));
    };
    socket.setTimeout(timeoutMs, () => fail(`no answer within ${timeoutMs} ms`));
    socket.once("error", (error) => fail(error.message));
    socket.once("connect", () => socket.write(`${lines.join("\n")}\n\n`));
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => {
      answer += chunk;
      if (!answer.includes("\n\n")) return;
      socket.destroy();
      const result = answer.trimEnd().split("\n");
      const errno = result.find((line) => line.startsWith("errno="))?.slice("errno=".length);
      if (errno === "0") resolve(result);
      else reject(new Error(`${uapiPath(device)}: refused with errno ${errno ?? "missing"}`));
    });
    socket.once("close", () => reject(new Error(`${uapiPath(device)}: closed without an answer`)));
  });
}

/** Sets key, port and exactly these peers. */
export async function configure(
  device: string,
  privateKey: string,
  listenPort: number,
  peers: readonly UapiPeer[],
): Promise<void> {
  const lines = ["set=1", `private_key=${privateKey}`, `listen_port=${listenPort}`, "replace_peers=true"];
  for (const peer of peers) {
    lines.push(`public_key=${peer.publicKey}`, `endpoint=${peer.endpoint}`, "replace_allowed_ips=true");
    for (const prefix of peer.allowedIps) lines.push(`allowed_ip=${prefix}`);
  }
  await uapiRequest(device, lines);
}
