/**
 * Loads every module that a command, the daemon or one of its threads loads, and ends: that fills the compile cache. `bin/weft up` runs
 * this once after an installation or a change of the sources, because a daemon that finds its sources compiled never loads the type
 * stripper, about 30 MB that it would keep for life.
 */
process.argv.length = 2;
process.argv.push("--help");
await import("./main.ts");
await import("../node/daemon.ts");
await import("../node/dataplane-worker.ts");
await import("../node/storage-worker.ts");
await import("../node/messaging/store-worker.ts");
await import("../node/messaging/verify-worker.ts");
