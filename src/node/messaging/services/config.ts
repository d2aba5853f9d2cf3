/**
 * The tables of weft.toml that say what members may do with this node: [forward], [files], [exec.NAME]. Without them: no forwards, files taken from
 * every member within the quota, nothing executed. Source: docs/guide.md, "Configuration".
 */
import { isAbsolute } from "node:path";
import * as z from "zod/mini";
import { type AllowRule, parseTargetRule, type TargetRule } from "../../../messaging/services/targets.ts";

export interface FilesConfig {
  /** Names, ids or "tag:NAME" of members that may send files here; undefined = all. @default undefined */
  readonly accept: readonly string[] | undefined;
  /** Where received files go; undefined = "received" in the state directory. */
  readonly directory: string | undefined;
  /** What received and unfinished files may take on disk. @default 10 GiB */
  readonly quotaBytes: number;
  /** Largest file that is taken from others without being asked for. @default the quota */
  readonly largestBytes: number;
}

/** One program that members may run. */
export interface ExecCommand {
  /** What callers name. */
  readonly name: string;
  /** Absolute path and the arguments that always come first. */
  readonly run: readonly [program: string, ...args: string[]];
  /** Names, ids or "tag:NAME" of who may. */
  readonly peers: readonly string[];
  /** Arguments that a caller may add. @default 0 */
  readonly extraArguments: number;
  /** @default 60 s */
  readonly timeoutMs: number;
  /** Working directory. @default "/" */
  readonly directory: string;
}

export interface ServicesConfig {
  /** Where members may connect to through this node. @default nowhere */
  readonly forwardAllow: readonly AllowRule[];
  readonly files: FilesConfig;
  readonly exec: ReadonlyMap<string, ExecCommand>;
}

export interface ServicesFileConfig {
  forward?: { allow?: { peers?: string[] | undefined; targets: string[] }[] | undefined } | undefined;
  files?:
    | {
        accept?: boolean | string[] | undefined;
        directory?: string | undefined;
        quota_mb?: number | undefined;
        largest_mb?: number | undefined;
      }
    | undefined;
  exec?:
    | Record<
        string,
        {
          run: string[];
          peers: string[];
          arguments?: number | undefined;
          timeout_s?: number | undefined;
          directory?: string | undefined;
        }
      >
    | undefined;
}

const MEGABYTE = 1_000_000;
const COMMAND_NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const TABLE = "must be a table";

const text = (what: string, ok: (value: string) => boolean): z.ZodMiniString =>
  z.string(`must be ${what} in quotes`).check(z.refine(ok, `must be ${what}`));
const whole = (low: number, high: number, unit: string): z.ZodMiniOptional<z.ZodMiniNumber> => {
  const message = `must be a whole number of ${unit} from ${low} to ${high}`;
  return z.optional(z.int(message).check(z.gte(low, message), z.lte(high, message)));
};
const peers = z
  .array(
    text('a node name, id or "tag:NAME"', (value) => value !== "" && value.length <= 256),
    "must be a list of nodes",
  )
  .check(z.maxLength(256, "must have at most 256 entries"));
const rule = text(
  'a target such as "loopback:80", "10.0.0.0/24:22" or "db.internal:5432"',
  (value) => parseTargetRule(value) !== undefined,
);
const argument = text("text without a zero byte, at most 4096 bytes", (value) => isArgument(value));
const absolute = text("an absolute path", (value) => isAbsolute(value) && isArgument(value));

/** What a program may be given as an argument. */
export function isArgument(value: string): boolean {
  return !value.includes("\0") && Buffer.byteLength(value) <= 4_096;
}

const fileShape = {
  forward: z.optional(
    z.strictObject(
      {
        allow: z.optional(
          z
            .array(
              z.strictObject(
                {
                  peers: z.optional(peers),
                  targets: z
                    .array(rule, "must be a list of targets")
                    .check(z.maxLength(64, "must have at most 64 entries")),
                },
                TABLE,
              ),
              "must be a list of tables",
            )
            .check(z.maxLength(64, "must have at most 64 entries")),
        ),
      },
      TABLE,
    ),
  ),
  files: z.optional(
    z.strictObject(
      {
        accept: z.optional(
          z.union([z.boolean(), peers], "must be true (every member), false (nobody), or a list of nodes"),
        ),
        directory: z.optional(absolute),
        quota_mb: whole(1, 100_000_000, "megabytes"),
        largest_mb: whole(1, 100_000_000, "megabytes"),
      },
      TABLE,
    ),
  ),
  exec: z.optional(
    z
      .record(
        text("a name of 1–64 of a–z, 0–9, ., _ and -", (value) => COMMAND_NAME.test(value)),
        z.strictObject(
          {
            run: z.array(argument, "must be a list: the program and its arguments").check(
              z.maxLength(64, "must have at most 64 entries"),
              z.refine((value) => value.length > 0 && isAbsolute(value[0]), "must begin with an absolute path"),
            ),
            peers,
            arguments: whole(0, 64, "arguments"),
            timeout_s: whole(1, 86_400, "seconds"),
            directory: z.optional(absolute),
          },
          TABLE,
        ),
        "must be a table whose name is 1–64 of a–z, 0–9, ., _ and -",
      )
      .check(z.refine((value) => Object.keys(value).length <= 256, "must have at most 256 entries")),
  ),
};

/** Spread into the shape of the whole file. */
export const SERVICE_TABLES: {
  readonly [K in keyof Required<ServicesFileConfig>]: z.ZodMiniType<ServicesFileConfig[K]>;
} = {
  forward: fileShape.forward,
  files: fileShape.files,
  exec: fileShape.exec,
};

/** Known keys of a table by its path, for the hint at the nearest one. */
export function serviceKeys(table: string): readonly string[] {
  if (table === "forward") return ["allow"];
  if (/^forward\.allow\.\d+$/.test(table)) return ["peers", "targets"];
  if (table === "files") return ["accept", "directory", "quota_mb", "largest_mb"];
  return /^exec\.[^.]+$/.test(table) ? ["run", "peers", "arguments", "timeout_s", "directory"] : [];
}

export function resolveServices(file: ServicesFileConfig): ServicesConfig {
  const allow = file.forward?.allow?.map(({ peers, targets }) => ({
    peers,
    targets: targets.map((one) => parseTargetRule(one) as TargetRule),
  }));
  const { accept, directory, quota_mb: quotaMb, largest_mb: largestMb } = file.files ?? {};
  const quotaBytes = quotaMb === undefined ? 10 * 2 ** 30 : quotaMb * MEGABYTE;
  const exec = new Map<string, ExecCommand>();
  for (const [name, command] of Object.entries(file.exec ?? {})) {
    exec.set(name, {
      name,
      run: command.run as [string, ...string[]],
      peers: command.peers,
      extraArguments: command.arguments ?? 0,
      timeoutMs: (command.timeout_s ?? 60) * 1_000,
      directory: command.directory ?? "/",
    });
  }
  return Object.freeze({
    forwardAllow: allow ?? [],
    files: Object.freeze({
      accept: typeof accept === "object" ? accept : accept === false ? [] : undefined,
      directory,
      quotaBytes,
      largestBytes: Math.min(quotaBytes, largestMb === undefined ? Infinity : largestMb * MEGABYTE),
    }),
    exec,
  });
}
