/**
 * Bearer tokens of the local API: `tokens.json` (0600) in the state directory holds the SHA-256 of each secret, never the secret. A
 * secret is 256 bits of randomness, so a plain hash is enough; there is nothing to guess.
 *
 *   weft_IIIIIIII_SSSS…   id of 8 hexadecimal digits, secret of 32 bytes as base64url
 *
 * The id picks the entry, the hash is compared in constant time, and an unknown id is compared with a hash nobody has, so that time
 * says nothing about either. Whoever holds something open for a token is told when the token ends.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { lstatSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod/mini";
import { SCOPES } from "../api/messaging/route.ts";
import type { Caller, Scope } from "../api/messaging/route.ts";
import type { NewTokenView, TokenControl, TokenRequest, TokenView } from "../api/token-control.ts";
import { WeftError } from "../base/errors.ts";
import type { Random } from "../base/random.ts";
import { writeFileDurably } from "./state-dir.ts";

const MAX_TOKENS = 64;
const MAX_FILE_BYTES = 65_536;
/** How late an expiry may be noticed by what is open; a timer cannot know of a wall clock that was set. */
const MAX_WAIT_MS = 60_000;
const TOKEN_PATTERN = /^weft_([0-9a-f]{8})_([A-Za-z0-9_-]{43})$/;

interface Entry {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly agent: string | null;
  /** SHA-256 of the secret, hexadecimal. */
  readonly hash: string;
  readonly createdAtMs: number;
  /** null = does not expire */
  readonly expiresAtMs: number | null;
}

const fileSchema: z.ZodMiniType<{ version: 1; tokens: Entry[] }> = z.strictObject({
  version: z.literal(1),
  tokens: z
    .array(
      z.strictObject({
        id: z.string().check(z.regex(/^[0-9a-f]{8}$/)),
        name: z.string(),
        scopes: z.array(z.enum(SCOPES)),
        agent: z.nullable(z.string()),
        hash: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
        createdAtMs: z.number(),
        expiresAtMs: z.nullable(z.number()),
      }),
    )
    .check(z.maxLength(MAX_TOKENS)),
});

const NOBODY = Buffer.alloc(32);

export interface ApiTokensDeps {
  readonly random: Random;
  /** Milliseconds since 1970. */
  readonly wallMs: () => number;
}

export class ApiTokens implements TokenControl {
  readonly #file: string;
  readonly #deps: ApiTokensDeps;
  #entries: Map<string, Entry>;
  readonly #usedAtMs = new Map<string, number>();
  /** By id; as many as there are open sockets and streams, which are bounded where they are opened. */
  readonly #waiting = new Map<string, { readonly ended: Set<() => void>; timer: NodeJS.Timeout | undefined }>();

  /** @param directory the state directory, locked by the caller @throws WeftError TOKENS_DAMAGED or TOKENS_UNSAFE */
  constructor(directory: string, deps: ApiTokensDeps) {
    this.#file = join(directory, "tokens.json");
    this.#deps = deps;
    this.#entries = new Map(readFile(this.#file).map((entry) => [entry.id, entry]));
  }

  list(): readonly TokenView[] {
    return [...this.#entries.values()].map((entry) => this.#view(entry));
  }

  async create(request: TokenRequest): Promise<NewTokenView> {
    if (request.agent !== undefined && request.scopes.includes("admin")) {
      throw new WeftError(
        "BAD_REQUEST",
        'the scope "admin" includes every agent, so a token with it cannot be bound to one',
        "leave out --agent, or name the scopes that it needs",
      );
    }
    const nowMs = this.#deps.wallMs();
    const kept = [...this.#entries.values()].filter((entry) => !isOver(entry, nowMs));
    if (kept.some((entry) => entry.name === request.name)) {
      throw new WeftError(
        "TOKEN_EXISTS",
        `there is a token "${request.name}" already`,
        "choose another name, or revoke it first",
      );
    }
    if (kept.length >= MAX_TOKENS) {
      throw new WeftError("TOKENS_FULL", `there are ${MAX_TOKENS} tokens already`, "revoke some: weft token revoke ID");
    }
    let id: string;
    do id = Buffer.from(this.#deps.random.bytes(4)).toString("hex");
    while (this.#entries.has(id));
    const secret = Buffer.from(this.#deps.random.bytes(32)).toString("base64url");
    const entry: Entry = {
      id,
      name: request.name,
      scopes: SCOPES.filter((scope) => request.scopes.includes(scope)),
      agent: request.agent ?? null,
      hash: hashOf(secret).toString("hex"),
      createdAtMs: nowMs,
      expiresAtMs: request.expiresSeconds === undefined ? null : nowMs + request.expiresSeconds * 1000,
    };
    this.#save([...kept, entry]);
    return { ...this.#view(entry), token: `weft_${id}_${secret}` };
  }

  async revoke(query: string): Promise<TokenView> {
    const entry = this.#entries.get(query) ?? [...this.#entries.values()].find(({ name }) => name === query);
    if (entry === undefined) {
      throw new WeftError("TOKEN_UNKNOWN", `no token has the id or name "${query}"`, "see `weft token list`");
    }
    const view = this.#view(entry);
    this.#save([...this.#entries.values()].filter((other) => other !== entry));
    this.#usedAtMs.delete(entry.id);
    this.#tell(entry.id);
    return view;
  }

  verify(token: string): Caller | undefined {
    const match = TOKEN_PATTERN.exec(token);
    if (match === null) return undefined;
    const [, id, secret] = match;
    const entry = this.#entries.get(id);
    const nowMs = this.#deps.wallMs();
    const fits = timingSafeEqual(hashOf(secret), entry === undefined ? NOBODY : Buffer.from(entry.hash, "hex"));
    if (entry === undefined || !fits || isOver(entry, nowMs)) return undefined;
    this.#usedAtMs.set(id, nowMs);
    return { via: "token", id, scopes: new Set(entry.scopes), agent: entry.agent ?? undefined };
  }

  isLive(id: string): boolean {
    const entry = this.#entries.get(id);
    return entry !== undefined && !isOver(entry, this.#deps.wallMs());
  }

  onEnd(id: string, ended: () => void): () => void {
    if (!this.isLive(id)) {
      ended();
      return () => undefined;
    }
    const waiting = this.#waiting.get(id) ?? { ended: new Set(), timer: undefined };
    this.#waiting.set(id, waiting);
    waiting.ended.add(ended);
    if (waiting.timer === undefined) this.#look(id);
    return () => {
      waiting.ended.delete(ended);
      if (waiting.ended.size > 0 || this.#waiting.get(id) !== waiting) return;
      clearTimeout(waiting.timer);
      this.#waiting.delete(id);
    };
  }

  /** Again when it may have expired. */
  #look(id: string): void {
    const waiting = this.#waiting.get(id);
    const entry = this.#entries.get(id);
    const nowMs = this.#deps.wallMs();
    if (waiting === undefined) return;
    if (entry === undefined || isOver(entry, nowMs)) return this.#tell(id);
    if (entry.expiresAtMs === null) return;
    waiting.timer = setTimeout(() => this.#look(id), Math.min(MAX_WAIT_MS, entry.expiresAtMs - nowMs));
    waiting.timer.unref();
  }

  #tell(id: string): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    clearTimeout(waiting.timer);
    this.#waiting.delete(id);
    for (const ended of waiting.ended) ended();
  }

  #save(entries: readonly Entry[]): void {
    writeFileDurably(this.#file, `${JSON.stringify({ version: 1, tokens: entries }, null, 2)}\n`, 0o600);
    this.#entries = new Map(entries.map((entry) => [entry.id, entry]));
  }

  #view(entry: Entry): TokenView {
    const usedAtMs = this.#usedAtMs.get(entry.id);
    return {
      id: entry.id,
      name: entry.name,
      scopes: entry.scopes,
      agent: entry.agent,
      createdAt: new Date(entry.createdAtMs).toISOString(),
      expiresAt: entry.expiresAtMs === null ? null : new Date(entry.expiresAtMs).toISOString(),
      lastUsedAt: usedAtMs === undefined ? null : new Date(usedAtMs).toISOString(),
    };
  }
}

function hashOf(secret: string): Buffer {
  return createHash("sha256").update(secret).digest();
}

function isOver(entry: Entry, nowMs: number): boolean {
  return entry.expiresAtMs !== null && entry.expiresAtMs <= nowMs;
}

function readFile(file: string): readonly Entry[] {
  const stat = lstatSync(file, { throwIfNoEntry: false });
  if (stat === undefined) return [];
  const damaged = (why: string, cause?: unknown): WeftError =>
    new WeftError(
      "TOKENS_DAMAGED",
      `${file} is damaged: ${why}`,
      "restore it from a backup, or move it away: then all tokens are void",
      { cause },
    );
  if (!stat.isFile() || stat.size > MAX_FILE_BYTES)
    throw damaged(stat.isFile() ? "it is far too large" : "it is no file");
  if ((stat.mode & 0o077) !== 0) {
    throw new WeftError("TOKENS_UNSAFE", `others may read or write ${file}`, `run: chmod 600 ${file}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw damaged("it is not JSON", cause);
  }
  const result = z.safeParse(fileSchema, value);
  if (!result.success) throw damaged(`${result.error.issues[0]?.path.join(".")} is not what it should be`);
  return result.data.tokens;
}
