// The page: what is chosen at the top, sections drawn when they come into view, keys, and paper.

const drawn = new Set(); // ids of sections that have been drawn for what is chosen now
let watcher = null;

function drawSection(id) {
  const [, , , draw] = SECTIONS.find((section) => section[0] === id);
  const box = byId(id).querySelector(".body");
  box.replaceChildren();
  draw(box);
  drawn.add(id);
}

// What is in view, now; the rest when it comes near, in a pause, so that a click is answered first.
function refresh(fitted) {
  drawn.clear();
  for (const section of document.querySelectorAll("main > section")) {
    const { top, bottom } = section.getBoundingClientRect();
    if (fitted && section.id === "matrix") drawn.add("matrix");
    else if (top < innerHeight && bottom > 0) drawSection(section.id);
    watcher.unobserve(section);
    watcher.observe(section);
  }
}

const whenIdle = (task) => (window.requestIdleCallback ? requestIdleCallback(task, { timeout: 150 }) : setTimeout(task));

function drawNear(seen) {
  for (const { isIntersecting, target: { id } } of seen) {
    if (isIntersecting && !drawn.has(id)) whenIdle(() => { if (!drawn.has(id)) drawSection(id); });
  }
}

const drawAll = () => SECTIONS.forEach(([id, , there]) => { if (there() && !drawn.has(id)) drawSection(id); });

// --- what is shown -----------------------------------------------------------------------------------------

function choosePanel(number) {
  const [oldSources, oldTargets] = [panel().sources, panel().targets];
  state.panel = number;
  state.sources = kept(state.sources, oldSources, panel().sources);
  state.targets = kept(state.targets, oldTargets, panel().targets);
  drawBar();
  refresh();
  say("Shown: " + shortName(number));
}

// What was filtered stays filtered; languages that the last panel had not are shown.
const kept = (chosen, before, now) => new Set(now.filter((code) => chosen.has(code) || !before.includes(code)));

// The panel with this value on this axis that differs least on the others.
function chooseAxis(axis, value) {
  const current = panel().axes, same = (one) => Object.keys(current).filter((name) => one.axes[name] === current[name]).length;
  const fitting = data.panels.map((one, n) => n).filter((n) => (data.panels[n].axes[axis] || "") === value);
  choosePanel(fitting.reduce((best, n) => (same(data.panels[n]) > same(data.panels[best]) ? n : best), fitting[0]));
}

function drawBar() {
  const pickers = axesApart().map((axis) => {
    const values = [...new Set(data.panels.map((one) => one.axes[axis] || ""))], now = panel().axes[axis] || "";
    const words = values.map((value) => value || "none");
    return values.length <= 6 ? tabs(axis, "axis-" + axis.replace(/\W/g, "-"), words, values.indexOf(now), (n) => { chooseAxis(axis, values[n]); focusTab("axis-" + axis.replace(/\W/g, "-"), n); })
      : picker(axis, values.map((value, n) => [value, words[n]]), now, (value) => chooseAxis(axis, value));
  });
  byId("bar").replaceChildren(...pickers, languageFilter("sources", panel().sources), languageFilter("targets", panel().targets),
    el("button", { type: "button", id: "keys", class: "plain", onclick: help }, "Keys ", el("kbd", {}, "?")));
}

function languageFilter(name, codes) {
  const count = () => (state[name].size === codes.length ? "all " + codes.length : `${state[name].size} of ${codes.length}`);
  const summary = el("summary", {}, name + ": ", el("b", {}, count()));
  const change = () => { summary.lastChild.textContent = count(); refresh(fitMatrix()); };
  const box = (code) => {
    const input = el("input", { type: "checkbox", value: code, onchange: () => {
      if (input.checked) state[name].add(code); else state[name].delete(code);
      change();
    } });
    input.checked = state[name].has(code);
    return el("label", {}, input, " ", language(code));
  };
  const all = (on) => () => { state[name] = new Set(on ? codes : []); fieldset.querySelectorAll("input").forEach((input) => { input.checked = on; }); change(); };
  const fieldset = el("fieldset", { class: "languages" }, el("legend", { class: "unseen" }, "Shown " + name), codes.map(box),
    el("button", { type: "button", onclick: all(true) }, "all"), el("button", { type: "button", onclick: all(false) }, "none"));
  return el("details", { class: "filter", id: "filter-" + name }, summary, fieldset);
}

function focusTab(name, number) {
  const input = byId(name + "-" + number);
  if (input) input.focus();
}

// --- keys --------------------------------------------------------------------------------------------------

const KEYS = [["↑ ↓ ← →", "walk through the matrix; Enter: the samples of a cell"], ["m, M", "next and previous measure"],
  ["p, P", "next and previous panel"], ["/", "search the samples"], ["Esc", "leave the search, close this"], ["?", "these keys"]];

function help() {
  const dialog = byId("help");
  dialog.replaceChildren(el("h2", { id: "help-title" }, "Keys"),
    el("dl", { class: "keys" }, KEYS.map(([key, text]) => el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, text)))),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  dialog.showModal();
}

function turn(name, by, count, choose) {
  if (count > 1) choose((state[name] + by + count) % count);
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || byId("help").open) return;
  const field = event.target.closest("input[type=search], select");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  const maps = (number) => { state.map = number; drawSection("matrix"); say(panel().tables.maps[number].title); };
  if (event.key === "/") { drawSection("samples"); byId("samples").scrollIntoView(); byId("search").focus(); }
  else if (event.key === "m") turn("map", 1, panel().tables.maps.length, maps);
  else if (event.key === "M") turn("map", -1, panel().tables.maps.length, maps);
  else if (event.key === "p") turn("panel", 1, data.panels.length, choosePanel);
  else if (event.key === "P") turn("panel", -1, data.panels.length, choosePanel);
  else if (event.key === "?") help();
  else return;
  event.preventDefault();
}

// --- paper -------------------------------------------------------------------------------------------------

// On paper all panels are there with all their tables, in groups of columns that fit, and everything is open.
function toPaper() {
  drawAll();
  for (const details of document.querySelectorAll("main details:not(.filter, .numbers)")) {
    details.open = true;
    details.dispatchEvent(new Event("toggle"));
  }
  data.panels.forEach((one, number) => {
    for (const [id, names] of [["matrix", ["maps"]], ["rewards", ["rewards"]], ["controls", ["controls"]]]) {
      const box = byId(id);
      if (!box) continue;
      const tables = names.flatMap((name) => one.tables[name] || []);
      const [first, ...rest] = tables.map(paperTables); // the matrix on the first page
      const words = id === "matrix" ? [legend(tables[0]), countList(one), one.verdicts.map((text) => el("p", {}, text))] : null;
      const title = data.panels.length > 1 ? el("h3", {}, one.title) : null;
      if (tables.length) put(box, el("div", { class: "paper" }, title, first, words, rest));
    }
  });
}

function fromPaper() {
  for (const box of document.querySelectorAll(".paper")) box.remove();
}

// --- start -------------------------------------------------------------------------------------------------

function start() {
  data = JSON.parse(byId("data").textContent);
  if (data.panels.length) {
    state.sources = new Set(panel().sources);
    state.targets = new Set(panel().targets);
    state.cell = firstCell();
    drawBar();
  } else byId("bar").remove();
  watcher = new IntersectionObserver(drawNear, { rootMargin: "600px" });
  for (const [id, title, there, , about] of SECTIONS) {
    if (!there() || (!data.panels.length && !["costs", "provenance"].includes(id))) continue;
    if (!byId(id)) byId("main").append(el("section", { id, "aria-labelledby": id + "-title" }, el("h2", { id: id + "-title" }, title),
      about ? el("p", { class: "intro" }, about) : null, el("div", { class: "body" })));
    byId("contents").append(el("a", { href: "#" + id }, title));
  }
  for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
  document.addEventListener("keydown", onKey);
  addEventListener("beforeprint", toPaper);
  addEventListener("afterprint", fromPaper);
  if (location.hash && byId(location.hash.slice(1))) byId(location.hash.slice(1)).scrollIntoView();
  document.documentElement.dataset.ready = "true";
}

requestAnimationFrame(() => setTimeout(start)); // the sentence at the top is on the screen first
