/** The replicated key-value store as the API sees it: spaces of the kind KV. Source: docs/guide.md, "Key-value store". */
import type { KvChange, KvControl, KvEntryView, SpaceView } from "../../api/messaging/kv-control.ts";
import { WeftError } from "../../base/errors.ts";
import { wallFromHlc } from "../../mesh/statement.ts";
import { type Entry, SpaceKind } from "../../messaging/kv/entry.ts";
import type { Space } from "../../messaging/kv/space.ts";
import type { Clock } from "../clock.ts";
import type { Spaces } from "./spaces.ts";

const MAX_PAGE_BYTES = 4 * 1024 * 1024;

const decoder = new TextDecoder("utf-8", { fatal: true });

export function createKvControl(spaces: Spaces, clock: Clock): KvControl {
  const open = (name: string): Promise<Space> => spaces.open(SpaceKind.KV, name);

  const change = (entry: Entry): KvChange => ({
    key: entry.key,
    value: entry.value === undefined ? null : entry.value.toBase64(),
    text: entry.value === undefined ? null : textOf(entry.value),
    author: spaces.nodeRef(entry.author),
    changedAt: new Date(wallFromHlc(entry.hlc)).toISOString(),
  });
  const view = (entry: Entry): KvEntryView => ({ ...change(entry), value: entry.value?.toBase64() ?? "" });

  return {
    spaces: () => spaces.replicas.spaces(SpaceKind.KV).map(spaceView),
    async get(name, key) {
      const entry = (await open(name)).map.get(key);
      return entry?.value === undefined ? undefined : view(entry);
    },
    async list(name, prefix, after, limit) {
      const found: Entry[] = [];
      for (const entry of (await open(name)).map.entries()) {
        if (entry.value !== undefined && entry.key > after && entry.key.startsWith(prefix)) found.push(entry);
      }
      found.sort((a, b) => (a.key < b.key ? -1 : 1));
      const entries: KvEntryView[] = [];
      let bytes = 0;
      for (const entry of found) {
        bytes += entry.wire.length;
        if (entries.length >= limit || (entries.length > 0 && bytes > MAX_PAGE_BYTES)) break;
        entries.push(view(entry));
      }
      return { entries, more: entries.length < found.length };
    },
    async set(name, key, value) {
      const space = await open(name);
      const entry = spaces.replicas.write(clock.now(), space, key, value);
      await spaces.flush();
      return view(entry);
    },
    async delete(name, key) {
      const space = await open(name);
      if (space.map.get(key)?.value === undefined) return false;
      spaces.replicas.write(clock.now(), space, key, undefined);
      await spaces.flush();
      return true;
    },
    async close(name) {
      const space = spaces.replicas.find(SpaceKind.KV, name);
      if (space === undefined) throw unknownSpace(name);
      const last = spaceView(space);
      await spaces.closeSpace(space);
      return last;
    },
    async watch(name, prefix, listener) {
      const space = await open(name);
      return spaces.onChange((changed, entry) => {
        if (changed === space && entry.key.startsWith(prefix)) listener(change(entry));
      });
    },
  };
}

export function spaceView(space: Space): SpaceView {
  return { name: space.name, keys: space.map.live, bytes: space.map.bytes, replicas: space.replicas };
}

export function unknownSpace(name: string): WeftError {
  return new WeftError(
    "SPACE_UNKNOWN",
    `this node does not have "${name}"`,
    "see `weft kv spaces` or `weft tasks lists`",
  );
}

function textOf(bytes: Uint8Array): string | null {
  try {
    return decoder.decode(bytes);
  } catch {
    // not text: the base64 form says what it is
    return null;
  }
}
