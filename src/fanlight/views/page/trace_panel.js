// What a click on a token opens: its choices, its way through the processors, and what was seen inside the model.

function el(tag, kind, ...children) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function cell(text, kind) { return el("td", kind, text); }

function headed(titles, caption) {
  const table = el("table", "", el("caption", "unseen", caption));
  const row = el("tr");
  for (const title of titles) {
    const th = el("th", "", title);
    th.scope = "col";
    row.append(th);
  }
  table.append(el("thead", "", row));
  const body = el("tbody");
  table.append(body);
  return [table, body];
}

function bar(share, kind) {
  const node = el("i", `bar ${kind}`);
  node.style.setProperty("--share", `${(Math.min(1, Math.max(0, share)) * 100).toFixed(2)}%`);
  return node;
}

const SHOWN = 10; // candidates, before "show all"

// view: {data, state (kept from token to token), select(at), light(Map of at -> weight 0..1)}
function panelSections(view, at) {
  const { data } = view, raw = data.raw, step = data.step(at);
  const row = raw.attention ? attentionRow(view, step >= 0 ? at - 1 : at) : -1;
  const sections = [];
  const add = (key, title, fill) => sections.push({ key, title, fill });
  if (step >= 0) {
    add("choices", "Distribution", (body) => distribution(view, step, body));
    if (data.effects(step).length) add("processors", "Through the processors", (body) => processors(view, step, body));
  }
  if (row >= 0) add("attention", "Attention", (body) => attention(view, at, row, body));
  if (step >= 0 && raw.lens) add("lens", "Lens: what each layer would say", (body) => lens(view, step, body));
  if (step >= 0 && raw.contributions) add("contributions", "Contributions to its logit", (body) => contributions(view, step, body));
  if (step >= 0 && raw.norms) add("norms", "Length of the residual stream", (body) => norms(view, step, body));
  if (step >= 0 && raw.timings) add("timings", "Time", (body) => timings(view, step, body));
  return sections;
}

// -- the choice -------------------------------------------------------------------------------------------------------

function summary(data, at) {
  const step = data.step(at);
  if (step < 0) return `token ${at + 1} of ${data.nPrompt} of the prompt: ${visible(data.labelAt(at))}`;
  const v = (name) => data.value(name, step);
  return `step ${step} of ${data.nSteps}: ${visible(data.labelAt(at))}, probability ${percent(v("prob"))}, rank ${v("rank")}, ` +
    `surprise ${v("surprise").toFixed(2)} nats, entropy ${v("entropy").toFixed(2)} nats`;
}

function factsOfStep(data, step) {
  const v = (name) => data.value(name, step), facts = [];
  const add = (name, value, title) => facts.push([name, value, title]);
  const [before, after] = [percent(v("prob")), percent(v("final_prob"))];
  add("probability", data.effects(step).length ? `${before} \u2192 ${after}` : before, "by the model, and after all processors");
  add("surprise", `${v("surprise").toFixed(2)} nats`, "-ln(probability), by the model");
  add("rank", v("rank") === 0 ? "0: first choice" : `${v("rank").toLocaleString("en")}`, "tokens that the model held more probable");
  add("entropy", `${v("entropy").toFixed(2)} nats`, "of the model's own distribution");
  if (!Number.isNaN(v("margin"))) add("margin", `${signed(v("margin"))} nats`, "over the best other token, after all processors");
  const runnerUp = data.column("runnerUp")[step];
  if (runnerUp >= 0) {
    const lead = Number.isNaN(v("lead")) ? "" : `, by ${v("lead").toFixed(2)}`;
    add("otherwise", `'${visible(data.label(runnerUp))}'${lead}`, "what would have been chosen without this token, and by how much it lost the draw");
  }
  if (v("eos_prob") >= 0.0005) add("end of text", percent(v("eos_prob")), "probability of ending here, by the model");
  const guess = data.raw.steps.guesses[step];
  if (guess) {
    const [drafter, token, right] = guess;
    add("guessed", `${visible(data.label(token))} by ${data.raw.strings[drafter]}: ${right ? "right" : "wrong"}`, "ahead of the model");
  }
  return facts;
}

function distribution(view, step, body) {
  const { data, state } = view, all = data.candidates(step), hasEffects = data.effects(step).length > 0;
  let shown = state.allCandidates ? all : all.slice(0, SHOWN);
  const chosen = all.find((c) => c.isChosen);
  if (chosen && !shown.includes(chosen)) shown = [...shown, chosen];
  const hasNoise = all.some((c) => !Number.isNaN(c.noise));
  const titles = ["token", "model", ...(hasEffects ? ["chosen from"] : []), ...(hasNoise ? ["noise"] : [])];
  const [table, rows] = headed(titles, "candidates: probability by the model and after the processors");
  table.classList.add("choices");
  for (const c of shown) {
    const name = el("td", "name", c.isChosen ? "\u25b8 " : "", visible(c.label));
    name.title = `id ${c.id}`;
    const row = el("tr", c.isChosen ? "chosen" : c.rule ? "gone" : "", name, el("td", "prob", bar(c.raw, "model"), percent(c.raw)));
    if (c.isChosen) row.setAttribute("aria-current", "true");
    if (hasEffects) row.append(c.rule ? cell(`\u2715 ${c.rule}`, "rule") : el("td", "prob", bar(c.final, "final"), percent(c.final)));
    if (hasNoise) row.append(cell(Number.isNaN(c.noise) || c.rule ? "" : signed(c.noise), "noise"));
    rows.append(row);
  }
  const sum = (name) => shown.reduce((total, c) => total + c[name], 0);
  const nVocab = data.column("nVocab")[step], nKept = data.column("nKept")[step];
  if (nVocab > shown.length) {
    const left = nKept - shown.filter((c) => !c.rule).length;
    const rest = el("tr", "others", cell(count(nVocab - shown.length, "other"), "name"),
      el("td", "prob", bar(1 - sum("raw"), "others"), percent(1 - sum("raw"))));
    if (hasEffects) {
      const after = Math.max(0, 1 - sum("final"));
      rest.append(left > 0 ? el("td", "prob", bar(after, "others"), `${percent(after)}, ${left.toLocaleString("en")} left`) : cell("\u2715 all removed", "rule"));
    }
    if (hasNoise) rest.append(cell(""));
    rows.append(rest);
  }
  body.append(table);
  if (all.length > SHOWN) {
    const more = el("button", "", state.allCandidates ? "show fewer" : `show all ${all.length}`);
    more.addEventListener("click", () => { state.allCandidates = !state.allCandidates; view.refresh("choices"); });
    body.append(more);
  }
  if (hasNoise) body.append(el("p", "hint", "The token with the largest sum of final log-probability and noise was drawn."));
}

function processors(view, step, body) {
  const { data } = view, effects = data.effects(step), all = data.candidates(step);
  const rows = all.slice(0, 8), chosen = all.find((c) => c.isChosen);
  if (chosen && !rows.includes(chosen)) rows.push(chosen);
  const [table, lines] = headed(["", "model", ...effects.map((e) => e.label.replace(/[_(]/g, (c) => (c === "_" ? "_\u200b" : "\u200b(")))], "probability of each token after each processor");
  table.classList.add("stages");
  const facts = (name, first, rest) => lines.append(el("tr", "fact", cell(name, "name"), cell(first), ...effects.map((e) => cell(rest(e)))));
  facts("tokens left", data.column("nVocab")[step].toLocaleString("en"), (e) => e.kept.toLocaleString("en"));
  facts("cut off", "", (e) => (e.kept < e.before ? percent(e.removed) : "\u2013"));
  facts("entropy", data.value("entropy", step).toFixed(2), (e) => e.entropyAfter.toFixed(2));
  for (const c of rows) {
    const line = el("tr", c.isChosen ? "chosen" : "", el("td", "name", c.isChosen ? "\u25b8 " : "", visible(c.label)));
    c.stages.forEach((prob, i) => {
      const isGone = i > 0 && prob === 0, isCutHere = isGone && c.stages[i - 1] > 0;
      if (!isGone) {
        line.append(el("td", "prob", bar(prob, i ? "final" : "model"), percent(prob)));
        return;
      }
      const struck = cell(isCutHere ? "\u2715" : "", isCutHere ? "cut" : "");
      if (isCutHere) struck.title = c.rule;
      line.append(struck);
    });
    lines.append(line);
  }
  body.append(el("div", "wide", table));
}

// -- inside the model -------------------------------------------------------------------------------------------------

function attentionRow(view, position) {
  if (!view.rowOf) {
    view.rowOf = new Map();
    numbers(view.data.raw.attention.queries).forEach((query, row) => view.rowOf.set(query, row));
  }
  return view.rowOf.get(position) ?? -1;
}

// [[position, weight], ...], descending. layer -1: the mean over all; head -1: the mean over the heads.
function attentionOf(data, row, layer, head) {
  const a = data.raw.attention, nRows = numbers(a.queries).length;
  const [part, width, place] = layer < 0 ? [a.all, a.nMean, row]
    : head < 0 ? [a.mean, a.nMean, layer * nRows + row]
    : [a.head, a.nHead, (layer * a.heads.length + head) * nRows + row];
  const at = numbers(part.at), weight = numbers(part.weight), found = [];
  for (let i = place * width; i < (place + 1) * width; i++) if (weight[i] > 0) found.push([at[i], weight[i]]);
  return found;
}

function attention(view, at, row, body) {
  const { data, state } = view, a = data.raw.attention;
  state.layer ??= -1;
  state.head ??= -1;
  const layers = select("layer", [["-1", `mean of ${count(a.nLayers, "layer")}`], ...a.layers.map((layer, i) => [String(i), `layer ${layer}`])], state.layer);
  const heads = select("head", [["-1", "mean of heads"], ...(a.nHead ? a.heads.map((head, i) => [String(i), `head ${head}`]) : [])], state.head);
  heads.firstElementChild.disabled = state.layer < 0 || !a.nHead;
  const choose = (control, name) => control.firstElementChild.addEventListener("change", (event) => {
    state[name] = Number(event.target.value);
    if (name === "layer" && state.layer < 0) state.head = -1;
    view.refresh("attention", `select[data-of="${name}"]`);
  });
  choose(layers, "layer");
  choose(heads, "head");
  body.append(el("p", "choose", layers, " ", heads));
  const found = attentionOf(data, row, state.layer, state.head);
  const largest = Math.max(1e-9, ...found.filter(([position]) => position > 0).map(([, weight]) => weight));
  view.light(new Map(found.map(([position, weight]) => [position, Math.sqrt(Math.min(1, weight / largest))])));
  const whose = data.step(at) >= 0 ? `the row that chose this token, at position ${at - 1},` : "this token's row";
  const first = found.find(([position]) => position === 0);
  const sink = first && first[1] > 0.2 && found.length > 1 ? ` The first token takes ${percent(first[1])}: a common resting place.` : "";
  body.append(el("p", "hint", `Underlined in the text: where ${whose} looked. Scaled without the first token.${sink}`));
  const [table, rows] = headed(["looked at", "position", "weight"], "attention weights, largest first");
  table.classList.add("weights");
  for (const [position, weight] of found.slice(0, 12)) {
    const go = el("button", "link", visible(data.labelAt(position)));
    go.addEventListener("click", () => view.select(position));
    rows.append(el("tr", "", el("td", "name", go), cell(String(position)), el("td", "prob", bar(weight, "model"), percent(weight))));
  }
  body.append(table);
}

function select(name, options, value) {
  const control = el("select");
  control.dataset.of = name;
  control.setAttribute("aria-label", name);
  for (const [key, text] of options) {
    const option = el("option", "", text);
    option.value = key;
    option.selected = key === String(value);
    control.append(option);
  }
  return el("label", "", control);
}

function lens(view, step, body) {
  const { data } = view, l = data.raw.lens, { nLayers, k } = l, chosen = data.column("token")[step];
  const [token, logprob, own, rank, entropy] = [l.token, l.logprob, l.chosen, l.rank, l.entropy].map(numbers);
  const at = (layer) => step * nLayers + layer;
  let since = nLayers;
  while (since > 0 && rank[at(since - 1)] === 0) since--;
  const label = visible(data.label(chosen));
  body.append(el("p", "hint", since < nLayers
    ? `${label} is the first choice from layer ${since} of ${nLayers - 1} on.`
    : `${label} is not the first choice of the last layer.`));
  const [table, rows] = headed(["layer", "chosen", "rank", "entropy", `first ${k}`], "the logit lens, last layer first");
  table.classList.add("lens");
  for (let layer = nLayers - 1; layer >= 0; layer--) {
    const i = at(layer), says = el("td", "says");
    for (let j = 0; j < k; j++) {
      const place = token[i * k + j], prob = Math.exp(logprob[i * k + j]);
      const word = el("span", place === chosen ? "word own" : "word", visible(data.label(place)));
      word.style.setProperty("--heat", `${Math.round(Math.sqrt(prob) * 100)}%`);
      word.title = percent(prob);
      says.append(word, " ");
    }
    const name = el("th", "", layer === 0 ? "embed" : String(layer));
    name.scope = "row";
    const prob = Math.exp(own[i]);
    rows.append(el("tr", "", name, el("td", "prob", bar(prob, "final"), percent(prob)), cell(rank[i].toLocaleString("en")), cell(entropy[i].toFixed(2)), says));
  }
  body.append(el("div", "wide", table));
}

function contributions(view, step, body) {
  const c = view.data.raw.contributions, { nLayers } = c;
  const [a, f] = [numbers(c.attention), numbers(c.feedForward)].map((all) => all.slice(step * nLayers, (step + 1) * nLayers));
  const [embedding, constant, logit] = [c.embedding, c.constant, c.logit].map((packed) => numbers(packed)[step]);
  const most = Math.max(1e-9, Math.abs(embedding), Math.abs(constant), ...a.map(Math.abs), ...f.map(Math.abs));
  body.append(el("p", "hint", `What each part added to the logit of the chosen token; together ${logit.toFixed(2)}.`));
  const [table, rows] = headed(["block", "attention", "feed-forward", "sum so far"], "contributions to the chosen logit");
  table.classList.add("parts");
  const part = (value, kind) => {
    const node = el("i", `swing ${kind}${value < 0 ? " minus" : ""}`);
    node.style.setProperty("--share", `${(Math.abs(value) / most * 50).toFixed(2)}%`);
    return el("td", "swings", node, signed(value));
  };
  let sum = embedding;
  const line = (name, first, second) => {
    const th = el("th", "", name);
    th.scope = "row";
    rows.append(el("tr", "", th, first, second, cell(sum.toFixed(2).replace("-", "\u2212"))));
  };
  const wide = (value) => { const td = part(value, "table"); td.colSpan = 2; return td; };
  line("embed", wide(embedding), null);
  for (let i = 0; i < nLayers; i++) {
    sum += a[i] + f[i];
    line(String(i), part(a[i], "attn"), part(f[i], "ffn"));
  }
  if (constant !== 0) { sum += constant; line("constant", wide(constant), null); }
  body.append(table);
}

function norms(view, step, body) {
  const n = view.data.raw.norms, { nLayers } = n;
  const residual = numbers(n.residual).slice(step * (nLayers + 1), (step + 1) * (nLayers + 1));
  const [a, f] = [numbers(n.attention), numbers(n.feedForward)].map((all) => all.slice(step * nLayers, (step + 1) * nLayers));
  const most = Math.max(1e-9, ...residual, ...a, ...f);
  const [table, rows] = headed(["block", "stream after it", "attention added", "feed-forward added"], "L2 norms");
  table.classList.add("parts");
  const length = (value, kind) => (value === undefined ? cell("") : el("td", "prob", bar(value / most, kind), value.toPrecision(3)));
  for (let i = 0; i <= nLayers; i++) {
    const th = el("th", "", i === 0 ? "embed" : String(i - 1));
    th.scope = "row";
    rows.append(el("tr", "", th, length(residual[i], "others"), length(a[i - 1], "model"), length(f[i - 1], "final")));
  }
  body.append(table);
}

function timings(view, step, body) {
  const t = view.data.raw.timings, layers = numbers(t.layers), n = layers.length / 2;
  const [forward, deciding] = [numbers(t.forward)[step], numbers(t.deciding)[step]];
  let attn = 0, ffn = 0;
  for (let i = 0; i < n; i++) { attn += layers[2 * i]; ffn += layers[2 * i + 1]; }
  const rowsOf = (caption, parts, kind) => {
    const most = Math.max(1e-12, ...parts.map(([, value]) => value));
    const [table, rows] = headed([caption, "seconds"], caption);
    table.classList.add("weights");
    for (const [name, value] of parts) rows.append(el("tr", "", cell(name, "name"), el("td", "prob", bar(value / most, kind), seconds(value))));
    body.append(table);
  };
  rowsOf("this step", [["in the model", forward], ["deciding", deciding]], "model");
  const parts = [["embedding", t.embedding], ["attention of all blocks", attn], ["feed-forward of all blocks", ffn], ["norm and head", t.head]];
  rowsOf("a token in the pass that looked inside", parts.filter(([, value]) => value !== null), "final");
}
