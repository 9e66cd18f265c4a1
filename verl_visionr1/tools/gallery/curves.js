// Curves over the steps: small multiples, one per number; a line per data source, its style by dump.

const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7f7f7f"];
const DASHES = ["", "5 3", "1.5 2.5", "8 3 2 3"];
const FEW = 5;
const W = 260, H = 120, LEFT = 34, RIGHT = 8, TOP = 8, BOTTOM = 18;

const dumpStyles = [...new Set(DATA.panels.flatMap((panel) => panel.lines.map((line) => line.dump)))];
const sourceColours = [...new Set(DATA.panels.flatMap((panel) => panel.lines.map((line) => line.source)))].filter(Boolean);

const colourOf = (line) => (line.source ? LINES[sourceColours.indexOf(line.source) % LINES.length] : "#7f7f7f");
const dashOf = (line) => DASHES[dumpStyles.indexOf(line.dump) % DASHES.length];
const nameOf = (line) => [line.dump, line.source && short(line.source)].filter(Boolean).join(" ");

function showCurves() {
  const section = document.getElementById("curves");
  const panels = DATA.panels.map((panel) => ({ ...panel, lines: panel.lines.filter(isAsked) })).filter(({ lines }) => lines.length);
  if (!panels.length) return section.replaceChildren();
  const kept = state.curves === "none" ? [] : state.curves === "all" ? panels : panels.slice(0, FEW);
  const choices = [["", "main"], ["all", `all ${panels.length}`], ["none", "hide"]];
  const buttons = choices.map(([value, label]) =>
    h("button", { type: "button", "aria-pressed": String(state.curves === value), onclick: () => { state.curves = value; writeHash(); showCurves(); } }, label));
  section.replaceChildren(
    h("div", { class: "heading" }, h("h2", {}, "Curves"), h("div", { class: "switch" }, buttons), kept.length ? linesLegend(kept) : null),
    h("div", { class: "panels" }, kept.map(panelOf)),
  );
}

function isAsked(line) {
  return (!state.source || !line.source || line.source === state.source) && (!state.dump || line.dump === state.dump || !line.source);
}

function linesLegend(panels) {
  const lines = new Map(panels.flatMap((panel) => panel.lines).map((line) => [nameOf(line), line]));
  return h("ul", {}, [...lines].map(([name, line]) => h("li", {}, sampleLine(line), name)));
}

function sampleLine(line) {
  return svg("svg", { viewBox: "0 0 22 8", width: 22, height: 8, "aria-hidden": "true" },
    svg("path", { d: "M0 4H22", stroke: colourOf(line), "stroke-dasharray": dashOf(line), class: "line" }));
}

function panelOf(panel) {
  const values = panel.lines.flatMap((line) => line.values);
  const x = scale(...STEPS, LEFT, W - RIGHT);
  const [low, high] = nice(least(values), most(values));
  const y = scale(low, high, H - BOTTOM, TOP);
  const text = (at, value, anchor) => svg("text", { x: at[0], y: at[1], "text-anchor": anchor }, value);
  const cursor = svg("path", { class: "cursor" });
  const ends = panel.lines.map((line) => `${nameOf(line)} ${tick(line.values[0])} to ${tick(line.values.at(-1))}`).join("; ");
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${panel.label}: ${ends}` },
    [low, (low + high) / 2, high].map((value) => svg("path", { class: "grid", d: `M${LEFT} ${y(value)}H${W - RIGHT}` })),
    [low, high].map((value) => text([LEFT - 4, y(value) + 3], tick(value), "end")),
    text([LEFT, H - 5], String(STEPS[0]), "start"), text([W - RIGHT, H - 5], String(STEPS[1]), "end"),
    panel.lines.map((line) => svg("path", { class: "line", d: pathOf(line, x, y, STAIRS.includes(panel.name)), stroke: colourOf(line), "stroke-dasharray": dashOf(line) })),
    cursor);
  const told = h("p", { class: "told" });
  const figure = h("figure", { class: "curve" }, h("figcaption", {}, panel.label), drawing, told);
  drawing.addEventListener("pointermove", (event) => point(event, panel, drawing, cursor, told, x));
  drawing.addEventListener("pointerleave", () => { cursor.setAttribute("d", ""); told.replaceChildren(); });
  drawing.addEventListener("click", (event) => {
    const step = nearest(event, panel, drawing, x);
    const isSame = state.from === String(step) && state.to === String(step);
    state.from = state.to = isSame ? "" : String(step);
    fillForm();
    changed();
  });
  return figure;
}

function pathOf(line, x, y, isStairs) {
  const point = (step, i) => `${x(step).toFixed(1)} ${y(line.values[i]).toFixed(1)}`;
  const lead = (step, i) => (!i ? "M" : isStairs ? `H${x(step).toFixed(1)}L` : "L");
  return line.steps.map((step, i) => lead(step, i) + point(step, i)).join("");
}

function nearest(event, panel, drawing, x) {
  const box = drawing.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * W;
  const steps = [...new Set(stepsOf(panel))];
  return steps.reduce((best, step) => (Math.abs(x(step) - at) < Math.abs(x(best) - at) ? step : best));
}

function point(event, panel, drawing, cursor, told, x) {
  const step = nearest(event, panel, drawing, x);
  cursor.setAttribute("d", `M${x(step)} ${TOP}V${H - BOTTOM}`);
  const values = panel.lines.flatMap((line) => {
    const place = line.steps.indexOf(step);
    return place < 0 ? [] : [h("span", {}, sampleLine(line), `${nameOf(line)} ${tick(line.values[place])}`)];
  });
  told.replaceChildren(h("span", {}, `step ${step}`), ...values);
}

const STAIRS = ["stage", "match_iou"];
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

const STEPS = [least(DATA.panels.flatMap(stepsOf)), most(DATA.panels.flatMap(stepsOf))];

function stepsOf(panel) {
  return panel.lines.flatMap((line) => line.steps);
}

/** Bounds of an axis: 0 to 1 for what lies there and fills it, else round numbers around the values. */
function nice(low, high) {
  if (low >= 0 && high <= 1 && high - low > 0.25) return [0, 1];
  const unit = 10 ** Math.floor(Math.log10(high - low || Math.abs(high) || 1));
  const bounds = [Math.floor(low / unit) * unit, Math.ceil(high / unit) * unit];
  return bounds[0] === bounds[1] ? [bounds[0] - unit, bounds[1] + unit] : bounds;
}

const tick = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toFixed(Math.abs(value) >= 10 ? 1 : 3))));
