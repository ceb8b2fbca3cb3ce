"use strict";
// The controls are the state: they are read from the address's hash, and written back to it. Names come from the
// data set and the model, so they enter the page only as text or attribute values, never as HTML.

const CARDS_AT_ONCE = 24;
const DARKNESS = 175; // of 255, outside the region

const byId = (id) => document.getElementById(id);
const controls = { q: byId("query"), category: byId("category"), sort: byId("sort") };
const detectorsOnly = byId("detectors");
const cards = byId("cards");

const summaries = [...document.querySelectorAll("section.summary")];
const layerNames = summaries.map((section) => section.dataset.name);
const categoryNames = [...controls.category.options].slice(1).map((option) => option.value);

const layers = []; // layer index -> its data, once its file has run
let current = 0; // index of the layer on show
let matches = []; // its units that pass the filters, in order
let shown = 0; // how many of them have a card

// ---- data ----

function receiveLayer(index, data) { // called by data/layer_<index>.js
  layers[index] = data;
  if (index === current) showUnits();
}

function loadLayer(index) {
  if (layers[index]) return showUnits();
  cards.replaceChildren();
  byId("count").textContent = "Loading …";
  const file = document.createElement("script");
  file.src = `data/layer_${index}.js`;
  file.onerror = () => (byId("count").textContent = `${file.getAttribute("src")} is missing beside this page.`);
  document.head.append(file);
}

// ---- the address's hash ----

function readHash() {
  if (location.hash === "#units") return; // the skip link's
  const state = new URLSearchParams(location.hash.slice(1));
  for (const [key, control] of Object.entries(controls)) control.value = state.get(key) ?? "";
  if (controls.category.selectedIndex < 0) controls.category.selectedIndex = 0;
  if (controls.sort.selectedIndex < 0) controls.sort.selectedIndex = 0;
  detectorsOnly.checked = state.get("detectors") === "1";
  current = Math.max(0, layerNames.indexOf(state.get("layer")));
  showLayer();
}

function writeHash() {
  const state = new URLSearchParams({ layer: layerNames[current] });
  if (controls.q.value) state.set("q", controls.q.value);
  if (controls.category.value) state.set("category", controls.category.value);
  if (controls.sort.selectedIndex > 0) state.set("sort", controls.sort.value);
  if (detectorsOnly.checked) state.set("detectors", "1");
  history.replaceState(null, "", `#${state}`);
}

// ---- filters and order ----

function chooseUnits(layer) {
  const query = controls.q.value.trim().toLowerCase();
  const exact = /^"(.*)"$/.exec(query)?.[1];
  const fits = layer.concepts.map(([name, category]) => {
    const text = name.toLowerCase();
    const found = exact === undefined ? text.includes(query) : text === exact;
    return found && (!controls.category.value || category === controls.category.value);
  });
  const anyConcept = !query && !controls.category.value;
  const units = [];
  layer.label.forEach((label, unit) => {
    if (detectorsOnly.checked && !layer.detector[unit]) return;
    if (label < 0 ? anyConcept : fits[label]) units.push(unit);
  });
  return units.sort(ORDERS[controls.sort.value](layer));
}

const byIou = (layer) => (a, b) => layer.iou[b] - layer.iou[a] || a - b;
const ORDERS = {
  iou: byIou,
  unit: () => (a, b) => a - b,
  label: (layer) => {
    const rank = [];
    const places = [...layer.concepts.keys()];
    const collator = new Intl.Collator("en", { numeric: true });
    places.sort((a, b) => collator.compare(layer.concepts[a][0], layer.concepts[b][0]) || a - b);
    places.forEach((place, i) => (rank[place] = i));
    const rankOf = (unit) => rank[layer.label[unit]] ?? Infinity; // units without a concept come last
    return (a, b) => {
      const [first, second] = [rankOf(a), rankOf(b)];
      return first === second ? byIou(layer)(a, b) : first - second;
    };
  },
};

// ---- the page ----

function showLayer() {
  summaries.forEach((section, i) => (section.hidden = i !== current));
  for (const tab of document.querySelectorAll("nav a")) {
    if (Number(tab.dataset.layer) === current) tab.setAttribute("aria-current", "true");
    else tab.removeAttribute("aria-current");
  }
  loadLayer(current);
}

function showUnits() {
  const layer = layers[current];
  matches = chooseUnits(layer);
  shown = 0;
  painter.disconnect();
  cards.replaceChildren();
  const [some, all] = [matches.length.toLocaleString("en"), layer.label.length.toLocaleString("en")];
  byId("count").textContent = some === all ? `${all} units` : `${some} of ${all} units`;
  byId("nothing").hidden = matches.length > 0;
  byId("nothing").textContent = layer.label.length ? "No unit matches." : "This layer has no units.";
  showMore();
}

function showMore() {
  const end = Math.min(shown + CARDS_AT_ONCE, matches.length);
  cards.append(...matches.slice(shown, end).map((unit) => makeCard(layers[current], unit)));
  shown = end;
  more.disconnect(); // observing anew reports again if the end is still near
  if (shown < matches.length) more.observe(byId("more"));
}

function makeCard(layer, unit) {
  const card = byId("card").content.firstElementChild.cloneNode(true);
  const [name, category] = layer.concepts[layer.label[unit]] ?? ["no concept", ""];
  const find = (selector) => card.querySelector(selector);
  card.classList.toggle("detector", Boolean(layer.detector[unit]));
  find("h3").textContent = name;
  find(".dot").classList.add(colourOf(category));
  find(".category").textContent = category;
  find(".number").textContent = `unit ${unit}`;
  find(".iou").textContent = `IoU ${layer.iou[unit].toFixed(3)}`;
  find(".chance").textContent = layer.chance[unit];
  find(".gauge span").style.width = `${100 * Math.min(1, layer.iou[unit] / topIou(layer))}%`;
  find("details").ontoggle = (event) => {
    if (!event.target.querySelector("tr")) find("table").append(...makeDetails(layer, unit));
  };
  find(".strip").append(...layer.images[unit].map((image, i) => makeTile(layer, unit, image, i)));
  find(".strip").style.setProperty("--tiles", layer.images[unit].length);
  find(".strip").setAttribute("aria-label", `Top images of unit ${unit}`);
  painter.observe(card);
  paintings.set(card, () => paintRegions(card, layer, unit));
  return card;
}

function makeDetails(layer, unit) {
  const rows = layer.best[unit].map(([place, iou]) => {
    const [name, category] = layer.concepts[place];
    return makeRow(category, name, iou.toFixed(3), colourOf(category));
  });
  return [makeRow("threshold", layer.threshold[unit], "", ""), ...rows];
}

function makeRow(heading, text, number, colour) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  if (colour) {
    const dot = document.createElement("span");
    dot.className = `dot ${colour}`;
    head.append(dot);
  }
  head.append(heading);
  row.append(head);
  row.insertCell().textContent = text;
  row.insertCell().textContent = number;
  return row;
}

function makeTile(layer, unit, image, i) {
  const tile = byId("tile").content.firstElementChild.cloneNode(true);
  const picture = tile.querySelector("img");
  picture.alt = `${layer.imageNames[image]}, activation ${layer.activations[unit][i]}`;
  picture.src = `images/${image}.jpg`;
  tile.title = picture.alt;
  return tile;
}

function colourOf(category) {
  const i = categoryNames.indexOf(category);
  return i < 0 ? "none" : `c${i % 8}`;
}

function topIou(layer) {
  layer.topIou ??= layer.iou.reduce((a, b) => Math.max(a, b), 0) || 1;
  return layer.topIou;
}

// ---- regions ----

function paintRegions(card, layer, unit) {
  const bytes = atob(layer.regions[unit]);
  let at = 0;
  for (const canvas of card.querySelectorAll("canvas")) {
    canvas.width = canvas.height = layer.grid;
    const context = canvas.getContext("2d");
    const veil = context.createImageData(layer.grid, layer.grid); // black, its alpha 0 where lit
    const cells = layer.grid * layer.grid;
    for (let cell = 0, lit = false; cell < cells; lit = !lit) {
      let run = bytes.charCodeAt(at++);
      if (run > 127) run = (run & 127) | (bytes.charCodeAt(at++) << 7);
      for (const end = cell + run; cell < end; cell++) veil.data[4 * cell + 3] = lit ? 0 : DARKNESS;
    }
    context.putImageData(veil, 0, 0);
  }
}

function wipeRegions(card) { // an empty canvas holds no memory
  for (const canvas of card.querySelectorAll("canvas")) canvas.width = canvas.height = 0;
}

const paintings = new WeakMap(); // card -> what paints it
const painter = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) paintings.get(entry.target)();
    else wipeRegions(entry.target);
  }
}, { rootMargin: "400px" });

const more = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) showMore();
}, { rootMargin: "1200px" });

// ---- start ----

let writing;
function controlsChanged() {
  if (layers[current]) showUnits();
  clearTimeout(writing); // browsers limit how often the address may change
  writing = setTimeout(writeHash, 300);
}
for (const control of [...Object.values(controls), detectorsOnly]) control.addEventListener("input", controlsChanged);
window.addEventListener("hashchange", readHash);
readHash();
