"use strict";
// The photos of this page: each with its data, or with the script beside the page that holds it.
const photos = JSON.parse(document.getElementById("photos").textContent);
const PER_PAGE = 12;
const VIEWS = { cams: "CAM", probabilities: "probability", mask: "mask", truth: "true mask" };
// Of Okabe and Ito: told apart by the colour-blind too. A photo with more classes gets further hues.
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2"];
const IGNORED = "#bbbbbb";
const find = (id) => document.getElementById(id);

let listed = photos.map((_, index) => index); // of the class that is filtered for
let place = 0; // of the photo shown, in that list
let shown = null; // its data, its layers
let probe = null; // {row, column} of the patch that is read
const hiddenClasses = new Set(); // by name: they stay hidden from photo to photo

const colourOf = (index) =>
  COLOURS[index] ?? `hsl(${Math.round(index * 137.5) % 360} 70% 55%)`;

// ---- data: a script at a time, and of the page that is open only

const waiting = new Map();
const loaded = new Map();

function receivePhoto(name, data) {
  waiting.get(name)?.(data);
}

function load(index) {
  const photo = photos[index];
  if (photo.data) return Promise.resolve(photo.data);
  if (!loaded.has(index)) {
    loaded.set(index, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const end = (act) => {
        waiting.delete(photo.name);
        script.remove();
        act();
      };
      waiting.set(photo.name, (data) => end(() => resolve(data)));
      // After a script that ran, this finds the promise resolved.
      script.onload = script.onerror = () =>
        end(() => reject(new Error(`${decodeURIComponent(photo.script)} is missing or broken: keep it beside this page, or run the command again`)));
      script.src = photo.script;
      document.head.append(script);
    }));
  }
  return loaded.get(index);
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function picture(uri) {
  const image = new Image();
  image.src = uri;
  return image.decode().then(() => image);
}

// ---- layers: a canvas for each class, kind and view, coloured where the class is

function mapLayer(values, [height, width], colour) {
  const layer = document.createElement("canvas");
  layer.width = width;
  layer.height = height;
  const context = layer.getContext("2d");
  const image = context.createImageData(width, height);
  values.forEach((value, cell) => { image.data[4 * cell + 3] = value; });
  context.putImageData(image, 0, 0);
  return coloured(layer, colour);
}

function maskLayer(image, colour) {
  const layer = document.createElement("canvas");
  layer.width = image.naturalWidth;
  layer.height = image.naturalHeight;
  layer.getContext("2d").drawImage(image, 0, 0);
  return coloured(layer, colour);
}

function coloured(layer, colour) {
  const context = layer.getContext("2d");
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, layer.width, layer.height);
  return layer;
}

async function maskLayers(uris, colours) {
  if (!uris) return null;
  const images = await Promise.all(uris.map(picture));
  return images.map((image, index) => maskLayer(image, colours[index] ?? IGNORED));
}

async function prepared(index) {
  const data = await load(index);
  const cells = data.grid[0] * data.grid[1];
  const colours = photos[index].labels.map((_, position) => colourOf(position));
  const maps = (values) => colours.map((colour, position) =>
    mapLayer(values.subarray(position * cells, (position + 1) * cells), data.grid, colour));
  const kinds = {};
  for (const [name, held] of Object.entries(data.kinds)) {
    const cams = bytes(held.cams);
    const probabilities = bytes(held.probabilities);
    kinds[name] = {
      values: { cams, probabilities },
      layers: { cams: maps(cams), probabilities: maps(probabilities), mask: await maskLayers(held.mask, colours) },
    };
  }
  return { index, data, cells, colours, kinds, truth: await maskLayers(data.truth, colours) };
}

// ---- the photo

const view = () => document.querySelector('input[name="view"]:checked').value;

// What is left and right of the line: one or two lists of layers, with their names.
function sides() {
  if (view() === "truth") return shown.truth ? [["true mask", shown.truth]] : [];
  return Object.entries(shown.kinds)
    .filter(([, kind]) => kind.layers[view()])
    .map(([name, kind]) => [`${name} ${VIEWS[view()]}`, kind.layers[view()]]);
}

function draw() {
  if (!shown) return;
  const canvas = find("maps");
  const [width, height] = shown.data.size;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const both = sides();
  const split = Number(find("divider").value) / 100;
  const { labels } = photos[shown.index];
  both.forEach(([, layers], side) => {
    context.save();
    if (both.length > 1) {
      context.beginPath();
      context.rect(side ? split * width : 0, 0, side ? (1 - split) * width : split * width, height);
      context.clip();
    }
    layers.forEach((layer, position) => {
      if (!hiddenClasses.has(labels[position])) context.drawImage(layer, 0, 0, width, height);
    });
    context.restore();
  });
  const opacity = Number(find("opacity").value);
  find("opacity-value").value = `${opacity} %`;
  canvas.style.opacity = opacity / 100;
  // Colours of the photo and of the maps would mix: the more map, the greyer the photo.
  find("photo").style.filter = `grayscale(${Math.min(2 * opacity, 100)}%)`;

  const single = both.length < 2;
  find("line").hidden = find("divider").hidden = single;
  find("line").style.left = `${100 * split}%`;
  find("divider").setAttribute("aria-valuetext", `${find("divider").value} % text, ${100 - find("divider").value} % vision`);
  for (const [side, id] of ["left", "right"].entries()) {
    find(id).textContent = both[side]?.[0] ?? "";
    // Gone where the line has left it no room.
    find(id).hidden = !both[side] || (!single && (side ? 1 - split : split) < 0.12);
  }
  drawProbe();
}

function drawProbe() {
  const [rows, columns] = shown.data.grid;
  find("probe").hidden = !probe;
  if (probe) {
    const style = find("probe").style;
    style.left = `${(100 * probe.column) / columns}%`;
    style.top = `${(100 * probe.row) / rows}%`;
    style.width = `${100 / columns}%`;
    style.height = `${100 / rows}%`;
  }
  find("place").textContent = probe
    ? `Patch in row ${probe.row + 1} of ${rows}, column ${probe.column + 1} of ${columns}`
    : "Point at the photo for the values of a patch";
  for (const cell of find("values").querySelectorAll("td")) {
    const value = probe && valueAt(cell.dataset.kind, cell.dataset.what, Number(cell.dataset.row));
    cell.textContent = value === null ? "–" : shownValue(cell.dataset.what, value);
    cell.style.setProperty("--value", value === null ? 0 : 100 * value);
  }
}

function valueAt(kind, what, row) {
  const columns = shown.data.grid[1];
  const value = shown.kinds[kind].values[what][row * shown.cells + probe.row * columns + probe.column];
  return value === undefined ? null : value / 255;
}

function shownValue(what, value) {
  return what === "cams" ? value.toFixed(2) : `${Math.round(100 * value)} %`;
}

function rowNames(labels) {
  return [...labels, "other classes", "background"];
}

function speak() {
  const names = rowNames(photos[shown.index].labels);
  const told = Object.keys(shown.kinds).map((kind) => {
    const values = names.map((name, row) => `${name} ${shownValue("probabilities", valueAt(kind, "probabilities", row))}`);
    return `${kind} prototypes: ${values.join(", ")}`;
  });
  find("spoken").textContent = `${find("place").textContent}. ${told.join("; ")}.`;
}

function fillTable() {
  const { labels } = photos[shown.index];
  const kinds = Object.keys(shown.kinds);
  find("kinds").replaceChildren(
    element("tr", {}, element("th", { scope: "col", rowspan: 2 }, "class"),
      ...kinds.map((kind) => element("th", { scope: "colgroup", colspan: 2 }, kind))),
    element("tr", {}, ...kinds.flatMap(() => ["CAM", "p"].map((what) => element("th", { scope: "col" }, what)))),
  );
  find("values").replaceChildren(...rowNames(labels).map((name, row) => {
    const line = element("tr", {}, element("th", { scope: "row" }, name));
    for (const kind of kinds) {
      for (const what of ["cams", "probabilities"]) {
        const cell = element("td", {});
        Object.assign(cell.dataset, { kind, what, row });
        cell.style.setProperty("--bar", shown.colours[row] ?? "");
        line.append(cell);
      }
    }
    return line;
  }));
  const boxes = labels.map((label, position) => {
    const box = element("input", { type: "checkbox" });
    box.checked = !hiddenClasses.has(label);
    box.onchange = () => {
      hiddenClasses[box.checked ? "delete" : "add"](label);
      draw();
    };
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = shown.colours[position];
    return element("label", {}, box, swatch, label);
  });
  find("classes").replaceChildren(find("classes").querySelector("legend"), ...boxes);
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function fillViews() {
  for (const input of find("views").querySelectorAll("input")) {
    const there = input.value === "truth"
      ? shown.truth
      : Object.values(shown.kinds).some((kind) => kind.layers[input.value]);
    input.disabled = !there;
    input.parentElement.hidden = !there;
    if (!there && input.checked) find("views").querySelector('[value="cams"]').checked = true;
  }
}

async function show(position) {
  place = position;
  const index = listed[place];
  const { name, labels, caption } = photos[index];
  fillPage();
  find("name").textContent = name;
  find("caption").textContent = caption;
  find("previous-photo").disabled = place === 0;
  find("next-photo").disabled = place === listed.length - 1;
  try {
    const ready = await prepared(index);
    if (listed[place] !== index) return; // another was asked for meanwhile
    shown = ready;
    probe = null;
    find("problem").hidden = true;
    find("stage").hidden = false;
    find("stage").parentElement.style.setProperty("--ratio", ready.data.size[0] / ready.data.size[1]);
    find("stage").setAttribute("aria-label", `${name} with its maps`);
    find("photo").src = ready.data.photo;
    find("photo").alt = `Photo ${name}, labelled ${labels.join(", ")}`;
    find("spoken").textContent = "";
    fillViews();
    fillTable();
    draw();
  } catch (error) {
    if (listed[place] !== index) return;
    shown = null;
    find("stage").hidden = find("divider").hidden = true;
    find("values").replaceChildren();
    find("problem").textContent = error.message;
    find("problem").hidden = false;
  }
}

// ---- pages of photos

let pageShown = "";

function fillPage() {
  const page = Math.floor(place / PER_PAGE);
  const pages = Math.ceil(listed.length / PER_PAGE);
  const here = listed.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
  if (pageShown !== `${find("filter").value}:${page}`) {
    pageShown = `${find("filter").value}:${page}`;
    for (const index of loaded.keys()) {
      if (!here.includes(index)) loaded.delete(index);
    }
    find("thumbnails").replaceChildren(...here.map((index, offset) => thumbnail(index, page * PER_PAGE + offset)));
    find("page").textContent = `Page ${page + 1} of ${pages}`;
    find("previous-page").disabled = page === 0;
    find("next-page").disabled = page === pages - 1;
    find("previous-page").parentElement.hidden = pages < 2;
  }
  for (const button of find("thumbnails").querySelectorAll("button")) {
    const current = Number(button.dataset.place) === place;
    button.setAttribute("aria-current", current);
    // One stop of the Tab key for all of them: arrow keys move on from there.
    button.tabIndex = current ? 0 : -1;
  }
}

function thumbnail(index, position) {
  const { name, labels } = photos[index];
  const image = element("img", { alt: "", width: 96, height: 72 });
  const button = element("button", { type: "button", "aria-label": `${name}: ${labels.join(", ")}`, title: name },
    image, element("span", {}, name.split("/").pop()));
  button.dataset.place = position;
  button.onclick = () => {
    show(position);
    // On a narrow screen it lies far above.
    find("name").scrollIntoView({ block: "nearest" });
  };
  load(index).then(
    (data) => { image.src = data.photo; },
    () => { button.append(element("span", {}, "missing")); },
  );
  return element("li", {}, button);
}

function turnTo(position) {
  const focused = find("thumbnails").contains(document.activeElement);
  show(Math.min(Math.max(position, 0), listed.length - 1));
  if (focused) find("thumbnails").querySelector('[aria-current="true"]').focus();
}

function filter() {
  const wanted = find("filter").value;
  listed = photos.map((_, index) => index).filter((index) => !wanted || photos[index].labels.includes(wanted));
  show(0);
}

function fillFilter() {
  const counts = new Map();
  for (const { labels } of photos) {
    for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  const names = [...counts.keys()].sort((one, other) => one.localeCompare(other));
  find("filter").replaceChildren(
    new Option(`all classes (${photos.length})`, ""),
    ...names.map((name) => new Option(`${name} (${counts.get(name)})`, name)),
  );
}

// ---- pointer and keys

function readAt(event) {
  const box = find("stage").getBoundingClientRect();
  const [rows, columns] = shown.data.grid;
  const within = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
  probe = {
    row: within((event.clientY - box.top) / box.height, rows),
    column: within((event.clientX - box.left) / box.width, columns),
  };
  drawProbe();
}

find("stage").onpointermove = (event) => { if (shown) readAt(event); };
find("stage").onpointerdown = (event) => { if (shown) readAt(event); };

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
find("stage").onkeydown = (event) => {
  const step = STEPS[event.key];
  if (!step || !shown) return;
  event.preventDefault();
  const [rows, columns] = shown.data.grid;
  probe = probe
    ? {
        row: Math.min(Math.max(probe.row + step[0], 0), rows - 1),
        column: Math.min(Math.max(probe.column + step[1], 0), columns - 1),
      }
    : { row: Math.floor(rows / 2), column: Math.floor(columns / 2) };
  drawProbe();
  speak();
};

const line = find("line");
line.onpointerdown = (event) => {
  line.setPointerCapture(event.pointerId);
  event.stopPropagation();
};
line.onpointermove = (event) => {
  if (!line.hasPointerCapture(event.pointerId)) return;
  event.stopPropagation();
  const box = find("stage").getBoundingClientRect();
  find("divider").value = Math.round((100 * (event.clientX - box.left)) / box.width);
  draw();
};

find("divider").oninput = draw;
find("opacity").oninput = draw;
find("views").onchange = draw;
find("filter").onchange = filter;
find("previous-photo").onclick = () => turnTo(place - 1);
find("next-photo").onclick = () => turnTo(place + 1);
find("previous-page").onclick = () => turnTo((Math.floor(place / PER_PAGE) - 1) * PER_PAGE);
find("next-page").onclick = () => turnTo((Math.floor(place / PER_PAGE) + 1) * PER_PAGE);
find("thumbnails").onkeydown = (event) => {
  const position = {
    ArrowLeft: place - 1, ArrowUp: place - 1, ArrowRight: place + 1, ArrowDown: place + 1,
    PageUp: place - PER_PAGE, PageDown: place + PER_PAGE, Home: 0, End: listed.length - 1,
  }[event.key];
  if (position === undefined) return;
  event.preventDefault();
  turnTo(position);
};

fillFilter();
find("gallery").hidden = photos.length < 2;
if (photos.length) show(0);
