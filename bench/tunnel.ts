/**
 * `bench tunnel`: Weft and whichever peers are installed, all running side by side between the same two namespaces, measured in one
 * interleaved run (compare.ts) and compared with wireguard-go.
 */
import { twoHosts } from "../lab/topologies.ts";
import { conclude, launch, playRounds, type Contender } from "./compare.ts";
import { chooseMeasures } from "./measures.ts";
import { chooseSubjects, REFERENCE } from "./subjects/index.ts";
import { describeMachine, Disturbance } from "./tools/machine.ts";
import { publish, type OutputOptions } from "./tools/report.ts";

export interface TunnelOptions extends OutputOptions {
  readonly seconds: number;
  readonly rounds: number;
  readonly only: readonly string[];
  readonly subjects: readonly string[];
  readonly command: string;
}

export async function runTunnel(options: TunnelOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const measures = chooseMeasures(options.only);
  const subjects = chooseSubjects(options.subjects);
  const disturbance = await Disturbance.begin();
  const hosts = await twoHosts();
  try {
    const contenders: Contender[] = [];
    for (const [index, subject] of subjects.entries()) contenders.push(await launch(subject, hosts, index));
    const entries = await playRounds(contenders, measures, options);
    const running = contenders.filter((contender) => contender.tunnel !== undefined);
    const { summaries, tables, notes } = conclude(entries, {
      figures: measures.flatMap((measure) => measure.figures),
      names: running.map((contender) => contender.name),
      reference: REFERENCE,
      promisedTo: "weft",
      target: (one) => one.target,
    });
    publish(
      {
        name: "tunnel",
        startedAt,
        machine: await describeMachine(),
        command: options.command,
        tables,
        notes: [
          ...disturbance.notes(),
          `${options.rounds} rounds, ${options.seconds} s each; cells: median (lowest–highest); ratios: median over the rounds of the ratio to ${REFERENCE} in the same round`,
          "all subjects run at once on the same veth pair (MTU 1500); the ones not being measured are idle",
          "UDP: iperf3 unlimited, socket buffers of 4 MiB asked for on both ends; received is what iperf3's server counted",
          ...running.map(({ name, version, tunnel }) => `${name}: ${version}, tunnel MTU ${tunnel?.mtuBytes} bytes`),
          ...notes,
        ],
        notCompared: [
          ...contenders
            .filter((one) => one.tunnel === undefined)
            .map(({ name, version, why }) => `${name}${version === "" ? "" : ` ${version}`}: ${why}`),
          "WireGuard in the kernel: this kernel has no such module",
        ],
        data: {
          subjects: running.map(({ name, version, tunnel }) => ({ name, version, mtuBytes: tunnel?.mtuBytes })),
          summaries,
          entries,
        },
      },
      options,
    );
  } finally {
    await hosts.lab.close();
  }
}
