/* What is wider than the screen scrolls by itself and can be reached with the keyboard; result
   tables can be taken along as CSV. No request is made. */
(() => {
  const SCROLLING = "table, pre, div.output, .math, mjx-container, .pst-scrollable-table-container";

  function reach() {
    for (const element of document.querySelectorAll(SCROLLING)) {
      const style = getComputedStyle(element);
      const scrolls = /auto|scroll/.test(style.overflowX + style.overflowY)
        && (element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1);
      if (scrolls && !element.hasAttribute("tabindex")) {
        element.setAttribute("tabindex", "0");
        element.dataset.reached = "";
      } else if (!scrolls && "reached" in element.dataset) {
        element.removeAttribute("tabindex");
        delete element.dataset.reached;
      }
    }
  }

  function csv(table) {
    return [...table.rows].map((row) => [...row.cells].map((cell) => {
      const text = cell.textContent.trim();
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    }).join(",")).join("\n") + "\n";
  }

  function offerCsv() {
    const page = location.pathname.split("/").pop().replace(/\.html$/, "");
    document.querySelectorAll("table.dataframe").forEach((table, index) => {
      const link = document.createElement("a");
      link.className = "table-csv";
      link.textContent = "CSV";
      link.setAttribute("aria-label", `Table ${index + 1} of this page as CSV`);
      link.download = `${page}_table_${index + 1}.csv`;
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      table.after(link);
    });
    document.querySelectorAll("a.figure-csv").forEach((link, index) => {
      link.setAttribute("aria-label", `Figure ${index + 1} of this page: its numbers as CSV`);
      link.download = `${page}_figure_${index + 1}.csv`;
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    offerCsv();
    for (const summary of document.querySelectorAll(".bd-sidebar-primary summary:not([aria-label])")) {
      summary.setAttribute("aria-label", "Show or hide the pages below");
    }
    reach();
    // formulas are set, and folded code is opened, after the page has loaded
    window.MathJax?.startup?.promise?.then(reach);
  });
  window.addEventListener("load", reach);
  window.addEventListener("resize", reach);
  document.addEventListener("click", () => setTimeout(reach, 0));
})();
