/**
 * A file over HTTP for demo and tests, both ends as one small program to be run in a lab host:
 *
 *   bin/weft-node lab/file-transfer.ts serve FILE ADDRESS PORT     prints "serving", then answers every request with the file
 *   bin/weft-node lab/file-transfer.ts get URL                     prints {"bytes", "sha256", "ms"} as JSON
 */
import { createHash } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { createServer, get } from "node:http";
import { pipeline } from "node:stream/promises";

function serve(file: string, address: string, port: number): void {
  const server = createServer((_, response) => {
    response.setHeader("content-length", statSync(file).size);
    pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), response).catch(() => response.destroy());
  });
  server.listen(port, address, () => void process.stdout.write("serving\n"));
}

function fetchFile(url: string): void {
  const began = performance.now();
  const hash = createHash("sha256");
  let bytes = 0;
  const fail = (error: Error): void => {
    process.stderr.write(`${url}: ${error.message}\n`);
    process.exitCode = 1;
  };
  const request = get(url, { timeout: 10_000 }, (response) => {
    response.on("data", (chunk: Buffer) => {
      hash.update(chunk);
      bytes += chunk.length;
    });
    response.on("error", fail);
    response.on("end", () => {
      process.stdout.write(`${JSON.stringify({ bytes, sha256: hash.digest("hex"), ms: performance.now() - began })}\n`);
    });
  });
  request.on("timeout", () => request.destroy(new Error("no byte for 10 s")));
  request.on("error", fail);
}

const [mode, ...rest] = process.argv.slice(2);
if (mode === "serve" && rest.length === 3) serve(rest[0] ?? "", rest[1] ?? "", Number(rest[2]));
else if (mode === "get" && rest.length === 1) fetchFile(rest[0] ?? "");
else {
  process.stderr.write("usage: file-transfer.ts serve FILE ADDRESS PORT | get URL\n");
  process.exitCode = 2;
}
