/** A DNS server for tests: answers every A question with one address. Usage: name-server.ts LISTEN ANSWER; prints `serving`. */
import { createSocket } from "node:dgram";
import { decode, encode } from "dns-packet";

const [listen = "127.0.0.1", answer = "192.0.2.1", port = "53"] = process.argv.slice(2);
const socket = createSocket("udp4");
socket.on("message", (message, from) => {
  const query = decode(message);
  const questions = query.questions ?? [];
  const answers = questions
    .filter(({ type }) => type === "A")
    .map(({ name }) => ({ type: "A" as const, name, ttl: 5, data: answer }));
  socket.send(
    encode({ id: query.id ?? 0, type: "response", flags: 0x0180, questions, answers }),
    from.port,
    from.address,
  );
});
socket.bind(Number(port), listen, () => process.stdout.write(`serving ${socket.address().port}\n`));
