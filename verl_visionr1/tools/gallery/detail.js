// One enlarged rollout: boxes, text and numbers, highlighted together.

let current = null;

function openDetail(sample) {
  current = sample;
  state.open = String(sample.number);
  writeHash();
  const dialog = document.getElementById("detail");
  dialog.replaceChildren(...detailOf(sample).filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.focus();
  dialog.scrollTop = 0;
}

function closeDetail() {
  const dialog = document.getElementById("detail");
  if (dialog.open) dialog.close();
}

function whenClosed() {
  if (!current) return;
  const item = items.find(({ row }) => row === current.row);
  current = null;
  state.open = "";
  writeHash();
  if (item) focusCard(items.indexOf(item));
}

/** The rollout so many further in its row, or the first of the row so many further in the list. */
function moveDetail(along, across) {
  if (!current) return;
  const place = items.findIndex(({ row }) => row === current.row);
  const here = place < 0 ? current.row.samples : items[place].samples;
  const next = along ? here[here.indexOf(current) + along] : items[place + across]?.samples[0];
  if (next) openDetail(next);
}

function detailOf(sample) {
  const { prompt, row, group } = sample;
  const hot = (i) => {
    for (const element of document.querySelectorAll("#detail .hot")) element.classList.remove("hot");
    if (i !== null) for (const element of document.querySelectorAll(`#detail [data-i="${i}"]`)) element.classList.add("hot");
    said.replaceChildren(i === null ? hint : describe(sample, i));
  };
  const hint = sample.predictions.length ? "point at a box" : "";
  const said = h("p", { class: "said", "aria-live": "polite" }, hint);
  const tabs = h("nav", { class: "tabs", "aria-label": "Rollouts of this prompt" }, row.samples.map((other, i) =>
    h("button", { type: "button", "aria-current": other === sample ? "true" : null, onclick: () => openDetail(other) },
      row.isMerged && other.group.step !== null ? `step ${other.group.step}` : `${i + 1}`, h("small", {}, shown(other.reward, 2)))));
  const where = [DATA.dumps[group.dump], group.step === null ? null : `step ${group.step}`, DATA.sources[prompt.source], prompt.task];
  return [
    h("header", {},
      h("p", { class: "where" }, where.filter(Boolean).join(" · ")),
      h("div", { class: "steps" },
        h("button", { type: "button", title: "previous prompt (k)", "aria-label": "previous prompt", onclick: () => moveDetail(0, -1) }, "↑"),
        h("button", { type: "button", title: "next prompt (j)", "aria-label": "next prompt", onclick: () => moveDetail(0, 1) }, "↓"),
        h("button", { type: "button", title: "close (Esc)", "aria-label": "close", onclick: closeDetail }, "✕"))),
    h("h2", { dir: "auto" }, prompt.question || "(no question in the dump)"),
    tabs,
    otherSteps(row),
    h("div", { class: "columns" },
      h("div", {}, picture(sample, { isLarge: true, onhover: hot }), said, predictionsTable(sample, hot)),
      h("div", {}, ...numbersOf(sample), h("h3", {}, "Completion"), h("pre", { class: "completion", dir: "auto" }, sample.text), ...origin(sample))),
  ];
}

/** The same prompt at the other steps of its dump. */
function otherSteps(row) {
  const same = ROWS.filter((other) => other.prompt === row.prompt && other.group.dump === row.group.dump && other.group.step !== null);
  if (same.length < 2) return null;
  return h("nav", { class: "tabs", "aria-label": "This prompt at other steps" }, "this prompt at ", same.map((other) =>
    h("button", { type: "button", "aria-current": other === row ? "true" : null, onclick: () => openDetail(other.samples[0]) },
      `step ${other.group.step}`, h("small", {}, `mean ${shown(other.group.mean, 2)}`))));
}

function describe(sample, i) {
  const [kind, label, , target, overlap, repeats] = sample.predictions[i];
  const name = target >= 0 ? sample.prompt.objects[target]?.[0] : "";
  const near = target < 0 ? "" : `, ${overlapOf(sample, overlap)} object ${target + 1}${name ? ` (${name})` : ""}`;
  const before = repeats >= 0 ? `, as prediction ${repeats + 1} before it` : "";
  return visible(`${i + 1} ${label || "(no label)"}: ${DATA.kinds[kind].name}${near}${before}`);
}

const overlapOf = (sample, overlap) =>
  sample.prompt.task === "pointing" ? `${shown(overlap, 0)} px from` : `IoU ${shown(overlap, 2)} with`;

function numbersOf(sample) {
  const { preset, group, prompt } = sample;
  const parts = preset.criteria.map((name, i) => h("tr", {},
    h("th", { scope: "row", title: preset.about[i] }, name), h("td", {}, String(preset.weights[i])), h("td", {}, shown(sample.metrics[i])),
    h("td", {}, shown((preset.weights[i] * sample.metrics[i]) / preset.divisor)),
    h("td", {}, h("i", { class: "meter", "--v": Math.min(Math.max(sample.metrics[i], 0), 1) }))));
  const others = preset.metrics.slice(preset.criteria.length).map((name, i) => `${name} ${shown(sample.metrics[preset.criteria.length + i])}`);
  const rule = DATA.thresholds[group.thresholds];
  const limits = preset.has_thresholds ? ` (match from IoU ${rule.match_iou}, full recall from ${rule.recall_full}, full IoU from ${rule.iou_full})` : "";
  const lines = [
    h("p", { class: "total" }, "reward ", h("b", {}, shown(sample.reward)),
      sample.advantage === null ? null : h("span", {}, ` advantage ${signed(sample.advantage)}`)),
    sample.why ? h("p", { class: "why" }, sample.why) : null,
    sample.differs ? h("p", { class: "flag" }, `The run gave ${shown(sample.saved)}; recomputed: ${shown(sample.value)}.`) : null,
    sample.misled ? h("p", { class: "flag" }, `Rewarded above a rollout with better ${measureOf(prompt)}.`) : null,
    prompt.truth || sample.answer ? h("p", {}, "answer ", h("b", {}, sample.answer || "not readable"), ", ground truth ", h("b", {}, prompt.truth)) : null,
    h("table", {}, h("thead", {}, h("tr", {}, ["criterion", "weight", "value", "share", ""].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, parts)),
    h("p", { class: "fine" }, `${preset.name}${limits}: ${others.join(", ")}.`),
  ];
  if (sample.advantage !== null) {
    const formula = `(${shown(sample.reward)} − ${shown(group.mean)}) / (${shown(group.std)} + 1e-6) = ${signed(sample.advantage, 3)}`;
    const of = group.is_saved ? "the run's rewards" : "recomputed rewards";
    lines.push(h("p", { class: "fine" }, `Advantage ${formula}: over ${group.n_all} rollouts, ${of}, std divided by n − 1 as in verl's GRPO.`));
  }
  return lines.filter(Boolean);
}

function predictionsTable(sample, hot) {
  const missed = sample.objects.flatMap((kind, t) => (kind === MISSED ? [t] : []));
  if (!sample.predictions.length && !missed.length) return null;
  const rows = sample.predictions.map(([kind, label, , target, overlap], i) =>
    h("tr", { "data-i": i, onpointerenter: () => hot(i), onpointerleave: () => hot(null) },
      h("td", {}, swatch(DATA.kinds[kind].colour), String(i + 1)), h("td", {}, label), h("td", {}, DATA.kinds[kind].name),
      h("td", {}, target >= 0 ? `${target + 1} ${sample.prompt.objects[target]?.[0] ?? ""}` : "–"), h("td", {}, shown(overlap, 2))));
  const lost = missed.map((t) => h("tr", {}, h("td", {}, swatch(DATA.kinds[MISSED].colour, true)), h("td", {}, "–"), h("td", {}, "missed"),
    h("td", {}, `${t + 1} ${sample.prompt.objects[t]?.[0] ?? ""}`), h("td", {}, "–")));
  const last = sample.prompt.task === "pointing" ? "px away" : "IoU";
  const head = ["", "label", "counted as", "object", last].map((name) => h("th", { scope: "col" }, name));
  return h("table", { class: "predictions" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows, lost));
}

function origin(sample) {
  const file = DATA.files[sample.file];
  const quote = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const when = sample.group.progress === null ? "" : ` --progress ${sample.group.progress}`;
  const options = DATA.options ? ` ${DATA.options}` : "";
  const command = `visionr1 explain ${quote(file)} --row ${sample.line}${options}${when}`;
  const length = sample.tokens ? `${plural(sample.tokens, "token")}, ` : "";
  return [
    h("p", { class: "fine" }, `${length}${plural(sample.chars, "character")}. ${file}:${sample.line}`),
    h("pre", { class: "command" }, command),
    sample.prompt.text ? h("details", {}, h("summary", {}, "Prompt"), h("pre", { dir: "auto" }, sample.prompt.text)) : null,
  ].filter(Boolean);
}
