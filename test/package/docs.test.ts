import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { startRedis } from "../support/redis-server.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const pages = ["", "docs", "docs/decisions"].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith(".md"))
    .map((name) => join(folder, name)),
);

const textOf = (page: string): string => readFileSync(join(root, page), "utf8");
const proseOf = (page: string): string => textOf(page).replaceAll(/^```[^]*?^```$/gm, "");

/** The anchors that a forge makes of a page's headings. */
function anchorsOf(page: string): string[] {
  return [...proseOf(page).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );
}

test("each link between the documents leads to a file and a heading that exist", () => {
  assert.ok(pages.length > 20, String(pages.length));
  for (const page of pages) {
    for (const [, link] of proseOf(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (link!.startsWith("https:")) continue;
      const [path = "", anchor] = link!.split("#");
      const target = path === "" ? page : normalize(join(dirname(page), path));
      assert.ok(existsSync(join(root, target)), `${page} links to ${link}`);
      if (anchor !== undefined) assert.ok(anchorsOf(target).includes(anchor), `${page} links to ${link}`);
    }
  }
});

test("each file that the documents name exists", () => {
  for (const page of pages.filter((name) => name !== "CHANGELOG.md")) {
    for (const [, path] of proseOf(page).matchAll(/`((?:[\w.-]+\/)+[\w.-]+\.(?:ts|cts|mjs))`/g)) {
      if (path!.includes("NAME")) continue;
      const isThere = [path!, join("src", path!), join("docs", path!)].some((place) => existsSync(join(root, place)));
      assert.ok(isThere, `${page} names ${path}`);
    }
  }
});

test("README and architecture.md have at most 250 lines", () => {
  for (const page of ["README.md", "docs/architecture.md"]) {
    const lines = textOf(page).trimEnd().split("\n").length;
    assert.ok(lines <= 250, `${page} has ${lines} lines`);
  }
});

test("the rights of an ACL user, as the documents give them to a shell, are those that the server takes", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "redthread-docs-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  // Prints what the shell makes of its arguments.
  writeFileSync(join(folder, "redis-cli"), '#!/bin/sh\nprintf "%s\\037" "$@"\necho\n');
  chmodSync(join(folder, "redis-cli"), 0o755);
  await using server = await startRedis();
  let users = 0;
  for (const page of pages) {
    for (const [, script] of textOf(page).matchAll(/^```sh\n([^]*?)^```$/gm)) {
      if (!/ACL SETUSER/.test(script!)) continue;
      const env = { ...process.env, PATH: `${folder}:${process.env["PATH"]}` };
      const said = execFileSync("sh", ["-e"], { input: script!, encoding: "utf8", env });
      const commands = said.trim().split("\n");
      assert.equal(commands.length, script!.match(/ACL SETUSER/g)!.length, `${page}: ${said}`);
      for (const line of commands) {
        const [name, ...args] = line.split("\u001f").slice(0, -1);
        assert.equal(await server.admin.call(name!, ...args), "OK", `${page}: ${line}`);
        users++;
      }
    }
  }
  assert.ok(users > 5, String(users));
});
