// Objects dashed and predictions solid over an image, coloured by how they were counted.

const MAX_LABELLED = 40;

/** A picture with its overlay; grey where the picture is not known; null for tasks without an image. */
function picture(sample, options = {}) {
  const { prompt } = sample;
  const [width, height] = prompt.size_wh;
  if (!width) return null;
  const source = prompt.picture >= 0 ? PICTURES[prompt.picture] : "";
  const image = source ? h("img", { src: source, alt: "", decoding: "async", draggable: "false" }) : null;
  const frame = h("div", { class: source ? "frame" : "frame grey" }, image, overlay(sample, options));
  frame.style.aspectRatio = `${width} / ${height}`;
  return frame;
}

function overlay(sample, { isLarge = false, onhover = null } = {}) {
  const { prompt } = sample;
  const [width, height] = prompt.size_wh;
  const unit = Math.max(width, height) / (isLarge ? 100 : 40);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const box of prompt.ignored) drawing.append(shape(box, { class: "ignored" }, unit));
  prompt.objects.forEach(([, place], i) => {
    const isMissed = sample.objects[i] === MISSED;
    const colour = isMissed ? DATA.kinds[MISSED].colour : "#ffffff";
    if (!isMissed) drawing.append(shape(place, { class: "halo" }, unit, true));
    drawing.append(shape(place, { class: "object", stroke: colour }, unit, true));
  });
  const labels = svg("g", {});
  sample.predictions.forEach(([kind, label, place], i) => {
    const colour = DATA.kinds[kind].colour;
    const drawn = shape(place, { class: "prediction", stroke: colour, "data-i": i }, unit);
    if (onhover) {
      drawn.addEventListener("pointerenter", () => onhover(i));
      drawn.addEventListener("pointerleave", () => onhover(null));
    }
    drawing.append(drawn);
    if (isLarge && i < MAX_LABELLED) labels.append(labelAt(place, `${i + 1} ${label}`, i, unit));
  });
  drawing.append(labels);
  return drawing;
}

function shape(place, attributes, unit, isCross = false) {
  if (place.length === 4) {
    const [x1, y1, x2, y2] = place;
    return svg("rect", { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0), ...attributes });
  }
  const [x, y] = place;
  if (isCross) return svg("path", { d: `M${x - unit} ${y}H${x + unit}M${x} ${y - unit}V${y + unit}`, ...attributes });
  return svg("circle", { cx: x, cy: y, r: unit * 0.8, ...attributes });
}

function labelAt(place, text, i, unit) {
  const size = unit * 2.1;
  const y = place[1] > size * 1.2 ? place[1] - size * 0.3 : place[1] + size;
  const label = text.length > 32 ? text.slice(0, 31) + "…" : text;
  return svg("text", { x: place[0], y, "font-size": size, class: "label", "data-i": i }, label);
}

function swatch(colour, isDashed = false) {
  return h("span", { class: isDashed ? "swatch dashed" : "swatch", "--c": colour });
}

function makeLegend() {
  const entries = DATA.kinds.map(({ name, colour }, kind) => {
    const isObject = kind === MISSED;
    return h("li", {}, swatch(colour, isObject), isObject ? "missed object" : name);
  });
  const used = new Set(DATA.samples.flatMap((sample) => sample.predictions.map(([kind]) => kind)));
  const kept = entries.filter((entry, kind) => kind === MISSED || used.has(kind));
  document.getElementById("legend").append(h("li", {}, swatch("currentColor", true), "object"), ...kept);
}
