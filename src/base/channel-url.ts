/**
 * Where a channel can be opened: a WebSocket URL such as "wss://relay.example.org/weft". It travels in endpoint messages, tokens and the
 * configuration, so it is judged before it is kept: ws or wss, a host, no credentials, no fragment, printable ASCII, at most 200 characters.
 * Source: docs/protocol.md, "Channels"; RFC 6455 section 3.
 */
export const MAX_CHANNEL_URL_CHARACTERS = 200;

export interface ChannelUrl {
  /** TLS (wss). */
  readonly secure: boolean;
  /** DNS name or IP address, without brackets. */
  readonly host: string;
  readonly port: number;
  /** Path and query, beginning with "/". */
  readonly path: string;
}

/** True when the text says by its scheme that it is meant as such a URL, right or wrong. */
export function looksLikeChannelUrl(text: string): boolean {
  return /^wss?:\/\//i.test(text);
}

/** @returns undefined when it is no URL that a channel can be opened to */
export function parseChannelUrl(text: string): ChannelUrl | undefined {
  if (text.length > MAX_CHANNEL_URL_CHARACTERS || !/^wss?:\/\/(?!\/)[\x21-\x7e]+$/i.test(text)) return undefined;
  if (!URL.canParse(text)) return undefined;
  const url = new URL(text);
  if (url.username !== "" || url.password !== "" || text.includes("#") || url.hostname === "") return undefined;
  const secure = url.protocol === "wss:";
  const port = url.port === "" ? (secure ? 443 : 80) : Number(url.port);
  if (port === 0) return undefined;
  const host = url.hostname.startsWith("[") ? url.hostname.slice(1, -1) : url.hostname;
  return { secure, host, port, path: url.pathname + url.search };
}
