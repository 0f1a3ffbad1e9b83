// Attention: small patterns of all heads, one of them large, and the tokens coloured by it. A token under the pointer shows
// where it attends, or what attends to it; a click or Enter locks it, and another lets it go. Without a head the mean of all
// that are listed is shown.
views.attention = ({ maps, heads }) => {
  const layerOf = (head) => head.split(".")[0];
  const layers = [...new Set(heads.map(layerOf))];
  maps.forEach((map) => { map.values = numbers(map.values); });
  const MEAN = -1;
  let map = 0, layer = 0, head = 0, incoming = false, locked = null, over = null, size = 1, shown = null;

  const length = () => maps[map].tokens.length;
  // (query, key) of a head, and of the one that is shown.
  const pattern = (number) => maps[map].values.subarray(number * length() ** 2, (number + 1) * length() ** 2);
  const mean = (numbers) => {
    const sum = new Float32Array(length() ** 2);
    numbers.forEach((number) => pattern(number).forEach((value, index) => { sum[index] += value / numbers.length; }));
    return sum;
  };
  const value = (query, key) => shown[query * length() + key];
  const headName = () => head === MEAN ? `mean of ${listed().length} heads` : `head ${heads[head]}`;
  const scale = () => new Scale("reds", 0, 1);
  const listed = () => heads.map((_, number) => number).filter((number) => layer === 0 || layerOf(heads[number]) === layers[layer - 1]);
  const four = (number) => number.toFixed(4);
  const names = () => maps[map].tokens.map(visible);

  const thumbnail = (number) => {
    const canvas = pixels(pattern(number), length(), length(), scale());
    return make("button", { "aria-pressed": String(number === head), "aria-label": `head ${heads[number]}`, "data-head": heads[number],
      click: () => { head = head === number ? MEAN : number; controls(); body(); } }, canvas, heads[number]);
  };
  const chooseThumbnail = () => document.querySelectorAll(".thumbs button").forEach((button) =>
    button.setAttribute("aria-pressed", String(button.dataset.head === heads[head])));

  // The tokens, coloured by the one that is locked or under the pointer; by what they attend to altogether without one.
  const colourTokens = () => {
    const focus = over === null ? locked : over, one = scale();
    document.querySelectorAll("#tokens .token").forEach((token, number) => {
      const share = focus === null ? null : incoming ? value(number, focus) : value(focus, number);
      token.style.background = share === null ? "" : one.colour(share);
      token.style.color = share === null ? "" : one.ink(share);
      token.classList.toggle("locked", number === locked);
      token.classList.toggle("marked", number === focus);
      token.setAttribute("aria-pressed", String(number === locked));
    });
    if (focus === null) return at("focus").replaceChildren("Point at a token; a click or Enter locks it, and lets it go.");
    const all = names().map((_, other) => [other, incoming ? value(other, focus) : value(focus, other)])
      .sort((a, b) => b[1] - a[1]).slice(0, 5).filter(([, share]) => share > 0);
    at("focus").replaceChildren(`${incoming ? "Attend most to" : "Most attended to by"} `, make("b", {}, names()[focus]), ": ",
      all.map(([other, share]) => `${names()[other]} ${four(share)}`).join(", "));
  };
  const lock = (number) => { locked = locked === number ? null : number; colourTokens(); drawTable(); };
  const tokens = () => names().map((text, number) => make("span", { class: "token", role: "button", tabindex: 0,
    "aria-pressed": "false",
    pointerenter: (event) => { over = number; colourTokens(); tokenTip(number, event.clientX, event.clientY); },
    pointerleave: () => { over = null; colourTokens(); tip(""); },
    focus: () => { over = number; colourTokens(); },
    blur: () => { over = null; colourTokens(); },
    click: () => lock(number),
    keydown: (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); lock(number); say(at("focus").textContent); }
      if (event.key === "Escape") { locked = over = null; colourTokens(); }
      const next = { ArrowRight: number + 1, ArrowLeft: number - 1 }[event.key];
      const token = next === undefined ? null : document.querySelectorAll("#tokens .token")[next];
      if (token) { event.preventDefault(); token.focus(); }
    } }, text)).flatMap((token) => [token, " "]);
  const tokenTip = (number, x, y) => {
    if (locked === null || locked === number) return tip("");
    const share = incoming ? value(number, locked) : value(locked, number);
    tip(`${incoming ? `${names()[number]} to ${names()[locked]}` : `${names()[locked]} to ${names()[number]}`}: ${four(share)}`, x, y);
  };

  const body = () => {
    shown = head === MEAN ? mean(listed()) : pattern(head);
    chooseThumbnail();
    at("large").replaceChildren(make("h2", {}, headName()[0].toUpperCase() + headName().slice(1)), heatMap({
      rows: maps[map].tokens, columns: maps[map].tokens, values: shown, scale: scale(), x: "key", y: "query", square: true, size,
      name: headName(),
      told: (row, column) => `${headName()}\nquery: ${names()[row]}\nkey: ${names()[column]}\n${visible(maps[map].measure)}: ${four(value(row, column))}`,
      chosen: (row, column) => lock(incoming ? column : row),
    }));
    colourTokens();
    drawTable();
  };
  const controls = () => {
    const inLayer = listed();
    at("controls").replaceChildren(...[
      maps.length > 1 ? chooser("Pattern", maps.map((one) => visible(one.name)), map, (chosen) => { map = chosen; locked = over = null; redraw(); }) : null,
      layers.length > 1 ? chooser("Layer", ["all", ...layers], layer, (chosen) => {
        layer = chosen;
        if (head !== MEAN && !listed().includes(head)) head = listed()[0];
        redraw();
      }) : null,
      chooser("Head", ["mean of these", ...inLayer.map((number) => heads[number])], inLayer.indexOf(head) + 1,
        (chosen) => { head = chosen === 0 ? MEAN : inLayer[chosen - 1]; body(); }),
      chooser("Colour tokens by", ["where the token attends (outgoing)", "what attends to it (incoming)"], Number(incoming),
        (chosen) => { incoming = chosen === 1; colourTokens(); }),
      slider("Cell size", 0.5, 4, 0.25, size, (chosen) => { size = chosen; body(); }),
    ].filter(Boolean));
  };
  const draw = (_, root) => {
    root.replaceChildren(
      scale().legend(maps[map].measure),
      make("div", { id: "tokens", class: "text", role: "group", "aria-label": "Tokens" }, tokens()),
      make("p", { id: "focus" }),
      make("div", { class: "beside" },
        make("div", { class: "grow" }, make("h2", {}, "Heads"),
          make("div", { class: "thumbs", role: "group", "aria-label": "Heads", tabindex: 0 }, listed().map(thumbnail))),
        make("div", { id: "large" })));
    controls();
    body();
  };
  const rows = () => [["pattern", "head", "query", "key", maps[map].measure], ...names().flatMap((_, query) => names().map((_, key) =>
    [maps[map].name, head === MEAN ? headName() : heads[head], maps[map].tokens[query], maps[map].tokens[key], four(value(query, key))]))];
  return { draw, rows };
};
