/** What the local API may ask of forwards and SOCKS proxies. Fields may be added, never renamed. */

interface ListenerFigures {
  /** False: the port could not be taken; it is tried again. */
  readonly listening: boolean;
  readonly error: string | null;
  /** The other node did not let the last connection in: what its weft.toml would have to say. */
  readonly refusal: string | null;
  /** Since it is there. */
  readonly connections: number;
  /** Connections that the other node, or the way to it, refused. */
  readonly failures: number;
  /** Of connections that have ended: from this machine's programs, and to them. */
  readonly bytesUp: number;
  readonly bytesDown: number;
}

export interface ForwardView extends ListenerFigures {
  /** "127.0.0.1:8080" */
  readonly listen: string;
  readonly node: { readonly id: string; readonly name: string };
  /** As the node sees it; "loopback" is the node itself. */
  readonly host: string;
  readonly port: number;
}

export interface ProxyView extends ListenerFigures {
  readonly listen: string;
  /** Where everything goes that is no member; null: nowhere. */
  readonly via: { readonly id: string; readonly name: string } | null;
}

export interface ForwardsControl {
  forwards(): readonly ForwardView[];
  /**
   * @param listen "8080" (loopback) or ADDR:PORT; port 0 takes any free one @param target "NODE:80" or "NODE:HOST:80"
   * @throws WeftError FORWARD_BAD, NODE_UNKNOWN, FORWARD_TAKEN, FORWARD_LIMIT, FORWARD_LISTEN
   */
  addForward(listen: string, target: string): Promise<ForwardView>;
  /** Connections that are open go on. @throws WeftError FORWARD_UNKNOWN */
  removeForward(listen: string): Promise<ForwardView>;
  proxies(): readonly ProxyView[];
  /** @param via member that everything else goes through; undefined: members alone */
  addProxy(listen: string, via: string | undefined): Promise<ProxyView>;
  removeProxy(listen: string): Promise<ProxyView>;
}
