// Tables of the report: the texts that the terminal prints, colours on them, full numbers in data attributes.

const DENSE = 14; // columns beyond which a heat map shows numbers alone; its intervals stand in the card
const HOME = "◆";
const MARKS = { "◆": "home", "▲": "best source of its column", "△": "tied with the best", "*": "settled" };

// A table of the shown panel by its name: titles are for people.
const tableOf = (name) => Object.values(panel().tables).flat().find((one) => one.name === name);

// Columns and rows of a table that the filter leaves. Means and controls stay.
function leftColumns(table) {
  const targets = new Set(shownTargets());
  return table.columns.map((_, n) => n).filter((n) => n >= table.targets || targets.has(n));
}

function leftRows(table) {
  const sources = new Set(shownSources());
  return table.rows.map((_, n) => n).filter((n) => n >= table.sources || sources.has(n));
}

// Where a number lies on a scale: [class, 0..1].
function shade(scale, value) {
  if (!scale || value === null || value === undefined) return null;
  if (scale.reach !== undefined) {
    const off = (value - scale.middle) / scale.reach;
    return [off < 0 ? "lo" : "hi", Math.min(1, Math.abs(off))];
  }
  return ["seq", Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low || 1)))];
}

// Home before the number, other marks behind it: small, and read out by their meaning.
function withMarks(cell) {
  const mark = (sign) => el("span", { class: "mark", role: "img", "aria-label": MARKS[sign] }, sign);
  const signs = [...cell.marks];
  return [signs.filter((sign) => sign === HOME).map(mark), cell.text ? el("span", { class: "number" }, cell.text) : null,
    signs.filter((sign) => sign !== HOME).map(mark), cell.numbered ? el("sup", {}, cell.numbered) : null];
}

function cellOf(table, row, column) {
  const at = row * table.columns.length + column;
  const look = table.look[at], number = (name) => (table[name] ? table[name][at] : null);
  return { text: table.text[at], marks: number("marks") || "", numbered: number("numbered") || "", span: table.span[at], value: number("value"), low: number("low"), high: number("high"),
    home: look !== look.toLowerCase(), look: look.toLowerCase() };
}

function tableCell(table, row, column, dense) {
  const cell = cellOf(table, row, column), td = document.createElement("td");
  const classes = [cell.home ? "home" : "", cell.look === "h" ? "hole" : ""];
  const shaded = shade(table.scale, cell.value);
  if (shaded) {
    classes.push(shaded[0]);
    td.style.setProperty("--x", shaded[1].toFixed(3));
  } else if (cell.look === "q") classes.push("faint");
  if (!cell.text && !cell.marks) classes.push("nothing");
  if (column === table.targets && table.targets) classes.push("aside");
  td.className = classes.filter(Boolean).join(" ");
  if (row < table.sources && column < table.targets) {
    td.dataset.source = row;
    td.dataset.target = column;
  }
  for (const name of ["value", "low", "high"]) if (cell[name] !== null) td.dataset[name] = cell[name];
  put(td, withMarks(cell), dense || !cell.span ? null : el("span", { class: "span" }, cell.span));
  if (dense && cell.span) td.title = cell.span;
  return td;
}

// options: columns, rows: which; corner: words at the top left; title: in place of its own; wide: never dense
function drawTable(table, options = {}) {
  const columns = options.columns || leftColumns(table), rows = options.rows || leftRows(table);
  const dense = !options.wide && columns.length > DENSE;
  const head = columns.map((n) => el("th", { scope: "col", class: n && n === table.targets ? "aside" : null }, headOf(table.columns[n], n < table.targets)));
  const body = document.createElement("tbody");
  for (const n of rows) {
    const cells = columns.map((column) => tableCell(table, n, column, dense));
    const th = el("th", { scope: "row" }, headOf(table.rows[n], n < table.sources));
    body.append(el("tr", { class: table.breaks.includes(n) ? "break" : null }, th, cells));
  }
  const kind = [table.scale ? "heat" : "plain", dense ? "dense" : ""].join(" ").trim();
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": table.title },
    el("table", { class: kind, vars: { columns: columns.length } }, el("caption", { class: "unseen" }, options.title || table.title),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "corner" }, options.corner ?? table.corner), head)),
      body));
}

function headOf(label, code) {
  const plain = label.replace(/†$/, "");
  return code && data.languages[plain] ? [language(plain), label.slice(plain.length)] : label;
}

// A drawn table of all rows and columns, as the filter leaves it: what it hides is taken out and what it shows put back,
// since to make a thousand cells anew takes longer than a click may. False where it would look otherwise.
const whole = new WeakMap(); // table element -> its head and lines, all of them, with their cells
function fitTable(element, table) {
  const columns = new Set(leftColumns(table)), rows = new Set(leftRows(table));
  if (element.classList.contains("dense") !== columns.size > DENSE) return false;
  const { lines, body, top } = whole.get(element);
  for (const { line, cells } of [top, ...lines]) keep(line, cells, columns);
  keep(body, lines.map(({ line }) => line), rows);
  element.style.setProperty("--columns", columns.size);
  return true;
}

function keep(parent, nodes, wanted) {
  let next = null;
  for (let n = nodes.length - 1; n >= 0; n--) {
    const node = nodes[n], there = node.parentNode === parent;
    if (!wanted.has(n)) { if (there) node.remove(); continue; }
    if (!there) parent.insertBefore(node, next);
    next = node;
  }
}

function remember(element) {
  const parts = (line) => ({ line, cells: [...line.children].slice(1) }), body = element.tBodies[0];
  whole.set(element, { top: parts(element.tHead.rows[0]), lines: [...body.rows].map(parts), body });
}

// What a table is called, above it; screen readers have its caption.
const titleOf = (text) => el("figcaption", { class: "title", "aria-hidden": "true" }, text);

// A table and its notes.
const figureOf = (table, options) => el("figure", { class: "table" }, titleOf(table.title), aboutOf(table), drawTable(table, options), notes(table.notes));
const aboutOf = (table) => (table.about ? el("p", { class: "about" }, table.about) : null);

// In groups of columns that fit on paper.
const PAPER = 10, SHORT = 14; // columns; rows that are not torn apart
function paperTables(table) {
  const every = table.columns.map((_, n) => n);
  const groups = [];
  for (let start = 0; start < every.length; start += PAPER) groups.push(every.slice(start, start + PAPER));
  const rows = table.rows.map((_, n) => n);
  return el("figure", { class: "table" + (rows.length <= SHORT ? " short" : "") }, titleOf(table.title), aboutOf(table),
    groups.map((columns) => drawTable(table, { columns, rows, wide: true })), notes(table.notes));
}

function legend(table) {
  const scale = table.scale;
  if (!scale) return null;
  const words = (value) => value.toFixed(Math.abs(scale.reach ?? scale.high - scale.low) < 5 ? 2 : 0);
  const ends = scale.reach !== undefined
    ? [scale.middle - scale.reach, scale.middle, scale.middle + scale.reach] : [scale.low, scale.high];
  const signs = Object.keys(MARKS).filter((sign) => (table.marks || []).some((marks) => marks.includes(sign)));
  const holes = [...table.look].some((look, at) => look.toLowerCase() === "h" && table.text[at]);
  return el("div", { class: "legend" },
    el("div", { class: "ramp " + (scale.reach !== undefined ? "both" : "one") },
      el("span", { class: "colours", "aria-hidden": "true" }),
      el("span", { class: "ends" }, ends.map((end) => el("span", {}, words(end))))),
    el("ul", {}, signs.map((sign) => el("li", {}, el("span", { class: "mark" }, sign), " " + MARKS[sign])),
      signs.includes("◆") ? null : el("li", {}, el("span", { class: "outline" }), " home: the same language"),
      holes ? el("li", {}, el("span", { class: "outline hatched" }), " no result: the reason is below") : null));
}
