"use strict";
// Data: {texts: [[[label, id, raw, final, rank, entropy, [[label, id, raw, final, rule], ...]], ...], ...]}, one entry for each text.
// Probabilities and entropies are words already, so that they are those of the terminal.
// Every .text has data-text (its index in texts), data-variant and data-sample; its spans are its tokens, in order.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const columns = [...document.querySelectorAll(".text[data-text]")];
  const tip = document.getElementById("tip");
  const baseline = document.getElementById("baseline");
  let pinned = null;

  const NOTHING = "0%"; // what probability zero is in words

  function add(parent, tag, text, kind) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    parent.appendChild(node);
    return node;
  }

  // -- where texts part from the baseline's ---------------------------------------------------------------------------

  function parting(mine, theirs) {
    const n = Math.min(mine.length, theirs.length);
    for (let i = 0; i < n; i++) if (mine[i][1] !== theirs[i][1]) return i;
    return mine.length === theirs.length ? null : n;
  }

  function tokenAt(text, i) {
    return data.texts[text][i];
  }

  function compareWith(variant) {
    for (const column of columns) {
      const base = columns.find((c) => c.dataset.variant === variant && c.dataset.sample === column.dataset.sample);
      const isBase = column.dataset.variant === variant;
      column.closest("article").classList.toggle("baseline", isBase);
      const mine = data.texts[column.dataset.text];
      const index = isBase || !base ? null : parting(mine, data.texts[base.dataset.text]);
      const spans = [...column.querySelectorAll(".t")];
      let mark = index;
      while (mark !== null && mark < spans.length - 1 && spans[mark].textContent === "") mark++; // no text yet
      spans.forEach((span, i) => {
        span.classList.toggle("same", !isBase && !!base && (index === null || i < index));
        span.classList.toggle("parts", i === mark && index < spans.length);
      });
      column.dataset.index = index === null ? "" : index;
      column.dataset.base = isBase || !base ? "" : base.dataset.text;
      const where = column.closest("article").querySelector(".where");
      if (where) where.textContent = isBase || !base ? "" : inWords(mine, data.texts[base.dataset.text], index);
    }
  }

  function inWords(mine, theirs, index) {
    if (index === null) return "the same text as the baseline's";
    if (index >= mine.length) return `ends before token ${index + 1}, where the baseline has ${theirs[index][0]}`;
    const here = mine[index];
    const said = `parts at token ${index + 1}: ${here[0]} (${probs(here)})`;
    if (index >= theirs.length) return `${said}; the baseline has ended`;
    const there = theirs[index];
    const known = here[6].find((other) => other[1] === there[1]);
    const end = !known ? "" : known[3] !== NOTHING ? `, here ${known[3]}` : `, removed here${known[4] ? " by " + known[4] : ""}`;
    return `${said}; baseline ${there[0]} (${probs(there)})${end}`;
  }

  const probs = (token) => {
    const [raw, final] = [token[2], token[3]];
    return raw === final ? raw : `${raw} \u2192 ${final}`;
  };

  // -- one token ------------------------------------------------------------------------------------------------------

  function show(span) {
    const column = span.closest(".text");
    const i = [...column.querySelectorAll(".t")].indexOf(span);
    const [label, id, raw, final, rank, entropy, others] = tokenAt(column.dataset.text, i);
    tip.replaceChildren();
    add(tip, "b", label);
    add(tip, "span", `  token ${i + 1}, id ${id}, rank ${rank + 1}, entropy ${entropy} nats`);
    const table = add(tip, "table");
    const head = add(table, "tr");
    for (const title of ["", "model", "after settings", ""]) add(head, "th", title);
    for (const other of others) {
      const row = add(table, "tr", undefined, other[1] === id ? "chosen" : other[3] !== NOTHING ? "" : "gone");
      add(row, "td", (other[1] === id ? "\u25B8 " : "") + other[0]);
      add(row, "td", other[2]);
      add(row, "td", other[3] !== NOTHING ? other[3] : "removed");
      add(row, "td", other[4] || "", "rule");
    }
    if (column.dataset.base !== "" && Number(column.dataset.index) === i && column.dataset.index !== "") {
      add(tip, "div", inWords(data.texts[column.dataset.text], data.texts[column.dataset.base], i), "mark");
    }
    tip.hidden = false;
    const box = span.getClientRects()[0] || span.getBoundingClientRect();
    const width = tip.offsetWidth, height = tip.offsetHeight;
    tip.style.left = Math.max(8, Math.min(box.left, window.innerWidth - width - 8)) + "px";
    tip.style.top = (box.bottom + height + 14 > window.innerHeight && box.top > height + 14 ? box.top - height - 8 : box.bottom + 8) + "px";
  }

  function pin(span) {
    if (pinned) pinned.classList.remove("pinned");
    pinned = span;
    if (!span) { tip.hidden = true; return; }
    span.classList.add("pinned");
    span.scrollIntoView({ block: "nearest", inline: "nearest" });
    show(span);
  }

  document.addEventListener("mouseover", (event) => {
    if (pinned) return;
    const span = event.target.closest ? event.target.closest(".t") : null;
    if (span) show(span); else tip.hidden = true;
  });
  document.addEventListener("click", (event) => {
    const span = event.target.closest(".t");
    pin(span === pinned ? null : span);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") pin(null);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!pinned || !step) return;
    const spans = [...pinned.closest(".text").querySelectorAll(".t")];
    const next = spans[spans.indexOf(pinned) + step];
    if (next) { event.preventDefault(); pin(next); }
  });
  addEventListener("scroll", () => { if (!pinned) tip.hidden = true; else show(pinned); }, { passive: true, capture: true });

  // -- controls -------------------------------------------------------------------------------------------------------

  if (baseline) baseline.addEventListener("change", () => { pin(null); compareWith(baseline.value); });
  for (const button of document.querySelectorAll("button[data-heat]")) {
    button.addEventListener("click", () => {
      document.body.dataset.heat = button.dataset.heat;
      for (const other of document.querySelectorAll("button[data-heat]")) other.setAttribute("aria-pressed", other === button);
      for (const legend of document.querySelectorAll(".legend > span")) legend.hidden = legend.dataset.of !== button.dataset.heat;
    });
  }
  for (const button of document.querySelectorAll("button[data-sample]")) {
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll("button[data-sample]")) other.setAttribute("aria-pressed", other === button);
      for (const sample of document.querySelectorAll(".sample")) {
        sample.hidden = button.dataset.sample !== "all" && sample.dataset.sample !== button.dataset.sample;
      }
    });
  }
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  document.querySelector(".controls").hidden = false;
  compareWith(baseline ? baseline.value : "0");
})();
