/**
 * weft.toml: read, validated, resolved once into a frozen complete object. Looked for in the state directory, then in /etc/weft.
 * Command-line options win over the file, the file over the defaults. Every mistake is one line that names the file, the key, the
 * value and what would be right; nothing unknown is skipped silently.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { parse, TomlError } from "smol-toml";
import * as z from "zod/mini";
import { fromHex } from "../base/bytes.ts";
import { looksLikeChannelUrl, parseChannelUrl } from "../base/channel-url.ts";
import { parseAddress, parseEndpoint } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";
import { isTooWide } from "./host-offers.ts";
import { parseProxyPrefix } from "./channels/forwarded.ts";
import { parseService } from "../mesh/offers.ts";
import type { OfferedService } from "../mesh/offers.ts";
import { formatRoutePrefix, parseRoutePrefix } from "../mesh/route-prefix.ts";
import { hasIdForm } from "../mesh/id-form.ts";
import { MAPPER_NAMES } from "./discovery/mapper.ts";
import type { MapperName } from "./discovery/mapper.ts";
import { UNDERLAY_MARK } from "./exit.ts";
import { LOG_LEVELS } from "./log.ts";
import { resolveServices, SERVICE_TABLES, serviceKeys } from "./messaging/services/config.ts";
import type { ServicesConfig, ServicesFileConfig } from "./messaging/services/config.ts";
import type { LogLevel } from "./log.ts";
import { RESOLVER_MODES } from "./resolver.ts";
import type { ResolverMode } from "./resolver.ts";

export const DEFAULT_PORT = 9338;
export const CONFIG_NAME = "weft.toml";
const SYSTEM_DIRECTORY = "/etc/weft";

/** Smallest and largest underlay packet that makes sense (RFC 8200 section 5; jumbo frames). */
export const MIN_UNDERLAY_MTU_BYTES = 1280;
export const MAX_UNDERLAY_MTU_BYTES = 9216;

export interface ListenAddress {
  readonly address: string;
  /** 0 = any free one */
  readonly port: number;
}

/** What the daemon runs with. */
export interface Config {
  /** Name to use in the network; undefined = the host's name. */
  readonly name: string | undefined;
  /** @default 0.0.0.0 and [::], port 9338 */
  readonly listen: readonly ListenAddress[];
  /** HOST:PORT at which others reach this node, besides what it finds itself. @default none */
  readonly endpoints: readonly string[];
  /** This node relays for any two members (a beacon always does). @default false */
  readonly relay: boolean;
  /** Names or node ids of members that may send through this node to others; undefined = all members. @default undefined */
  readonly transit: readonly string[] | undefined;
  /** What one member may send through this node, on all its ways together, bytes per second; 0 = no limit. @default 50000000 */
  readonly forwardBytesPerSecond: number;
  readonly websocket: WebsocketConfig;
  readonly discovery: DiscoveryConfig;
  /** undefined = agent node without an interface; "%d" is replaced by the kernel. @default "weft%d" */
  readonly tun: string | undefined;
  /** Largest underlay packet in bytes, 0 = take it from the interfaces. @default 0 */
  readonly underlayMtuBytes: number;
  /** @default "require" */
  readonly pq: "require" | "prefer";
  /** Node id or name → 32 bytes that go into the handshake. */
  readonly psk: ReadonlyMap<string, Uint8Array>;
  readonly gso: boolean;
  readonly gro: boolean;
  readonly tso: boolean;
  /** SO_MARK of the underlay sockets, which keeps routes and exits from swallowing them; 0 = none. @default 0x57656674 */
  readonly mark: number;
  /** Prefixes behind this node, canonical; an admin approves them. @default none */
  readonly routes: readonly string[];
  readonly dns: DnsConfig;
  readonly api: ApiConfig;
  readonly messaging: MessagingConfig;
  /** @default 1024 */
  readonly maxPeers: number;
  readonly logLevel: LogLevel;
  readonly logFormat: "text" | "json";
}

/** Channels over WebSocket, for networks that block UDP. */
export interface WebsocketConfig {
  /** TCP address on which this node serves channels, usually behind a reverse proxy; undefined = it serves none. @default none */
  readonly listen: ListenAddress | undefined;
  /** wss:// or ws:// URLs at which others open channels to this node, at most 2. @default none */
  readonly urls: readonly string[];
  /** Open channels to beacons where UDP does not answer. @default true */
  readonly connect: boolean;
  /** Certificates in PEM that are trusted besides the usual ones; absolute path. @default none */
  readonly caFile: string | undefined;
  /** Reverse proxies whose headers name the client. @default loopback */
  readonly trustedProxies: readonly string[];
}

/** How this node finds out where it is and who is near. A node that listens on loopback alone does none of it. */
export interface DiscoveryConfig {
  /** HOST:PORT of STUN servers, at most 4. @default none */
  readonly stun: readonly string[];
  /** Ways to ask the router for a port mapping, in this order. @default pcp, nat-pmp, upnp */
  readonly portMapping: readonly MapperName[];
  /** Announce to, and look for, members on the LAN. @default true */
  readonly lan: boolean;
}

/** The local API besides its unix socket. */
export interface ApiConfig {
  /** TCP address on loopback for clients with a token; undefined = none. @default none */
  readonly listen: ListenAddress | undefined;
  /** Origins of web pages that may call with a token, besides pages of that address. @default none */
  readonly origins: readonly string[];
}

export interface DnsConfig {
  /** How names reach this machine's programs. @default "auto" */
  readonly mode: ResolverMode;
  /** Services of this node for SRV records. @default none */
  readonly services: readonly OfferedService[];
}

/** Messages between members: direct ones, publish/subscribe, files and what stands on them. */
export interface MessagingConfig {
  /** @default true */
  readonly enabled: boolean;
  /** What `messages.db` may take on disk. @default 268435456 */
  readonly storeBytes: number;
  /** Messages for members that are away are kept so long. @default 72 h */
  readonly outboxMs: number;
  /** Keep sealed messages for members that are away, for others. @default false */
  readonly mailbox: boolean;
  /** Take messages of members that nobody here has called known. @default true */
  readonly acceptUnknown: boolean;
  /** Topics that this node carries without a subscriber of its own. @default none */
  readonly volunteer: readonly string[];
  /** What members may do with this node: forwards, files, execution. */
  readonly services: ServicesConfig;
}

/** What the command line or an embedding program may set; undefined = not given. */
export interface ConfigOverrides {
  readonly name?: string | undefined;
  readonly listen?: readonly string[] | undefined;
  /** HOST:PORT, or a wss:// URL for channels. */
  readonly endpoints?: readonly string[] | undefined;
  /** false = agent node */
  readonly tun?: string | false | undefined;
  readonly logLevel?: LogLevel | undefined;
  readonly maxPeers?: number | undefined;
  /** false = no messages: neither sent nor taken */
  readonly messaging?: boolean | undefined;
}

const NAME_PATTERN = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const TUN_PATTERN = /^(?:[A-Za-z0-9_.-]{1,15}|[A-Za-z0-9_.-]{1,12}%d)$/;

/** @returns undefined when the text is no ADDR:PORT with a port of 0–65535 */
export function parseListen(text: string): ListenAddress | undefined {
  const zero = /^(.*):0$/.exec(text);
  if (zero === null) return parseEndpoint(text);
  const probe = parseEndpoint(`${zero[1]}:1`);
  return probe === undefined ? undefined : { address: probe.address, port: 0 };
}

/** @returns undefined when the text is no HOST:PORT; the host is an address (IPv6 in brackets) or a DNS name */
export function parseHostPort(text: string): { readonly host: string; readonly port: number } | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]/]+)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const host = match[1] ?? match[2];
  const port = Number(match[3]);
  if (port < 1 || port > 65535) return undefined;
  if (match[1] !== undefined && parseAddress(host) === undefined) return undefined;
  if (match[1] === undefined && !/^(?!-)[A-Za-z0-9._-]{1,253}$/.test(host)) return undefined;
  return { host, port };
}

/** 32 bytes as 64 hexadecimal digits or 44 characters of base64. @returns undefined otherwise */
export function parsePsk(text: string): Uint8Array | undefined {
  if (text.length === 64) return fromHex(text);
  if (!/^[A-Za-z0-9+/]{43}=$/.test(text)) return undefined;
  const bytes = Buffer.from(text, "base64");
  return bytes.length === 32 ? Uint8Array.from(bytes) : undefined;
}

/** A node name as the roster takes it: the letters of a DNS label. */
export function isNodeName(text: string): boolean {
  return NAME_PATTERN.test(text);
}

/** The file as it is written; every key may be missing. */
export interface FileConfig extends ServicesFileConfig {
  name?: string | undefined;
  listen?: string[] | undefined;
  endpoints?: string[] | undefined;
  relay?: boolean | undefined;
  transit?: boolean | string[] | undefined;
  forward_mbps?: number | undefined;
  websocket?:
    | {
        listen?: string | undefined;
        url?: string | string[] | undefined;
        connect?: boolean | undefined;
        ca?: string | undefined;
        trusted_proxies?: string[] | undefined;
      }
    | undefined;
  discovery?:
    | { stun?: string[] | undefined; port_mapping?: boolean | MapperName[] | undefined; lan?: boolean | undefined }
    | undefined;
  tun?: string | false | undefined;
  mtu?: number | undefined;
  pq?: "require" | "prefer" | undefined;
  psk?: Record<string, string> | undefined;
  gso?: boolean | undefined;
  gro?: boolean | undefined;
  tso?: boolean | undefined;
  mark?: number | undefined;
  routes?: string[] | undefined;
  dns?: { mode?: ResolverMode | undefined; services?: string[] | undefined } | undefined;
  api?: { listen?: string | undefined; origins?: string[] | undefined } | undefined;
  messaging?:
    | {
        enabled?: boolean | undefined;
        store_mb?: number | undefined;
        outbox_hours?: number | undefined;
        mailbox?: boolean | undefined;
        accept_unknown?: boolean | undefined;
        volunteer?: string[] | undefined;
      }
    | undefined;
  max_peers?: number | undefined;
  log?: { level?: LogLevel | undefined; format?: "text" | "json" | undefined } | undefined;
}

const text = (what: string, ok: (value: string) => boolean): z.ZodMiniString =>
  z.string(`must be ${what} in quotes`).check(z.refine(ok, `must be ${what}`));
const flag = (): z.ZodMiniOptional<z.ZodMiniBoolean> => z.optional(z.boolean("must be true or false"));
const whole = (low: number, high: number, unit: string): z.ZodMiniOptional<z.ZodMiniNumber> => {
  const message = `must be a whole number of ${unit} from ${low} to ${high}`;
  return z.optional(z.int(message).check(z.gte(low, message), z.lte(high, message)));
};

const listenText = text(
  'an address and port such as "0.0.0.0:9338" or "[::]:9338"',
  (value) => parseListen(value) !== undefined,
);
const endpointText = text(
  'HOST:PORT such as "vpn.example.org:9338", or a URL for channels such as "wss://relay.example.org/weft"',
  (value) => parseHostPort(value) !== undefined || parseChannelUrl(value) !== undefined,
);
/** Browsers reach nothing else without the network in between, and the token would travel in the clear. */
const loopbackText = text('an address and port of loopback such as "127.0.0.1:9339" or "[::1]:9339"', (value) => {
  const address = parseListen(value)?.address;
  return address !== undefined && (address === "::1" || address.startsWith("127."));
});
const originText = text('an origin such as "http://localhost:3000"', (value) => {
  const url = URL.parse(value);
  return url !== null && /^https?:$/.test(url.protocol) && url.origin === value;
});
const urlText = text('a URL such as "wss://relay.example.org/weft"', (value) => parseChannelUrl(value) !== undefined);
const MAX_URLS = 2;

const routeText = text('a prefix such as "10.20.0.0/24", zeros behind it, /8 or longer (IPv6: /16)', (value) => {
  const prefix = parseRoutePrefix(value);
  return prefix !== undefined && !isTooWide(prefix);
});
const serviceText = text('a service such as "_http._tcp:8080"', (value) => parseService(value) !== undefined);

const fileShape = {
  name: z.optional(text("1–63 of a–z, 0–9 and -", isNodeName)),
  listen: z.optional(
    z
      .array(listenText, "must be a list of addresses and ports")
      .check(z.minLength(1, "must have at least one entry"), z.maxLength(8, "must have at most 8 entries")),
  ),
  endpoints: z.optional(
    z.array(endpointText, "must be a list of HOST:PORT").check(z.maxLength(8, "must have at most 8 entries")),
  ),
  relay: flag(),
  transit: z.optional(
    z.union(
      [
        z.boolean(),
        z
          .array(text("a node name or id", (value) => value !== ""))
          .check(z.maxLength(256, "must have at most 256 entries")),
      ],
      "must be true (all members), false (nobody), or a list of node names or ids",
    ),
  ),
  forward_mbps: whole(0, 100_000, "megabits per second"),
  websocket: z.optional(
    z.strictObject(
      {
        listen: z.optional(listenText),
        url: z.optional(
          z.union(
            [urlText, z.array(urlText).check(z.maxLength(MAX_URLS, `must have at most ${MAX_URLS} entries`))],
            'must be a URL such as "wss://relay.example.org/weft", or a list of two',
          ),
        ),
        connect: flag(),
        ca: z.optional(text("an absolute path", isAbsolute)),
        trusted_proxies: z.optional(
          z
            .array(
              text('an address or prefix such as "10.0.0.0/8"', (value) => parseProxyPrefix(value) !== undefined),
              "must be a list of addresses and prefixes",
            )
            .check(z.maxLength(32, "must have at most 32 entries")),
        ),
      },
      "must be a table",
    ),
  ),
  discovery: z.optional(
    z.strictObject(
      {
        stun: z.optional(
          z
            .array(text('HOST:PORT such as "stun.example.org:3478"', (value) => parseHostPort(value) !== undefined))
            .check(z.maxLength(4, "must have at most 4 entries")),
        ),
        port_mapping: z.optional(
          z.union(
            [z.boolean(), z.array(z.enum(MAPPER_NAMES)).check(z.maxLength(MAPPER_NAMES.length))],
            `must be true, false, or a list of ${MAPPER_NAMES.join(", ")}`,
          ),
        ),
        lan: flag(),
      },
      "must be a table",
    ),
  ),
  tun: z.optional(
    z.union(
      [z.literal(false), text("an interface name", (value) => TUN_PATTERN.test(value))],
      "must be an interface name of at most 15 characters, or false",
    ),
  ),
  mtu: whole(MIN_UNDERLAY_MTU_BYTES, MAX_UNDERLAY_MTU_BYTES, "bytes (underlay packet)"),
  pq: z.optional(z.enum(["require", "prefer"], 'must be "require" or "prefer"')),
  psk: z.optional(
    z.record(
      z.string(),
      text("32 bytes as 64 hexadecimal digits or base64", (value) => parsePsk(value) !== undefined),
      "must be a table of NODE = KEY",
    ),
  ),
  gso: flag(),
  gro: flag(),
  tso: flag(),
  mark: whole(0, 4294967295, "the socket mark"),
  routes: z.optional(
    z.array(routeText, "must be a list of prefixes").check(z.maxLength(16, "must have at most 16 entries")),
  ),
  dns: z.optional(
    z.strictObject(
      {
        mode: z.optional(z.enum(RESOLVER_MODES, `must be one of ${RESOLVER_MODES.join(", ")}`)),
        services: z.optional(
          z.array(serviceText, "must be a list of services").check(z.maxLength(8, "must have at most 8 entries")),
        ),
      },
      "must be a table",
    ),
  ),
  messaging: z.optional(
    z.strictObject(
      {
        enabled: flag(),
        store_mb: whole(16, 1_048_576, "megabytes"),
        outbox_hours: whole(1, 8_760, "hours"),
        mailbox: flag(),
        accept_unknown: flag(),
        volunteer: z.optional(
          z
            .array(text("a topic of 1–128 characters", (value) => value.length >= 1 && value.length <= 128))
            .check(z.maxLength(64, "must have at most 64 entries")),
        ),
      },
      "must be a table",
    ),
  ),
  ...SERVICE_TABLES,
  api: z.optional(
    z.strictObject(
      {
        listen: z.optional(loopbackText),
        origins: z.optional(
          z.array(originText, "must be a list of origins").check(z.maxLength(16, "must have at most 16 entries")),
        ),
      },
      "must be a table",
    ),
  ),
  max_peers: whole(1, 65536, "peers"),
  log: z.optional(
    z.strictObject(
      {
        level: z.optional(z.enum(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(", ")}`)),
        format: z.optional(z.enum(["text", "json"], 'must be "text" or "json"')),
      },
      "must be a table",
    ),
  ),
};
const fileSchema: z.ZodMiniType<FileConfig> = z.strictObject(fileShape);

/** Valid keys by table path ("" = top level), for the nearest-key hint. */
const KEYS: ReadonlyMap<string, readonly string[]> = new Map([
  ["", Object.keys(fileShape)],
  ["log", ["level", "format"]],
  ["dns", ["mode", "services"]],
  ["api", ["listen", "origins"]],
  ["messaging", ["enabled", "store_mb", "outbox_hours", "mailbox", "accept_unknown", "volunteer"]],
  ["discovery", ["stun", "port_mapping", "lan"]],
  ["websocket", ["listen", "url", "connect", "ca", "trusted_proxies"]],
]);

/** Levenshtein distance, for short words. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length];
}

/** @returns the candidate closest to `word`, or undefined when none is close */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = word.length < 3 ? 2 : 3;
  for (const candidate of candidates) {
    const d = distance(word.toLowerCase(), candidate);
    if (d < bestDistance) {
      best = candidate;
      bestDistance = d;
    }
  }
  return best;
}

function invalid(message: string, remedy: string, cause?: unknown): WeftError {
  return new WeftError("CONFIG_INVALID", message, remedy, cause === undefined ? undefined : { cause });
}

function describe(value: unknown): string {
  const shown =
    JSON.stringify(value, (_, item: unknown) => (typeof item === "bigint" ? String(item) : item)) ?? String(value);
  return shown.length > 60 ? `${shown.slice(0, 57)}…` : shown;
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let at = root;
  for (const key of path) {
    if (typeof at !== "object" || at === null) return undefined;
    at = (at as Record<PropertyKey, unknown>)[key];
  }
  return at;
}

/** @param file path for messages @throws WeftError CONFIG_INVALID */
export function parseConfig(source: string, file: string): FileConfig {
  let value: unknown;
  try {
    value = parse(source);
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    const what = cause.message.split("\n")[0]?.replace(/^Invalid TOML document: /, "") ?? "not TOML";
    throw invalid(`${file}:${cause.line}:${cause.column}: not valid TOML: ${what}`, "correct that line", cause);
  }
  const result = z.safeParse(fileSchema, value);
  if (result.success) return result.data;
  const issues = result.error.issues;
  const unknown = issues.find((issue) => issue.code === "unrecognized_keys");
  if (unknown !== undefined) {
    const table = unknown.path.join(".");
    const key = unknown.keys[0];
    const known = KEYS.get(table) ?? serviceKeys(table);
    const path = table === "" ? key : `${table}.${key}`;
    const near = nearest(key, known);
    throw invalid(
      `${file}: unknown key "${path}"`,
      near === undefined
        ? `remove it; known keys: ${known.join(", ")}`
        : `did you mean "${table === "" ? near : `${table}.${near}`}"? Otherwise remove it`,
    );
  }
  const issue = issues[0];
  const path = issue.path.join(".");
  const secret = issue.path[0] === "psk";
  const shown = secret ? "" : ` = ${describe(valueAt(value, issue.path))}`;
  throw invalid(`${file}: ${path}${shown} ${issue.message}`, "correct the value or remove the line for the default");
}

/** @returns the configuration file that applies to this state directory, or undefined */
export function findConfig(stateDirectory: string): string | undefined {
  return [join(stateDirectory, CONFIG_NAME), join(SYSTEM_DIRECTORY, CONFIG_NAME)].find((file) => existsSync(file));
}

/**
 * Reads the file if there is one and merges the overrides.
 * @throws WeftError CONFIG_INVALID (file) or USAGE (override)
 */
export function loadConfig(stateDirectory: string, overrides: ConfigOverrides = {}): Config {
  const file = findConfig(stateDirectory);
  let fromFile: FileConfig = {};
  if (file !== undefined) {
    let source: string;
    try {
      source = readFileSync(file, "utf8");
    } catch (cause) {
      throw invalid(
        `cannot read ${file}: ${(cause as Error).message}`,
        "make it readable for the user that runs weft",
        cause,
      );
    }
    fromFile = parseConfig(source, file);
    if (Object.keys(fromFile.psk ?? {}).length > 0 && (statSync(file).mode & 0o077) !== 0) {
      throw invalid(`${file} holds pre-shared keys, and others may read it`, `run: chmod 600 ${file}`);
    }
  }
  return resolveConfig(fromFile, overrides);
}

function resolveConfig(file: FileConfig, overrides: ConfigOverrides): Config {
  const usage = (message: string, remedy: string): WeftError => new WeftError("USAGE", message, remedy);
  const listen = (overrides.listen ?? file.listen ?? [`0.0.0.0:${DEFAULT_PORT}`, `[::]:${DEFAULT_PORT}`]).map(
    (entry) => {
      const parsed = parseListen(entry);
      if (parsed === undefined)
        throw usage(`"${entry}" is no listen address`, 'write ADDR:PORT, such as "0.0.0.0:9338" or "[::]:9338"');
      return parsed;
    },
  );
  const places = overrides.endpoints ?? file.endpoints ?? [];
  const endpoints = places.filter((entry) => !looksLikeChannelUrl(entry));
  for (const entry of endpoints) {
    if (parseHostPort(entry) === undefined)
      throw usage(
        `"${entry}" is no endpoint`,
        'write HOST:PORT, such as "vpn.example.org:9338", or a URL for channels, such as "wss://relay.example.org/weft"',
      );
  }
  const fileUrl = file.websocket?.url ?? [];
  const urls = [...places.filter(looksLikeChannelUrl), ...(typeof fileUrl === "string" ? [fileUrl] : fileUrl)];
  for (const entry of urls) {
    if (parseChannelUrl(entry) === undefined)
      throw usage(
        `"${entry}" is no URL for channels`,
        'write one such as "wss://relay.example.org/weft": no user name, no fragment, at most 200 characters',
      );
  }
  const websocketListen = file.websocket?.listen;
  const name = overrides.name ?? file.name;
  if (name !== undefined && !isNodeName(name)) throw usage(`"${name}" is no node name`, "use 1–63 of a–z, 0–9 and -");
  const tun = overrides.tun ?? file.tun ?? "weft%d";
  if (tun !== false && !TUN_PATTERN.test(tun))
    throw usage(`"${tun}" is no interface name`, "use at most 15 letters and digits");
  const mapping = file.discovery?.port_mapping ?? true;
  const psk = new Map<string, Uint8Array>();
  for (const [node, key] of Object.entries(file.psk ?? {})) psk.set(node, parsePsk(key) as Uint8Array);
  return Object.freeze({
    name,
    listen,
    endpoints,
    relay: file.relay ?? false,
    transit: typeof file.transit === "object" ? file.transit : file.transit === false ? [] : undefined,
    forwardBytesPerSecond: ((file.forward_mbps ?? 400) * 1_000_000) / 8,
    websocket: Object.freeze({
      listen: websocketListen === undefined ? undefined : parseListen(websocketListen),
      urls: [...new Set(urls)].slice(0, MAX_URLS),
      connect: file.websocket?.connect ?? true,
      caFile: file.websocket?.ca,
      trustedProxies: file.websocket?.trusted_proxies ?? ["127.0.0.0/8", "::1"],
    }),
    discovery: Object.freeze({
      stun: file.discovery?.stun ?? [],
      portMapping: mapping === true ? MAPPER_NAMES : mapping === false ? [] : mapping,
      lan: file.discovery?.lan ?? true,
    }),
    tun: tun === false ? undefined : tun,
    underlayMtuBytes: file.mtu ?? 0,
    pq: file.pq ?? "require",
    psk,
    gso: file.gso ?? true,
    gro: file.gro ?? true,
    tso: file.tso ?? true,
    mark: file.mark ?? UNDERLAY_MARK,
    routes: (file.routes ?? []).map((entry) => formatRoutePrefix(parseRoutePrefix(entry)!)),
    dns: Object.freeze({
      mode: file.dns?.mode ?? "auto",
      services: (file.dns?.services ?? []).map((entry) => parseService(entry)!),
    }),
    messaging: Object.freeze({
      enabled: overrides.messaging ?? file.messaging?.enabled ?? true,
      storeBytes: (file.messaging?.store_mb ?? 256) * 1_048_576,
      outboxMs: (file.messaging?.outbox_hours ?? 72) * 3_600_000,
      mailbox: file.messaging?.mailbox ?? false,
      acceptUnknown: file.messaging?.accept_unknown ?? true,
      volunteer: file.messaging?.volunteer ?? [],
      services: resolveServices(file),
    }),
    api: Object.freeze({
      listen: file.api?.listen === undefined ? undefined : parseListen(file.api.listen),
      origins: file.api?.origins ?? [],
    }),
    maxPeers: overrides.maxPeers ?? file.max_peers ?? 1024,
    logLevel: overrides.logLevel ?? file.log?.level ?? "info",
    logFormat: file.log?.format ?? "text",
  });
}

/** The name this node proposes when none is configured: the first label of the host's name, made to fit. */
export function defaultNodeName(hostname: string): string {
  const label = (hostname.split(".")[0] ?? "")
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 63);
  return isNodeName(label) && !hasIdForm(label) ? label : "node";
}
