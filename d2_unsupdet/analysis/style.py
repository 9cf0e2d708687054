"""The report's style sheet, and its only script: it sorts tables; the page is whole without."""

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--dim:#5a6577;--line:#dfe3ea;
--accent:#1d5fbf;--good:#13703c;--bad:#b3261e;--mark:#fff6d8;
--c0:#1d5fbf;--c1:#c2530a;--c2:#0b7a5f;--c3:#9b2fae;--c4:#a8730a;--c5:#c0264e;--c6:#3d7d12;--c7:#50607a}
@media (prefers-color-scheme:dark){:root{--bg:#11151c;--card:#1a202a;--ink:#e7ebf2;--dim:#9da8ba;
--line:#303948;--accent:#7fb2ff;--good:#62d394;--bad:#ff8f85;--mark:#3a3314;
--c0:#7fb2ff;--c1:#ffa25c;--c2:#4fd1ac;--c3:#dc93ee;--c4:#e5bd55;--c5:#ff8aa8;--c6:#9dd66a;--c7:#b4c1d6}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth;scroll-padding-top:3.2rem}
body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
main,header>div,nav>div,footer{max-width:76rem;margin:0 auto;padding:0 1.25rem}
header{padding:2rem 0 1rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.4rem 0 .9rem}
h3{font-size:1rem;margin:1.6rem 0 .6rem}
p{margin:.4rem 0;max-width:72ch}
a{color:var(--accent)}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:4px}
.skip{position:absolute;left:-999px}.skip:focus{left:1rem;top:.5rem;background:var(--card);z-index:9}
.dim{color:var(--dim)}.num{font-variant-numeric:tabular-nums}
nav{position:sticky;top:0;z-index:5;background:var(--bg);border-bottom:1px solid var(--line)}
nav>div{display:flex;gap:.2rem;overflow-x:auto}nav a:first-child{margin-left:-.7rem}
nav a{padding:.6rem .7rem;text-decoration:none;color:var(--ink);white-space:nowrap}
nav a:hover{color:var(--accent)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr));gap:.9rem}
.card,.chart,.shot,.run,.table{background:var(--card);border:1px solid var(--line);
border-radius:10px}
.card{padding:.9rem 1.1rem}
.card h3{margin:0;font-size:.85rem;font-weight:600;color:var(--dim)}
.card .big{font-size:1.9rem;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums}
.card p{margin:0;font-size:.9rem;overflow-wrap:anywhere}
.up{color:var(--good)}.down{color:var(--bad)}
.delta{font-size:.85em;white-space:nowrap}
.notes{background:var(--mark);border:1px solid var(--line);border-radius:10px;margin:1rem 0 0;
padding:.6rem 1rem .6rem 2rem;font-size:.92rem;overflow-wrap:anywhere}
.table,.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.94rem}
th,td{text-align:right;padding:.5rem .65rem;border-bottom:1px solid var(--line);white-space:nowrap;
font-variant-numeric:tabular-nums;vertical-align:top}
tbody tr:last-child>*{border-bottom:0}
thead th{color:var(--dim);font-weight:600;font-size:.85rem;vertical-align:bottom}
th.text,td.text{text-align:left}
td.text{white-space:normal;max-width:14rem}
.sortable tbody th{text-align:left;font-weight:600;position:sticky;left:0;background:var(--card);
max-width:16rem;white-space:normal;overflow-wrap:anywhere;min-width:11rem}
.sortable thead th:first-child{text-align:left;position:sticky;left:0;background:var(--card)}
.sortable td .delta{display:block}
thead button{all:unset;cursor:pointer;font:inherit;color:inherit}
thead button:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
thead button::after{content:" \\2195";opacity:.5}
[aria-sort=ascending] button::after{content:" \\2191";opacity:1}
[aria-sort=descending] button::after{content:" \\2193";opacity:1}
.best{font-weight:700}
.tag{display:inline-block;font-size:.75rem;font-weight:600;border:1px solid var(--line);
border-radius:99px;padding:0 .5rem;color:var(--dim);white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:.9rem}
.chart{margin:0;padding:.8rem .9rem;min-width:0}
.chart figcaption{font-weight:600}
.chart svg{display:block;width:100%;height:auto;max-width:34rem}
.chart text{font-size:11.5px;fill:var(--dim);font-family:inherit}
.chart .left{text-anchor:end}.chart .mid{text-anchor:middle}
.grid{stroke:var(--line);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.dot{stroke:var(--card);stroke-width:1.5}
LINES
.legend{list-style:none;margin:.5rem 0;padding:0;font-size:.88rem}
.legend li{display:flex;gap:.5rem;align-items:center}
.legend span{flex:1;min-width:0;overflow-wrap:anywhere}
svg.key{width:26px!important;height:8px;flex:none}
details>summary{cursor:pointer;color:var(--accent);padding:.25rem 0}
.plain{font-size:.82rem}.plain th,.plain td{padding:.2rem .6rem}
.shots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:.9rem}
.shot{margin:0;padding:.7rem;min-width:0}
.shot:target{grid-column:1/-1;border-color:var(--accent)}
.shot img{display:block;max-width:100%;width:100%;height:auto;border-radius:6px}
.shot figcaption{font-size:.9rem;margin-top:.5rem;overflow-wrap:anywhere}
.run{padding:.4rem 1.1rem .8rem;margin:0 0 .9rem}
.run h3{margin:.6rem 0 .3rem;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(7rem,auto) 1fr;gap:.15rem 1rem;margin:.4rem 0;
font-size:.92rem}
dt{color:var(--dim);overflow-wrap:anywhere}dd{margin:0;overflow-wrap:anywhere}
pre{margin:.3rem 0;padding:.7rem .9rem;background:var(--bg);border:1px solid var(--line);
border-radius:8px;overflow:auto;max-height:26rem;font:.83rem/1.45 ui-monospace,Menlo,Consolas,
"DejaVu Sans Mono",monospace}
pre.wrap{white-space:pre-wrap;overflow-wrap:anywhere}
footer{padding:2rem 1.25rem;color:var(--dim);font-size:.88rem}
@media (max-width:40rem){main,header>div,nav>div{padding:0 .8rem}h1{font-size:1.4rem}
dl{grid-template-columns:1fr}dd{margin:0 0 .3rem}.card .big{font-size:1.6rem}
.sortable tbody th{min-width:7rem;max-width:9rem}}
@media print{:root{color-scheme:light;--bg:#fff;--card:#fff;--ink:#000;--dim:#444;--line:#bbb}
nav,.skip{display:none}body{font-size:10pt}.chart,.shot,.card,tr{break-inside:avoid}
h2,h3{break-after:avoid}.charts,.shots{grid-template-columns:repeat(2,1fr)}
pre{max-height:none;white-space:pre-wrap}.table,.scroll{overflow:visible}
.sortable th,.sortable td{font-size:8pt;padding:.25rem;white-space:normal;min-width:0!important}
thead button::after{content:""!important}
.charts~details,.chart details{display:none}
:is(.run,#scores) ::details-content{content-visibility:visible;block-size:auto}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
""".replace(
    "LINES",
    "\n".join(f".s{i}{{stroke:var(--c{i})}}.dot.s{i}{{fill:var(--c{i})}}" for i in range(8)),
)

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.value ?? "";
      const order = (a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const numeric = x - y;
        const way = Number.isNaN(numeric) ? x.localeCompare(y) : numeric;
        return down ? -way : way;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}
"""
