/**
 * The groups of this node. Sans-I/O.
 *
 *   change by an admin ──► charter with a new key ──► every member, and who was removed          every minute and when a session comes up: which charter do you have?
 *   message ──► sealed ──► entry of the group's space (kv/replicas.ts), which members alone deliver, write and get
 *
 * A charter is taken when it follows one that is here and its issuer is an admin of that one; of two that follow the same one the same one counts
 * everywhere (charter.ts). An admin whose charter lost makes its change again on top. A node learns of a group by a charter that names it, signed by
 * an admin in it who is a member of the network: that first one is taken on trust. A membership ends when it is not renewed; admins renew.
 *
 * Bounds: groups, members, charters, frames and chains of charters per sender; entries live 7 days in the space, and 4 MiB of them at most: before
 * it is full a writer raises the floor, an entry that says from which hlc on messages are still wanted. As any member may, a node follows it only
 * while its own space is half full and for the older five eighths of what it holds.
 * Source: docs/protocol.md, "Groups".
 */
import { concat, equal, toHex } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import type { Identity } from "../../crypto/identity.ts";
import { zeroise } from "../../crypto/secret.ts";
import { wallFromHlc } from "../../mesh/statement.ts";
import { FieldReader, u32 } from "../fields.ts";
import { FrameChannel } from "../frames.ts";
import { type Entry, SpaceKind } from "../kv/entry.ts";
import { isAhead } from "../kv/hlc.ts";
import type { Replicas } from "../kv/replicas.ts";
import type { Space, SpaceRules } from "../kv/space.ts";
import { SenderRates } from "../sender-rates.ts";
import type { StoreOp } from "../store-types.ts";
import { formatCard, verifyCard } from "./card.ts";
import {
  cardFrom,
  type Charter,
  compareSiblings,
  GROUP_KEY_BYTES,
  GROUP_NONCE_BYTES,
  GroupRole,
  type GroupMember,
  isAdmin,
  isGroupName,
  keepsOrder,
  MAX_GROUP_MEMBERS,
  memberOf,
  openEnvelope,
  readCharter,
  signCharter,
  verifyCharter,
} from "./charter.ts";
import { Group, MAX_CHAIN, Place, type Wish, wishOf } from "./group.ts";
import {
  FLOOR_KEY,
  floorOf,
  floorValue,
  isGroupEntry,
  MAX_GROUP_PAYLOAD_BYTES,
  MESSAGE_NONCE_BYTES,
  messageKey,
  readMessageKey,
  sealMessage,
} from "./group-message.ts";

export const GroupFrame = { CHARTER: 24, STATE: 25, LEAVE: 26 } as const;
export const GROUP_FIRST = 24;
export const GROUP_LAST = 26;

/** Messages stay in the space so long; who is away longer misses them. */
export const MESSAGE_LIFE_MS: number = 7 * 86_400_000;
/** Of a group's space; from three quarters on, whoever writes makes room first. */
const MAX_GROUP_BYTES = 4 * 1024 * 1024;
const TRIM_AT = 0.75;
/** Below that much of it, nobody's floor removes anything. */
const FLOOR_FROM = 0.5;
/** Of the messages held, the oldest part that a floor may remove: writers ask for half, and replicas differ a little. */
const FLOOR_MOST = 0.625;
const MEMBER_LIFE_MS = 30 * 86_400_000;
const ROUND_MS = 60_000;
const RENEW_MS = 3_600_000;
const MAX_STATES = 64;
const MAX_LEFT = 256;
/** Groups into which one member may bring this node. */
const MAX_BY_ONE = 16;
/** Of charters, answered to one frame; the rest comes with the next round. */
const MAX_CHAINS_BYTES = 1 << 20;
/** What needs a person to look is told once in so long, for each group. */
const TROUBLE_MS = 3_600_000;
const STATE_BYTES = 52;
const HASH_PREFIX_BYTES = 16;

export type GroupsOutput =
  | { readonly kind: "send"; readonly to: Uint8Array; readonly channel: FrameChannel; readonly frame: Uint8Array }
  | { readonly kind: "store"; readonly op: StoreOp }
  | { readonly kind: "message"; readonly group: Group; readonly entry: Entry; readonly payload: Uint8Array }
  /** Its members, or this node's part in it, have changed. */
  | { readonly kind: "changed"; readonly group: Group }
  /** A charter beside those that count here, rightly signed: somebody follows another line of changes. */
  | { readonly kind: "conflict"; readonly group: Group; readonly issuer: Uint8Array; readonly from: Uint8Array }
  /** Its messages find no place: this node has as many spaces as it may. */
  | { readonly kind: "noSpace"; readonly group: Group };

/** A charter as the store has it. */
export interface StoredCharter {
  readonly wire: Uint8Array;
  readonly key: Uint8Array | undefined;
  /** Wall-clock milliseconds at which it came. */
  readonly takenMs: number;
  /** 32 bytes, see Group.broughtBy */
  readonly broughtBy: Uint8Array;
}

export interface GroupsDeps {
  readonly identity: Pick<Identity, "nodeId" | "sign" | "staticKeys">;
  readonly random: Random;
  /** 32 bytes */
  readonly networkId: Uint8Array;
  readonly replicas: Replicas;
  isMember(nodeId: Uint8Array): boolean;
  isBlocked(nodeId: Uint8Array): boolean;
}

export interface GroupsOptions {
  /** @default 48: spaces for keys and tasks are left */
  readonly maxGroups?: number;
}

/** Everything counted; values only grow, except the last. */
export interface GroupsCounters {
  framesIn: number;
  framesRefused: number;
  framesOverRate: number;
  chartersTaken: number;
  chartersRefused: number;
  chartersLost: number;
  conflicts: number;
  signaturesRefused: number;
  groupsRefused: number;
  spacesRefused: number;
  floorsTaken: number;
  messagesSent: number;
  messagesOpened: number;
  messagesUnreadable: number;
  groups: number;
}

export class Groups {
  readonly #deps: GroupsDeps;
  readonly #maxGroups: number;
  readonly #groups = new Map<string, Group>();
  readonly #outputs: GroupsOutput[] = [];
  readonly #rates = new SenderRates(5, 100);
  /** By group and receiver. */
  readonly #chainRates = new SenderRates(1 / 3, 2);
  /** By group. */
  readonly #floorRates = new SenderRates(1 / 30, 8);
  /** By group, wall-clock milliseconds; as many as groups. */
  readonly #troubleMs = new Map<string, number>();
  readonly #counts = {
    framesIn: 0,
    framesRefused: 0,
    framesOverRate: 0,
    chartersTaken: 0,
    chartersRefused: 0,
    chartersLost: 0,
    conflicts: 0,
    signaturesRefused: 0,
    groupsRefused: 0,
    spacesRefused: 0,
    floorsTaken: 0,
    messagesSent: 0,
    messagesOpened: 0,
    messagesUnreadable: 0,
  };
  /** Groups that this node left, until they know it. */
  readonly #left = new Set<string>();
  #wallMs = 0;
  #roundDueMs = Infinity;
  #renewDueMs = Infinity;

  constructor(deps: GroupsDeps, options: GroupsOptions = {}) {
    this.#deps = deps;
    this.#maxGroups = options.maxGroups ?? 48;
  }

  get counters(): GroupsCounters {
    return { ...this.#counts, groups: this.#groups.size };
  }

  list(): Group[] {
    return [...this.#groups.values()];
  }

  /** @param reference name, or at least the first 8 digits of the id @throws WeftError GROUP_UNKNOWN, GROUP_AMBIGUOUS */
  find(reference: string): Group {
    const text = reference.toLowerCase();
    const byName = this.list().filter((group) => group.current.name === text);
    const found =
      byName.length > 0 || !/^[0-9a-f]{8,64}$/.test(text)
        ? byName
        : this.list().filter((group) => group.hex.startsWith(text));
    if (found.length > 1)
      throw new WeftError(
        "GROUP_AMBIGUOUS",
        `${found.length} groups are called "${reference}"`,
        "use the id: weft groups",
      );
    if (found.length === 0) throw new WeftError("GROUP_UNKNOWN", `no group "${reference}" here`, "see `weft groups`");
    return found[0];
  }

  /** The rules of a group's space, by its name; undefined: no such group, or this node is not in it. */
  rulesOf(spaceName: string): SpaceRules | undefined {
    for (const group of this.#groups.values()) {
      if (group.spaceName === spaceName && this.#isIn(group)) return this.#rules(group);
    }
    return undefined;
  }

  /** At start, from the store, before the spaces. @param rows charters with the keys in them @param left groups that this node left */
  restore(now: Now, rows: readonly StoredCharter[], left: readonly Uint8Array[]): void {
    this.#wallMs = now.wallMs;
    for (const id of left) this.#left.add(toHex(id));
    const read = rows
      .flatMap((row) => {
        const charter = readCharter(this.#deps.networkId, row.wire);
        return charter === undefined ? [] : [{ ...row, charter }];
      })
      .toSorted((a, b) => a.charter.epoch - b.charter.epoch || a.charter.hlc - b.charter.hlc);
    for (const { charter, key, takenMs, broughtBy } of read) {
      const group = this.#groups.get(toHex(charter.group));
      const place = group?.place(charter, 0);
      if (group === undefined) this.#groups.set(toHex(charter.group), new Group(charter, broughtBy, takenMs));
      else if (place !== Place.KNOWN && place !== Place.LOSES) group.append(charter, takenMs);
      if (key !== undefined) this.#groups.get(toHex(charter.group))!.addKey(epochKeyOf(charter, key));
    }
    this.#plan(now.nowMs);
  }

  /** At start, after the spaces: opens them, and tells every message again (whoever stores them knows which are new). */
  resume(now: Now): void {
    for (const group of this.#groups.values()) {
      if (!this.#isIn(group)) continue;
      const space = this.#openSpace(now, group);
      for (const entry of space?.map.entries() ?? []) this.#tell(group, entry);
    }
  }

  // ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param others node ids of members @throws WeftError GROUP_NAME, GROUP_EXISTS, GROUPS_FULL, SPACES_FULL, GROUP_FULL */
  create(now: Now, name: string, others: readonly Uint8Array[]): Group {
    if (!isGroupName(name))
      throw new WeftError(
        "GROUP_NAME",
        `"${name}" is no name for a group`,
        "use 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
      );
    if (this.list().some((group) => group.current.name === name && this.#isIn(group)))
      throw new WeftError("GROUP_EXISTS", `there is a group "${name}" already`, "choose another name");
    if (this.#groups.size >= this.#maxGroups)
      throw new WeftError(
        "GROUPS_FULL",
        `this node knows ${this.#groups.size} groups`,
        "leave one: weft groups leave NAME",
      );
    if (!this.#deps.replicas.hasRoom(SpaceKind.GROUP)) throw noSpace();
    const untilMs = lifeEnd(now);
    const members: GroupMember[] = [{ nodeId: this.#self, role: GroupRole.ADMIN, untilMs }];
    for (const nodeId of others) {
      if (!members.some((member) => equal(member.nodeId, nodeId)))
        members.push({ nodeId, role: GroupRole.MEMBER, untilMs });
    }
    return this.#issue(now, undefined, name, members);
  }

  /** @throws WeftError GROUP_DENIED, GROUP_FULL */
  add(now: Now, group: Group, nodeId: Uint8Array, role: GroupRole): void {
    const known = memberOf(group.current, nodeId);
    if (known?.role === role && known.untilMs > now.wallMs) return;
    const added = { nodeId, role, untilMs: lifeEnd(now) };
    this.#change(now, group, (members) =>
      known === undefined
        ? [...members, added]
        : members.map((member) => (equal(member.nodeId, nodeId) ? added : member)),
    );
  }

  /** From its next charter on it can read nothing. @throws WeftError GROUP_DENIED, NODE_UNKNOWN (it is not in it), GROUP_LAST_ADMIN */
  remove(now: Now, group: Group, nodeId: Uint8Array): void {
    if (memberOf(group.current, nodeId) === undefined)
      throw new WeftError("NODE_UNKNOWN", "that node is not in the group", "see `weft groups show NAME`");
    this.#change(now, group, (members) => members.filter((member) => !equal(member.nodeId, nodeId)));
  }

  /** This node is not in it any more, at once here, and for the others when an admin has heard of it. @throws WeftError GROUP_LAST_ADMIN */
  leave(now: Now, group: Group): void {
    this.#wallMs = now.wallMs;
    if (this.#isIn(group) && group.isAdmin(this.#self, now.wallMs) && group.current.members.length > 1) {
      this.remove(now, group, this.#self);
    } else if (this.#isIn(group)) {
      const frame = concat(Uint8Array.of(GroupFrame.LEAVE), group.id);
      for (const member of group.current.members) {
        if (member.role === GroupRole.ADMIN && !equal(member.nodeId, this.#self)) this.#send(member.nodeId, frame);
      }
    }
    this.#closeSpace(group);
    group.forgetKeys();
    this.#groups.delete(group.hex);
    this.#troubleMs.delete(group.hex);
    this.#left.add(group.hex);
    this.#store("groups.left.put", [group.id]);
    const [oldest] = this.#left;
    if (this.#left.size > MAX_LEFT) this.#forgetLeft(oldest);
    this.#store("groups.delete", [group.id]);
  }

  /** @returns the entry @throws WeftError GROUP_DENIED, MESSAGE_TOO_LARGE, SPACE_FULL, SPACES_FULL */
  send(now: Now, group: Group, payload: Uint8Array): Entry {
    this.#wallMs = now.wallMs;
    const key = group.currentKey();
    const space = this.#isIn(group) ? this.#openSpace(now, group) : undefined;
    if (space === undefined && this.#isIn(group)) throw noSpace();
    if (space === undefined || key === undefined)
      throw new WeftError(
        "GROUP_DENIED",
        `this node is not in "${group.current.name}" any more`,
        "ask one of its admins",
      );
    if (payload.length > MAX_GROUP_PAYLOAD_BYTES)
      throw new WeftError(
        "MESSAGE_TOO_LARGE",
        `the message has ${payload.length} bytes, at most ${MAX_GROUP_PAYLOAD_BYTES} fit`,
        "share a file: weft files",
      );
    if (space.map.bytes > TRIM_AT * MAX_GROUP_BYTES) this.#raiseFloor(now, group, space);
    const nonce = this.#deps.random.bytes(MESSAGE_NONCE_BYTES);
    const name = messageKey(group.current.epoch, this.#self, nonce);
    const sealed = sealMessage(key, group.id, this.#self, name, nonce, payload);
    this.#counts.messagesSent++;
    return this.#deps.replicas.write(now, space, name, sealed);
  }

  /** This node's card as text. @throws WeftError NODE_UNKNOWN when that node is not in the group */
  card(group: Group, nodeId: Uint8Array): string {
    const found = cardFrom(group.current, nodeId);
    if (found === undefined)
      throw new WeftError("NODE_UNKNOWN", "that node is not in the group", "see `weft groups show NAME`");
    return formatCard(found.card, found.signature);
  }

  // ── others ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** An entry of a space of the kind GROUP was written, here or elsewhere. */
  entryChanged(now: Now, space: Space, entry: Entry): void {
    this.#wallMs = now.wallMs;
    for (const group of this.#groups.values()) {
      if (group.space !== space) continue;
      if (entry.key !== FLOOR_KEY) this.#tell(group, entry);
      this.#considerFloor(now, group);
    }
  }

  /** It is no member of the network any more: admins take it out of their groups, which get new keys. */
  memberGone(now: Now, nodeId: Uint8Array): void {
    this.#wallMs = now.wallMs;
    for (const group of this.#groups.values()) {
      const isLastAdmin = !group.current.members.some(
        (member) => member.role === GroupRole.ADMIN && !equal(member.nodeId, nodeId),
      );
      if (isLastAdmin || equal(nodeId, this.#self) || memberOf(group.current, nodeId) === undefined) continue;
      if (group.isAdmin(this.#self, now.wallMs)) this.remove(now, group, nodeId);
    }
  }

  peerUp(now: Now, nodeId: Uint8Array): void {
    this.#wallMs = now.wallMs;
    this.#sendStates(
      nodeId,
      this.list().filter((group) => memberOf(group.current, nodeId) !== undefined),
      true,
    );
  }

  /** @param from 32 bytes, the authenticated sender @param frame anything */
  handleFrame(now: Now, from: Uint8Array, frame: Uint8Array): void {
    this.#wallMs = now.wallMs;
    this.#counts.framesIn++;
    if (!this.#rates.take(now.nowMs, toHex(from))) {
      this.#counts.framesOverRate++;
      return;
    }
    if (this.#deps.isBlocked(from)) {
      this.#counts.framesRefused++;
      return;
    }
    if (frame[0] === GroupFrame.CHARTER) return this.#takeCharter(now, from, frame.subarray(1));
    if (frame[0] === GroupFrame.STATE && this.#takeStates(now, from, frame)) return;
    if (frame[0] === GroupFrame.LEAVE && this.#takeLeave(now, from, frame)) return;
    this.#counts.framesRefused++;
  }

  nextTimeoutMs(): number {
    return Math.min(this.#roundDueMs, this.#renewDueMs);
  }

  handleTimeout(now: Now): void {
    this.#wallMs = now.wallMs;
    if (now.nowMs >= this.#renewDueMs) {
      this.#renewDueMs = Infinity;
      for (const group of this.list()) this.#renew(now, group);
    }
    if (now.nowMs >= this.#roundDueMs) {
      this.#roundDueMs = Infinity;
      for (const group of this.#groups.values()) {
        if (this.#isIn(group)) this.#openSpace(now, group);
        const others = group.current.members.filter((member) => !equal(member.nodeId, this.#self));
        if (others.length === 0) continue;
        this.#sendStates(others[this.#deps.random.u32() % others.length].nodeId, [group], true);
      }
    }
    this.#plan(now.nowMs);
  }

  pollOutput(): GroupsOutput | undefined {
    return this.#outputs.shift();
  }

  get #self(): Uint8Array {
    return this.#deps.identity.nodeId;
  }

  #takeCharter(now: Now, from: Uint8Array, wire: Uint8Array): void {
    const { networkId } = this.#deps;
    const charter = readCharter(networkId, wire);
    if (charter === undefined || isAhead(charter.hlc, now.wallMs)) {
      this.#counts.chartersRefused++;
      return;
    }
    const group = this.#groups.get(toHex(charter.group));
    if (group === undefined) return this.#meet(now, charter);
    const place = group.place(charter, now.wallMs);
    if (place === Place.KNOWN) return;
    if (place === Place.LOSES || place === Place.SETTLED) {
      this.#counts.chartersLost++;
      if (place === Place.SETTLED) this.#conflict(from, group, charter);
      // its sender does not know the one that counts
      this.#sendChain(now, from, group, charter.epoch - 1);
      return;
    }
    if (place === Place.GAP && charter.epoch <= group.current.epoch + MAX_CHAIN) {
      const [first] = group.chain;
      if (charter.epoch > first.epoch) {
        this.#sendStates(from, [group], true);
        // one that comes too early is further than what is here
        if (charter.epoch <= group.current.epoch) this.#conflict(from, group, charter);
      } else if (!this.#replacesFirst(group, from, charter)) {
        // what came before the first one here may come late
        if (charter.epoch === first.epoch || charter.hlc > first.hlc) this.#conflict(from, group, charter);
      } else {
        group.isFirstLost = false;
        const gone = this.#apply(now, group, charter);
        this.#wishAgain(now, group, first, gone.slice(1));
      }
      return;
    }
    // after a gap that nobody can fill any more, an admin of the last known charter is believed
    const parent = group.parentOf(charter);
    const before = parent ?? group.current;
    const isRight =
      charter.hlc > before.hlc &&
      isAdmin(before, charter.issuer, wallFromHlc(charter.hlc)) &&
      (parent === undefined ? this.#deps.isMember(charter.issuer) : keepsOrder(charter, parent));
    if (!isRight) {
      this.#counts.chartersRefused++;
      if (parent === undefined) this.#conflict(from, group, charter);
      return;
    }
    if (!verifyCharter(networkId, charter)) {
      this.#counts.signaturesRefused++;
      return;
    }
    const gone = this.#apply(now, group, charter);
    this.#wishAgain(now, group, before, gone);
  }

  /** The first charter of a group that this node hears of. */
  #meet(now: Now, charter: Charter): void {
    const { networkId } = this.#deps;
    const hex = toHex(charter.group);
    const own = cardFrom(charter, this.#self);
    if (this.#left.has(hex)) {
      if (own === undefined) this.#forgetLeft(hex);
      else this.#send(charter.issuer, concat(Uint8Array.of(GroupFrame.LEAVE), charter.group));
      return;
    }
    const isPlausible =
      own !== undefined &&
      own.card.untilMs > now.wallMs &&
      isAdmin(charter, charter.issuer, now.wallMs) &&
      this.#deps.isMember(charter.issuer) &&
      !this.#deps.isBlocked(charter.issuer);
    const byIssuer = this.list().filter((group) => equal(group.broughtBy, charter.issuer)).length;
    const hasRoom =
      this.#groups.size < this.#maxGroups &&
      this.#deps.replicas.hasRoom(SpaceKind.GROUP) &&
      this.list().every((group) => group.space !== undefined || !this.#isIn(group));
    if (!isPlausible || !hasRoom || byIssuer >= MAX_BY_ONE) {
      this.#counts.groupsRefused++;
      return;
    }
    if (!verifyCharter(networkId, charter) || !verifyCard(networkId, own.card, own.signature)) {
      this.#counts.signaturesRefused++;
      return;
    }
    const group = new Group(charter, charter.issuer, now.wallMs);
    this.#groups.set(group.hex, group);
    this.#apply(now, group, charter);
  }

  /**
   * This node came to the group by a charter that has lost since, beside one that came before anything that is known here: an admin of the group
   * as it is known here says so, and as with the first one it is believed.
   */
  #replacesFirst(group: Group, from: Uint8Array, charter: Charter): boolean {
    const [first] = group.chain;
    // beside the first one, beside the one before it, or what its own issuer follows now
    const isBeside =
      charter.epoch === first.epoch
        ? !equal(charter.parent, first.parent) || compareSiblings(charter, first, undefined) > 0
        : charter.epoch === first.epoch - 1
          ? !equal(charter.hash, first.parent)
          : group.isFirstLost && equal(from, first.issuer);
    const isPossible =
      isBeside &&
      group.chain.length < MAX_CHAIN &&
      group.isAdmin(from, this.#wallMs) &&
      isAdmin(charter, charter.issuer, this.#wallMs);
    return isPossible && verifyCharter(this.#deps.networkId, charter);
  }

  /** @returns charters that do not count any more */
  #apply(now: Now, group: Group, charter: Charter): Charter[] {
    const gone = group.chain.length === 1 && group.current === charter ? [] : group.append(charter, now.wallMs);
    const key = openEnvelope(charter, this.#self, this.#deps.identity.staticKeys);
    if (key !== undefined) group.addKey(epochKeyOf(charter, key));
    for (const one of gone) this.#store("groups.charter.delete", [group.id, one.hash]);
    this.#store("groups.charter.put", [
      group.id,
      charter.hash,
      this.#deps.networkId,
      charter.epoch,
      charter.wire,
      key ?? null,
      Math.floor(now.wallMs),
      group.broughtBy,
    ]);
    this.#store("groups.charter.trim", [group.id, charter.epoch - 4 * MAX_CHAIN]);
    this.#counts.chartersTaken++;
    if (this.#isIn(group)) {
      const space = this.#openSpace(now, group);
      if (space !== undefined) this.#deps.replicas.expel(space);
      for (const member of charter.members)
        if (!equal(member.nodeId, this.#self)) space?.heardOf(member.nodeId, now.nowMs);
      // what came before its key did
      for (const entry of space?.map.entries() ?? []) {
        if (readMessageKey(entry.key)?.epoch === charter.epoch) this.#tell(group, entry);
      }
    } else this.#closeSpace(group);
    this.#outputs.push({ kind: "changed", group });
    this.#plan(now.nowMs);
    return gone;
  }

  /** Changes of this node that were in charters which do not count any more are made again. */
  #wishAgain(now: Now, group: Group, before: Charter, gone: readonly Charter[]): void {
    let previous = before;
    for (const charter of gone) {
      if (equal(charter.issuer, this.#self) && group.isAdmin(this.#self, now.wallMs)) {
        const wish = wishOf(charter, previous);
        const members = granted(group.current, wish, lifeEnd(now));
        if (members !== undefined) this.#issue(now, group, group.current.name, members);
      }
      previous = charter;
    }
  }

  #forgetLeft(hex: string): void {
    this.#left.delete(hex);
    this.#store("groups.left.delete", [Uint8Array.fromHex(hex)]);
  }

  #takeStates(now: Now, from: Uint8Array, frame: Uint8Array): boolean {
    const reader = new FieldReader(frame, 1);
    const wantsAnswer = reader.u8() === 1;
    const count = reader.u8();
    if (count > MAX_STATES || frame.length !== 3 + count * STATE_BYTES) return false;
    const answers: Group[] = [];
    const named = new Set<string>();
    let room = MAX_CHAINS_BYTES;
    for (let i = 0; i < count; i++) {
      const id = reader.bytes(32);
      const epoch = reader.u32();
      const prefix = reader.bytes(HASH_PREFIX_BYTES);
      const hex = toHex(id);
      if (named.has(hex)) return false;
      named.add(hex);
      const group = this.#groups.get(hex);
      // the charter that brought this node into it was lost
      if (group === undefined && wantsAnswer) {
        if (this.#left.has(hex)) this.#send(from, concat(Uint8Array.of(GroupFrame.LEAVE), id));
        else this.#send(from, concat(Uint8Array.of(GroupFrame.STATE, 0, 1), id, new Uint8Array(STATE_BYTES - 32)));
      }
      if (group === undefined || !this.#mayKnow(group, from)) continue;
      const isSame = (charter: Charter): boolean => equal(charter.hash.subarray(0, HASH_PREFIX_BYTES), prefix);
      if (isSame(group.current)) continue;
      const known = group.chain.find(isSame);
      if (known !== undefined) room -= room > 0 ? this.#sendChain(now, from, group, known.epoch) : 0;
      else {
        if (wantsAnswer) answers.push(group);
        const { current } = group;
        // who is further needs no more than to see where this node is
        const after = epoch > current.epoch ? current.epoch - 1 : Math.max(0, epoch - MAX_CHAIN);
        if (room > 0) room -= this.#sendChain(now, from, group, after);
        const [first] = group.chain;
        group.isFirstLost = equal(from, first.issuer) && epoch < first.epoch - 1 && epoch > 0;
      }
    }
    this.#sendStates(from, answers, false);
    return true;
  }

  #takeLeave(now: Now, from: Uint8Array, frame: Uint8Array): boolean {
    const group = frame.length === 33 ? this.#groups.get(toHex(frame.subarray(1))) : undefined;
    if (group === undefined || memberOf(group.current, from) === undefined) return false;
    if (group.isAdmin(this.#self, now.wallMs)) this.remove(now, group, from);
    return true;
  }

  /** Members see the charters, and so does who was removed: it should know. */
  #mayKnow(group: Group, nodeId: Uint8Array): boolean {
    return group.chain.some((charter) => memberOf(charter, nodeId) !== undefined);
  }

  #tell(group: Group, entry: Entry): void {
    if (entry.key === FLOOR_KEY || !group.isMember(entry.author, this.#wallMs)) return;
    const payload = group.open(entry);
    if (payload === undefined) {
      this.#counts.messagesUnreadable++;
      return;
    }
    this.#counts.messagesOpened++;
    this.#outputs.push({ kind: "message", group, entry, payload });
  }

  #change(now: Now, group: Group, change: (members: readonly GroupMember[]) => readonly GroupMember[]): void {
    this.#wallMs = now.wallMs;
    if (!group.isAdmin(this.#self, now.wallMs))
      throw new WeftError("GROUP_DENIED", `this node is no admin of "${group.current.name}"`, "ask one of its admins");
    const members = change(group.current.members);
    if (!members.some((member) => member.role === GroupRole.ADMIN))
      throw new WeftError(
        "GROUP_LAST_ADMIN",
        "a group needs an admin",
        "make another member admin first: weft groups add NAME NODE --admin",
      );
    this.#issue(now, group, group.current.name, members);
  }

  #issue(now: Now, group: Group | undefined, name: string, members: readonly GroupMember[]): Group {
    if (members.length > MAX_GROUP_MEMBERS)
      throw new WeftError("GROUP_FULL", `a group has at most ${MAX_GROUP_MEMBERS} members`, "remove some first");
    const { identity, networkId, random, replicas } = this.#deps;
    const key = random.bytes(GROUP_KEY_BYTES);
    const before = group?.current;
    const charter = signCharter(
      networkId,
      {
        origin: group?.chain[0] ?? { founder: this.#self, nonce: random.bytes(GROUP_NONCE_BYTES) },
        name,
        epoch: (before?.epoch ?? 0) + 1,
        parent: before?.hash,
        hlc: Math.max(replicas.tick(now), (before?.hlc ?? 0) + 1),
        members,
      },
      key,
      random.bytes(32),
      identity,
    );
    zeroise(key);
    const target = group ?? new Group(charter, this.#self, now.wallMs);
    this.#groups.set(target.hex, target);
    this.#apply(now, target, charter);
    const frame = concat(Uint8Array.of(GroupFrame.CHARTER), charter.wire);
    const told = new Map([...(before?.members ?? []), ...members].map(({ nodeId }) => [toHex(nodeId), nodeId]));
    for (const nodeId of told.values()) this.#send(nodeId, frame);
    return target;
  }

  #renew(now: Now, group: Group): void {
    if (!group.isAdmin(this.#self, now.wallMs)) return;
    const isDue = group.current.members.some((member) => member.untilMs - now.wallMs < MEMBER_LIFE_MS / 3);
    if (!isDue) return;
    const untilMs = lifeEnd(now);
    // who is no member of the network any more is not renewed
    const members = group.current.members.filter(
      (member) => equal(member.nodeId, this.#self) || this.#deps.isMember(member.nodeId),
    );
    this.#issue(
      now,
      group,
      group.current.name,
      members.map((member) => ({ nodeId: member.nodeId, role: member.role, untilMs })),
    );
  }

  /** The charters after that epoch, oldest first; seldom to the same node. @returns bytes */
  #sendChain(now: Now, to: Uint8Array, group: Group, afterEpoch: number): number {
    if (!this.#chainRates.take(now.nowMs, `${group.hex}/${toHex(to)}`)) {
      this.#counts.framesOverRate++;
      return 0;
    }
    let bytes = 0;
    for (const charter of group.chain) {
      if (charter.epoch <= afterEpoch) continue;
      bytes += charter.wire.length;
      this.#send(to, concat(Uint8Array.of(GroupFrame.CHARTER), charter.wire));
    }
    return bytes;
  }

  #sendStates(to: Uint8Array, groups: readonly Group[], wantsAnswer: boolean): void {
    for (let at = 0; at < groups.length; at += MAX_STATES) {
      const part = groups.slice(at, at + MAX_STATES);
      const states = part.flatMap(({ id, current }) => [
        id,
        u32(current.epoch),
        current.hash.subarray(0, HASH_PREFIX_BYTES),
      ]);
      this.#send(to, concat(Uint8Array.of(GroupFrame.STATE, wantsAnswer ? 1 : 0, part.length), ...states));
    }
  }

  #send(to: Uint8Array, frame: Uint8Array): void {
    if (!equal(to, this.#self)) this.#outputs.push({ kind: "send", to, channel: FrameChannel.DIRECT, frame });
  }

  #isIn(group: Group): boolean {
    return group.isMember(this.#self, this.#wallMs);
  }

  #rules(group: Group): SpaceRules {
    return {
      allows: isGroupEntry,
      trusts: (nodeId) => group.isMember(nodeId, this.#wallMs),
      lifeMs: MESSAGE_LIFE_MS,
      maxBytes: MAX_GROUP_BYTES,
      // the floor makes room, whoever has written most
      authorShare: 1,
      floor: () => group.floor,
    };
  }

  /** Makes room, for all members alike: the older half of the messages is not replicated any more. What was opened is in the history. */
  #raiseFloor(now: Now, group: Group, space: Space): void {
    const floor = oldestPart(space, 0.5);
    if (floor > floorOf(space.map.get(FLOOR_KEY))) {
      this.#deps.replicas.write(now, space, FLOOR_KEY, floorValue(floor));
    }
    this.#considerFloor(now, group);
  }

  /** Follows the floor that a member asks for, as far as room is needed here: nobody can erase what others have not read yet. */
  #considerFloor(now: Now, group: Group): void {
    const { space } = group;
    const wanted = floorOf(space?.map.get(FLOOR_KEY));
    if (space === undefined || wanted <= group.floor || space.map.bytes < FLOOR_FROM * MAX_GROUP_BYTES) return;
    if (!this.#floorRates.take(now.nowMs, group.hex)) return;
    group.floor = Math.max(group.floor, Math.min(wanted, oldestPart(space, FLOOR_MOST)));
    this.#counts.floorsTaken++;
    this.#deps.replicas.prune(space, (entry) => entry.hlc < group.floor && entry.key !== FLOOR_KEY);
  }

  /** @returns undefined when this node has as many spaces as it may: tried again every minute */
  #openSpace(now: Now, group: Group): Space | undefined {
    const { replicas } = this.#deps;
    if (group.space !== undefined) return group.space;
    if (replicas.find(SpaceKind.GROUP, group.spaceName) === undefined && !replicas.hasRoom(SpaceKind.GROUP)) {
      this.#counts.spacesRefused++;
      if (this.#isTimeToTell(group)) this.#outputs.push({ kind: "noSpace", group });
      return undefined;
    }
    group.space = replicas.open(now, SpaceKind.GROUP, group.spaceName, this.#rules(group));
    return group.space;
  }

  #conflict(from: Uint8Array, group: Group, charter: Charter): void {
    this.#counts.conflicts++;
    if (!this.#deps.isMember(charter.issuer) || !verifyCharter(this.#deps.networkId, charter)) return;
    if (this.#isTimeToTell(group)) this.#outputs.push({ kind: "conflict", group, issuer: charter.issuer, from });
  }

  #isTimeToTell(group: Group): boolean {
    const lastMs = this.#troubleMs.get(group.hex) ?? -Infinity;
    if (this.#wallMs - lastMs < TROUBLE_MS) return false;
    this.#troubleMs.set(group.hex, this.#wallMs);
    return true;
  }

  #closeSpace(group: Group): void {
    if (group.space !== undefined) this.#deps.replicas.close(group.space);
    group.space = undefined;
  }

  #plan(nowMs: number): void {
    if (this.#groups.size === 0) return;
    const spread = 0.75 + 0.5 * this.#deps.random.unit();
    this.#roundDueMs = Math.min(this.#roundDueMs, nowMs + ROUND_MS * spread);
    this.#renewDueMs = Math.min(this.#renewDueMs, nowMs + RENEW_MS * spread);
  }

  #store(name: string, values: StoreOp["values"]): void {
    this.#outputs.push({ kind: "store", op: { name, values } });
  }
}

/** @returns undefined when the wish is granted already */
function granted(current: Charter, wish: Wish, untilMs: number): GroupMember[] | undefined {
  let members: GroupMember[] = current.members.map(({ nodeId, role, untilMs }) => ({ nodeId, role, untilMs }));
  let isChanged = false;
  for (const { nodeId, role } of wish.added) {
    if (members.some((member) => equal(member.nodeId, nodeId))) continue;
    members.push({ nodeId, role, untilMs });
    isChanged = true;
  }
  for (const nodeId of wish.removed) {
    isChanged ||= members.some((member) => equal(member.nodeId, nodeId));
    members = members.filter((member) => !equal(member.nodeId, nodeId));
  }
  for (const { nodeId, role } of wish.roles) {
    const at = members.findIndex((member) => equal(member.nodeId, nodeId));
    if (at < 0 || members[at].role === role) continue;
    members[at] = { ...members[at], role };
    isChanged = true;
  }
  const isPossible = members.some((member) => member.role === GroupRole.ADMIN) && members.length <= MAX_GROUP_MEMBERS;
  return isChanged && isPossible ? members : undefined;
}

/** @returns the hlc below which that part of a space's messages is, 0 when there are none */
function oldestPart(space: Space, part: number): number {
  const hlcs: number[] = [];
  for (const entry of space.map.entries()) if (entry.key !== FLOOR_KEY) hlcs.push(entry.hlc);
  hlcs.sort((a, b) => a - b);
  return hlcs[Math.floor(hlcs.length * part)] ?? 0;
}

function noSpace(): WeftError {
  return new WeftError(
    "SPACES_FULL",
    "this node has as many spaces as it may: its messages would find no place",
    "close one that is not needed, or leave a group",
  );
}

function lifeEnd(now: Now): number {
  return Math.floor(now.wallMs + MEMBER_LIFE_MS);
}

function epochKeyOf(charter: Charter, key: Uint8Array): { epoch: number; hashHex: string; key: Uint8Array } {
  return { epoch: charter.epoch, hashHex: toHex(charter.hash), key };
}
