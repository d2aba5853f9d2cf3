/**
 * A UDP socket of the control thread that carries the underlay mark, and questions asked over it: sent again after 250 ms, doubling, until the
 * answer is one that `take` accepts or time is up. Only the asked address may answer; a flood is cut at MAX_ANSWERS per question.
 */
import { createSocket } from "node:dgram";
import type { RemoteInfo, Socket } from "node:dgram";
import { once } from "node:events";
import { WeftError } from "../../base/errors.ts";
import { openMarkedSocket } from "../../sys/marked-socket.ts";

const FIRST_RESEND_MS = 250;
const MAX_ANSWERS = 64;

export interface MarkedUdpOptions {
  /** Own address to bind. */
  readonly address: string;
  /** @default 0: any */
  readonly port?: number;
  /** @default false */
  readonly shared?: boolean;
  readonly mark: number;
}

/** A bound socket; without the mark where descriptors cannot be opened by hand. @throws WeftError SOCKET_FAILED */
export async function openMarkedUdp(options: MarkedUdpOptions): Promise<Socket> {
  const { address, port = 0, shared = false, mark } = options;
  const socket = createSocket({ type: address.includes(":") ? "udp6" : "udp4", reuseAddr: shared });
  const listening = once(socket, "listening");
  try {
    if (process.platform === "linux") socket.bind({ fd: openMarkedSocket({ address, port, shared, mark }).fd });
    else socket.bind(port, address);
    await listening;
  } catch (error) {
    listening.catch(() => undefined);
    socket.close();
    throw error;
  }
  return socket;
}

export interface Question<T> {
  readonly to: { readonly address: string; readonly port: number };
  readonly datagram: Uint8Array;
  /** @returns undefined when that was not the answer */
  take(datagram: Uint8Array): T | undefined;
  readonly timeoutMs: number;
  /** Own address towards the gateway. */
  readonly from: string;
  readonly mark: number;
}

/** @throws WeftError NO_ANSWER, or what `take` throws */
export async function ask<T>(question: Question<T>, signal: AbortSignal): Promise<T> {
  const { to, datagram, timeoutMs, from, mark } = question;
  const socket = await openMarkedUdp({ address: from, mark });
  let timer: NodeJS.Timeout | undefined;
  let stop: (() => void) | undefined;
  try {
    return await new Promise<T>((resolve, reject) => {
      const silent = (): void =>
        reject(
          new WeftError(
            "NO_ANSWER",
            `${to.address} does not answer on port ${to.port}`,
            "nothing to do if it is not meant to",
          ),
        );
      const deadlineMs = performance.now() + timeoutMs;
      let pauseMs = FIRST_RESEND_MS;
      const send = (): void => {
        const leftMs = deadlineMs - performance.now();
        if (leftMs <= 0) {
          silent();
          return;
        }
        socket.send(datagram, to.port, to.address, (error) => error !== null && error !== undefined && reject(error));
        timer = setTimeout(send, Math.min(pauseMs, leftMs));
        pauseMs *= 2;
      };
      let answers = 0;
      socket.on("message", (message: Buffer, remote: RemoteInfo) => {
        if (remote.address !== to.address || remote.port !== to.port || ++answers > MAX_ANSWERS) return;
        try {
          const taken = question.take(message);
          if (taken !== undefined) resolve(taken);
        } catch (error) {
          reject(error);
        }
      });
      socket.on("error", reject);
      stop = silent;
      signal.addEventListener("abort", silent, { once: true });
      if (signal.aborted) silent();
      else send();
    });
  } finally {
    clearTimeout(timer);
    if (stop !== undefined) signal.removeEventListener("abort", stop);
    socket.removeAllListeners("error");
    socket.on("error", () => undefined);
    socket.close();
  }
}
