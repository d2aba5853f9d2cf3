/**
 * Brings the machine to a plan: leak guard, routing table and rule, marks, forwarding and translation, resolver. One apply() at a time, the
 * newest plan next; what is so already is left alone, so that our own changes, heard again from the kernel, end nowhere.
 *
 * The door is made once and stays until stop() or repair; where it cannot be made, doorProblem says why and everything else goes on.
 *
 * Order: the guard closes before anything else changes and opens after everything else is undone.
 */
import type { Logger } from "../base/log.ts";
import { formatRoutePrefix } from "../mesh/route-prefix.ts";
import type { RoutePrefix } from "../mesh/route-prefix.ts";
import { doorRules, guardRules, markRules } from "./exit.ts";
import type { Resolver, ResolverPlan } from "./resolver.ts";
import { devicesTowards, natRules, parseMainRoutes, ruleSpec, tableLines } from "./subnet-routes.ts";
import type { MainRoute } from "./subnet-routes.ts";
import type { Change, SystemChanges } from "./system-changes.ts";

const IPV4_CONF = "net/ipv4/conf";
const IPV6_CONF = "net/ipv6/conf";

export interface MachinePlan {
  /** Prefix → overlay MTU in bytes; a default route among them when an exit is used. */
  readonly prefixes: ReadonlyMap<string, number>;
  /** undefined: no exit is used. */
  readonly exit: { readonly allowLan: boolean } | undefined;
  /** Prefixes behind this node that others may use. */
  readonly served: readonly RoutePrefix[];
  readonly resolver: ResolverPlan;
}

export interface MachineOptions {
  readonly interface: string;
  /** Of the underlay's packets. */
  readonly mark: number;
  /** UDP ports of the underlay. */
  readonly ports: readonly number[];
  readonly source4: string;
  readonly source6: string;
  readonly overlay4: string;
  readonly overlay6: string;
  /** Eight hexadecimal digits of this daemon. */
  readonly tag: string;
}

export interface MachineDeps {
  readonly changes: SystemChanges;
  readonly resolver: Resolver;
  readonly log: Logger;
}

export class HostMachine {
  /** What did not work at the last apply(), one line each. */
  problems: readonly string[] = [];
  /** Why packets from outside may claim overlay addresses; undefined: they may not. */
  doorProblem: string | undefined;
  /** The leak guard is closed. */
  isGuarded = false;
  /** Forwarding and translation are set up. */
  isServing = false;
  readonly #deps: MachineDeps;
  readonly #options: MachineOptions;
  readonly #table: number;
  /** What was applied last, by part. */
  readonly #applied = new Map<string, string>();
  #next: MachinePlan | undefined;
  #running: Promise<void> | undefined;
  /** One attempt for each start and each repair: a machine without nft does not get it meanwhile. */
  #isDoorTried = false;
  #isClosed = false;

  constructor(deps: MachineDeps, options: MachineOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#table = 0x57000000 + (Number.parseInt(options.tag, 16) & 0xffffff);
  }

  /** Resolves when this plan, or a newer one, is in place or has failed (see problems). */
  apply(plan: MachinePlan): Promise<void> {
    if (this.#isClosed) return Promise.resolve();
    this.#next = plan;
    this.#running ??= this.#run().finally(() => (this.#running = undefined));
    return this.#running;
  }

  /** Undoes by hand while no plan is being applied; the next apply() makes everything again. */
  async undoBy<T>(undo: () => Promise<T>): Promise<T> {
    while (this.#running !== undefined) await this.#running;
    const undoing = undo();
    this.#running = undoing
      .then(
        () => undefined,
        () => undefined,
      )
      .finally(() => {
        this.#applied.clear();
        this.#isDoorTried = false;
        this.isServing = false;
        this.#running = undefined;
      });
    return undoing;
  }

  /** No plan is applied after this. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#next = undefined;
    await this.#running;
  }

  async #run(): Promise<void> {
    for (;;) {
      const plan = this.#next;
      this.#next = undefined;
      if (plan === undefined) return;
      const problems: string[] = [];
      await this.#applyPlan(plan, async (action) => {
        try {
          await action();
        } catch (error) {
          problems.push((error as Error).message);
        }
      });
      for (const problem of problems) if (!this.problems.includes(problem)) this.#deps.log.warn(problem);
      this.problems = problems;
    }
  }

  async #applyPlan(plan: MachinePlan, attempt: (action: () => Promise<void>) => Promise<void>): Promise<void> {
    const main = new Map<4 | 6, MainRoute[]>([
      [4, []],
      [6, []],
    ]);
    const isIdle = plan.prefixes.size === 0 && plan.served.length === 0 && plan.exit === undefined;
    if (!isIdle || this.#applied.size > 0) {
      for (const family of [4, 6] as const)
        await attempt(async () => void main.set(family, await this.#mainRoutes(family)));
    }
    const { exit } = plan;
    if (exit !== undefined) await attempt(() => this.#closeGuard(exit.allowLan, main));
    await this.#closeDoor();
    for (const family of [4, 6] as const) await attempt(() => this.#applyTable(plan, family, main.get(family) ?? []));
    await attempt(() => this.#applyMarks(plan));
    await attempt(() => this.#applyForwarding(plan, [...(main.get(4) ?? []), ...(main.get(6) ?? [])]));
    await attempt(() => this.#deps.resolver.apply(plan.resolver));
    if (exit === undefined) await attempt(() => this.#openGuard());
  }

  async #mainRoutes(family: 4 | 6): Promise<MainRoute[]> {
    return parseMainRoutes(
      await this.#deps.changes.run("ip", ["-j", `-${family}`, "route", "show", "table", "main"]),
      family,
    );
  }

  async #closeDoor(): Promise<void> {
    if (this.#isDoorTried) return;
    this.#isDoorTried = true;
    try {
      await this.#deps.changes.nft(`weft-door-${this.#options.tag}`, doorRules(this.#options), false);
      this.doorProblem = undefined;
    } catch (error) {
      this.doorProblem = (error as Error).message;
      this.#deps.log.warn(`packets from outside with overlay addresses are not dropped: ${this.doorProblem}`);
    }
  }

  #guardName(): string {
    return `weft-guard-${this.#options.tag}`;
  }

  async #closeGuard(allowLan: boolean, main: ReadonlyMap<4 | 6, readonly MainRoute[]>): Promise<void> {
    const lan = (family: 4 | 6): string[] =>
      (main.get(family) ?? [])
        .filter(({ connected, prefix, device }) => connected && prefix.bits > 0 && device !== this.#options.interface)
        .map(({ prefix }) => formatRoutePrefix(prefix));
    const body = guardRules({
      interface: this.#options.interface,
      mark: this.#options.mark,
      lan4: allowLan ? [...new Set(lan(4))].toSorted() : [],
      lan6: allowLan ? [...new Set(lan(6))].toSorted() : [],
    });
    await this.#once("guard", body, () => this.#deps.changes.nft(this.#guardName(), body, true));
    this.isGuarded = true;
  }

  async #openGuard(): Promise<void> {
    this.#applied.delete("guard");
    await this.#undo((change) => change.kind === "nft" && change.guard);
    this.isGuarded = false;
  }

  async #applyTable(plan: MachinePlan, family: 4 | 6, main: readonly MainRoute[]): Promise<void> {
    const { mark, source4, source6, overlay4, overlay6 } = this.#options;
    const lines = tableLines({
      family,
      interface: this.#options.interface,
      source: family === 4 ? source4 : source6,
      overlay: family === 4 ? overlay4 : overlay6,
      prefixes: plan.prefixes,
      main,
      allowLan: plan.exit?.allowLan === true,
    });
    const part = `table${family}`;
    if (lines.length === 0) {
      if (!this.#applied.has(part)) return;
      this.#applied.delete(part);
      await this.#undo(
        ({ kind, ...rest }) => (kind === "rule" || kind === "table") && "family" in rest && rest.family === family,
      );
      return;
    }
    await this.#once(part, lines.join("\n"), async () => {
      await this.#deps.changes.table(family, this.#table, lines);
      await this.#deps.changes.rule(family, ruleSpec(mark, this.#table));
    });
  }

  /** Needed where a strict reverse-path filter would look the underlay's packets up in our table. */
  async #applyMarks(plan: MachinePlan): Promise<void> {
    const { changes } = this.#deps;
    const name = `weft-mark-${this.#options.tag}`;
    const isStrict = changes
      .sysctlNames(IPV4_CONF)
      .some((device) => changes.readSysctl(`${IPV4_CONF}/${device}/rp_filter`) === "1");
    if (plan.prefixes.size === 0 || !isStrict) {
      if (!this.#applied.delete("marks")) return;
      await this.#undo(
        (change) => (change.kind === "nft" && change.table === name) || isSysctl(change, /src_valid_mark$/),
      );
      return;
    }
    const body = markRules(this.#options.mark, this.#options.ports);
    await this.#once("marks", body, async () => {
      await changes.nft(name, body, false);
      await changes.sysctl(`${IPV4_CONF}/all/src_valid_mark`, "1");
    });
  }

  async #applyForwarding(plan: MachinePlan, main: readonly MainRoute[]): Promise<void> {
    const { changes } = this.#deps;
    const name = `weft-nat-${this.#options.tag}`;
    if (plan.served.length === 0) {
      this.isServing = false;
      if (!this.#applied.delete("forwarding")) return;
      await this.#undo(
        (change) => (change.kind === "nft" && change.table === name) || isSysctl(change, /forwarding$|accept_ra$/),
      );
      return;
    }
    const own = this.#options.interface;
    const devices4 = this.#devices(plan, main, 4);
    const devices6 = this.#devices(plan, main, 6);
    await this.#once("forwarding", `${devices4.join()} ${devices6.join()}`, async () => {
      const { overlay4, overlay6 } = this.#options;
      await changes.nft(name, natRules({ interface: own, overlay4, overlay6 }), false);
      for (const device of devices4) await changes.sysctl(`${IPV4_CONF}/${device}/forwarding`, "1");
      // replies may come in through another device than the kernel would choose: loose instead of strict
      if (devices4.length > 0 && changes.readSysctl(`${IPV4_CONF}/${own}/rp_filter`) === "1")
        await changes.sysctl(`${IPV4_CONF}/${own}/rp_filter`, "2");
      if (devices6.length > 0) await this.#forward6(devices6);
    });
    this.isServing = true;
  }

  #devices(plan: MachinePlan, main: readonly MainRoute[], family: 4 | 6): string[] {
    const served = plan.served.filter((prefix) => prefix.family === family);
    if (served.length === 0) return [];
    return [this.#options.interface, ...devicesTowards(served, main, this.#options.interface)];
  }

  /** By interface where the kernel can (force_forwarding, Linux 6.17); else for all, keeping router advertisements where they are used. */
  async #forward6(devices: readonly string[]): Promise<void> {
    const { changes } = this.#deps;
    if (changes.readSysctl(`${IPV6_CONF}/all/forwarding`) === "1") return;
    if (changes.readSysctl(`${IPV6_CONF}/all/force_forwarding`) !== undefined) {
      for (const device of devices) await changes.sysctl(`${IPV6_CONF}/${device}/force_forwarding`, "1");
      return;
    }
    const all = changes.sysctlNames(IPV6_CONF).filter((device) => device !== "all");
    for (const device of all) {
      if (changes.readSysctl(`${IPV6_CONF}/${device}/accept_ra`) === "1")
        await changes.sysctl(`${IPV6_CONF}/${device}/accept_ra`, "2");
    }
    // `all` last: undone first, it resets the others, which then get back what each had
    for (const device of [...all, "all"]) await changes.sysctl(`${IPV6_CONF}/${device}/forwarding`, "1", true);
  }

  async #once(part: string, key: string, action: () => Promise<unknown>): Promise<void> {
    if (this.#applied.get(part) === key) return;
    this.#applied.set(part, "");
    await action();
    this.#applied.set(part, key);
  }

  async #undo(which: (change: Change) => boolean): Promise<void> {
    await this.#deps.changes.undo(which);
  }
}

function isSysctl(change: Change, pattern: RegExp): boolean {
  return change.kind === "sysctl" && pattern.test(change.path);
}
