// Costs and provenance.

function costsSection(box) {
  const origin = data.origin, costs = origin.costs.filter((cost) => cost.done);
  const total = costs.reduce((sum, cost) => sum + cost.seconds, 0), cpu = costs.reduce((sum, cost) => sum + cost.cpu_seconds, 0);
  const rows = [...costs].sort((a, b) => b.seconds - a.seconds);
  put(box,
    el("p", {}, `${duration(total)} of stages, ${duration(cpu)} of processor time, on ${origin.machines} ${origin.machines === 1 ? "machine" : "machines"}` +
      (origin.began ? `, between ${when(origin.began)} and ${when(origin.ended)} (UTC).` : ".")),
    bars(rows.map((cost) => ({ label: cost.kind, value: cost.seconds, text: `${duration(cost.seconds)} (${share(cost.seconds, total)})` })), "Seconds by kind of stage"),
    el("figure", { class: "table" }, titleOf("Stages by kind"), el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "plain" },
      el("caption", { class: "unseen" }, "Stages by kind"),
      el("thead", {}, el("tr", {}, ["kind", "done", "time", "a stage", "processor", "longest", ""].map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, origin.costs.map(costRow)))),
    ...gpuTable(origin.gpus),
    notes([`Devices: ${Object.entries(origin.devices).map(([name, seconds]) => `${name} (${duration(seconds)})`).join(", ") || "none"}.`])));
}

function costRow(cost) {
  const time = cost.done ? [duration(cost.seconds), duration(cost.seconds / cost.done), duration(cost.cpu_seconds), duration(cost.longest), cost.longest_label] : ["", "", "", "", ""];
  return el("tr", {}, el("th", { scope: "row" }, cost.kind), el("td", {}, `${cost.done}/${cost.planned}` + (cost.again ? `, ${cost.again} again` : "")),
    time.slice(0, 4).map((text) => el("td", {}, text)), el("td", { class: "words" }, time[4]));
}

function gpuTable(gpus) {
  if (!gpus.length) return [];
  const all = gpus.reduce((sum, one) => ({ kind: "all", asked: sum.asked + one.asked, held: sum.held + one.held, used: sum.used + one.used }));
  const row = (one) => el("tr", {}, el("th", { scope: "row" }, one.kind), [one.asked ? duration(one.asked) : "", duration(one.held), duration(one.used),
    `${duration(Math.max(0, one.held - one.used))} (${share(Math.max(0, one.held - one.used), one.held)})`].map((text) => el("td", {}, text)));
  return [el("figure", { class: "table" }, titleOf("GPU time by kind of stage"), el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "plain" },
    el("caption", { class: "unseen" }, "GPU time by kind of stage"),
    el("thead", {}, el("tr", {}, ["kind", "asked for", "held", "used", "idle"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, [...gpus, ...(gpus.length > 1 ? [{ ...all, kind: "all" }] : [])].map(row)))))];
}

const share = (part, whole) => (whole ? ((100 * part) / whole).toFixed(0) + " %" : "0 %");
const when = (text) => text.slice(0, 16).replace("T", " ");

function provenanceSection(box) {
  const facts = data.origin.facts.map(([name, values]) => el("div", {}, el("dt", {}, name),
    el("dd", {}, values.map((value) => el("code", {}, value)))));
  put(box, el("dl", { class: "origin" }, facts), el("h3", {}, "Settings"),
    el("p", { class: "quiet" }, "What the stages read, as it stands in their keys; several values: an axis, or a setting that differs between languages."));
  for (const [kind, settings] of Object.entries(data.origin.settings)) {
    const names = Object.keys(settings);
    const open = () => el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "plain settings" }, el("caption", { class: "unseen" }, "Settings of " + kind),
      el("tbody", {}, names.map((name) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "words" }, el("code", {}, settings[name].join("  ·  "))))))));
    if (names.length) put(box, lazyDetails(`${kind} (${names.length} settings)`, open));
  }
}
