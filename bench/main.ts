/** `npm run bench -- COMMAND`: every benchmark of the project behind one command line. Each prints a table and writes JSON on request. */
import { Command, InvalidArgumentError } from "@commander-js/extra-typings";
import { findProgram, installPeers } from "./tools/binaries.ts";
import { MEASURES } from "./measures.ts";
import { SUBJECTS } from "./subjects/index.ts";
import { reasonOf } from "./tools/reading.ts";

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new InvalidArgumentError("a number above 0 is needed");
  return value;
}

function list(text: string): string[] {
  return text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

/** As typed, without where the results go. */
const typed = `npm run bench -- ${process.argv.slice(2).join(" ")}`.replaceAll(
  / --(?:json|markdown)(?:[ =][^- ]\S*)?/g,
  "",
);
const program = new Command("bench").description("Benchmarks of Weft. Those that need namespaces need root.");

program
  .command("tunnel")
  .description("Weft, wireguard-go, boringtun, nebula and the bare link in one interleaved run")
  .option("--seconds <n>", "length of each measurement", positive, 5)
  .option("--rounds <n>", "rounds; the table shows medians", positive, 5)
  .option(
    "--only <ids>",
    `measurements, comma separated, beginnings suffice: ${MEASURES.map((one) => one.id).join(" ")}`,
    list,
    [],
  )
  .option("--subjects <names>", `comma separated: ${SUBJECTS.map((one) => one.name).join(" ")}`, list, [])
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section, e.g. of docs/benchmarks.md")
  .addHelpText(
    "after",
    "\nExample: npm run bench -- tunnel --rounds 1 --seconds 3 --only tcp,udp-64 --subjects weft,wireguard-go",
  )
  .action(async (options) => {
    const { runTunnel } = await import("./tunnel.ts");
    await runTunnel({ ...options, rounds: Math.ceil(options.rounds), command: typed });
  });

program
  .command("links")
  .description("slow and long links, UDP at fixed rates, TCP second by second")
  .option("--seconds <n>", "length of the UDP and TCP runs", positive, 90)
  .option("--only <names>", "scenarios, comma separated: slow long udp tcp", list, [])
  .option("--subjects <names>", "comma separated", list, ["weft", "wireguard-go"])
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- links --only slow,long")
  .action(async (options) => {
    const { runLinks } = await import("./links.ts");
    await runLinks({ ...options, command: typed });
  });

program
  .command("hostile")
  .description("a paced flow under floods of hostile datagrams")
  .option("--seconds <n>", "length of each flood", positive, 30)
  .option("--rate <n>", "datagrams per second", positive, 120_000)
  .option("--kinds <names>", "comma separated: random truncated mutated replayed reflected inits mixed", list, [])
  .option("--gso", "send trains instead of single packets: less work for the generator", false)
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- hostile --kinds mutated,inits --seconds 10")
  .action(async (options) => {
    const { runHostile } = await import("./hostile.ts");
    await runHostile({ ...options, command: typed });
  });

program
  .command("sessions")
  .description("throughput with 1,000 live sessions against throughput with one")
  .option("--sessions <n>", "live sessions", positive, 1_000)
  .option("--seconds <n>", "length of each measurement", positive, 5)
  .option("--rounds <n>", "rounds; the table shows medians", positive, 5)
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- sessions --sessions 100 --rounds 3")
  .action(async (options) => {
    const { runSessions } = await import("./sessions.ts");
    await runSessions({ ...options, command: typed });
  });

program
  .command("memory")
  .description("idle processor use, then resident memory over minutes of full load")
  .option("--minutes <n>", "length of the load", positive, 10)
  .option("--idle-seconds <n>", "length of the idle measurement", positive, 30)
  .option("--subjects <names>", "comma separated", list, ["weft"])
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- memory --minutes 2")
  .action(async (options) => {
    const { runMemory } = await import("./memory.ts");
    await runMemory({ ...options, command: typed });
  });

program
  .command("mesh")
  .description("routing through members in the simulator: random topologies with churn, then networks of growing size")
  .option("--topologies <n>", "random topologies", positive, 10_000)
  .option("--seed <n>", "the first one", positive, 1)
  .option("--sizes <list>", "nodes, comma separated", list, ["25", "50", "100", "200", "1000", "5000"])
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .addHelpText("after", "\nExample: npm run bench -- mesh --topologies 1000 --sizes 50,200")
  .action(async (options) => {
    const { runMeshBench } = await import("./mesh.ts");
    runMeshBench({ ...options, sizes: options.sizes.map(positive) });
  });

program
  .command("pubsub")
  .description("publish/subscribe between real nodes: delivery, duplicates, latency, with a stopped process")
  .option("--nodes <n>", "agent nodes", positive, 100)
  .option("--per-process <n>", "nodes in one process", positive, 5)
  .option("--topics <n>", "topics", positive, 20)
  .option("--subscribers <n>", "of each topic, at random", positive, 20)
  .option("--rate <n>", "messages a second over all topics", positive, 200)
  .option("--seconds <n>", "length of each measurement", positive, 30)
  .option("--rounds <n>", "rounds; the table shows medians", positive, 5)
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- pubsub --nodes 20 --topics 5 --subscribers 8 --rate 50 --rounds 1")
  .action(async (options) => {
    const { runPubSub } = await import("./pubsub.ts");
    await runPubSub({ ...options, rounds: Math.ceil(options.rounds), command: typed });
  });

program
  .command("scale")
  .description("networks of growing size, several nodes to a process; revocations among 50")
  .option("--sizes <list>", "nodes, comma separated", list, ["25", "50", "100", "200"])
  .option("--per-process <n>", "nodes in one process", positive, 10)
  .option("--seconds <n>", "steady state measured", positive, 60)
  .option("--revocations <n>", "of a network of 50", positive, 20)
  .option("--restart", "besides, kill all nodes and start them again at once", false)
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- scale --sizes 50 --seconds 20")
  .action(async (options) => {
    const { runScale } = await import("./scale.ts");
    await runScale({ ...options, sizes: options.sizes.map(positive), command: typed });
  });

program
  .command("stalls")
  .description("a slow disk and a blocked control thread, against a tunnel without them")
  .option("--seconds <n>", "length of each measurement", positive, 10)
  .option("--rounds <n>", "rounds; the table shows medians", positive, 5)
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- stalls --rounds 3")
  .action(async (options) => {
    const { runStalls } = await import("./stalls.ts");
    await runStalls({ ...options, command: typed });
  });

program
  .command("streams")
  .description("what many streams and reconnects leave in memory, and what they cost")
  .option("--streams <n>", "short streams", positive, 100_000)
  .option("--reconnects <n>", "connections killed and made anew", positive, 1_000)
  .option("--megabytes <n>", "length of the one long stream", positive, 500)
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- streams --streams 10000 --reconnects 100")
  .action(async (options) => {
    const { runStreams } = await import("./streams.ts");
    await runStreams({ ...options, command: typed });
  });

program
  .command("messages")
  .description("direct messages between two nodes: latency, messages a second, and latency beside a long transfer")
  .option("--rounds <n>", "rounds; the table shows medians", positive, 5)
  .option("--seconds <n>", "length of each measurement", positive, 5)
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- messages --rounds 1 --seconds 2")
  .action(async (options) => {
    const { runMessages } = await import("./messages.ts");
    await runMessages({ ...options, rounds: Math.ceil(options.rounds), command: typed });
  });

program
  .command("files")
  .description("a large file from node to node, against one long stream over bare QUIC")
  .option("--megabytes <n>", "size of the file", positive, 1_000)
  .option("--rounds <n>", "rounds; the table shows medians", positive, 5)
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- files --megabytes 200 --rounds 1")
  .action(async (options) => {
    const { runFiles } = await import("./files.ts");
    await runFiles({ ...options, command: typed });
  });

program
  .command("micro")
  .description("the routines of the packet path, each by itself")
  .option("--filter <text>", "names that contain this")
  .option("--json [file]", "everything measured: into a file, or in place of the table")
  .option("--markdown <file>", "rewrite this benchmark's section")
  .addHelpText("after", "\nExample: npm run bench -- micro --filter seal")
  .action(async (options) => {
    const { runMicro } = await import("./micro.ts");
    await runMicro({ ...options, filter: options.filter, command: typed });
  });

program
  .command("peers")
  .description("the programs Weft is compared with: what is there, and how to build them")
  .option("--install", "build the newest release of each with the toolchains that are present (minutes)")
  .action(async (options) => {
    if (options.install === true) {
      for (const built of await installPeers((line) => process.stderr.write(`${line}\n`)))
        console.log(`${built.peer}: ${built.text}`);
      return;
    }
    for (const subject of SUBJECTS) {
      const found = await subject.find();
      console.log(`${subject.name}: ${"why" in found ? found.why : found.version}`);
    }
  });

program
  .command("list")
  .description("subjects and measurements")
  .action(() => {
    console.log(`subjects: ${SUBJECTS.map((one) => one.name).join(", ")}`);
    for (const measure of MEASURES) {
      for (const one of measure.figures) console.log(`${measure.id.padEnd(14)} ${one.title}, ${one.unit}`);
    }
    for (const name of ["iperf3", "ping", "ip", "tc", "nft"]) console.log(`${name}: ${findProgram(name) ?? "missing"}`);
  });

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`bench: ${reasonOf(error)}\n`);
  process.exitCode = 1;
}
