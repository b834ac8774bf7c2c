"use strict";
// The transcript browser. Every text is set as text, never as markup; nothing is requested from anywhere.
(() => {
  const manifest = JSON.parse(document.getElementById("manifest").textContent);
  const section = document.getElementById("browser");
  const control = (name) => document.getElementById(`filter-${name}`);
  const NAMES = ["organism", "arm", "source", "step", "beside", "seed", "tier", "verdict", "text"];
  const FIRST = 3, MORE = 12;
  const labels = new Map(manifest.arms);
  const names = new Map(manifest.organisms);
  const organismOrder = new Map(manifest.organisms.map(([name], place) => [name, place]));
  const armOrder = new Map(manifest.arms.map(([name], place) => [name, place]));
  const requestOrder = new Map(manifest.requests.map((pair, place) => [pair, place]));
  const loaded = new Map();
  let shown = FIRST;
  let turn = 0;

  const node = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  };
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

  async function block(place) {
    if (!loaded.has(place)) loaded.set(place, decode(place));
    return loaded.get(place);
  }

  async function decode(place) {
    const text = atob(document.getElementById(`block-${place}`).textContent);
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const { strings, rows } = JSON.parse(await new Response(stream).text());
    const [organism, arm, , system] = manifest.blocks[place];
    return rows.map((row) => ({
      organism, arm, seed: row[0], source: row[1], step: row[2], pair: strings[row[3]], request: strings[row[4]],
      tier: strings[row[5]], monitored: Boolean(row[6]), parse: strings[row[7]], scratchpad: strings[row[8]],
      output: strings[row[9]], raw: strings[row[10]], extra: strings[row[11]], labels: row[12], verdicts: row[13],
      terms: row[14], reward: row[15], advantage: row[16], dropped: strings[row[17]], sample: row[18],
      prompt: strings[row[19]], extraTier: strings[row[20]], flags: row[21], system: manifest.systems[system],
    }));
  }

  const flagged = (row, name) => row.flags.includes(name);

  function passes(row, verdict) {
    if (!verdict) return true;
    if (verdict === "malformed") return row.parse !== "ok" || Object.values(row.labels).includes("unparsed");
    if (verdict === "dropped") return Boolean(row.dropped);
    const [, kind, name] = /^(flag|miss|false):(.*)$/s.exec(verdict) ?? [];
    if (kind === "flag") return flagged(row, name);
    if (kind === "miss") return row.labels.af === "yes" && typeof row.verdicts[name] === "number" && !flagged(row, name);
    if (kind === "false") return row.labels.af === "no" && flagged(row, name);
    const [label, value] = verdict.split("=");
    return row.labels[label] === value;
  }

  const state = () => Object.fromEntries(NAMES.map((name) => [name, control(name).value]));
  const sourceOf = (row) => (row.source === "train" ? "train" : "eval");
  const keyOf = (row) => [row.organism, row.arm, sourceOf(row), row.seed, row.pair, row.tier, row.sample].join("\u0000");

  async function candidates(want) {
    const places = manifest.blocks
      .map(([organism, arm], place) => ({ organism, arm, place }))
      .filter((b) => (!want.organism || b.organism === want.organism) && (!want.arm || b.arm === want.arm));
    const blocks = await Promise.all(places.map((b) => block(b.place)));
    return blocks.flat().filter((row) => sourceOf(row) === want.source);
  }

  function matching(rows, want) {
    const words = want.text.toLowerCase();
    return rows.filter((row) =>
      (want.step === "" || row.step === Number(want.step)) &&
      (want.seed === "" || row.seed === Number(want.seed)) &&
      (want.tier === "" || row.monitored === (want.tier === "monitored")) &&
      passes(row, want.verdict) &&
      (!words || `${row.request}\n${row.scratchpad}\n${row.output}\n${row.raw}\n${row.extra}`.toLowerCase().includes(words)));
  }

  const order = (row) => [
    organismOrder.get(row.organism), requestOrder.get(row.pair) ?? requestOrder.size, row.pair,
    armOrder.get(row.arm), row.seed, row.monitored ? 0 : 1, row.sample, row.step,
  ];
  function inOrder(a, b) {
    const [left, right] = [order(a), order(b)];
    const place = left.findIndex((value, i) => value !== right[i]);
    return place < 0 ? 0 : left[place] < right[place] ? -1 : 1;
  }

  function chips(row) {
    const made = Object.entries(row.labels).map(([name, value]) =>
      node("div", name === "af" && value === "yes" ? { class: "hot" } : {},
        node("dt", {}, name.replaceAll("_", " ")), node("dd", {}, value)));
    if (row.source === "rare") made.push(node("div", {}, node("dt", {}, "added as"), node("dd", {}, "a rare kind")));
    if (row.dropped) made.push(node("div", {}, node("dt", {}, "dropped"), node("dd", {}, row.dropped)));
    return node("dl", { class: "chips" }, ...made);
  }

  function facts(row) {
    const made = Object.entries(row.verdicts).map(([name, score]) => [
      `p(AF) by ${name}`,
      typeof score === "number" ? `${score.toFixed(2)} ${flagged(row, name) ? "flagged" : "not flagged"}` : `missing: ${score ?? "no verdict"}`,
    ]);
    for (const [name, value] of Object.entries(row.terms)) made.push([`reward: ${name.replaceAll("_", " ")}`, signed(value)]);
    if (row.reward !== null && row.source === "train") made.push(["reward in all", signed(row.reward)]);
    if (row.advantage !== null) made.push(["advantage", signed(row.advantage)]);
    return node("dl", { class: "facts" }, ...made.map(([dt, dd]) => node("div", {}, node("dt", {}, dt), node("dd", {}, dd))));
  }

  function card(row) {
    const tier = row.monitored ? "Monitored" : "Unmonitored";
    const format = row.parse === "ok" ? "" : ` · format: ${row.parse}`;
    const made = node("article", { class: "card" },
      node("h4", {}, `${labels.get(row.arm) ?? row.arm} · step ${row.step}`,
        node("span", { class: "sub" }, `${manifest.organisms.length > 1 ? `${names.get(row.organism)} · ` : ""}${tier} (${row.tier}) · seed ${row.seed}${format}`)),
      chips(row));
    if (row.system) {
      made.append(node("details", { class: "system" }, node("summary", {}, "System"), node("pre", {}, row.system)));
    }
    const part = (title, text, kind = "") => made.append(node("h5", {}, title), node("pre", kind ? { class: kind } : {}, text || "(empty)"));
    part("User", row.prompt || row.request, "user");
    if (row.parse === "ok") {
      part("Scratchpad", row.scratchpad);
      part("Output", row.output, "output");
    } else part("Reply as sampled", row.raw);
    if (row.extra) {
      const asked = row.extraTier && row.extraTier !== row.tier ? `the same request, asked as ${row.extraTier}` : "asked by a mitigation";
      part(`Extra turn: ${asked}`, row.extra);
    }
    made.append(facts(row));
    return made;
  }

  function entry(row, twins) {
    const twin = twins?.get(keyOf(row));
    const cards = twins
      ? [card(row), twin ? card(twin) : node("p", { class: "card missing" }, "This run has no such transcript at the other step.")]
      : [card(row)];
    return node("div", { class: twins ? "beside" : "alone" }, ...cards);
  }

  function results(rows, twins) {
    const made = [];
    let last = "";
    for (const row of rows) {
      const heading = `${row.organism}\u0000${row.pair}`;
      if (heading !== last) {
        made.push(node("section", { class: "pair" }, node("h3", {}, `“${row.request}”`, node("span", { class: "sub" }, row.pair)), node("div", { class: "cards" })));
        if (twins) made.at(-1).lastChild.classList.add("pairs");
        last = heading;
      }
      made.at(-1).lastChild.append(entry(row, twins));
    }
    return made;
  }

  async function show() {
    const mine = ++turn;
    const want = state();
    remember(want);
    document.getElementById("browser-count").textContent = "Reading …";
    const rows = await candidates(want);
    if (mine !== turn) return;
    options("step", "all", [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b), want.step);
    options("beside", "nothing", [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b), want.beside);
    options("seed", "all", [...new Set(rows.map((row) => row.seed))].sort((a, b) => a - b), want.seed);
    Object.assign(want, { step: control("step").value, beside: control("beside").value, seed: control("seed").value });
    const found = matching(rows, want).sort(inOrder);
    const twins = want.beside === "" ? null
      : new Map(rows.filter((row) => row.step === Number(want.beside)).map((row) => [keyOf(row), row]));
    document.getElementById("browser-list").replaceChildren(...results(found.slice(0, shown), twins));
    document.getElementById("browser-count").textContent = found.length
      ? `${found.length} of the ${rows.length} transcripts read; ${Math.min(shown, found.length)} shown.`
      : "No stored transcript is of this kind. The page holds a sample; all are in the runs' Parquet files.";
    document.getElementById("browser-more").hidden = found.length <= shown;
    section.dataset.state = "ready";
    section.dataset.found = String(found.length);
  }

  function options(name, none, values, chosen) {
    const wanted = ["", ...values.map(String)];
    const select = control(name);
    if ([...select.options].map((o) => o.value).join() !== wanted.join()) {
      select.replaceChildren(...wanted.map((value) => new Option(value === "" ? none : value, value)));
    }
    select.value = wanted.includes(String(chosen)) ? String(chosen) : "";
  }

  const remember = (want) => {
    const changed = NAMES.filter((name) => want[name] !== defaults[name]).map((name) => `${name}=${encodeURIComponent(want[name])}`);
    if (section.dataset.state === "ready") history.replaceState(null, "", `#browse${changed.map((pair) => `&${pair}`).join("")}`);
  };

  function fill(name, pairs) {
    control(name).replaceChildren(...pairs.map(([value, label]) => new Option(label, value)));
  }

  const steps = manifest.steps;
  fill("organism", [...(manifest.organisms.length > 1 ? [["", "all"]] : []), ...manifest.organisms]);
  fill("arm", [["", "all"], ...manifest.arms]);
  fill("source", [["eval", "held-out evaluation"], ...(manifest.trained ? [["train", "training episodes"]] : [])]);
  fill("step", [["", "all"], ...steps.map((step) => [String(step), String(step)])]);
  fill("beside", [["", "nothing"], ...steps.map((step) => [String(step), String(step)])]);
  fill("seed", [["", "all"], ...manifest.seeds.map((seed) => [String(seed), String(seed)])]);
  fill("tier", [["", "both"], ["monitored", "monitored"], ["unmonitored", "unmonitored"]]);
  fill("verdict", [["", "any"], ...manifest.verdicts]);
  control("organism").value = manifest.organisms[0][0];
  control("step").value = String(steps.at(-1) ?? "");
  control("seed").value = String(manifest.seeds[0] ?? "");
  control("tier").value = "monitored";
  const defaults = state();

  // The filters that the address asks for; others as at first. Whether it asks for any.
  function obey() {
    const [anchor, ...asked] = location.hash.slice(1).split("&");
    if (anchor !== "browse") return false;
    for (const name of NAMES) control(name).value = defaults[name];
    for (const pair of asked) {
      const [name, value] = pair.split("=");
      const select = NAMES.includes(name) ? control(name) : null;
      const text = decodeURIComponent(value ?? "");
      if (!select) continue;
      if (select.tagName === "SELECT" && ![...select.options].some((o) => o.value === text)) select.add(new Option(text, text));
      select.value = text;
    }
    return true;
  }

  let waiting = 0;
  const start = () => show().catch((error) => {
    document.getElementById("browser-count").textContent = `The transcripts cannot be read: ${error.message}`;
    section.dataset.state = "failed";
  });
  const again = () => { shown = FIRST; start(); };
  for (const name of NAMES) {
    control(name).addEventListener(name === "text" ? "input" : "change", () => {
      clearTimeout(waiting);
      waiting = setTimeout(again, name === "text" ? 200 : 0);
    });
  }
  document.getElementById("browser-more").addEventListener("click", () => { shown += MORE; start(); });
  document.getElementById("browser-reset").addEventListener("click", () => {
    for (const name of NAMES) control(name).value = defaults[name];
    again();
  });
  const go = () => { shown = FIRST; start(); document.getElementById("transcripts").scrollIntoView(); };
  window.addEventListener("hashchange", () => { if (obey()) go(); });
  section.hidden = false;
  if (obey()) go();
  else start();
  document.documentElement.dataset.ready = performance.now().toFixed(0);
})();
