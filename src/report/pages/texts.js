// Texts whose tokens are coloured by values: of one direction at one layer at a time. Documents have values for all of them;
// samples are texts that were found for one.
views.texts = ({ measure, channels, documents, samples }) => {
  documents.forEach((one) => { one.values = numbers(one.values); });
  samples.flat().forEach((one) => { one.values = numbers(one.values); });
  const names = [...new Set(channels.map(([name]) => name))];
  const layersOf = (name) => channels.filter((one) => one[0] === name).map((one) => one[1]);
  let name = names[0], layer = layersOf(name)[0], inSamples = documents.length === 0, search = "", order = 0, common = false, locked = null;

  const channel = () => channels.findIndex((one) => one[0] === name && one[1] === layer);
  const valueOf = (text, token, number = channel()) => text.values[inSamples ? token : token * channels.length + number];
  // The texts that are shown, in their order, each with what it is sorted by.
  const listed = () => {
    const all = inSamples ? samples[channel()] : documents;
    const wanted = search.toLowerCase();
    const found = all.filter((text) => !wanted || (text.caption + "\n" + text.tokens.join("")).toLowerCase().includes(wanted));
    if (order === 0) return found;
    const by = (text) => {
      const own = text.tokens.map((_, token) => valueOf(text, token)).filter((value) => !Number.isNaN(value));
      if (order === 1) return -own.reduce((sum, value) => sum + value, 0) / Math.max(own.length, 1);
      const [low, high] = ends(own);
      return order === 2 ? -high : low;
    };
    return found.map((text) => [by(text), text]).sort((a, b) => a[0] - b[0]).map(([, text]) => text);
  };
  const scale = () => {
    const number = channel();
    const own = (all) => inSamples ? samples.flatMap((texts, other) => all || other === number ? texts : []).flatMap((text) => [...text.values])
      : documents.flatMap((text) => all ? [...text.values] : text.tokens.map((_, token) => valueOf(text, token, number)));
    return new Scale("diverging", ...ends(own(common)));
  };
  const where = (text, token) => text.position === undefined ? "" : `, position ${text.position + token}`;
  const told = (text, token) => `${visible(text.tokens[token])}\n${visible(measure)}: ${precise(valueOf(text, token))}\n${visible(text.caption)}${where(text, token)}`;

  const LOT = 300;
  let most = LOT;
  const paragraph = (text, one) => make("p", { class: "text" }, make("small", {}, visible(text.caption)), text.tokens.flatMap((token, number) => {
    const value = valueOf(text, number), none = Number.isNaN(value), isLocked = locked && locked[0] === text && locked[1] === number;
    const span = make("span", { class: "token" + (number === text.marked ? " marked" : "") + (none ? " none" : "") + (isLocked ? " locked" : ""),
      style: none ? "" : `background:${one.colour(value)};color:${one.ink(value)}` }, visible(token));
    span.told = [text, number];
    return [span, "\n".repeat(token.split("\n").length - 1)];
  }));
  const ofLayers = () => {
    const [text, token] = locked, own = layersOf(name);
    const values = own.map((other) => [other, valueOf(text, token, channels.findIndex((one) => one[0] === name && one[1] === other))]);
    return make("div", {}, make("h2", {}, `${visible(text.tokens[token])} in ${visible(text.caption)}${where(text, token)}`),
      ...table([["layer", measure], ...values.map(([other, value]) => [other, precise(value)])], 500, "Values at all layers").filter(Boolean));
  };
  const extremes = (shown) => {
    const all = shown.flatMap((text) => text.tokens.map((_, token) => [valueOf(text, token), text, token])).filter(([value]) => !Number.isNaN(value));
    all.sort((a, b) => b[0] - a[0]);
    const list = (title, rows) => make("div", {}, make("h2", {}, title),
      ...table([["token", measure, "where"], ...rows.map(([value, text, token]) => [text.tokens[token], precise(value), text.caption + where(text, token)])], 10, title).filter(Boolean));
    return make("div", { class: "beside" }, list("Largest", all.slice(0, 10)), list("Smallest", all.slice(-10).reverse()));
  };
  const body = () => {
    const shown = listed(), one = scale();
    const lacks = shown.some((text) => text.values.some(Number.isNaN));
    at("texts").replaceChildren(...[
      one.legend(measure, false), lacks ? make("small", {}, "Dotted: tokens without a value.") : null,
      make("p", { class: "soft" }, `${visible(name)}${layer ? ` at layer ${layer}` : ""}: ${shown.length} of ${(inSamples ? samples[channel()] : documents).length} texts`),
      ...shown.slice(0, most).map((text) => paragraph(text, one)),
      shown.length > most ? make("button", { class: "unprinted", click: () => { most += LOT; body(); } }, `Show ${Math.min(LOT, shown.length - most)} more`) : null,
      locked && !inSamples && layersOf(name).length > 1 ? ofLayers() : null,
      inSamples ? null : extremes(shown),
    ].filter(Boolean));
    drawTable();
  };
  const tokenUnder = (event) => event.target.told ? event.target : null;
  const draw = (controls, root) => {
    const own = layersOf(name);
    const orders = ["as they came", "largest mean first", "largest value first", "smallest value first"];
    const changed = (change) => (chosen) => { change(chosen); locked = null; most = LOT; redraw(); };
    controls.replaceChildren(...[
      documents.length && samples.some((one) => one.length) ? chooser("Show", ["texts", "largest and smallest"], Number(inSamples), changed((chosen) => { inSamples = chosen === 1; })) : null,
      names.length > 1 ? chooser("Direction", names.map(visible), names.indexOf(name), changed((chosen) => {
        name = names[chosen];
        if (!layersOf(name).includes(layer)) layer = layersOf(name)[0];
      })) : null,
      own.length > 1 ? chooser("Layer", own, own.indexOf(layer), changed((chosen) => { layer = own[chosen]; })) : null,
      chooser("Order", orders, order, (chosen) => { order = chosen; body(); }),
      make("label", {}, "Search", make("input", { type: "search", value: search, input: (event) => { search = event.target.value; most = LOT; body(); } })),
      channels.length > 1 ? make("label", {}, make("input", { type: "checkbox", checked: common, change: (event) => { common = event.target.checked; body(); } }), "one scale for all") : null,
    ].filter(Boolean));
    root.replaceChildren(make("div", { id: "texts", tabindex: 0, role: "region", "aria-label": "Texts. Arrows move from token to token.",
      pointermove: (event) => { const token = tokenUnder(event); tip(token ? told(...token.told) : "", event.clientX, event.clientY); },
      pointerleave: () => tip(""),
      blur: () => tip(""),
      click: (event) => { const token = tokenUnder(event); if (token && !inSamples) { locked = locked && locked[0] === token.told[0] && locked[1] === token.told[1] ? null : token.told; body(); } },
      keydown: keys }));
    body();
  };
  const keys = (event) => {
    const tokens = [...document.querySelectorAll("#texts .token")], current = document.querySelector("#texts .token.locked");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") tip("");
    if (event.key === "Enter" && current && !inSamples && event.target.id === "texts") { locked = current.told; body(); }
    if (!step || !tokens.length || event.target.id !== "texts") return;
    event.preventDefault();
    const next = tokens[Math.min(Math.max(tokens.indexOf(current) + step, 0), tokens.length - 1)];
    if (current) current.classList.remove("locked");
    next.classList.add("locked");
    next.scrollIntoView({ block: "nearest" });
    const box = next.getBoundingClientRect();
    tip(told(...next.told), box.right, box.bottom);
    say(told(...next.told).replaceAll("\n", "; "));
  };
  const rows = () => [["direction", "layer", "text", "token", measure], ...listed().flatMap((text) =>
    text.tokens.map((token, number) => [name, layer, text.caption + where(text, number), token, exact(valueOf(text, number))]))];
  return { draw, rows };
};
