// Figures as SVG: lines with bands, points with intervals, bars. Each has its numbers as a table below.

const SIZE = { width: 340, height: 230, left: 44, right: 14, top: 12, bottom: 38 };

// Round steps for an axis: about `count` of them.
function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((x) => x * power).find((x) => x >= rough);
  const first = Math.ceil(low / step - 1e-6), last = Math.floor(high / step + 1e-6);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, n) => Number(((first + n) * step).toPrecision(12)));
}

const label = (value) => String(Number(value.toFixed(2)));

// Least and greatest of numbers, with some room; `around` has to be inside.
function reach(numbers, around = []) {
  const all = [...numbers.filter((x) => x !== null && x !== undefined), ...around];
  const low = Math.min(...all), high = Math.max(...all), size = Math.max(Math.abs(low), Math.abs(high), 1e-3);
  const room = high - low > size * 1e-6 ? (high - low) * 0.06 : size * 0.5; // all but equal: a line in the middle
  return [low - room, high + room];
}

function linear([low, high], from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

// {x: {label, reach, log, ticks}, y: {label, reach, rule}, series: [...], title, about}
// series: {name, look: 0.. | "thin", points: [{x, y, low, high, left, right, note}], band, bars, label}
function lineChart(chart) {
  const { height, left, right, top, bottom } = SIZE, width = chart.width || SIZE.width;
  const points = chart.series.flatMap((one) => one.points);
  const onX = chart.x.log ? Math.log2 : (x) => x;
  const xReach = chart.x.reach || (chart.x.log ? reach(points.map((p) => onX(p.x)))
    : reach(points.flatMap((p) => [p.x, p.left, p.right])));
  const yReach = chart.y.reach || reach(points.flatMap((p) => [p.y, p.low, p.high]), chart.y.rule === undefined ? [] : [chart.y.rule]);
  const scaleX = linear(xReach, left, width - right), scaleY = linear(yReach, height - bottom, top);
  const x = (value) => scaleX(onX(value)), y = scaleY;
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": chart.about, class: "chart" });
  const xTicks = chart.x.ticks || ticks(xReach[0], xReach[1]);
  for (const value of ticks(yReach[0], yReach[1], 4)) {
    drawn.append(svg("line", { class: "gridline", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, label(value)));
  }
  for (const value of xTicks) {
    drawn.append(svg("text", { class: "tick", x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, label(value)));
  }
  if (chart.y.rule !== undefined) {
    drawn.append(svg("line", { class: "rule", x1: left, x2: width - right, y1: y(chart.y.rule), y2: y(chart.y.rule) }));
  }
  drawn.append(svg("text", { class: "axis", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, chart.x.label));
  const order = [...chart.series].sort((a, b) => (a.look === "thin" ? 0 : 1) - (b.look === "thin" ? 0 : 1));
  for (const one of order) drawn.append(drawSeries(one, x, y));
  drawn.append(...endLabels(order, x, y, width));
  return drawn;
}

function drawSeries(one, x, y) {
  const group = svg("g", { class: one.look === "thin" ? "series thin" : "series c" + (one.look % 7) });
  group.append(svg("title", {}, one.name));
  const banded = one.points.filter((p) => p.low !== null && p.low !== undefined && p.high !== null && p.high !== undefined);
  if (one.band && banded.length > 1) {
    const up = banded.map((p) => `${x(p.x)},${y(p.high)}`), down = banded.map((p) => `${x(p.x)},${y(p.low)}`).reverse();
    group.append(svg("polygon", { class: "band", points: [...up, ...down].join(" ") }));
  }
  const path = one.points.map((p, n) => `${n ? "L" : "M"}${x(p.x).toFixed(1)},${y(p.y).toFixed(1)}`).join("");
  if (one.points.length > 1) group.append(svg("path", { class: "line", d: path }));
  if (one.bars) {
    for (const p of one.points) {
      if (p.low !== null && p.low !== undefined) group.append(svg("line", { class: "bar", x1: x(p.x), x2: x(p.x), y1: y(p.low), y2: y(p.high) }));
      if (p.left !== null && p.left !== undefined) group.append(svg("line", { class: "bar", x1: x(p.left), x2: x(p.right), y1: y(p.y), y2: y(p.y) }));
    }
  }
  if (one.look !== "thin") {
    for (const p of one.points) {
      group.append(marker(one.look, x(p.x), y(p.y)));
      if (p.note) group.append(svg("text", { class: "note", x: x(p.x) + 6, y: y(p.y) + 12 }, p.note));
    }
  }
  return group;
}

// A shape for each look, so that colours are not needed to tell lines apart.
function marker(look, x, y) {
  const r = 3.4;
  const shapes = [
    () => svg("circle", { class: "dot", cx: x, cy: y, r }),
    () => svg("rect", { class: "dot", x: x - r, y: y - r, width: 2 * r, height: 2 * r }),
    () => svg("path", { class: "dot", d: `M${x},${y - r - 1}L${x + r + 1},${y + r}L${x - r - 1},${y + r}Z` }),
    () => svg("path", { class: "dot", d: `M${x},${y - r - 1}L${x + r + 1},${y}L${x},${y + r + 1}L${x - r - 1},${y}Z` }),
    () => svg("path", { class: "dot", d: `M${x},${y + r + 1}L${x + r + 1},${y - r}L${x - r - 1},${y - r}Z` }),
    () => svg("path", { class: "dot open", d: `M${x - r},${y - r}L${x + r},${y + r}M${x + r},${y - r}L${x - r},${y + r}` }),
    () => svg("path", { class: "dot open", d: `M${x - r - 1},${y}L${x + r + 1},${y}M${x},${y - r - 1}L${x},${y + r + 1}` }),
  ];
  return shapes[look % shapes.length]();
}

// Names at the ends of lines, moved apart where they would lie on each other.
function endLabels(series, x, y, width) {
  const ends = series.filter((one) => one.label && one.points.length).map((one) => {
    const last = one.points[one.points.length - 1];
    return { one, x: Math.min(x(last.x) + 6, width - 4), y: y(last.y) + 4 };
  }).sort((a, b) => a.y - b.y);
  for (let n = 1; n < ends.length; n++) ends[n].y = Math.max(ends[n].y, ends[n - 1].y + 11);
  return ends.map((end) => svg("text", {
    class: "end " + (end.one.look === "thin" ? "thin" : "c" + (end.one.look % 7)), x: end.x, y: end.y,
    "text-anchor": end.x > width - 30 ? "end" : "start" }, end.one.label));
}

// Names with their line and marker.
function chartKey(series) {
  const one = ({ name, look }) => el("li", {},
    svg("svg", { viewBox: "0 0 26 12", class: "sign", "aria-hidden": "true" },
      svg("g", { class: look === "thin" ? "series thin" : "series c" + (look % 7) },
        svg("path", { class: "line", d: "M1,6L25,6" }), look === "thin" ? null : marker(look, 13, 6))), name);
  return el("ul", { class: "key" }, series.map(one));
}

// The numbers of a chart, for who reads rather than looks.
function chartNumbers(chart) {
  const digits = (value) => (value === null || value === undefined ? "" : String(Number(value.toFixed(3))));
  const head = [chart.x.label, chart.y.label, "from", "to"];
  const open = () => el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "plain" },
    el("caption", { class: "unseen" }, chart.about),
    el("thead", {}, el("tr", {}, ["line", ...head].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, chart.series.flatMap((one) => one.points.map((p) => el("tr", {},
      el("th", { scope: "row" }, one.name),
      [p.x, p.y, p.low, p.high].map((value) => el("td", {}, digits(value)))))))));
  return lazyDetails("Numbers", open, { class: "numbers" });
}

// Details whose content is made when they are opened (or printed).
function lazyDetails(summary, make, attributes = {}) {
  const details = el("details", attributes, el("summary", {}, summary));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(make());
  });
  return details;
}

function chartFigure(chart) {
  return el("figure", { class: "drawing" }, el("figcaption", {}, el("strong", {}, chart.title),
    el("span", { class: "yaxis" }, chart.y.label)), lineChart(chart), chartNumbers(chart));
}

// Horizontal bars: {label, value, text}
function bars(rows, about) {
  const most = Math.max(...rows.map((row) => row.value), 1e-9);
  return el("div", { class: "bars", role: "list", "aria-label": about }, rows.map((row) => {
    const bar = el("span", { class: "length" });
    bar.style.setProperty("--x", (row.value / most).toFixed(4));
    return el("div", { role: "listitem" }, el("span", { class: "name" }, row.label), el("span", { class: "track" }, bar),
      el("span", { class: "amount" }, row.text));
  }));
}
