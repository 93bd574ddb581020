// Samples: what policies say, beside the baseline. Searched in the texts themselves, drawn a page at a time.

const PAGE = 12;
const VERDICTS = { 1: "better", 0.5: "tie", 0: "worse" };
const asked = { text: "", verdict: "", source: "", target: "", shown: PAGE };
let lowered = null; // the texts in lower case, made at the first search

const sampleCount = () => data.samples.panel.length;

function samplesOf(source, target) {
  const found = [];
  for (let n = 0; n < sampleCount(); n++) {
    if (data.samples.panel[n] === state.panel && data.samples.source[n] === source && data.samples.target[n] === target) found.push(n);
  }
  return found;
}

function samplesSection(box) {
  const all = data.samples, codes = (names) => [["", "all"], ...names.map((name) => [name, name])];
  const change = (name) => (value) => { asked[name] = value; asked.shown = PAGE; drawSamples(); };
  const search = el("input", { type: "search", id: "search", placeholder: "words in prompts or responses", autocomplete: "off",
    oninput: (event) => change("text")(event.target.value) });
  search.value = asked.text;
  put(box,
    el("p", { class: "intro" }, `Not chosen by hand: of each target the first ${all.prompts} prompts in the order of a hash, the same for all cells of a column; ` +
      "best-of-n's pick or a trained policy's first sample, beside the baseline's first. Verdicts are on these two; “beats” is over all responses of the baseline."),
    notes(all.left_out.map((text) => "Left out: " + text)),
    el("div", { class: "filters" }, el("label", { class: "picker wide" }, el("span", {}, "Search"), search),
      picker("Verdict", [["", "all"], ["1", "better"], ["0.5", "tie"], ["0", "worse"]], asked.verdict, change("verdict")),
      picker("Source", codes(panel().sources), asked.source, change("source")),
      picker("Target", codes(panel().targets), asked.target, change("target"))),
    el("p", { id: "sample-count", class: "quiet", role: "status" }), el("div", { id: "sample-list" }));
  drawSamples();
}

function matching() {
  const all = data.samples, words = asked.text.trim().toLowerCase();
  if (words && !lowered) lowered = all.texts.map((text) => text.toLowerCase());
  const hit = words && lowered.map((text) => text.includes(words));
  const found = [];
  for (let n = 0; n < sampleCount(); n++) {
    if (all.panel[n] !== state.panel) continue;
    if (asked.source ? all.source[n] !== asked.source : !state.sources.has(all.source[n])) continue;
    if (asked.target ? all.target[n] !== asked.target : !state.targets.has(all.target[n])) continue;
    if (asked.verdict && String(all.verdict[n]) !== asked.verdict) continue;
    if (words && !hit[all.prompt[n]] && !hit[all.text[n]] && !hit[all.response[n]] && !hit[all.baseline[n]]) continue;
    found.push(n);
  }
  return found;
}

function drawSamples() {
  const found = matching(), list = byId("sample-list");
  byId("sample-count").textContent = `${found.length} of ${sampleCount()} samples` +
    (found.length > asked.shown ? `, the first ${Math.min(asked.shown, found.length)} shown` : "");
  list.replaceChildren(...found.slice(0, asked.shown).map(sampleCard));
  if (found.length > asked.shown) {
    list.append(el("button", { type: "button", class: "more", onclick: () => { asked.shown += 2 * PAGE; drawSamples(); } }, "Show more"));
  }
}

function sampleCard(n) {
  const all = data.samples, lang = all.target[n], verdict = VERDICTS[all.verdict[n]];
  const score = (at) => [
    all.reward[n][at] === null ? null : ["reward", all.reward[n][at]],
    all.score[n][at] === null ? null : ["judge", all.score[n][at]],
  ].filter(Boolean);
  return el("article", { class: "sample" },
    el("h3", {}, language(all.source[n]), " → ", language(lang),
      verdict ? el("span", { class: "verdict " + verdict }, { better: "▲ ", tie: "= ", worse: "▽ " }[verdict] + verdict) : null,
      el("span", { class: "quiet" }, all.texts[all.prompt[n]])),
    el("div", { class: "texts" },
      textBox("Prompt", all.text[n], lang, []),
      textBox("Baseline (SFT)", all.baseline[n], lang, score(1)),
      textBox("Aligned", all.response[n], lang, score(0), all.win[n] === null ? "" : `beats ${percent(all.win[n])} of the baseline's`)));
}

const percent = (share) => (100 * share).toFixed(0) + " %";

function textBox(title, place, lang, scores, more = "") {
  const text = data.samples.texts[place], dir = { l: "ltr", r: "rtl", a: "auto" }[data.samples.directions[place]];
  return el("div", { class: "textbox" }, el("h4", {}, title),
    el("div", { class: "text", dir, lang }, ...marked(text)),
    scores.length || more ? el("p", { class: "scores" }, scores.map(([name, value]) => el("span", {}, name + " ", el("b", {}, value.toFixed(2)))),
      more ? el("span", {}, more) : null) : null);
}

// The text, with what is searched for marked.
function marked(text) {
  const words = asked.text.trim().toLowerCase();
  const lower = text.toLowerCase();
  if (!words || lower.length !== text.length) return [text || ""]; // lower case of some letters is longer
  const parts = [];
  let from = 0;
  for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, from)) {
    parts.push(text.slice(from, at), el("mark", {}, text.slice(at, at + words.length)));
    from = at + words.length;
  }
  return [...parts, text.slice(from)].filter((part) => part !== "");
}

function showSamplesOf(source, target) {
  Object.assign(asked, { source, target, text: "", verdict: "", shown: PAGE });
  drawSection("samples");
  byId("samples").scrollIntoView();
  say(`Samples of ${source} to ${target}.`);
}
