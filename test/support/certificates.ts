import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

export interface KeyPair {
  readonly cert: string;
  readonly key: string;
}

export interface Certificates extends AsyncDisposable {
  /** The folder with the files that a server is started with: ca.crt, server.crt, server.key. */
  readonly folder: string;
  readonly ca: string;
  readonly client: KeyPair;
}

const openssl = promisify(execFile);
const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/** An authority that nobody else trusts, a certificate for a server on the loopback address, and one for a client. */
export async function makeCertificates(): Promise<Certificates> {
  const folder = await mkdtemp(join(tmpdir(), "redthread-tls-"));
  const dispose = (): Promise<void> => rm(folder, { recursive: true, force: true });
  const run = (...args: string[]): Promise<unknown> => openssl("openssl", args, { cwd: folder });
  const read = (name: string): Promise<string> => readFile(join(folder, name), "utf8");
  const sign = async (name: string): Promise<KeyPair> => {
    await run("req", ...KEY, "-subj", `/CN=${name}`, "-keyout", `${name}.key`, "-out", `${name}.csr`);
    const by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"];
    await run("x509", "-req", "-in", `${name}.csr`, ...by, "-days", "2", "-out", `${name}.crt`);
    return { cert: await read(`${name}.crt`), key: await read(`${name}.key`) };
  };
  try {
    await writeFile(join(folder, "names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    await run("req", "-x509", ...KEY, "-days", "2", "-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.crt");
    await sign("server");
    return { folder, ca: await read("ca.crt"), client: await sign("client"), [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}
