/**
 * The texts of UPnP IGD port mapping: SSDP search (UPnP Device Architecture 1.1 section 1.3), device description, SOAP calls of
 * WANIPConnection and WANPPPConnection. Pure functions on bounded text; nothing here trusts what a device says beyond its own address.
 */

const SERVICES: readonly string[] = [
  "urn:schemas-upnp-org:service:WANIPConnection:2",
  "urn:schemas-upnp-org:service:WANIPConnection:1",
  "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
export const SSDP_TARGETS: readonly string[] = [
  "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
  "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
];
const MAX_TEXT = 65_536;

export const SSDP_PORT = 1900;
export const SSDP_GROUP = "239.255.255.250";

/** UPnP error codes that decide what is tried next. */
export const UpnpError = { CONFLICT: 718, ONLY_PERMANENT: 725 } as const;

export function ssdpSearch(target: string): string {
  return `M-SEARCH * HTTP/1.1\r\nHOST: ${SSDP_GROUP}:${SSDP_PORT}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: ${target}\r\n\r\n`;
}

/**
 * @param sender address the answer came from
 * @returns the description's URL; undefined unless it is plain HTTP at the sender's own address: a device cannot send us elsewhere
 */
export function ssdpLocation(text: string, sender: string): URL | undefined {
  if (text.length > 4096 || !/^HTTP\/1\.[01] 200/.test(text)) return undefined;
  const location = /^location:[ \t]*(\S+)[ \t]*\r?$/im.exec(text)?.[1];
  const url = location === undefined ? null : URL.parse(location);
  return url !== null && url.protocol === "http:" && url.hostname === sender && url.username === "" ? url : undefined;
}

export interface IgdService {
  readonly type: string;
  readonly control: URL;
}

/** The first service that maps ports, by preference. @param base URL of the description, whose host the control URL must share */
export function findService(description: string, base: URL): IgdService | undefined {
  const blocks = description.slice(0, MAX_TEXT).split("<service>").slice(1, 65);
  for (const type of SERVICES) {
    for (const block of blocks) {
      const body = block.split("</service>", 1)[0];
      if (element(body, "serviceType") !== type) continue;
      const path = element(body, "controlURL");
      const control = path === undefined ? null : URL.parse(path, base);
      if (control !== null && control.protocol === "http:" && control.hostname === base.hostname)
        return { type, control };
    }
  }
  return undefined;
}

/** @param values in the order of the action's definition; texts of this file and numbers only, so nothing needs escaping */
export function soapBody(
  service: string,
  action: string,
  values: readonly (readonly [string, string | number])[],
): string {
  const body = values.map(([name, value]) => `<${name}>${value}</${name}>`).join("");
  return (
    '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" ' +
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>' +
    `<u:${action} xmlns:u="${service}">${body}</u:${action}></s:Body></s:Envelope>`
  );
}

/** Text of the first element of that name, whatever its namespace prefix or attributes. */
export function element(text: string, name: string): string | undefined {
  const bounded = text.slice(0, MAX_TEXT);
  const open = new RegExp(`<(?:[A-Za-z0-9_]{1,32}:)?${name}(?:\\s[^>]{0,256})?>`).exec(bounded);
  if (open === null) return undefined;
  const from = open.index + open[0].length;
  const to = bounded.indexOf("<", from);
  return to < 0 ? undefined : bounded.slice(from, to).trim();
}

/** The UPnP error code of a SOAP fault, 0 = none. */
export function soapError(text: string): number {
  const code = element(text, "errorCode");
  return code !== undefined && /^\d{1,5}$/.test(code) ? Number(code) : 0;
}
