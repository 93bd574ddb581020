// Samples: what policies say, beside the baseline. Searched in the texts themselves, drawn a page at a time.

const PAGE = 10; // prompts
const MOST = 6; // responses of a prompt that stand open
const LONG = 900; // characters; longer texts scroll
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
      "best-of-n's pick or a trained policy's first sample, beside the baseline's first. Verdicts are on these two; the win rate is over all responses of the baseline, ties half."),
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

// Samples of one prompt together; the first prompts of all targets before the second ones.
function byPrompt(found) {
  const groups = new Map(), places = {};
  for (const n of found) {
    const key = [data.samples.target[n], data.samples.prompt[n]].join("/");
    if (!groups.has(key)) groups.set(key, { place: places[data.samples.target[n]] = (places[data.samples.target[n]] ?? -1) + 1, members: [] });
    groups.get(key).members.push(n);
  }
  return [...groups.values()].sort((a, b) => a.place - b.place).map((group) => group.members);
}

function drawSamples() {
  const found = matching(), prompts = byPrompt(found), list = byId("sample-list");
  byId("sample-count").textContent = `${found.length} of ${sampleCount()} samples, to ${prompts.length} prompts` +
    (prompts.length > asked.shown ? `; the first ${asked.shown} prompts are shown` : "");
  list.replaceChildren(...prompts.slice(0, asked.shown).map(promptCard));
  if (prompts.length > asked.shown) {
    list.append(el("button", { type: "button", class: "more", onclick: () => { asked.shown += 2 * PAGE; drawSamples(); } }, "Show more"));
  }
}

// A prompt and the baseline's response once, then what each source's policy says; equal responses once.
function promptCard(members) {
  const all = data.samples, first = members[0], target = all.target[first], same = new Map();
  for (const n of members) {
    const key = [all.response[n], all.baseline[n], all.verdict[n]].join("/");
    same.set(key, [...(same.get(key) || []), n]);
  }
  return el("article", { class: "sample" },
    el("h3", {}, el("span", {}, "policy in ", language(target)), el("span", { class: "quiet" }, all.texts[all.prompt[first]])),
    el("div", { class: "texts" },
      el("div", {}, textBox("Prompt", all.text[first], target)),
      el("div", {}, textBox("Baseline (SFT)", all.baseline[first], target, scores([first], 1))),
      el("div", { class: "responses" }, el("h4", {}, "Aligned, by the language of the reward model"), manyBoxes([...same.values()], target))));
}

// The first few, the rest on request: thirty sources may say thirty different things.
function manyBoxes(groups, target) {
  const boxes = (some) => some.map((group) => responseBox(group, target));
  const rest = groups.slice(MOST);
  return [boxes(groups.slice(0, MOST)), rest.length ? lazyDetails(`${rest.length} more`, () => el("div", {}, boxes(rest))) : null];
}

function responseBox(group, target) {
  const all = data.samples, first = group[0], verdict = VERDICTS[all.verdict[first]];
  const sources = group.map((n) => el("span", { class: all.source[n] === target ? "own" : null }, language(all.source[n])));
  return el("div", { class: "response" },
    el("p", { class: "sources" }, sources, verdict ? el("span", { class: "verdict " + verdict }, { better: "▲ ", tie: "= ", worse: "▽ " }[verdict] + verdict) : null),
    textOf(all.response[first], target), scores(group, 0));
}

// Of the response (0) or the baseline's (1): the reward of each source's model, the judge's score, and the win rate.
function scores(group, at) {
  const all = data.samples, first = group[0];
  const rewards = group.map((n) => all.reward[n][at]).filter((value) => value !== null).map((value) => value.toFixed(2));
  const told = [
    rewards.length && (at === 0 || group.length === 1) ? ["reward", rewards.join(", ")] : null,
    all.score[first][at] === null ? null : ["judge", all.score[first][at].toFixed(2)],
    at || all.win[first] === null ? null : ["win rate", (100 * all.win[first]).toFixed(0) + " %"],
  ].filter(Boolean);
  return told.length ? el("p", { class: "scores" }, told.map(([name, value]) => el("span", {}, name + " ", el("b", {}, value)))) : null;
}

const textBox = (title, place, lang, below = null) => el("div", { class: "textbox" }, el("h4", {}, title), textOf(place, lang), below);

function textOf(place, lang) {
  const text = data.samples.texts[place], dir = { l: "ltr", r: "rtl", a: "auto" }[data.samples.directions[place]];
  return el("div", { class: "text", dir, lang, tabindex: text.length > LONG ? "0" : null }, marked(text));
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
