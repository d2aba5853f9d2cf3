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
 * Bounds: groups, members, charters and frames per sender; entries live 7 days in the space, and 4 MiB of them at most: before it is full a writer
 * raises the floor, an entry that says from which hlc on messages are still wanted, for all members alike.
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
  GroupRole,
  type GroupMember,
  isAdmin,
  isGroupName,
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
const MEMBER_LIFE_MS = 30 * 86_400_000;
const ROUND_MS = 60_000;
const RENEW_MS = 3_600_000;
const MAX_STATES = 64;
const MAX_LEFT = 256;
/** Groups into which one member may bring this node. */
const MAX_BY_ONE = 16;
const STATE_BYTES = 52;
const HASH_PREFIX_BYTES = 16;

export type GroupsOutput =
  | { readonly kind: "send"; readonly to: Uint8Array; readonly channel: FrameChannel; readonly frame: Uint8Array }
  | { readonly kind: "store"; readonly op: StoreOp }
  | { readonly kind: "message"; readonly group: Group; readonly entry: Entry; readonly payload: Uint8Array }
  /** Its members, or this node's part in it, have changed. */
  | { readonly kind: "changed"; readonly group: Group };

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
  /** @default 64 */
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
  signaturesRefused: number;
  groupsRefused: number;
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
  readonly #counts = {
    framesIn: 0,
    framesRefused: 0,
    framesOverRate: 0,
    chartersTaken: 0,
    chartersRefused: 0,
    chartersLost: 0,
    signaturesRefused: 0,
    groupsRefused: 0,
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
    this.#maxGroups = options.maxGroups ?? 64;
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
  restore(
    now: Now,
    rows: readonly { readonly wire: Uint8Array; readonly key: Uint8Array | undefined }[],
    left: readonly Uint8Array[],
  ): void {
    this.#wallMs = now.wallMs;
    for (const id of left) this.#left.add(toHex(id));
    const read = rows
      .map(({ wire, key }) => ({ charter: readCharter(this.#deps.networkId, wire), key }))
      .filter((row): row is { charter: Charter; key: Uint8Array | undefined } => row.charter !== undefined)
      .toSorted((a, b) => a.charter.epoch - b.charter.epoch || a.charter.hlc - b.charter.hlc);
    for (const { charter, key } of read) {
      const group = this.#groups.get(toHex(charter.group));
      if (group === undefined) this.#groups.set(toHex(charter.group), new Group(charter));
      else if (group.place(charter) !== Place.KNOWN && group.place(charter) !== Place.LOSES) group.append(charter);
      if (key !== undefined) this.#groups.get(toHex(charter.group))!.addKey(epochKeyOf(charter, key));
    }
    this.#plan(now.nowMs);
  }

  /** At start, after the spaces: opens them, and tells every message again (whoever stores them knows which are new). */
  resume(now: Now): void {
    for (const group of this.#groups.values()) {
      if (!this.#isIn(group)) continue;
      group.space = this.#deps.replicas.open(now, SpaceKind.GROUP, group.spaceName, this.#rules(group));
      for (const entry of group.space.map.entries()) this.#tell(group, entry);
    }
  }

  // ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param others node ids of members @throws WeftError GROUP_NAME, GROUP_EXISTS, GROUPS_FULL, GROUP_FULL */
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
    this.#change(now, group, (members) => [
      ...members.filter((member) => !equal(member.nodeId, nodeId)),
      { nodeId, role, untilMs: lifeEnd(now) },
    ]);
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
    this.#left.add(group.hex);
    this.#store("groups.left.put", [group.id]);
    const [oldest] = this.#left;
    if (this.#left.size > MAX_LEFT) this.#forgetLeft(oldest);
    this.#store("groups.delete", [group.id]);
  }

  /** @returns the entry @throws WeftError GROUP_DENIED, MESSAGE_TOO_LARGE, SPACE_FULL */
  send(now: Now, group: Group, payload: Uint8Array): Entry {
    this.#wallMs = now.wallMs;
    const key = group.currentKey();
    if (group.space === undefined || key === undefined || !this.#isIn(group))
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
    if (group.space.map.bytes > TRIM_AT * MAX_GROUP_BYTES) this.#raiseFloor(now, group, group.space);
    const nonce = this.#deps.random.bytes(MESSAGE_NONCE_BYTES);
    const name = messageKey(group.current.epoch, this.#self, nonce);
    const sealed = sealMessage(key, group.id, this.#self, name, nonce, payload);
    this.#counts.messagesSent++;
    return this.#deps.replicas.write(now, group.space, name, sealed);
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
      if (entry.key === FLOOR_KEY) this.#prune(group);
      else this.#tell(group, entry);
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
    if (frame[0] === GroupFrame.STATE && this.#takeStates(from, frame)) return;
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
    const place = group.place(charter);
    if (place === Place.KNOWN) return;
    if (place === Place.LOSES) {
      this.#counts.chartersLost++;
      // its sender does not know the one that counts
      this.#sendChain(from, group, charter.epoch - 1);
      return;
    }
    if (place === Place.GAP && charter.epoch <= group.current.epoch + MAX_CHAIN) {
      const [first] = group.chain;
      if (charter.epoch > first.epoch) this.#sendStates(from, [group], true);
      else if (this.#replacesFirst(group, from, charter)) {
        group.isFirstLost = false;
        const gone = this.#apply(now, group, charter);
        this.#wishAgain(now, group, first, gone.slice(1));
      }
      return;
    }
    // after a gap that nobody can fill any more, an admin of the last known charter is believed
    const before = group.parentOf(charter) ?? group.current;
    if (charter.hlc <= before.hlc || !isAdmin(before, charter.issuer, wallFromHlc(charter.hlc))) {
      this.#counts.chartersRefused++;
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
    const byIssuer = this.list().filter((group) => equal(group.chain[0].issuer, charter.issuer)).length;
    if (!isPlausible || this.#groups.size >= this.#maxGroups || byIssuer >= MAX_BY_ONE) {
      this.#counts.groupsRefused++;
      return;
    }
    if (!verifyCharter(networkId, charter) || !verifyCard(networkId, own.card, own.signature)) {
      this.#counts.signaturesRefused++;
      return;
    }
    const group = new Group(charter);
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
        ? !equal(charter.parent, first.parent) || compareSiblings(charter, first) > 0
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
    const gone = group.chain.length === 1 && group.current === charter ? [] : group.append(charter);
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
    ]);
    this.#store("groups.charter.trim", [group.id, charter.epoch - 4 * MAX_CHAIN]);
    this.#counts.chartersTaken++;
    if (this.#isIn(group)) {
      if (group.space === undefined) {
        group.space = this.#deps.replicas.open(now, SpaceKind.GROUP, group.spaceName, this.#rules(group));
      } else this.#deps.replicas.expel(group.space);
      for (const member of charter.members)
        if (!equal(member.nodeId, this.#self)) group.space.heardOf(member.nodeId, now.nowMs);
      // what came before its key did
      for (const entry of group.space.map.entries()) {
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

  #takeStates(from: Uint8Array, frame: Uint8Array): boolean {
    const reader = new FieldReader(frame, 1);
    const wantsAnswer = reader.u8() === 1;
    const count = reader.u8();
    if (count > MAX_STATES || frame.length !== 3 + count * STATE_BYTES) return false;
    const answers: Group[] = [];
    for (let i = 0; i < count; i++) {
      const id = reader.bytes(32);
      const epoch = reader.u32();
      const prefix = reader.bytes(HASH_PREFIX_BYTES);
      const group = this.#groups.get(toHex(id));
      // the charter that brought this node into it was lost
      if (group === undefined && wantsAnswer) {
        if (this.#left.has(toHex(id))) this.#send(from, concat(Uint8Array.of(GroupFrame.LEAVE), id));
        else this.#send(from, concat(Uint8Array.of(GroupFrame.STATE, 0, 1), id, new Uint8Array(STATE_BYTES - 32)));
      }
      if (group === undefined || !this.#mayKnow(group, from)) continue;
      const isSame = (charter: Charter): boolean => equal(charter.hash.subarray(0, HASH_PREFIX_BYTES), prefix);
      if (isSame(group.current)) continue;
      const known = group.chain.find(isSame);
      if (known !== undefined) this.#sendChain(from, group, known.epoch);
      else {
        if (wantsAnswer) answers.push(group);
        const { current } = group;
        // who is further needs no more than to see where this node is
        this.#sendChain(from, group, epoch > current.epoch ? current.epoch - 1 : Math.max(0, epoch - MAX_CHAIN));
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
        "make another member admin first: weft groups admin NAME NODE",
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
        group: group?.id,
        name,
        epoch: (before?.epoch ?? 0) + 1,
        parent: before?.hash,
        hlc: Math.max(replicas.tick(now), (before?.hlc ?? 0) + 1),
        members,
      },
      key,
      random.bytes(32),
      random.bytes(16),
      identity,
    );
    zeroise(key);
    const target = group ?? new Group(charter);
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

  /** The charters after that epoch, oldest first. */
  #sendChain(to: Uint8Array, group: Group, afterEpoch: number): void {
    for (const charter of group.chain) {
      if (charter.epoch > afterEpoch) this.#send(to, concat(Uint8Array.of(GroupFrame.CHARTER), charter.wire));
    }
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
      floor: () => floorOf(group.space?.map.get(FLOOR_KEY)),
    };
  }

  /** Makes room, for all members alike: the older half of the messages is not replicated any more. What was opened is in the history. */
  #raiseFloor(now: Now, group: Group, space: Space): void {
    const hlcs = [...space.map.entries()].map((entry) => entry.hlc).toSorted((a, b) => a - b);
    const floor = hlcs[Math.floor(hlcs.length / 2)];
    if (floor === undefined || floor <= floorOf(space.map.get(FLOOR_KEY))) return;
    this.#deps.replicas.write(now, space, FLOOR_KEY, floorValue(floor));
    this.#prune(group);
  }

  #prune(group: Group): void {
    const { space } = group;
    if (space === undefined) return;
    const floor = floorOf(space.map.get(FLOOR_KEY));
    this.#deps.replicas.prune(space, (entry) => entry.hlc < floor && entry.key !== FLOOR_KEY);
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

function lifeEnd(now: Now): number {
  return Math.floor(now.wallMs + MEMBER_LIFE_MS);
}

function epochKeyOf(charter: Charter, key: Uint8Array): { epoch: number; hashHex: string; key: Uint8Array } {
  return { epoch: charter.epoch, hashHex: toHex(charter.hash), key };
}
