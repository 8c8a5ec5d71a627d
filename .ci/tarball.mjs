// For the tarball: README's links to files of the repository become links under the homepage, since a package page has no
// files beside it, and package.json is without what only the repository needs. `node .ci/tarball.mjs restore` takes that back.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

const KEPT = ".cache/manifest.json"; // not package.json, which would be the package of what lies there
const manifest = JSON.parse(readFileSync("package.json", "utf8"));
const relative = readFileSync("README.md", "utf8").replaceAll(`](${manifest.homepage}/`, "](");
if (process.argv[2] === "restore") {
  writeFileSync("README.md", relative);
  if (!manifest.scripts) writeManifest("package.json", { ...JSON.parse(readFileSync(KEPT, "utf8")), ...manifest });
} else {
  writeFileSync("README.md", relative.replaceAll(/\]\((?=docs\/|[A-Z]+\.md)/g, `](${manifest.homepage}/`));
  if (manifest.scripts) {
    mkdirSync(".cache", { recursive: true });
    writeManifest(KEPT, manifest);
    delete manifest.scripts;
    delete manifest.devDependencies;
    delete manifest.overrides; // npm reads those of the root alone
    writeManifest("package.json", manifest);
  }
}

function writeManifest(file, value) {
  writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`);
}
