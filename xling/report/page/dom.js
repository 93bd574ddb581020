"use strict";
// report.html: the data, what is chosen, and how elements are made. Texts only ever become text nodes and attributes:
// nothing here or below writes markup, so that nothing a model said can become any.

let data = null; // parsed after the first paint (main.js)
const state = { panel: 0, map: 0, cell: null, sources: null, targets: null, spread: false };
// sources, targets: Sets of codes; spread: colours over what there is, not from 50

const byId = (id) => document.getElementById(id);
const panel = () => data.panels[state.panel];

// Like append, with what is missing left out.
const put = (box, ...children) => fill(box, null, children);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, x] of Object.entries(value)) node.style.setProperty("--" + key, x);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// The language's name in English, where the code does not say it.
const named = (code) => data.languages[code] || code;
const language = (code) => (data.languages[code] ? el("abbr", { title: named(code) }, code) : code);

// What changed, for those who do not see it.
const say = (text) => { byId("said").textContent = text; };

// A radio group that looks like tabs; `choose` gets the number of the option.
function tabs(legend, name, options, chosen, choose) {
  const boxes = options.map((text, number) => {
    const id = name + "-" + number;
    const input = el("input", { type: "radio", name, id, value: number, onchange: () => choose(number) });
    input.checked = number === chosen;
    return [input, el("label", { for: id }, text)];
  });
  return el("fieldset", { class: "tabs" }, el("legend", {}, legend), ...boxes);
}

function picker(label, options, chosen, choose) {
  const select = el("select", { onchange: () => choose(select.value) },
    ...options.map(([value, text]) => el("option", { value }, text)));
  select.value = chosen;
  return el("label", { class: "picker" }, el("span", {}, label), select);
}

const shownSources = () => panel().sources.map((_, n) => n).filter((n) => state.sources.has(panel().sources[n]));
const shownTargets = () => panel().targets.map((_, n) => n).filter((n) => state.targets.has(panel().targets[n]));

// Of several panels' axes those in which they differ, by name.
function axesApart() {
  const names = [...new Set(data.panels.flatMap((one) => Object.keys(one.axes)))];
  return names.filter((name) => new Set(data.panels.map((one) => one.axes[name] || "")).size > 1);
}

const shortName = (number) => {
  const apart = axesApart().map((name) => data.panels[number].axes[name]).filter(Boolean);
  return apart.length ? apart.join(", ") : data.panels[number].title;
};

const notes = (lines) => (lines.length ? el("ul", { class: "notes" }, lines.map((line) => el("li", {}, line))) : null);

function duration(seconds) {
  if (seconds < 1) return (seconds * 1000).toFixed(0) + " ms";
  if (seconds < 90) return seconds.toFixed(1) + " s";
  if (seconds < 5400) return (seconds / 60).toFixed(1) + " min";
  return (seconds / 3600).toFixed(1) + " h";
}
