import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { connect, disconnect } from "../../src/index.js";
import { freePort, startRedis } from "../support/redis-server.js";

const run = promisify(execFile);
let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "redthread-transport-"));
});
after(() => rm(folder, { recursive: true, force: true }));

const openssl = (...args: string[]) => run("openssl", args, { cwd: folder });
const file = (name: string) => join(folder, name);

/** A certificate authority, and certificates for a server on the loopback and for a client. */
async function makeCertificates(): Promise<void> {
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  await openssl("req", "-x509", ...key, "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt");
  for (const name of ["server", "client"]) {
    await openssl("req", ...key, "-subj", `/CN=${name}`, "-keyout", `${name}.key`, "-out", `${name}.csr`);
    const signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", `${name}.crt`];
    const names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
    await openssl("req", "-new", "-key", `${name}.key`, "-subj", `/CN=${name}`, ...names, "-out", `${name}.csr`);
    await openssl("x509", "-req", "-in", `${name}.csr`, ...signed, "-copy_extensions", "copy");
  }
}

test("mutual TLS connects with the right certificates, and tells why with the wrong ones", async (t) => {
  await makeCertificates();
  const port = await freePort();
  const certificates = ["--tls-cert-file", file("server.crt"), "--tls-key-file", file("server.key")];
  const args = ["--tls-port", String(port), ...certificates, "--tls-ca-cert-file", file("ca.crt")];
  const server = await startRedis({ args });
  t.after(() => server.stop());
  const [ca, cert, key] = await Promise.all(["ca.crt", "client.crt", "client.key"].map((name) => readFile(file(name))));
  const redis = await connect({ env: {}, redis: { port, tls: { ca: ca!, cert: cert!, key: key! } } });
  assert.equal(await redis.set("k", "v"), "OK");
  await disconnect(redis);
  const strangers = connect({ env: {}, redis: { port, tls: true }, retry: { deadlineMs: 100 } });
  await assert.rejects(strangers, (error: Error & { code?: string }) => {
    assert.equal(error.code, "REDTHREAD_CONNECT_FAILED");
    assert.match(error.message, /certificate/);
    return true;
  });
});

test("a unix socket serves like a port", async (t) => {
  const path = join(folder, "redis.sock");
  const server = await startRedis({ args: ["--unixsocket", path] });
  t.after(() => server.stop());
  const redis = await connect({ env: {}, redis: { path } });
  await redis.set("k", "v");
  assert.equal(await server.admin.get("k"), "v");
  await disconnect(redis);
  await disconnect(redis);
});

test("an ACL user with few permissions connects, and without CLIENT SETNAME it connects unnamed and logs it", async (t) => {
  const acl = [
    "user default off",
    "user admin on >adminpw ~* &* +@all",
    "user app on >apppw ~app:* &app:* +@all -@admin -@dangerous +client|setname +client|id",
    "user bare on >barepw ~* -@all +get",
  ].join("\n");
  const server = await startRedis({ acl: `${acl}\n`, observer: { username: "admin", password: "adminpw" } });
  t.after(() => server.stop());
  const at = (username: string, password: string) => ({ port: server.port, username, password });
  const app = await connect({ env: {}, redis: at("app", "apppw") });
  await app.set("app:k", "v");
  await assert.rejects(app.set("other", "v"), /NOPERM/);
  const warnings: string[] = [];
  const logger = { debug() {}, info() {}, error() {}, warn: (message: string) => warnings.push(message) };
  const bare = await connect({ env: {}, logger, redis: at("bare", "barepw") });
  assert.equal(await bare.get("app:k"), "v");
  assert.deepEqual(warnings, ["connection could not be named"]);
  await Promise.all([disconnect(app), disconnect(bare)]);
  await server.waitForClients((clients) => clients.length === 0);
});

test("a rotated password is AUTH_FAILED at once, and nothing is left open", async (t) => {
  const server = await startRedis({ args: ["--requirepass", "new"], observer: { password: "new" } });
  t.after(() => server.stop());
  for (const password of ["old", undefined]) {
    const attempt = connect({ env: {}, redis: { port: server.port, ...(password && { password }) } });
    await assert.rejects(attempt, { code: "REDTHREAD_AUTH_FAILED" });
  }
  await server.waitForClients((clients) => clients.length === 0);
});

test("a connect waits for a server that is loading its data", async (t) => {
  const server = await startRedis({ args: ["--enable-debug-command", "local"] });
  t.after(() => server.stop());
  await server.admin.call("DEBUG", "POPULATE", "5000");
  await server.admin.call("CONFIG", "SET", "key-load-delay", "100", "loading-process-events-interval-bytes", "1024");
  const reloading = server.admin.call("DEBUG", "RELOAD");
  const codes: unknown[] = [];
  const warn = (_: string, fields?: Readonly<Record<string, unknown>>): number => codes.push(fields?.["code"]);
  const logger = { debug() {}, info() {}, error() {}, warn };
  const redis = await connect({ env: {}, logger, redis: { port: server.port } });
  assert.equal(await redis.get("key:1"), "value:1");
  assert.ok(codes.length > 0 && codes.every((code) => code === "LOADING"), String(codes));
  await reloading;
  await disconnect(redis);
});
