/** Certificates for tests of TLS: an authority of the test's own and a server's certificate from it, made with the openssl program. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";

export interface TestCertificates {
  /** Paths of PEM files. */
  readonly authority: string;
  readonly certificate: string;
  readonly key: string;
}

/** @param folder where the files go @param names subject alternative names, "DNS:example.org" or "IP:127.0.0.1" */
export function makeCertificates(folder: string, names: readonly string[]): TestCertificates {
  const path = (name: string): string => join(folder, name);
  const made = {
    authority: path("authority.pem"),
    certificate: path("server.pem"),
    key: path("server.key"),
  };
  const openssl = (...args: string[]): void => {
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"];
    execFileSync("openssl", ["req", "-x509", ...key, "-days", "2", ...args], { stdio: ["ignore", "ignore", "pipe"] });
  };
  openssl("-subj", "/CN=test authority", "-keyout", path("authority.key"), "-out", made.authority);
  const extensions = ["-addext", `subjectAltName=${names.join(",")}`, "-addext", "basicConstraints=critical,CA:FALSE"];
  const issuer = ["-CA", made.authority, "-CAkey", path("authority.key")];
  openssl("-subj", "/CN=server", ...extensions, ...issuer, "-keyout", made.key, "-out", made.certificate);
  return made;
}
