// Paths from senders to receivers: layers upwards, what a sender's path carries as the width of its line, red below zero
// and blue above.
views.paths = ({ maps, receivers }) => {
  maps.forEach((map) => { map.values = numbers(map.values); });
  let map = 0, position = 0, most = 12;
  const shapeOf = () => maps[map].shape;
  const rest = () => shapeOf().slice(1).reduce((product, length) => product * length, 1);
  // The senders of a position, the largest first: layer, part (a head; none of a whole layer), value.
  const senders = () => {
    const { axes, values, shape: lengths } = maps[map];
    const stride = axes[0] === "position" ? rest() : values.length;
    const parts = axes.length > (axes[0] === "position" ? 2 : 1) ? lengths.at(-1) : 1;
    const own = values.subarray(position * stride, (position + 1) * stride);
    return Array.from(own, (value, index) => ({ layer: Math.floor(index / parts), part: index % parts, parts, value }))
      .filter((sender) => !Number.isNaN(sender.value)).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  };
  const to = visible(receivers);
  const nameOf = ({ layer, part, parts }) => `${visible(maps[map].senders)}${layer}${parts > 1 ? "." + part : ""}`;

  const body = () => {
    const all = senders(), shown = all.slice(0, most), { ink, soft } = colours();
    const top = Math.max(...all.map((sender) => Math.abs(sender.value)), 1e-9), one = new Scale("diverging", -top, top);
    const layers = Math.max(...all.map((sender) => sender.layer)) + 1, parts = all[0] ? all[0].parts : 1;
    const width = Math.max(at("view").clientWidth - 4, 300), step = Math.max(Math.min(70, 600 / layers), 26);
    const height = layers * step + 110, left = 64;
    const px = (sender) => left + (sender.part + 0.5) / parts * (width - left - 10), py = (layer) => height - 34 - layer * step;
    const end = [(width + left) / 2, 34];
    const svg = shape("svg", { width, height, role: "img", tabindex: 0,
      "aria-label": `Paths from ${shown.length} senders to ${to}. Arrows move from sender to sender.` });
    for (let layer = 0; layer < layers; layer++) {
      svg.append(shape("text", { x: left - 8, y: py(layer) + 4, "text-anchor": "end", "font-size": 11, fill: ink }, `layer ${layer}`));
    }
    const marks = [];
    for (const sender of shown.toReversed()) {
      const [x, y] = [px(sender), py(sender.layer)], heavy = Math.max(Math.abs(sender.value) / top * 14, 0.6);
      svg.append(shape("path", { d: `M${x} ${y} C ${x} ${(y + end[1]) / 2}, ${end[0]} ${(y + end[1]) / 2}, ${end[0]} ${end[1] + 12}`, fill: "none",
        stroke: sender.value < 0 ? "#c0392b" : "#2f80c2", "stroke-opacity": 0.75, "stroke-width": heavy.toFixed(2),
        "stroke-dasharray": sender.value < 0 ? "7 3" : null }));
    }
    for (const sender of all) {
      const [x, y] = [px(sender), py(sender.layer)], big = shown.includes(sender);
      svg.append(shape("circle", { cx: x, cy: y, r: big ? 7 : 3.5, fill: one.colour(sender.value), stroke: soft }));
      if (big) svg.append(shape("text", { x, y: y + 19, "text-anchor": "middle", "font-size": 10, fill: ink }, nameOf(sender)));
      marks.push({ x, y, text: `${nameOf(sender)} to ${to}\n${visible(maps[map].measure)}: ${precise(sender.value)}` });
    }
    const name = label(receivers, Math.max(Math.floor((width - left) / 8), 12)), wide = widest([name]) * 1.1 + 20;
    svg.append(shape("rect", { x: end[0] - wide / 2, y: end[1] - 14, width: wide, height: 26, rx: 5, fill: colours().ground, stroke: ink }),
      shape("text", { x: end[0], y: end[1] + 4, "text-anchor": "middle", "font-size": 12, fill: ink }, name));
    const ring = shape("circle", { r: 10, fill: "none", stroke: ink, "stroke-width": 2, visibility: "hidden" });
    svg.append(ring);
    findable(svg, marks, ring);
    at("graph").replaceChildren(one.legend(maps[map].measure, false), make("div", { class: "scroll" }, svg),
      make("p", { class: "soft" }, `Lines: the ${shown.length} largest of ${all.length} paths, the width in proportion to the value; dashed below zero.`));
    drawTable();
  };
  const draw = (controls, root) => {
    const { axes, positions } = maps[map];
    position = Math.min(position, axes[0] === "position" ? shapeOf()[0] - 1 : 0);
    controls.replaceChildren(...[
      maps.length > 1 ? chooser("Measure", maps.map((one) => visible(one.measure)), map, (chosen) => { map = chosen; redraw(); }) : null,
      axes[0] === "position" ? chooser("Position", positions.map(visible), position, (chosen) => { position = chosen; body(); }) : null,
      slider("Lines", 1, Math.min(senders().length, 100), 1, Math.min(most, senders().length), (chosen) => { most = chosen; body(); }),
    ].filter(Boolean));
    root.replaceChildren(make("div", { id: "graph" }));
    body();
  };
  const rows = () => [["sender", "receivers", maps[map].measure], ...senders().map((sender) => [nameOf(sender), receivers, exact(sender.value)])];
  return { draw, rows };
};
