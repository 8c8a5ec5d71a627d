import assert from "node:assert/strict";
import { test } from "node:test";
import { CommandErrors, markResent } from "../../src/commands/command-errors.js";
import { Command } from "../../src/commands/ioredis.js";
import { code } from "../support/manage.js";

const errors = new CommandErrors("a connection", 1_000);

test("a command is NOT_SENT if it was lost before it was written, and REPLY_LOST after that", () => {
  const command = new Command("get", ["k"]);
  assert.ok(code("NOT_SENT")(errors.lost(command, undefined)));
  assert.ok(code("REPLY_LOST")(errors.lost(command, undefined, true)));
});

test("a read that is held to be sent again is REPLY_LOST, because it was written before", () => {
  const command = new Command("get", ["k"]);
  markResent(command);
  assert.ok(code("REPLY_LOST")(errors.lost(command, undefined)));
});
