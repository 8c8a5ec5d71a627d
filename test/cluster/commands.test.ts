import assert from "node:assert/strict";
import { test } from "node:test";
import { Command } from "ioredis";
import { redirectionOf, refusedInCluster } from "../../src/cluster/commands.js";
import { NodeBreakers } from "../../src/gate/breaker.js";

test("a redirection names slot, host and port, whatever kind of address it is", () => {
  assert.deepEqual(parsed("MOVED 3999 127.0.0.1:6381"), [true, 3999, "127.0.0.1", 6381]);
  assert.deepEqual(parsed("ASK 0 redis-1.internal:7000"), [false, 0, "redis-1.internal", 7000]);
  assert.deepEqual(parsed("MOVED 16383 fd00::1:6379"), [true, 16383, "fd00::1", 6379]);
  assert.deepEqual(parsed("MOVED 1 :6379"), [true, 1, "", 6379]); // at the host that was asked
  for (const other of ["MOVED", "ERR MOVED 1 a:1", "CLUSTERDOWN Hash slot not served"])
    assert.equal(parsed(other), undefined);
});

test("a command is refused in a Cluster by what it is, in any spelling", () => {
  for (const name of [
    "SCAN",
    "dbsize",
    "FlushAll",
    "script",
    "sunsubscribe",
    "monitor",
    "readonly",
    "hello",
    "multi",
  ]) {
    assert.ok(isRefused(name), name);
  }
  for (const name of ["get", "PING", "subscribe", "SSubscribe", "spublish", "watch", "exec", "info"])
    assert.ok(!isRefused(name), name);
  assert.ok(!isRefused("multi", [], true));
  assert.ok(!isRefused("sunsubscribe", ["news"])); // only without a name it concerns every node
  assert.deepEqual([isRefused("select", ["0"]), isRefused("select", ["1"])], [false, true]);
});

test("all threads find the same breaker for a node, and another one for another node", () => {
  const cells = new Int32Array(new SharedArrayBuffer(NodeBreakers.CELLS * Int32Array.BYTES_PER_ELEMENT));
  const [one, other] = [new NodeBreakers(cells, 0), new NodeBreakers(cells, 1)];
  one.of(node(1)).tryAdmit()!.failed();
  assert.equal(other.of(node(1)).state, "open");
  for (let port = 2; port <= 64; port++) assert.equal(other.of(node(port)).state, "closed");
  assert.equal(other.open, other.of(node(1)));
  other.of(node(1)).dismiss();
  assert.equal(one.open, undefined);
  one.of(node(65)).tryAdmit()!.failed(); // no breaker is left: it shares one
  assert.equal(other.of(node(65)).state, "open");
});

function parsed(message: string): unknown {
  const { isMoved, slot, host, port } = redirectionOf(new Error(message)) ?? {};
  return isMoved === undefined ? undefined : [isMoved, slot, host, port];
}

function isRefused(name: string, args: string[] = [], isPinned = false): boolean {
  return refusedInCluster(new Command(name, args), isPinned) !== undefined;
}

function node(port: number): { host: string; port: number } {
  return { host: "redis", port };
}
