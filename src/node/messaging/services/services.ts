/** The parts that do things for members and for this machine's programs: forwards, SOCKS, files, execution. */
import { FilesPart } from "../files/files.ts";
import type { MessagingPart, PartContext } from "../part.ts";
import { ExecPart } from "./exec.ts";
import { ForwardsPart } from "./forwards.ts";

/** In the order in which they start. */
export function createServices(context: PartContext): readonly MessagingPart[] {
  const { services } = context.config;
  return [
    new ForwardsPart(context, { allow: services.forwardAllow }),
    new FilesPart(context, services.files),
    new ExecPart(context, services.exec),
  ];
}
