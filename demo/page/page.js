"use strict";
// Everything is built of elements and text, never of markup: the policy of the page would refuse it.

const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MANY = 20; // boxes: names of more would hide the picture, and wait for the pointer

let about = null; // what the model can do
let seen = null; // the answer that is shown
let chosen = -1; // number of the box whose attention is shown
let asking = null; // the request in flight
let surest = 0; // so many boxes whatever they score, until the slider is moved; 0: by score

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// ---- asking

async function ask(address, name, body = new Uint8Array()) {
  if (asking) asking.abort();
  const request = (asking = new AbortController());
  busy(true, `Looking at ${name} …`);
  try {
    const answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body,
      signal: request.signal,
    });
    const value = await answer.json();
    if (!answer.ok) throw new Error(value.error);
    show(value, name);
  } catch (error) {
    if (request.signal.aborted) return; // a newer image has taken its place
    const lost = error instanceof TypeError || error instanceof SyntaxError;
    trouble(`${name}: ${lost ? "no answer came; is the demo still running in its terminal?" : error.message}`);
  }
  if (asking === request) {
    asking = null;
    busy(false);
  }
}

function take(file) {
  if (!file || !about) return;
  const name = file.name || "the pasted image";
  if (file.size > about.megabytes * 1e6) {
    const size = (file.size / 1e6).toFixed(1);
    trouble(`${name}: The file has ${size} MB and ${about.megabytes} MB are taken: save it smaller.`);
  } else {
    ask("/look", name, file);
  }
}

function busy(yes, words = "") {
  document.body.setAttribute("aria-busy", yes);
  at("progress").hidden = !yes;
  if (yes) {
    at("trouble").hidden = true;
    at("trouble").textContent = "";
    say(words);
  }
}

function trouble(sentence) {
  say(""); // nothing is looked at any more
  at("trouble").textContent = sentence;
  at("trouble").hidden = false;
}

function say(words) {
  at("status").textContent = words;
}

// ---- showing

function show(answer, name) {
  seen = answer;
  chosen = -1;
  document.body.classList.add("seen");
  at("image").src = answer.picture;
  at("name").textContent = name;
  at("size").textContent = `${answer.width} × ${answer.height}`;
  // A tall picture would push everything else off the screen.
  at("picture").style.maxWidth = `calc(72vh * ${answer.width / answer.height})`;
  at("result").hidden = false;
  at("found").hidden = !about.boxes;
  at("result").classList.toggle("alone", !about.boxes);
  if (about.boxes) {
    setSlider();
    drawBoxes();
  } else {
    at("image").alt = `${name}, ${answer.width} by ${answer.height} pixels`;
  }
  drawStrip(at("neighbours"), answer.neighbours);
  at("near").hidden = !answer.neighbours.length;
  at("examples").hidden = true; // the neighbours lead on
  const near = answer.neighbours.length;
  say([about.boxes ? at("count").textContent : "", near ? `${near} similar images` : ""].filter(Boolean).join(", "));
}

function setSlider() {
  const slider = at("slider");
  if (slider.dataset.set) {
    if (about.pretrained) slider.max = Math.max(1, seen.boxes.length);
    return; // the choice stays from image to image
  }
  slider.dataset.set = "yes";
  const wanted = about.pretrained
    ? { min: 1, max: Math.max(1, seen.boxes.length), step: 1, value: Math.min(10, seen.boxes.length) }
    : { min: 0, max: 1, step: 0.01, value: 0.3 };
  Object.assign(slider, wanted);
  at("slider-label").textContent = about.pretrained ? "Surest boxes" : "Score at least";
}

// Boxes come surest first, so both kinds of choice keep a beginning of the list.
function kept() {
  const value = Number(at("slider").value);
  if (surest) return seen.boxes.slice(0, surest);
  return about.pretrained ? seen.boxes.slice(0, value) : seen.boxes.filter((one) => one.score >= value);
}

const nameOf = (one) => about.classes[one.label]?.name ?? `class ${one.label}`;
const colorOf = (one, number) => (about.pretrained ? about.levels[number % about.levels.length] : about.classes[one.label]?.color ?? "#e69f00");

function drawBoxes() {
  const boxes = kept();
  const value = Number(at("slider").value);
  at("slider-value").textContent = about.pretrained ? boxes.length : surest ? `the surest ${surest}` : value.toFixed(2);
  at("count").textContent = boxes.length === 1 ? "1 box" : `${boxes.length} boxes`;
  at("none").hidden = boxes.length > 0;
  const best = seen.boxes[0]?.score;
  at("none").replaceChildren(...(best === undefined ? ["Nothing was found."] : lower(best)));
  const words = boxes.slice(0, 8).map((one) => `${nameOf(one)} ${one.score.toFixed(2)}`).join(", ");
  const more = boxes.length > 8 ? ` and ${boxes.length - 8} more` : "";
  at("image").alt = `${at("name").textContent}, ${at("count").textContent}${words ? `: ${words}${more}` : ""}`;
  at("boxes").replaceChildren(...boxes.map(frame));
  at("boxes").classList.toggle("many", boxes.length > MANY);
  at("list").replaceChildren(...boxes.map(row));
  choose(chosen < boxes.length ? chosen : -1);
}

// A way on where the threshold leaves nothing.
function lower(best) {
  const button = make("button", { type: "button", id: "lower" }, "Show the surest five");
  button.addEventListener("click", () => {
    surest = 5; // by a score, boxes that tie with the fifth would come along
    at("slider").value = Math.floor(100 * (seen.boxes[4] ?? seen.boxes.at(-1)).score) / 100;
    drawBoxes();
    at("list").querySelector("button")?.focus();
  });
  return [`No box scores that high: the surest has ${best.toFixed(2)}. `, button];
}

function frame(one, number) {
  const [left, top, right, bottom] = one.box;
  const tag = make("span", {}, about.pretrained ? String(number + 1) : `${nameOf(one)} ${one.score.toFixed(2)}`);
  const box = make("div", { class: "box", "--c": colorOf(one, number) }, tag);
  box.style.left = `${100 * left}%`;
  box.style.top = `${100 * top}%`;
  box.style.width = `${100 * (right - left)}%`;
  box.style.height = `${100 * (bottom - top)}%`;
  box.style.zIndex = 1000 - number; // the surest on top
  box.classList.toggle("inside", top < 0.06);
  box.classList.toggle("flush", left > 0.75);
  return box;
}

function row(one, number) {
  const button = make(
    "button",
    { type: "button", "aria-pressed": "false", "--c": colorOf(one, number) },
    make("i"),
    make("b", {}, about.pretrained ? `${number + 1}` : nameOf(one)),
    make("em", {}, one.score.toFixed(2)),
  );
  button.setAttribute("aria-label", `${nameOf(one)}, score ${one.score.toFixed(2)}`);
  button.addEventListener("click", () => choose(chosen === number ? -1 : number));
  button.addEventListener("pointerenter", () => hover(number));
  button.addEventListener("pointerleave", () => hover(-1));
  return make("li", {}, button);
}

function hover(number) {
  [...at("boxes").children].forEach((box, i) => box.classList.toggle("near", i === number));
  [...at("list").querySelectorAll("button")].forEach((b, i) => b.classList.toggle("near", i === number));
}

// ---- one box and what it looks at

function choose(number) {
  chosen = number;
  const one = number < 0 ? null : seen.boxes[number];
  [...at("boxes").children].forEach((box, i) => box.classList.toggle("on", i === number));
  [...at("list").querySelectorAll("button")].forEach((b, i) => b.setAttribute("aria-pressed", i === number));
  at("picture").classList.toggle("some", Boolean(one));
  at("picture").classList.toggle("attending", Boolean(one?.attention));
  drawAttention(one);
}

function drawAttention(one) {
  const attention = one?.attention;
  at("points").toggleAttribute("hidden", !attention?.points); // SVG has no property of that name
  at("heat").hidden = !attention?.heat;
  at("legend").hidden = !about.attention || !kept().length;
  at("legend").replaceChildren(...legend(one));
  if (attention?.points) drawPoints(attention, one);
  if (attention?.heat) drawHeat(attention, one);
}

function legend(one) {
  if (!one) return [make("p", {}, "Choose a box to see what the detector looks at for it.")];
  const attention = one.attention;
  if (attention.heat) {
    const ramp = make("canvas", { id: "ramp", width: 256, height: 1, role: "img", "aria-label": "from least to most" });
    const pen = ramp.getContext("2d");
    for (let x = 0; x < 256; x++) {
      pen.fillStyle = `rgb(${ramped(x / 255)})`;
      pen.fillRect(x, 0, 1, 1);
    }
    return [make("p", {}, `Where query ${one.query} looks, mean over the heads; from least to most:`), ramp];
  }
  const outside = attention.outside >= 0.005 ? ` ${Math.round(100 * attention.outside)}\u00a0% lies outside of the image.` : "";
  const levels = seen.shapes.map(([rows, columns], level) =>
    make("li", {}, make("i", { "--c": about.levels[level % about.levels.length] }), `${rows} × ${columns}`),
  );
  return [
    make("p", {}, `Where query ${one.query} looks: a dot's area is its weight, its colour the feature map it reads.${outside}`),
    make("ul", {}, ...levels),
  ];
}

function drawPoints(attention, one) {
  const svg = at("points");
  const [width, height] = [seen.width, seen.height];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", `What query ${one.query} looks at: ${attention.points.length} points around ${places(attention.points)}`);
  const even = attention.points.length;
  const circles = [...attention.points].sort((a, b) => b[2] - a[2]).map(([x, y, weight, level]) => {
    const circle = document.createElementNS(SVG, "circle");
    circle.setAttribute("cx", x * width);
    circle.setAttribute("cy", y * height);
    circle.setAttribute("r", 0.012 * Math.max(width, height) * Math.sqrt(weight * even));
    circle.setAttribute("fill", about.levels[level % about.levels.length]);
    return circle;
  });
  svg.replaceChildren(...circles);
}

function places(points) {
  const share = (k) => points.reduce((sum, one) => sum + one[2] * one[k], 0);
  return `x ${share(0).toFixed(2)}, y ${share(1).toFixed(2)} of the image`;
}

function drawHeat({ rows, columns, heat }, one) {
  const canvas = at("heat");
  Object.assign(canvas, { width: columns, height: rows });
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(columns, rows);
  const bytes = atob(heat);
  let best = 0;
  for (let i = 0; i < rows * columns; i++) {
    const value = bytes.charCodeAt(i) / 255;
    if (value > bytes.charCodeAt(best) / 255) best = i;
    image.data.set([...ramped(value), 60 + 150 * value], 4 * i);
  }
  pen.putImageData(image, 0, 0);
  const [x, y] = [((best % columns) + 0.5) / columns, (Math.floor(best / columns) + 0.5) / rows];
  canvas.setAttribute("aria-label", `What query ${one.query} looks at: most at x ${x.toFixed(2)}, y ${y.toFixed(2)} of the image`);
}

function ramped(value) {
  const place = value * (about.ramp.length - 1);
  const low = Math.min(Math.floor(place), about.ramp.length - 2);
  return about.ramp[low].map((from, i) => Math.round(from + (place - low) * (about.ramp[low + 1][i] - from)));
}

// ---- images of the gallery

function drawStrip(list, images) {
  list.replaceChildren(
    ...images.map(({ index, name, similarity, same }) => {
      const picture = make("img", { src: `/thumbnail/${index}`, alt: "", loading: "lazy", width: 128, height: 128 });
      const caption = similarity === undefined ? [] : [make("span", {}, make("b", {}, name), make("em", {}, same ? "same" : similarity.toFixed(2)))];
      const button = make("button", { type: "button" }, picture, ...caption);
      const like = similarity === undefined ? "" : same ? ", the same image" : `, similarity ${similarity.toFixed(2)}`;
      button.setAttribute("aria-label", `Look at ${name ?? `image ${index + 1}`}${like}`);
      button.addEventListener("click", () => {
        scrollTo({ top: 0 });
        ask(`/look/${index}`, name ?? `image ${index + 1}`);
      });
      return make("li", {}, button);
    }),
  );
}

// ---- wiring

at("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});
at("ask").addEventListener("submit", (event) => event.preventDefault());
at("slider").addEventListener("input", () => {
  surest = 0;
  drawBoxes();
});
at("list").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const buttons = [...at("list").querySelectorAll("button")];
  buttons[buttons.indexOf(document.activeElement) + step]?.focus();
  event.preventDefault();
});
at("picture").addEventListener("click", (event) => choose(under(event)));
at("picture").addEventListener("pointermove", (event) => hover(under(event)));
at("picture").addEventListener("pointerleave", () => hover(-1));

// The smallest box under the pointer; on the chosen one, none.
function under(event) {
  if (!seen || !about.boxes) return -1;
  const area = at("picture").getBoundingClientRect();
  const [x, y] = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  const size = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  const hit = kept().filter(({ box }) => box[0] <= x && x <= box[2] && box[1] <= y && y <= box[3]);
  const best = hit.sort((a, b) => size(a) - size(b))[0];
  const number = seen.boxes.indexOf(best);
  return event.type === "click" && number === chosen ? -1 : number;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && seen) choose(-1);
});
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}

async function begin() {
  try {
    about = await (await fetch("/about")).json();
  } catch {
    return trouble("No answer came; is the demo still running in its terminal?");
  }
  document.title = `What does ${about.model} see?`;
  at("model").textContent = about.model;
  const kind = !about.boxes ? "A backbone: which images are alike to it." : about.pretrained
    ? "Pretrained without labels: its surest boxes, whatever they hold."
    : `Finds ${about.classes.length > 10 ? `${about.classes.length} classes` : about.classes.map((one) => one.name).join(", ")}.`;
  at("kind").textContent = kind;
  at("rules").textContent = `JPEG, PNG, WebP or BMP up to ${about.megabytes} MB. It stays on this machine and is not kept.`;
  at("near-about").textContent = `Of ${about.gallery} images, by the features of the backbone. Choose one to look at it.`;
  const shown = Math.min(8, about.gallery);
  drawStrip(at("own"), Array.from({ length: shown }, (_, i) => ({ index: Math.floor((i * about.gallery) / shown) })));
  at("examples").hidden = !shown;
  document.body.dataset.ready = "yes";
}

begin();
