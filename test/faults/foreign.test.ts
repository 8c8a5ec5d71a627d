import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import { createServer, type Server } from "node:net";
import { after, before, test, type TestContext } from "node:test";
import { createServer as createHttpsServer } from "node:https";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { examine } from "../../src/cli/doctor.js";
import type { ManagerOptions, RedthreadError } from "../../src/index.js";
import { type Certificates, makeCertificates } from "../support/certificates.js";
import { fixture, manage } from "../support/manage.js";
import { portOf } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
let certificates: Certificates;
let server: RedisServer;
before(async () => {
  certificates = await makeCertificates();
  server = await startRedis();
});
after(() => Promise.all([certificates[Symbol.asyncDispose](), server.stop()]));

async function listen(t: TestContext, listener: Server): Promise<number> {
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  t.after(() => listener.close());
  return portOf(listener);
}

interface Verdict {
  readonly code: string;
  readonly text: string;
  /** The output of the doctor, with its advice. */
  readonly doctor: string;
}

/** What a manager and the doctor say about this address. */
async function verdict(t: TestContext, redis: ManagerOptions["redis"]): Promise<Verdict> {
  const settings = { connectTimeoutMs: 3_000, ...redis };
  const manager = manage(t, server, { tasks: fixture("tasks"), redis: settings, retry: { attempts: 1 } });
  const error = await manager.ready().then(
    () => assert.fail("it is ready"),
    (reason: unknown) => reason as RedthreadError,
  );
  const { ok, checks } = await examine({ env: {}, redis: settings });
  assert.equal(ok, false);
  const failed = checks.filter(({ status }) => status === "fail");
  const doctor = failed.map(({ check, found, advice }) => `${check}: ${found} -> ${advice}`).join("\n");
  return { code: error.code.slice("REDTHREAD_".length), text: error.message, doctor };
}

test("a client that speaks plain text to a TLS port is told so", LIMIT, async (t) => {
  for (const { mutual, args } of [
    { mutual: false, args: [] },
    { mutual: true, args: ["--tls-protocols", "TLSv1.2"] },
  ]) {
    await using secured = await startRedis({ tls: { certificates, mutual }, args });
    const { code, text, doctor } = await verdict(t, { port: secured.port });
    assert.equal(code, "CONNECT_FAILED");
    assert.match(text, /this port speaks TLS: use rediss:/);
    assert.match(doctor, /^connection: .*this port speaks TLS: .* -> correct the address: .*tls/);
    await secured.waitForClients((clients) => clients.length === 0);
  }
});

test("a client that speaks TLS to a plain port is told so", LIMIT, async (t) => {
  const http = await listen(t, createHttpServer());
  const tls = { rejectUnauthorized: false };
  const answered = await verdict(t, { port: http, tls });
  assert.equal(answered.code, "CONNECT_FAILED");
  assert.match(answered.text, /this port does not speak TLS/);
  assert.match(answered.doctor, /^TLS: .* -> this port does not speak TLS/);
  // Redis waits for the end of a line, so the TLS handshake gets no answer.
  const silent = await verdict(t, { port: server.port, tls, connectTimeoutMs: 1_000 });
  assert.equal(silent.code, "CONNECT_FAILED");
  assert.match(silent.text, /no answer to the TLS handshake \(does this port speak TLS\?\) within/);
  assert.match(silent.doctor, /^TLS: .* -> does this port speak TLS\?/);
});

test("a server that speaks another protocol is reported as such", LIMIT, async (t) => {
  const read = (name: string): Promise<string> => readFile(join(certificates.folder, name), "utf8");
  const key = { cert: await read("server.crt"), key: await read("server.key") };
  const greeter = createServer((socket) => void socket.on("error", () => {}).write("220 mail.example ESMTP\r\n"));
  const tls = { ca: certificates.ca };
  for (const { said, redis } of [
    { said: /begins with "H" \(HTTP\?\)/, redis: { port: await listen(t, createHttpServer()) } },
    { said: /begins with "H" \(HTTP\?\)/, redis: { port: await listen(t, createHttpsServer(key)), tls } },
    { said: /begins with "2"$/, redis: { port: await listen(t, greeter) } },
  ]) {
    const { code, text, doctor } = await verdict(t, redis);
    assert.equal(code, "CONNECT_FAILED");
    assert.match(text, /no Redis is there: its answer /);
    assert.match(text, said);
    assert.match(doctor, /^connection: .*no Redis is there: .* -> correct the address: redis\.host/);
    // The same holds for sentinels.
    const sentinels = [{ host: "127.0.0.1", port: redis.port }];
    const sentinelTls = "tls" in redis ? { sentinelTls: tls } : {};
    const asked = await verdict(t, { port: undefined, sentinels, sentinelName: "m", ...sentinelTls });
    assert.match(asked.text, /no Redis is there: its answer /);
    assert.match(asked.doctor, /^sentinels: .*no Redis is there: its answer /);
  }
});

test("a server whose answer is lost when it hangs up is asked again", LIMIT, async (t) => {
  const hasty = createServer((socket) => {
    socket
      .on("error", () => {})
      .once("data", (line) => {
        if (line.toString() === "PING\r\n") socket.end("HTTP/1.1 400 Bad Request\r\n\r\n");
        else socket.destroy();
      });
  });
  const { code, text, doctor } = await verdict(t, { port: await listen(t, hasty) });
  assert.equal(code, "CONNECT_FAILED");
  assert.match(text, /no Redis is there: its answer begins with "H" \(HTTP\?\)/);
  assert.match(doctor, /^connection: .*no Redis is there: /);
});

test("a server that hangs up without a word, and speaks no TLS, may be full, or another one", LIMIT, async (t) => {
  const mute = createServer((socket) => void socket.on("error", () => {}).once("data", () => socket.destroy()));
  const { code, text, doctor } = await verdict(t, { port: await listen(t, mute) });
  assert.equal(code, "MAXCLIENTS_SUSPECTED");
  assert.match(text, /has it reached its maxclients, is it just ending, or is it another server\?$/);
  assert.match(doctor, /-> the server is full or /);
});
