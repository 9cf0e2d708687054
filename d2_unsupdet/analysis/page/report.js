// The report is whole without this: it turns sections into tabs, sorts tables and pictures, compares
// with another baseline, reads values off charts and enlarges pictures.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
document.documentElement.classList.add("js");

addEventListener("beforeprint", () => all("img").forEach((image) => (image.loading = "eager")));
addEventListener("DOMContentLoaded", () => {
  tabs();
  all("table.sortable").forEach(sortable);
  all(".score-table").forEach(baseline);
  wide();
  charts();
  sortedPictures();
  lightbox();
});

function tabs() {
  const nav = document.querySelector("nav > div");
  const links = all("a", nav);
  const panels = links.map((link) => document.querySelector(link.hash));
  nav.setAttribute("role", "tablist");
  links.forEach((link, i) => {
    link.id = "tab-" + panels[i].id;
    link.setAttribute("role", "tab");
    link.setAttribute("aria-controls", panels[i].id);
    panels[i].setAttribute("role", "tabpanel");
    panels[i].setAttribute("aria-labelledby", link.id);
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go(i);
    });
  });
  const show = (index) =>
    links.forEach((link, i) => {
      link.setAttribute("aria-selected", i === index);
      link.tabIndex = i === index ? 0 : -1;
      panels[i].hidden = i !== index;
      if (i === index) link.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
  const go = (index) => {
    // Not by the address: the browser would move the focus out of the tabs.
    history.pushState(null, "", links[index].hash);
    follow();
  };
  const follow = () => {
    const name = decodeURIComponent(location.hash.slice(1));
    const target = name && name !== "main" ? document.getElementById(name) : panels[0];
    if (!target) return;
    const index = panels.findIndex((panel) => panel.contains(target));
    if (index < 0) return;
    show(index);
    for (let box = target; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
    if (panels[index] === target) scrollTo(0, 0);
    else target.scrollIntoView();
  };
  nav.addEventListener("keydown", (event) => {
    const now = links.indexOf(document.activeElement);
    const next = {
      ArrowRight: (now + 1) % links.length,
      ArrowLeft: (now + links.length - 1) % links.length,
      Home: 0,
      End: links.length - 1,
    }[event.key];
    if (now < 0 || next === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    links[next].focus();
    go(next);
  });
  addEventListener("hashchange", follow);
  addEventListener("popstate", follow);
  show(0);
  follow();
  document.documentElement.classList.add("ready");
}

function sortable(table) {
  if (table.tBodies[0].rows.length < 2) return;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const words = column === 0 || head.classList.contains("text");
      const was = head.getAttribute("aria-sort");
      const down = was ? was !== "descending" : !words;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? "";
      const order = (a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const way = words ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
        return down ? -way : way;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    });
  });
}

function baseline(box) {
  const rows = [...box.querySelector("tbody").rows];
  if (rows.length < 2) return;
  const select = make("select");
  select.append(make("option", { value: "", textContent: "nothing" }));
  for (const row of rows) {
    const name = row.cells[0].dataset.value;
    select.append(make("option", { value: name, textContent: name }));
  }
  select.value = box.dataset.baseline;
  const label = make("label", { className: "choose", textContent: "Differences to " });
  label.append(select);
  box.prepend(label);
  select.addEventListener("change", () => {
    const base = rows.find((row) => row.cells[0].dataset.value === select.value);
    for (const row of rows) {
      all(".delta, .base", row).forEach((old) => old.remove());
      if (row === base) {
        const name = row.cells[0].querySelector(".who > div");
        const tag = make("span", { className: "tag base", textContent: "baseline" });
        name.insertBefore(tag, name.querySelector("small"));
        tag.before(" ");
      } else if (base) {
        [...row.cells].forEach((cell, i) => difference(cell, base.cells[i]));
      }
    }
  });
}

function difference(cell, other) {
  if (!cell.dataset.digits || !cell.dataset.value || !other.dataset.value) return;
  const change = cell.dataset.value - other.dataset.value;
  const text = Math.abs(change).toFixed(cell.dataset.digits);
  const single = cell.dataset.noise === "" || other.dataset.noise === "";
  const noise = Math.max(cell.dataset.noise, other.dataset.noise);
  const span = make("span", { className: "delta dim" });
  const sign = change > 0 ? "+" : "\u2212";
  if (Number(text) === 0) span.textContent = "\u00b1" + text;
  else if (single) {
    span.textContent = sign + text;
    span.title = "of a single run: how much seeds differ is unknown";
  } else if (Math.abs(change) <= noise) {
    span.textContent = "\u2248 " + sign + text;
    span.title = "within the spread of the seeds";
  } else {
    span.className = "delta " + (change > 0 ? "up" : "down");
    span.textContent = (change > 0 ? "\u25b2 " : "\u25bc ") + sign + text;
  }
  cell.insertBefore(span, cell.querySelector(".paper"));
}

// A table that is cut at its right edge says so.
function wide() {
  const tables = all(".table");
  const look = () => tables.forEach((table) => table.classList.toggle("cut", table.scrollWidth > table.clientWidth + 4));
  const watcher = new ResizeObserver(look);
  for (const table of tables) {
    const hint = make("p", { className: "hint dim", textContent: "More columns: scroll sideways \u2192" });
    hint.setAttribute("aria-hidden", "true");
    table.before(hint);
    watcher.observe(table);
  }
}

function charts() {
  const heat = (number) => {
    document.documentElement.classList.toggle("hot", number !== undefined);
    all(".on").forEach((part) => part.classList.remove("on"));
    if (number !== undefined) all(`[data-s="${number}"]`).forEach((part) => part.classList.add("on"));
  };
  for (const item of all(".legend li, .strip-rows [data-s]")) {
    item.addEventListener("pointerenter", () => heat(item.dataset.s));
    item.addEventListener("pointerleave", () => heat());
  }
  all(".chart").forEach(reading);
}

function reading(figure) {
  const svg = figure.querySelector("svg[data-plot]");
  const lines = all("polyline", svg);
  if (!lines.length) return;
  const [left, right, top, bottom] = svg.dataset.plot.split(" ").map(Number);
  const [x0, x1] = svg.dataset.x.split(" ").map(Number);
  const [y0, y1] = svg.dataset.y.split(" ").map(Number);
  const at = figure.querySelector(".at");
  const rule = document.createElementNS(svg.namespaceURI, "line");
  rule.setAttribute("class", "rule");
  rule.setAttribute("y1", top);
  rule.setAttribute("y2", bottom);
  let places;
  const leave = () => {
    at.hidden = true;
    rule.remove();
    all("b[data-last]", figure).forEach((b) => (b.textContent = b.dataset.last));
  };
  const move = (event) => {
    places ??= lines.map((line) => [...line.points].map((p) => [p.x, p.y]));
    const box = svg.getBoundingClientRect();
    const wanted = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const x = Math.min(right, Math.max(left, wanted));
    rule.setAttribute("x1", x);
    rule.setAttribute("x2", x);
    svg.append(rule);
    const step = Math.round(x0 + ((x - left) / (right - left)) * (x1 - x0));
    const values = lines.map((line, i) => {
      const near = places[i].reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      const value = y0 + ((bottom - near[1]) / (bottom - top)) * (y1 - y0);
      return [line.dataset.s, value, near[0]];
    });
    at.hidden = false;
    at.textContent = "near " + step.toLocaleString("en");
    const shown = all(".legend li", figure);
    const used = new Map();
    for (const [number, value] of values) {
      const items = shown.filter((item) => item.dataset.s === number);
      const item = items[used.get(number) ?? 0];
      used.set(number, (used.get(number) ?? 0) + 1);
      if (item) item.querySelector("b").textContent = value.toPrecision(3);
    }
    if (!shown.length && values.length === 1) at.textContent += ": " + values[0][1].toPrecision(3);
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerleave", leave);
}

function sortedPictures() {
  for (const shots of all(".shots.sorted")) {
    const select = make("select");
    for (const [value, text] of [["1", "highest loss first"], ["-1", "lowest loss first"], ["0", "by name"]]) {
      select.append(make("option", { value, textContent: text }));
    }
    const label = make("label", { className: "choose", textContent: "Order: " });
    label.append(select);
    shots.before(label);
    select.addEventListener("change", () => {
      const way = Number(select.value);
      const name = (shot) => shot.querySelector("figcaption").textContent;
      const order = (a, b) => (way ? way * (b.dataset.value - a.dataset.value) : name(a).localeCompare(name(b)));
      shots.append(...[...shots.children].sort(order));
    });
  }
}

function lightbox() {
  const links = () => all(".shot a").filter((link) => link.checkVisibility());
  if (!all(".shot a").length) return;
  const dialog = make("dialog", { className: "large" });
  const image = make("img");
  const caption = make("p");
  const button = (text, label, act) => {
    const one = make("button", { type: "button", textContent: text, ariaLabel: label });
    one.addEventListener("click", act);
    return one;
  };
  let shown = [], now = 0;
  const show = (index) => {
    now = (index + shown.length) % shown.length;
    const inner = shown[now].querySelector("img");
    image.src = inner.src;
    image.alt = inner.alt;
    caption.textContent = `${shown[now].dataset.caption} \u00b7 ${now + 1} of ${shown.length}`;
  };
  const bar = make("div", { className: "bar" });
  bar.append(
    button("\u2190", "Previous picture", () => show(now - 1)),
    caption,
    button("\u2192", "Next picture", () => show(now + 1)),
    button("\u00d7", "Close", () => dialog.close()),
  );
  dialog.append(image, bar);
  dialog.setAttribute("aria-label", "Picture");
  document.body.append(dialog);
  document.addEventListener("click", (event) => {
    const link = event.target.closest(".shot a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    shown = links();
    show(shown.indexOf(link));
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(now - 1);
    if (event.key === "ArrowRight") show(now + 1);
  });
}
