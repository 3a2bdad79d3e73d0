// The page's own script: draws the pictures in the reader's colours, and answers its buttons.
"use strict";
(() => {
  const root = document.documentElement;
  const pictures = JSON.parse(document.getElementById("pictures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const chips = [...document.querySelectorAll(".chip")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displayModeBar: false, responsive: true, typesetMath: false, scrollZoom: false, showTips: false, plotlyServerURL: "",
  };
  const hidden = new Set(chips.filter((chip) => chip.getAttribute("aria-pressed") === "false").map((c) => c.dataset.arm));

  // Colours -----------------------------------------------------------------------------------------------------------

  // Names such as $arm3 become what the style sheet says now; $arm3~ a pale one. Ends of the heat map are mixed from two.
  function palette() {
    const style = getComputedStyle(root);
    const channels = (name) => style.getPropertyValue(`--${name}`).trim().match(/\w\w/g).map((part) => parseInt(part, 16));
    const mix = (one, other, share) => one.map((value, at) => Math.round(value * share + other[at] * (1 - share)));
    const css = (rgb, alpha) => `rgba(${rgb.join(",")},${alpha})`;
    const card = channels("card");
    return (name) => {
      if (!name.startsWith("$")) return name;
      if (name === "$heat0") return css(card, 1);
      if (name === "$heat+") return css(mix(channels("arm0"), card, 0.62), 1);
      if (name === "$heat-") return css(mix(channels("arm1"), card, 0.62), 1);
      return name.endsWith("~") ? css(channels(name.slice(1, -1)), 0.15) : css(channels(name.slice(1)), 1);
    };
  }

  // A copy of a picture with its colours put in. Only what stands under a key of colours is a colour.
  function painted(value, colour, isColour) {
    if (Array.isArray(value)) return value.map((one) => painted(one, colour, isColour));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(
        ([key, one]) => [key, painted(one, colour, /color(s|scale)?$/.test(key))]));
    }
    return isColour && typeof value === "string" ? colour(value) : value;
  }

  // Drawing -----------------------------------------------------------------------------------------------------------

  // The area between the two ends of a line's intervals: forth along the upper ends, back along the lower ones.
  function banded({ x, meta, band }) {
    const known = x.map((_, at) => at).filter((at) => band.low[at] !== null && band.high[at] !== null);
    const back = [...known].reverse();
    return {
      type: "scatter", mode: "lines", meta, showlegend: false, line: { width: 0 }, fill: "toself", fillcolor: band.color, hoverinfo: "skip",
      x: [...known, ...back].map((at) => x[at]),
      y: [...known.map((at) => band.high[at]), ...back.map((at) => band.low[at])],
    };
  }

  const begun = new Set();
  function draw(plot) {
    begun.add(plot);
    const { data: lines, layout } = painted(pictures[plot.id], palette(), false);
    const data = lines.flatMap((trace) => (trace.band ? [banded(trace), trace] : [trace]));
    for (const trace of data) trace.visible = !hidden.has(trace.meta);
    return Plotly.react(plot, data, layout, config).then(() => { plot.dataset.drawn = "yes"; });
  }

  const seen = (plot) => plot.offsetParent !== null;
  const again = () => plots.filter((plot) => begun.has(plot) && seen(plot)).forEach(draw);
  // What is near the window is drawn at once, the rest one by one, so that a page with many pictures answers from the start.
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting && !begun.has(target)) draw(target);
  }, { rootMargin: "400px" });
  plots.forEach((plot) => watcher.observe(plot));
  function rest() {
    const next = plots.find((plot) => !begun.has(plot) && seen(plot));
    if (next) draw(next).finally(() => setTimeout(rest, 20));
  }
  setTimeout(rest, 200);

  // Light and dark ----------------------------------------------------------------------------------------------------

  const toggle = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  function tell() {
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.setAttribute("aria-pressed", String(isDark()));
    toggle.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  }
  toggle.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; tell(); again(); });
  dark.addEventListener("change", () => { tell(); again(); });
  tell();

  // Choices -----------------------------------------------------------------------------------------------------------

  for (const chip of chips) {
    chip.addEventListener("click", () => {
      const show = hidden.has(chip.dataset.arm);
      if (show) hidden.delete(chip.dataset.arm); else hidden.add(chip.dataset.arm);
      for (const other of chips) {
        if (other.dataset.arm === chip.dataset.arm) other.setAttribute("aria-pressed", String(show));
      }
      again();
    });
  }
  for (const select of document.querySelectorAll("select[data-views]")) {
    const views = [...select.options].map((option) => document.getElementById(option.value));
    const show = () => views.forEach((view) => { view.hidden = view.id !== select.value; });
    // A browser may come back to the page with another choice than the first.
    select.addEventListener("change", () => {
      show();
      // A picture may have the wrong size or colours if those changed while it was hidden.
      views.forEach((view) => view.querySelectorAll(".plot").forEach((plot) => { if (seen(plot)) draw(plot); }));
    });
    show();
  }
  for (const button of document.querySelectorAll("[data-save]")) {
    const plot = document.getElementById(button.dataset.save);
    const filename = plot.closest("figure").querySelector("h3").textContent.replace(/[^\p{L}\p{N}]+/gu, "-");
    button.addEventListener("click", () => Plotly.downloadImage(plot, { format: "svg", filename }));
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    const text = document.getElementById(button.dataset.copy);
    button.addEventListener("click", () => {
      const said = (word) => { button.textContent = word; setTimeout(() => { button.textContent = "Copy"; }, 1500); };
      const marked = () => { getSelection().selectAllChildren(text); said("Marked"); };
      // Files opened from disk may not write to the clipboard everywhere: then the text is marked instead.
      if (navigator.clipboard) navigator.clipboard.writeText(text.textContent).then(() => said("Copied"), marked);
      else marked();
    });
  }

  // Paper -------------------------------------------------------------------------------------------------------------

  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    plots.filter(seen).forEach(draw);
  });
  addEventListener("afterprint", () => {
    if (before === undefined) delete root.dataset.theme; else root.dataset.theme = before;
    again();
  });
})();
