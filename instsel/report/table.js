"use strict";
// The table of rows: sorted, searched and filtered in the page itself; every text enters it as text, never as HTML.
(() => {
  const PAGE = matchMedia("(max-width: 720px)").matches ? 20 : 50;
  const box = document.getElementById("rows");
  const { columns, rows } = JSON.parse(document.getElementById("rows-data").textContent);
  const find = (name) => box.querySelector(name);
  const body = find("tbody"), told = find("[role=status]"), search = find("input"), order = find("select.order");
  const filters = [...box.querySelectorAll("select.filter")];
  const heads = [...box.querySelectorAll("th")];
  let sorted = { column: Number(box.dataset.sort), down: true }, page = 0, shown = [], texts = null;

  const written = (value) => {
    if (value === null) return "none";
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  };

  function searched(row) {
    texts ??= rows.map((one) => ("#" + one.filter((_, i) => columns[i].kind !== "number").join("\n")).toLowerCase());
    return texts[row];
  }

  function compare(a, b) {
    const x = rows[a][sorted.column], y = rows[b][sorted.column];
    if (x === y) return a - b;
    if (x === null) return 1; // what has no number comes last in either direction
    if (y === null) return -1;
    return (x < y ? -1 : 1) * (sorted.down ? -1 : 1);
  }

  function choose() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = filters.filter((one) => one.value !== "").map((one) => [Number(one.dataset.column), one.value]);
    shown = rows.map((_, row) => row).filter((row) =>
      wanted.every(([column, value]) => String(rows[row][column]) === value) &&
      words.every((word) => searched(row).includes(word)));
    shown.sort(compare);
    page = 0;
    draw();
  }

  function cell(column, value) {
    const td = document.createElement("td");
    td.dataset.label = column.label;
    if (column.kind === "text") {
      td.className = "text";
      const cut = document.createElement("div");
      cut.className = "cut";
      cut.dir = "auto";
      cut.textContent = value;
      td.append(cut);
    } else if (column.kind === "number") {
      td.className = "number";
      td.textContent = written(value);
    } else {
      td.textContent = column.kind === "row" ? "#" + value : value;
    }
    return td;
  }

  function draw() {
    const first = page * PAGE, last = Math.min(first + PAGE, shown.length);
    body.replaceChildren(...shown.slice(first, last).map((row) => {
      const tr = document.createElement("tr");
      tr.tabIndex = 0;
      tr.append(...columns.map((column, i) => cell(column, rows[row][i])));
      return tr;
    }));
    heads.forEach((head, i) => {
      if (i === sorted.column) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    order.value = sorted.column + (sorted.down ? " down" : " up");
    told.textContent = shown.length ? `${first + 1} to ${last} of ${shown.length} rows` : "no row matches";
    find(".back").disabled = first === 0;
    find(".on").disabled = last === shown.length;
  }

  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = columns[column].kind === "number"; // numbers begin with the highest, all else with the first
    sorted = { column, down: sorted.column === column ? !sorted.down : down };
    choose();
  }));
  order.addEventListener("change", () => {
    const [column, way] = order.value.split(" ");
    sorted = { column: Number(column), down: way === "down" };
    choose();
  });
  search.addEventListener("input", choose);
  filters.forEach((one) => one.addEventListener("change", choose));
  const open = (event) => event.target.closest("tr")?.classList.toggle("open");
  body.addEventListener("click", (event) => { if (!String(getSelection())) open(event); });
  body.addEventListener("keydown", (event) => { if (event.key === "Enter") open(event); });
  find(".back").addEventListener("click", () => { page -= 1; draw(); });
  find(".on").addEventListener("click", () => { page += 1; draw(); });
  box.hidden = false;
  choose();
})();
