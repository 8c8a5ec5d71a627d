import { createHash } from "node:crypto";
import { SCRIPT } from "./dashboard-script.js";
import { STYLE } from "./dashboard-style.js";

/** Everything is in the page itself: what is not among these two texts neither runs nor is loaded. */
export const POLICY = [
  "default-src 'none'",
  `script-src '${hashOf(SCRIPT)}'`,
  `style-src '${hashOf(STYLE)}'`,
  "connect-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'self'",
].join("; ");

export function page(title: string, intervalMs: number): string {
  const heading = escaped(title);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${heading}</title>
<link rel="icon" href="data:,">
<style>${STYLE}</style>
</head>
<body data-interval-ms="${intervalMs}">
<header>
<h1>${heading}</h1>
<p id="health" role="status" data-tone="idle">Asking …</p>
<button id="pause" type="button" aria-pressed="false">Pause</button>
</header>
<main>
<noscript><p>This page asks for its numbers by itself, which needs JavaScript.</p></noscript>
<section aria-labelledby="now">
<h2 id="now">Now</h2>
<dl class="cards">
${trend("rate", "Tasks per second")}
${trend("queue", "Tasks waiting")}
${trend("busy", "Loop busy, mean")}
<div><dt>Connections</dt><dd><b id="connections">–</b><small id="connecting">&nbsp;</small>
<i class="bar" id="budget" hidden></i></dd></div>
<div><dt>Circuit breaker</dt><dd><b id="breaker">–</b><small id="breaker-note">&nbsp;</small></dd></div>
<div><dt>Primary client</dt><dd><b id="primary">–</b><small id="primary-note">&nbsp;</small></dd></div>
<div id="locks" hidden><dt>Locks held</dt><dd><b id="held">–</b><small id="held-note">&nbsp;</small><small id="keeper">&nbsp;</small></dd></div>
<div id="near" hidden><dt>Near cache, hits</dt><dd><b id="hits">–</b><small id="hits-note">&nbsp;</small><small id="near-note">&nbsp;</small></dd></div>
</dl>
</section>
<section aria-labelledby="threads">
<h2 id="threads">Threads <small id="recycled"></small></h2>
<table role="table" aria-labelledby="threads">
<thead role="rowgroup"><tr role="row">
${["Thread", "State", "Running", "Done", "Failed", "Reconnects", "Loop busy", "Heap", "Dedicated"].map(columnHeader).join("")}
</tr></thead>
<tbody role="rowgroup" id="rows"></tbody>
</table>
<p class="note">Dedicated: clients out, idle, and tasks waiting for one, of the most that a thread may have.</p>
</section>
<section aria-labelledby="events">
<h2 id="events">Recent events</h2>
<p class="note" id="no-events">None since this page was opened.</p>
<div role="log" aria-labelledby="events"><ol id="log"></ol></div>
</section>
</main>
<footer><p>Seen at <time id="seen">–</time>. Curves and events begin when this page is opened.</p></footer>
<script>${SCRIPT}</script>
</body>
</html>
`;
}

function trend(id: string, label: string): string {
  return `<div><dt>${label}</dt><dd><b id="${id}">–</b><small id="${id}-note">&nbsp;</small>
<svg id="${id}-curve" viewBox="0 0 120 32" preserveAspectRatio="none" aria-hidden="true"><path/><polyline/></svg></dd></div>`;
}

function columnHeader(label: string): string {
  return `<th role="columnheader" scope="col">${label}</th>`;
}

function escaped(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

function hashOf(text: string): string {
  return `sha256-${createHash("sha256").update(text).digest("base64")}`;
}
