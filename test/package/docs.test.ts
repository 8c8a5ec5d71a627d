import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

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
