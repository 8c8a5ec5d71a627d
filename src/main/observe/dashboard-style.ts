/** Contrast of text is at least 4.5 : 1 on its ground, in both schemes; tones are told by words as well. */
export const STYLE = `
:root{color-scheme:light dark;--ground:#f6f7f9;--card:#fff;--line:#d5dae1;--text:#1a1f27;--soft:#55606e;
--accent:#1d5fc2;--area:#1d5fc21f;--ok:#176b3a;--okbg:#def3e6;--warn:#7d4a00;--warnbg:#fdeecb;--bad:#a81c1c;--badbg:#fde2e1}
@media (prefers-color-scheme:dark){:root{--ground:#12151a;--card:#1b2027;--line:#343c47;--text:#e8ebef;--soft:#a7b1be;
--accent:#7db1ff;--area:#7db1ff26;--ok:#7fdca4;--okbg:#15351f;--warn:#f5c66a;--warnbg:#3b2c0c;--bad:#ff9c97;--badbg:#451919}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem clamp(1rem,3vw,2.5rem) 2rem;max-width:90rem;background:var(--ground);color:var(--text);
font:1rem/1.45 system-ui,sans-serif;font-variant-numeric:tabular-nums}
header{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center}
h1{margin:0;font-size:1.5rem;overflow-wrap:anywhere}
h2{margin:2rem 0 .75rem;font-size:1.1rem}
h2 small,.note,footer{color:var(--soft);font-size:.875rem;font-weight:400}
#health{margin:0;padding:.2rem .75rem;border-radius:1rem;font-weight:600}
[data-tone=ok]{color:var(--ok);background:var(--okbg)}
[data-tone=warn]{color:var(--warn);background:var(--warnbg)}
[data-tone=bad]{color:var(--bad);background:var(--badbg)}
[data-tone=idle]{color:var(--soft);background:var(--card)}
button{margin-left:auto;padding:.4rem 1rem;min-height:2.5rem;border:1px solid var(--soft);border-radius:.5rem;
background:var(--card);color:var(--text);font:inherit;cursor:pointer}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.cards{display:grid;gap:.75rem;margin:0}
@media (min-width:40rem){.cards{grid-template-columns:1fr 1fr}}
@media (min-width:64rem){.cards{grid-template-columns:1fr 1fr 1fr}}
.cards>div{padding:.75rem 1rem;border:1px solid var(--line);border-radius:.75rem;background:var(--card)}
dt{color:var(--soft);font-size:.875rem}
dd{margin:0;display:flex;flex-wrap:wrap;align-items:baseline;gap:0 .75rem}
dd b{font-size:1.6rem;font-weight:650}
dd small{color:var(--soft);font-size:.875rem}
dd svg{flex:0 0 100%;height:2rem}
svg polyline{fill:none;stroke:var(--accent);stroke-width:2;vector-effect:non-scaling-stroke;stroke-linejoin:round}
svg path{fill:var(--area)}
table{width:100%;border-collapse:separate;border-spacing:0;border:1px solid var(--line);border-radius:.75rem;
background:var(--card)}
th,td{padding:.55rem .75rem;text-align:right;font-weight:400;white-space:nowrap}
thead th{color:var(--soft);font-size:.875rem}
tbody th,tbody td{border-top:1px solid var(--line)}
tbody th{font-weight:650}
td b,th b{font-weight:inherit}
th:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
td span,dd [data-tone=warn],dd [data-tone=bad]{padding:.1rem .6rem;border-radius:1rem;font-size:.875rem;font-weight:600}
.bar{display:inline-block;width:5rem;height:.5rem;border-radius:.25rem;background:var(--area);overflow:hidden}
.bar::before{content:"";display:block;height:100%;background:var(--accent);transform-origin:left;
transform:scaleX(var(--share,0));transition:transform .4s}
.bar+b{display:inline-block;min-width:3.6rem}
dd .bar{flex:0 0 100%;height:.75rem;margin:.65rem 0 .3rem;border-radius:.4rem}
.bar[hidden]{display:none}
ol{margin:0;padding:0;list-style:none}
li{display:flex;gap:1rem;padding:.35rem 0;border-bottom:1px solid var(--line)}
li time{color:var(--soft);white-space:nowrap}
footer{margin-top:2rem}
@media (max-width:64rem){
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table{display:block;border:0;background:none}
tbody{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,18rem),1fr));gap:.75rem}
tr{display:grid;grid-template-columns:repeat(3,1fr);padding:.5rem .25rem;border:1px solid var(--line);
border-radius:.75rem;background:var(--card)}
tbody th,tbody td,th:first-child,td:nth-child(2){display:block;padding:.35rem .75rem;border:0;text-align:left;white-space:normal}
tbody th::before,td::before{content:attr(data-label);display:block;color:var(--soft);font-size:.875rem;font-weight:400}
td:nth-child(7){grid-column:span 2}
td:nth-child(9){grid-column:1/-1}
.bar+b{margin-left:.6rem}
td span{margin-left:-.25rem}
}
@media (prefers-reduced-motion:reduce){*{transition:none!important}}
`;
