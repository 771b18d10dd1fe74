"use strict";
// Class and file names come from anywhere: they reach the page as text (textContent), never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const served = data.served;
const WORDS = { accept: "accepted", keep: "kept as it is", skip: "skipped", remove: "to be removed" };
const PER_PAGE = 60;
const MOST_PAIRS = 200;
const byId = (id) => document.getElementById(id);
const suspects = byId("suspects");

// Rows -----------------------------------------------------------------------------------------------------------
const rows = data.rows.map((cells, place) => {
  const row = Object.fromEntries(data.fields.map((name, i) => [name, cells[i]]));
  row.place = place;
  row.picture = data.pictures[place] || "";
  return row;
});
const number = (count) => count.toLocaleString("en");
const byRow = new Map(rows.map((row) => [row.row, row]));
const name = (k) => data.classes[k];

// Decisions: row number -> [word, class number or -1, time] ---------------------------------------------------------
const decisions = new Map();
const saving = new Map();
const failed = new Map();
const undone = [];
const key = `acto-decisions:${data.name}:${data.fingerprint}`;
let stored = true;

// What this browser holds: another tab of the same page may have added to it.
function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(key));
    return Array.isArray(found) ? found : data.decisions;
  } catch {
    return stored ? data.decisions : [...decisions];
  }
}

function restore() {
  decisions.clear();
  for (const [row, decision] of served ? data.decisions : kept()) if (byRow.has(row)) decisions.set(row, decision);
}

function store(changed) {
  const all = new Map(kept());
  for (const row of changed) {
    if (decisions.has(row.row)) all.set(row.row, decisions.get(row.row));
    else all.delete(row.row);
  }
  try {
    localStorage.setItem(key, JSON.stringify([...all]));
  } catch {
    stored = false;
  }
}

const time = () => new Date().toISOString().replace(/\.\d+Z$/, "Z");
const latest = (row) => saving.get(row.row) || decisions.get(row.row);
let queue = Promise.resolve();
let revision = data.revision;

// One step, of one sample or of many: [row, word or "", class number or -1] each. One undo takes it back.
function decide(steps, undo = false) {
  if (!steps.length) return;
  if (!undo) undone.push(steps.map(([row, word, label]) => [row, latest(row), word, label]));
  for (const [row] of steps) failed.delete(row.row);
  if (!served) {
    for (const [row, word, label] of steps) {
      if (word) decisions.set(row.row, [word, label, time()]);
      else decisions.delete(row.row);
    }
    store(steps.map(([row]) => row));
    settled(steps, undo);
    return;
  }
  // Only what the server has put on the disk is shown as saved. One request after the other keeps their order.
  const mine = steps.map(([row, word, label]) => [row, [word || "skip", label, ""]]);
  for (const [row, decision] of mine) saving.set(row.row, decision);
  refreshAll();
  queue = queue.then(async () => {
    try {
      const sent = mine.map(([row, [word, label]]) => [row.row, word, label < 0 ? "" : name(label)]);
      const answer = await ask("decide", { method: "POST", body: JSON.stringify({ decisions: sent, since: revision }) });
      for (const [row, [word, label]] of mine) decisions.set(row.row, [word, label, answer.time]);
      elsewhere(answer);
    } catch (error) {
      for (const [row] of mine) failed.set(row.row, String(error.message || error));
    }
    for (const [row, decision] of mine) if (saving.get(row.row) === decision) saving.delete(row.row);
    settled(steps, undo);
  });
}

async function ask(address, options = {}) {
  const headers = { "Content-Type": "application/json", "X-Acto-Token": data.token };
  const answer = await fetch(address, { ...options, headers });
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
  return answer.json();
}

// Decisions of another tab.
function elsewhere(answer) {
  revision = answer.revision;
  for (const [row, decision] of answer.changes) if (byRow.has(row)) decisions.set(row, decision);
  if (!answer.changes.length) return;
  refreshAll();
  count();
}

function catchUp() {
  if (served && !document.hidden) queue = queue.then(() => ask(`changes?since=${revision}`).then(elsewhere, () => {}));
}

window.addEventListener("focus", catchUp);
window.addEventListener("storage", (event) => {
  if (served || event.key !== key) return;
  restore();
  refreshAll();
  count();
});
window.addEventListener("beforeunload", (event) => { if (saving.size || failed.size) event.preventDefault(); });

function settled(steps, undo) {
  refreshAll();
  count();
  const [row, word] = steps[0];
  const fault = steps.map((step) => failed.get(step[0].row)).find(Boolean);
  if (fault) say(`not saved: ${fault}`);
  else if (steps.length > 1) say(`${number(steps.length)} samples ${undo ? "are as they were" : WORDS[word]}`);
  else say(`${row.id}: ${undo ? "undone, now " : ""}${state(row)}`);
}

function state(row) {
  const decision = decisions.get(row.row);
  if (!decision) return "undecided";
  return decision[0] === "accept" ? `becomes ${name(decision[1])}` : WORDS[decision[0]];
}

function act(row, word) {
  if (!row) return false;
  if (word === "accept" && row.predicted_label === row.given_label) {
    say("the model predicts the given label too: choose another label, or keep it");
    return false;
  }
  decide([[row, word, word === "accept" ? row.predicted_label : -1]]);
  return true;
}

function undo() {
  const last = undone.pop();
  if (!last) {
    say("nothing to undo");
    return;
  }
  // What somebody has decided otherwise since stays.
  const mine = last.map(([row, before, word, label]) => [row, before, latest(row) || ["", -1], word, label]);
  const back = mine.filter(([, , now, word, label]) => now[0] === (word || "skip") && now[1] === label);
  decide(back.map(([row, before]) => [row, before ? before[0] : "", before ? before[1] : -1]), true);
  if (back.length < last.length) say(`${number(last.length - back.length)} were decided otherwise since, and stay`);
  const at = back.length === 1 ? shown.indexOf(back[0][0]) : -1;
  if (at >= 0) go(at);
}

// Filters and order -------------------------------------------------------------------------------------------------
const controls = ["show", "given", "suggested", "text", "sort", "least", "most", "sure"].map(byId);
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
  const [show, given, suggested, text, sort, ...bounds] = controls.map((control) => control.value);
  const wanted = text.trim().toLowerCase();
  const [least, most, sure] = bounds.map((bound) => (bound === "" ? null : Number(bound)));
  shown = rows.filter((row) => {
    const decision = decisions.get(row.row);
    const open = !decision || decision[0] === "skip";
    if (show === "issues" && !row.is_label_issue) return false;
    if (show === "open" && !(row.is_label_issue && open)) return false;
    if (show === "decided" && open) return false;
    if (given && row.given_label !== Number(given)) return false;
    if (suggested && row.predicted_label !== Number(suggested)) return false;
    if (least !== null && !(row.label_quality >= least && row.label_quality !== null)) return false;
    if (most !== null && !(row.label_quality <= most && row.label_quality !== null)) return false;
    if (sure !== null && !(row.confidence >= sure)) return false;
    return !wanted || [row.id, row.path, row.text, row.reason].join("\n").toLowerCase().includes(wanted);
  });
  const by = (field, sign) => (a, b) => sign * ((a[field] ?? 2 * sign) - (b[field] ?? 2 * sign)) || a.place - b.place;
  if (sort === "quality") shown.sort(by("label_quality", 1));
  if (sort === "confidence") shown.sort(by("confidence", -1));
  if (sort === "outlier") shown.sort(by("outlier", -1));
  if (sort === "id") shown.sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
  current = 0;
  page = 0;
  byId("pair").value = given && suggested ? `${given},${suggested}` : "";
  render();
}

// The pairs of classes that suspects stand for, the most frequent first.
function pairs() {
  const counts = tally(rows.filter((row) => row.is_label_issue));
  const found = counts.slice(0, MOST_PAIRS).map(([pair, text, count]) => option(pair, `${text} (${number(count)})`));
  byId("pair").replaceChildren(option("", "all"), ...found);
}

function tally(some) {
  const counts = new Map();
  for (const row of some) {
    const pair = `${row.given_label},${row.predicted_label}`;
    counts.set(pair, (counts.get(pair) || 0) + 1);
  }
  const found = [...counts].sort((a, b) => b[1] - a[1]);
  return found.map(([pair, count]) => [pair, pair.split(",").map((k) => name(Number(k))).join(" \u2192 "), count]);
}

// All at once -------------------------------------------------------------------------------------------------------
// Undecided suspects of the list as it is filtered; their suggestion is the predicted label.
const undecided = () => shown.filter((row) => row.is_label_issue && (!latest(row) || latest(row)[0] === "skip"));
let asked = null;

function askAll(word) {
  const some = undecided();
  if (!some.length) {
    say("no undecided suspect is shown");
    return;
  }
  asked = some.map((row) => [row, word, word === "accept" ? row.predicted_label : -1]);
  const what = word === "accept" ? "Accept the suggestion for" : "Keep the given label of";
  byId("ask-title").textContent = `${what} ${number(some.length)} ${some.length === 1 ? "sample" : "samples"}?`;
  const found = tally(some);
  const lines = found.slice(0, 8).map(([, text, count]) => element("li", `${text}: ${number(count)}`));
  if (found.length > 8) lines.push(element("li", `and ${number(found.length - 8)} more pairs of classes`));
  byId("ask-pairs").replaceChildren(...lines);
  byId("ask-yes").textContent = `${word === "accept" ? "Accept" : "Keep"} ${number(some.length)}`;
  byId("ask").showModal();
}

byId("ask-yes").addEventListener("click", () => {
  byId("ask").close();
  decide(asked);
});
byId("ask-no").addEventListener("click", () => byId("ask").close());
byId("ask").addEventListener("close", () => cardOf(shown[current])?.focus());
byId("accept-all").addEventListener("click", () => askAll("accept"));
byId("keep-all").addEventListener("click", () => askAll("keep"));
byId("undo").addEventListener("click", undo);

// Pictures: of the suspect, and the most trusted ones of the two classes ----------------------------------------------
const hasPictures = served ? data.has_pictures : data.pictures.length > 0;
const pictureOf = (row) => (served && data.has_pictures ? `picture/${row.row}?token=${data.token}` : row.picture);
const largeOf = (row) => (served && data.has_large ? `large/${row.row}?token=${data.token}` : pictureOf(row));
const sourceOf = ([row, , picture]) => (served && data.has_pictures ? `picture/${row}?token=${data.token}` : picture);
const referencesOf = (k, row) => (data.references[k] || []).filter((sample) => sample[0] !== row.row);

function picture(source, alt, side) {
  const image = element("img");
  Object.assign(image, { loading: "lazy", decoding: "async", alt, src: source });
  if (side) Object.assign(image, { width: side, height: side });
  return image;
}

function column(k, row) {
  const made = element("div", undefined, "refs");
  made.title = `trusted samples of ${name(k)}`;
  made.setAttribute("aria-hidden", "true"); // in full where a sample is enlarged
  made.append(...referencesOf(k, row).filter(sourceOf).map((sample) => picture(sourceOf(sample), "", 30)));
  return made;
}

// One sample, enlarged ------------------------------------------------------------------------------------------------
const look = byId("look");
let enlarged = null;

function enlarge(row) {
  if (!row) return;
  enlarged = row;
  if (!look.open) look.showModal();
  byId("look-title").textContent = `sample ${row.id}`;
  const source = largeOf(row);
  const large = source ? picture(source, `sample ${row.id}, enlarged`) : element("p", row.text || row.reason || "It has no picture.");
  byId("look-sample").replaceChildren(large);
  byId("look-sample").className = data.photos ? "photo" : "";
  const classes = [[row.given_label, "given"], [row.predicted_label, row.is_label_issue ? "suggested" : "predicted"]];
  byId("look-classes").replaceChildren(...classes.filter(([k], i) => !i || k !== row.given_label).map(([k, word]) => {
    const part = element("section");
    part.append(element("h3", `${word}: ${name(k)}`));
    const list = element("ul");
    for (const sample of referencesOf(k, row)) {
      const item = element("li");
      if (sourceOf(sample)) item.append(picture(sourceOf(sample), `trusted sample of ${name(k)}: ${sample[1]}`, 96));
      else item.append(element("span", sample[3] || sample[1]));
      list.append(item);
    }
    part.append(list.children.length ? list : element("p", "no trusted sample of this class is at hand", "soft"));
    return part;
  }));
  byId("look-facts").textContent = `trust ${row.label_quality === null ? "unknown" : row.label_quality.toFixed(3)}, confidence ${percent(row.confidence)}. ${row.reason || ""}`;
  for (const button of look.querySelectorAll("[data-word=accept]")) button.disabled = row.predicted_label === row.given_label;
  byId("look-state").textContent = words(row);
}

look.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target === look) look.close(); // beside it
  else if (button?.dataset.word) actAndGo(button.dataset.word);
  else if (button?.dataset.step) go(current + Number(button.dataset.step));
  else if (button) look.close();
});
look.addEventListener("close", () => go(shown.indexOf(enlarged))); // the browser goes back to where it was opened

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
  item.dataset.row = row.row;
  if (pictureOf(row)) {
    const trio = element("div", undefined, "trio");
    const button = element("button", undefined, "picture");
    button.type = "button";
    button.setAttribute("aria-label", `enlarge sample ${row.id}`);
    button.append(picture(pictureOf(row), `sample ${row.id}`, 96));
    trio.append(column(row.given_label, row), button, row.predicted_label === row.given_label ? "" : column(row.predicted_label, row));
    item.append(trio);
  }
  if (row.text) item.append(element("p", row.text, "text"));
  const labels = element("p", undefined, "labels");
  labels.append("given ", element("b", name(row.given_label), row.is_label_issue ? "given" : ""));
  labels.append(element("br"), row.is_label_issue ? "suggested " : "predicted ", element("b", name(row.predicted_label), row.is_label_issue ? "new" : ""));
  item.append(labels);
  item.append(element("p", `trust ${row.label_quality === null ? "unknown" : row.label_quality.toFixed(3)}, confidence ${percent(row.confidence)}`));
  if (row.networks_agree === false && !row.reason) item.append(element("p", "the networks disagree"));
  if (row.reason) item.append(element("p", row.reason));
  else if (row.is_confirmed) item.append(element("p", "a person holds this label right"));
  if (row.held_out) item.append(element("p", "held out of training", "held"));
  if (row.outlier >= data.outlying) item.append(element("p", `of no class? outlier ${row.outlier.toFixed(3)}`, "far"));
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

function words(row) {
  if (saving.has(row.row)) return "saving ...";
  if (failed.has(row.row)) return `not saved: ${failed.get(row.row)}`;
  return decisions.has(row.row) ? state(row) + (served ? " (saved)" : "") : "";
}

function paint(item, row) {
  const decision = decisions.get(row.row);
  item.dataset.decision = decision ? decision[0] : "";
  item.classList.toggle("saving", saving.has(row.row));
  item.classList.toggle("failed", failed.has(row.row));
  const isCurrent = shown[current] === row;
  item.classList.toggle("current", isCurrent);
  // One card at a time can be reached with the Tab key, and the arrows lead to the others.
  item.tabIndex = isCurrent ? 0 : -1;
  item.setAttribute("aria-current", String(isCurrent));
  for (const control of item.querySelectorAll("button, select")) control.tabIndex = isCurrent ? 0 : -1;
  item.querySelector(".state").textContent = words(row);
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

function refreshAll() {
  for (const item of suspects.querySelectorAll("[data-row]")) paint(item, byRow.get(Number(item.dataset.row)));
  if (look.open) byId("look-state").textContent = words(shown[current]);
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
  const parts = [`${number(shown.length)} shown`, `${number(words.accept)} accepted`, `${number(words.keep)} kept`, `${number(words.remove)} to be removed`, `${number(words.skip)} skipped`];
  if (saving.size) parts.push(`${number(saving.size)} being saved`);
  if (failed.size) parts.push(`${number(failed.size)} NOT saved: is acto review still at work?`);
  const open = number(undecided().length);
  for (const [id, text] of [["accept-all", "Accept all"], ["keep-all", "Keep all"]]) {
    byId(id).firstChild.textContent = `${text} ${open} `;
    byId(id).disabled = open === "0";
  }
  byId("undo").disabled = !undone.length;
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
  if (look.open) enlarge(shown[current]);
  else if (focus && item) {
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

function actAndGo(word) {
  if (act(shown[current], word)) go(current + 1);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea") || byId("ask").open) return;
  const words = { a: "accept", k: "keep", s: "skip", r: "remove" };
  const pressed = event.key.toLowerCase();
  const steps = { arrowright: 1, arrowleft: -1, arrowdown: columnsNow(), arrowup: -columnsNow() };
  if (event.shiftKey && (pressed === "a" || pressed === "k")) {
    if (!look.open) askAll(words[pressed]);
  } else if (words[pressed]) actAndGo(words[pressed]);
  else if (pressed === "u") undo();
  else if (pressed === "e" || (pressed === "enter" && event.target.matches(".card"))) enlarge(shown[current]);
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
  if (button?.dataset.word) act(row, button.dataset.word);
  else if (button) enlarge(row);
});

suspects.addEventListener("change", (event) => {
  const row = byRow.get(Number(event.target.closest("li[data-row]").dataset.row));
  const label = event.target.value === "" ? -1 : Number(event.target.value);
  if (label < 0) return;
  decide([label === row.given_label ? [row, "keep", -1] : [row, "accept", label]]);
});

suspects.addEventListener("focusin", (event) => {
  const item = event.target.closest("li[data-row]");
  const at = item ? shown.indexOf(byRow.get(Number(item.dataset.row))) : -1;
  if (at >= 0 && at !== current) go(at, false);
});

for (const button of document.querySelectorAll(".before")) button.addEventListener("click", () => turn(-1));
for (const button of document.querySelectorAll(".after")) button.addEventListener("click", () => turn(1));
for (const control of controls) control.addEventListener(control.type === "search" ? "input" : "change", filter);
byId("pair").addEventListener("change", (event) => {
  const [given, suggested] = event.target.value ? event.target.value.split(",") : ["", ""];
  byId("given").value = given;
  byId("suggested").value = suggested;
  filter();
});

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
pairs();
filter();
