/** `weft init`: identity and network in a state directory that has none. */
import { hostname } from "node:os";
import { formatNodeId } from "../crypto/node-id.ts";
import { toHex } from "../base/bytes.ts";
import { formatAddress } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";
import { Identity } from "../crypto/identity.ts";
import { networkPrefix } from "../crypto/node-id.ts";
import { MeshNode } from "../mesh/mesh-node.ts";
import { systemClock } from "./clock.ts";
import { defaultNodeName, loadConfig } from "./config.ts";
import { systemRandom } from "./random.ts";
import { NETWORK_KEY } from "./persistence.ts";
import { StateDirectory } from "./state-dir.ts";
import type { Mutation } from "./store.ts";
import { Store } from "./store.ts";
import { readRoutedPrefixes } from "./underlay.ts";

export interface InitOptions {
  /** absolute */
  readonly stateDirectory: string;
  readonly network: string;
  /** @default the host's name */
  readonly name?: string | undefined;
  /** @default a /16 of 100.64.0.0/10 that collides with no route of this host */
  readonly ipv4?: string | undefined;
}

export interface InitResult {
  readonly node: { readonly id: string; readonly name: string; readonly addresses: readonly string[] };
  readonly network: { readonly id: string; readonly name: string; readonly ipv4: string; readonly ipv6: string };
  readonly stateDirectory: string;
}

/**
 * Nothing is written unless everything is valid, and nothing that exists is replaced.
 * @throws WeftError NETWORK_EXISTS, IDENTITY_DAMAGED, STATE_LOCKED, NAME_INVALID, PREFIX_INVALID, …
 */
export async function initNetwork(options: InitOptions): Promise<InitResult> {
  const directory = new StateDirectory(options.stateDirectory);
  let store: Store | undefined;
  try {
    const config = loadConfig(directory.path, { name: options.name });
    const known = directory.readIdentity();
    store = new Store(directory.prepareDatabase());
    const { meta, statements } = store.load();
    if (meta.has(NETWORK_KEY) || statements.length > 0) {
      throw new WeftError(
        "NETWORK_EXISTS",
        `${directory.path} belongs to a network already`,
        "start it with `weft up`, leave it with `weft leave`, or choose another directory with --state",
      );
    }
    const identity = known ?? Identity.generate(systemRandom);
    const mesh = new MeshNode({ identity, random: systemRandom });
    const networkId = mesh.createNetwork(systemClock.now(), {
      network: options.network,
      name: config.name ?? defaultNodeName(hostname()),
      ipv4: options.ipv4,
      avoid: await readRoutedPrefixes(),
    });
    const mutations: Mutation[] = [{ kind: "meta", key: NETWORK_KEY, value: networkId }];
    for (let output = mesh.pollOutput(); output !== undefined; output = mesh.pollOutput()) {
      if (output.kind === "persistStatement")
        mutations.push({ kind: "statement", hash: output.hash, bytes: output.bytes });
    }
    const self = mesh.self;
    if (self === undefined) throw new WeftError("INTERNAL", "the founder is no member of its network", "report this");
    if (known === undefined) directory.writeIdentity(identity);
    store.apply(mutations);
    return {
      node: { id: formatNodeId(identity.nodeId), name: self.name, addresses: [self.ipv4, self.ipv6] },
      network: {
        id: toHex(networkId),
        name: mesh.networkName ?? options.network,
        ipv4: mesh.ipv4Prefix ?? "",
        ipv6: `${formatAddress(networkPrefix(networkId))}/48`,
      },
      stateDirectory: directory.path,
    };
  } finally {
    store?.close();
    directory.close();
  }
}
