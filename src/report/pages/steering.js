// Steered texts: a slider over the coefficients that were written, and all texts of it, their tokens coloured by log
// probability.
views.steering = ({ texts }) => {
  const groups = new Map();
  for (const text of texts) {
    if (!groups.has(text.settings)) groups.set(text.settings, []);
    groups.get(text.settings).push(text);
  }
  const settings = [...groups.keys()];
  let setting = 0, place = 0;
  const own = () => groups.get(settings[setting]);
  const coefficients = () => [...new Set(own().map((text) => text.coefficient))];
  const middle = () => Math.max(coefficients().indexOf(0), 0);
  place = middle();
  const of = (coefficient) => own().filter((text) => text.coefficient === coefficient);
  const scale = () => new Scale("sequential", ...ends(texts.flatMap((text) => text.tokens.map(([, value]) => value))));
  const mean = (list) => list.reduce((sum, value) => sum + value, 0) / Math.max(list.length, 1);
  const whole = (text) => text.tokens.map(([token]) => token).join("");

  const written = (text, one) => make("p", { class: "text" }, make("small", {}, `text ${text.sample}, log probability ${precise(text.log_probability)}` +
    (text.ended ? ", ended" : "")), make("span", {}, visible(text.prompt)), text.tokens.map(([token, value]) => {
    const span = make("span", { class: "token", style: `background:${one.colour(value)};color:${one.ink(value)}` }, visible(token));
    span.told = `${visible(token)}\nlog probability: ${precise(value)}`;
    return span;
  }));
  const body = () => {
    const coefficient = coefficients()[place], one = scale();
    const line = (other) => {
      const list = of(other);
      return make("tr", { class: other === coefficient ? "current" : null }, make("td", { class: "number" }, String(other)),
        make("td", { class: "number" }, precise(mean(list.flatMap((text) => text.tokens.map(([, value]) => value))))),
        make("td", { class: "words" }, visible(whole(list[0]))));
    };
    at("written").replaceChildren(make("h2", {}, `Coefficient ${coefficient}`), ...of(coefficient).map((text) => written(text, one)));
    at("all").replaceChildren(make("table", {}, make("thead", {}, make("tr", {},
      ["coefficient", "mean log probability of a token (nats)", "first text"].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, coefficients().map(line))));
    drawTable();
  };
  const draw = (controls, root) => {
    const shown = make("output", {}, String(coefficients()[place]));
    const input = make("input", { type: "range", min: 0, max: coefficients().length - 1, step: 1, value: place, "aria-label": "Coefficient",
      "aria-valuetext": String(coefficients()[place]), input: (event) => {
        place = Number(event.target.value);
        shown.textContent = String(coefficients()[place]);
        event.target.setAttribute("aria-valuetext", shown.textContent);
        body();
      } });
    controls.replaceChildren(...[
      settings.length > 1 ? chooser("Prompt and settings", settings.map(visible), setting, (chosen) => { setting = chosen; place = middle(); redraw(); }) : null,
      make("label", {}, "Coefficient", input, shown),
    ].filter(Boolean));
    root.replaceChildren(make("p", { class: "soft" }, visible(settings[setting])), scale().legend("log probability of a token (nats)", false),
      make("div", { id: "written", pointermove: (event) => tip(event.target.told || "", event.clientX, event.clientY), pointerleave: () => tip("") }),
      make("h2", {}, "All coefficients"),
      make("div", { id: "all", class: "scroll sentences", tabindex: 0, role: "region", "aria-label": "First text of every coefficient" }));
    body();
  };
  const rows = () => [["settings", "coefficient", "sample", "prompt", "text", "log_probability"], ...own().map((text) =>
    [text.settings, text.coefficient, text.sample, text.prompt, whole(text), exact(text.log_probability)])];
  return { draw, rows };
};
