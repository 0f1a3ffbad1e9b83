// Figures: facets with heat maps, lines, points, bars, histograms and areas. What can be read off is what the CSV has.
// Where prompts are known a cell of a heat map leads to them, and a prompt to the map of it alone.
views.figure = ({ facets: all, caption, prompts }) => {
  const means = all.filter((facet) => facet.plot.heat_map);
  means.forEach(({ plot }, number) => Object.assign(plot.heat_map, { number, values: numbers(plot.heat_map.values) }));
  const texts = prompts ? prompts.texts : [], ofPrompts = prompts ? numbers(prompts.values) : null;
  const cellCount = prompts ? ofPrompts.length / texts.length : 0;
  const cellOf = (number, row, column) => {
    const [first, down, across] = prompts.cells[number];
    return first + row * down + column * across;
  };
  // The cell whose prompts are shown, the prompt whose map is shown, and how prompts are ordered.
  let cell = null, prompt = null, order = 0;
  const MOST = 500;
  const facetOfPrompt = (facet) => {
    const map = facet.plot.heat_map, values = Float32Array.from(map.values, (_, index) =>
      ofPrompts[prompt * cellCount + cellOf(map.number, Math.floor(index / map.columns.length), index % map.columns.length)]);
    return { ...facet, plot: { heat_map: { ...map, values } } };
  };
  let facets = all, maps = means.map((facet) => facet.plot.heat_map);
  const choosePrompt = (chosen) => {
    prompt = chosen;
    facets = prompt === null ? all : means.map(facetOfPrompt);
    maps = facets.filter((facet) => facet.plot.heat_map).map((facet) => facet.plot.heat_map);
    if (only > facets.length) only = 0;
  };
  const scale = () => {
    if (!maps.length) return null;
    const found = maps.map((map) => ends(map.values));
    const [low, high] = [Math.min(...found.map((one) => one[0])), Math.max(...found.map((one) => one[1]))];
    const fixed = maps[0].scale.reds;
    return fixed ? new Scale("reds", fixed.low, fixed.high) : new Scale(maps[0].scale, low, high);
  };
  const styles = new Map();
  for (const { plot } of all) {
    for (const { name, baseline } of seriesOf(plot)) {
      if (!styles.has(name)) styles.set(name, { name, baseline, number: [...styles.values()].filter((one) => !one.baseline).length });
    }
  }
  const hidden = new Set(), lined = all.some((facet) => facet.plot.lines);
  let size = 1, only = 0;

  const facetOf = (facet, common) => {
    const { title, plot } = facet;
    const body = plot.heat_map ? mapOf(facet, common) : chart(facet, styles, hidden, facets.length === 1);
    return make("figure", { class: "facet" }, title ? make("figcaption", {}, visible(title)) : null, body);
  };
  const mapOf = ({ title, x, y, plot: { heat_map: map } }, common) => heatMap({
    ...map, chosen: prompts ? (row, column) => chooseCell(map.number, row, column) : null,
    start: cell && cell.number === map.number ? [cell.row, cell.column] : null, scale: common, x: x.label, y: y.label, name: visible(title || page.title), size,
    told: (row, column) => visible((title ? title + "\n" : "") + `${y.label}: ${map.rows[row]}\n${x.label}: ${map.columns[column]}\n` +
      `${map.measure}: ${precise(map.values[row * map.columns.length + column])}`).replaceAll("⏎", "\n"),
  });

  const legend = () => {
    if (styles.size < 2) return null;
    return make("div", { class: "legend", role: "group", "aria-label": "Series" }, [...styles.values()].map((style) =>
      make("button", { "aria-pressed": String(!hidden.has(style.name)), click: (event) => {
        hidden.has(style.name) ? hidden.delete(style.name) : hidden.add(style.name);
        event.target.closest("button").setAttribute("aria-pressed", String(!hidden.has(style.name)));
        body();
      } }, sample(style, lined), " " + visible(style.name))));
  };
  const shown = () => facets.filter((_, number) => only === 0 || number === only - 1);
  const body = () => {
    const common = scale();
    at("facets").replaceChildren(...[
      prompts ? aboutPrompt() : null,
      common ? common.legend(maps[0].measure, maps.some((map) => map.values.some(Number.isNaN))) : null,
      make("div", { class: "facets" }, shown().map((facet) => facetOf(facet, common))),
      caption ? make("p", { class: "soft" }, visible(caption)) : null,
    ].filter(Boolean));
  };

  // --- Prompts

  const named = (number) => {
    const [clean, corrupted] = texts[number];
    return `prompt ${number}: ${visible(clean)}${corrupted === null ? "" : ` (corrupted: ${visible(corrupted)})`}`;
  };
  const aboutPrompt = () => prompt === null
    ? make("p", { class: "soft unprinted" }, `A click or Enter on a cell shows its ${texts.length} prompts.`)
    : make("p", { id: "alone" }, "Of ", make("strong", {}, named(prompt)), " ",
      make("button", { class: "unprinted", click: () => showPrompt(null) }, "Show the mean of all prompts"));
  const placeOf = ({ number, row, column }) => {
    const { title, x, y, plot: { heat_map: map } } = means[number];
    return [title, y.label && `${y.label} ${map.rows[row]}`, `${x.label} ${map.columns[column]}`].filter(Boolean).join(", ");
  };
  const effectsOf = ({ number, row, column }) => {
    const place = cellOf(number, row, column);
    const list = texts.map((_, prompt) => [prompt, ofPrompts[prompt * cellCount + place]]);
    const sign = [-1, 1][order];
    return sign ? list.sort((a, b) => sign * (a[1] - b[1])) : list;
  };
  // What is above the map stays there: only what is below changes.
  const chooseCell = (number, row, column) => {
    cell = { number, row, column };
    drawPrompts();
    drawTable();
    tip("");
    const head = at("prompts").querySelector("h2");
    head.focus({ preventScroll: true });
    head.scrollIntoView({ block: "nearest" });
    at("prompts").scrollIntoView({ block: "nearest" });
  };
  const backToMap = () => {
    const map = at("facets").querySelectorAll(".map > svg[tabindex]")[only === 0 ? cell.number : 0];
    cell = null;
    drawPrompts();
    drawTable();
    map?.focus();
  };
  const showPrompt = (number) => {
    choosePrompt(number);
    redraw();
    const map = at("facets").querySelector(".map > svg[tabindex]");
    map.focus({ preventScroll: true });
    at("facets").scrollIntoView({ block: "nearest" });
    say(number === null ? "The mean of all prompts is shown." : `The map of ${named(number)} is shown.`);
  };
  const drawPrompts = () => {
    if (!prompts) return;
    if (!cell) return at("prompts").replaceChildren();
    const { measure } = maps[0], effects = effectsOf(cell), most = effects.reduce((most, one) => Math.max(most, Math.abs(one[1])), 1e-9);
    const { number, row, column } = cell, map = means[number].plot.heat_map, mean = map.values[row * map.columns.length + column];
    const hasCorrupted = texts.some((one) => one[1] !== null);
    // Where all have one sign the bars have the whole width.
    const [zero, room] = effects.every((one) => one[1] >= 0) ? [0, 100] : effects.every((one) => one[1] <= 0) ? [100, 100] : [50, 50];
    const bar = (value) => {
      const share = Math.abs(value) / most * room, [from, to] = value < 0 ? [zero - share, zero] : [zero, zero + share];
      const colour = value < 0 ? "var(--below)" : "var(--above)";
      return `background:linear-gradient(to right,transparent ${from}%,${colour} ${from}%,${colour} ${to}%,transparent ${to}%)`;
    };
    const line = ([prompt, value]) => make("tr", {},
      make("td", {}, make("button", { "aria-label": `Show the map of prompt ${prompt}`, click: () => showPrompt(prompt) }, String(prompt))),
      make("td", { class: "number bar", style: bar(value) }, precise(value)),
      make("td", { class: "words" }, visible(texts[prompt][0])),
      hasCorrupted ? make("td", { class: "words" }, visible(texts[prompt][1] ?? "")) : null);
    const heads = ["prompt", measure, "clean", hasCorrupted ? "corrupted" : null].filter((name) => name !== null);
    at("prompts").replaceChildren(
      make("h2", { tabindex: -1 }, `${visible(placeOf(cell))}: ${texts.length} prompts`),
      make("p", { class: "soft" }, `Their mean is the cell's value, ${precise(mean)}. A prompt's number leads to its own map.`),
      make("div", { class: "controls" }, make("button", { click: backToMap }, "Back to the map"),
        chooser("Order", ["largest first", "smallest first", "as in the dataset"], order, (chosen) => {
          order = chosen;
          drawPrompts();
          drawTable();
          at("prompts").querySelector("select").focus();
        })),
      make("div", { class: "scroll sentences", tabindex: 0, role: "region", "aria-label": "Prompts of the cell" },
        make("table", {}, make("thead", {}, make("tr", {}, heads.map((name) => make("th", { scope: "col" }, visible(name))))),
          make("tbody", {}, effects.slice(0, MOST).map(line)))),
      effects.length > MOST ? make("p", {}, `The first ${MOST} of ${effects.length} prompts; the CSV has all.`) : "");
  };

  const draw = (controls, root) => {
    const titles = facets.map((facet, number) => visible(facet.title || `facet ${number + 1}`));
    controls.replaceChildren(...[
      facets.length > 1 ? chooser("Show", ["all", ...titles], only, (chosen) => { only = chosen; body(); }) : null,
      maps.length ? slider("Cell size", 0.5, 4, 0.25, size, (value) => { size = value; body(); }) : null,
    ].filter(Boolean));
    root.replaceChildren(...[legend(), make("div", { id: "facets" }),
      prompts ? make("div", { id: "prompts", keydown: (event) => { if (event.key === "Escape") backToMap(); } }) : null].filter(Boolean));
    body();
    drawPrompts();
  };

  const rows = () => {
    if (cell) {
      return [["prompt", "clean", "corrupted", `${placeOf(cell)}: ${maps[0].measure}`],
        ...effectsOf(cell).map(([prompt, value]) => [prompt, texts[prompt][0], texts[prompt][1] ?? "", exact(value)])];
    }
    const all = shown().flatMap((facet) => rowsOf(facet).map((row) => [facet.title, ...row]));
    const header = ["facet", "series", "label", "row", "column", "x", "value"];
    const kept = header.map((_, column) => all.some((row) => row[column] !== ""));
    return [header, ...all].map((row) => row.filter((_, column) => kept[column]));
  };
  const rowsOf = ({ plot }) => {
    if (plot.heat_map) {
      const { rows, columns, values } = plot.heat_map;
      return Array.from(values, (value, index) =>
        ["", "", rows[Math.floor(index / columns.length)], columns[index % columns.length], "", exact(value)]);
    }
    if (plot.bars) {
      return plot.bars.series.flatMap(([name, values]) => values.map((value, row) => [name, plot.bars.labels[row], "", "", "", exact(value)]));
    }
    if (plot.histogram) {
      const { edges, series } = plot.histogram;
      return series.flatMap(([name, values]) => values.map((value, bin) => [name, "", "", "", `${exact(edges[bin])} to ${exact(edges[bin + 1])}`, exact(value)]));
    }
    if (plot.scatter) {
      return plot.scatter.flatMap(({ name, points }) => points.map(({ x, y, label }) => [name, label, "", "", exact(x), exact(y)]));
    }
    return (plot.lines || plot.areas).flatMap(({ name, points }) => points.map(([x, y]) => [name, "", "", "", exact(x), exact(y)]));
  };
  return { draw, rows };
};

// Names that the legend explains.
function seriesOf(plot) {
  const named = ([name]) => ({ name, baseline: false });
  if (plot.bars) return plot.bars.series.map(named);
  if (plot.histogram) return plot.histogram.series.map(named);
  return plot.lines || plot.areas || plot.scatter || [];
}

const styleColour = (style) => style.baseline ? colours().soft : classColour(style.number);

// A marker in the shape of its class, so that colour is never the only difference.
function marker(x, y, size, style) {
  const fill = styleColour(style);
  const around = (corners) => shape("polygon", { fill, points: corners.map(([dx, dy]) => `${(x + dx * size).toFixed(1)},${(y + dy * size).toFixed(1)}`).join(" ") });
  if (style.number % 4 === 0 || style.baseline) return shape("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: style.baseline ? size * 0.6 : size, fill });
  return around([
    [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    [[0, -1.2], [1.1, 0.9], [-1.1, 0.9]],
    [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
  ][style.number % 4 - 1]);
}
function sample(style, lined) {
  return shape("svg", { width: 26, height: 12, style: "display:inline-block;vertical-align:middle", "aria-hidden": true },
    lined ? shape("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: styleColour(style), "stroke-width": 2, "stroke-dasharray": style.baseline ? "5 3" : null }) : "",
    marker(13, 6, 4, style));
}

// Everything that has two axes.
function chart(facet, styles, hidden, alone) {
  const { title, x, y, plot } = facet;
  const kind = Object.keys(plot)[0], { ink, soft, grid, ground } = colours();
  const room = at("view").clientWidth;
  const width = Math.min(room - 2, alone ? 760 : 400);
  const seen = (list) => list.filter((one) => !hidden.has(one.name === undefined ? one[0] : one.name));
  const series = seen(kind === "bars" ? plot.bars.series : kind === "histogram" ? plot.histogram.series : plot[kind]);
  const bands = kind === "areas" ? stacked(series) : null;
  const labels = kind === "bars" ? plot.bars.labels.map((text) => label(text, width > 600 ? 44 : 26)) : null;
  const height = labels ? 60 + labels.length * (6 + 13 * Math.max(1, series.length)) : alone ? 430 : 300;

  const [xs, ys] = extents(kind, plot, series, bands);
  const widened = (axis, [low, high], before, after) => {
    if (axis.range) return axis.range;
    if (low === high) { const half = low === 0 ? 0.5 : Math.abs(low) / 2; return [low - half, high + half]; }
    const span = high - low;
    return [low - before * span, high + after * span];
  };
  const pad = { lines: 0.04, scatter: 0.06, areas: 0, histogram: 0, bars: 0.03 }[kind];
  const [x0, x1] = widened(x, xs, kind === "bars" && xs[0] >= 0 ? 0 : pad, pad);
  const [y0, y1] = labels ? [0, 1] : widened(y, ys, kind === "histogram" ? 0 : pad, kind === "histogram" ? 0.05 : pad);
  const marksY = labels ? [] : ticks(y0, y1, height / 45, y.whole);
  const left = Math.min(widest(labels || marksY.map((mark) => mark[1])) + 12 + (y.label ? 18 : 0), width * 0.5), right = 12, top = 8, bottom = height - 22 - (x.label ? 20 : 0);
  const px = (value) => left + (value - x0) / (x1 - x0) * (width - left - right);
  const py = (value) => bottom - (value - y0) / (y1 - y0) * (bottom - top);

  const svg = shape("svg", { width, height, role: "img", tabindex: 0,
    "aria-label": `${visible(title || page.title)}: ${visible(y.label)} over ${visible(x.label)}. Arrows move from mark to mark.` });
  for (const [value, text] of ticks(x0, x1, (width - left) / 60, x.whole)) {
    svg.append(shape("line", { x1: px(value), x2: px(value), y1: top, y2: bottom, stroke: grid }),
      shape("text", { x: px(value), y: bottom + 15, "text-anchor": "middle", "font-size": 11, fill: ink }, text));
  }
  for (const [value, text] of marksY) {
    svg.append(shape("line", { x1: left, x2: width - right, y1: py(value), y2: py(value), stroke: grid }),
      shape("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end", "font-size": 11, fill: ink }, text));
  }
  svg.append(shape("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", "font-size": 12, fill: ink }, visible(x.label)),
    shape("text", { x: 13, y: (top + bottom) / 2, "text-anchor": "middle", "font-size": 12, fill: ink,
      transform: `rotate(-90 13 ${(top + bottom) / 2})` }, visible(y.label)));

  // Every mark: its middle, the box that finds it, and what it says.
  const marks = [];
  const style = (name) => styles.get(name);
  const told = (...lines) => lines.filter(Boolean).map(visible).join("\n");
  if (kind === "lines") {
    for (const one of series) {
      const places = one.points.map(([a, b]) => [px(a), py(b)]);
      svg.append(shape("polyline", { fill: "none", stroke: styleColour(style(one.name)), "stroke-width": 2,
        "stroke-dasharray": one.baseline ? "6 4" : null, points: places.map((place) => place.map((n) => n.toFixed(1)).join(",")).join(" ") }));
      places.forEach(([a, b], index) => {
        svg.append(marker(a, b, 3.4, style(one.name)));
        marks.push({ x: a, y: b, text: told(one.name, `${x.label}: ${precise(one.points[index][0])}`, `${y.label}: ${precise(one.points[index][1])}`) });
      });
    }
  } else if (kind === "scatter") {
    const taken = [], words = [];
    for (const { name, points } of series) {
      for (const point of points) {
        const [a, b] = [px(point.x), py(point.y)];
        svg.append(marker(a, b, 4, style(name)));
        taken.push([a - 4, b - 4, 8, 8]);
        if (point.label) words.push([label(point.label), a, b]);
        marks.push({ x: a, y: b, text: told(point.label, name, `(${precise(point.x)}, ${precise(point.y)})`) });
      }
    }
    for (const [text, a, b] of words) {
      const [w, h] = [widest([text]), 12];
      const free = [[6, -6], [-6 - w, -6], [-w / 2, -18], [-w / 2, 6], [12, -20], [-12 - w, -20], [12, 10], [-12 - w, 10]]
        .map(([dx, dy]) => [a + dx, b + dy, w, h])
        .find((box) => box[0] > left && box[0] + w < width - right && box[1] > top && box[1] + h < bottom &&
          !taken.some((other) => box[0] < other[0] + other[2] && other[0] < box[0] + w && box[1] < other[1] + other[3] && other[1] < box[1] + h));
      if (!free) continue;
      taken.push(free);
      svg.append(shape("text", { x: free[0], y: free[1] + 10, "font-size": 11, fill: ink, stroke: ground, "stroke-width": 2, "paint-order": "stroke" }, text));
    }
  } else if (kind === "bars") {
    const group = (bottom - top) / labels.length, thick = (group - 4) / Math.max(series.length, 1);
    labels.forEach((text, row) => {
      svg.append(shape("text", { x: left - 6, y: top + group * (row + 0.5) + 4, "text-anchor": "end", "font-size": 11, fill: ink }, text));
      series.forEach(([name, values], number) => {
        const from = top + group * row + 2 + thick * number, value = values[row];
        const box = [left, from, width - left - right, thick];
        marks.push({ x: px(value || 0), y: from + thick / 2, box, text: told(plot.bars.labels[row], `${name}: ${precise(value)}`) });
        if (value === null) return;
        svg.append(shape("rect", { x: px(Math.min(value, 0)), y: from, width: Math.max(px(Math.abs(value)) - px(0), 0.5), height: thick, fill: styleColour(style(name)) }));
      });
    });
    svg.append(shape("line", { x1: px(0), x2: px(0), y1: top, y2: bottom, stroke: ink }));
  } else if (kind === "histogram") {
    const { edges } = plot.histogram;
    for (const [name, values] of series) {
      values.forEach((value, bin) => {
        const box = [px(edges[bin]), py(value), px(edges[bin + 1]) - px(edges[bin]), py(0) - py(value)];
        svg.append(shape("rect", { x: box[0], y: box[1], width: box[2], height: Math.max(box[3], 0), fill: styleColour(style(name)), "fill-opacity": 0.45, stroke: styleColour(style(name)) }));
        marks.push({ x: box[0] + box[2] / 2, y: box[1], box, text: told(name, `${precise(edges[bin])} to ${precise(edges[bin + 1])}: ${precise(value)}`) });
      });
    }
  } else {
    series.forEach((one, number) => {
      const band = bands[number];
      const outline = [...band.map(([a, low]) => [px(a), py(low)]), ...band.toReversed().map(([a, , high]) => [px(a), py(high)])];
      svg.append(shape("polygon", { fill: styleColour(style(one.name)), "fill-opacity": 0.85, points: outline.map((place) => place.map((n) => n.toFixed(1)).join(",")).join(" ") }));
      band.forEach(([a, low, high], index) => marks.push({ x: px(a), y: (py(low) + py(high)) / 2, box: [px(a) - 6, py(high), 12, py(low) - py(high)],
        text: told(one.name, `${x.label}: ${precise(a)}`, `${y.label}: ${precise(one.points[index][1])}`) }));
    });
  }
  svg.append(shape("rect", { x: left, y: top, width: width - left - right, height: bottom - top, fill: "none", stroke: soft }));
  const ring = shape("circle", { r: 8, fill: "none", stroke: ink, "stroke-width": 2, visibility: "hidden" });
  svg.append(ring);
  findable(svg, marks, ring);
  return svg;
}

function stacked(series) {
  const tops = (series[0] ? series[0].points : []).map(() => 0);
  return series.map(({ points }) => points.map(([x, height], index) => {
    const low = tops[index];
    tops[index] += height;
    return [x, low, tops[index]];
  }));
}

function extents(kind, plot, series, bands) {
  if (kind === "bars") return [ends([0, ...series.flatMap(([, values]) => values)]), [0, 1]];
  if (kind === "histogram") return [ends(plot.histogram.edges), ends([0, ...series.flatMap(([, values]) => values)])];
  if (kind === "areas") return [ends(bands.flat().map((band) => band[0])), ends(bands.flat().flatMap(([, low, high]) => [low, high]))];
  const points = series.flatMap((one) => one.points).map((point) => kind === "scatter" ? [point.x, point.y] : point);
  return [ends(points.map((point) => point[0])), ends(points.map((point) => point[1]))];
}
