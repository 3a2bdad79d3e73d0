// A panel: what one run says of the text.

import { Trouble, post, service, stopped, tell } from "./api.js";
import { bars, scale } from "./cards.js";
import { $, add, whole } from "./nodes.js";
import { words } from "./words.js";

const EXPLAIN_MS = 350; // from the answer to the next question, which costs a model many times as much
let renewed = null;

// `renew` asks the service anew what it holds.
export function panel(run, renew) {
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
      const most = service.info.limits.characters_per_explanation ?? Infinity;
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
        await renew();
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
