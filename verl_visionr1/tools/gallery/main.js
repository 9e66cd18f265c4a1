// The page: drawn once, then again where the state changes.

function changed() {
  writeHash();
  showCurves();
  showList();
}

function makeHeader() {
  document.getElementById("title").textContent = visible(DATA.title);
  const steps = new Set(DATA.groups.map((group) => group.step));
  const part = DATA.n_all > DATA.samples.length ? ` of ${DATA.n_all.toLocaleString("en")}` : "";
  const facts = [`${plural(DATA.samples.length, "rollout")}${part}`, plural(DATA.prompts.length, "prompt"), plural(steps.size, "step"),
    `preset ${DATA.preset}`, `frame ${DATA.frame}`, DATA.moment];
  document.getElementById("about").textContent = visible(facts.join(" · "));
  const notes = DATA.notes.map((note) => h("p", { class: "note" }, note));
  document.getElementById("notes").append(...notes);
}

function focusCard(place) {
  const item = items[Math.min(Math.max(place, 0), items.length - 1)];
  if (!item) return;
  item.shell.focus({ preventScroll: true });
  item.shell.scrollIntoView({ block: "start" });
}

function whenKey(event) {
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], k: [0, -1], j: [0, 1] };
  if (current) {
    if (!moves[event.key]) return;
    moveDetail(...moves[event.key]);
  } else {
    const card = document.activeElement?.closest(".card");
    const place = card ? Number(card.dataset.place) : -1;
    if (event.key === "j") focusCard(place + 1);
    else if (event.key === "k") focusCard(place - 1);
    else if (event.key === "/") inputs.q.focus();
    else if (event.key === "Enter" && document.activeElement === card && card) openDetail(items[place].samples[0]);
    else return;
  }
  event.preventDefault();
}

function readState() {
  readHash();
  fillForm();
  changed();
  const asked = state.open === "" ? undefined : DATA.samples[Number(state.open)];
  if (asked) openDetail(asked);
  else closeDetail();
}

makeHeader();
makeForm(changed);
makeLegend();
if (matchMedia("(max-width: 760px)").matches) document.getElementById("panel").open = false;
document.addEventListener("keydown", whenKey);
document.getElementById("detail").addEventListener("close", whenClosed);
document.getElementById("detail").addEventListener("click", (event) => { if (event.target.id === "detail") closeDetail(); });
addEventListener("hashchange", readState);
readHash();
{
  const asked = state.open;
  readState();
  state.open = asked;
}
requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("gallery-shown")));
