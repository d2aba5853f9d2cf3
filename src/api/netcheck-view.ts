/** What `weft netcheck` tells: where this node is as seen from outside, and what each way of finding out says. */

export interface NetcheckSourceView {
  /** "stun", "port-mapping", "lan", "observed", "interfaces" or "configured". */
  readonly name: string;
  /** "working", "failing", "hung", "looking", "waiting", "off" or "closed". */
  readonly state: string;
  /** One line: what it found, or why not. */
  readonly text: string;
  /** "ADDR:PORT" of this node that it brought. */
  readonly endpoints: readonly string[];
  /** Since it last worked; null = not yet. */
  readonly ageMs: number | null;
  readonly counters: Readonly<Record<string, number>>;
}

export interface NatView {
  /** "none", "endpoint-independent", "address-dependent", "address-and-port-dependent", "dependent" or "unknown" (RFC 4787). */
  readonly mapping: string;
  /** How external ports come about: "preserved", "sequential", "random" or "unknown". */
  readonly ports: string;
  /** "ADDR:PORT" at which others see this node, newest first. */
  readonly seenAs: readonly string[];
  readonly text: string;
}

export interface NetcheckView {
  readonly ipv4: NatView;
  readonly ipv6: NatView;
  /** Addresses of this host, by family. */
  readonly addresses: { readonly ipv4: readonly string[]; readonly ipv6: readonly string[] };
  /** "works", "silent" (asked, nobody answered) or "unknown" (nobody to ask). */
  readonly udp: string;
  /** Whether the router sends back what goes to its own outside; null = not known. */
  readonly hairpin: boolean | null;
  readonly portMapping: {
    /** "pcp", "nat-pmp" or "upnp"; null = none works. */
    readonly protocol: string | null;
    readonly endpoint: string | null;
    /** What each protocol said last. */
    readonly said: Readonly<Record<string, string>>;
  };
  /** Round trip to each beacon, at most 8; null = no answer. */
  readonly beacons: readonly { readonly id: string; readonly name: string; readonly rttMs: number | null }[];
  readonly sources: readonly NetcheckSourceView[];
}
