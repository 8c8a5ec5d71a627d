#!/usr/bin/env bash
# An ioredis client that is told "rediss://NAME" checks the certificate for NAME, but does not tell the server that it is NAME it wants.
#
# node:tls takes the name of its certificate check from `host`, and the name that the handshake carries (SNI) from `servername` alone; https sets
# that, clients that pass their options on do not. One would expect a client that knows the name, and that insists on it in
# the certificate, to send it. It matters behind proxies and managed services that choose the certificate or the backend by that name: the
# client gets the default one, and is refused by its own check, or, with the check switched off, talks to somebody else's server without an
# error. `tls: { servername }` mends it, except in a Cluster, where each node has a name of its own.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error ioredis@6.0.0 > /dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem 2> /dev/null
cat > main.cjs <<'JS'
const { readFileSync } = require("node:fs");
const https = require("node:https");
const tls = require("node:tls");
const { Redis } = require("ioredis");
const [key, cert] = [readFileSync("key.pem"), readFileSync("cert.pem")];
const told = [];
const server = tls.createServer({ key, cert }, (socket) => {
  told.push(socket.servername || "no name");
  socket.on("error", () => {});
  socket.destroy();
});
const nextName = async (connect) => {
  const connected = new Promise((resolve) => server.once("secureConnection", resolve));
  const close = connect(server.address().port);
  await connected;
  close();
  return told.pop();
};
server.listen(0, "localhost", async () => {
  const by = {
    https: await nextName((port) => {
      const request = https.get({ host: "localhost", port, ca: cert }).on("error", () => {});
      return () => request.destroy();
    }),
    ioredis: await nextName((port) => {
      const redis = new Redis(`rediss://localhost:${port}`, { tls: { ca: cert }, retryStrategy: null });
      redis.on("error", () => {});
      return () => redis.disconnect();
    }),
    "ioredis with servername": await nextName((port) => {
      const tlsOptions = { ca: cert, servername: "localhost" };
      const redis = new Redis(`rediss://localhost:${port}`, { tls: tlsOptions, retryStrategy: null });
      redis.on("error", () => {});
      return () => redis.disconnect();
    }),
  };
  console.log(`node ${process.version}, ioredis ${require("ioredis/package.json").version}`);
  for (const [client, name] of Object.entries(by)) console.log(`${client}: ${name}`);
  process.exit(Object.values(by).join() === "localhost,no name,localhost" ? 0 : 1);
});
JS
node main.cjs
# Seen with Node 20.20.2, 24.22.3 and 26.12.1, and ioredis 6.0.0:
#   https: localhost
#   ioredis: no name
#   ioredis with servername: localhost
