"use strict";
// Live pages without a framework: the server renders everything. A change in the pool, or in a form, fetches the page again and
// replaces the parts that are marked with data-live and differ.
document.documentElement.classList.add("scripted");
const PAUSE = 1000;  // milliseconds between two updates
let timer = 0;
let asked = 0;

document.querySelectorAll("[data-live]").forEach(part => { part.dataset.was = part.innerHTML; });

// A log shows its end, unless the reader has scrolled up.
let atEnd = true;
function follow(log) {
  if (atEnd) log.scrollTop = log.scrollHeight;
  log.addEventListener("scroll", () => { atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4; });
}
document.querySelectorAll("[data-follow]").forEach(follow);

function openDetails(part) {
  return new Set([...part.querySelectorAll("details[open][id]")].map(one => one.id));
}

function replacePart(part, fresh) {
  const open = openDetails(part);
  const checked = new Set([...part.querySelectorAll("input:checked")].map(one => one.value));
  const focus = part.contains(document.activeElement) ? document.activeElement : null;
  const address = focus && (focus.getAttribute("href") || focus.id || focus.getAttribute("name"));
  const scrolls = [...part.querySelectorAll(".scroll, pre:not([data-follow])")].map(one => [one.scrollLeft, one.scrollTop]);
  part.replaceChildren(...fresh.childNodes);
  part.querySelectorAll("details[id]").forEach(one => { one.open = open.has(one.id) || one.open; });
  part.querySelectorAll("input[type=checkbox]").forEach(one => { one.checked = checked.has(one.value); });
  part.querySelectorAll("[data-follow]").forEach(follow);
  part.querySelectorAll(".scroll, pre:not([data-follow])").forEach((one, i) => { if (scrolls[i]) [one.scrollLeft, one.scrollTop] = scrolls[i]; });
  if (address) {
    const same = one => [one.getAttribute("href"), one.id, one.getAttribute("name")].includes(address);
    [...part.querySelectorAll("a, summary, input, select, pre")].find(same)?.focus({ preventScroll: true });
  }
}

async function update(address) {
  const turn = ++asked;
  let answer;
  try {
    answer = await fetch(address, { headers: { Accept: "text/html" } });
  } catch {
    return;  // the server has ended; the event source says so
  }
  if (!answer.ok || turn !== asked) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (turn !== asked) return;
  document.querySelectorAll("[data-live]").forEach(part => {
    const fresh = page.getElementById(part.id);
    if (fresh && fresh.innerHTML !== part.dataset.was) {
      part.dataset.was = fresh.innerHTML;
      replacePart(part, fresh);
    }
  });
  document.dispatchEvent(new CustomEvent("updated"));
}

function soon() {
  if (timer) return;
  timer = setTimeout(() => { timer = 0; if (!document.hidden) update(location.href); }, PAUSE);
}

// -- events -----------------------------------------------------------------------------------------------------------

const sign = document.getElementById("live");
if (document.body.dataset.events) {
  const source = new EventSource(document.body.dataset.events);
  const say = (text, state) => { sign.textContent = text; sign.className = "live " + state; };
  source.addEventListener("open", () => say("live", "on"));
  source.addEventListener("error", () => say("connection lost; trying again", "off"));
  const news = document.getElementById("news");
  source.addEventListener("change", () => { if (news) news.hidden = false; else soon(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
  addEventListener("pagehide", () => source.close());
}

// -- forms ------------------------------------------------------------------------------------------------------------

document.querySelectorAll("form[data-live-form]").forEach(form => {
  let wait = 0;
  const submit = () => {
    const chosen = [...new FormData(form)].filter(([, value]) => value !== "");
    const address = new URL(form.action);
    address.search = new URLSearchParams(chosen);
    history.replaceState(null, "", address);
    update(address);
  };
  form.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(submit, 200); });
  form.addEventListener("submit", event => { event.preventDefault(); submit(); });
});

// -- keyboard ---------------------------------------------------------------------------------------------------------

// Arrow keys move between the cells of a grid.
document.addEventListener("keydown", event => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const cell = document.activeElement?.closest?.(".grid-table td");
  if (!step || !cell) return;
  const rows = [...cell.closest("tbody").rows];
  let column = cell.cellIndex, row = rows.indexOf(cell.parentElement), next = null;
  do {
    column += step[0];
    row += step[1];
    next = rows[row]?.cells[column];
  } while (next && !next.querySelector("a"));
  const target = next?.querySelector("a");
  if (target) {
    event.preventDefault();
    target.focus();
  }
});
