"use strict";
// Class and file names come from anywhere: they reach the page as text (textContent), never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const served = data.served;
const WORDS = { accept: "accepted", keep: "kept as it is", skip: "skipped", remove: "to be removed" };
const PER_PAGE = 60;
const byId = (id) => document.getElementById(id);
const suspects = byId("suspects");

// Rows -----------------------------------------------------------------------------------------------------------
const rows = data.rows.map((cells, place) => {
  const row = Object.fromEntries(data.fields.map((name, i) => [name, cells[i]]));
  row.place = place;
  row.picture = data.pictures[place] || "";
  row.search = [row.id, row.path, row.text, row.reason].join("\n").toLowerCase();
  return row;
});
const byRow = new Map(rows.map((row) => [row.row, row]));
const name = (k) => data.classes[k];

// Decisions: row number -> [word, class number or -1, time] ---------------------------------------------------------
const decisions = new Map();
const saving = new Map();
const failed = new Map();
const undone = [];
const key = `acto-decisions:${data.name}:${data.fingerprint}`;
let stored = true;

function restore() {
  let found = data.decisions;
  if (!served) {
    try {
      found = JSON.parse(localStorage.getItem(key) || "[]");
    } catch {
      found = [];
    }
  }
  for (const [row, decision] of found) if (byRow.has(row)) decisions.set(row, decision);
}

function store() {
  try {
    localStorage.setItem(key, JSON.stringify([...decisions]));
  } catch {
    stored = false;
  }
}

const time = () => new Date().toISOString().replace(/\.\d+Z$/, "Z");
let queue = Promise.resolve();

function decide(row, word, label, undo = false) {
  const before = saving.get(row.row) || decisions.get(row.row);
  if (!undo) undone.push([row.row, before]);
  failed.delete(row.row);
  if (!served) {
    if (word) decisions.set(row.row, [word, label, time()]);
    else decisions.delete(row.row);
    store();
    settled(row, undo);
    return;
  }
  // Only what the server has put on the disk is shown as saved. One request after the other keeps their order.
  const mine = [word || "skip", label, ""];
  saving.set(row.row, mine);
  refresh(row);
  const body = JSON.stringify({ row: row.row, decision: word || "skip", new_label: label < 0 ? "" : name(label) });
  queue = queue.then(async () => {
    try {
      const answer = await fetch("decide", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Acto-Token": data.token },
        body,
      });
      if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
      decisions.set(row.row, [word || "skip", label, (await answer.json()).time]);
    } catch (error) {
      failed.set(row.row, String(error.message || error));
    }
    if (saving.get(row.row) === mine) saving.delete(row.row);
    settled(row, undo);
  });
}

function settled(row, undo) {
  refresh(row);
  count();
  say(failed.has(row.row) ? `not saved: ${failed.get(row.row)}` : `${row.id}: ${undo ? "undone, now " : ""}${state(row)}`);
}

function state(row) {
  const decision = decisions.get(row.row);
  if (!decision) return "undecided";
  return decision[0] === "accept" ? `becomes ${name(decision[1])}` : WORDS[decision[0]];
}

function act(row, word) {
  if (!row) return false;
  if (word !== "accept") {
    decide(row, word, -1);
    return true;
  }
  if (row.predicted_label === row.given_label) {
    say("the model predicts the given label too: choose another label, or keep it");
    return false;
  }
  decide(row, "accept", row.predicted_label);
  return true;
}

function undo() {
  const last = undone.pop();
  if (!last) {
    say("nothing to undo");
    return;
  }
  const [number, before] = last;
  const row = byRow.get(number);
  decide(row, before ? before[0] : "", before ? before[1] : -1, true);
  const at = shown.indexOf(row);
  if (at >= 0) go(at);
}

// Filters and order -------------------------------------------------------------------------------------------------
const controls = ["show", "given", "suggested", "text", "sort"].map(byId);
let shown = [];
let current = 0;
let page = 0;

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function options(select, first) {
  const chosen = select.value;
  select.replaceChildren(option("", first), ...data.classes.map((text, k) => option(String(k), text)));
  select.value = chosen;
}

// Sixty cards times a thousand classes are too many options: a card's are there once somebody reaches for them.
for (const kind of ["pointerdown", "focusin"]) {
  suspects.addEventListener(kind, (event) => {
    if (event.target.matches("select") && event.target.options.length <= 2) options(event.target, "another label ...");
  });
}

function filter() {
  const [show, given, suggested, text, sort] = controls.map((control) => control.value);
  const wanted = text.trim().toLowerCase();
  shown = rows.filter((row) => {
    const decision = decisions.get(row.row);
    const open = !decision || decision[0] === "skip";
    if (show === "issues" && !row.is_label_issue) return false;
    if (show === "open" && !(row.is_label_issue && open)) return false;
    if (show === "decided" && open) return false;
    if (given && row.given_label !== Number(given)) return false;
    if (suggested && row.predicted_label !== Number(suggested)) return false;
    return !wanted || row.search.includes(wanted);
  });
  const number = (field, sign) => (a, b) => sign * ((a[field] ?? 2) - (b[field] ?? 2)) || a.place - b.place;
  if (sort === "quality") shown.sort(number("label_quality", 1));
  if (sort === "confidence") shown.sort(number("confidence", -1));
  if (sort === "id") shown.sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
  current = 0;
  page = 0;
  render();
}

// Cards -------------------------------------------------------------------------------------------------------------
function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const percent = (share) => (share === null ? "unknown" : `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)}\u00a0%`);

function card(row) {
  const item = element("li", undefined, data.photos ? "card photo" : "card");
  item.tabIndex = -1;
  item.dataset.row = row.row;
  const source = served && data.has_pictures ? `picture/${row.row}?token=${data.token}` : row.picture;
  if (source) {
    const image = element("img");
    image.loading = "lazy";
    image.decoding = "async";
    image.width = 96;
    image.height = 96;
    image.alt = `sample ${row.id}`;
    image.src = source;
    item.append(image);
  }
  if (row.text) item.append(element("p", row.text, "text"));
  const labels = element("p", undefined, "labels");
  labels.append("given ", element("b", name(row.given_label), row.is_label_issue ? "given" : ""));
  labels.append(element("br"), row.is_label_issue ? "suggested " : "predicted ", element("b", name(row.predicted_label), row.is_label_issue ? "new" : ""));
  item.append(labels);
  item.append(element("p", `trust ${row.label_quality === null ? "unknown" : row.label_quality.toFixed(3)}, confidence ${percent(row.confidence)}`));
  if (row.networks_agree === false && !row.reason) item.append(element("p", "the networks disagree"));
  if (row.reason) item.append(element("p", row.reason));
  if (row.held_out) item.append(element("p", "held out of training", "held"));
  if (row.conflicting_duplicates) item.append(element("p", `same content, other label: ${row.conflicting_duplicates}`));
  else if (row.near_duplicates) item.append(element("p", `near-duplicates: ${row.near_duplicates}`));
  item.append(element("p", row.path && row.path !== row.id ? `sample ${row.id} (${row.path})` : `sample ${row.id}`, "id"));
  item.append(element("p", "", "state"));
  const keys = element("div", undefined, "keys");
  for (const [word, text] of [["accept", "Accept"], ["keep", "Keep"], ["skip", "Skip"], ["remove", "Remove"]]) {
    const button = element("button", `${text} `);
    button.type = "button";
    button.dataset.word = word;
    button.append(element("kbd", word[0]));
    button.setAttribute("aria-label", `${text} sample ${row.id}`);
    if (word === "accept" && row.predicted_label === row.given_label) button.disabled = true;
    keys.append(button);
  }
  item.append(keys);
  const select = element("select");
  select.setAttribute("aria-label", `another label for sample ${row.id}`);
  select.append(option("", "another label ..."));
  item.append(select);
  paint(item, row);
  return item;
}

function paint(item, row) {
  const decision = decisions.get(row.row);
  item.dataset.decision = decision ? decision[0] : "";
  item.classList.toggle("saving", saving.has(row.row));
  item.classList.toggle("failed", failed.has(row.row));
  item.classList.toggle("current", shown[current] === row);
  const words = saving.has(row.row) ? "saving ..." : failed.has(row.row) ? `not saved: ${failed.get(row.row)}` : decision ? state(row) : "";
  item.querySelector(".state").textContent = words + (served && decision && !saving.has(row.row) && !failed.has(row.row) ? " (saved)" : "");
  const select = item.querySelector("select");
  const other = decision && decision[0] === "accept" && decision[1] !== row.predicted_label ? String(decision[1]) : "";
  if (other && select.options.length === 1) select.append(option(other, name(decision[1])));
  select.value = other;
}

const cardOf = (row) => suspects.querySelector(`[data-row="${row.row}"]`);

function refresh(row) {
  const item = cardOf(row);
  if (item) paint(item, row);
}

function render() {
  const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
  page = Math.min(page, pages - 1);
  suspects.replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
  if (!shown.length) suspects.append(element("li", "No sample is left by these filters."));
  for (const place of document.querySelectorAll(".page")) place.textContent = `page ${page + 1} of ${pages}`;
  for (const button of document.querySelectorAll(".before")) button.disabled = page === 0;
  for (const button of document.querySelectorAll(".after")) button.disabled = page === pages - 1;
  count();
}

function count() {
  const words = { accept: 0, keep: 0, skip: 0, remove: 0 };
  for (const [word] of decisions.values()) words[word] += 1;
  const parts = [`${shown.length.toLocaleString("en")} shown`, `${words.accept} accepted`, `${words.keep} kept`, `${words.remove} to be removed`, `${words.skip} skipped`];
  if (saving.size) parts.push(`${saving.size} being saved`);
  if (!stored) parts.push("this browser stores nothing: download before you close the page");
  byId("count").textContent = parts.join(", ");
  if (!served) byId("download").disabled = decisions.size === 0;
}

const say = (text) => { byId("live").textContent = text; };

// Moving about ------------------------------------------------------------------------------------------------------
function go(place, focus = true) {
  if (!shown.length) return;
  const before = shown[current];
  current = Math.max(0, Math.min(place, shown.length - 1));
  const wanted = Math.floor(current / PER_PAGE);
  if (wanted !== page) {
    page = wanted;
    render();
  } else if (before) refresh(before);
  refresh(shown[current]);
  const item = cardOf(shown[current]);
  if (focus && item) {
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }
}

function columnsNow() {
  const items = [...suspects.children];
  const top = items.length ? items[0].offsetTop : 0;
  return Math.max(1, items.filter((item) => item.offsetTop === top).length);
}

function turn(step) {
  go((page + step) * PER_PAGE, false);
  byId("review").scrollIntoView();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const words = { a: "accept", k: "keep", s: "skip", r: "remove" };
  const pressed = event.key.toLowerCase();
  const steps = { arrowright: 1, arrowleft: -1, arrowdown: columnsNow(), arrowup: -columnsNow() };
  if (words[pressed]) {
    if (act(shown[current], words[pressed])) go(current + 1);
  } else if (pressed === "u") undo();
  else if (steps[pressed] && suspects.contains(document.activeElement)) go(current + steps[pressed]);
  else if (pressed === "arrowright" || pressed === "arrowleft") go(current + steps[pressed]);
  else return;
  event.preventDefault();
});

suspects.addEventListener("click", (event) => {
  const item = event.target.closest("li[data-row]");
  if (!item) return;
  const row = byRow.get(Number(item.dataset.row));
  go(shown.indexOf(row), false);
  const button = event.target.closest("button");
  if (button) act(row, button.dataset.word);
});

suspects.addEventListener("change", (event) => {
  const row = byRow.get(Number(event.target.closest("li[data-row]").dataset.row));
  const label = event.target.value === "" ? -1 : Number(event.target.value);
  if (label < 0) return;
  if (label === row.given_label) decide(row, "keep", -1);
  else decide(row, "accept", label);
});

suspects.addEventListener("focusin", (event) => {
  const item = event.target.closest("li[data-row]");
  const at = item ? shown.indexOf(byRow.get(Number(item.dataset.row))) : -1;
  if (at >= 0 && at !== current) go(at, false);
});

for (const button of document.querySelectorAll(".before")) button.addEventListener("click", () => turn(-1));
for (const button of document.querySelectorAll(".after")) button.addEventListener("click", () => turn(1));
for (const control of controls) control.addEventListener(control.type === "search" ? "input" : "change", filter);

// decisions.csv: the same file that `acto review` writes --------------------------------------------------------------
function cell(text) {
  const disarmed = /^[=+\-@\t\r']/.test(text) ? `'${text}` : text;
  return !disarmed || /[",\r\n]/.test(disarmed) ? `"${disarmed.replaceAll('"', '""')}"` : disarmed;
}

function csv() {
  const lines = [data.decision_columns.join(",")];
  for (const [number, [word, label, when]] of decisions) {
    const row = byRow.get(number);
    const cells = { id: row.id, given_label: name(row.given_label), decision: word, new_label: label < 0 ? "" : name(label), time: when };
    lines.push(data.decision_columns.map((title) => cell(cells[title])).join(","));
  }
  return `${lines.join("\n")}\n`;
}

byId("download")?.addEventListener("click", () => {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});

restore();
options(byId("given"), "all");
options(byId("suggested"), "all");
filter();
