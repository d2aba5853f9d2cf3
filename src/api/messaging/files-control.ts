/** What the local API may ask of files. Fields may be added, never renamed. */

interface FileNode {
  readonly id: string;
  readonly name: string;
}

export interface ShareView {
  /** "f1…", 58 characters: what the contents are called everywhere. */
  readonly id: string;
  readonly name: string;
  readonly path: string;
  readonly sizeBytes: number;
  /** False: only the nodes in `peers` may fetch it. */
  readonly everybody: boolean;
  readonly peers: readonly FileNode[];
  /** In this run. */
  readonly bytesServed: number;
  /** RFC 3339 */
  readonly addedAt: string;
}

export interface TransferPeerView extends FileNode {
  /** A source: "waiting", "connecting", "fetching", "without" (it does not have the file) or "banned" (it sent wrong bytes); a receiver: "to". */
  readonly state: string;
  readonly bytes: number;
  readonly error: string | null;
}

export interface TransferView {
  /** Names the transfer on this node. */
  readonly key: string;
  /** "get": asked for here; "receive": a member sent it; "send": to a member; "share": being hashed to be shared. */
  readonly kind: "get" | "receive" | "send" | "share";
  /** File id; null while it is not known. */
  readonly id: string | null;
  readonly name: string;
  readonly sizeBytes: number | null;
  /** Verified at the receiver; of a file that is being hashed, hashed. */
  readonly doneBytes: number;
  readonly bytesPerSecond: number;
  readonly state:
    | "queued"
    | "hashing"
    | "offering"
    | "waiting"
    | "checking"
    | "fetching"
    | "done"
    | "failed"
    | "refused"
    | "cancelled";
  readonly error: string | null;
  /** Where the file is, or was sent from. */
  readonly path: string | null;
  readonly peers: readonly TransferPeerView[];
  /** RFC 3339 */
  readonly startedAt: string;
  readonly finishedAt: string | null;
}

export interface FilesView {
  readonly shares: readonly ShareView[];
  readonly transfers: readonly TransferView[];
  /** Where received files go. */
  readonly directory: string;
  /** What received and unfinished files take of the quota. */
  readonly usedBytes: number;
  readonly quotaBytes: number;
}

export interface GetRequest {
  readonly id: string;
  /** Members to fetch from; none: every member that is up is asked. */
  readonly from?: readonly string[] | undefined;
  /** Absolute; undefined: into the directory for received files. */
  readonly path?: string | undefined;
  readonly name?: string | undefined;
}

export interface FilesControl {
  files(): FilesView;
  /** @throws WeftError TRANSFER_UNKNOWN */
  transfer(key: string): TransferView;
  /** Hashes a file of this machine, then every member that knows its id may fetch it. @throws WeftError FILE_UNREADABLE, FILES_FULL */
  share(path: string, name: string | undefined): Promise<TransferView>;
  /** @param id file id @throws WeftError FILE_UNKNOWN */
  unshare(id: string): Promise<ShareView>;
  /** Offers a file until the member has it, over restarts of both. @throws WeftError NODE_UNKNOWN, FILE_UNREADABLE, FILES_FULL */
  send(path: string, to: string, name: string | undefined): Promise<TransferView>;
  /** @throws WeftError FILE_ID, NODE_UNKNOWN, FILES_FULL, FILE_EXISTS */
  get(request: GetRequest): Promise<TransferView>;
  /** Ends a transfer, and forgets one that has ended. @throws WeftError TRANSFER_UNKNOWN */
  cancel(key: string): Promise<TransferView>;
}
