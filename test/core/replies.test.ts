import assert from "node:assert/strict";
import { test } from "node:test";
import { errorCode } from "../../src/core/log.js";
import { classifyReply, isServed, replyCode } from "../../src/core/replies.js";

function reply(message: string, fields: object = {}): Error {
  return Object.assign(new Error(message), { name: "ReplyError" }, fields);
}

test("each reply has a class by its first word, and an unknown reply fails", () => {
  for (const [message, expected] of [
    ["LOADING Redis is loading the dataset in memory", "wait"],
    ["BUSY Redis is busy running a script.", "wait"],
    ["MASTERDOWN Link with MASTER is down", "wait"],
    ["ERR max number of clients reached", "wait"],
    ["NOREPLICAS Not enough good replicas to write.", "retry"],
    ["CLUSTERDOWN The cluster is down", "retry"],
    ["TRYAGAIN Multiple keys request during rehashing of slot", "retry"],
    ["UNBLOCKED force unblock from blocking operation", "retry"],
    ["READONLY You can't write against a read only replica.", "reconnect"],
    ["OOM command not allowed when used memory > 'maxmemory'.", "fail"],
    ["MISCONF Redis is configured to save RDB snapshots", "fail"],
    ["BUSYGROUP Consumer Group name already exists", "fail"],
    ["WRONGTYPE Operation against a key", "fail"],
    ["NOAUTH Authentication required.", "fail"],
    ["anything at all", "fail"],
  ] as const) {
    assert.equal(classifyReply(reply(message)), expected, message);
  }
});

test("a dropped transaction has the class of the reply that dropped it", () => {
  const dropped = "EXECABORT Transaction discarded because of previous errors.";
  const refused = (message: string): object => ({ previousErrors: [reply(message), reply("LOADING x")] });
  assert.equal(classifyReply(reply(dropped, refused("READONLY x"))), "reconnect");
  assert.equal(classifyReply(reply(dropped, refused("WRONGTYPE x"))), "fail");
  assert.equal(classifyReply(reply(dropped)), "fail");
  assert.equal(classifyReply(reply("EXECABORT Transaction discarded because of: READONLY You can't")), "reconnect");
});

test("a server that rejects a command serves the client; a server that is not ready or rejects the user does not", () => {
  for (const message of ["NOPERM x", "MISCONF x", "ERR unknown command"]) assert.ok(isServed(reply(message)), message);
  for (const message of ["LOADING x", "NOAUTH x", "WRONGPASS x"]) assert.ok(!isServed(reply(message)), message);
  assert.ok(!isServed(new Error("Connection is closed.")));
});

test("only a code goes into the log, never a word that a user chose", () => {
  assert.equal(replyCode(reply("s3cret-token is not welcome")), "ERR");
  assert.equal(errorCode(reply("WRONGTYPE Operation against a key")), "WRONGTYPE");
});
