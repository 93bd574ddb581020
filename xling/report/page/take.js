// The matrix, to take along: as a table of a spreadsheet, as CSV, as a picture. As it is shown, with its filters.

function takeAway(element, table) {
  const button = (text, about, take) => el("button", { type: "button", class: "small", title: about, onclick: take }, text);
  const name = (ending) => `${data.name}-${table.name}${data.panels.length > 1 ? "-" + (state.panel + 1) : ""}.${ending}`.replace(/[^\w.-]+/g, "_");
  return el("div", { class: "take" },
    button("Copy", "Copy the numbers, for a spreadsheet", () => copy(rowsOf(element).map((row) => row.join("\t")).join("\n"))),
    button("CSV", "A row a cell: value and interval in full", () => saveAs(name("csv"), new Blob([csvOf(element, table)], { type: "text/csv" }))),
    button("PNG", "A picture of the matrix", () => pictureOf(element, table.title + suffix()).toBlob((blob) => saveAs(name("png"), blob))));
}

const wordOf = (cell) => (cell.querySelector(".number") || (cell.tagName === "TH" ? cell : el("i"))).textContent.trim();
const rowsOf = (element) => [...element.rows].map((row, n) => [...row.cells].map((cell, m) => (n + m ? wordOf(cell) : "")));

// A row a cell that is shown; no text begins a formula.
function csvOf(element, table) {
  const plain = (text) => (/^[=+@\-\t]/.test(text) && Number.isNaN(Number(text)) ? "'" + text : text);
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const heads = [...element.tHead.rows[0].cells].map((cell) => cell.textContent), lines = [["source", "target", table.name, "low", "high", "shown"]];
  for (const row of element.tBodies[0].rows) for (const cell of row.cells) {
    const { value = "", low = "", high = "" } = cell.dataset;
    if (cell.tagName === "TD" && cell.textContent) lines.push([row.cells[0].textContent, heads[cell.cellIndex], value, low, high, wordOf(cell)]);
  }
  return lines.map((line) => line.map((text) => quoted(plain(text))).join(",") + "\n").join("");
}

function saveAs(name, blob) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say("Saved: " + name);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, or a page from the disk: the old way
    const area = el("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied.");
}

// The table as it lies on the screen, twice as sharp, under its title.
function pictureOf(element, title) {
  const scroll = element.closest(".scroll"), { scrollLeft, scrollTop } = scroll, MARGIN = 16, TOP = 30, SHARP = 2;
  scroll.scrollTo({ left: 0, top: 0, behavior: "instant" }); // heads that stick lie where they belong
  const box = element.getBoundingClientRect(), pen = document.createElement("canvas").getContext("2d"), root = getComputedStyle(document.body);
  pen.canvas.width = SHARP * (Math.max(box.width, 420) + 2 * MARGIN);
  pen.canvas.height = SHARP * (box.height + TOP + 2 * MARGIN);
  pen.scale(SHARP, SHARP);
  pen.fillStyle = root.backgroundColor;
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
  pen.textBaseline = "middle";
  pen.fillStyle = root.color;
  pen.font = "600 14px " + root.fontFamily;
  pen.fillText(`${data.name}: ${title}`, MARGIN, MARGIN + 8);
  pen.translate(MARGIN - box.left, MARGIN + TOP - box.top);
  for (const cell of element.querySelectorAll("th, td")) drawOn(pen, cell);
  scroll.scrollTo({ left: scrollLeft, top: scrollTop, behavior: "instant" });
  return pen.canvas;
}

function drawOn(pen, cell) {
  const { left, top, width, height } = cell.getBoundingClientRect(), style = getComputedStyle(cell), range = document.createRange();
  pen.fillStyle = style.backgroundColor;
  pen.fillRect(left, top, width, height);
  pen.strokeStyle = style.color;
  if (cell.classList.contains("hole")) {
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width, height);
    pen.clip();
    pen.globalAlpha = 0.3;
    pen.beginPath();
    for (let x = left - height; x < left + width; x += 7) { pen.moveTo(x, top + height); pen.lineTo(x + height, top); }
    pen.stroke();
    pen.restore();
  }
  if (cell.classList.contains("home")) {
    pen.lineWidth = 2;
    pen.strokeRect(left + 1, top + 1, width - 2, height - 2);
  }
  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode, own = getComputedStyle(node.parentElement);
    range.selectNodeContents(node);
    const at = range.getBoundingClientRect();
    pen.fillStyle = own.color;
    pen.font = `${own.fontWeight} ${own.fontSize} ${own.fontFamily}`;
    pen.fillText(node.data, at.left, at.top + at.height / 2);
  }
}
