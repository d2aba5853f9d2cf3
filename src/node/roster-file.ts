/** The roster as a file, for the command line: read before anything of it is sent to the daemon. */
export { parseRosterText } from "../mesh/roster-text.ts";
