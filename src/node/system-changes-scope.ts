/** Which boot and which network namespace a change belongs to, and which daemon of the machine made it. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";

/** "BOOT/INODE": which boot and which network namespace this process is in. */
export function scopeOf(): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return `${boot}/${statSync("/proc/self/ns/net").ino}`;
  } catch {
    return "unknown/0";
  }
}

/** True when the namespace of `scope` may still exist: this boot, and a process or a name holds it. */
export function isScopeAlive(scope: string): boolean {
  const [boot, inode] = scope.split("/");
  if (boot !== scopeOf().split("/")[0]) return false;
  const wanted = `net:[${inode}]`;
  for (const name of list("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (readlinkSync(`/proc/${name}/ns/net`) === wanted) return true;
    } catch {
      // ended meanwhile, or not ours to look at
    }
  }
  return list("/run/netns").some((name) => {
    try {
      return String(statSync(`/run/netns/${name}`).ino) === inode;
    } catch {
      return false;
    }
  });
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Eight hexadecimal digits that tell the daemons of one machine apart. */
export function stateTag(stateDirectory: string): string {
  return createHash("sha256").update(stateDirectory).digest("hex").slice(0, 8);
}
