// Words and what each contributed.

import { add, percent, short, sigmoid, signed } from "./nodes.js";

export function words(root, { target, task, words: found, value, baseline, completeness_error: missed }, names, texts) {
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
