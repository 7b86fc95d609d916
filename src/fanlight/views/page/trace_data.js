// The data of a page (`report_data.py` writes it) as numbers and words. An array is decoded when it is first asked for.

const READERS = { u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, i32: Int32Array, f32: Float32Array, lp16: Uint16Array, sq16: Uint16Array };
const LP16_STEPS = 2048, LP16_NONE = 65535, SQ16_MAX = 65535;
const decoded = new WeakMap();

function numbers(packed) {
  let found = decoded.get(packed);
  if (found) return found;
  const text = atob(packed.d), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  found = new READERS[packed.t](bytes.buffer);
  if (packed.t === "lp16" || packed.t === "sq16") {
    const scaled = new Float32Array(found.length);
    const isShare = packed.t === "sq16";
    for (let i = 0; i < found.length; i++) {
      scaled[i] = isShare ? (found[i] / SQ16_MAX) ** 2 : found[i] === LP16_NONE ? -Infinity : -found[i] / LP16_STEPS;
    }
    found = scaled;
  }
  decoded.set(packed, found);
  return found;
}

// -- words ------------------------------------------------------------------------------------------------------------

function percent(prob) { // as `views/terminal.py` has it
  if (prob <= 0) return "0%";
  if (prob >= 1) return "100%";
  if (prob < 0.0001) return "<0.01%";
  if (prob > 0.9995) return ">99.9%";
  return prob < 0.00995 ? (prob * 100).toFixed(2) + "%" : (prob * 100).toFixed(1) + "%";
}

function count(n, what) {
  return `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
}

function seconds(value) {
  return value >= 1 ? `${value.toFixed(2)} s` : value >= 1e-3 ? `${(value * 1e3).toPrecision(3)} ms` : `${(value * 1e6).toPrecision(3)} \u00b5s`;
}

function signed(value, digits = 2) {
  return (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);
}

// Signs that would move what stands around them, or cannot be seen, are written out. Line ends and tabs stay.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

function visible(text) {
  return text.replace(HIDDEN, (c) => {
    const code = c.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

// -- the trace --------------------------------------------------------------------------------------------------------

// Tokens are counted over the prompt and the text: `at` 0 is the first of the prompt, nPrompt the first step's.
class TraceData {
  constructor(raw) {
    this.raw = raw;
    this.nPrompt = raw.nPrompt;
    this.nSteps = raw.nSteps;
    this.n = raw.nPrompt + raw.nSteps;
  }

  step(at) { return at - this.nPrompt; }
  column(name) { return numbers(this.raw.steps[name]); }
  label(place) { return this.raw.labels[place]; }
  id(place) { return numbers(this.raw.ids)[place]; }
  placeAt(at) { return at < this.nPrompt ? numbers(this.raw.prompt.label)[at] : this.column("token")[this.step(at)]; }
  labelAt(at) { return this.label(this.placeAt(at)); }
  pieceAt(at) { return at < this.nPrompt ? this.raw.prompt.pieces[at] : this.raw.pieces[this.step(at)]; }
  levels(measure) { return numbers(this.raw.steps.levels[measure]); }

  // What a search and the words of a token ask for.
  value(name, step) { return FIELDS[name](this, step); }

  valueWords(measure, step) {
    const value = this.value(measure, step);
    if (Number.isNaN(value)) return "no other choice";
    return measure === "rank" ? `rank ${value}` : `${value.toFixed(2)} nats`;
  }

  // [{label, removes, before, kept, removed, entropy, entropyAfter}]: what each processor did.
  effects(step) {
    const { chains } = this.raw.steps, chain = this.column("chain"), e = this.raw.steps.effects;
    if (!this._effectStarts) {
      this._effectStarts = [0];
      for (let i = 0; i < this.nSteps; i++) this._effectStarts.push(this._effectStarts[i] + chains[chain[i]].length);
    }
    const start = this._effectStarts[step];
    return chains[chain[step]].map(([label, removes], j) => ({
      label, removes, before: numbers(e.before)[start + j], kept: numbers(e.kept)[start + j],
      removed: numbers(e.removed)[start + j], entropy: numbers(e.entropy)[start + j], entropyAfter: numbers(e.entropyAfter)[start + j],
    }));
  }

  // [{place, label, id, raw, final, stages, rule, noise, isChosen}]: by the model's own probability, descending; stages: the
  // probability by the model and after each processor.
  candidates(step) {
    const c = this.raw.steps.candidates, offset = numbers(c.offset), chain = this.column("chain"), { chains } = this.raw.steps;
    if (!this._afterStarts) {
      this._afterStarts = [0];
      for (let i = 0; i < this.nSteps; i++) {
        this._afterStarts.push(this._afterStarts[i] + Math.max(0, chains[chain[i]].length - 1) * (offset[i + 1] - offset[i]));
      }
    }
    const [start, end] = [offset[step], offset[step + 1]], n = end - start, nEffects = chains[chain[step]].length;
    const [token, raw, final, rule] = [c.token, c.raw, c.final, c.rule].map(numbers);
    const after = numbers(c.after), noise = c.noise && numbers(c.noise), chosen = this.column("token")[step];
    return Array.from({ length: n }, (_, j) => {
      const i = start + j, stages = [Math.exp(raw[i])];
      for (let e = 0; e < nEffects - 1; e++) stages.push(Math.exp(after[this._afterStarts[step] + e * n + j]));
      if (nEffects) stages.push(Math.exp(final[i]));
      return {
        place: token[i], label: this.label(token[i]), id: this.id(token[i]), raw: Math.exp(raw[i]), final: Math.exp(final[i]), stages,
        rule: rule[i] ? this.raw.strings[rule[i] - 1] : "", noise: noise ? noise[i] : NaN, isChosen: token[i] === chosen,
      };
    });
  }
}

const FIELDS = {
  surprise: (d, i) => -d.column("rawLogprob")[i],
  rank: (d, i) => d.column("rank")[i],
  entropy: (d, i) => d.column("entropy")[i],
  margin: (d, i) => d.column("margin")[i],
  prob: (d, i) => Math.exp(d.column("rawLogprob")[i]),
  raw_prob: (d, i) => Math.exp(d.column("rawLogprob")[i]),
  final_prob: (d, i) => Math.exp(d.column("finalLogprob")[i]),
  final_rank: (d, i) => d.column("finalRank")[i],
  final_entropy: (d, i) => d.column("finalEntropy")[i],
  n_kept: (d, i) => d.column("nKept")[i],
  eos_prob: (d, i) => d.column("eos")[i],
  lead: (d, i) => d.column("lead")[i],
  step: (d, i) => i,
  position: (d, i) => d.nPrompt + i,
};

// -- search -----------------------------------------------------------------------------------------------------------

const CONDITION = /^\s*([a-z_]+)\s*(<=|>=|==|!=|=|<|>)\s*(-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(%?)\s*$/i;
const COMPARE = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "==": (a, b) => a === b, "!=": (a, b) => a !== b,
};

// {hits: [[at, ...], ...], problem}: each hit is the tokens that it covers. Conditions may be joined by "and".
function search(data, query) {
  const parts = query.split(/\s+and\s+/i).map((part) => CONDITION.exec(part));
  if (!parts.every(Boolean)) return { hits: findText(data, query), problem: "" };
  const tests = [];
  for (const [, name, sign, number, unit] of parts) {
    const field = name.toLowerCase();
    if (!Object.hasOwn(FIELDS, field)) return { hits: [], problem: `no measure ${field}; there are ${Object.keys(FIELDS).join(", ")}` };
    const limit = Number(number) / (unit ? 100 : 1);
    tests.push((step) => COMPARE[sign](data.value(field, step), limit));
  }
  const hits = [];
  for (let i = 0; i < data.nSteps; i++) if (tests.every((test) => test(i))) hits.push([data.nPrompt + i]);
  return { hits, problem: "" };
}

function findText(data, query) {
  const needle = query.replaceAll("\u2423", " ").replaceAll("\\n", "\n").toLowerCase();
  if (!needle) return [];
  const starts = [];
  let text = "";
  for (let at = 0; at < data.n; at++) { starts.push(text.length); text += data.pieceAt(at).toLowerCase(); }
  const hits = [];
  let at = 0;
  for (let found = text.indexOf(needle); found >= 0; found = text.indexOf(needle, found + needle.length)) {
    while (at + 1 < data.n && starts[at + 1] <= found) at++;
    const covered = [at];
    while (covered.at(-1) + 1 < data.n && starts[covered.at(-1) + 1] < found + needle.length) covered.push(covered.at(-1) + 1);
    hits.push(covered);
  }
  return hits;
}
