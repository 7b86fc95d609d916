// A trace to walk through: the text as tokens, each opens its panel; search, colours, keys. `mount` is all that is called from outside.

const KEYS = [
  ["\u2190 \u2192", "the token before, the next one"], ["\u2191 \u2193", "a line up, a line down"], ["Home End", "first and last token"],
  ["Enter", "open the token's panel"], ["Esc", "close it"], ["/", "search"], ["n N", "next match, the one before"],
  ["1 2 3 4", "colour by surprise, rank, entropy, margin"], ["0", "no colour"], ["t", "light or dark"], ["?", "these keys"],
];
const HINT = 'text, or: entropy > 3 and rank > 0';
const SHOWN_PROMPT = 300; // tokens, before "show all"

// root: an empty element. raw: what `report_data` made. options: {isPage, step, by, onStep(step or null), onBy(name)}.
function mount(root, raw, options = {}) {
  const data = new TraceData(raw);
  const live = el("p", "unseen");
  live.setAttribute("aria-live", "polite");
  const ribbon = el("div", "ribbon"), panel = el("aside", "panel"), note = el("span", "found");
  const spans = new Array(data.n).fill(null);
  const state = { closed: new Set(["norms", "timings"]), layer: -1, head: -1 };
  let at = data.nSteps ? data.nPrompt : 0, isOpen = false, by = null, lit = [], hits = [], hit = -1, marked = [], theme = null;
  root.classList.add("fanlight");
  root.classList.toggle("page", !!options.isPage);
  root.tabIndex = -1;
  panel.hidden = true;
  panel.setAttribute("role", "region");
  panel.setAttribute("aria-label", "the token's account");

  // -- head -----------------------------------------------------------------------------------------------------------

  function pairs(rows, kind) {
    return el("dl", kind, ...rows.map(([name, value]) => el("div", "", el("dt", "", name), el("dd", "", visible(value)))));
  }

  function head() {
    const node = el("header", "", el("h1", "", visible(raw.title)));
    if (raw.trouble) {
      const trouble = el("p", "trouble", `\u26a0 ${visible(raw.trouble)}`);
      trouble.setAttribute("role", "alert");
      node.append(trouble);
    }
    const about = [pairs(raw.facts, "facts")];
    const notes = [...raw.notes, ...raw.leftOut.map((text) => `Shortened on this page: ${text}.`)];
    if (notes.length) about.push(el("ul", "notes", ...notes.map((text) => el("li", "", visible(text)))));
    const [table, rows] = headed(["setting", "value", "from"], "settings that are not the default's");
    for (const setting of raw.settings) rows.append(el("tr", "", ...setting.map((text) => cell(visible(text)))));
    const name = raw.settings.length ? count(raw.settings.length, "setting") : "settings: all as by default";
    const more = el("details", "about", el("summary", "", `${name}, and what computed it`));
    if (options.isPage) node.append(...about); else more.append(...about); // a notebook's cell has little room
    if (raw.settings.length) more.append(table);
    more.append(pairs(raw.computedBy, "facts"));
    node.append(more);
    return node;
  }

  function button(text, title, act) {
    const node = el("button", "", text);
    node.type = "button";
    node.title = title;
    node.addEventListener("click", act);
    return node;
  }

  const box = el("input");
  const legend = el("span", "legend"), colours = el("span", "colours", "colour by ");

  function controls() {
    box.type = "search";
    box.placeholder = HINT;
    box.setAttribute("aria-label", "search the tokens");
    box.addEventListener("input", find);
    colours.setAttribute("role", "group");
    colours.setAttribute("aria-label", "colour by");
    for (const measure of [...raw.measures, { name: "nothing", meaning: "no colour" }]) {
      const node = button(measure.name, measure.meaning, () => colour(measure.name));
      node.dataset.by = measure.name;
      colours.append(node);
    }
    note.setAttribute("role", "status");
    const finder = el("span", "finder", box, button("\u2039", "the match before (N)", () => go(-1)), button("\u203a", "next match (n)", () => go(1)), note);
    finder.setAttribute("role", "search");
    return el("div", "controls", colours, finder, el("span", "ends", button("light / dark", "(t)", flip), button("?", "keys", help)));
  }

  // -- overview: the measure over the whole text ----------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  const strip = document.createElementNS(SVG, "svg");
  const shape = (tag, kind) => { const node = document.createElementNS(SVG, tag); node.setAttribute("class", kind); strip.append(node); return node; };
  const ticks = shape("path", "ticks"), line = shape("path", "line"), here = shape("path", "here");
  const across = (step) => (step + 0.5) / Math.max(1, data.nSteps) * 1000;
  strip.setAttribute("viewBox", "0 0 1000 40");
  strip.setAttribute("preserveAspectRatio", "none");
  strip.setAttribute("role", "img");
  strip.setAttribute("class", "strip");
  strip.addEventListener("click", (event) => {
    const place = strip.getBoundingClientRect();
    const step = Math.floor((event.clientX - place.left) / place.width * data.nSteps);
    select(data.nPrompt + Math.max(0, Math.min(data.nSteps - 1, step)), true);
  });

  function drawStrip() {
    const name = by === "nothing" ? "surprise" : by, levels = data.levels(name);
    const n = Math.min(data.nSteps, 500), width = 1000 / Math.max(1, n);
    let path = "", top = 0;
    for (let i = 0; i < data.nSteps; i++) if (levels[i] > levels[top]) top = i;
    for (let k = 0; k < n; k++) {
      let high = 0;
      for (let i = Math.floor(k * data.nSteps / n); i < Math.floor((k + 1) * data.nSteps / n); i++) high = Math.max(high, levels[i]);
      const height = 1 + high / raw.nLevels * 37;
      path += `M${(k * width).toFixed(2)} 40v${-height.toFixed(2)}h${(width * 0.84).toFixed(2)}v${height.toFixed(2)}z`;
    }
    line.setAttribute("d", path);
    strip.setAttribute("aria-label", data.nSteps ? `${name} over the text: highest at step ${top}, ${data.labelAt(data.nPrompt + top)}, ${data.valueWords(name, top)}` : "no token");
  }

  function mark(node, places) {
    node.setAttribute("d", places.map((step) => `M${across(step).toFixed(2)} 0v40`).join(""));
  }

  // -- the text -------------------------------------------------------------------------------------------------------

  function tokenNode(i) {
    const piece = data.pieceAt(i), span = el("span", "t");
    if (piece) {
      visible(piece).split("\n").forEach((part, j) => {
        if (j) span.append(el("span", "nl", "\u21b5"), "\n");
        span.append(part);
      });
    } else {
      const label = data.labelAt(i);
      span.append(el("span", "void", /^\\x/.test(label) ? "\u00b7" : visible(label)));
    }
    span.at = i;
    span.setAttribute("role", "option");
    span.setAttribute("aria-selected", "false");
    if (i < data.nPrompt) span.classList.add("prompt");
    return spans[i] = span;
  }

  function fill(first) {
    let block = el("div", "line");
    const blocks = [block];
    for (let i = first; i < data.n; i++) {
      block.append(spans[i] || tokenNode(i));
      if (/\n$/.test(data.pieceAt(i))) blocks.push(block = el("div", "line"));
    }
    if (!data.nSteps) block.append(el("span", "void", " no token"));
    ribbon.replaceChildren(...blocks.filter((b) => b.firstChild));
  }

  function build() {
    ribbon.setAttribute("role", "listbox");
    ribbon.setAttribute("aria-label", `tokens: ${data.nPrompt} of the prompt, ${data.nSteps} new`);
    ribbon.dir = "auto";
    const hidden = data.nPrompt > SHOWN_PROMPT ? data.nPrompt - SHOWN_PROMPT : 0;
    fill(hidden);
    if (!hidden) return null;
    const more = button(`show the first ${count(hidden, "token")} of the prompt`, "", unfold);
    more.className = "more";
    return more;
  }

  function unfold() {
    if (!more || !more.isConnected) return;
    more.remove();
    fill(0);
  }

  function colour(name) {
    if (name === by) return;
    by = name;
    const levels = name === "nothing" ? null : data.levels(name);
    for (let i = 0; i < data.nSteps; i++) {
      const span = spans[data.nPrompt + i], old = span.level;
      if (old !== undefined) span.classList.remove(old);
      span.level = levels ? `c${levels[i]}` : undefined;
      if (levels) span.classList.add(span.level);
    }
    for (const node of colours.querySelectorAll("button")) node.setAttribute("aria-pressed", String(node.dataset.by === name));
    const measure = raw.measures.find((m) => m.name === name);
    legend.replaceChildren(...(measure ? [`${measure.name}: ${measure.meaning}; ${measure.unit} `, ...measure.ticks.map(([text, level]) => el("i", `c${level}`, text))] : ["no colour; the strip shows surprise"]));
    drawStrip();
    if (options.onBy) options.onBy(name);
  }

  // -- selection ------------------------------------------------------------------------------------------------------

  function select(next, open = isOpen, focus = true) {
    if (!data.n) return;
    if (!spans[next] || !spans[next].isConnected) unfold();
    const before = spans[at];
    if (before) { before.tabIndex = -1; before.classList.remove("at"); before.setAttribute("aria-selected", "false"); }
    at = next;
    const span = spans[at];
    span.tabIndex = 0;
    span.classList.add("at");
    span.setAttribute("aria-selected", "true");
    const wasOpen = isOpen;
    isOpen = open;
    if (focus) span.focus({ preventScroll: true });
    if (isOpen) showPanel(); else if (wasOpen) hidePanel();
    if (focus) span.scrollIntoView({ block: "nearest", inline: "nearest" });
    else if (!options.isPage) requestAnimationFrame(() => bring(span));
    mark(here, data.step(at) >= 0 ? [data.step(at)] : []);
    live.textContent = summary(data, at);
    if (options.onStep) options.onStep(isOpen && data.step(at) >= 0 ? data.step(at) : null);
  }

  function bring(span) { // into the widget's own view: the notebook stays where it is
    const place = span.getClientRects()[0], own = root.getBoundingClientRect(), sheet = panel.getBoundingClientRect();
    if (!place) return;
    const isBeneath = isOpen && sheet.left < place.right && sheet.right > place.left;
    const top = own.top + 70, bottom = (isBeneath ? Math.min(sheet.top, own.bottom) : own.bottom) - 20;
    if (place.bottom > bottom) root.scrollTop += place.bottom - bottom;
    else if (place.top < top) root.scrollTop -= top - place.top;
  }

  function light(weights) {
    for (const span of lit) { span.classList.remove("lit"); span.style.removeProperty("--w"); }
    lit = [];
    for (const [place, weight] of weights) {
      const span = spans[place];
      if (!span) continue;
      span.classList.add("lit");
      span.style.setProperty("--w", weight.toFixed(3));
      lit.push(span);
    }
  }

  const view = { data, state, light, select: (place) => select(place, true), refresh };

  function refresh(key, focused) {
    const section = panel.querySelector(`[data-key="${key}"]`);
    if (!section) return;
    fillSection(section);
    const control = section.querySelector(focused || ":scope > .body > button");
    if (control) control.focus();
  }

  function fillSection(section) {
    const body = section.querySelector(":scope > .body");
    body.replaceChildren();
    section.fill(body);
    section.at = at;
  }

  function showPanel() {
    const step = data.step(at), top = panel.scrollTop;
    light(new Map());
    const title = el("h2", "", el("b", "", visible(data.labelAt(at))));
    const place = step >= 0 ? `step ${step} of ${data.nSteps} \u00b7 position ${at}` : `position ${at}, prompt`;
    title.append(el("small", "", `${place} \u00b7 id ${data.id(data.placeAt(at))}`));
    const close = button("\u2715", "close (Esc)", () => select(at, false));
    close.setAttribute("aria-label", "close the panel");
    const walk = el("span", "walk", button("\u2190", "the token before", () => move(-1)), button("\u2192", "the next token", () => move(1)), close);
    const nodes = [el("div", "top", title, walk)];
    if (step >= 0) {
      const facts = pairs(factsOfStep(data, step).map(([name, value]) => [name, value]), "facts");
      factsOfStep(data, step).forEach(([, , meaning], i) => { facts.children[i].title = meaning; });
      nodes.push(facts);
      const stop = raw.steps.stop[step];
      if (stop) nodes.push(el("p", "stop", `The text ends here: ${visible(stop)}.`));
    } else nodes.push(el("p", "hint", "A token of the prompt: it was given."));
    for (const { key, title: name, fill: make } of panelSections(view, at)) {
      const section = el("details", "section", el("summary", "", name), el("div", "body"));
      section.dataset.key = key;
      section.fill = make;
      section.open = !state.closed.has(key);
      if (section.open) fillSection(section);
      section.addEventListener("toggle", () => {
        if (section.open) state.closed.delete(key); else state.closed.add(key);
        if (section.open && section.at !== at) fillSection(section);
        if (!section.open && key === "attention") light(new Map());
      });
      nodes.push(section);
    }
    panel.replaceChildren(...nodes);
    panel.hidden = false;
    root.classList.add("open");
    panel.scrollTop = top;
  }

  function hidePanel() {
    panel.hidden = true;
    panel.replaceChildren();
    root.classList.remove("open");
    light(new Map());
  }

  function move(way) { select(Math.max(first(), Math.min(data.n - 1, at + way))); }
  function first() { return more && more.isConnected ? data.nPrompt - SHOWN_PROMPT : 0; }

  function vertical(way) {
    const from = spans[at].getClientRects()[0], x = from.left + Math.min(from.width, 30) / 2;
    let best = -1, line = null, distance = Infinity;
    for (let i = at + way; i >= first() && i < data.n; i += way) {
      const place = spans[i].getClientRects()[0];
      if (!place) continue;
      const isBeyond = way > 0 ? place.top >= from.bottom - 4 : place.bottom <= from.top + 4;
      if (!isBeyond) continue;
      if (line === null) line = place.top;
      if (Math.abs(place.top - line) > place.height * 0.7) break;
      const away = x < place.left ? place.left - x : x > place.right ? x - place.right : 0;
      if (away < distance) { distance = away; best = i; }
    }
    if (best >= 0) select(best);
  }

  // -- search ---------------------------------------------------------------------------------------------------------

  function find() {
    for (const span of marked) span.classList.remove("hit", "now");
    const { hits: found, problem } = box.value.trim() ? search(data, box.value) : { hits: [], problem: "" };
    hits = found;
    hit = -1;
    if (hits.some(([place]) => !spans[place])) unfold();
    marked = [...new Set(hits.flat())].map((place) => spans[place]).filter(Boolean);
    for (const span of marked) span.classList.add("hit");
    mark(ticks, hits.map(([place]) => data.step(place)).filter((step) => step >= 0));
    note.textContent = problem || (box.value.trim() ? `${hits.length || "no"} match${hits.length > 1 ? "es" : ""}` : "");
    note.classList.toggle("problem", !!problem);
  }

  function go(way) {
    if (!hits.length) return;
    if (hit >= 0) for (const place of hits[hit]) spans[place].classList.remove("now");
    if (hit < 0) {
      const after = hits.findIndex(([place]) => place >= at);
      hit = way > 0 ? (after < 0 ? 0 : after) : (after < 0 ? hits.length : after) - 1;
    } else hit += way;
    hit = (hit + hits.length) % hits.length;
    for (const place of hits[hit]) spans[place].classList.add("now");
    note.textContent = `${hit + 1} / ${hits.length}`;
    select(hits[hit][0], isOpen, root.getRootNode().activeElement !== box);
    spans[at].scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // -- keys -----------------------------------------------------------------------------------------------------------

  const dialog = el("dialog", "keys", el("h2", "", "Keys"), el("dl", "", ...KEYS.map(([key, words]) => el("div", "", el("dt", "", key), el("dd", "", words)))));
  dialog.append(el("p", "hint", `Search takes text, or conditions such as "${HINT.slice(10)}" over ${Object.keys(FIELDS).join(", ")}.`));
  const done = el("form", "", el("button", "", "close"));
  done.method = "dialog";
  dialog.append(done);
  function help() { dialog.showModal(); }

  const ACTIONS = {
    ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => vertical(1), ArrowUp: () => vertical(-1),
    Home: () => select(first()), End: () => select(data.n - 1), Enter: () => select(at, true), " ": () => select(at, true),
    Escape: () => select(at, false), "/": () => { box.focus(); box.select(); }, "?": help, n: () => go(1), N: () => go(-1), t: flip,
    0: () => colour("nothing"), ...Object.fromEntries(raw.measures.map((measure, i) => [i + 1, () => colour(measure.name)])),
  };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open || !data.n) return;
    const target = event.composedPath()[0];
    if (target === box) {
      if (event.key === "Enter") { event.preventDefault(); go(event.shiftKey ? -1 : 1); }
      if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); select(at, isOpen); }
      return;
    }
    const isControl = target.closest && target.closest("select, button, summary, input");
    if (isControl && (/^(Enter| |Home|End)$/.test(event.key) || (target.closest("select") && event.key !== "Escape"))) return;
    const action = ACTIONS[event.key];
    if (!action) return;
    event.preventDefault();
    if (!options.isPage) event.stopPropagation(); // a notebook has keys of its own
    action();
  }

  // -- light and dark -------------------------------------------------------------------------------------------------

  const wish = matchMedia("(prefers-color-scheme: dark)");
  function isDark() {
    if (theme) return theme === "dark";
    const { jpThemeLight, vscodeThemeKind } = document.body.dataset; // what notebooks say of themselves
    if (jpThemeLight) return jpThemeLight === "false";
    if (vscodeThemeKind) return /dark|high-contrast$/.test(vscodeThemeKind);
    return wish.matches;
  }
  function dress(event) {
    root.dataset.theme = event.type !== "beforeprint" && isDark() ? "dark" : "light"; // paper is light
    if (options.isPage) document.documentElement.style.colorScheme = root.dataset.theme;
  }
  function flip() { theme = isDark() ? "light" : "dark"; dress({}); }

  // -- all together ---------------------------------------------------------------------------------------------------

  const more = build();
  const text = el("div", "text", more, ribbon);
  root.replaceChildren(head(), controls(), el("div", "under", legend), strip, el("div", "both", text, panel), live, dialog);
  ribbon.addEventListener("click", (event) => {
    const span = event.target.closest(".t");
    if (!span || !getSelection().isCollapsed) return; // a text that was marked to be copied is no click
    select(span.at, !(isOpen && span.at === at));
  });
  ribbon.addEventListener("mouseover", (event) => {
    const span = event.target.closest(".t");
    if (span && !span.title) span.title = summary(data, span.at);
  });
  const keys = options.isPage ? document : root;
  keys.addEventListener("keydown", onKey);
  wish.addEventListener("change", dress);
  addEventListener("beforeprint", dress);
  addEventListener("afterprint", dress);
  dress({});
  colour(options.by || raw.measures[0].name);
  if (data.n) spans[at].tabIndex = 0;
  if (options.step !== null && options.step !== undefined) select(data.nPrompt + options.step, true, false);
  return {
    select: (step) => {
      const shown = isOpen && data.step(at) >= 0 ? data.step(at) : null;
      if (step === shown) return;
      if (step === null) select(at, false, false); else select(data.nPrompt + step, true, false);
    },
    colour,
    destroy: () => {
      keys.removeEventListener("keydown", onKey);
      wish.removeEventListener("change", dress);
      for (const name of ["beforeprint", "afterprint"]) removeEventListener(name, dress);
      root.replaceChildren();
    },
  };
}
