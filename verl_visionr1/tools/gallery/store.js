// The payload, and its conversion to elements: texts only become text nodes.

const DATA = JSON.parse(document.getElementById("payload").textContent);
const PICTURES = JSON.parse(document.getElementById("pictures").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MISSED = DATA.kinds.findIndex((kind) => kind.name === "missed");

// Invisible characters: controls, marks of direction, zero widths, halves of surrogate pairs.
const ODD =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** A text with everything invisible spelled out. */
function visible(text) {
  return String(text).replace(ODD, (unit) => "\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0"));
}

/** An element; strings among its children become text, null is left out. */
function h(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else element.setAttribute(key, value === true ? "" : visible(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : visible(child));
  }
  return element;
}

const shown = (number, digits = 3) => (number === null || number === undefined ? "–" : number.toFixed(digits));
const signed = (number, digits = 2) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(digits);
const short = (source) => source.split("/").pop();
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

/** What the quality of a task is called. */
const measureOf = (prompt) => (prompt.task === "detection" || prompt.task === "grounding" ? "F1@.5" : "accuracy");

// A row of the list: the rollouts of a prompt at a step, or at all its steps if each has one.
const ROWS = [];
{
  const merged = new Map();
  DATA.groups.forEach((group, g) => {
    const prompt = DATA.prompts[group.prompt];
    const items = [];
    for (let s = group.first; s < group.first + group.n; s++) {
      const sample = DATA.samples[s];
      Object.assign(sample, { number: s, group, prompt, preset: DATA.presets[prompt.preset] });
      items.push(sample);
    }
    const key = `${group.dump} ${group.prompt}`;
    if (group.n_all === 1 && merged.has(key)) {
      merged.get(key).samples.push(...items);
      return;
    }
    const row = { order: g, group, prompt, samples: items, isMerged: group.n_all === 1 };
    if (row.isMerged) merged.set(key, row);
    ROWS.push(row);
  });
  for (const row of ROWS) {
    for (const sample of row.samples) sample.row = row;
    if (row.isMerged) row.samples.sort((a, b) => (a.group.step ?? -1) - (b.group.step ?? -1));
  }
}
