"use strict";
// Puts the page's figures into their places and keeps their colours in step with the reader's light or dark scheme.
const i0t = (() => {
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const documents = new Map();
  const waiting = [];
  let standing = false;

  const data = (name) => JSON.parse(document.getElementById(`data-${name}`).textContent);
  const darkOf = data("dark-colors");
  const lightOf = Object.fromEntries(Object.entries(darkOf).map(([light, dark]) => [dark, light]));
  const known = (shown) => lightOf[shown.toLowerCase()] ?? shown;
  const color = (light) => (scheme.matches ? darkOf[light.toLowerCase()] ?? light : light);

  function model(figure, name) {
    const found = documents.get(figure)?.get_model_by_name(name);
    if (found == null) throw new Error(`figure ${figure} has no model ${name}`);
    return found;
  }

  function switched(value) {
    if (typeof value === "string") return color(known(value));
    if (Array.isArray(value)) return value.map(switched);
    return value;
  }

  function recolorModel(item) {
    const changed = {};
    for (const property of item) {
      if (!/(^|_)color$|^palette$/.test(property.attr) || property.is_unset) continue;
      const before = property.get_value();
      const plain = before != null && typeof before === "object" && "value" in before;
      const after = plain ? { ...before, value: switched(before.value) } : switched(before);
      if (JSON.stringify(after) !== JSON.stringify(before)) changed[property.attr] = after;
    }
    if (Object.keys(changed).length > 0) item.setv(changed);
  }

  function recolor() {
    for (const bokehDocument of documents.values()) for (const item of bokehDocument.all_models) recolorModel(item);
    document.documentElement.dataset.scheme = scheme.matches ? "dark" : "light";
  }

  // A row of entries is cut off where the window is narrow.
  const narrow = window.matchMedia("(max-width: 640px)");
  function foldLegends() {
    for (const bokehDocument of documents.values()) {
      for (const item of bokehDocument.all_models) {
        if (item.type === "Legend" && item.orientation === "horizontal") item.ncols = narrow.matches ? 2 : "auto";
      }
    }
  }

  async function start() {
    const blocks = [...document.querySelectorAll('script[type="application/json"][id^="bokeh-"]')];
    for (const block of blocks) {
      const item = JSON.parse(block.textContent);
      const views = await Bokeh.embed.embed_item(item);
      documents.set(block.id.slice("bokeh-".length), views.roots[0].model.document);
    }
    recolor();
    foldLegends();
    scheme.addEventListener("change", recolor);
    narrow.addEventListener("change", foldLegends);
    standing = true;
    for (const callback of waiting) callback();
    document.documentElement.dataset.ready = "yes";
  }

  const ready = (callback) => { if (standing) callback(); else waiting.push(callback); };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
  return { color, data, model, ready, recolor };
})();
