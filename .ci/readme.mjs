// For the tarball: README's links to files of the repository become links under the homepage, since a package page has no
// files beside it. `node .ci/readme.mjs restore` takes that back.
import { readFileSync, writeFileSync } from "node:fs";

const { homepage } = JSON.parse(readFileSync("package.json", "utf8"));
const relative = readFileSync("README.md", "utf8").replaceAll(`](${homepage}/`, "](");
const isRestored = process.argv[2] === "restore";
writeFileSync("README.md", isRestored ? relative : relative.replaceAll(/\]\((?=docs\/|[A-Z]+\.md)/g, `](${homepage}/`));
