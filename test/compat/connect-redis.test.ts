import assert from "node:assert/strict";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import RedisStore from "connect-redis";
import express from "express";
import session from "express-session";
import { killedHandle, SOURCES } from "../support/killed-handle.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

declare module "express-session" {
  interface SessionData {
    visits: number;
  }
}

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

// Version 7: from 8 on connect-redis takes node-redis clients only.
for (const source of SOURCES) {
  test(`connect-redis keeps sessions with ${source}, taken before a CLIENT KILL`, { timeout: 30_000 }, async (t) => {
    const client = await killedHandle(t, server, source);
    const store = new RedisStore({ client, prefix: `${source}:`, ttl: 60 });
    const app = express();
    app.use(session({ store, secret: "of the test", resave: false, saveUninitialized: false }));
    app.get("/", (request, response) => {
      request.session.visits = (request.session.visits ?? 0) + 1;
      response.json(request.session.visits);
    });
    app.get("/leave", (request, response) => request.session.destroy(() => response.json("left")));
    const http = app.listen(0, "127.0.0.1");
    await once(http, "listening");
    t.after(() => http.close());
    let cookie = "";
    const visit = async (path = "/"): Promise<unknown> => {
      const { port } = http.address() as AddressInfo;
      const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { cookie, connection: "close" } });
      cookie = response.headers.get("set-cookie")?.split(";")[0] ?? cookie;
      return response.json();
    };
    assert.deepEqual([await visit(), await visit(), await visit()], [1, 2, 3]);
    assert.equal((await client.keys(`${source}:*`)).length, 1);
    assert.equal(await visit("/leave"), "left");
    assert.equal(await visit(), 1);
  });
}
