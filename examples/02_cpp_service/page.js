"use strict";
const $ = id => document.getElementById(id);
const canvas = $("canvas");
const least = $("least").querySelector("input"), cover = $("cover").querySelector("input");
const MAP_SIDE = 1600;  // pixels of the overlay's longer side: enough for a screen, whatever the picture's size

let models = [], picture = null, result = null, asked = null;
let turns = 0;  // how many pictures were chosen
let lit = -1, pinned = -1;  // the entry that is pointed at, and the one that was clicked

const percent = value => (value > 0 && value < .001 ? "< 0.1" : (100 * value).toFixed(value < .1 ? 1 : 0)) + " %";
const time = ms => ms < 1000 ? ms.toFixed(ms < 10 ? 1 : 0) + " ms" : (ms / 1000).toFixed(2) + " s";
const words = name => name.replaceAll("_", " ");
const sheetOf = (width, height) => Object.assign(document.createElement("canvas"), {width, height});
const make = (name, text = "") => Object.assign(document.createElement(name), {textContent: text});

// Colours: the golden angle keeps neighbouring numbers apart, and a number's colour is always the same.
const pixel = sheetOf(1, 1).getContext("2d", {willReadFrequently: true});
const colours = new Map();
function colourOf(id) {
  if (!colours.has(id)) {
    pixel.fillStyle = `oklch(${[.68, .58, .78][id % 3]} .18 ${(250 + id * 137.508) % 360})`;
    pixel.fillRect(0, 0, 1, 1);
    colours.set(id, [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3));
  }
  return colours.get(id);
}
const titleOf = entry => `${entry.name} ${percent(entry.value)}`;
const css = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;
const inkOn = ([r, g, b]) => .299 * r + .587 * g + .114 * b > 140 ? "#000" : "#fff";

// COCO's compressed run lengths: six bits a letter, five of them digits, the difference to the last but one. In turns,
// runs are outside and inside of the mask, column by column.
function runsOf(counts) {
  const runs = [];
  for (let at = 0; at < counts.length;) {
    let value = 0, shift = 0, six;
    do {
      six = counts.charCodeAt(at++) - 48;
      value |= (six & 31) << shift;
      shift += 5;
    } while (six & 32);
    if (six & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// Which entry is where: its index at every pixel, -1 where none is; the first entries lie on top.
function mapOf(entries, width, height) {
  const scale = Math.min(1, MAP_SIDE / Math.max(width, height));
  const map = {width: Math.ceil(width * scale), height: Math.ceil(height * scale), scale};
  map.of = new Int16Array(map.width * map.height).fill(-1);
  for (let index = entries.length - 1; index >= 0; --index) {
    let at = 0, inside = false;
    for (const run of runsOf(entries[index].rle.counts)) {
      for (const end = inside ? at + run : 0; at < end;) {
        const x = Math.floor(at / height), stop = Math.min(end, (x + 1) * height);
        const top = Math.floor((at - x * height) * scale), bottom = Math.floor((stop - 1 - x * height) * scale);
        for (let y = top; y <= bottom; ++y) map.of[y * map.width + Math.floor(x * scale)] = index;
        at = stop;
      }
      if (!inside) at += run;
      inside = !inside;
    }
  }
  return map;
}

function overlayOf({of, width, height}) {
  const image = new ImageData(width, height), one = selected(), alpha = 255 * cover.value / 100;
  for (let at = 0; at < of.length; ++at) {
    const index = of[at];
    if (index < 0) continue;
    const x = at % width, edge = x > 0 && of[at - 1] !== index || x < width - 1 && of[at + 1] !== index ||
      (of[at - width] ?? index) !== index || (of[at + width] ?? index) !== index;
    image.data.set(result.shown[index].colour, 4 * at);
    image.data[4 * at + 3] = one >= 0 && one !== index ? alpha / 5 : edge ? Math.min(255, alpha * 1.8) : alpha;
  }
  const layer = sheetOf(width, height);
  layer.getContext("2d").putImageData(image, 0, 0);
  return layer;
}

const selected = () => lit >= 0 ? lit : pinned;

function draw() {
  canvas.hidden = !picture?.bitmap;
  $("empty").hidden = !canvas.hidden;
  if (canvas.hidden) return;
  const {bitmap} = picture, room = Math.max(240, innerHeight * (innerWidth > 800 ? .82 : .62));
  const scale = Math.min($("stage").clientWidth / bitmap.width, room / bitmap.height), dots = devicePixelRatio;
  canvas.style.width = bitmap.width * scale + "px";
  canvas.style.height = bitmap.height * scale + "px";
  canvas.width = Math.round(bitmap.width * scale * dots);
  canvas.height = Math.round(bitmap.height * scale * dots);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (!result) return;
  if (result.map) pen.drawImage(overlayOf(result.map), 0, 0, canvas.width, canvas.height);
  pen.scale(canvas.width / result.width, canvas.height / result.height);
  drawBoxes(pen, result.width / bitmap.width / scale);
}

// Boxes, then their names, so that none is crossed out; on top what is pointed at, then the best. `unit`: a CSS pixel.
function drawBoxes(pen, unit) {
  const one = result.shown[selected()], boxed = result.shown.filter(entry => entry.box);
  boxed.sort((a, b) => (b === one) - (a === one));
  const alphaOf = entry => one && one !== entry ? .25 : 1;
  pen.lineWidth = 3 * unit;
  for (const entry of boxed.toReversed()) {
    pen.globalAlpha = alphaOf(entry);
    pen.strokeStyle = css(entry.colour);
    pen.strokeRect(...entry.box);
  }
  const size = 13 * unit, pad = 4 * unit, height = size + 1.5 * pad, taken = [];
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  for (const entry of boxed) {
    const text = titleOf(entry), width = pen.measureText(text).width + 2 * pad;
    const place = placeOf(entry.box, width, height, taken);
    if (!place) continue;
    const [x, y] = place;
    taken.push([x, y, width, height]);
    pen.globalAlpha = alphaOf(entry);
    pen.fillStyle = css(entry.colour);
    pen.fillRect(x, y, width, height);
    pen.fillStyle = inkOn(entry.colour);
    pen.fillText(text, x + pad, y + height / 2);
  }
  pen.globalAlpha = 1;
}

// Where a box's name hides no other: above the box, below it, or inside; nowhere if all is taken: the list has it.
function placeOf([left, top, wide, high], width, height, taken) {
  const within = (value, most) => Math.max(0, Math.min(value, most));
  const places = [];
  for (const y of [top - height, top + high, top, top + high - height]) {
    for (const x of [left, left + wide - width]) {
      places.push([within(x, result.width - width), within(y, result.height - height)]);
    }
  }
  const free = ([x, y]) => !taken.some(([a, b, c, d]) => x < a + c && a < x + width && y < b + d && b < y + height);
  return places.find(free);
}

// The entry below a point of the canvas: of boxes the smallest.
function entryAt(event) {
  if (!result) return -1;
  const x = event.offsetX / canvas.clientWidth * result.width, y = event.offsetY / canvas.clientHeight * result.height;
  const {map} = result, here = map ? map.of[Math.floor(y * map.scale) * map.width + Math.floor(x * map.scale)] : -1;
  if (here >= 0) return here;
  const area = index => result.shown[index].box[2] * result.shown[index].box[3];
  const around = [...result.shown.keys()].filter(index => {
    const box = result.shown[index].box;
    return box && x >= box[0] && y >= box[1] && x <= box[0] + box[2] && y <= box[1] + box[3];
  });
  return around.sort((a, b) => area(a) - area(b))[0] ?? -1;
}

function point(index) {
  if (index === lit) return;
  lit = index;
  [...$("found").querySelectorAll(".row")].forEach((row, at) => row.classList.toggle("lit", at === lit));
  draw();
}

// What the three kinds of answers have in common; a model without names has numbers.
const ENTRY = {
  predictions: e => ({id: e.class, label: e.label, value: e.probability}),
  detections: e => ({id: e.category_id, label: e.label, value: e.score, box: e.bbox, rle: e.segmentation}),
  classes: e => ({id: e.category_id, label: e.label, value: e.share, rle: e.segmentation}),
};
const TITLE = {
  predictions: "Classes, by probability",
  detections: "Objects, by score",
  classes: "Classes, by share of the picture",
};

function read(answer) {
  const kind = Object.keys(ENTRY).find(key => key in answer);
  const entries = answer[kind].map(ENTRY[kind]);
  for (const entry of entries) {
    entry.name = entry.label || `class ${entry.id}`;
    entry.colour = colourOf(entry.id);
  }
  return {kind, entries, width: answer.width ?? 1, height: answer.height ?? 1, complete: answer.complete ?? true};
}

// Draws and lists the entries that are to be seen.
function show() {
  lit = pinned = -1;
  const {kind, entries, width, height} = result, scored = kind === "detections";
  result.shown = scored ? entries.filter(entry => entry.value >= least.value / 100) : entries;
  result.map = result.shown.some(entry => entry.rle) ? mapOf(result.shown, width, height) : null;
  $("least").hidden = !scored;
  $("cover").hidden = !entries.some(entry => entry.rle);
  $("found").hidden = false;
  $("found").querySelector("h2").textContent = TITLE[kind];
  $("found").querySelector("ol").replaceChildren(...result.shown.map(rowOf));
  const count = result.shown.length, of = scored && count < entries.length ? ` of ${entries.length}` : "";
  let text = `${count}${of} ${scored ? "object" : "class"}${count === 1 ? "" : scored ? "s" : "es"} in ${picture.name}`;
  if (scored && !count && entries.length) text += `: the best has a score of ${percent(entries[0].value)}`;
  if (!result.complete) text += "; more may be there: the engine compared its best candidates only";
  $("status").textContent = text + picture.note;
  canvas.ariaLabel = [text, ...result.shown.slice(0, 10).map(titleOf)].join(", ");
  draw();
}

function rowOf(entry, index) {
  const item = make("li"), row = make("button"), swatch = make("i"), track = make("u"), bar = make("s");
  row.type = "button";
  row.className = "row";
  row.ariaPressed = "false";
  swatch.style.background = bar.style.background = css(entry.colour);
  bar.style.width = 100 * entry.value + "%";
  track.append(bar);
  row.append(swatch, make("span", entry.name), make("b", percent(entry.value)), track);
  row.onpointerenter = row.onfocus = () => point(index);
  row.onpointerleave = row.onblur = () => point(-1);
  row.onclick = () => {
    pinned = pinned === index ? -1 : index;
    [...item.parentElement.children].forEach((other, at) => other.firstChild.ariaPressed = String(at === pinned));
    draw();
  };
  item.append(row);
  return item;
}

function list(section, pairs) {
  $(section).hidden = !pairs.length;
  const entries = pairs.flatMap(([name, text]) => [make("dt", name), make("dd", text)]);
  $(section).querySelector("dl").replaceChildren(...entries);
}

function fail(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = !sentence;
}

const model = () => models[$("model").selectedIndex];
// Relative to the page, which a proxy may have put below a path of its own.
const addressOf = path => new URL(path.replace(/^\//, ""), document.baseURI);

function tellFacts() {
  const {path, input, ...told} = model();
  const text = value => typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
  told.task = words(told.task);
  const facts = Object.entries(told).map(([name, value]) => [words(name), text(value)]);
  if (input) facts.push(["input", input.height ? `${input.height} × ${input.width ?? "any"}` : "any size"]);
  list("facts", facts);
}

// The answer's JSON; throws an Error whose message is one sentence.
async function exchange(address, options) {
  let response, text;
  try {
    response = await fetch(address, options);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Error("the service does not answer: see whether it runs, and try again");
  }
  let json = null;
  try {
    json = JSON.parse(text);
  } catch { /* not from the service itself */ }
  if (response.ok && json) return [json, response];
  throw Error(json?.error ?? `the service answered ${response.status} ${response.statusText} where JSON was expected`);
}

function tellRaw(address, answer) {
  const shorter = (key, value) => key === "counts" && value.length > 40 ? value.slice(0, 40) + "…" : value;
  const quoted = picture.name.replaceAll("'", "'\\''");
  const other = picture.note ? "# not this file, but the browser's copy of it was sent\n" : "";
  const command = `${other}curl --data-binary '@${quoted}' '${address}'`;
  $("raw").querySelector("pre").textContent = `${command}\n\n${JSON.stringify(answer, shorter, 1)}`;
  $("raw").hidden = false;
}

async function ask() {
  asked?.abort();
  const mine = asked = new AbortController();
  result = null;
  for (const id of ["found", "times", "raw", "least", "cover"]) $(id).hidden = true;
  fail("");
  $("busy").hidden = false;
  $("status").textContent = `Asking about ${picture.name} …`;
  draw();
  try {
    if (!models.length) await learn();
    const [body, note] = await sentOf(picture);
    if (mine !== asked) return;
    picture.note = note;
    const address = addressOf(model().path), begin = performance.now();
    const headers = {Accept: "application/json", "Content-Type": "application/octet-stream"};
    const request = {method: "POST", body, headers, signal: mine.signal};
    const [answer, response] = await exchange(address, request);
    const answered = performance.now();
    if (mine !== asked) return;
    result = read(answer);
    show();
    const inside = /dur=([\d.]+)/.exec(response.headers.get("Server-Timing") ?? "");
    list("times", [
      ["Round trip", time(answered - begin)],
      ...(inside ? [["Of it in the service", time(Number(inside[1]))]] : []),
      ["Drawing", time(performance.now() - answered)],
    ]);
    tellRaw(address, answer);
  } catch (error) {
    if (mine !== asked) return;
    $("status").textContent = `No answer about ${picture.name}`;
    fail(error.message);
  } finally {
    if (mine === asked) $("busy").hidden = true;
  }
}

// Whether the picture's EXIF data say that it lies on its side: the service follows them for all but classifiers.
function isTurned(bytes) {
  const text = new TextDecoder("latin1").decode(bytes);
  const at = /Exif\0\0|eXIf/.exec(text);
  if (!at) return false;
  const begin = at.index + at[0].length, little = text.startsWith("II", begin);
  const view = new DataView(bytes.buffer, begin);
  try {
    const first = view.getUint32(4, little), count = view.getUint16(first, little);
    for (let entry = first + 2; entry < first + 2 + 12 * count; entry += 12) {
      if (view.getUint16(entry, little) === 0x112) return view.getUint16(entry + 8, little) !== 1;
    }
  } catch { /* cut short */ }
  return false;
}

async function take(file) {
  if (!file) return;
  const turn = ++turns;
  asked?.abort();
  asked = null;
  const next = {name: file.name || "the picture", file, note: "", bitmap: null};
  const head = await file.slice(0, 1 << 16).arrayBuffer().then(bytes => new Uint8Array(bytes), () => null);
  if (turn !== turns) return;  // another one was chosen meanwhile
  if (!head) {  // of a folder, or a file that is gone
    $("busy").hidden = true;
    $("status").textContent = "";
    return fail("the file cannot be read: choose another");
  }
  next.known = head[0] === 0xff && head[1] === 0xd8 || head[0] === 0x89 && head[1] === 0x50;
  next.turned = isTurned(head);
  try {
    next.bitmap = await createImageBitmap(file);
  } catch { /* the service says what is wrong with it */ }
  if (turn !== turns) return;
  picture = next;
  await ask();
}

// What is sent of the picture, and a note where that is not its file: JPEG and PNG go as they are; what the service does
// not read, or a classifier would read lying, is written anew by the browser.
async function sentOf({file, bitmap, known, turned}) {
  if (!bitmap || known && !(turned && model().task === "classification")) return [file, ""];
  const sheet = sheetOf(bitmap.width, bitmap.height), pen = sheet.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  const written = await new Promise(done => sheet.toBlob(done, "image/jpeg", .95));
  return written ? [written, known ? ", sent upright" : ", sent as JPEG"] : [file, ""];
}

async function learn() {
  const [answer] = await exchange(addressOf("v1/models"));
  models = answer.models;
  $("model").replaceChildren(...models.map(entry => make("option", `${entry.name} (${words(entry.task)})`)));
  $("model").hidden = models.length < 2;
  tellFacts();
}

for (const [button, input] of [["choose", "file"], ["camera", "shot"]]) {
  $(button).onclick = () => $(input).click();
  $(input).onchange = () => take($(input).files[0]).finally(() => $(input).value = "");  // the same one again is a change
}
$("model").onchange = () => (tellFacts(), picture && ask());
addEventListener("paste", event => take([...event.clipboardData.files].find(file => file.type.startsWith("image/"))));
addEventListener("dragover", event => (event.preventDefault(), $("stage").classList.add("over")));
addEventListener("dragleave", event => event.relatedTarget || $("stage").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  $("stage").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
for (const slider of [least, cover]) {
  slider.oninput = () => {
    slider.nextElementSibling.value = slider.value + " %";
    slider === least ? show() : draw();
  };
}
canvas.onpointermove = canvas.onpointerdown = event => point(entryAt(event));
canvas.onpointerleave = () => point(-1);
addEventListener("resize", draw);
learn().catch(error => fail(error.message));
