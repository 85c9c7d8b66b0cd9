// The page's own script: the leaderboard, the pictures and the runs' cards, from the data that the page holds.
// Texts reach the page as text (`textContent`), never as HTML, except through `escaped`.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 700px)");

// --- the data ----------------------------------------------------------------------------------------------------------

const board = rowsOf(data.board);
const places = data.cells.map(([grid, dataset, model, method, cr, seed, run, values, failed]) =>
  ({ grid, dataset, model, method, cr, seed, run, values, failed }));

function rowsOf(columns) {
  const names = Object.keys(columns);
  return (columns[names[0]] || []).map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

function titleOf(section, name, grid) {
  const own = data.grids[grid || ""]?.differs[`${section}.${name}.title`];
  return own ?? data[section][name]?.title ?? name;
}

function datasetTitle({ grid, dataset }) {
  return [titleOf("datasets", dataset, grid), data.grids[grid || ""]?.title].filter(Boolean).join(", ");
}

// --- numbers and texts ---------------------------------------------------------------------------------------------------

const present = (value) => value !== null && value !== undefined;
const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const grouped = (value) => Math.round(value).toLocaleString("en-US");
const percent = (value) => `${value >= 0.0995 ? (100 * value).toFixed(0) : (100 * value).toPrecision(2)} %`;

function quality(metric, value, signed = false) {
  if (!present(value)) return "–";
  const text = data.metrics[metric].percent ? (100 * value).toFixed(2) : value.toFixed(4);
  return signed && value > 0 ? `+${text}` : text;
}

function bytes(value) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${(value / size).toPrecision(3)} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

function between(metric, low, high) {
  return present(low) ? ` [${quality(metric, low, true)}, ${quality(metric, high, true)}]` : "";
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (present(text)) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// --- what is chosen ------------------------------------------------------------------------------------------------------

function offer(select, entries) {
  const before = select.value;
  select.replaceChildren(...entries.map(([value, text]) => element("option", text, { value })));
  if (entries.some(([value]) => value === before)) select.value = before;
}

const setOf = (row) => `${row.grid || ""}/${row.dataset}`;
const unique = (rows, key, title) => [...new Map(rows.map((row) => [key(row), title(row)])).entries()];

function choose() {
  offer(at("pick-dataset"), unique(board, setOf, datasetTitle));
  const ofSet = board.filter((row) => setOf(row) === at("pick-dataset").value);
  offer(at("pick-model"), unique(ofSet, (row) => row.model, (row) => titleOf("models", row.model, row.grid)));
  const ofModel = ofSet.filter((row) => row.model === at("pick-model").value);
  offer(at("pick-metric"), unique(ofModel, (row) => row.metric, (row) => data.metrics[row.metric].title));
  const rows = ofModel.filter((row) => row.metric === at("pick-metric").value);
  showBoard(rows);
  showFront(rows);
  showAdvice(rows);
  showPaper(rows);
}

// --- the leaderboard -------------------------------------------------------------------------------------------------------

let table = null;

function showBoard(rows) {
  const metric = rows[0]?.metric;
  if (!metric) return;
  const { title, better } = data.metrics[metric];
  const number = (show, value) => (_, type, row) => (type === "display" ? escaped(show(row)) : value(row) ?? -Infinity);
  const difference = (name) => number(
    (row) => present(row[name]) ? quality(metric, row[name], true) + between(metric, row[`${name}_low`], row[`${name}_high`]) : "–",
    (row) => row[name],
  );
  const columns = [
    { title: "Result", render: (_, type, row) => type === "display" ? cardLink(row.runs.split(" ")[0], row.name) : row.name },
    { title: `${title} ${better === "lower" ? "↓" : "↑"}`, render: number(
      (row) => quality(metric, row.mean) + (present(row.sd) ? ` ± ${quality(metric, row.sd)}` : ""), (row) => row.mean) },
    { title: "n", render: number((row) => row.n, (row) => row.n) },
    { title: "Bytes", render: number((row) => present(row.bytes) ? grouped(row.bytes) : "–", (row) => row.bytes) },
    { title: "Of full", render: number((row) => present(row.share) ? percent(row.share) : "–", (row) => row.share) },
    { title: "Weights kept", render: number((row) => present(row.weights_kept) ? percent(row.weights_kept) : "–", (row) => row.weights_kept) },
    { title: "Core-seconds", render: number((row) => present(row.core_seconds) ? grouped(row.core_seconds) : "–", (row) => row.core_seconds) },
    { title: "From best", render: difference("from_best") },
    { title: "From uniform, same bytes", render: difference("from_uniform") },
  ];
  if (table) table.destroy();
  at("board").replaceChildren();
  table = new window.dataTables.default(at("board"), {
    data: rows,
    columns: columns.map((column, i) => ({ data: null, className: i ? "dt-right" : "", type: i ? "num" : "string", ...column })),
    order: [[1, better === "lower" ? "asc" : "desc"]],
    paging: rows.length > 60,
    pageLength: 50,
    autoWidth: false,
    layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: rows.length > 60 ? "paging" : null },
  });
  table.search(at("find").value).draw();
}

const cardLink = (run, text) => `<a href="#run-${escaped(run)}">${escaped(text)}</a>`;

// --- pictures ----------------------------------------------------------------------------------------------------------------

function config() {
  const text = getComputedStyle(document.body).getPropertyValue("--text").trim();
  const line = getComputedStyle(document.body).getPropertyValue("--line").trim();
  return {
    background: "transparent",
    view: { stroke: line },
    axis: { labelColor: text, titleColor: text, gridColor: line, gridOpacity: 0.5, domainColor: line, tickColor: line, titleFontWeight: "normal" },
    legend: { labelColor: text, titleColor: text, orient: narrow.matches ? "bottom" : "right", columns: narrow.matches ? 2 : 1, labelLimit: narrow.matches ? 140 : 220 },
  };
}

async function draw(id, spec, rows, metric, parameters = {}) {
  const titles = JSON.stringify([...new Set(rows.map((row) => row.title))]);
  const named = JSON.parse(JSON.stringify(spec).replaceAll('["TITLES"]', () => titles)
    .replaceAll('"QUALITY"', () => JSON.stringify(data.metrics[metric]?.title ?? "")));
  for (const one of named.params || []) if (one.name in parameters) one.value = parameters[one.name];
  const drawn = await window.vegaEmbed(at(id), { ...named, datasets: { rows }, config: config() },
    { ast: true, actions: false, renderer: "svg", mode: "vega-lite" });
  drawn.view.addEventListener("click", (_, item) => {
    if (item?.datum?.runs) location.hash = `run-${item.datum.runs.split(" ")[0]}`;
  });
}

const RANKS = { baseline: 0, method: 0, reference: 1, control: 2 };

function apart(rows) { // Results that would cover each other, moved side by side.
  const seen = new Map();
  return rows.map((row) => {
    const key = `${Math.round(Math.log(row.bytes) * 50)}/${row.mean.toPrecision(4)}`;
    const nth = seen.get(key) ?? 0;
    seen.set(key, nth + 1);
    return { ...row, place: row.bytes * 1.03 ** nth };
  });
}

function showFront(rows) {
  const shown = apart(rows.filter((row) => row.bytes > 0 && present(row.mean)).map((row) => ({
    ...row,
    title: titleOf("methods", row.method, row.grid),
    rank: RANKS[row.role] ?? 0,
    bottom: row.mean - (row.sd ?? 0),
    top: row.mean + (row.sd ?? 0),
  })));
  if (!shown.length) return at("front").replaceChildren("No result here has embeddings.");
  const spread = shown.flatMap((row) => [row.bottom, row.top]);
  const sizes = shown.map((row) => row.place);
  const margin = 0.04 * (Math.max(...spread) - Math.min(...spread) || 1);
  return draw("front", data.charts.front, shown, rows[0].metric, {
    low: Math.min(...spread) - margin,
    high: Math.max(...spread) + margin,
    smallest: Math.min(...sizes) / 1.2,
    largest: Math.max(...sizes) * 1.2,
    full: shown.find((row) => row.share)?.bytes / shown.find((row) => row.share)?.share || 1,
  });
}

function showPaper(rows) {
  const shown = rows.filter((row) => present(row.paper));
  at("paper-part").hidden = !shown.length;
  if (shown.length) draw("paper", { ...data.charts.paper, height: 20 * shown.length + 10 }, shown, rows[0].metric);
}

// --- for a budget ------------------------------------------------------------------------------------------------------------

function showAdvice(rows) {
  const usable = rows.filter((row) => row.role !== "control" && present(row.mean) && row.bytes > 0);
  const sizes = usable.map((row) => row.bytes);
  at("budget").hidden = !sizes.length;
  if (!sizes.length) return;
  const [low, high] = [Math.min(...sizes), Math.max(...sizes)];
  const advise = () => {
    const part = Number(at("bytes").value) / 1000;
    const budget = Math.ceil(low * (high / low) ** part * 1.000001);
    const metric = rows[0].metric;
    const sign = data.metrics[metric].better === "lower" ? 1 : -1;
    const best = usable.filter((row) => row.bytes <= budget).sort((a, b) => sign * (a.mean - b.mean))[0];
    at("budget-bytes").textContent = bytes(budget);
    at("advice").innerHTML = `use <strong>${cardLink(best.runs.split(" ")[0], best.name)}</strong>: ${escaped(data.metrics[metric].title)} `
      + `${escaped(quality(metric, best.mean))}${present(best.low) ? escaped(`, 95 % interval ${quality(metric, best.low)} to ${quality(metric, best.high)}, n = ${best.n}`) : ", one seed"}`
      + `, in ${escaped(bytes(best.bytes))}${present(best.share) ? escaped(` (${percent(best.share)} of the full table)`) : ""}.`;
  };
  at("bytes").oninput = advise;
  advise();
}

// --- cards ---------------------------------------------------------------------------------------------------------------------

function showCard(id) {
  const run = data.prunings[id];
  const mine = places.find((place) => place.run === id);
  if (!run || !mine) return;
  const alike = places.filter((place) => ["grid", "dataset", "model", "method", "cr"].every((key) => place[key] === mine[key]));
  const search = data.searches[run.search];
  const machine = data.machines[search.machine];
  const rate = mine.cr === 1 ? "" : ` (CR = ${mine.cr})`;
  const body = at("card-body");
  const heading = `${titleOf("methods", mine.method, mine.grid)}${rate}: ${titleOf("models", mine.model, mine.grid)}, ${datasetTitle(mine)}`;
  const facts = [
    ["Run", `${id} (search ${run.search})`],
    ["Seed", mine.seed],
    ["Failed", mine.failed ?? search.failed],
    ["Differs from the study", listed({ ...search.differs, ...run.tuned })],
    ["Trials", `${search.trials.length}, chosen: ${search.trials[search.chosen]?.[0] ?? "none"}`],
    ["Best epoch", search.chosen === null ? null : `${search.trials[search.chosen][2]} of ${search.trials[search.chosen][3]}, stopped by ${search.trials[search.chosen][4]}`],
    ["After pruning", run.rounds?.map(([cr, , best, epochs]) => `trained to CR ${cr}, best epoch ${best} of ${epochs}`).join("; ")],
    ["Took", `${grouped(search.seconds)} s${search.alone ? "" : " (not measured alone)"}, ${grouped(search.peak_memory_mib)} MiB`],
    ["Machine", `${machine.device}, ${machine.cores ? `${machine.cores} cores, ` : ""}${machine.threads} thread(s), ${machine.system}`],
    ["Versions", `Python ${machine.python}, ${Object.entries(machine.packages).map((pair) => pair.join(" ")).join(", ")}`],
    ["Code", `core ${search.code}, commit ${search.commit ?? "unknown"}, ${search.time}`],
  ];
  const list = element("dl");
  for (const [name, value] of facts) {
    if (present(value) && value !== "") list.append(element("dt", name), element("dd", value));
  }
  body.replaceChildren(element("h2", heading, { id: "card-title" }), list, element("h3", "Seeds"), seeds(alike, id),
    element("h3", "Validation loss by epoch"), element("div", null, { id: "curve", class: "chart" }),
    element("h3", "The command that repeats it"),
    element("pre", `snakemake --cores all ${run.run}/run.json`));
  if (!at("card").open) at("card").showModal();
  at("card").scrollTop = 0;
  draw("curve", data.charts.curve, alike.flatMap((place) =>
    (data.searches[data.prunings[place.run]?.search]?.losses ?? []).map((loss, i) => ({ seed: place.seed, epoch: i + 1, loss }))));
}

function listed(settings) {
  const entries = Object.entries(settings);
  return entries.length ? entries.map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join(", ") : "in nothing";
}

function seeds(alike, id) {
  const metrics = Object.keys(data.metrics).filter((metric) => alike.some((place) => present(place.values[metric])));
  const shown = (metric, value) => !present(value) ? "–" : data.metrics[metric].cost ? Number(value.toPrecision(5)).toLocaleString("en-US") : quality(metric, value);
  const made = element("table");
  const head = element("tr");
  head.append(...["Seed", "Run", ...metrics.map((metric) => data.metrics[metric].title)].map((text) => element("th", text)));
  made.append(head);
  for (const place of alike) {
    const row = element("tr", null, place.run === id ? { class: "chosen" } : {});
    const cell = element("td");
    cell.append(element("a", place.run, { href: `#run-${place.run}` }));
    row.append(element("td", place.seed), cell, ...metrics.map((metric) => element("td", shown(metric, place.values[metric]), { class: "right" })));
    made.append(row);
  }
  const wide = element("div", null, { class: "wide" });
  wide.append(made);
  return wide;
}

function follow() {
  const id = location.hash.match(/^#run-([0-9a-f]+)$/)?.[1];
  if (id) showCard(id);
}

at("card").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
window.addEventListener("hashchange", follow);

// --- the page ------------------------------------------------------------------------------------------------------------------

for (const id of ["pick-dataset", "pick-model", "pick-metric"]) at(id).addEventListener("change", choose);
at("choice").addEventListener("submit", (event) => event.preventDefault());
at("find").addEventListener("input", () => table?.search(at("find").value).draw());

function dress() {
  document.documentElement.classList.toggle("dark", dark.matches);
  choose();
}
dark.addEventListener("change", dress);
narrow.addEventListener("change", choose);
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const one of closed) one.open = true;
});
window.addEventListener("afterprint", () => {
  for (const one of closed) one.open = false;
});
dress();
follow();
document.documentElement.dataset.ready = "yes";
