// Opens the pages of a data folder in Chromium, and uses them. Arguments: the folder of npm's packages, the browser, the data
// folder, where screenshots go, and the program, which serves the folder.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const [modules, executablePath, data, target, actpatch] = process.argv.slice(2);
const require = createRequire(path.resolve(modules, "x"));
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
fs.rmSync(target, { recursive: true, force: true });
fs.mkdirSync(target, { recursive: true });

const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args });
const demo = (name) => path.join(data, "demo", name);
const HOSTILE = "</script><script>window.broken = true</script>\"'&\u202eevil\u2066\u0000";
const LINES = "figures/" + fs.readdirSync(path.join(data, "figures")).find((name) => name.includes("facet_plot") && name.endsWith(".html"));
const times = [];

// A page that is open and drawn; anything it says, asks for or opens is a fault.
async function open(file, { width = 1280, dark = false, served = null } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: dark ? "dark" : "light", acceptDownloads: true });
  const page = await context.newPage(), faults = [];
  page.on("console", (message) => faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("dialog", (dialog) => { faults.push("a dialog"); dialog.dismiss(); });
  const own = served ? new RegExp(`^(${served}|data:|blob:)`) : /^(file|data|blob):/;
  page.on("request", (request) => { if (!own.test(request.url())) faults.push(request.url()); });
  await page.goto(served ? served + file : "file://" + path.resolve(file));
  await page.waitForSelector("html[data-ready]", { state: "attached", timeout: 10000 });
  page.opened = await page.evaluate(() => performance.now());
  page.done = async () => {
    assert.deepEqual(faults, [], file);
    await context.close();
  };
  return page;
}

async function accessible(page, file) {
  // The page's own policy lets no script in but its own: axe comes through the debugger.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  assert.deepEqual(serious.map((one) => `${one.id}: ${one.nodes[0].html}`), [], file);
}

async function shot(page, name) {
  await page.screenshot({ path: path.join(target, `${name}.png`), fullPage: true });
}

const chooser = (page, name) => page.getByRole("combobox", { name, exact: true });

// Whether everything lies within the width of the window.
const fits = (page) => page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth);

async function saved(page, ending) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(`[data-save="${ending}"]`)]);
  assert.ok(download.suggestedFilename().endsWith(`.${ending}`));
  return fs.readFileSync(await download.path());
}

// Rows of a CSV file.
function csv(text) {
  const rows = [[]];
  let cell = "", quoted = false;
  for (let place = 0; place < text.length; place++) {
    const letter = text[place];
    if (quoted) {
      if (letter === '"' && text[place + 1] === '"') { cell += '"'; place++; }
      else if (letter === '"') quoted = false;
      else cell += letter;
    } else if (letter === '"') quoted = true;
    else if (letter === "," || letter === "\n") {
      rows.at(-1).push(cell);
      cell = "";
      if (letter === "\n") rows.push([]);
    } else cell += letter;
  }
  return rows.slice(0, -1);
}
const table = (name) => csv(fs.readFileSync(demo(name), "utf8")).slice(1);
// The shape and the numbers of an array of 32-bit floats.
function npy(name) {
  const bytes = fs.readFileSync(demo(name)), length = bytes.readUInt16LE(8), header = bytes.toString("latin1", 10, 10 + length);
  assert.ok(header.includes("'<f4'"), header);
  const shape = header.match(/\(([\d, ]+)\)/)[1].split(",").filter((one) => one.trim()).map(Number);
  return { shape, values: new Float32Array(Uint8Array.prototype.slice.call(bytes, 10 + length).buffer) };
}
const tip = (page) => page.locator("#tip").textContent();
const near = (found, wanted, bound, what) => assert.ok(Math.abs(Number(found) - Number(wanted)) <= bound, `${what}: ${found}, not ${wanted}`);
const valueOf = (text) => Number(text.split("\n").map((line) => line.match(/: (-?[\d.]+(e-?\d+)?)$/)).filter(Boolean).at(-1)[1]);

// The middle of a cell of a heat map of so many rows and columns.
async function hoverCell(page, map, [row, column], [rows, columns]) {
  const image = page.locator(`${map} image`).first();
  // The pointer finds nothing outside the window.
  await image.scrollIntoViewIfNeeded();
  const box = await image.boundingBox();
  await page.mouse.move(box.x + (column + 0.5) * box.width / columns, box.y + (row + 0.5) * box.height / rows);
  return tip(page);
}

const checks = {
  async "a map shows what its table has, under the pointer, by keys and in what is saved"() {
    const page = await open(demo("activation_patching_logit_diff_simple_plain_z.html"));
    const rows = table("activation_patching_logit_diff_simple_plain_z.csv");
    for (const [layer, head] of [[0, 0], [2, 3], [3, 1]]) {
      const wanted = rows.find((row) => row[0] === String(layer) && row[1] === String(head))[2];
      const told = await hoverCell(page, ".facet:first-child .map", [layer, head], [4, 4]);
      assert.ok(told.includes(`layer: ${layer}\nhead: ${head}\n`), told);
      near(valueOf(told), wanted, 1e-3, told);
    }
    await page.mouse.move(2, 2);
    await page.locator(".map > svg[tabindex]").first().focus();
    // From the cell that the pointer was on.
    for (const key of ["ArrowRight", "ArrowUp", "ArrowUp"]) await page.keyboard.press(key);
    assert.ok((await page.locator("#status").textContent()).includes("layer: 1; head: 2"));
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#tip").isHidden());
    const found = csv((await saved(page, "csv")).toString());
    const maps = found.slice(1).filter((row) => row[found[0].indexOf("row")] !== "");
    assert.equal(maps.length, rows.length);
    maps.forEach((row, index) => near(row.at(-1), rows[index][2], 1e-4, row.join()));
    const svg = (await saved(page, "svg")).toString();
    assert.ok(svg.startsWith("<svg") && svg.includes("<image"));
    assert.equal(await page.evaluate((text) => new DOMParser().parseFromString(text, "image/svg+xml").querySelector("parsererror"), svg), null);
    assert.equal((await saved(page, "png")).subarray(1, 4).toString(), "PNG");
    await page.click("#table summary");
    await page.locator("#rows tbody tr").first().waitFor();
    assert.equal(await page.locator("#rows tbody tr").count(), found.length - 1);
    await page.done();
  },

  async "a cell leads to its prompts and back, and a prompt to its map"() {
    const stem = "activation_patching_logit_diff_simple_plain_z";
    const page = await open(demo(`${stem}.html`)), rows = table(`${stem}.csv`);
    const { shape: [count, layers, heads], values } = npy(`${stem}_prompts.npy`);
    const effects = (layer, head) => Array.from({ length: count }, (_, prompt) => values[(prompt * layers + layer) * heads + head]);
    const map = page.locator(".facet:first-child .map > svg[tabindex]"), shown = page.locator("#prompts tbody tr");
    // By keys, to the largest head.
    await map.focus();
    for (const key of ["ArrowRight", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "Enter"]) await page.keyboard.press(key);
    const head = page.getByRole("heading", { name: `layer 2, head 3: ${count} prompts` });
    assert.ok(await head.evaluate((head) => head === document.activeElement), "the keys are at the prompts");
    assert.equal(await shown.count(), count);
    const told = (await page.locator("#prompts td.number").allTextContents()).map(Number);
    assert.ok(told.every((value, place) => place === 0 || value <= told[place - 1]), told.join());
    effects(2, 3).toSorted((a, b) => b - a).forEach((value, place) => near(told[place], value, 1e-3, "effect"));
    const mean = told.reduce((sum, value) => sum + value / count, 0);
    near(mean, rows.find((row) => row[0] === "2" && row[1] === "3")[2], 1e-3, "mean");
    const texts = await shown.first().locator("td.words").allTextContents();
    assert.ok(texts.length === 2 && texts[0] !== texts[1] && texts.every((text) => /film|movie|story/.test(text)), texts.join("; "));
    await accessible(page, stem);
    await shot(page, "prompts_of_a_cell");
    await chooser(page, "Order").selectOption({ label: "as in the dataset" });
    const found = csv((await saved(page, "csv")).toString()).slice(1);
    assert.deepEqual(found.map((row) => Number(row[0])), [...Array(count).keys()]);
    found.forEach((row, prompt) => near(row[3], effects(2, 3)[prompt], 1e-3, row.join()));
    const svg = (await saved(page, "svg")).toString();
    assert.ok(svg.includes(">layer 2, head 3: 26 prompts<") && !svg.includes("Back to the map"));
    assert.equal(await page.evaluate((text) => new DOMParser().parseFromString(text, "image/svg+xml").querySelector("parsererror"), svg), null);
    await page.getByRole("button", { name: "Back to the map" }).focus();
    await page.keyboard.press("Escape");
    assert.ok(await map.evaluate((map) => map === document.activeElement), "the keys are back at the map");
    assert.equal(await shown.count(), 0);
    await page.keyboard.press("ArrowLeft");
    assert.ok((await page.locator("#status").textContent()).includes("layer: 2; head: 2"));
    // By the pointer, and from a prompt to its map.
    await hoverCell(page, ".facet:first-child .map", [0, 0], [layers, heads]);
    await page.mouse.down();
    await page.mouse.up();
    await page.getByRole("heading", { name: `layer 0, head 0: ${count} prompts` }).waitFor();
    const prompt = effects(0, 0).indexOf(Math.max(...effects(0, 0)));
    await page.getByRole("button", { name: `Show the map of prompt ${prompt}`, exact: true }).click();
    assert.ok((await page.locator("#alone").textContent()).startsWith(`Of prompt ${prompt}: `));
    for (const [layer, head] of [[0, 0], [2, 3]]) {
      near(valueOf(await hoverCell(page, ".facet:first-child .map", [layer, head], [layers, heads])), effects(layer, head)[prompt], 1e-3, "alone");
    }
    await page.mouse.move(2, 2);
    await shot(page, "map_of_a_prompt");
    await accessible(page, `${stem}, a prompt`);
    await page.getByRole("button", { name: "Show the mean of all prompts" }).click();
    near(valueOf(await hoverCell(page, ".facet:first-child .map", [2, 3], [layers, heads])), rows.find((row) => row[0] === "2" && row[1] === "3")[2], 1e-3, "mean");
    await page.getByRole("button", { name: "Back to the map" }).click();
    assert.equal(await shown.count(), 0);
    await page.done();
    const narrow = await open(demo(`${stem}.html`), { width: 390 });
    await narrow.locator(".map > svg[tabindex]").first().click({ position: { x: 5, y: 5 } });
    assert.ok(await fits(narrow));
    await shot(narrow, "prompts_of_a_cell_390");
    await narrow.done();
  },

  async "lines are found by the pointer and left out by the legend"() {
    const page = await open(path.join(data, LINES));
    const before = await page.locator("polyline").count();
    const mark = await page.locator(".facet svg circle").first().boundingBox();
    await page.mouse.move(mark.x + mark.width / 2, mark.y + mark.height / 2);
    assert.match(await tip(page), /layer: \d+\n.*recovered \(%\): /);
    await page.locator(".legend button").first().click();
    assert.ok(await page.locator("polyline").count() < before);
    assert.equal(await page.locator(".legend button").first().getAttribute("aria-pressed"), "false");
    await page.locator(".facet svg[tabindex]").first().focus();
    await page.keyboard.press("ArrowRight");
    assert.match(await page.locator("#status").textContent(), /layer: 0; /);
    await page.done();
  },

  async "attention is that of the table, of every head, both ways"() {
    const page = await open(demo("attention_patterns_simple_plain_all.html"));
    const rows = table("attention_mean_simple_plain_all.csv");
    const of = (head, query, key) => rows.find((row) => row[0] === head && row[1] === String(query) && row[2] === String(key))[3];
    assert.equal(await page.locator(".thumbs button").count(), 16);
    const length = Math.sqrt(rows.length / 16);
    await page.getByRole("button", { name: "head 2.3" }).click();
    for (const [query, key] of [[0, 0], [9, 2], [length - 1, 6]]) {
      const told = await hoverCell(page, "#large .map", [query, key], [length, length]);
      assert.ok(told.startsWith("head 2.3\n"), told);
      near(valueOf(told), of("2.3", query, key), 6e-5, told);
    }
    const tokens = page.locator("#tokens .token");
    await tokens.nth(9).click();
    await tokens.nth(2).hover();
    near((await tip(page)).match(/: ([\d.]+)$/)[1], of("2.3", 9, 2), 6e-5, "outgoing");
    await chooser(page, "Colour tokens by").selectOption({ index: 1 });
    await tokens.nth(length - 1).hover();
    near((await tip(page)).match(/: ([\d.]+)$/)[1], of("2.3", length - 1, 9), 6e-5, "incoming");
    await page.getByRole("button", { name: "head 2.3" }).click();
    const all = [...Array(16).keys()].map((head) => Number(of(`${Math.floor(head / 4)}.${head % 4}`, 9, 2)));
    near(valueOf(await hoverCell(page, "#large .map", [9, 2], [length, length])), all.reduce((sum, value) => sum + value / 16, 0), 6e-5, "mean");
    await tokens.nth(3).focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("Enter");
    assert.equal(await tokens.nth(4).getAttribute("aria-pressed"), "true");
    await chooser(page, "Layer").selectOption("1");
    assert.equal(await page.locator(".thumbs button").count(), 4);
    await chooser(page, "Head").selectOption("1.0");
    await chooser(page, "Pattern").selectOption({ label: "prompt 0" });
    const single = table("attention_prompt0_simple_plain_all.csv").filter((row) => row[0] === "1.0").map((row) => row[3]);
    const found = csv((await saved(page, "csv")).toString()).slice(1);
    found.forEach((row, index) => near(row.at(-1), single[index], 6e-5, row.join()));
    await shot(page, "attention_used");
    await page.done();
  },

  async "texts are coloured by the values of the table, and found, ordered and walked through"() {
    const page = await open(demo("neuroscope_text_texts.html"));
    const [header, ...rows] = csv(fs.readFileSync(demo("neuroscope_text_values.csv"), "utf8"));
    const direction = await chooser(page, "Direction").locator("option").first().textContent();
    await chooser(page, "Layer").selectOption("2");
    const column = header.findIndex((name) => name.includes(direction) && /2$/.test(name));
    assert.ok(column > 0, header.join());
    for (const token of [0, 3, rows.length - 1]) {
      const span = page.locator("#texts .token").nth(token), box = await span.boundingBox();
      await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
      near((await tip(page)).match(/cosine: (.*)/)[1], rows[token][column], 1e-5, "token " + token);
    }
    await page.locator("#texts .token").nth(1).click();
    assert.ok(await page.getByRole("columnheader", { name: "layer" }).isVisible());
    await page.locator("#texts").focus();
    await page.keyboard.press("ArrowRight");
    assert.match(await page.locator("#status").textContent(), /document 0, position 2/);
    await page.getByRole("searchbox", { name: "Search" }).fill("great");
    assert.equal(await page.locator("#texts .text").count(), 1);
    await page.getByRole("searchbox", { name: "Search" }).fill("");
    await chooser(page, "Order").selectOption({ label: "largest value first" });
    const saying = csv((await saved(page, "csv")).toString());
    assert.equal(saying.length - 1, rows.length);
    const values = (list, place) => list.map((row) => Number(row[place]).toFixed(5)).sort();
    assert.deepEqual(values(saying.slice(1), 4), values(rows, column));
    await shot(page, "texts_used");
    await page.done();
  },

  async "samples are those of the table, by rank"() {
    const page = await open(demo("neuroscope_text_top.html"));
    const rows = table("neuroscope_text_top.csv");
    const own = rows.filter((row) => row[0] === rows[0][0] && row[1] === rows[0][1] && row[2] === "largest");
    const captions = await page.locator("#texts .text > small").allTextContents();
    own.slice(0, 3).forEach((row, rank) => near(captions[rank].split(" ")[0], row[4], 6e-5, captions[rank]));
    await page.done();
  },

  async "losses that nothing is known of are marked as such"() {
    const page = await open(demo("text_loss_text_by_token_2.html"));
    assert.ok(await page.locator("#texts .token.none").count() > 0);
    assert.ok(await page.getByText("Dotted: tokens without a value.").isVisible());
    await chooser(page, "Show").selectOption({ index: 1 });
    assert.ok(await page.locator("#texts .marked").count() > 0);
    await page.done();
  },

  async "steered texts are those of the file, at every coefficient"() {
    const page = await open(demo("steering_kmeans_simple_train_ADJ_layer1.html"));
    const texts = fs.readFileSync(demo("steering_kmeans_simple_train_ADJ_layer1.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
    await page.getByRole("slider", { name: "Coefficient" }).focus();
    await page.keyboard.press("End");
    assert.equal(await page.locator("#written h2").textContent(), "Coefficient 20");
    const last = texts.filter((text) => text.coefficient === 20), written = page.locator("#written .text");
    assert.equal(await written.count(), last.length);
    for (const [number, text] of last.entries()) {
      assert.equal(await written.nth(number).locator(".token").count(), text.tokens.length);
      await written.nth(number).locator(".token").first().hover();
      near(valueOf(await tip(page)), text.log_probabilities[0], 1e-5, "log probability");
    }
    await page.done();
  },

  async "predictions are those of the table, of every run, at every layer"() {
    const page = await open(demo("logit_lens_simple_plain.html"));
    const [header, ...rows] = csv(fs.readFileSync(demo("logit_lens_simple_plain.csv"), "utf8"));
    const place = (name) => header.indexOf(name);
    const of = (prompt, run, layer, position, role) => rows.filter((row) => row[place("prompt")] === String(prompt) && row[place("patched")] === run.patched &&
      row[place("run")] === run.run && row[place("layer")] === String(layer) && row[place("position")] === String(position) && row[place("role")] === role);
    const clean = { run: "clean", patched: "none" }, patched = { run: "patched", patched: "blocks.2.hook_resid_pre" };
    const length = new Set(rows.map((row) => row[place("position")])).size, last = length - 1;
    const number = (text) => text.replace(/^'/, "");
    // At first the end of the first prompt, at the last layer: a column for every run.
    const beside = page.locator("#beside table").first();
    assert.deepEqual((await beside.locator("th").allTextContents()).filter((head) => head !== "rank" && head !== "log probability"),
      ["clean", "corrupted", "kmeans_simple_train_ADJ_layer1 at ALL", "blocks.2.hook_resid_pre at ALL"]);
    const cells = await beside.locator("tbody tr").first().locator("td").allTextContents();
    // Pages show six digits.
    near(cells[2], number(of(0, clean, 4, last, "top")[0][place("log_probability")]), 1e-4, "clean");
    near(cells[8], number(of(0, patched, 4, last, "top")[0][place("log_probability")]), 1e-4, "patched");
    const answers = await page.locator("#beside table").nth(1).locator("tbody tr").allTextContents();
    assert.equal(answers.length, 4 * (of(0, clean, 4, last, "correct").length + of(0, clean, 4, last, "incorrect").length));
    // The lens, the end on top.
    await chooser(page, "Lens of").selectOption({ label: "blocks.2.hook_resid_pre at ALL" });
    for (const [layer, position] of [[4, last], [0, 3], [2, 7]]) {
      const told = await hoverCell(page, "#lens .map", [4 - layer, position], [5, length]);
      const [best] = of(0, patched, layer, position, "top");
      assert.ok(told.includes(`layer ${layer}`) && told.includes(`(position ${position})`), told);
      near(told.split("\n")[1].match(/([\d.e-]+) %$/)[1], 100 * Math.exp(best[place("log_probability")]), 0.2, told);
      if (position < last) near(valueOf(told), of(0, patched, layer, position, "next")[0][place("log_probability")], 1e-4, told);
    }
    await page.mouse.move(2, 2);
    // Keys go on from there, and Enter shows all runs.
    await page.locator("#lens svg[tabindex]").focus();
    for (const key of ["ArrowDown", "ArrowLeft", "Enter"]) await page.keyboard.press(key);
    assert.ok((await page.locator("#beside h2").first().textContent()).endsWith("position 6, layer 1"));
    assert.equal(await page.locator("#lens svg[tabindex]").evaluate((map) => map === document.activeElement), true, "the map keeps the keys");
    await page.keyboard.press("Escape");
    await page.locator("#runs").focus();
    await page.keyboard.press("ArrowRight");
    assert.ok((await page.locator("#status").textContent()).includes("(position 7), layer 1"));
    await chooser(page, "Cells").selectOption({ label: "rank of what comes next" });
    const ranks = await page.locator("#lens .map svg[tabindex] text").allTextContents();
    assert.ok(ranks.includes(of(0, patched, 0, 3, "next")[0][place("rank")]));
    await chooser(page, "Prompt").selectOption({ label: "prompt 1" });
    const token = page.locator("#runs .text").nth(1).locator(".token").nth(5);
    await token.hover();
    near(valueOf(await tip(page)), of(1, { run: "corrupted", patched: "none" }, 1, 4, "next")[0][place("log_probability")], 1e-4, "token");
    await token.click();
    assert.ok((await page.locator("#lens h2").textContent()).endsWith("corrupted"));
    const found = csv((await saved(page, "csv")).toString());
    assert.equal(found.length - 1, rows.filter((row) => row[place("prompt")] === "1").length);
    await shot(page, "predictions_used");
    await page.done();
  },

  async "paths are those of the table, the largest as lines"() {
    const page = await open(demo("path_patching_graph_simple_plain_z_to_v2.2-v2.3_ALL.html"));
    const rows = table("path_patching_logit_diff_noising_simple_plain_z_to_v2.2-v2.3_ALL.csv");
    const largest = rows.toSorted((a, b) => Math.abs(b[2]) - Math.abs(a[2]))[0];
    await page.locator("#graph svg[tabindex]").focus();
    await page.keyboard.press("ArrowRight");
    const said = await page.locator("#status").textContent();
    assert.ok(said.startsWith(`z${largest[0]}.${largest[1]} to `), said);
    near(valueOf(said), largest[2], 1e-4, said);
    await page.getByRole("slider", { name: "Lines" }).fill("3");
    assert.equal(await page.locator("#graph path").count(), 3);
    await page.done();
  },

  async "all results are found from one page, tables are sorted and filtered, and what is wrong is said"() {
    const page = await open(path.join(data, "index.html"));
    const links = await page.evaluate(() => [...document.querySelectorAll("a[href]")].map((one) => one.getAttribute("href")).filter((href) => !href.startsWith("#")));
    assert.ok(links.length > 100, links.length);
    links.forEach((href) => assert.ok(fs.existsSync(path.join(data, decodeURIComponent(href))), href));
    const linked = new Set(links.map(decodeURIComponent));
    const drawn = fs.readdirSync(path.join(data, "demo")).filter((name) => /\.(html|svg|png)$/.test(name));
    drawn.forEach((name) => assert.ok(linked.has("demo/" + name), name));
    const troubles = await page.locator(".troubles li").allTextContents();
    assert.ok(troubles.some((text) => text.startsWith("missing demo/attention_mean_simple_plain_all.png: written by attention, ")), troubles.join("\n"));
    assert.ok(troubles.some((text) => text.startsWith("changed demo/activation_patching_logit_diff_simple_plain_z.csv: ")), troubles.join("\n"));
    assert.equal(await page.locator(".cards .bad").count(), 2);

    const best = page.locator("#part0 .grid").first(), head = best.getByRole("columnheader", { name: "percent", exact: true });
    const percents = async () => (await best.locator("tbody tr td:nth-child(6)").allTextContents()).map(Number);
    const before = await percents();
    assert.ok(before.length > 3);
    await head.getByRole("button").focus();
    for (const [direction, sign] of [["ascending", 1], ["descending", -1], ["ascending", 1]]) {
      await page.keyboard.press("Enter");
      assert.equal(await head.getAttribute("aria-sort"), direction);
      assert.deepEqual(await percents(), before.toSorted((a, b) => sign * (a - b)));
      assert.match(await page.locator("#status").textContent(), new RegExp(`by percent, ${direction}`));
    }
    await best.getByRole("columnheader", { name: "layer" }).getByRole("button").click();
    assert.equal(await head.getAttribute("aria-sort"), "none");
    await best.getByRole("searchbox", { name: "Filter" }).fill("KMEANS simple_test");
    const rows = await best.locator("tbody tr").allTextContents();
    assert.ok(rows.length > 0 && rows.length < before.length && rows.every((row) => row.startsWith("kmeans")), rows.join());
    assert.equal(await best.locator("output").textContent(), `${rows.length} of ${before.length} rows`);

    const opened = async (name) => {
      const details = page.locator("details", { has: page.locator(":scope > summary :is(strong, h3)", { hasText: new RegExp(`^${name}( \\d+)?$`) }) }).first();
      await details.locator("summary").first().focus();
      await page.keyboard.press("Enter");
      // What is closed is drawn a moment after it is opened.
      await details.locator(":scope > :not(summary)").first().waitFor();
      return details;
    };
    await opened("Tables");
    const suite = await opened("direction_patching_logit_diff_resid_plain.csv");
    const values = table("direction_patching_logit_diff_resid_plain.csv").slice(1);
    assert.equal(await suite.locator("tbody tr").count(), values.length);
    await suite.getByRole("columnheader", { name: "simple_test ADJ" }).getByRole("button").click();
    const smallest = values.toSorted((a, b) => a[1] - b[1])[0];
    assert.deepEqual(await suite.locator("tbody tr").first().locator("td").allTextContents(), smallest);
    assert.equal(await page.locator("#part0 > details.chapter[open]").count(), 4, "all but directions and files");
    const long = await opened("attention_mean_simple_plain_all.csv"), all = table("attention_mean_simple_plain_all.csv").length;
    assert.ok((await long.textContent()).includes(`The first 500 of ${all} rows; the file has all`));
    assert.equal(await long.locator("tbody tr").count(), 100);
    await long.getByRole("button", { name: "Show more rows" }).click();
    assert.equal(await long.locator("tbody tr").count(), 500);
    const run = page.locator("#part0 .grid").nth(1).locator("tbody tr").filter({ hasText: "steering" });
    await run.locator("summary").click();
    assert.match(await run.locator("dl").textContent(), /coefficients-20,-10,0,10,20/);
    await opened("All files");
    await accessible(page, "index.html");
    await shot(page, "index_used");
    await page.done();
  },

  async "in a narrow window the results are short, and open section by section"() {
    const page = await open(path.join(data, "index.html"), { width: 390 });
    const height = () => page.evaluate(() => document.documentElement.scrollHeight);
    assert.ok(await height() < 3500, await height());
    assert.equal(await page.locator(".chapter[open]").count(), 0);
    const figures = page.locator("#part0 > .chapter").filter({ has: page.getByRole("heading", { name: /^Figures and pages \d+$/ }) });
    await figures.locator("summary").first().focus();
    await page.keyboard.press("Enter");
    assert.equal(await figures.locator(".cards > li").count(), 12);
    assert.ok(await height() < 6000, await height());
    assert.ok(await fits(page));
    await accessible(page, "index.html, narrow");
    await shot(page, "index_open_390");
    // On paper everything is open, and afterwards as it was.
    await page.evaluate(() => window.dispatchEvent(new Event("beforeprint")));
    await page.emulateMedia({ media: "print" });
    assert.equal(await page.locator(".chapter:not(.later):not([open])").count(), 0);
    assert.ok(await page.locator("#part0 .grid").first().isVisible());
    assert.ok(await page.locator("td > .fold > summary").first().isVisible(), "the names of studies");
    await page.emulateMedia({ media: "screen" });
    await page.evaluate(() => window.dispatchEvent(new Event("afterprint")));
    assert.equal(await page.locator(".chapter[open]").count(), 1);
    await page.getByRole("button", { name: "Open everything" }).click();
    assert.equal(await page.locator(".chapter:not([open])").count(), 0);
    await page.getByRole("button", { name: "Close everything" }).click();
    assert.equal(await page.locator(".chapter[open]").count(), 0);
    await page.done();
  },

  async "a served page shows sweeps as they come along, and ends with its server"() {
    const server = spawn(actpatch, ["serve", "--port", "0", "--data-dir", data], { stdio: ["ignore", "pipe", "ignore"] });
    const address = (await new Promise((resolve) => server.stdout.once("data", resolve))).toString().trim();
    try {
      const page = await open("", { served: address });
      const bar = page.locator("#sweeps .sweep").filter({ hasText: /^demo/ });
      const done = async () => Number((await bar.locator("p").first().textContent()).match(/^(\d+) of /)[1]);
      const before = await done();
      assert.equal(Number(await bar.locator("progress").getAttribute("value")), before);
      assert.ok((await page.locator(".cards img").first().evaluate((image) => image.decode().then(() => image.naturalWidth))) > 0);
      execFileSync(actpatch, ["direction-patching-suite", "--directions", "pca*", "--eval-sets", "simple_book", "--metrics", "logit_diff", "--data-dir", data]);
      await page.waitForFunction((least) => Number(document.querySelector("#sweeps progress").value) > least, before, { timeout: 20000 });
      await page.getByRole("link", { name: "Show them" }).waitFor();
      await accessible(page, "served");
      await page.done();
      // Pages of results work as they do from files.
      const figure = await open("demo/activation_patching_logit_diff_simple_plain_post.html", { served: address });
      assert.ok((await saved(figure, "svg")).toString().startsWith("<svg"));
      assert.equal((await saved(figure, "png")).subarray(1, 4).toString(), "PNG");
      await figure.done();
    } finally {
      server.kill("SIGINT");
    }
    assert.equal(await new Promise((resolve) => server.once("exit", resolve)), 75);
  },

  async "large pages are small and open at once"() {
    const folder = path.join(data, "random-pythia-14m");
    const named = (end) => path.join(folder, fs.readdirSync(folder).find((name) => name.endsWith(end)));
    const heads = JSON.parse(fs.readFileSync(named("attention_patterns_long_plain_all.html"), "utf8").match(/id="data">(.*)<\/script>/)[1]);
    assert.deepEqual([heads.heads.length, heads.maps[0].tokens.length], [24, 99]);
    for (const [file, most] of [[named("attention_patterns_long_plain_all.html"), 3e6], [named("_texts.html"), 10e6]]) {
      const size = fs.statSync(file).size;
      assert.ok(size < most, `${file}: ${size} bytes`);
      let best = Infinity;
      for (let opening = 0; opening < 3; opening++) {
        const page = await open(file);
        best = Math.min(best, page.opened);
        if (opening === 0) await shot(page, path.basename(file, ".html") + "_large");
        await page.done();
      }
      assert.ok(best < 1000, `${file}: opens in ${best} ms`);
      times.push([path.basename(file), size, best]);
    }
  },

  async "no text breaks out of a view"() {
    const texts = new Set(["rows", "columns", "labels", "runs", "vocabulary", "tokens", "positions", "caption", "prompt", "texts", "settings", "receivers", "senders",
      "measure", "label", "title", "facts", "text", "what", "why", "made", "trouble", "note", "failures"]);
    const changed = (value, own) => {
      if (typeof value === "string") return own ? HOSTILE + value : value;
      if (Array.isArray(value)) return value.map((one) => changed(one, own));
      if (value === null || typeof value !== "object") return value;
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, changed(one, texts.has(key) || (key === "name" && own))]));
    };
    for (const name of views) {
      const html = fs.readFileSync(path.join(data, name), "utf8");
      const [, own] = html.match(/id="data">(.*)<\/script>/);
      // Beside its pictures.
      const file = path.join(data, path.dirname(name), `hostile_${path.basename(name)}`);
      const evil = JSON.stringify(changed(JSON.parse(own), false)).replaceAll("<", "\\u003c");
      fs.writeFileSync(file, html.replace(own, () => evil));
      const page = await open(file);
      // What is behind a cell.
      if (await page.locator("#prompts").count()) {
        await page.locator(".map.chosen > svg[tabindex]").first().click({ position: { x: 5, y: 5 } });
        assert.ok((await page.locator("#prompts td.words").first().textContent()).includes("</script><script>window.broken"), name);
      }
      assert.equal(await page.evaluate(() => window.broken), undefined);
      assert.ok((await page.locator("body").textContent()).includes("</script><script>window.broken"), name);
      assert.ok(!/[\u202e\u2066\u0000]/.test(await page.locator("#view").textContent()), name);
      if (await page.locator("[data-save]").count()) {
        const svg = (await saved(page, "svg")).toString();
        assert.equal(await page.evaluate((text) => new DOMParser().parseFromString(text, "image/svg+xml").querySelector("parsererror"), svg), null, name);
        await page.click("#table summary");
      }
      await page.mouse.move(400, 400);
      await accessible(page, file);
      await shot(page, path.basename(file, ".html"));
      await page.done();
      fs.rmSync(file);
    }
  },
};

// One page of every view and of every kind of plot.
const views = ["index.html", "demo/attention_patterns_hostile_plain_all.html", "demo/neuroscope_text_texts.html", "demo/neuroscope_text_top.html",
  "demo/text_loss_text_by_token_2.html", "demo/text_loss_text.html", "demo/steering_kmeans_simple_train_ADJ_layer1.html",
  "demo/logit_lens_simple_plain.html", "demo/logit_lens_text.html",
  "demo/path_patching_graph_simple_plain_z_to_v2.2-v2.3_ALL.html", "demo/activation_patching_logit_diff_simple_plain_z.html",
  "demo/activation_patching_logit_diff_simple_plain_resid_pre.html", "demo/activation_patching_logit_diff_simple_plain_post.html",
  "demo/attention_to_ADJ_simple_plain_all.html", "demo/figures/pca_simple_train_simple_test.html",
  "demo/figures/cosine_similarity_layers.html", "random-pythia-14m/neuroscope_long_token_means.html",
  LINES];

let failed = 0;
const report = async (name, check) => {
  try {
    await check();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
};
for (const name of views) {
  await report(`${name} opens at both widths, in both themes, for everybody`, async () => {
    for (const options of [{ width: 1280 }, { width: 390 }, { width: 1280, dark: true }]) {
      const page = await open(path.join(data, name), options);
      assert.ok(await fits(page), `${name} is wider than ${options.width}`);
      if (options.width === 1280) await accessible(page, name);
      await shot(page, `${path.basename(name, ".html")}_${options.width}${options.dark ? "_dark" : ""}`);
      if (options.width === 1280 && !options.dark) times.push([path.basename(name), fs.statSync(path.join(data, name)).size, page.opened]);
      await page.done();
    }
  });
}
for (const [name, check] of Object.entries(checks)) await report(name, check);
await browser.close();
const lines = times.map(([name, size, time]) => `${name}: ${(size / 1000).toFixed(0)} kB, opens in ${time.toFixed(0)} ms`);
fs.writeFileSync(path.join(target, "sizes.txt"), lines.join("\n") + "\n");
console.log(lines.join("\n"));
process.exit(failed ? 1 : 0);
