// The service: what it is asked, how often, and with which token.

import { $, keep, kept, pause, sentence } from "./nodes.js";

export const TOKEN = "equipoise-token";
export const service = { info: null }; // its answer to /info

export class Trouble extends Error {}
export const stopped = (error) => error.name === "AbortError";
export const tell = (box, error) => { box.hidden = !error; box.textContent = error ? error.message : ""; };

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
export const upload = (path, { body, headers, signal, sent }) => new Promise((resolve, reject) => {
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

export async function ask(path, options = {}, send = fetch) {
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
export const post = async (path, data, signal) => (await ask(path,
  { method: "POST", body: JSON.stringify(data), headers: { "Content-Type": "application/json" }, signal })).json();
