/**
 * Tools that hand out files of this machine. A model reads what strangers write, and the daemon reads files as root: so these tools are there
 * only when whoever starts `weft mcp` names a directory, and reach what is really below it, whatever links say.
 */
import { realpathSync, statSync } from "node:fs";
import { isAbsolute, relative, resolve, sep } from "node:path";
import * as z from "zod";
import type { TransferView } from "../api/messaging/files-control.ts";
import { WeftError } from "../base/errors.ts";
import { defineTool } from "./tool.ts";
import type { Tool } from "./tool.ts";

function outside(path: string, root: string): WeftError {
  return new WeftError(
    "FORBIDDEN",
    `${JSON.stringify(path.slice(0, 200))} is no file below ${root}`,
    "name a file of that directory; whoever started `weft mcp` chose it with --files-root",
  );
}

/** @returns the directory without links @throws WeftError USAGE when it is none */
export function openFilesRoot(directory: string): string {
  try {
    const root = realpathSync(directory);
    if (statSync(root).isDirectory()) return root;
  } catch {
    // what is wrong with it does not matter
  }
  throw new WeftError("USAGE", `--files-root "${directory}" is no directory`, "name one that exists");
}

/**
 * One answer for all that is not to be had: what is outside is not even known to exist.
 * @param root of openFilesRoot() @param path absolute, or from the root @returns the file without links @throws WeftError FORBIDDEN
 */
export function fileBelow(root: string, path: string): string {
  let real: string;
  try {
    real = realpathSync(resolve(root, path));
    const way = relative(root, real);
    if (way === "" || way === ".." || way.startsWith(`..${sep}`) || isAbsolute(way)) throw outside(path, root);
    if (!statSync(real).isFile()) throw outside(path, root);
  } catch {
    throw outside(path, root);
  }
  return real;
}

export function fileTools(root: string): readonly Tool[] {
  const path = z.string().min(1).max(4096).describe(`Path of a file below ${root}`);
  return [
    defineTool({
      name: "weft_file_send",
      title: "Send a file",
      description:
        "Offers a file of this machine to one member until it has it, also over restarts. Returns a transfer with its key.",
      input: z.object({ path, to: z.string().min(1).max(256).describe("Name, id or overlay address of a member") }),
      isReadOnly: false,
      run: (client, { path, to }) =>
        client.call<TransferView>("POST", "/v1/files/send", { body: { path: fileBelow(root, path), to } }),
    }),
    defineTool({
      name: "weft_file_share",
      title: "Share a file",
      description:
        "Makes a file of this machine available to every member that knows its id, which the transfer tells when it is done.",
      input: z.object({ path }),
      isReadOnly: false,
      run: (client, { path }) =>
        client.call<TransferView>("POST", "/v1/files/share", { body: { path: fileBelow(root, path) } }),
    }),
  ];
}
