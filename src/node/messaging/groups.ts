/**
 * Groups, with this node's store and links: charters and keys in the store, messages in replicated spaces (spaces.ts), what was opened in the
 * history. Every change writes one audit line. Source: docs/protocol.md, "Groups".
 */
import type { MetricSample } from "../../api/control.ts";
import type { CardView, GroupsControl, GroupView } from "../../api/messaging/groups-control.ts";
import { toHex } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { asBytes, asMap, asText, decodeCbor, encodeCbor } from "../../mesh/cbor.ts";
import { wallFromHlc } from "../../mesh/statement.ts";
import { parseCard } from "../../messaging/groups/card.ts";
import { GroupRole, memberOf } from "../../messaging/groups/charter.ts";
import { MAX_GROUP_PAYLOAD_BYTES } from "../../messaging/groups/group-message.ts";
import type { Group } from "../../messaging/groups/group.ts";
import {
  GROUP_FIRST,
  GROUP_LAST,
  Groups,
  type GroupsCounters,
  type StoredCharter,
} from "../../messaging/groups/groups.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import type { Entry } from "../../messaging/kv/entry.ts";
import type { Replicas } from "../../messaging/kv/replicas.ts";
import type { Space, SpaceRules } from "../../messaging/kv/space.ts";
import type { StoreOp } from "../../messaging/store-types.ts";
import type { History } from "./history.ts";
import type { FrameTypes, PartContext } from "./part.ts";
import type { Spaces, SpaceUser } from "./spaces.ts";

const PAGE_ROWS = 256;
/** Around the bytes of a message: its agent's name. */
const MESSAGE_OVERHEAD_BYTES = 128;

export class GroupRooms implements SpaceUser {
  readonly types: readonly FrameTypes[] = [[FrameChannel.DIRECT, GROUP_FIRST, GROUP_LAST]];
  readonly control: GroupsControl;
  readonly #context: PartContext;
  readonly #spaces: Spaces;
  readonly #history: History;
  readonly #isBlocked: (nodeId: Uint8Array) => boolean;
  readonly #watchers = new Map<string, Set<() => void>>();
  #groups: Groups | undefined;
  #cancelTimer: (() => void) | undefined;
  #isClosed = false;

  constructor(context: PartContext, spaces: Spaces, history: History, isBlocked: (nodeId: Uint8Array) => boolean) {
    this.#context = context;
    this.#spaces = spaces;
    this.#history = history;
    this.#isBlocked = isBlocked;
    this.control = this.#createControl();
  }

  get counters(): GroupsCounters | undefined {
    return this.#groups?.counters;
  }

  /** Name of a group for people. */
  nameOf(hex: string): string {
    return this.#groups?.list().find((group) => group.hex === hex)?.current.name ?? hex.slice(0, 8);
  }

  // ── what spaces.ts calls ─────────────────────────────────────────────────────────────────────────────────────────────

  async prepare(replicas: Replicas, networkId: Uint8Array): Promise<void> {
    const { identity, random, clock, store } = this.#context;
    const groups = new Groups({
      identity,
      random,
      networkId,
      replicas,
      isMember: (nodeId) => this.#context.find(nodeId) !== undefined,
      isBlocked: this.#isBlocked,
    });
    await store.commit([{ name: "groups.charters.foreign", values: [networkId] }]);
    const read: StoredCharter[] = [];
    let last: [Uint8Array, Uint8Array] = [new Uint8Array(0), new Uint8Array(0)];
    for (;;) {
      const rows = await store.query("groups.charters", [networkId, ...last], PAGE_ROWS);
      if (rows.length === 0) break;
      for (const row of rows) {
        read.push({
          wire: row["wire"] as Uint8Array,
          key: (row["key"] as Uint8Array | null) ?? undefined,
          takenMs: row["taken"] as number,
          broughtBy: row["brought_by"] as Uint8Array,
        });
      }
      const end = rows.at(-1)!;
      last = [end["group_id"] as Uint8Array, end["hash"] as Uint8Array];
    }
    const left = await store.query("groups.left", []);
    groups.restore(
      clock.now(),
      read,
      left.map((row) => row["group_id"] as Uint8Array),
    );
    this.#groups = groups;
  }

  rulesOf(spaceName: string): SpaceRules | undefined {
    return this.#groups?.rulesOf(spaceName);
  }

  resume(): void {
    this.#groups?.resume(this.#context.clock.now());
  }

  entryChanged(space: Space, entry: Entry): void {
    this.#groups?.entryChanged(this.#context.clock.now(), space, entry);
  }

  /** Sends and tells what there is. @returns false when there was nothing */
  drain(ops: StoreOp[], later: (() => void)[]): boolean {
    let isBusy = false;
    for (let output = this.#groups?.pollOutput(); output !== undefined; output = this.#groups?.pollOutput()) {
      isBusy = true;
      if (output.kind === "send") this.#context.links.send(output.to, output.channel, output.frame);
      else if (output.kind === "store") ops.push(output.op);
      else if (output.kind === "conflict") {
        const [issuer, from] = [output.issuer, output.from].map((nodeId) => this.#spaces.nodeRef(nodeId).name);
        this.#context.log.warn(
          `group "${output.group.current.name}": a change by ${issuer}, delivered by ${from}, does not fit to the one known here; ask an admin which members the group has`,
        );
      } else if (output.kind === "noSpace")
        this.#context.log.warn(
          `group "${output.group.current.name}": no messages, this node has as many spaces as it may; close one or leave a group`,
        );
      else if (output.kind === "message") {
        const { group, entry, payload } = output;
        const message = readPayload(payload);
        if (message === undefined) continue;
        ops.push(
          ...this.#history.opsFor({
            ref: `group/${entry.idHex}`,
            kind: "group",
            conversation: group.hex,
            agent: "node",
            sender: entry.author,
            senderAgent: message.agent === "node" ? "" : message.agent,
            recipient: undefined,
            atMs: this.#context.clock.now().wallMs,
            payload: message.bytes,
          }),
        );
        later.push(() => this.#notify(group.hex));
      }
    }
    this.#arm();
    return isBusy;
  }

  // ── what the part calls ──────────────────────────────────────────────────────────────────────────────────────────────

  handleFrame(from: Uint8Array, frame: Uint8Array): void {
    this.#groups?.handleFrame(this.#context.clock.now(), from, frame);
    this.#spaces.flushSoon();
  }

  peerUp(nodeId: Uint8Array): void {
    this.#groups?.peerUp(this.#context.clock.now(), nodeId);
    this.#spaces.flushSoon();
  }

  memberGone(nodeId: Uint8Array): void {
    this.#groups?.memberGone(this.#context.clock.now(), nodeId);
    this.#spaces.flushSoon();
  }

  close(): void {
    this.#isClosed = true;
    this.#cancelTimer?.();
    for (const group of this.#groups?.list() ?? []) group.forgetKeys();
  }

  metrics(): readonly MetricSample[] {
    const c = this.#groups?.counters;
    if (c === undefined) return [];
    const rows: readonly (readonly [string, string, number])[] = [
      ["frames_received", "Frames about groups.", c.framesIn],
      ["frames_refused", "Frames that are malformed or from blocked members.", c.framesRefused],
      ["frames_over_rate", "Frames beyond what one sender may send.", c.framesOverRate],
      ["charters_taken", "Changes of groups that count.", c.chartersTaken],
      ["charters_refused", "Changes that their issuer may not make.", c.chartersRefused],
      ["charters_lost", "Changes beside another one that counts.", c.chartersLost],
      ["conflicts", "Changes of another line than the one known here.", c.conflicts],
      ["signatures_refused", "Changes that are wrongly signed.", c.signaturesRefused],
      ["groups_refused", "Groups that this node was told of and did not take.", c.groupsRefused],
      ["spaces_refused", "Times a group had no space for its messages.", c.spacesRefused],
      ["floors_taken", "Times messages were dropped because a member asked for room.", c.floorsTaken],
      ["messages_sent", "Messages sealed here.", c.messagesSent],
      ["messages_opened", "Messages opened here, own ones included.", c.messagesOpened],
      ["messages_unreadable", "Messages for which this node has no key.", c.messagesUnreadable],
    ];
    return [
      ...rows.map(([name, help, value]): MetricSample => ({
        name: `weft_groups_${name}_total`,
        type: "counter",
        help,
        labels: {},
        value,
      })),
      { name: "weft_groups", type: "gauge", help: "Groups known here.", labels: {}, value: c.groups },
    ];
  }

  diagnostics(): unknown {
    return this.#groups?.counters ?? {};
  }

  // ── the API ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #createControl(): GroupsControl {
    const { clock, log } = this.#context;
    const done = async (group: Group, what: string): Promise<GroupView> => {
      log.info(`group "${group.current.name}": ${what}`);
      const view = this.#view(group);
      await this.#spaces.flush();
      return view;
    };
    const node = (reference: string): Uint8Array => {
      const member = this.#context.resolve(reference);
      if (member === undefined)
        throw new WeftError("NODE_UNKNOWN", `no member is called "${reference}"`, "see `weft members`");
      return member.nodeId;
    };
    const find = (reference: string): Group => this.#need().find(reference);
    return {
      groups: () =>
        this.#need()
          .list()
          .map((group) => this.#view(group)),
      group: (reference) => this.#view(find(reference)),
      create: (name, nodes) => {
        const group = this.#need().create(clock.now(), name, nodes.map(node));
        return done(group, `created with ${group.current.members.length} members`);
      },
      add: (reference, who, isAdmin) => {
        const group = find(reference);
        const role = isAdmin ? GroupRole.ADMIN : GroupRole.MEMBER;
        this.#need().add(clock.now(), group, node(who), role);
        return done(group, `${who} is ${isAdmin ? "an admin" : "a member"} now`);
      },
      remove: (reference, who) => {
        const group = find(reference);
        this.#need().remove(clock.now(), group, this.#memberNamed(group, who));
        return done(group, `${who} was removed`);
      },
      leave: (reference) => {
        const group = find(reference);
        this.#need().leave(clock.now(), group);
        return done(group, "this node has left");
      },
      send: async (reference, payload, agent) => {
        const group = find(reference);
        if (payload.length > MAX_GROUP_PAYLOAD_BYTES - MESSAGE_OVERHEAD_BYTES)
          throw new WeftError(
            "MESSAGE_TOO_LARGE",
            `the message has ${payload.length} bytes`,
            "share a file: weft files",
          );
        const entry = this.#need().send(
          clock.now(),
          group,
          encodeCbor({ a: agent.slice(0, 64).toWellFormed(), b: payload }),
        );
        await this.#spaces.flush();
        return { id: entry.idHex, epoch: group.current.epoch };
      },
      messages: (reference, after, limit) => {
        const { hex } = find(reference);
        return after === undefined
          ? this.#history.latest("group", hex, limit)
          : this.#history.page("group", hex, after, limit);
      },
      watch: (reference, more) => {
        const { hex } = find(reference);
        const watchers = this.#watchers.get(hex) ?? new Set();
        this.#watchers.set(hex, watchers);
        watchers.add(more);
        return () => {
          watchers.delete(more);
          if (watchers.size === 0 && this.#watchers.get(hex) === watchers) this.#watchers.delete(hex);
        };
      },
      card: (reference, who) => {
        const group = find(reference);
        return this.#need().card(
          group,
          who === undefined ? this.#context.identity.nodeId : this.#memberNamed(group, who),
        );
      },
      verifyCard: (text) => this.#verifyCard(text),
    };
  }

  #need(): Groups {
    if (this.#groups === undefined || this.#isClosed)
      throw new WeftError("NOT_READY", "this node is in no network yet", "join one first: weft up --join TOKEN");
    return this.#groups;
  }

  /** Also one that is no member of the network any more, by the beginning of its id. */
  #memberNamed(group: Group, reference: string): Uint8Array {
    const known = this.#context.resolve(reference)?.nodeId;
    if (known !== undefined) return known;
    const text = reference.toLowerCase();
    const found = group.current.members.filter(({ nodeId }) => {
      const { id, name } = this.#spaces.nodeRef(nodeId);
      return name === text || (text.length >= 8 && id.startsWith(text));
    });
    if (found.length !== 1)
      throw new WeftError(
        "NODE_UNKNOWN",
        `no member of the group is called "${reference}"`,
        "see `weft groups show NAME`",
      );
    return found[0].nodeId;
  }

  #verifyCard(text: string): CardView {
    const networkId = this.#context.networkId();
    const card = networkId === undefined ? undefined : parseCard(networkId, text.trim());
    if (card === undefined)
      throw new WeftError(
        "CARD_INVALID",
        "that is no card of this network, or it was changed",
        "ask its holder for it again",
      );
    const { wallMs } = this.#context.clock.now();
    const group = this.#groups?.list().find((one) => one.hex === toHex(card.group));
    const member = group === undefined ? undefined : memberOf(group.current, card.nodeId);
    const isIssuerAdmin = group?.chain.some((charter) => memberOf(charter, card.issuer)?.role === GroupRole.ADMIN);
    const verdict: CardView["verdict"] =
      card.untilMs <= wallMs
        ? "expired"
        : group === undefined
          ? "issuer-unknown"
          : isIssuerAdmin !== true
            ? "issuer-no-admin"
            : member === undefined || member.untilMs < card.untilMs
              ? "not-member"
              : member.role === card.role
                ? "valid"
                : "other-role";
    return {
      group: toHex(card.group),
      name: card.name,
      node: this.#spaces.nodeRef(card.nodeId),
      role: card.role === GroupRole.ADMIN ? "admin" : "member",
      epoch: card.epoch,
      until: new Date(card.untilMs).toISOString(),
      issuer: this.#spaces.nodeRef(card.issuer),
      valid: verdict === "valid",
      verdict,
    };
  }

  #view(group: Group): GroupView {
    const { wallMs } = this.#context.clock.now();
    const self = this.#context.identity.nodeId;
    const { current } = group;
    return {
      id: group.hex,
      name: current.name,
      epoch: current.epoch,
      role: group.isAdmin(self, wallMs) ? "admin" : group.isMember(self, wallMs) ? "member" : "none",
      members: current.members.map(({ nodeId, role, untilMs }) => ({
        ...this.#spaces.nodeRef(nodeId),
        role: role === GroupRole.ADMIN ? "admin" : "member",
        until: new Date(untilMs).toISOString(),
      })),
      changedAt: new Date(wallFromHlc(current.hlc)).toISOString(),
    };
  }

  #notify(hex: string): void {
    for (const more of this.#watchers.get(hex) ?? []) more();
  }

  #arm(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const atMs = this.#groups?.nextTimeoutMs() ?? Infinity;
    if (this.#isClosed || atMs === Infinity) return;
    this.#cancelTimer = this.#context.clock.schedule(atMs, () => {
      this.#groups?.handleTimeout(this.#context.clock.now());
      this.#spaces.flushSoon();
    });
  }
}

function readPayload(payload: Uint8Array): { readonly agent: string; readonly bytes: Uint8Array } | undefined {
  const map = asMap(decodeCbor(payload, MAX_GROUP_PAYLOAD_BYTES));
  const agent = asText(map?.["a"], 64);
  const bytes = asBytes(map?.["b"], MAX_GROUP_PAYLOAD_BYTES, true);
  return agent === undefined || bytes === undefined ? undefined : { agent, bytes };
}
