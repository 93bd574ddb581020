// What stands below the matrix: sources with their intervals, curves, reward models, the frontier, controls, measures.

// Sections that are on the page: [id, title, whether there is anything, draw(box), one sentence].
const SECTIONS = [
  ["matrix", "The matrix", () => data.panels.length > 0, matrixSection, ""], // still.py has its words
  ["sources", "Which source for which target", () => data.panels.length > 0, sourcesSection,
    "Every source of a target, best first, with its 95 % interval. Intervals that overlap are no verdict: differences are paired, and tied sources are those that cannot be told from the best."],
  ["curves", "Best of k", () => data.panels.some((one) => one.curves), curvesSection,
    "Expected win rate of the best of k samples, over all k-subsets of the pool, with 95 % bands for the target's own language and for the best source. Thin lines: the other sources."],
  ["learning", "Learning curves", () => data.learning.length > 0, learningSection,
    "On validation prompts while policies were trained: means over cells and seeds, bands from the least to the greatest of them."],
  ["frontier", "How far, and what it buys", () => data.frontiers.length > 0, frontierSection,
    "KL from the policy before alignment against what it brought, means over the cells that all optimizers have. Best-of-k: at most this far. Where the reward rises and the judge's score falls, the reward is over-optimised."],
  ["rewards", "Reward models", () => anyTable("rewards"), tablesSection("rewards"),
    "What a reward model itself is worth: on the target's held-out preferences, before anything is aligned with it."],
  ["across", "Panels compared", () => data.across.length > 0, acrossSection, "Optimizers and judges side by side, on the same prompts against the same baseline."],
  ["controls", "Controls", () => anyTable("controls"), tablesSection("controls"),
    "What scores without a lesson win: a win rate proves transfer only against them. Shuffled labels: reward models trained on permuted labels, as a null band."],
  ["measures", "Beside the win rates", () => anyTable("measures") || anyTable("judges"), measuresSection, "Did it win by length, by leaving the language, by not ending?"],
  ["findings", "Findings", () => data.findings.length > 0, findingsSection, "Analyses of this grid, with what was left out of each."],
  ["samples", "Samples", () => data.samples.panel.length > 0 || data.samples.left_out.length > 0, samplesSection, ""],
  ["costs", "Costs", () => data.origin !== null, costsSection, "Time of the stages of this grid, whichever grid had them made."],
  ["provenance", "Provenance", () => data.origin !== null, provenanceSection, "What it takes to have the same numbers again."],
];

const FEW = 30; // rows up to which a finding stands open

const anyTable = (name) => data.panels.some((one) => (one.tables[name] || []).length > 0);
const empty = (text) => el("p", { class: "quiet" }, text);

function tablesSection(name) {
  return (box) => {
    const tables = panel().tables[name] || [];
    if (!tables.length) put(box, empty("None for this panel."));
    for (const table of tables) put(box, figureOf(table));
  };
}

function measuresSection(box) {
  for (const name of ["judges", "measures"]) for (const table of panel().tables[name] || []) put(box, figureOf(table));
  if (!box.children.length) put(box, empty("None for this panel."));
}

function acrossSection(box) {
  for (const table of data.across) put(box, figureOf(table));
}

// --- sources -------------------------------------------------------------------------------------------------

const ROW = 17, MOST_ROWS = 14; // pixels; sources of a target, beyond which the first of them and home are shown

function sourcesSection(box) {
  const table = tableOf("win_rate");
  const targets = shownTargets();
  const cells = targets.map((t) => shownSources().map((s) => ({ ...cellOf(table, s, t), s, t })).filter((c) => c.value !== null));
  const range = reach(cells.flat().flatMap((c) => [c.value, c.low, c.high]));
  const figures = targets.map((t, n) => (cells[n].length ? forest(t, firstOf(cells[n].sort((a, b) => b.value - a.value)), range) : null));
  put(box, el("div", { class: "small" }, figures),
    el("ul", { class: "key" }, el("li", {}, el("span", { class: "mark" }, "◆"), " home"),
      el("li", {}, el("span", { class: "mark" }, "●"), " best, or tied with it"), el("li", {}, el("span", { class: "mark" }, "○"), " settled below the best"),
      range[0] < 50 ? el("li", {}, "line: 50 %") : null));
  if (shownSources().length > MOST_ROWS) put(box, empty(`The best ${MOST_ROWS - 2} of ${shownSources().length} sources, and home; the map has all of them.`));
}

function firstOf(cells) {
  return cells.length > MOST_ROWS ? cells.filter((cell, n) => n < MOST_ROWS - 2 || cell.home) : cells;
}

function forest(target, cells, range) {
  const width = SIZE.width, left = 62, right = 44, height = cells.length * ROW + 26;
  const x = linear(range, left, width - right);
  const name = panel().targets[target];
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart",
    "aria-label": `Win rates of the sources of ${named(name)}: ` + cells.map((c) => `${panel().sources[c.s]} ${c.text}`).join(", ") });
  for (const value of ticks(range[0], range[1], 4)) {
    drawn.append(svg("line", { class: "gridline", x1: x(value), x2: x(value), y1: 4, y2: height - 22 }),
      svg("text", { class: "tick", x: x(value), y: height - 8, "text-anchor": "middle" }, label(value)));
  }
  if (range[0] < 50 && range[1] > 50) drawn.append(svg("line", { class: "rule", x1: x(50), x2: x(50), y1: 0, y2: height - 22 }));
  cells.forEach((cell, n) => {
    const y = n * ROW + 13, tied = /[▲△]/.test(cell.marks);
    const row = svg("g", { class: "dots " + (cell.home ? "c1" : "c0") });
    if (cell.low !== null) row.append(svg("line", { class: "bar", x1: x(cell.low), x2: x(cell.high), y1: y, y2: y }));
    const dot = cell.home ? marker(3, x(cell.value), y) : marker(0, x(cell.value), y);
    if (!tied) dot.classList.add("hollow");
    row.append(dot,
      svg("text", { class: "source", x: left - 8, y: y + 4, "text-anchor": "end" }, panel().sources[cell.s]),
      svg("text", { class: "amount", x: width, y: y + 4, "text-anchor": "end" }, cell.text + cell.numbered));
    drawn.append(row);
  });
  return el("figure", { class: "drawing" }, el("figcaption", {}, el("strong", {}, "policy in ", language(name)), el("span", { class: "yaxis" }, "win rate, %")), drawn);
}

// --- curves --------------------------------------------------------------------------------------------------

function curvesSection(box) {
  const one = panel();
  if (!one.curves) { put(box, empty("This panel's policies were trained: there is nothing to pick from.")); return; }
  const sources = new Set(shownSources());
  const cells = one.curves.cells.filter((cell) => sources.has(cell[0]));
  const byTarget = shownTargets().map((t) => [t, curveSeries(one, cells.filter((cell) => cell[1] === t), t)]);
  const points = byTarget.flatMap(([, series]) => series.flatMap((line) => line.points.flatMap((p) => (line.band ? [p.y, p.low, p.high] : [p.y]))));
  const yReach = reach(points, [50]);
  put(box, el("div", { class: "small" }, byTarget.map(([t, series]) => {
    return series.length ? chartFigure({ title: ["policy in ", language(one.targets[t])], about: `Best-of-k win rates, policy in ${named(one.targets[t])}`,
      x: { label: "k", log: true, ticks: doublings(one.curves.k) }, y: { label: "win rate, %", reach: yReach, rule: 50 }, series }) : null;
  })), chartKey([{ name: "the target's own language", look: 1 }, { name: "best source", look: 2 }, { name: "other sources", look: "thin" }]));
}

function curveSeries(one, cells, target) {
  const last = (cell) => cell[2][cell[2].length - 1];
  const best = cells.reduce((top, cell) => (top && last(top) >= last(cell) ? top : cell), null);
  return cells.map((cell) => {
    const source = one.sources[cell[0]], home = source === one.targets[target];
    const look = home ? 1 : cell === best ? 2 : "thin";
    const points = cell[2].map((y, n) => ({ x: one.curves.k[n], y, low: cell[3][n], high: cell[4][n] }));
    return { name: source, look, points, band: look !== "thin", label: look === "thin" ? "" : source };
  });
}

function learningSection(box) {
  const looks = new Map(data.learning.map((one, n) => [one.panel, n + 1]));
  const charts = data.learning_names.map(([name, title]) => {
    const series = data.learning.filter((one) => one.lines[name]).map((one) => {
      const line = one.lines[name];
      const points = line.steps.map((x, n) => ({ x, y: line.mean[n], low: line.least[n], high: line.greatest[n] }));
      return { name: shortName(one.panel), look: looks.get(one.panel), points, band: one.panel === state.panel || data.learning.length === 1 };
    });
    return series.length ? chartFigure({ title, about: `${title} over training steps`, x: { label: "step" }, y: { label: "" }, series }) : null;
  });
  put(box, el("div", { class: "small" }, charts), chartKey(data.learning.map((one) => ({ name: shortName(one.panel), look: looks.get(one.panel) }))),
    el("p", { class: "quiet" }, `${data.learning.map((one) => `${shortName(one.panel)}: ${one.policies} policies`).join("; ")}. The band is that of the panel that is shown above.`));
}

// --- the frontier --------------------------------------------------------------------------------------------

function frontierSection(box) {
  for (const frontier of data.frontiers) {
    const arms = [...new Set(frontier.points.map((point) => point.arm.split(" ")[0]))];
    const left = frontier.points.some((point) => point.quality) ? "quality" : "win";
    const titles = data.measures;
    const charts = [left, "reward"].map((name) => {
      const series = arms.map((arm, look) => ({ name: arm, look, bars: true, points: frontier.points
        .filter((point) => point.arm.split(" ")[0] === arm && point[name])
        .sort((a, b) => a.kl[0] - b.kl[0]).map((point) => frontierPoint(point, name)) })).filter((one) => one.points.length);
      return series.length ? chartFigure({ title: titles[name], about: `${titles[name]} against KL`, x: { label: titles.kl },
        y: { label: "", rule: name === "win" ? 50 : 0 }, series, width: 500 }) : null;
    });
    put(box, el("h3", {}, frontier.title), el("p", { class: "quiet" }, `Means over ${frontier.cells} cells.`),
      el("div", { class: "small two" }, charts), chartKey(arms.map((name, look) => ({ name, look }))));
  }
}

function frontierPoint(point, name) {
  const [x, left, right] = point.kl, [y, low, high] = point[name];
  const note = point.k ? `k=${point.k}` : point.arm.split(" ").slice(1).join(" ");
  return { x, y, low, high, left, right, note };
}

// --- findings ------------------------------------------------------------------------------------------------

function findingsSection(box) {
  for (const finding of data.findings.filter((one) => one.tables.length)) {
    const rows = finding.tables.reduce((sum, table) => sum + table.rows.length, 0);
    const draw = () => el("div", { class: "flow" }, finding.tables.map((table) => el("figure", { class: "table" },
      table.title ? el("figcaption", { class: "quiet", "aria-hidden": "true" }, table.title) : null, drawTable(table, { title: table.title || finding.title }))));
    put(box, el("article", { class: "finding", id: "finding-" + finding.name }, el("h3", {}, finding.title),
      rows > FEW ? lazyDetails(`${rows} rows`, draw) : draw(), notes(finding.notes)));
  }
  const none = data.findings.filter((one) => !one.tables.length);
  if (none.length) put(box, empty("Nothing in this grid on:"), notes(none.map((one) => [one.title, ...one.left_out].join(": "))));
}
