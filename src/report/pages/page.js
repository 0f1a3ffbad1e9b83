"use strict";
// What all views share. A page's data are the JSON in #data, with arrays of numbers in base64. A view is a function that
// takes the data and returns { draw, rows }: `draw` fills #controls and #view, `rows` is what is shown as a table, its
// header first.
const page = JSON.parse(document.getElementById("data").textContent);
const views = {};
const at = (id) => document.getElementById(id);

// --- Elements

function grow(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
const make = (tag, attributes, ...children) => grow(document.createElement(tag), attributes, children);
const shape = (tag, attributes, ...children) =>
  grow(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// A labelled choice among texts; `change` is told the number of the chosen one.
function chooser(name, options, chosen, change) {
  const select = make("select", { change: (event) => change(event.target.selectedIndex) },
    options.map((option, number) => make("option", { selected: number === chosen }, option)));
  return make("label", {}, name, select);
}

function slider(name, low, high, step, value, change) {
  const shown = make("output", {}, String(value));
  const input = make("input", { type: "range", min: low, max: high, step, value, "aria-label": name,
    input: (event) => { shown.textContent = event.target.value; change(Number(event.target.value)); } });
  return make("label", {}, name, input, shown);
}

// Whatever cannot be seen, or turns the text around it, as signs that can be seen.
function visible(text) {
  const control = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
  return text.replace(control, (letter) => {
    if (letter === "\n") return "⏎";
    return "⟨" + letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩";
  });
}

// Width of a text in a drawing, and a text that is no longer than a label may be.
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = '11px "Liberation Sans", Arial, Helvetica, sans-serif';
const widest = (texts) => texts.reduce((most, text) => Math.max(most, ruler.measureText(text).width), 0);
const label = (text, most = 26) => {
  const letters = [...visible(text)];
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : letters.join("");
};

// --- Numbers

// Numbers as the page holds them: 32-bit floats, or 16-bit shares of the way from `low` to `high`.
function numbers(packed) {
  const name = packed.f32 !== undefined ? "f32" : "u16";
  const bytes = Uint8Array.from(atob(packed[name]), (letter) => letter.charCodeAt(0));
  if (name === "f32") return new Float32Array(bytes.buffer);
  const shares = new Uint16Array(bytes.buffer);
  return Float32Array.from(shares, (share) => packed.low + share / 65535 * (packed.high - packed.low));
}

// Six significant digits.
function precise(value) {
  if (value === null || Number.isNaN(value)) return "not measured";
  const rounded = Number(value.toPrecision(6));
  const size = Math.abs(rounded);
  return rounded !== 0 && (size < 1e-4 || size >= 1e9) ? rounded.toExponential().replace("e+", "e") : String(rounded);
}
// As a table has it: all digits that a 32-bit float has.
const exact = (value) => value === null || Number.isNaN(value) ? "" : String(Number(value.toPrecision(7)));

const ends = (values) => {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null || Number.isNaN(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
};

// Round numbers between two ends, about `count` of them.
function ticks(low, high, count, whole) {
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough) || rough;
  if (whole) step = Math.max(1, Math.round(step));
  const decimals = Math.min(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), 12);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9 && found.length < 100; value += step) {
    const isZero = Math.abs(value) < step * 1e-6, text = isZero ? "0" : value.toFixed(decimals);
    const exponent = !isZero && (Math.abs(value) >= 1e6 || step < 1e-6);
    found.push([value, (exponent ? value.toExponential(1) : text).replace("-", "−")]);
  }
  return found;
}

// --- Colours

const isDark = () => document.documentElement.dataset.theme === "dark";
const colours = () => isDark()
  ? { ground: "#16181c", ink: "#ececec", soft: "#b0b3b8", grid: "#3a3e46", missing: "#4a4d54" }
  : { ground: "#ffffff", ink: "#1e1e1e", soft: "#5c5c5c", grid: "#e4e4e4", missing: "#cdcdcd" };
// The set of Okabe and Ito, which readers of any colour vision tell apart.
const CLASSES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442"];
const classColour = (index) => {
  const colour = CLASSES[index % CLASSES.length];
  if (isDark() && colour === "#000000") return "#ffffff";
  return isDark() && colour === "#0072b2" ? "#3d9fe0" : colour;
};
const channels = (colour) => [1, 3, 5].map((from) => parseInt(colour.slice(from, from + 2), 16));
const mixed = (a, b, share) => a.map((one, index) => one + (b[index] - one) * share);

// A scale of colours over values. What is white on a light page is the ground of a dark one.
class Scale {
  constructor(kind, low, high) {
    if (kind === "diverging") {
      const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
      [low, high] = [-most, most];
    } else if (!(low < high)) {
      [low, high] = [low - 0.5, low + 0.5];
    }
    Object.assign(this, { kind, low, high, stops: page.scales[kind].map(channels) });
  }
  channels(value) {
    if (value === null || Number.isNaN(value)) return channels(colours().missing);
    const share = Math.min(Math.max((value - this.low) / (this.high - this.low), 0), 1);
    if (isDark() && this.kind !== "sequential") {
      const ground = channels(colours().ground);
      const signed = this.kind === "diverging" ? 2 * share - 1 : -share;
      return mixed(ground, signed < 0 ? [255, 112, 96] : [94, 176, 255], Math.abs(signed));
    }
    const place = share * (this.stops.length - 1), below = Math.min(Math.floor(place), this.stops.length - 2);
    return mixed(this.stops[below], this.stops[below + 1], place - below);
  }
  colour(value) { return "rgb(" + this.channels(value).map(Math.round).join(",") + ")"; }
  ink(value) {
    const [red, green, blue] = this.channels(value).map((channel) => (channel / 255) ** 2.2);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#000000" : "#ffffff";
  }
  // A bar with its ends and its middle.
  legend(measure, lacks) {
    const width = 200, ink = colours().ink;
    const share = (value) => (value - this.low) / (this.high - this.low) * width;
    const bar = shape("svg", { width: width + 40, height: 34, role: "img",
      "aria-label": `${visible(measure)}: colours from ${precise(this.low)} to ${precise(this.high)}` });
    for (let step = 0; step < 50; step++) {
      const value = this.low + (step + 0.5) / 50 * (this.high - this.low);
      bar.append(shape("rect", { x: 20 + step * 4, y: 2, width: 4.5, height: 12, fill: this.colour(value) }));
    }
    bar.append(shape("rect", { x: 20, y: 2, width, height: 12, fill: "none", stroke: ink, "stroke-width": 0.7 }));
    const marks = ticks(this.low, this.high, 4);
    marks.forEach(([value, text]) => bar.append(
      shape("line", { x1: 20 + share(value), x2: 20 + share(value), y1: 14, y2: 18, stroke: ink }),
      shape("text", { x: 20 + share(value), y: 29, "font-size": 11, "text-anchor": "middle", fill: ink }, text)));
    const missing = lacks ? make("span", { style: "border-left:14px solid " + colours().missing + ";padding-left:4px" }, "not measured") : null;
    return make("div", { class: "legend" }, make("span", {}, visible(measure)), bar, missing);
  }
}

// Values as a picture, a pixel each.
function pixels(values, columns, rows, scale) {
  const SHADES = 1000, shades = Array.from({ length: SHADES + 1 }, (_, shade) =>
    scale.channels(scale.low + shade / SHADES * (scale.high - scale.low)).map(Math.round));
  const none = scale.channels(NaN), canvas = make("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d"), picture = context.createImageData(columns, rows);
  for (let index = 0; index < values.length; index++) {
    const share = Math.min(Math.max((values[index] - scale.low) / (scale.high - scale.low), 0), 1);
    const [red, green, blue] = Number.isNaN(share) ? none : shades[Math.round(share * SHADES)], from = index * 4;
    picture.data[from] = red;
    picture.data[from + 1] = green;
    picture.data[from + 2] = blue;
    picture.data[from + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

// --- What the pointer and the keys find

function tip(text, x, y) {
  const box = at("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const right = x + 14 + box.offsetWidth > window.innerWidth, low = y + 14 + box.offsetHeight > window.innerHeight;
  box.style.left = Math.max(2, x + (right ? -box.offsetWidth - 10 : 14)) + "px";
  box.style.top = Math.max(2, y + (low ? -box.offsetHeight - 10 : 14)) + "px";
}
const say = (text) => { at("status").textContent = text; };

// A matrix of coloured cells with labels; arrows move over it, and so does the pointer. `told(row, column)` is the text of
// a cell, `chosen(row, column)` is called at a click or Enter. A cell says its value with `decimals`, or what `texts` has.
// Keys begin at the cell `start`.
function heatMap({ rows, columns, values, scale, x, y, name, decimals, texts, square, size, told, chosen, start = null }) {
  const { ink, soft, ground } = colours();
  const [beside, under] = [rows.map((text) => label(text)), columns.map((text) => label(text))];
  const left = widest(beside) + 10 + (y ? 18 : 0), longest = widest(under);
  const room = Math.max(at("view").clientWidth - left - 12, 120);
  const written = texts || (decimals === null || decimals === undefined ? null :
    Array.from(values, (value) => value === null || Number.isNaN(value) ? "" : value.toFixed(decimals).replace("-", "−")));
  let width = Math.max(Math.min(room / columns.length, 34), written ? widest(written) + 8 : 0, columns.length > 200 ? 12 : 8) * size;
  let height = Math.max(Math.min(440 / rows.length, 26), 12) * size;
  if (square) width = height = Math.max(Math.min(room / columns.length, 560 / rows.length, 34), 6) * size;
  const turned = longest + 4 > width;
  const below = (turned ? longest + 10 : 16) + (x ? 18 : 0);
  const [across, down] = [width * columns.length, height * rows.length];
  const cursor = shape("rect", { width, height, fill: "none", stroke: ink, "stroke-width": 2.5, visibility: "hidden" });
  const cells = shape("svg", { width: across + 8, height: down + below, role: "img", tabindex: 0,
    "aria-label": `${name}: ${rows.length} by ${columns.length} values. Arrows move from cell to cell.${chosen ? " Enter shows more of a cell." : ""}` });
  cells.append(shape("image", { width: across, height: down, preserveAspectRatio: "none", href: pixels(values, columns.length, rows.length, scale).toDataURL(),
    style: "image-rendering:pixelated" }));
  const labels = shape("svg", { class: "rows", width: left, height: down + below, "aria-hidden": true });
  labels.append(shape("rect", { width: left, height: down + below, fill: ground }));
  for (let row = 0; row < rows.length; row += Math.ceil(12 / height)) {
    labels.append(shape("text", { x: left - 6, y: height * (row + 0.5) + 4, "text-anchor": "end", "font-size": 11, fill: ink },
      beside[row]));
  }
  if (y) labels.append(shape("text", { x: 12, y: down / 2, "text-anchor": "middle", "font-size": 12, fill: ink,
    transform: `rotate(-90 12 ${down / 2})` }, visible(y)));
  for (let column = 0; column < columns.length; column += Math.ceil((turned ? 12 : longest + 4) / width)) {
    const place = [width * (column + 0.5), down + 12];
    cells.append(shape("text", turned
      ? { x: place[0] + 4, y: down + 5, "text-anchor": "end", "font-size": 11, fill: ink, transform: `rotate(-90 ${place[0] + 4} ${down + 5})` }
      : { x: place[0], y: place[1], "text-anchor": "middle", "font-size": 11, fill: ink }, under[column]));
  }
  if (x) cells.append(shape("text", { x: Math.min(across, room) / 2, y: down + below - 5, "text-anchor": "middle", "font-size": 12, fill: ink },
    visible(x)));
  (written || []).forEach((text, index) => {
    if (!text) return;
    cells.append(shape("text", { x: width * (index % columns.length + 0.5), y: height * (Math.floor(index / columns.length) + 0.5) + 4,
      "text-anchor": "middle", "font-size": 11, fill: scale.ink(values[index]) }, text));
  });
  cells.append(shape("rect", { width: across, height: down, fill: "none", stroke: soft }), cursor);
  let here = start;
  if (here) Object.entries({ x: here[1] * width, y: here[0] * height }).forEach(([name, value]) => cursor.setAttribute(name, value));
  const show = (row, column, x, y) => {
    here = [row, column];
    cursor.setAttribute("x", column * width);
    cursor.setAttribute("y", row * height);
    cursor.setAttribute("visibility", "visible");
    tip(told(row, column), x, y);
  };
  const found = (event) => {
    const box = cells.getBoundingClientRect();
    const [row, column] = [Math.floor((event.clientY - box.top) / height), Math.floor((event.clientX - box.left) / width)];
    return row >= 0 && row < rows.length && column >= 0 && column < columns.length ? [row, column] : null;
  };
  const leave = () => { cursor.setAttribute("visibility", "hidden"); tip(""); };
  grow(cells, {
    pointermove: (event) => { const cell = found(event); if (cell) show(...cell, event.clientX, event.clientY); else leave(); },
    pointerleave: leave,
    click: (event) => { const cell = found(event); if (cell && chosen) chosen(...cell); },
    blur: leave,
    focus: () => { if (here) cursor.setAttribute("visibility", "visible"); },
    keydown: (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key === "Enter" && here && chosen) chosen(...here);
      if (event.key === "Escape") leave();
      if (!step) return;
      event.preventDefault();
      const next = here ? [here[0] + step[0], here[1] + step[1]] : [0, 0];
      const inside = (place, count) => Math.min(Math.max(place, 0), count - 1);
      const [row, column] = [inside(next[0], rows.length), inside(next[1], columns.length)];
      cells.parentElement.scrollLeft = Math.min(cells.parentElement.scrollLeft, column * width);
      cells.parentElement.scrollLeft = Math.max(cells.parentElement.scrollLeft, left + (column + 1) * width - cells.parentElement.clientWidth);
      const box = cells.getBoundingClientRect();
      show(row, column, box.left + (column + 1) * width, box.top + (row + 1) * height);
      say(told(row, column).replaceAll("\n", "; "));
    },
  }, []);
  return make("div", { class: chosen ? "map chosen" : "map" }, labels, cells);
}

// The pointer finds the nearest mark, and arrows go from one to the next.
function findable(svg, marks, ring) {
  let here = -1;
  const leave = () => { ring.setAttribute("visibility", "hidden"); tip(""); };
  const show = (number, x, y) => {
    here = number;
    Object.entries({ cx: marks[number].x, cy: marks[number].y, visibility: "visible" }).forEach(([name, value]) => ring.setAttribute(name, value));
    tip(marks[number].text, x, y);
  };
  grow(svg, {
    pointermove: (event) => {
      const box = svg.getBoundingClientRect(), [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const inside = (mark) => mark.box && x >= mark.box[0] && x <= mark.box[0] + mark.box[2] && y >= mark.box[1] && y <= mark.box[1] + mark.box[3];
      const distance = (mark) => Math.hypot(mark.x - x, mark.y - y);
      const found = marks.map((mark, number) => [inside(mark) ? distance(mark) / 100 : distance(mark), number])
        .filter(([far]) => far < 24).sort((a, b) => a[0] - b[0])[0];
      if (found) show(found[1], event.clientX, event.clientY); else leave();
    },
    pointerleave: leave,
    blur: leave,
    keydown: (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (event.key === "Escape") leave();
      if (!step || !marks.length) return;
      event.preventDefault();
      const next = Math.min(Math.max(here + step, 0), marks.length - 1), box = svg.getBoundingClientRect();
      show(next, box.left + marks[next].x, box.top + marks[next].y);
      say(marks[next].text.replaceAll("\n", "; "));
    },
  }, []);
}

// --- Pictures and tables of what is shown

// #view as one SVG: texts and grounds of elements where they stand, drawings as they are.
function picture() {
  const root = at("view");
  root.querySelectorAll(".map, .scroll").forEach((box) => { box.scrollLeft = box.scrollTop = 0; });
  const from = root.getBoundingClientRect();
  let [right, bottom] = [from.width, from.height];
  const parts = [];
  const place = (box) => {
    right = Math.max(right, box.right - from.left);
    bottom = Math.max(bottom, box.bottom - from.top);
    return { x: (box.left - from.left).toFixed(1), y: (box.top - from.top).toFixed(1), width: box.width.toFixed(1), height: box.height.toFixed(1) };
  };
  const words = (node, style) => {
    const range = document.createRange();
    const pieces = [];
    range.selectNodeContents(node);
    if (range.getClientRects().length <= 1) pieces.push([0, node.length]);
    else for (const word of node.data.matchAll(/\s*\S+/g)) pieces.push([word.index, word.index + word[0].length]);
    for (const [start, end] of pieces) {
      range.setStart(node, start);
      range.setEnd(node, end);
      const box = range.getBoundingClientRect();
      if (!box.width) continue;
      const { x, y } = place(box);
      parts.push(shape("text", { x, y: (Number(y) + box.height * 0.78).toFixed(1), fill: style.color, "font-size": style.fontSize,
        "font-weight": style.fontWeight, "xml:space": "preserve" }, node.data.slice(start, end)));
    }
  };
  const walk = (element) => {
    if (!element.getClientRects().length || element.matches("select, input, .controls, .unprinted")) return;
    const style = getComputedStyle(element);
    if (element.tagName.toLowerCase() === "svg") {
      const copy = element.cloneNode(true), box = element.getBoundingClientRect();
      Object.entries(place(box)).forEach(([name, value]) => copy.setAttribute(name, value));
      ["tabindex", "role", "aria-label", "aria-hidden", "class"].forEach((name) => copy.removeAttribute(name));
      parts.push(copy);
      return;
    }
    if (element.tagName === "CANVAS") {
      parts.push(shape("image", { ...place(element.getBoundingClientRect()), href: element.toDataURL(), style: "image-rendering:pixelated" }));
      return;
    }
    if (style.backgroundColor !== "rgba(0, 0, 0, 0)") {
      for (const box of element.getClientRects()) parts.push(shape("rect", { ...place(box), fill: style.backgroundColor }));
    }
    for (const child of element.childNodes) {
      if (child.nodeType === Node.TEXT_NODE && child.data.trim()) words(child, style);
      else if (child.nodeType === Node.ELEMENT_NODE) walk(child);
    }
  };
  walk(root);
  const size = { width: Math.ceil(right), height: Math.ceil(bottom) + 30 };
  const svg = shape("svg", { xmlns: "http://www.w3.org/2000/svg", ...size, viewBox: `0 -30 ${size.width} ${size.height}`,
    "font-family": "Liberation Sans, Arial, Helvetica, sans-serif" });
  svg.append(shape("rect", { y: -30, ...size, fill: colours().ground }),
    shape("text", { x: 4, y: -10, "font-size": 15, "font-weight": "bold", fill: colours().ink }, visible(page.title)), ...parts);
  return { text: new XMLSerializer().serializeToString(svg), size };
}

// A spreadsheet takes a cell that begins like a formula for one.
const cell = (value) => {
  const text = String(value);
  const guarded = /^[=+\-@\t\r]/.test(text) && !/^[+-]?[\d.]+(e[+-]?\d+)?$/i.test(text) ? "'" + text : text;
  return /[",\n\r]/.test(guarded) ? '"' + guarded.replaceAll('"', '""') + '"' : guarded;
};

function save(ending, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: `${page.name}.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`${page.name}.${ending} is saved: what is shown now.`);
}

const savers = {
  svg: () => save("svg", new Blob([picture().text], { type: "image/svg+xml" })),
  csv: () => save("csv", new Blob([view.rows().map((row) => row.map(cell).join(",")).join("\n") + "\n"], { type: "text/csv" })),
  png: () => {
    const { text, size } = picture(), image = new Image();
    // What a canvas can hold.
    const factor = Math.min(2, 16000 / Math.max(size.width, size.height));
    image.onload = () => {
      const canvas = make("canvas", { width: size.width * factor, height: size.height * factor });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => save("png", blob));
    };
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  },
};

// Rows of a table in a page; numbers stand to the right.
function table(rows, most, name) {
  const isNumber = (text) => /^-?[\d.]+(e-?\d+)?$/.test(text);
  const line = (row) => make("tr", {}, row.map((text) =>
    make("td", { class: isNumber(String(text)) ? "number" : "words" }, visible(String(text)))));
  const [header, ...others] = rows;
  const body = make("table", {}, make("thead", {}, make("tr", {}, header.map((name) => make("th", { scope: "col" }, visible(name))))),
    make("tbody", {}, others.slice(0, most).map(line)));
  const left = others.length > most ? make("p", {}, `The first ${most} of ${others.length} rows; the CSV has all.`) : null;
  return [left, make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, body)];
}

// --- The page

let view;
const drawTable = () => { if (at("table")?.open) at("rows").replaceChildren(...table(view.rows(), 1000, "What is shown").filter(Boolean)); };
// Draws the view anew, and the table behind it where that is open.
function redraw() {
  tip("");
  view.draw(at("controls"), at("view"));
  drawTable();
}

function start() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = (isDark) => { document.documentElement.dataset.theme = isDark ? "dark" : "light"; };
  theme(dark.matches);
  dark.addEventListener("change", () => { theme(dark.matches); redraw(); });
  at("theme").addEventListener("click", () => { theme(!isDark()); redraw(); });
  let before = null;
  window.addEventListener("beforeprint", () => { before = isDark(); theme(false); redraw(); });
  window.addEventListener("afterprint", () => { theme(before); redraw(); });
  document.querySelectorAll("[data-save]").forEach((button) =>
    button.addEventListener("click", () => savers[button.dataset.save]()));
  at("table")?.addEventListener("toggle", drawTable);
  let width = window.innerWidth, waiting;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
  view = views[page.view](page);
  redraw();
  document.documentElement.dataset.ready = "yes";
}
