// What runs of a prompt predict: the likeliest tokens behind a position, run beside run, and the logit lens of one run, which
// has them of every layer. A click or Enter on a cell of the lens, or on a token of a run, shows what is predicted there.
views.predictions = ({ layers, runs, vocabulary, top, prompts }) => {
  const END = layers.length - 1, SHOWN = 5;
  for (const run of prompts.flatMap((one) => one.runs)) {
    for (const name of ["likeliest", "values", "ranks", "asked_values"]) run[name] = numbers(run[name]);
    // Of every position what is asked for there, and how many tokens were asked for before it.
    run.asked_at = run.tokens.map(() => ({ before: 0, tokens: [] }));
    run.asked.forEach(([position, token, role]) => run.asked_at[position].tokens.push([token, role]));
    run.asked_at.forEach((one, position) => {
      const last = run.asked_at[position - 1];
      one.before = last ? last.before + last.tokens.length : 0;
    });
  }
  let prompt = 0, run = 0, layer = END, byRank = false, size = 1, position = null;

  const own = () => prompts[prompt].runs;
  const shown = () => own()[run];
  const text = (place) => vocabulary[place];
  const percent = (value) => (100 * Math.exp(value)).toPrecision(3) + " %";
  const likeliest = (one, layer, position) => Array.from({ length: top }, (_, rank) => {
    const place = (position * layers.length + layer) * top + rank;
    return [one.likeliest[place], one.values[place]];
  });
  const asked = (one, layer, position) => {
    const { before, tokens } = one.asked_at[position];
    return tokens.map(([token, role], number) => {
      const place = before * layers.length + layer * tokens.length + number;
      return { token, role, rank: one.ranks[place], value: one.asked_values[place] };
    });
  };
  // The log probability that a token was given at the layer that is shown.
  const given = (one, place) => place === 0 ? NaN : asked(one, layer, place - 1)[0].value;
  const behind = (one, place) => `${visible(text(one.tokens[place]))} (position ${place})`;

  const told = (row, column) => {
    const one = shown();
    const lines = likeliest(one, row, column).slice(0, SHOWN).map(([token, value]) => `${visible(text(token))}  ${percent(value)}`);
    const wanted = asked(one, row, column).map(({ token, role, rank, value }) =>
      `${role} ${visible(text(token))}, rank ${rank}, log probability: ${precise(value)}`);
    return [`behind ${behind(one, column)}, layer ${layers[row]}`, ...lines, ...wanted].join("\n");
  };
  const toldToken = (number, place) => {
    const one = own()[number], value = given(one, place);
    return `${visible(runs[number])}: ${behind(one, place)}\nlog probability: ${precise(value)}`;
  };

  // Every run's tokens, coloured by how likely they were.
  const tokenScale = () => new Scale("sequential", ...ends(own().flatMap((one) => one.tokens.map((_, place) => given(one, place)))));
  const sequence = (one, number, scale) => make("p", { class: "text" }, make("small", {}, visible(runs[number])), one.tokens.map((token, place) => {
    const value = given(one, place), none = Number.isNaN(value);
    const span = make("span", { class: "token" + (none ? " none" : "") + (place === position ? " locked" : ""),
      style: none ? "" : `background:${scale.colour(value)};color:${scale.ink(value)}` }, visible(text(token)));
    span.place = [number, place];
    return span;
  }));
  const drawTokens = () => {
    const scale = tokenScale();
    at("runs").replaceChildren(scale.legend(`log probability of the token, layer ${layers[layer]} (nats)`), ...own().map((one, number) => sequence(one, number, scale)));
  };

  // The lens: its cells say the likeliest token, or the rank of what comes next.
  const drawLens = () => {
    const one = shown(), rows = layers.map((_, number) => END - number);
    const cells = rows.flatMap((row) => one.tokens.map((_, column) => {
      const [token, value] = likeliest(one, row, column)[0], next = asked(one, row, column)[0];
      if (!byRank) return [label(text(token), 10), Math.exp(value)];
      return next ? [String(next.rank), next.value] : ["", NaN];
    }));
    const values = cells.map(([, value]) => value);
    const scale = byRank ? new Scale("sequential", ...ends(values)) : new Scale("reds", 0, 1);
    at("lens").replaceChildren(
      make("h2", {}, `Logit lens of ${visible(runs[run])}`),
      scale.legend(byRank ? "log probability of what comes next (nats), and its rank" : "probability of the likeliest token", byRank),
      heatMap({ rows: rows.map((row) => layers[row]), columns: one.tokens.map(text), values, texts: cells.map(([said]) => said), scale,
        x: "token behind which is predicted", y: "layer", name: `Logit lens of ${visible(runs[run])}`, size,
        told: (row, column) => told(rows[row], column),
        chosen: (row, column) => { layer = rows[row]; position = column; show(); controls(); } }));
  };

  // What all runs predict at the layer and position.
  const drawBeside = () => {
    const here = own().map((one, number) => [number, one]).filter(([, one]) => position < one.tokens.length);
    const head = ["rank", ...here.flatMap(([number]) => [runs[number], "log probability"])];
    const lines = Array.from({ length: top }, (_, rank) => [rank + 1, ...here.flatMap(([, one]) => {
      const [token, value] = likeliest(one, layer, position)[rank];
      return [text(token), precise(value)];
    })]);
    const wanted = here.flatMap(([number, one]) => asked(one, layer, position).map(({ token, role, rank, value }) =>
      [role, text(token), runs[number], rank, precise(value), percent(value)]));
    at("beside").replaceChildren(...[
      make("h2", {}, `Likeliest tokens behind ${here.map(([, one]) => visible(text(one.tokens[position]))).filter((name, number, all) => all.indexOf(name) === number).join(" or ")}, position ${position}, layer ${layers[layer]}`),
      ...table([head, ...lines], 100, "Likeliest tokens of every run"),
      wanted.length ? make("h2", {}, "What comes next") : null,
      ...(wanted.length ? table([["role", "token", "run", "rank", "log probability", "probability"], ...wanted], 500, "What comes next") : []),
    ].filter(Boolean));
  };
  // What follows the layer and the position; the lens stays, and keeps the keys.
  const show = () => {
    drawTokens();
    drawBeside();
    drawTable();
  };
  const body = () => {
    drawLens();
    show();
  };
  const controls = () => at("controls").replaceChildren(...[
    prompts.length > 1 ? chooser("Prompt", prompts.map((one) => visible(one.caption)), prompt, (chosen) => { prompt = chosen; redraw(); }) : null,
    runs.length > 1 ? chooser("Lens of", runs.map(visible), run, (chosen) => { run = chosen; body(); }) : null,
    layers.length > 1 ? chooser("Layer", layers, layer, (chosen) => { layer = chosen; show(); }) : null,
    chooser("Cells", ["likeliest token", "rank of what comes next"], Number(byRank), (chosen) => { byRank = chosen === 1; drawLens(); }),
    slider("Cell size", 0.5, 3, 0.25, size, (chosen) => { size = chosen; drawLens(); }),
  ].filter(Boolean));

  const chooseToken = (event) => {
    if (!event.target.place) return;
    [run, position] = event.target.place;
    body();
    controls();
  };
  const keys = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") tip("");
    if (!step) return;
    event.preventDefault();
    position = Math.min(Math.max(position + step, 0), shown().tokens.length - 1);
    show();
    say(told(layer, position).replaceAll("\n", "; "));
  };
  const draw = (_, root) => {
    const last = shown().tokens.length - 1;
    position = position === null ? last : Math.min(position, last);
    root.replaceChildren(
      make("div", { id: "runs", tabindex: 0, role: "region", "aria-label": "Runs. Arrows move from position to position.",
        pointermove: (event) => tip(event.target.place ? toldToken(...event.target.place) : "", event.clientX, event.clientY),
        pointerleave: () => tip(""), click: chooseToken, keydown: keys }),
      make("div", { id: "beside", class: "unbroken" }),
      make("div", { id: "lens" }));
    controls();
    body();
  };
  const rows = () => [["prompt", "run", "position", "token", "layer", "role", "rank", "predicted", "log probability"], ...own().flatMap((one, number) =>
    one.tokens.flatMap((token, place) => layers.flatMap((name, layer) => [
      ...likeliest(one, layer, place).map(([token, value], rank) => ({ role: "top", rank: rank + 1, token, value })),
      ...asked(one, layer, place),
    ].map(({ role, rank, token: predicted, value }) =>
      [prompts[prompt].caption, runs[number], place, text(token), name, role, rank, text(predicted), exact(value)]))))];
  return { draw, rows };
};
