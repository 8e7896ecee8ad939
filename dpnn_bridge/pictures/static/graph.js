"use strict";
(() => {
  const { root, marks, open: startDepth } = JSON.parse(document.getElementById("data").textContent);
  const pane = document.getElementById("graph"), details = document.getElementById("details");
  const map = document.getElementById("map"), search = document.getElementById("search"), filter = document.getElementById("filter");
  const layers = [], parents = new Map();
  (function number(layer, depth) {
    layer.id = `n${layers.length}`;
    layer.open = depth < startDepth && layer.children.length > 0;
    layers.push(layer);
    for (const child of layer.children) { parents.set(child, layer); number(child, depth + 1); }
  })(root, 0);
  const byId = new Map(layers.map((layer) => [layer.id, layer]));
  const inside = (l) => l.children.reduce((n, child) => n + 1 + inside(child), 0);

  const weights = document.getElementById("weights");
  const weighed = (l) => l.tensors.find((t) => t.histogram.length);
  const bars = (l) => (weights && weights.checked && weighed(l) ? weighed(l).histogram : []);
  function text(l) {  // the lines of a box
    const [first, ...others] = l.label;
    const lines = [l.verdict ? `${marks[l.verdict]} ${first}` : first, ...others, ...(bars(l).length ? [weighed(l).range.split(", ")[0]] : [])];
    return !l.open && l.children.length ? [...lines, `▸ ${inside(l)} layers`] : lines;
  }

  // ------------------------------------------------------------ drawing, moving, zooming
  let svg = null, view = null, size = null, chosen = null, current = root;
  function show() {
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
    map.toggleAttribute("hidden", view.w >= 0.99 * size.w && view.h >= 0.99 * size.h);
    for (const [name, value] of Object.entries({ x: view.x, y: view.y, width: view.w, height: view.h })) map.lastChild.setAttribute(name, value);
  }
  function fit() {
    const { w, h } = size, whole = Math.min(pane.clientWidth / w, pane.clientHeight / h);
    const scale = whole >= 0.9 ? Math.min(whole, 1.5) : Math.max(whole, 0.7, Math.min(1.1, pane.clientWidth / w));  // pixels per unit; readable text has priority
    view = { w: pane.clientWidth / scale, h: pane.clientHeight / scale };
    view.x = size.x + (w - view.w) / 2;
    view.y = size.y + Math.min(0, (h - view.h) / 2);
    show();
  }
  function drawMap() {  // the boxes in their colors, and a frame around the visible region
    const svgElement = (name, attributes) => {
      const e = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const key in attributes) e.setAttribute(key, attributes[key]);
      return e;
    };
    const paths = {};
    for (const { open, kind, box } of shown()) if (!open) paths[kind] = `${paths[kind] || ""}M${box.x} ${box.y}h${box.w}v${box.h}h${-box.w}z`;
    map.setAttribute("viewBox", `${size.x} ${size.y} ${size.w} ${size.h}`);
    map.replaceChildren(...Object.entries(paths).map(([kind, d]) => svgElement("path", { class: `k-${kind}`, d })), svgElement("rect", {}));
  }
  function jump(e) {
    const at = new DOMPoint(e.clientX, e.clientY).matrixTransform(map.getScreenCTM().inverse());
    view.x = at.x - view.w / 2; view.y = at.y - view.h / 2; show();
  }
  function zoom(factor, at = { x: 0.5, y: 0.5 }) {
    view = { x: view.x + view.w * at.x * (1 - factor), y: view.y + view.h * at.y * (1 - factor), w: view.w * factor, h: view.h * factor };
    show();
  }
  function move(dx, dy) {
    const scale = Math.max(view.w / pane.clientWidth, view.h / pane.clientHeight);
    view.x -= dx * scale; view.y -= dy * scale; show();
  }
  function reveal(group) {  // move the view until a layer is visible
    const a = group.getBoundingClientRect(), b = pane.getBoundingClientRect(), gap = 12;
    const along = (low, high, from, to) => high - low > to - from || low < from ? from + gap - low : high > to ? to - gap - high : 0;
    move(along(a.left, a.right, b.left, b.right), along(a.top, a.bottom, b.top, b.bottom));
  }
  function draw(keep) {
    const before = keep && view ? { ...view } : null;
    const fresh = layoutModel(root, text, bars, { w: pane.clientWidth, h: pane.clientHeight });
    for (const part of [fresh, fresh.querySelector(".graph")]) part.setAttribute("role", "presentation");
    for (const part of fresh.querySelectorAll(".edge, .port")) part.setAttribute("aria-hidden", "true");
    pane.replaceChildren(fresh); svg = fresh;
    const drawn = svg.querySelector(".graph").getBBox();
    size = { x: drawn.x - 6, y: drawn.y - 6, w: drawn.width + 12, h: drawn.height + 12 };
    drawMap();
    for (const group of svg.querySelectorAll(".layer")) {
      const layer = byId.get(group.id);
      group.setAttribute("role", "treeitem"); group.setAttribute("aria-level", String(levels.get(layer)));
      group.setAttribute("aria-selected", String(layer === chosen));
      group.setAttribute("aria-label", [...layer.label, layer.path, layer.verdict].filter(Boolean).join(", "));
      if (layer.children.length) group.setAttribute("aria-expanded", String(layer.open));
      if (layer === chosen) group.classList.add("chosen");
    }
    while (!document.getElementById(current.id)) current = parents.get(current);
    stop(current);
    if (before) { view = before; show(); } else fit();
    mark();
  }
  // visible layers in the order of the file. Tab focuses one of them, and arrow keys move the focus
  const levels = new Map();
  (function level(layer, n) { levels.set(layer, n); for (const child of layer.children) level(child, n + 1); })(root, 1);
  const shown = () => layers.filter((l) => document.getElementById(l.id));
  function stop(layer, focus) {
    current = layer;
    for (const group of svg.querySelectorAll(".layer")) group.setAttribute("tabindex", group.id === layer.id ? "0" : "-1");
    if (focus) document.getElementById(layer.id).focus({ preventScroll: true });
  }
  function fold(layer, open) { layer.open = open; draw(true); stop(layer, true); reveal(document.getElementById(layer.id)); }
  function step(layer, key) {
    const all = shown(), i = all.indexOf(layer);
    if (key === "ArrowDown") return all[i + 1];
    if (key === "ArrowUp") return all[i - 1];
    if (key === "Home") return all[0];
    if (key === "End") return all[all.length - 1];
    if (key === "ArrowRight") return layer.open ? layer.children[0] : undefined;
    return parents.get(layer);
  }
  const groupOf = (target) => target.closest && target.closest(".layer");
  function choose(layer, toggle) {
    chosen = layer;
    if (toggle && layer.children.length) layer.open = !layer.open;
    describe(layer);
    draw(true);
    stop(layer, true);
  }

  // ------------------------------------------------------------ details, search, filter
  const element = (name, text, className) => Object.assign(document.createElement(name), { textContent: text || "", className: className || "" });
  function list(pairs) {
    const dl = document.createElement("dl");
    for (const [name, value] of pairs) if (value !== "") dl.append(element("dt", name), element("dd", String(value)));
    return dl;
  }
  function describe(l) {
    details.replaceChildren(element("h3", l.torch), list([["Lua", l.lua], ["name", l.name], ["path", l.path], ["verdict", l.verdict + (l.text ? `: ${l.text}` : "")],
      ["input", l.input], ["output", l.output], ["parameters", l.parameters ? l.parameters.toLocaleString("en") : ""], ["settings", l.settings]]));
    if (Object.keys(l.fields).length) details.append(element("h4", "Fields in Lua"), list(Object.entries(l.fields)));
    for (const t of l.tensors) {
      details.append(element("h4", `${t.name} ${t.shape}`));
      if (!t.histogram.length) continue;
      const bars = element("div", "", "bars"), most = Math.max(...t.histogram);
      bars.setAttribute("role", "img"); bars.setAttribute("aria-label", `Histogram of ${t.name}, ${t.range}`);
      for (const n of t.histogram) { const bar = document.createElement("i"); bar.style.height = `${(100 * n) / most}%`; bars.append(bar); }
      details.append(bars, element("div", t.range));
    }
  }
  const matches = (l, text) => [l.path, l.torch, l.lua, l.name].some((s) => s.toLowerCase().includes(text));
  function mark() {
    const text = search.value.trim().toLowerCase(), verdict = filter ? filter.value : "";
    const hits = layers.filter((l) => (text || verdict) && (!text || matches(l, text)) && (!verdict || l.verdict === verdict));
    for (const l of layers) {
      const group = document.getElementById(l.id);
      if (!group) continue;
      group.classList.toggle("hit", hits.includes(l));
      group.classList.toggle("dim", hits.length > 0 && !l.open && !hits.includes(l));
    }
    document.getElementById("found").textContent = text || verdict ? `${hits.length} of ${layers.length} layers` : "";
    return hits;
  }
  function find() {
    for (const l of mark()) for (let p = parents.get(l); p; p = parents.get(p)) p.open = true;
    const first = mark()[0];
    if (first) current = first;
    draw(false);
    if (first) reveal(document.getElementById(first.id));
  }

  // ------------------------------------------------------------ event handlers
  const press = (id, action) => document.getElementById(id).addEventListener("click", action);
  press("unfold", () => { for (const l of layers) l.open = l.children.length > 0; draw(false); });
  press("fold", () => { for (const l of layers) l.open = l === root && l.children.length > 0; draw(false); });
  press("closer", () => zoom(0.8)); press("farther", () => zoom(1.25)); press("fit", fit);
  if (weights) weights.addEventListener("change", () => draw(false));
  map.addEventListener("pointerdown", (e) => { map.setPointerCapture(e.pointerId); jump(e); });
  map.addEventListener("pointermove", (e) => { if (map.hasPointerCapture(e.pointerId)) jump(e); });
  search.addEventListener("change", find); search.addEventListener("input", mark);
  if (filter) filter.addEventListener("change", find);
  const pointers = new Map(); let moved = 0, spread = 0;
  pane.addEventListener("pointerdown", (e) => { pointers.set(e.pointerId, { x: e.clientX, y: e.clientY }); moved = 0; spread = 0; });
  pane.addEventListener("pointermove", (e) => {
    const pointer = pointers.get(e.pointerId);
    if (!pointer) return;
    const dx = e.clientX - pointer.x, dy = e.clientY - pointer.y;
    moved += Math.abs(dx) + Math.abs(dy);
    pointers.set(e.pointerId, { x: e.clientX, y: e.clientY });
    if (moved > 6 && !pane.hasPointerCapture(e.pointerId)) pane.setPointerCapture(e.pointerId);
    if (pointers.size === 1) { if (moved > 6) move(dx, dy); return; }
    const [a, b] = [...pointers.values()], now = Math.hypot(a.x - b.x, a.y - b.y);
    if (spread) zoom(spread / now);
    spread = now;
  });
  for (const name of ["pointerup", "pointercancel"]) pane.addEventListener(name, (e) => pointers.delete(e.pointerId));
  pane.addEventListener("click", (e) => { const group = groupOf(e.target); if (group && moved <= 6) choose(byId.get(group.id), true); });
  pane.addEventListener("wheel", (e) => {
    e.preventDefault();
    const box = pane.getBoundingClientRect();
    zoom(e.deltaY > 0 ? 1.12 : 0.89, { x: (e.clientX - box.left) / box.width, y: (e.clientY - box.top) / box.height });
  }, { passive: false });
  pane.addEventListener("keydown", (e) => {
    const group = groupOf(e.target), layer = group && byId.get(group.id);
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if ((e.key === "Enter" || e.key === " ") && layer) choose(layer, true);
    else if (moves[e.key] && e.shiftKey) move(...moves[e.key]);
    else if (layer && (moves[e.key] || e.key === "Home" || e.key === "End")) {
      if (e.key === "ArrowRight" && layer.children.length && !layer.open) fold(layer, true);
      else if (e.key === "ArrowLeft" && layer.open) fold(layer, false);
      else { const next = step(layer, e.key); if (next) { stop(next, true); reveal(document.getElementById(next.id)); } }
    }
    else if (e.key === "+" || e.key === "=") zoom(0.8);
    else if (e.key === "-") zoom(1.25);
    else return;
    e.preventDefault();
  });
  pane.addEventListener("focusin", (e) => { const group = groupOf(e.target); if (group) reveal(group); });
  window.addEventListener("resize", fit);
  let before = null;  // print the complete graph in a readable size, on several pages if necessary
  window.addEventListener("beforeprint", () => {
    before = view; view = size; show();
    svg.style.width = `min(100%, ${size.w}px)`; svg.style.height = "auto";
  });
  window.addEventListener("afterprint", () => { view = before; svg.removeAttribute("style"); show(); });
  draw(false);
  pane.dataset.ready = "true";
})();
