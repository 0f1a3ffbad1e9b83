// A folder of results: what there is of every model, tables to sort and to filter, and, where the page is served, how
// sweeps come along.
views.overview = ({ made, version, progress, stamp, sweeps, parts }) => {
  const collator = new Intl.Collator("en", { numeric: true });
  const counted = (count, one, more) => `${count} ${count === 1 ? one : more}`;
  const textOf = (entry) => typeof entry === "string" ? entry : entry.text;
  // What an entry is sorted by: a number where it is one.
  const keyOf = (entry) => {
    if (entry.sort !== undefined) return entry.sort;
    const text = textOf(entry).trim();
    return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  const order = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return collator.compare(a, b);
  };
  const link = (text, href) => href ? make("a", { href }, visible(text)) : visible(text);
  const facts = (list) => make("dl", { class: "facts" }, list.flatMap(([name, value]) => [make("dt", {}, visible(name)), make("dd", {}, visible(value))]));
  const fold = (name, settings) => make("details", { class: "fold" }, make("summary", {}, visible(name)), facts(settings));
  const shown = (entry) => entry.settings ? fold(entry.text, entry.settings) : link(textOf(entry), entry.href);
  const wordsOf = (entry) => textOf(entry) + " " + (entry.settings || []).map((one) => one.join(" ")).join(" ");
  const searched = (list, words, wanted) => {
    const parts = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    return list.filter((_, index) => parts.every((part) => words[index].includes(part)));
  };
  const search = (label, change) => make("label", {}, label, make("input", { type: "search", input: (event) => change(event.target.value) }));

  // A table to sort and to filter; `LOT` rows are drawn at a time.
  const LOT = 100;
  const grid = ({ name, columns, rows, total, href, bars, note }) => {
    const words = rows.map((row) => row.map(wordsOf).join("\n").toLowerCase());
    const keys = new Map(rows.map((row) => [row, row.map(keyOf)]));
    const isNumber = columns.map((_, column) => rows.some((row) => typeof keys.get(row)[column] === "number") &&
      rows.every((row) => row[column] === undefined || keys.get(row)[column] === "" || typeof keys.get(row)[column] === "number"));
    let wanted = "", by = null, down = false, most = LOT;
    const body = make("tbody"), count = make("output"), more = make("button", { class: "unprinted", click: () => { most += 5 * LOT; fill(); } }, "Show more rows");
    const heads = columns.map((column, index) => make("th", { scope: "col", "aria-sort": "none" }, make("button", { class: "sort", click: () => sort(index) }, visible(column) || "–")));
    const cell = (entry, column) => {
      const share = column === bars ? Math.min(Math.max(Number(textOf(entry)), 0), 100) : null;
      return make("td", { class: (isNumber[column] ? "number" : "words") + (share === null ? "" : " bar"),
        style: share === null ? null : `background:linear-gradient(to right,var(--bar) ${share}%,transparent ${share}%)` }, shown(entry));
    };
    const found = () => {
      const list = searched(rows, words, wanted);
      if (by === null) return list;
      const key = (row) => keys.get(row)[by] ?? "";
      // What is empty comes last both ways.
      return list.toSorted((a, b) => (down && key(a) !== "" && key(b) !== "" ? -1 : 1) * order(key(a), key(b)));
    };
    const fill = () => {
      const list = found();
      body.replaceChildren(...list.slice(0, most).map((row) => make("tr", {}, row.map(cell))));
      more.hidden = list.length <= most;
      count.textContent = `${list.length} of ${counted(rows.length, "row", "rows")}`;
    };
    const sort = (index) => {
      down = by === index && !down;
      by = index;
      heads.forEach((head, other) => head.setAttribute("aria-sort", other !== by ? "none" : down ? "descending" : "ascending"));
      fill();
      say(`${visible(name)} is sorted by ${visible(columns[by])}, ${down ? "descending" : "ascending"}.`);
    };
    fill();
    const part = total !== null && total > rows.length;
    return make("div", { class: "grid" }, rows.length ? make("div", { class: "controls" }, search("Filter", (text) => { wanted = text; most = LOT; fill(); }), count) : null,
      part ? make("p", {}, rows.length ? `The first ${rows.length} of ${total} rows; ` : `${counted(total, "row", "rows")}; `, link("the file has all", href)) : null,
      note ? make("p", { class: "soft" }, visible(note)) : null,
      !rows.length && !part && href ? make("p", {}, link("The file", href)) : null,
      rows.length ? make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": visible(name) }, make("table", {}, make("thead", {}, make("tr", {}, heads)), body)) : null,
      more);
  };
  // A part of a section under its heading, with how much there is in it. What is drawn once it is opened is not printed.
  const chapter = (name, count, open, content) => {
    const later = typeof content === "function";
    return make("details", { class: later ? "chapter later" : "chapter", open: open && !later,
      toggle: later ? ({ target }) => { if (target.open && !target.children[1]) target.append(content()); } : null },
    make("summary", {}, make("h3", {}, name, " ", make("small", { class: "soft" }, String(count)))), later ? null : content);
  };
  // A table, drawn once it is opened.
  const folded = (name, extra, one) => make("details", { toggle: ({ target }) => { if (target.open && !target.children[1]) target.append(grid(one)); } },
    make("summary", {}, make("strong", {}, visible(name)), " ", make("small", {}, extra)));

  // --- Sweeps

  const bar = ({ name, done, failed, missing, stale, processes, computing, left, failures, damaged }) => {
    const all = done + failed + missing;
    const told = damaged ? `damaged: ${damaged}` : [`${done} of ${counted(all, "cell", "cells")} done`,
      failed ? `${failed} failed` : null, stale ? `${stale} of directions or prompts that have changed` : null,
      processes ? `${counted(processes, "process", "processes")} at work on ${computing}` : missing ? "nobody at work" : null,
      left ? `about ${left} left` : null].filter(Boolean).join(", ");
    return make("div", { class: "sweep" }, make("strong", {}, visible(name)),
      make("progress", { max: Math.max(all, 1), value: done, "aria-label": `${visible(name)}: cells done` }),
      make("p", { class: damaged || failed ? "bad" : "soft" }, visible(told)),
      failures.length ? make("p", {}, fold(`Failed, ${failures.length} of ${failed}`, failures)) : null);
  };
  const bars = make("div", { id: "sweeps" }), news = make("p", { id: "news", role: "status" });
  const drawSweeps = (list) => {
    // What is open stays open.
    const open = [...bars.querySelectorAll("details")].map((one) => one.open);
    bars.replaceChildren(...list.map(bar));
    bars.querySelectorAll("details").forEach((one, index) => { one.open = open[index] || false; });
  };
  const POLL = 2000;
  let last = "";
  const poll = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(progress, { cache: "no-store" });
        if (!answer.ok) throw new Error(String(answer.status));
        const now = await answer.json(), text = JSON.stringify(now.sweeps);
        // What somebody is reading with keys is not taken away.
        if (text !== last && !bars.contains(document.activeElement)) {
          drawSweeps(now.sweeps);
          last = text;
        }
        tell(now.stamp === stamp ? "" : "results");
      } catch {
        tell("gone");
      }
    }
    setTimeout(poll, POLL);
  };
  const tell = (what) => {
    if (news.dataset.what === what) return;
    news.dataset.what = what;
    news.replaceChildren(...what === "results" ? ["There are new results. ", make("a", { href: "" }, "Show them")]
      : what === "gone" ? ["The page is no longer served: it shows what there was."] : []);
  };

  // --- Models

  // A narrow window has its parts closed, and shows few cards at once.
  const isNarrow = window.matchMedia("(max-width: 560px)").matches, MOST_OPEN = 4, LIST_OF_TABLES = 12;
  const LOT_OF_CARDS = isNarrow ? 12 : 48;
  const card = ({ name, href, picture, files, made, settings, trouble }) => make("li", {},
    picture ? make("a", { class: "picture", href, tabindex: -1, "aria-hidden": "true" }, make("img", { src: picture, alt: "", loading: "lazy" }))
      : make("a", { class: "picture none", href, tabindex: -1, "aria-hidden": "true" }, "page"),
    make("div", { class: "told" }, make("p", {}, make("a", { href }, visible(name.split("/").at(-1)))), trouble ? make("p", { class: "bad" }, "⚠ ", visible(trouble)) : null,
      make("p", { class: "soft" }, visible(made)),
      make("p", { class: "files" }, files.map(([ending, address]) => make("a", { href: address, "aria-label": `${visible(name)}, ${ending}` }, ending))),
      settings.length ? fold("made of", settings) : null));
  const gallery = (cards) => {
    const words = cards.map((one) => [one.name, one.made, one.trouble || "", ...one.settings.flat()].join("\n").toLowerCase());
    const list = make("ul", { class: "cards" }), count = make("output");
    let wanted = "", most = LOT_OF_CARDS;
    const more = make("button", { class: "unprinted", click: () => { most += LOT_OF_CARDS; fill(); } }, "Show more");
    const fill = () => {
      const found = searched(cards, words, wanted);
      list.replaceChildren(...found.slice(0, most).map(card));
      more.hidden = found.length <= most;
      count.textContent = `${found.length} of ${cards.length}`;
    };
    fill();
    return make("div", {}, make("div", { class: "controls" }, search("Filter", (text) => { wanted = text; most = LOT_OF_CARDS; fill(); }), count), list, more);
  };
  const troubled = (troubles) => make("div", { class: "troubles" }, make("strong", {}, `⚠ ${counted(troubles.length, "thing", "things")} to look at`),
    make("ul", { tabindex: 0, "aria-label": "To look at" }, troubles.map(({ kind, what, href, why }) => make("li", {}, make("strong", {}, visible(kind)), " ", link(what, href), `: ${visible(why)}`))));
  const rowsOf = (one) => one ? one.rows.length : 0;
  const section = (one, index) => {
    const isOpen = !isNarrow && (parts.length <= MOST_OPEN || index === 0);
    return make("section", { id: `part${index}`, "aria-label": visible(one.name) }, make("h2", {}, visible(one.name)),
      one.facts.length ? facts(one.facts) : null,
      one.troubles.length ? troubled(one.troubles) : null,
      one.best ? chapter("Best layers", rowsOf(one.best), isOpen, grid(one.best)) : null,
      one.cards.length ? chapter("Figures and pages", one.cards.length, isOpen, gallery(one.cards)) : null,
      one.runs ? chapter("Runs", rowsOf(one.runs), isOpen, grid(one.runs)) : null,
      one.tables.length ? chapter("Tables", one.tables.length, isOpen && one.tables.length <= LIST_OF_TABLES, make("div", { class: "tables" }, one.tables.map((table) =>
        folded(table.name.split("/").at(-1), table.total === null ? visible(table.note) : `${counted(table.total, "row", "rows")}, ${counted(table.columns.length, "column", "columns")}`, table)))) : null,
      one.directions ? chapter("Directions", rowsOf(one.directions), false, () => grid(one.directions)) : null,
      one.files ? chapter("All files", rowsOf(one.files), false, () => grid(one.files)) : null);
  };

  const draw = (_, root) => {
    // Colours are those of the style alone: nothing is drawn anew for a change of theme or width.
    if (root.firstChild) return;
    const sum = (of) => parts.reduce((all, one) => all + of(one), 0), troubles = sum((one) => one.troubles.length);
    const tile = (count, one, more, isBad) => make("li", { class: isBad ? "bad" : null }, make("strong", {}, String(count)), count === 1 ? one : more);
    const models = parts.filter((one) => one.facts.length);
    root.append(make("p", { class: "soft" }, visible(`As of ${made.replace("T", " ").replace("Z", " UTC")}, by actpatch ${version}`), progress ? ", live." : "."),
      ...progress ? [news] : [],
      make("ul", { class: "tiles" }, tile(models.length, "model", "models"), tile(sum((one) => rowsOf(one.runs)), "run", "runs"),
        tile(sum((one) => one.cards.length), "figure or page", "figures and pages"), tile(sum((one) => one.tables.length), "table", "tables"),
        tile(sum((one) => rowsOf(one.directions)), "direction", "directions"), tile(troubles, "to look at", "to look at", troubles > 0)));
    if (parts.length > 1) {
      root.append(make("nav", { "aria-label": "Models" }, make("ul", {}, parts.map((one, index) => make("li", {}, make("a", { href: `#part${index}` }, visible(one.name)))))));
    }
    const chapters = () => [...root.querySelectorAll(".chapter")];
    const someClosed = () => chapters().some((one) => !one.open);
    const all = make("button", { class: "unprinted", click: () => {
      const open = someClosed();
      chapters().forEach((one) => { one.open = open; });
    } });
    const nameAll = () => { all.textContent = someClosed() ? "Open everything" : "Close everything"; };
    root.addEventListener("toggle", nameAll, true);
    if (parts.length) root.append(make("div", { class: "controls" }, all));
    // On paper everything is open that was drawn, and as it was afterwards.
    let closed = [];
    window.addEventListener("beforeprint", () => {
      closed = chapters().filter((one) => !one.open && !one.matches(".later"));
      closed.forEach((one) => { one.open = true; });
      root.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
    });
    window.addEventListener("afterprint", () => closed.forEach((one) => { one.open = false; }));
    if (sweeps.length || progress) root.append(make("h2", {}, "Sweeps"), bars);
    drawSweeps(sweeps);
    if (!parts.length) root.append(make("p", {}, "There are no results yet."));
    root.append(...parts.map(section));
    nameAll();
    if (progress) setTimeout(poll, POLL);
  };
  const rows = () => [["part", "file"], ...parts.flatMap((one) => (one.files ? one.files.rows : []).map((row) => [one.name, textOf(row[0])]))];
  return { draw, rows };
};
