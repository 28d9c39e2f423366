"""Parts that gradio lacks, in its HTML, CSS and JavaScript: tiles, a map of codes, a pad to draw on."""

CSS = """
.gradio-container > main {width: 100% !important; max-width: 1180px !important; margin: 0 auto !important}
.says textarea {font-weight: 600} .command textarea {font-family: ui-monospace, monospace}
.tiles, .cells {display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr))}
.tiles figure {margin: 0; font-size: 12px; text-align: center; cursor: pointer}
.tiles img, .square img {width: 100%; margin: 0; image-rendering: pixelated; border-radius: 6px}
.square {position: relative; max-width: 420px; aspect-ratio: 1; margin: 0 auto; container-type: inline-size}
.square > * {position: absolute; inset: 0; width: 100%; height: 100%}
.square canvas {touch-action: none; cursor: crosshair}
.cells button {color: #fff; text-shadow: 0 0 3px #000, 0 0 3px #000; background: none; cursor: pointer;
  padding: 0; border: 1px solid #0003; min-width: 0; overflow: hidden}
.cells button.chosen {outline: 3px solid #ff3b6b; outline-offset: -3px} .square .cells {gap: 0}
.cells button:hover {background: #0005}
.pens {display: flex; gap: 8px; justify-content: center; margin-top: 10px}
.pens button {width: 30px; height: 30px; border-radius: 50%; border: 1px solid #8888; cursor: pointer}
@media (max-width: 600px) {.gradio-container > main {padding: 8px !important}
  .tab-container button {padding: 0 10px !important}}
"""
TILES = """<div class="tiles">${value.map(([url, name], i) => `<figure data-i="${i}"><img src="${url}"
alt="${name}"><figcaption>${name}</figcaption></figure>`).join("")}</div>"""
MAP = """<div class="square"><img src="${value.url}" alt="the picture"><div class="cells" style="font-size:
${26 / value.grid}cqw; grid-template-columns: repeat(${value.grid}, 1fr)">${value.codes.map((code, i) =>
`<button data-i="${i}" class="${code === value.chosen ? "chosen" : ""}">${code}</button>`).join("")}</div>
</div>"""
# A click on one of tiles or codes is a `select` of its number, with its picture.
CHOOSE = """element.addEventListener("click", e => { const one = e.target.closest("[data-i]");
const i = Number(one?.dataset.i); if (!one) return;
trigger("select", {index: i, value: props.value.url ?? props.value[i][0]}); });"""
PAD = """<div class="square"><img src="${value}" alt="the picture to complete"><canvas width="${side}"
height="${side}"></canvas></div><div class="pens">${colours.map(colour => `<button data-colour="${colour}"
aria-label="draw in ${colour}" style="background: ${colour}"></button>`).join("")}</div>"""
COLOURS = ["#111111", "#ffffff", "#d7263d", "#f4a300", "#2e9e4f", "#2374d8", "#8a5a33"]
# A stroke is drawn over the picture; when it ends, both become the picture, which is the part's value.
STROKES = """let colour = "#111111", last = null;
const on = (name, act) => element.addEventListener(name, e => act(e.target, e));
const at = (pad, e) => [e.offsetX * pad.width / pad.clientWidth, e.offsetY * pad.width / pad.clientWidth];
on("pointerdown", (pad, e) => { colour = pad.dataset.colour ?? colour;
  if (pad.tagName === "CANVAS") { pad.setPointerCapture(e.pointerId); last = at(pad, e); } });
on("pointermove", (pad, e) => { if (!last) return; const pen = pad.getContext("2d");
  Object.assign(pen, {lineWidth: pad.width / 16, lineCap: "round", strokeStyle: colour});
  pen.beginPath(); pen.moveTo(...last); last = at(pad, e); pen.lineTo(...last); pen.stroke(); });
on("pointerup", pad => { if (!last) return; last = null;
  const whole = pad.cloneNode(), pen = whole.getContext("2d"); pen.imageSmoothingEnabled = false;
  for (const layer of [element.querySelector("img"), pad]) pen.drawImage(layer, 0, 0, pad.width, pad.width);
  props.value = whole.toDataURL("image/png"); });"""
