"use strict";
// The plots of the page. #plots contains the data, and #library Plotly, compressed. Nothing is fetched.
const PLOTS = JSON.parse(document.getElementById("plots").textContent);
const PAPER_WIDTH = 660;
const chosen = {};

// "@name" is a colour of the style sheet, "#name" a shared list of days.
function resolved(value, colours) {
  if (typeof value === "string") {
    if (value[0] === "@") return colours.getPropertyValue("--" + value.slice(1)).trim();
    if (value[0] === "#") return PLOTS.series[value.slice(1)];
    return value;
  }
  if (Array.isArray(value)) {
    const deep = value.some(v => v !== null && (typeof v === "object" || (typeof v === "string" && v[0] === "@")));
    return deep ? value.map(v => resolved(v, colours)) : value;
  }
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolved(inner, colours)]));
}

function draw(name, width) {
  const place = document.getElementById("plot-" + name);
  const figure = PLOTS.figures[name];
  const colours = getComputedStyle(document.documentElement);
  const narrow = (width || place.clientWidth) < 600;
  const given = resolved(figure.layout, colours);
  const axis = resolved({ gridcolor: "@line", linecolor: "@line", zerolinecolor: "@soft", zerolinewidth: 1, automargin: true,
    tickfont: { color: "@soft" }, title: { font: { color: "@soft", size: 12 } } }, colours);
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: narrow ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours.getPropertyValue("--ink").trim() },
    hoverlabel: resolved({ bgcolor: "@paper", bordercolor: "@line", font: { color: "@ink", size: 12 }, namelength: -1 }, colours),
    ...given,
    margin: { l: 46, r: 10, t: 40, b: 30, ...given.margin },
    height: narrow && !given.xaxis2 ? Math.min(given.height, 380) : given.height,
  };
  for (const key of new Set(["xaxis", "yaxis", ...Object.keys(given).filter(name => /^[xy]axis/.test(name))])) {
    const own = given[key] || {};
    layout[key] = { ...axis, ...own, title: { ...axis.title, ...own.title }, ...(key[0] === "x" && { showgrid: false }) };
  }
  if (width) layout.width = width;
  place.style.minHeight = layout.height + "px";
  const view = figure.views && (chosen[name] || figure.views[0]);
  const data = figure.data.filter(trace => !trace.view || trace.view === view)
    .map(({ view, ...trace }) => resolved(trace, colours));
  return Plotly.react(place, data, layout, { displayModeBar: false, responsive: !width });
}

function drawAll(width) {
  return Promise.all(Object.keys(PLOTS.figures).map(name => draw(name, width)));
}

async function unpack() {
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), c => c.charCodeAt(0));
  const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.textContent = text;
  document.head.append(script);
}

async function start() {
  if (!window.Plotly) await unpack();
  await drawAll();
  document.documentElement.dataset.plots = "drawn";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => drawAll());
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    drawAll(PAPER_WIDTH);
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    drawAll();
  });
}

if (document.getElementById("library") || window.Plotly) {
  start().catch(problem => {
    document.documentElement.dataset.plots = "failed";
    document.querySelectorAll(".plot > div").forEach(place => {
      place.style.minHeight = 0;
      place.textContent = "This browser cannot draw the plot (" + problem + "); the tables contain the figures.";
      place.className = "empty";
    });
  });
}

document.querySelectorAll(".switch").forEach(box => {
  const buttons = [...box.querySelectorAll("button")];
  buttons.forEach(button => button.addEventListener("click", () => {
    buttons.forEach(b => b.setAttribute("aria-pressed", String(b === button)));
    chosen[box.dataset.plot] = button.textContent;
    draw(box.dataset.plot);
  }));
});

// The data of a figure as CSV, as figure_data.py writes it.
function csvOf(figure) {
  const plain = value => {
    const text = String(value ?? "").replace(/\u200b/g, "").replace(/&lt;/g, "<").replace(/&amp;/g, "&");
    return /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
  };
  const cell = value => typeof value === "number" ? String(Number(value.toFixed(5))) : plain(value);
  const quoted = text => /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  const rows = [["axis", "series", "view", "x", "y", "low", "high"]];
  figure.data.filter(trace => trace.mode !== "text").forEach(trace => {
    const across = typeof trace.x === "string" ? PLOTS.series[trace.x.slice(1)] : trace.x;
    const axis = figure.layout[(trace.yaxis || "y").replace("y", "yaxis")]?.title?.text;
    if (trace.type === "heatmap") {
      trace.y.forEach((name, row) => across.forEach((x, i) =>
        rows.push([plain(trace.name), plain(name), plain(trace.view), cell(x), cell(trace.z[row][i]), "", ""])));
      return;
    }
    const ends = trace.error_x || trace.error_y;
    across.forEach((x, i) => {
      const middle = trace.error_x ? x : trace.y[i];
      const end = (values, sign) => values?.[i] == null ? "" : middle + sign * values[i];
      rows.push([plain(axis), plain(trace.meta ?? trace.name), plain(trace.view), cell(x), cell(trace.y[i]),
        cell(end(ends?.arrayminus, -1)), cell(end(ends?.array, 1))]);
    });
  });
  return rows.map(row => row.map(quoted).join(",") + "\n").join("");
}

document.querySelectorAll("button.csv").forEach(button => button.addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csvOf(PLOTS.figures[button.dataset.plot])], { type: "text/csv" }));
  link.download = button.dataset.plot + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}));

// Clicking a column header sorts by that column, clicking again reverses the order; rows without a value stay last.
document.querySelectorAll("table.sort thead th").forEach((head, column) => {
  head.querySelector("button").addEventListener("click", () => {
    const upward = head.getAttribute("aria-sort") !== "ascending";
    head.parentNode.querySelectorAll("th").forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", upward ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const key = row => {
      const text = row.cells[column].dataset.v ?? row.cells[column].textContent;
      return text !== "" && !isNaN(text) ? Number(text) : text;
    };
    const rows = [...body.rows].map(row => [key(row), row]);
    const order = (a, b) => a === b ? 0 : a === "" ? 1 : b === "" ? -1 : (a > b ? 1 : -1) * (upward ? 1 : -1);
    rows.sort((a, b) => order(a[0], b[0])).forEach(([, row]) => body.append(row));
  });
});

// Highlight the link of the current section.
const links = new Map([...document.querySelectorAll("nav a[href^='#']")].map(a => [a.hash.slice(1), a]));
const seen = new IntersectionObserver(entries => entries.forEach(entry => {
  if (!entry.isIntersecting) return;
  links.forEach(a => a.classList.remove("here"));
  links.get(entry.target.id)?.classList.add("here");
}), { rootMargin: "-60px 0px -70% 0px" });
document.querySelectorAll("section[id]").forEach(section => seen.observe(section));

// Expand collapsed parts for printing.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach(d => { d.open = true; });
});
addEventListener("afterprint", () => opened.forEach(d => { d.open = false; }));
