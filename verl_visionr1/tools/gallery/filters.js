// The filters: one state, in the form and in the address, and the rows that match it.

const EMPTY = {
  q: "", dump: "", source: "", task: "", from: "", to: "", min: "", max: "", criterion: "", low: "", high: "",
  cause: "", kind: "", flat: "", against: "", differs: "", sort: "", curves: "", open: "",
};
const SORTS = {
  "": ["in order", (row) => row.order],
  last: ["last step first", (row) => -(row.samples.at(-1).group.step ?? -1)],
  worst: ["lowest reward first", meanOf],
  best: ["highest reward first", (row) => -meanOf(row)],
  spread: ["widest spread first", (row) => -spreadOf(row)],
  against: ["largest loss of quality under more reward first", (row) => -row.group.against],
};
let state = { ...EMPTY };

function meanOf(row) {
  return row.samples.reduce((sum, sample) => sum + sample.reward, 0) / row.samples.length;
}

function spreadOf(row) {
  return row.isMerged ? 0 : row.group.std;
}

function readHash() {
  const asked = new URLSearchParams(location.hash.slice(1));
  state = { ...EMPTY };
  for (const key of Object.keys(EMPTY)) if (asked.has(key)) state[key] = asked.get(key);
}

function writeHash() {
  const told = new URLSearchParams(Object.entries(state).filter(([key, value]) => value !== EMPTY[key]));
  const hash = "#" + told.toString();
  if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
}

/** Rows that answer the state, each with the samples of the steps that are asked for. */
function answering() {
  const query = state.q.trim().toLowerCase();
  const bounds = numbers(["from", "to", "min", "max", "low", "high"]);
  const kept = [];
  for (const row of ROWS) {
    if (!rowFits(row)) continue;
    const here = row.samples.filter((s) => within(s.group.step, bounds.from, bounds.to));
    const fitting = here.filter((sample) => sampleFits(sample, query, bounds));
    if (fitting.length) kept.push({ row, samples: here, fitting: new Set(fitting) });
  }
  const by = SORTS[Object.hasOwn(SORTS, state.sort) ? state.sort : ""][1];
  const keys = new Map(kept.map((item) => [item, by(item.row)]));
  return kept.sort((a, b) => keys.get(a) - keys.get(b) || a.row.order - b.row.order);
}

function numbers(keys) {
  return Object.fromEntries(
    keys.map((key) => [key, state[key] === "" || isNaN(Number(state[key])) ? null : Number(state[key])]),
  );
}

function within(value, low, high) {
  if (low === null && high === null) return true;
  return value !== null && value !== undefined && (low === null || value >= low) && (high === null || value <= high);
}

function rowFits({ group, prompt, isMerged }) {
  if (state.dump && DATA.dumps[group.dump] !== state.dump) return false;
  if (state.source && DATA.sources[prompt.source] !== state.source) return false;
  if (state.task && prompt.task !== state.task) return false;
  if (state.flat && (isMerged || !group.is_flat)) return false;
  return !state.against || (!isMerged && group.against > 0);
}

function sampleFits(sample, query, { min, max, low, high }) {
  if (!within(sample.reward, min, max)) return false;
  if (state.criterion && (low !== null || high !== null)) {
    if (!within(metric(sample, state.criterion), low, high)) return false;
  }
  if (state.cause && DATA.causes[sample.cause] !== state.cause) return false;
  if (state.differs && !sample.differs) return false;
  if (state.kind && !hasKind(sample, DATA.kinds.findIndex((kind) => kind.name === state.kind))) return false;
  return !query || searched(sample).includes(query);
}

function metric(sample, name) {
  const place = sample.preset.metrics.indexOf(name);
  return place < 0 ? null : sample.metrics[place];
}

function hasKind(sample, kind) {
  return kind === MISSED ? sample.objects.includes(MISSED) : sample.predictions.some(([counted]) => counted === kind);
}

function searched(sample) {
  sample.searched ??= [sample.text, sample.prompt.question, sample.why, ...sample.prompt.objects.map(([name]) => name)]
    .join("\n")
    .toLowerCase();
  return sample.searched;
}

// ------------------------------------------------------------------------------------------------ form

const inputs = {};

function makeForm(changed) {
  const metrics = [...new Set(DATA.presets.flatMap((preset) => preset.metrics))];
  const steps = DATA.groups.map((group) => group.step).filter((step) => step !== null);
  const lastStep = steps.reduce((a, b) => Math.max(a, b), 0);
  const counted = (names) => [...names.entries()].sort((a, b) => b[1] - a[1]).map(([name, n]) => [name, `${name} (${n})`]);
  const causes = tally(DATA.samples.filter((s) => s.cause >= 0).map((s) => DATA.causes[s.cause]));
  const tasks = tally(ROWS.map((row) => row.prompt.task));
  const form = document.getElementById("filters");
  const parts = [
    field("Search", input("q", { type: "search", placeholder: "text, label, question", autocomplete: "off" })),
    choice("dump", "Dump", DATA.dumps.map((name) => [name, name])),
    choice("source", "Data source", DATA.sources.map((name) => [name, name])),
    choice("task", "Task", [...tasks.keys()].map((name) => [name, name])),
    lastStep ? range("Step", "from", "to", { min: 0, max: lastStep, step: 1 }) : null,
    range("Reward", "min", "max", { step: "any" }),
    choice("criterion", "Criterion or metric", metrics.map((name) => [name, name]), 1),
    range("Its value", "low", "high", { step: "any" }),
    choice("cause", "First cause", counted(causes), 1),
    choice("kind", "Counted as", DATA.kinds.map(({ name }) => [name, name]), 1),
    h("fieldset", {}, h("legend", {}, "Only"),
      check("flat", "zero-variance groups", ROWS.filter((row) => !row.isMerged && row.group.is_flat).length),
      check("against", "more reward, less quality", ROWS.filter((row) => !row.isMerged && row.group.against > 0).length),
      check("differs", "reward differs when recomputed", DATA.samples.filter((sample) => sample.differs).length)),
    field("Sort", select("sort", Object.entries(SORTS).map(([key, [label]]) => [key, label]), null)),
    h("button", { type: "reset" }, "Reset"),
  ];
  form.append(...parts.filter(Boolean));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    state = { ...EMPTY, curves: state.curves };
    fillForm();
    changed();
  });
  let waiting = 0;
  form.addEventListener("input", (event) => {
    const { name, type, checked, value } = event.target;
    state[name] = type === "checkbox" ? (checked ? "1" : "") : value;
    clearTimeout(waiting);
    waiting = setTimeout(changed, type === "search" || type === "number" ? 150 : 0);
  });
}

function fillForm() {
  for (const [name, element] of Object.entries(inputs)) {
    if (element.type === "checkbox") element.checked = state[name] !== "";
    else element.value = state[name];
  }
}

function tally(names) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) || 0) + 1);
  return counts;
}

function input(name, attributes) {
  return (inputs[name] = h("input", { name, ...attributes }));
}

function field(label, element) {
  return h("label", { class: "field" }, h("span", {}, label), element);
}

function select(name, options, any = "any") {
  const all = any === null ? options : [["", any], ...options];
  return (inputs[name] = h("select", { name }, all.map(([value, label]) => h("option", { value }, label))));
}

/** A choice; none where there is nothing to choose between. */
function choice(name, label, options, least = 2) {
  return options.length >= least ? field(label, select(name, options)) : null;
}

function range(label, low, high, attributes) {
  const ends = [[low, "from"], [high, "to"]];
  const boxes = ends.map(([name, end]) =>
    input(name, { type: "number", inputmode: "decimal", placeholder: end, "aria-label": `${label}, ${end}`, ...attributes }));
  return h("div", { class: "field", role: "group", "aria-label": label }, h("span", {}, label), h("div", { class: "range" }, boxes));
}

function check(name, label, n) {
  return h("label", { class: "check" }, input(name, { type: "checkbox", disabled: n === 0 }), h("span", {}, label),
    h("span", { class: "count" }, n.toLocaleString("en")));
}
