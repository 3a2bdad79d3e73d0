// The page's own script: asks the service and shows what it says. Whatever comes from data enters the document as text.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const WAIT_MS = 250; // from the last key to the question
  const EXPLAIN_MS = 350; // from the answer to the next question, which costs a model many times as much
  const TOKEN = "equipoise-token", THEME = "equipoise-theme";
  const LONG = 8; // classes shown without being asked for
  const KINDS = { regression: "score", classification: "one of", ordinal: "in order, one of", multilabel: "any of" };
  const METRICS = { mse: "mean squared error", mae: "mean absolute error", macro_f1: "macro F1", r2: "R²", ccc: "CCC" };
  const EXAMPLES = [
    ["A good quarter", "Quarterly profit beat every forecast, and the board raised the dividend.", "profit"],
    ["A deal that fell through", "The merger fell apart after a third objection; shares slid 12% before lunch.", "merger"],
    ["Good and bad", "Sales grew faster than ever, but the company is sinking deeper into debt.", "debt"],
    ["Hard to tell", "Lovely screen, terrible battery. I still can't decide whether to keep it 🤷", "battery"],
  ];
  let info = null, slots = [], asked = 0, timer = 0, renewed = null;

  // Words and nodes -----------------------------------------------------------------------------------------------------

  function add(parent, tag, props = {}, ...texts) {
    const node = parent.namespaceURI.endsWith("svg") || tag === "svg"
      ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
    node.append(...texts); // strings become text nodes
    parent.append(node);
    return node;
  }
  const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
  const minus = (text) => text.replace("-", "−");
  const whole = (value) => value.toLocaleString("en");
  const short = (value) => minus(value.toLocaleString("en", Math.abs(value) < 10
    ? { minimumFractionDigits: 2, maximumFractionDigits: 2 } : { maximumSignificantDigits: 4 })).replace(/^−(0\.00)$/, "$1");
  const tick = (value) => minus(String(Number(value.toPrecision(4))));
  // With as many digits as the greatest of those that stand beside it needs.
  const signed = (value, greatest) => {
    const digits = Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(greatest))));
    return minus(value.toLocaleString("en", { signDisplay: "exceptZero", minimumFractionDigits: digits, maximumFractionDigits: digits }));
  };
  const percent = (share) => (share > 0 && share < 0.005 ? "<1%" : share < 1 && share > 0.995 ? ">99%" : `${Math.round(100 * share)}%`);
  const sentence = (text) => text.replace(/^[a-z]+ /, (first) => first[0].toUpperCase() + first.slice(1)); // not a file's name
  const sigmoid = (value) => 1 / (1 + Math.exp(-value));
  const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

  // The classes that a multilabel value names: the most probable ones that make it up, whatever stands between them.
  function present(value, probabilities) {
    const labels = Object.keys(probabilities);
    const ranked = [...labels].sort((a, b) => probabilities[b] - probabilities[a]);
    for (let count = 1; count <= ranked.length; count += 1) {
      const some = new Set(ranked.slice(0, count));
      const names = labels.filter((label) => some.has(label));
      const gap = (value.length - names.join("").length) / Math.max(1, count - 1);
      if (names.join(value.substr(names[0].length, count > 1 ? gap : 0)) === value) return some;
    }
    return new Set();
  }

  // A browser may refuse to keep anything; then it is kept until the page is left.
  const memory = new Map();
  function keep(area, key, value) {
    memory.set(key, value);
    try { window[area].setItem(key, value); } catch { /* as above */ }
  }
  function kept(area, key) {
    try { return window[area].getItem(key) ?? memory.get(key) ?? null; } catch { return memory.get(key) ?? null; }
  }

  // The service ---------------------------------------------------------------------------------------------------------

  class Trouble extends Error {}
  const stopped = (error) => error.name === "AbortError";
  const tell = (box, error) => { box.hidden = !error; box.textContent = error ? error.message : ""; };

  let gate = null;
  function token(refused) {
    $("gate-why").textContent = refused ? "That token was refused. Is it the right one?"
      : "Whoever started it knows the token. It is kept until this tab is closed.";
    gate ??= new Promise((done) => {
      $("token").value = "";
      $("gate").showModal();
      $("gate-form").onsubmit = (event) => {
        event.preventDefault();
        keep("sessionStorage", TOKEN, $("token").value);
        $("gate").close();
        gate = null;
        done();
      };
    });
    return gate;
  }
  $("gate").addEventListener("cancel", (event) => event.preventDefault()); // there is nothing to see behind it

  // fetch tells nothing of how far a body has been sent.
  const upload = (path, { body, headers, signal, sent }) => new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", path);
    for (const [name, value] of Object.entries(headers)) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => sent(event.loaded / Math.max(1, event.total));
    call.onload = () => resolve(new Response(call.status === 204 ? null : call.responseText,
      { status: call.status, headers: { "retry-after": call.getResponseHeader("retry-after") ?? "" } }));
    call.onerror = () => reject(new TypeError("no connection"));
    call.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => call.abort());
    call.send(body);
  });

  async function ask(path, options = {}, send = fetch) {
    for (let tries = 0; ; tries += 1) {
      const held = kept("sessionStorage", TOKEN);
      const headers = { ...options.headers, ...(held && { Authorization: `Bearer ${held}` }) };
      let answer;
      try {
        answer = await send(path, { ...options, headers, cache: "no-store" });
      } catch (error) {
        if (stopped(error)) throw error;
        throw new Trouble("The service does not answer. Is it still running?");
      }
      options.signal?.throwIfAborted();
      const seconds = Number(answer.headers.get("retry-after")) || 1;
      if (answer.status === 401) {
        // Another question may have brought a new token meanwhile.
        if (held === kept("sessionStorage", TOKEN)) await token(Boolean(held));
      } else if ((answer.status === 429 || answer.status === 503) && seconds <= 10 && tries < 5) {
        await pause(1000 * seconds);
      } else if (answer.ok) {
        return answer;
      } else {
        const { error = null } = await answer.json().catch(() => ({}));
        throw new Trouble(error ? `${sentence(error.what)}. ${error.how}` : `The service failed (${answer.status}).`);
      }
      options.signal?.throwIfAborted();
    }
  }
  const post = async (path, data, signal) => (await ask(path,
    { method: "POST", body: JSON.stringify(data), headers: { "Content-Type": "application/json" }, signal })).json();

  // A task's card: built once, then told each new value -------------------------------------------------------------------

  function scale(parent, { name, range }) {
    const value = add(parent, "p", { class: "score" });
    if (!range) return (score) => { value.textContent = short(score); };
    const [low, high] = range;
    const place = (score) => `${Math.min(100, Math.max(0, 100 * (score - low) / (high - low)))}%`;
    const middle = low < 0 && high > 0 ? 0 : (low + high) / 2;
    const meter = add(parent, "div",
      { class: "scale", role: "meter", "aria-label": name, "aria-valuemin": low, "aria-valuemax": high });
    const fill = add(meter, "span", { class: "fill" }), thumb = add(meter, "span", { class: "thumb" });
    const ticks = add(parent, "div", { class: "ticks", "aria-hidden": "true" });
    for (const mark of [low, middle, high]) {
      add(ticks, "span", {}, tick(mark)).style.setProperty("--at", place(mark));
    }
    const from = low < 0 && high > 0 ? 0 : low;
    return (score) => {
      value.textContent = short(score);
      meter.setAttribute("aria-valuenow", score);
      meter.setAttribute("aria-valuetext", short(score));
      meter.classList.toggle("below", score < from);
      thumb.style.setProperty("--at", place(score));
      fill.style.setProperty("--from", place(Math.min(from, score)));
      fill.style.setProperty("--to", place(Math.max(from, score)));
    };
  }

  function bars(parent, { kind, labels }) {
    const value = add(parent, "p", { class: "class-value" });
    const steps = kind === "ordinal" && labels.length <= 7;
    const list = add(parent, "ul", { class: steps ? "steps" : "bars" });
    const rows = new Map(labels.map((label) => {
      const row = add(list, "li");
      const parts = [add(row, "span", { class: "name" }, label), add(row, "span", { class: "track", "aria-hidden": "true" }), add(row, "span", { class: "share" })];
      add(parts[1], "span", { class: "fill" });
      return [label, { row, share: parts[2] }];
    }));
    let all = labels.length <= LONG + 2;
    const more = all ? null : add(parent, "button", { type: "button", class: "plain", "aria-expanded": "false" });
    const fold = () => [...list.children].forEach((row, at) => { row.hidden = !all && at >= LONG; });
    more?.addEventListener("click", () => {
      all = !all;
      more.setAttribute("aria-expanded", String(all));
      more.textContent = all ? "Fewer" : `All ${labels.length}`;
      fold();
    });
    if (more) more.textContent = `All ${labels.length}`;
    return ({ value: said, probabilities }) => {
      const chosen = kind === "multilabel" ? present(said, probabilities) : new Set([said]);
      value.textContent = kind === "multilabel" ? [...rows.keys()].filter((one) => chosen.has(one)).join(", ") || "none of them" : said;
      for (const [label, { row, share }] of rows) {
        row.style.setProperty("--share", probabilities[label]);
        row.classList.toggle("chosen", chosen.has(label));
        share.textContent = percent(probabilities[label]);
      }
      if (more) list.append(...[...rows].sort(([a], [b]) => probabilities[b] - probabilities[a]).map(([, { row }]) => row));
      fold();
    };
  }

  // A panel: what one run says of the text --------------------------------------------------------------------------------

  function panel(run) {
    const root = $("panel").content.firstElementChild.cloneNode(true);
    const [part, alert] = [(selector) => root.querySelector(selector), root.querySelector(".alert")];
    const cards = run.tasks.map((task) => {
      const card = add(part(".tasks"), "article", { class: `task card ${task.kind}` });
      add(card, "h4", {}, task.name);
      return { task, show: (task.labels ? bars : scale)(card, task) };
    });
    part(".run-name").textContent = run.name;
    const [tasks, classes] = [part("select.task"), part("select.class")];
    for (const { name } of run.tasks) add(tasks, "option", { value: name }, name);
    const self = { run, root, said: null, texts: [], stop: new AbortController() };

    function offer() {
      const task = run.tasks.find(({ name }) => name === tasks.value);
      classes.replaceChildren();
      part(".class-pick").hidden = !task.labels;
      add(classes, "option", { value: "" }, task.kind === "multilabel" ? "the most probable" : "what was predicted");
      for (const label of task.labels ?? []) add(classes, "option", { value: `=${label}` }, label);
    }
    async function explain() {
      self.explaining?.abort();
      self.explaining = new AbortController();
      const { signal } = self.explaining, { texts } = self, box = part(".words");
      box.setAttribute("aria-busy", "true");
      try {
        const most = info.limits.characters_per_explanation ?? Infinity;
        const long = texts.find((text) => [...text].length > most);
        if (long) throw new Trouble(`Words are weighed in texts of up to ${whole(most)} characters; this one is longer.`);
        const found = await post("explain", { text: texts.length > 1 ? texts : texts[0], task: tasks.value, run: run.name,
          ...(classes.value && { target: classes.value.slice(1) }) }, signal);
        words(root, found, run.text, texts);
        box.classList.remove("empty");
      } catch (error) {
        if (stopped(error)) return;
        part(".detail").textContent = error.message;
        box.classList.add("empty");
      }
      box.setAttribute("aria-busy", "false");
    }
    tasks.addEventListener("change", () => { offer(); explain(); });
    classes.addEventListener("change", explain);
    offer();

    self.end = () => { self.stop.abort(); self.explaining?.abort(); clearTimeout(self.later); };
    self.show = async (texts) => {
      self.end();
      self.stop = new AbortController();
      self.texts = texts;
      root.setAttribute("aria-busy", "true");
      try {
        const answer = await post("predict", { texts: [texts.length > 1 ? texts : texts[0]], run: run.name }, self.stop.signal);
        if (answer.version !== run.version && answer.version !== renewed) {
          renewed = answer.version; // the run was loaded anew, maybe with other tasks
          await start();
          return;
        }
        [self.said] = answer.predictions;
        for (const { task, show } of cards) show(self.said[task.name]);
        tell(alert, null);
        self.later = setTimeout(explain, EXPLAIN_MS);
      } catch (error) {
        if (stopped(error)) return;
        self.said = null;
        tell(alert, error);
      }
      root.classList.toggle("failed", !self.said);
      root.setAttribute("aria-busy", "false");
    };
    return self;
  }

  // Words and what each contributed -----------------------------------------------------------------------------------------

  function words(root, { target, task, words: found, value, baseline, completeness_error: missed }, names, texts) {
    const part = (selector) => root.querySelector(selector);
    const strongest = Math.max(...found.map((word) => Math.abs(word.contribution ?? 0)), 1e-9);
    const [up, down] = target === null ? [`raises ${task}`, `lowers ${task}`] : [`speaks for ${target}`, `speaks against ${target}`];
    const detail = part(".detail"), buttons = [];
    const usual = found.some((word) => word.contribution === null)
      ? "The text is longer than the model reads: words that are struck through were not read."
      : "Point at a word for its number, or walk through them with the arrow keys.";
    detail.textContent = usual;
    part(".texts").replaceChildren();
    names.forEach((name, field) => {
      if (names.length > 1) add(part(".texts"), "p", { class: "field" }, name);
      const line = add(part(".texts"), "p", { class: "text", dir: "auto" });
      const points = [...texts[field]]; // the service counts code points, strings here count halves of some
      let at = 0;
      for (const word of found.filter((one) => one.field === name)) {
        line.append(points.slice(at, word.start).join(""));
        at = word.end;
        const unread = word.contribution === null, share = unread ? 0 : Math.abs(word.contribution) / strongest;
        const sign = unread ? "unread" : share < 0.04 ? "none" : word.contribution > 0 ? "up" : "down";
        const button = add(line, "button", { type: "button", class: `word ${sign}`, tabindex: "-1",
          "aria-label": `${word.text}, ${unread ? "not read" : signed(word.contribution, strongest)}` }, word.text);
        button.style.setProperty("--share", share);
        const say = () => {
          detail.textContent = unread ? `“${word.text}” was not read: the text is too long.`
            : `“${word.text}” ${sign === "none" ? "hardly matters" : word.contribution > 0 ? up : down} (${signed(word.contribution, strongest)}).`;
        };
        button.addEventListener("focus", say);
        button.addEventListener("pointerenter", say);
        button.addEventListener("pointerleave", () => { detail.textContent = usual; });
        button.addEventListener("blur", () => { detail.textContent = usual; });
        buttons.push(button);
      }
      line.append(points.slice(at).join(""));
    });
    if (buttons.length) buttons[0].tabIndex = 0;
    part(".texts").onkeydown = (event) => {
      const at = buttons.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (at < 0 || !buttons[to]) return;
      event.preventDefault();
      buttons[at].tabIndex = -1;
      buttons[to].tabIndex = 0;
      buttons[to].focus();
    };
    part(".up[data-sign]").textContent = up;
    part(".down[data-sign]").textContent = down;
    const list = part(".strongest");
    list.replaceChildren();
    const read = found.filter((word) => word.contribution !== null);
    for (const word of [...read].sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution)).slice(0, 5)) {
      const row = add(list, "li", { class: word.contribution > 0 ? "up" : "down" });
      add(row, "span", { class: "name", dir: "auto" }, word.text);
      add(add(row, "span", { class: "track", "aria-hidden": "true" }), "span", { class: "fill" });
      add(row, "span", { class: "share" }, signed(word.contribution, strongest));
      row.style.setProperty("--share", Math.abs(word.contribution) / strongest);
    }
    const shown = target === null ? short : (one) => percent(sigmoid(one));
    const total = Math.abs(value - baseline);
    part(".from").textContent = `${target ?? task}: ${shown(baseline)} with every word hidden, ${shown(value)} as written.`
      + `${target === null ? "" : " The numbers are log-odds."}`
      + `${missed > 0.05 * Math.max(total, strongest) ? ` They miss the difference by ${signed(missed, strongest)}, so small ones mean little.` : ""}`;
  }

  // The text that is asked about ----------------------------------------------------------------------------------------------

  const boxes = () => [...$("fields").querySelectorAll("textarea")];
  const written = () => boxes().map((box) => (box.value.toWellFormed ? box.value.toWellFormed() : box.value));

  function changed(wait = WAIT_MS) {
    clearTimeout(timer);
    slots.forEach((slot) => slot.end());
    const texts = written(), most = info.limits.characters_per_text, longest = Math.max(...texts.map((text) => [...text].length));
    $("clear").hidden = texts.every((text) => !text);
    const over = longest > most;
    $("count").textContent = longest > 0.8 * most ? `${whole(longest)} of ${whole(most)} characters${over ? ": too long" : ""}` : "";
    $("count").classList.toggle("over", over);
    const ready = texts.every((text) => text.trim()) && !over;
    if (ready) timer = setTimeout(() => answer(texts), wait);
    else if (!over) { $("panels").hidden = true; $("between").hidden = true; $("hint").hidden = false; }
  }

  async function answer(texts) {
    const turn = (asked += 1), mine = slots;
    await Promise.all(mine.map((slot) => slot.show(texts)));
    if (turn !== asked || mine !== slots || mine.some((slot) => slot.stop.signal.aborted)) return;
    $("panels").hidden = false;
    $("hint").hidden = true;
    const said = slots.filter((slot) => slot.said);
    $("said").textContent = said.map(({ run, said: found }) => `${said.length > 1 ? `${run.name}: ` : ""}${run.tasks.map(
      ({ name }) => `${name} ${typeof found[name] === "object" ? found[name].value || "none" : short(found[name])}`).join(", ")}.`).join(" ");
    $("between").hidden = said.length < 2;
    if (said.length > 1) $("between").textContent = difference(...said);
  }

  function difference(one, other) {
    const both = one.run.tasks.filter(({ name, kind }) => other.run.tasks.some((task) => task.name === name && task.kind === kind));
    if (!both.length) return "The two have no task in common.";
    return both.map(({ name }) => {
      const [a, b] = [one.said[name], other.said[name]];
      if (typeof a !== "object") {
        const gap = short(Math.abs(b - a));
        return `${name}: ${/[1-9]/.test(gap) ? `${gap} ${b > a ? "higher" : "lower"} in ${other.run.name}` : "the same"}`;
      }
      return `${name}: ${a.value === b.value ? `both say ${a.value || "none"}` : `${a.value || "none"} and ${b.value || "none"}`}`;
    }).join(" · ");
  }

  function choose() {
    const run = info.runs.find(({ name }) => name === $("run").value) ?? info.runs[0];
    const others = info.runs.filter((one) => one !== run && one.text.length === run.text.length);
    const before = $("other").value, drafts = written();
    $("other").replaceChildren();
    add($("other"), "option", { value: "" }, "nothing");
    for (const { name } of others) add($("other"), "option", { value: `=${name}` }, name);
    if ([...$("other").options].some((option) => option.value === before)) $("other").value = before;
    slots.forEach((slot) => slot.end());
    const other = others.find(({ name }) => `=${name}` === $("other").value);
    slots = [run, other].filter(Boolean).map(panel);
    $("panels").replaceChildren(...slots.map((slot) => slot.root));
    $("panels").className = slots.length > 1 ? "two" : "one";
    const same = boxes().length === run.text.length;
    if (!same) $("fields").replaceChildren();
    run.text.forEach((name, at) => {
      const label = same ? boxes()[at].labels[0] : add($("fields"), "label");
      const title = same ? label.firstElementChild : add(label, "span", { class: "field" });
      title.textContent = run.text.length > 1 ? name : "Your text";
      const box = same ? boxes()[at] : add(label, "textarea", { rows: run.text.length > 1 && at ? 1 : 3, dir: "auto", spellcheck: "false" });
      if (!same) box.value = drafts[at] ?? "";
    });
    boxes()[0].placeholder = "Type or paste a text";
    const count = plural(run.tasks.length, "task");
    $("about").textContent = `${run.name} answers ${count} at once: ${run.tasks.map(({ name }) => name).join(", ")}.`;
    $("file-lead").textContent = `A table with the column${run.text.length > 1 ? "s" : ""} ${run.text.map((name) => `“${name}”`).join(" and ")} goes in, `
      + `the same table comes back with what ${run.name} says of every row.`;
    document.title = `${run.name} · Equipoise`;
    const body = JSON.stringify({ texts: [run.text.length > 1 ? [EXAMPLES[2][1], EXAMPLES[2][2]] : EXAMPLES[0][1]], run: run.name });
    $("curl").textContent = `curl ${new URL("predict", location.href)} \\\n  -H 'Content-Type: application/json' \\\n`
      + `${kept("sessionStorage", TOKEN) ? "  -H 'Authorization: Bearer TOKEN' \\\n" : ""}  -d '${body.replaceAll("'", "'\\''")}'`;
    changed(0);
  }

  // A file: sent, watched, fetched, drawn ---------------------------------------------------------------------------------------

  let working = null;

  async function score(file) {
    working?.abort();
    const mine = (working = new AbortController()), { signal } = mine, { run } = slots[0];
    const kind = file.name.split(".").pop().toLowerCase();
    let id = null;
    const state = (text, share) => {
      $("state").textContent = text;
      if (share === undefined) $("progress").removeAttribute("value"); else $("progress").value = share;
    };
    tell($("file-trouble"), null);
    $("result").hidden = true;
    try {
      if (!/^(csv|tsv|jsonl|ndjson|parquet)$/.test(kind)) throw new Trouble(`“${file.name}” is of no kind that can be read. Choose a CSV, TSV, JSON lines (.jsonl) or Parquet file.`);
      if (!file.size) throw new Trouble(`“${file.name}” is empty. Choose a table with a header and rows.`);
      if (file.size > info.limits.file_bytes) throw new Trouble(`“${file.name}” has ${whole(Math.ceil(file.size / 2 ** 20))} MiB; at most ${whole(Math.floor(info.limits.file_bytes / 2 ** 20))} are taken. Split it.`);
      $("file-name").textContent = file.name;
      $("work").hidden = false;
      state("Sending …", 0);
      const query = new URLSearchParams({ run: run.name, name: file.name });
      const sent = (share) => state(share < 1 ? `Sending: ${percent(share)}` : "Reading the first rows …", share < 1 ? share : undefined);
      ({ id } = await (await ask(`files?${query}`, { body: file, signal, sent }, upload)).json());
      let told = {};
      for (let turn = 0; told.state !== "done"; turn += 1) {
        if (turn) await pause(Math.min(1000, 150 * turn));
        told = await (await ask(`files/${id}`, { signal })).json();
        if (told.state === "failed") throw new Trouble(`The file could not be scored: ${told.error}`);
        if (told.state === "waiting") state("Waiting for its turn …");
        else state(`${plural(told.rows_done, "row")}${told.rows_total ? ` of about ${whole(told.rows_total)}` : ""} scored`,
          told.rows_total ? told.rows_done / told.rows_total : undefined);
      }
      state("Fetching the result …");
      const result = await (await ask(`files/${id}/result`, { signal })).blob();
      if (working === mine) await finished(file.name, kind, run, told, result);
    } catch (error) {
      if (!stopped(error)) tell($("file-trouble"), error);
    }
    if (id) ask(`files/${id}`, { method: "DELETE" }).catch(() => {}); // it lies here now, or nobody wants it
    if (working === mine) { $("work").hidden = true; working = null; }
  }

  async function finished(name, kind, run, told, blob) {
    URL.revokeObjectURL($("download").href);
    $("download").href = URL.createObjectURL(blob);
    $("download").download = `${name.replace(/\.[^.]*$/, "")}-predicted.${kind}`;
    $("done").textContent = `${plural(told.rows_done - told.bad, "row")} of ${name} scored by ${run.name}.`
      + (told.bad ? ` ${plural(told.bad, "row")} could not be; the column “error” says why.` : "");
    $("pictures").replaceChildren();
    $("bad-rows").replaceChildren();
    const tally = new Tally(run.tasks);
    if (kind !== "parquet") {
      const read = kind === "csv" ? csv(",", tally) : kind === "tsv" ? csv("\t", tally) : jsonl(tally);
      const reader = blob.stream().pipeThrough(new TextDecoderStream()).getReader();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) read(piece.value);
      read("\n");
    }
    for (const text of tally.errors) add($("bad-rows"), "li", {}, text);
    $("bad-rows").hidden = !tally.errors.length;
    $("result").hidden = false;
    if (kind === "parquet") add($("pictures"), "p", { class: "note" }, "There is no picture: this page cannot read Parquet files.");
    else if (tally.rows) for (const part of tally.parts) picture($("pictures"), part);
    $("result").focus({ preventScroll: true });
  }

  // Cells by RFC 4180, piece by piece: quotes hold separators and line ends, and two of them are one.
  function csv(separator, tally) {
    let row = [], cell = "", quoted = false, closing = false, header = true;
    const end = () => { row.push(cell); cell = ""; };
    return (piece) => {
      for (const character of piece) {
        if (closing) {
          closing = false;
          if (character === '"') { cell += '"'; continue; }
          quoted = false;
        }
        if (quoted) {
          if (character === '"') closing = true; else cell += character;
        } else if (character === '"' && cell === "") quoted = true;
        else if (character === separator) end();
        else if (character === "\n") {
          if (row.length || cell) {
            end();
            if (header) tally.head(row); else tally.row(row);
            header = false;
          }
          row = [];
        } else if (character !== "\r") cell += character;
      }
    };
  }

  function jsonl(tally) {
    let left = "";
    const names = tally.names();
    tally.head(names);
    return (piece) => {
      const lines = (left + piece).split("\n");
      left = lines.pop();
      for (const line of lines) {
        if (!line) continue;
        const record = JSON.parse(line);
        tally.row(names.map((name) => {
          let held = name; // a key that the input had already is kept, and ours stands beside it
          while (Object.hasOwn(record, `predicted/${held}`)) held = `predicted/${held}`;
          return record[held] ?? "";
        }));
      }
    };
  }

  // Counts what a scored table says, row by row. Our columns are its last: a task's value, its classes; then the errors.
  class Tally {
    constructor(tasks) {
      this.rows = 0;
      this.errors = [];
      this.parts = tasks.map((task) => ({ task, values: [], counts: new Map((task.labels ?? []).map((label) => [label, 0])) }));
    }

    names() {
      return [...this.parts.flatMap(({ task }) => [task.name, ...(task.labels ?? []).map((label) => `${task.name}/${label}`)]), "error"];
    }

    head(columns) { this.first = columns.length - this.names().length; }

    row(cells) {
      this.rows += 1;
      const error = cells[cells.length - 1];
      if (error && this.errors.length < 5) this.errors.push(`Row ${whole(this.rows)}: ${error}`);
      let at = this.first;
      for (const { task, values, counts } of this.parts) {
        const cell = cells[at], labels = task.labels ?? [];
        if (!error && !task.labels) values.push(Number(cell));
        else if (!error && task.kind === "multilabel") {
          for (const one of present(cell, Object.fromEntries(labels.map((label, k) => [label, Number(cells[at + 1 + k])])))) {
            counts.set(one, counts.get(one) + 1);
          }
        } else if (!error && counts.has(cell)) counts.set(cell, counts.get(cell) + 1);
        at += 1 + labels.length;
      }
    }
  }

  // Pictures ------------------------------------------------------------------------------------------------------------------

  function picture(parent, { task, values, counts }) {
    const figure = add(parent, "figure", { class: "card" });
    add(figure, "h3", {}, task.name);
    const total = values.length || [...counts.values()].reduce((sum, count) => sum + count, 0);
    if (!total) { add(figure, "figcaption", {}, "No row has a value."); return; }
    const [data, caption, draw] = task.labels ? ofClasses(task, counts) : ofScores(task, values);
    const frame = add(figure, "svg", { role: "img", "aria-label": `${task.name}: ${caption}` });
    add(figure, "figcaption", {}, caption);
    const table = add(add(add(figure, "details"), "summary", {}, "As a table").parentNode, "table");
    for (const [name, count] of data) {
      const row = add(table, "tr");
      add(row, "th", { scope: "row" }, name);
      add(row, "td", { class: "number" }, whole(count));
    }
    let width = 0; // the width it is drawn for: text keeps its size on every screen
    new ResizeObserver(() => {
      if (width === frame.clientWidth || !frame.clientWidth) return;
      width = frame.clientWidth;
      frame.replaceChildren();
      frame.setAttribute("height", draw(frame, width));
    }).observe(frame);
  }

  function ofScores({ range }, values) {
    const sorted = Float64Array.from(values).sort();
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    let [low, high] = range ?? [sorted[0], sorted.at(-1)];
    if (low === high) [low, high] = [low - 0.5, high + 0.5];
    const counts = new Array(20).fill(0);
    for (const value of values) counts[Math.min(19, Math.max(0, Math.floor(20 * (value - low) / (high - low))))] += 1;
    const edge = (at) => short(low + (at * (high - low)) / 20);
    const caption = `${plural(values.length, "row")}, from ${short(sorted[0])} to ${short(sorted.at(-1))}, mean ${short(mean)}, `
      + `half of them below ${short(sorted[Math.floor(sorted.length / 2)])}`;
    return [counts.map((count, at) => [`${edge(at)} to ${edge(at + 1)}`, count]), caption, (frame, width) => {
      const most = Math.max(...counts), left = 8 + 7 * whole(most).length, step = (width - left - 12) / 20, floor = 170;
      for (const part of [1, 0.5]) {
        add(frame, "line", { x1: left, x2: width - 12, y1: floor - 140 * part, y2: floor - 140 * part, class: "grid" });
        if (part === 1) add(frame, "text", { x: left - 6, y: floor - 136, "text-anchor": "end" }, whole(most));
      }
      counts.forEach((count, at) => {
        const tall = Math.max(count ? 2 : 0, (140 * count) / most), middle = low + ((at + 0.5) * (high - low)) / 20;
        const bar = add(frame, "rect", { x: left + at * step + 1, y: floor - tall, width: Math.max(1, step - 2), height: tall, rx: 2,
          class: low < 0 && high > 0 ? (middle < 0 ? "down" : "up") : "plain" });
        add(bar, "title", {}, `${edge(at)} to ${edge(at + 1)}: ${plural(count, "row")}`);
      });
      const x = (value) => left + 20 * step * ((value - low) / (high - low));
      add(frame, "line", { x1: left, x2: width - 12, y1: floor + 0.5, y2: floor + 0.5, class: "axis" });
      add(frame, "line", { x1: x(mean), x2: x(mean), y1: 22, y2: floor, class: "mean" });
      add(frame, "text", { x: Math.min(width - 50, Math.max(left + 34, x(mean))), y: 14, "text-anchor": "middle", class: "strong" }, `mean ${short(mean)}`);
      [[low, "start"], [low < 0 && high > 0 ? 0 : (low + high) / 2, "middle"], [high, "end"]].forEach(([value, anchor]) => {
        add(frame, "text", { x: x(value), y: floor + 18, "text-anchor": anchor }, tick(value));
      });
      return 194;
    }];
  }

  function ofClasses({ kind }, counts) {
    const data = kind === "ordinal" ? [...counts] : [...counts].sort(([, a], [, b]) => b - a);
    const total = data.reduce((sum, [, count]) => sum + count, 0), most = Math.max(...counts.values());
    const seen = data.slice(0, 12), rest = data.length - seen.length;
    const top = data.reduce((best, one) => (one[1] > best[1] ? one : best));
    const caption = kind === "multilabel" ? `most often ${top[0]}, in ${plural(top[1], "row")}${rest > 0 ? `; ${rest} more classes in the table` : ""}`
      : `${plural(total, "row")}, most often ${top[0]} (${percent(top[1] / total)})${rest > 0 ? `; ${rest} more classes in the table` : ""}`;
    return [data, caption, (frame, width) => {
      const left = Math.min(0.42 * width, 18 + 7.8 * Math.max(...seen.map(([name]) => name.length))), room = width - left - 60;
      const fits = Math.max(4, Math.floor(left / 7.8) - 1);
      seen.forEach(([name, count], at) => {
        const y = 30 * at + 8;
        const label = add(frame, "text", { x: left - 10, y: y + 14, "text-anchor": "end" }, name.length > fits ? `${name.slice(0, fits - 1)}…` : name);
        add(label, "title", {}, name);
        add(frame, "rect", { x: left, y, width: room, height: 20, rx: 4, class: "rail" });
        if (count) add(frame, "rect", { x: left, y, width: Math.max(3, (room * count) / most), height: 20, rx: 4, class: "plain" });
        add(frame, "text", { x: left + room + 8, y: y + 14, class: "strong" }, whole(count));
      });
      return 30 * seen.length + 10;
    }];
  }

  // The models that are served ----------------------------------------------------------------------------------------------------

  function describe(run, several) {
    const card = add($("runs"), "article", { class: "card about-run" });
    add(card, "h3", {}, run.name);
    const when = new Date(run.loaded_at);
    add(card, "p", { class: "note" }, `version ${run.version} · on ${run.device}, ${run.precision} · loaded ${Number.isNaN(when.getTime()) ? run.loaded_at : when.toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}`
      + ` · reads ${run.text.join(" and ")}${several && run.name === info.default ? " · the default" : ""}`);
    const table = add(add(card, "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Tasks of ${run.name}` }), "table");
    const head = add(add(table, "thead"), "tr");
    for (const title of ["Task", "Says", "How well"]) add(head, "th", { scope: "col" }, title);
    const body = add(table, "tbody");
    for (const { name, kind, range, labels } of run.tasks) {
      const row = add(body, "tr"), metric = run.metrics?.[name];
      add(row, "th", { scope: "row" }, name);
      const classes = labels && labels.length > LONG ? `${labels.slice(0, LONG).join(", ")} and ${labels.length - LONG} more` : labels?.join(", ");
      add(row, "td", {}, labels ? `${KINDS[kind] ?? kind}: ${classes}` : `a score${range ? ` from ${tick(range[0])} to ${tick(range[1])}` : ", without bounds"}`);
      const told = add(row, "td");
      if (metric) {
        add(told, "strong", {}, metric.value.toLocaleString("en", { maximumSignificantDigits: 3 }));
        told.append(` ${METRICS[metric.metric] ?? metric.metric.replaceAll("_", " ")}, ${metric.split}`);
      } else told.append("not told");
    }
  }

  // Light and dark ------------------------------------------------------------------------------------------------------------

  const dark = matchMedia("(prefers-color-scheme: dark)"), html = document.documentElement;
  const isDark = () => (html.dataset.theme ? html.dataset.theme === "dark" : dark.matches);
  const theme = () => {
    $("theme").textContent = isDark() ? "Light" : "Dark";
    $("theme").setAttribute("aria-pressed", String(isDark()));
    $("theme").setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  };
  html.dataset.theme = kept("localStorage", THEME) ?? "";
  $("theme").addEventListener("click", () => {
    html.dataset.theme = isDark() ? "light" : "dark";
    keep("localStorage", THEME, html.dataset.theme);
    theme();
  });
  dark.addEventListener("change", theme);
  theme();

  // The beginning ---------------------------------------------------------------------------------------------------------------

  async function start() {
    try {
      info = await (await ask("info")).json();
    } catch (error) {
      tell($("trouble"), error);
      add($("trouble"), "button", { type: "button" }, "Try again").addEventListener("click", start);
      return;
    }
    tell($("trouble"), null);
    const before = $("run").value;
    $("run").replaceChildren();
    for (const { name } of info.runs) add($("run"), "option", { value: name }, name);
    $("run").value = info.runs.some(({ name }) => name === before) ? before : info.default;
    $("choice").hidden = info.runs.length < 2;
    $("runs").replaceChildren();
    for (const run of info.runs) describe(run, info.runs.length > 1);
    $("model-title").textContent = info.runs.length > 1 ? "The models" : "The model";
    $("file-note").textContent = `CSV, TSV, JSON lines or Parquet, up to ${whole(Math.floor(info.limits.file_bytes / 2 ** 20))} MiB`;
    $("ready").hidden = false;
    choose();
  }

  for (const [title, ...texts] of EXAMPLES) {
    add($("examples"), "button", { type: "button", class: "chip" }, title).addEventListener("click", () => {
      boxes().forEach((box, at) => { box.value = texts[at]; });
      changed(0);
    });
  }
  $("fields").addEventListener("input", () => changed());
  $("clear").addEventListener("click", () => { boxes().forEach((box) => { box.value = ""; }); changed(); boxes()[0].focus(); });
  for (const id of ["run", "other"]) $(id).addEventListener("change", choose);
  $("table").addEventListener("change", () => { if ($("table").files[0]) score($("table").files[0]); $("table").value = ""; });
  $("cancel").addEventListener("click", () => { working?.abort(); $("table").focus(); });
  for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
    addEventListener(type, (event) => {
      event.preventDefault(); // a file that misses the place must not replace the page
      const over = $("drop").contains(event.target);
      $("drop").classList.toggle("over", over && (type === "dragenter" || type === "dragover"));
      if (type === "drop" && over && event.dataTransfer.files[0]) score(event.dataTransfer.files[0]);
    });
  }
  start();
})();
