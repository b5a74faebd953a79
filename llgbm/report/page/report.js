"use strict";
(() => {
  const table = document.getElementById("task-table");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const compare = (a, b) => (isNaN(a) || isNaN(b) ? String(a).localeCompare(String(b), "en") : a - b);

    const sort = (column, direction) => {
      heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? direction : "none"));
      const sign = direction === "ascending" ? 1 : -1;
      rows.sort((a, b) => sign * compare(value(a, column), value(b, column)));
      body.append(...rows);
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const isFigure = column > 2;
      button.addEventListener("click", () => {
        const known = head.getAttribute("aria-sort");
        const first = isFigure ? "descending" : "ascending";
        const other = isFigure ? "ascending" : "descending";
        sort(column, known === first ? other : first);
      });
    });

    const text = document.getElementById("filter-text");
    const choices = [1, 2].map((column) => ({ column, select: document.getElementById(`filter-${column}`) }));
    for (const { column, select } of choices) {
      for (const name of new Set(rows.map((row) => row.cells[column].textContent))) select.add(new Option(name, name));
    }
    const count = document.getElementById("count");
    const filter = () => {
      const wanted = text.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const fits =
          row.cells[0].textContent.toLowerCase().includes(wanted) &&
          choices.every(({ column, select }) => !select.value || row.cells[column].textContent === select.value);
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown} of ${rows.length} tasks`;
    };
    text.addEventListener("input", filter);
    for (const { select } of choices) select.addEventListener("change", filter);
    document.getElementById("filters").hidden = false;
    filter();
  }

  // On paper nothing can be unfolded.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
