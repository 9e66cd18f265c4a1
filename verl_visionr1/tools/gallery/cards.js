// The list: one shell per row, filled only near the window, so that thousands of rows stay fast.

const NEAR = "900px 0px";
const GRAVE = 0.25; // least loss of quality that is highlighted
let items = [];
let observer = null;

function showList() {
  items = answering();
  const list = document.getElementById("list");
  if (observer) observer.disconnect();
  observer = new IntersectionObserver(whenNear, { rootMargin: NEAR });
  list.replaceChildren(...items.map(shellOf));
  for (const item of items) observer.observe(item.shell);
  const fitting = items.reduce((sum, item) => sum + item.fitting.size, 0);
  const all = DATA.samples.length;
  document.getElementById("status").replaceChildren(
    h("b", {}, plural(items.length, "group")), ` of ${ROWS.length.toLocaleString("en")}, `,
    h("b", {}, plural(fitting, "rollout")), ` of ${all.toLocaleString("en")}`,
  );
  if (!items.length) list.append(h("p", { class: "empty" }, all ? "Nothing matches these filters." : "No rollouts."));
}

function shellOf(item, place) {
  item.shell = h("article", { class: item.samples.length > 1 ? "card" : "card single", tabindex: 0, "data-place": place, "aria-label": `prompt ${place + 1}` });
  return item.shell;
}

function whenNear(entries) {
  for (const { target, isIntersecting, boundingClientRect } of entries) {
    if (isIntersecting && !target.firstChild) {
      target.style.minHeight = "";
      target.append(...cardOf(items[Number(target.dataset.place)]));
      target.classList.add("filled");
    } else if (!isIntersecting && target.firstChild && target !== document.activeElement) {
      target.style.minHeight = `${boundingClientRect.height}px`;
      target.replaceChildren();
      target.classList.remove("filled");
    }
  }
}

function cardOf({ row, samples, fitting }) {
  const { group, prompt } = row;
  const step = row.isMerged ? null : group.step;
  const heading = h("header", {},
    h("span", { class: "where" }, [DATA.dumps[group.dump], step === null ? null : `step ${step}`,
      short(DATA.sources[prompt.source])].filter(Boolean).join(" · ")),
    h("h2", { title: prompt.question, dir: "auto" }, prompt.question || "(no question in the dump)"),
    prompt.truth ? h("span", { class: "truth" }, "truth ", h("b", {}, prompt.truth.slice(0, 80))) : null,
    h("span", { class: "facts" }, factsOf(row)),
  );
  return [heading, h("div", { class: "tiles" }, samples.map((sample) => tileOf(sample, fitting.has(sample), row.isMerged)))];
}

function factsOf({ group, prompt, isMerged, samples }) {
  if (isMerged) return samples.length > 1 ? [h("span", {}, `${samples.length} steps`)] : [];
  const facts = [h("span", {}, `mean ${shown(group.mean)}`)];
  if (group.n_all > 1) facts.push(h("span", { title: "standard deviation, divided by n - 1" }, `std ${shown(group.std)}`));
  if (group.n_all > group.n) facts.push(h("span", {}, `${group.n} of ${group.n_all} shown`));
  if (group.is_flat) facts.push(h("span", { class: "flag", title: "all rewards are equal: no gradient" }, "zero variance"));
  if (group.against > 0) {
    const loss = `${measureOf(prompt)} ${signed(-group.against)}`;
    facts.push(h("span", { class: group.against >= GRAVE ? "flag" : null, title: `a rollout with a higher reward has lower ${measureOf(prompt)}` }, `more reward, ${loss}`));
  }
  return facts;
}

function tileOf(sample, isFitting, isMerged) {
  const label = `${isMerged ? `step ${sample.group.step}, ` : ""}reward ${shown(sample.reward)}, ${measureOf(sample.prompt)} ${shown(sample.quality, 2)}: enlarge`;
  const frame = picture(sample) || h("div", { class: "answer" }, sample.answer || sample.text.slice(-160) || "(empty)");
  return h("div", { class: isFitting ? "tile" : "tile dim" },
    h("button", { class: "enlarge", type: "button", "aria-label": label, onclick: () => openDetail(sample) }, frame),
    h("div", { class: "numbers" },
      h("b", { title: sample.group.is_saved ? "the run's reward" : "reward, recomputed" }, shown(sample.reward)),
      sample.advantage === null ? null : h("span", { class: sample.advantage < 0 ? "adv less" : "adv", title: "advantage" }, signed(sample.advantage)),
      h("span", { class: sample.misled ? "quality misled" : "quality", title: sample.misled ? "rewarded above a better rollout" : "" },
        `${measureOf(sample.prompt).replace("@.5", "").replace("accuracy", "acc")} ${shown(sample.quality, 2)}`)),
    isMerged && sample.group.step !== null ? h("div", { class: "step" }, `step ${sample.group.step}`) : null,
    h("div", { class: "bars" }, sample.preset.criteria.map((name, i) => criterionBar(sample, name, i))),
    sample.differs ? h("div", { class: "flag" }, `recomputed ${shown(sample.value)}`) : null,
    sample.why ? h("div", { class: "cause", title: sample.why }, sample.why) : null,
    textOf(sample),
  );
}

function criterionBar(sample, name, i) {
  const value = sample.metrics[i];
  const weight = sample.preset.weights[i];
  return h("div", { class: weight ? "bar" : "bar unpaid", title: `${name} ${shown(value)}, weight ${weight}` },
    h("span", {}, weight === 1 ? name : `${name} ×${weight}`), h("i", { "--v": Math.min(Math.max(value, 0), 1) }), h("span", {}, shown(value, 2)));
}

function textOf(sample) {
  const body = h("pre", { dir: "auto" });
  return h("details", { class: "text", ontoggle: () => body.firstChild || body.append(visible(sample.text)) },
    h("summary", { dir: "auto" }, sample.text.slice(0, 90).replace(/\s+/g, " ") || "(empty)"), body);
}
