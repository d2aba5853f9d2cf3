/**
 * The nft tables of a node: the door of every one, the leak guard and marks of one that uses an exit.
 *
 * The door drops what comes in from elsewhere than the tunnel and claims to be of the overlay: the members' source check is worth something
 * only when no neighbour on a link can send under their addresses.
 *
 * The leak guard drops what would leave this machine in the clear: everything but loopback, the tunnel's interface, packets with the underlay's mark
 * (the sealed datagrams) and what a link needs to live (DHCP, neighbour discovery). It is kernel state: it holds when the daemon is killed, and opens
 * when the daemon stops, starts again without an exit, or `weft repair` says so. Replaced in one transaction, so it never blinks.
 *
 * The mark table gives datagrams that arrive for the underlay its mark, so that a strict reverse-path filter looks them up as the underlay's.
 * Source: docs/protocol.md, "Subnet routes and exits".
 */

/** SO_MARK of underlay sockets unless configured: no other program is likely to use this value. */
export const UNDERLAY_MARK = 0x57656674;

export interface GuardPlan {
  readonly interface: string;
  readonly mark: number;
  /** Directly connected networks that stay reachable; empty unless allowed. */
  readonly lan4: readonly string[];
  readonly lan6: readonly string[];
}

export function guardRules(plan: GuardPlan): string {
  const lan: string[] = [];
  if (plan.lan4.length > 0) lan.push(`    ip daddr { ${plan.lan4.join(", ")} } accept`);
  if (plan.lan6.length > 0) lan.push(`    ip6 daddr { ${plan.lan6.join(", ")} } accept`);
  return [
    "  chain output {",
    "    type filter hook output priority filter; policy drop;",
    `    oifname { "lo", "${plan.interface}" } accept`,
    `    meta mark ${hex(plan.mark)} accept`,
    "    udp sport 68 udp dport 67 accept",
    "    udp sport 546 udp dport 547 accept",
    "    icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept",
    ...lan,
    "    counter",
    "  }",
    "  chain through {",
    "    type filter hook forward priority filter; policy drop;",
    `    iifname "${plan.interface}" accept`,
    `    oifname "${plan.interface}" accept`,
    ...lan,
    "    counter",
    "  }",
  ].join("\n");
}

export interface DoorPlan {
  readonly interface: string;
  /** The network's prefixes: nobody outside has such a source. */
  readonly overlay4: string;
  readonly overlay6: string;
  /** Own overlay addresses: nobody outside asks for them. */
  readonly source4: string;
  readonly source6: string;
}

export function doorRules(plan: DoorPlan): string {
  return [
    "  chain door {",
    "    type filter hook prerouting priority raw; policy accept;",
    `    iifname { "lo", "${plan.interface}" } accept`,
    `    ip saddr ${plan.overlay4} counter drop`,
    `    ip6 saddr ${plan.overlay6} counter drop`,
    `    ip daddr ${plan.source4} counter drop`,
    `    ip6 daddr ${plan.source6} counter drop`,
    "  }",
  ].join("\n");
}

/** @param ports UDP ports of the underlay */
export function markRules(mark: number, ports: readonly number[]): string {
  return [
    "  chain arrive {",
    "    type filter hook prerouting priority mangle; policy accept;",
    `    udp dport { ${ports.join(", ")} } meta mark set ${hex(mark)}`,
    `    ct mark ${hex(mark)} meta mark set ${hex(mark)}`,
    "  }",
    "  chain leave {",
    "    type filter hook output priority mangle; policy accept;",
    `    meta mark ${hex(mark)} ct mark set ${hex(mark)}`,
    "  }",
  ].join("\n");
}

function hex(mark: number): string {
  return `0x${(mark >>> 0).toString(16)}`;
}
