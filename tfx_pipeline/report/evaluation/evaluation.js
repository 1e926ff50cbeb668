"use strict";
// Sorts tables by a column: numbers by `data-sort`, other cells by text.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    headings.forEach((one) => one.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numeric = heading.classList.contains("num");
    const value = (row) => {
      const cell = row.cells[column];
      return numeric ? parseFloat(cell?.dataset.sort) : cell?.textContent ?? "";
    };
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (numeric && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y);
      const sign = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
      return down ? -sign : sign;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
// Shows the rows that contain the text of the filter.
for (const label of document.querySelectorAll("label.filter")) {
  const rows = [...label.parentElement.querySelector("tbody").rows];
  const input = label.querySelector("input");
  label.hidden = false;
  input.addEventListener("input", () => {
    const text = input.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(text);
      shown += !row.hidden;
    }
    label.querySelector("output").textContent = text ? ` ${shown} of ${rows.length}` : "";
  });
}
// Switches between the light and the dark colors, which the styles take from the system.
const dark = [...document.styleSheets[0].cssRules].find(
  (rule) => rule instanceof CSSMediaRule && rule.conditionText.includes("prefers-color-scheme"));
const theme = document.getElementById("theme");
function useTheme(isDark) {
  dark.media.mediaText = isDark ? "screen" : "not all";
  document.documentElement.style.colorScheme = isDark ? "dark" : "light";
  theme.textContent = isDark ? "Light colors" : "Dark colors";
  theme.onclick = () => useTheme(!isDark);
}
useTheme(matchMedia("(prefers-color-scheme: dark)").matches);
theme.hidden = false;
