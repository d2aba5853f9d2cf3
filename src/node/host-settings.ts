/** What a person has set about routes, exits and names, as it is kept in the store. Anything may be in the bytes: what does not fit is left out. */

/** Name in the store. */
export const HOST_SETTINGS_KEY = "host-settings";
const MAX_ENTRIES = 16;

export interface HostSettings {
  /** Prefixes announced by command, canonical. */
  readonly announce: readonly string[];
  /** Prefixes of others are used. */
  readonly acceptRoutes: boolean;
  readonly offerExit: boolean;
  /** undefined: none is used. `nodes` are ids; empty: the best of all. */
  readonly exit: { readonly nodes: readonly string[]; readonly allowLan: boolean } | undefined;
}

export const DEFAULT_HOST_SETTINGS: HostSettings = {
  announce: [],
  acceptRoutes: true,
  offerExit: false,
  exit: undefined,
};

export function encodeHostSettings(settings: HostSettings): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(settings));
}

export function decodeHostSettings(bytes: Uint8Array | undefined): HostSettings {
  let value: Record<string, unknown> = {};
  try {
    const parsed: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof parsed === "object" && parsed !== null) value = parsed as Record<string, unknown>;
  } catch {
    return DEFAULT_HOST_SETTINGS;
  }
  const exit = value["exit"] as Record<string, unknown> | null | undefined;
  return {
    announce: texts(value["announce"]),
    acceptRoutes: value["acceptRoutes"] !== false,
    offerExit: value["offerExit"] === true,
    exit:
      typeof exit === "object" && exit !== null
        ? { nodes: texts(exit["nodes"]), allowLan: exit["allowLan"] === true }
        : undefined,
  };
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "string").slice(0, MAX_ENTRIES) : [];
}
