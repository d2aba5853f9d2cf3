/** `weft repair` on a machine whose programs have gone: repair-without-tools.ts STATE; prints each outcome. */
import { repairMachine } from "../../src/node/repair.ts";

const items = await repairMachine(process.argv[2] ?? "", () =>
  Promise.reject(new Error("the program is not installed")),
);
for (const { outcome, text } of items) process.stdout.write(`${outcome} ${text}\n`);
