// The matrix: a heat map of any measure, walked with the arrow keys, and a card that tells all about one cell.

const BESIDE = 9; // columns up to which the card stands beside the map

function matrixSection(box) {
  const maps = panel().tables.maps;
  state.map = Math.min(state.map, maps.length - 1);
  const plain = maps[state.map], spreads = plain.scale && plain.scale.middle === 50;
  const table = spreads && state.spread ? { ...plain, scale: spreadOf(plain) } : plain;
  const choose = (number) => { state.map = number; drawSection("matrix"); focusTab("map", number); };
  const corner = ["reward model ↓", el("br"), "policy →"];
  const all = { columns: table.columns.map((_, n) => n), rows: table.rows.map((_, n) => n), wide: leftColumns(table).length <= DENSE };
  const map = drawTable(table, { ...all, corner, title: table.title + suffix() }), element = map.querySelector("table");
  element.setAttribute("aria-describedby", "map-keys");
  remember(element);
  fitTable(element, table);
  const card = el("aside", { id: "card", class: "card", "aria-live": "polite" });
  put(box,
    el("div", { class: "choices" }, tabs("Measure", "map", maps.map(mapName), state.map, choose),
      spreads ? tabs("Colours", "spread", ["around 50", "over the range"], Number(state.spread), (on) => {
        state.spread = Boolean(on);
        drawSection("matrix");
        focusTab("spread", on);
      }) : null),
    el("div", { class: "explorer" + (table.columns.length > BESIDE ? " wide" : "") },
      el("div", {},
        el("figure", { class: "table" }, el("div", { class: "head" }, titleOf(table.title + suffix()), takeAway(element, table)),
          aboutOf(table), map, legend(table), notes(table.notes),
          el("p", { id: "map-keys", class: "quiet hint" }, "Click a cell, or walk with the arrow keys, for all that is known of it.")),
        el("div", { class: "verdicts" }, countList(panel()), panel().verdicts.map((text) => el("p", {}, text)))),
      card));
  walkable(element);
  drawCard(card);
}

// The matrix that is drawn, by the filter; false where it has to be drawn anew.
function fitMatrix() {
  const element = byId("matrix").querySelector(".explorer table"), table = panel().tables.maps[state.map];
  if (!element || !whole.has(element) || !fitTable(element, table)) return false;
  if (!element.querySelector("td[tabindex='0']")) element.querySelector("td[data-source]")?.setAttribute("tabindex", "0");
  return true;
}

// A scale from the least to the greatest of what sources and targets have.
function spreadOf(table) {
  const values = [];
  for (let s = 0; s < table.sources; s++) for (let t = 0; t < table.targets; t++) values.push(cellOf(table, s, t).value);
  const there = values.filter((value) => value !== null);
  return { low: Math.min(...there), high: Math.max(...there) };
}

const suffix = () => (data.panels.length > 1 ? ": " + shortName(state.panel) : "");

// What a table is called on its tab and in the card.
const mapName = (table) => table.tab || table.title;

function countList(one) {
  return one.counts.length ? el("dl", { class: "counts" }, one.counts.map(([k, of, text]) =>
    el("div", {}, el("dt", {}, `${k}/${of}`), el("dd", {}, text)))) : null;
}

// --- walking ---------------------------------------------------------------------------------------------

function walkable(table) {
  table.setAttribute("role", "grid");
  const cells = [...table.querySelectorAll("td[data-source]")];
  for (const td of cells) td.tabIndex = -1;
  const first = cells.find((td) => isChosen(td)) || cells[0];
  if (first) first.tabIndex = 0;
  if (first && isChosen(first)) first.setAttribute("aria-selected", "true");
  table.addEventListener("click", (event) => chooseCell(event.target.closest("td[data-source]")));
  table.addEventListener("focusin", (event) => chooseCell(event.target.closest("td[data-source]")));
  table.addEventListener("keydown", (event) => {
    const td = event.target.closest("td[data-source]");
    if (!td || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter") showSamplesOf(panel().sources[td.dataset.source], panel().targets[td.dataset.target]);
    const next = neighbour(td, event.key);
    if (next) next.focus();
    if (next || event.key === "Enter") event.preventDefault();
  });
}

function neighbour(td, key) {
  const row = td.parentElement, place = [...row.children].indexOf(td);
  const inRow = { ArrowLeft: place - 1, ArrowRight: place + 1 }[key];
  const found = inRow !== undefined ? row.children[inRow]
    : { ArrowUp: row.previousElementSibling, ArrowDown: row.nextElementSibling }[key]?.children[place];
  return found && found.dataset.source !== undefined ? found : null;
}

const isChosen = (td) => state.cell && td.dataset.source === String(state.cell[0]) && td.dataset.target === String(state.cell[1]);

// What the card shows before anybody chooses: the highest win rate.
function firstCell() {
  const table = tableOf("win_rate"), best = { value: -Infinity, at: null };
  for (let s = 0; s < table.sources; s++) for (let t = 0; t < table.targets; t++) {
    const { value } = cellOf(table, s, t);
    if (value !== null && value > best.value) Object.assign(best, { value, at: [s, t] });
  }
  return best.at;
}

function chooseCell(td) {
  if (!td) return;
  for (const old of byId("matrix").querySelectorAll("td[aria-selected=true]")) {
    old.removeAttribute("aria-selected");
    old.tabIndex = -1;
  }
  td.setAttribute("aria-selected", "true");
  td.tabIndex = 0;
  state.cell = [Number(td.dataset.source), Number(td.dataset.target)];
  drawCard(byId("card"));
}

// --- the card --------------------------------------------------------------------------------------------

function drawCard(card) {
  card.replaceChildren();
  if (!state.cell) {
    put(card, el("p", { class: "quiet" }, "Choose a cell of the matrix, for all that is known of it."));
    return;
  }
  const one = panel(), [s, t] = state.cell;
  if (s >= one.sources.length || t >= one.targets.length) return;
  const source = one.sources[s], target = one.targets[t], at = s * one.targets.length + t;
  put(card, el("h3", {}, language(source), " → ", language(target)),
    el("p", { class: "quiet" }, `Reward model trained in ${named(source)}, policy in ${named(target)}.`));
  if (one.reasons[at]) put(card, el("p", { class: "reason" }, one.reasons[at]));
  const rows = [];
  for (const table of [...one.tables.maps, ...one.tables.rewards]) {
    if (table.sources <= s || table.targets <= t) continue;
    const cell = cellOf(table, s, t);
    if (cell.value === null && !/\d/.test(cell.text)) continue;
    rows.push(el("tr", {}, el("th", { scope: "row", title: table.about || null }, mapName(table)),
      el("td", {}, cell.text + cell.marks.replace(HOME, "") + cell.numbered), el("td", { class: "span" }, cell.span)));
  }
  if (rows.length) put(card, el("table", { class: "plain" }, el("caption", { class: "unseen" }, `${source} to ${target}`), el("tbody", {}, rows)));
  const needs = one.needs[at];
  if (needs) put(card, el("p", { class: "quiet" }, needs === "settled" ? "Its difference to home is settled."
    : needs === "identical" ? "It is equal to home on every prompt." : needs === "level" ? "Its win rate is level with home's."
    : needs === "no interval" ? "Its difference to home has no interval: there is a single document."
    : `Would settle its difference to home with 80 % power: ${needs}${/prompt/.test(needs) ? " a target" : ""}.`));
  put(card, miniCurve(one, s, t));
  if (samplesOf(source, target).length) {
    put(card, el("button", { type: "button", onclick: () => showSamplesOf(source, target) }, "Read its samples"));
  }
}

// Best-of-k of this cell.
function miniCurve(one, s, t) {
  const found = one.curves && one.curves.cells.find((cell) => cell[0] === s && cell[1] === t);
  if (!found) return "";
  const points = found[2].map((y, n) => ({ x: one.curves.k[n], y, low: found[3][n], high: found[4][n] }));
  return lineChart({ about: "Best-of-k win rate of this cell", x: { label: "k of best-of-k", log: true, ticks: doublings(one.curves.k) },
    y: { label: "win rate, %", rule: 50 }, series: [{ name: "win rate", look: 1, points, band: true }] });
}

const doublings = (ks) => ks.filter((k) => Number.isInteger(Math.log2(k)));
