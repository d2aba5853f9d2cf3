/** Bearer tokens for the local API, as the API and the command line see them. Fields may be added, never renamed. */
import type { Caller, Scope } from "./messaging/route.ts";

export interface TokenView {
  /** 8 characters; also the beginning of the token itself. */
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** The only agent it may act as; null = any of this node. */
  readonly agent: string | null;
  /** RFC 3339 */
  readonly createdAt: string;
  /** RFC 3339; null = does not expire. */
  readonly expiresAt: string | null;
  /** RFC 3339, of this run of the daemon; null = not yet. */
  readonly lastUsedAt: string | null;
}

export interface NewTokenView extends TokenView {
  /** Shown this one time; the node keeps its hash. */
  readonly token: string;
}

export interface TokenRequest {
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly agent?: string | undefined;
  /** @default it does not expire */
  readonly expiresSeconds?: number | undefined;
}

export interface TokenControl {
  list(): readonly TokenView[];
  /** Resolves when its hash is on disk. @throws WeftError TOKENS_FULL */
  create(request: TokenRequest): Promise<NewTokenView>;
  /** @param id of the token, or its name @throws WeftError TOKEN_UNKNOWN */
  revoke(id: string): Promise<TokenView>;
  /** In constant time for a given id, known or not. @returns undefined when the token is not valid now */
  verify(token: string): Caller | undefined;
  /** @param id of a caller that verify() returned @returns false when its token was revoked or has expired since */
  isLive(id: string): boolean;
  /**
   * For whatever outlives the request that the token came with.
   * @param ended called once, at once when the token is revoked (or is gone already), within a minute when it has expired
   * @returns forgets it
   */
  onEnd(id: string, ended: () => void): () => void;
}
