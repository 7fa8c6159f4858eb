// Builds and updates elements. Text goes in as text only: no name of a template, tenant or task is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

// el("td", {class: "left"}, "text", otherElement)
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Writes only what differs, so that a selection in the text and a screen reader's place survive.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
export function setClass(node, name) {
  if (node.getAttribute("class") !== name) node.setAttribute("class", name);
}

// A bar of parts: [[class, value], ...] of `whole`. The numbers beside it say the same, so it is hidden from
// screen readers.
export function bar(parts, whole) {
  const made = svg("svg", { class: "share", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  made.append(svg("rect", { class: "track", width: 100, height: 10 }));
  let at = 0;
  for (const [name, value] of parts) {
    const width = whole > 0 ? Math.max(0, Math.min(100 - at, (100 * value) / whole)) : 0;
    made.append(svg("rect", { class: name, x: at.toFixed(2), width: width.toFixed(2), height: 10 }));
    at += width;
  }
  return made;
}

function setBar(cell, parts, whole) {
  const wanted = JSON.stringify([parts, whole]);
  if (cell.shown === wanted) return;
  cell.shown = wanted;
  cell.replaceChildren(bar(parts, whole));
}

// A table whose rows are kept by their key. `columns`: [{head, cell(row), class, header, why}]; cell() gives a text,
// {text, class} or {parts, whole}.
export class Table {
  constructor(table, columns, empty) {
    this.columns = columns;
    this.rows = new Map();
    this.body = el("tbody");
    this.empty = el("tbody", {}, el("tr", {}, el("td", { class: "left none", colspan: columns.length }, empty)));
    const heads = columns.map(({ head, class: name = "", why = "" }) =>
      el("th", { scope: "col", class: name, ...(why && { title: why }) }, head));
    table.replaceChildren(el("thead", {}, el("tr", {}, ...heads)), this.body, this.empty);
  }

  // `rows`: [[key, row], ...] in the order to show.
  update(rows) {
    const keys = new Set(rows.map(([key]) => key));
    for (const [key, line] of this.rows) {
      if (keys.has(key)) continue;
      line.remove();
      this.rows.delete(key);
    }
    let before = null;
    for (const [key, row] of rows) {
      const line = this.rows.get(key) ?? this.add(key);
      this.columns.forEach((column, i) => this.fill(line.children[i], column, row));
      const place = before === null ? this.body.firstChild : before.nextSibling;
      if (place !== line) this.body.insertBefore(line, place);
      before = line;
    }
    this.empty.hidden = rows.length > 0;
  }

  add(key) {
    const line = el("tr");
    for (const { header, class: name = "" } of this.columns)
      line.append(header ? el("th", { scope: "row", class: name }) : el("td", { class: name }));
    this.rows.set(key, line);
    return line;
  }

  fill(cell, column, row) {
    const value = column.cell(row);
    if (value !== null && typeof value === "object" && "parts" in value) {
      setBar(cell, value.parts, value.whole);
      return;
    }
    const { text, class: name } = typeof value === "object" && value !== null ? value : { text: String(value) };
    setText(cell, text);
    setClass(cell, [column.class, name].filter(Boolean).join(" "));
    if (column.header) cell.title = text;
  }
}

// A list of pairs: [[key, name, text, class], ...].
export function pairs(list, rows, note = () => null) {
  const wanted = rows.map(([key]) => key).join("\n");
  if (list.shown !== wanted) {
    list.shown = wanted;
    list.replaceChildren(...rows.map(([, name]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("span"), ""))));
  }
  rows.forEach(([key, , text, name = ""], i) => {
    const value = list.children[i].lastChild;
    setText(value.firstChild, text);
    setClass(value.firstChild, name);
    const more = note(key);
    if (more === null) return;
    if (value.children.length < 2) value.append(el("small"));
    setText(value.lastChild, more);
  });
}
