"use strict";
// Layout of boxes and arrows: a sequence in columns, parallel branches in a row, and any other graph by dagre.
const layoutModel = (() => {
  const LINE = 14, HISTOGRAM = 20, PAD = 7, BAR = 5, GAP = 20, SIDE = 14, PORT = 8, FONT = "11px Arial, 'Liberation Sans', sans-serif";
  const pen = document.createElement("canvas").getContext("2d");
  const width = (text) => { pen.font = FONT; return pen.measureText(text).width; };

  const isChain = (l) => !l.edges.length || (l.edges.length === l.children.length + 1 &&
    l.edges.every(([a, b], i) => a === (i ? i - 1 : "in") && b === (i < l.children.length ? i : "out")));
  const isFan = (l) => l.edges.length === 2 * l.children.length && l.edges.every(([a, b]) => a === "in" || b === "out") &&
    l.children.every((_, i) => l.edges.some(([a, b]) => a === "in" && b === i) && l.edges.some(([a, b]) => a === i && b === "out"));
  const top = (b) => [b.x + b.w / 2, b.y], bottom = (b) => [b.x + b.w / 2, b.y + b.h];

  function measure(l, text, bars, pane) {  // compute the size of a layer, and the positions of its children in it
    l.text = text(l); l.bars = l.open ? [] : bars(l); l.arrows = []; l.ports = [];
    if (!l.open) {
      const high = l.text.length * LINE + (l.bars.length ? HISTOGRAM + PAD / 2 : 0);
      l.box = { w: Math.max(64, ...l.text.map(width)) + 2 * PAD + BAR, h: high + 2 * PAD };
      return;
    }
    for (const child of l.children) measure(child, text, bars, pane);
    l.text = [l.text.join(" · ")];
    const head = LINE + PAD, size = isChain(l) ? columns(l, pane) : isFan(l) ? row(l) : graph(l);
    for (const b of [...l.children.map((c) => c.box), ...l.ports]) { b.x += SIDE; b.y += head; }
    l.arrows = l.arrows.map((points) => points.map(([x, y]) => [x + SIDE, y + head]));
    l.box = { w: Math.max(size.w + 2 * SIDE, width(l.text[0]) + 2 * PAD), h: size.h + head + SIDE };
  }
  function columns(l, pane) {
    const boxes = l.children.map((c) => c.box), total = boxes.reduce((h, b) => h + b.h + GAP, 0);
    const widest = Math.max(...boxes.map((b) => b.w));
    const count = total <= 1.15 * pane.h ? 1 : Math.max(1, Math.round(Math.sqrt((total * pane.w) / ((widest + 40) * pane.h))));
    const most = Math.max(total / count, ...boxes.map((b) => b.h)) + GAP;
    let x = 0, y = 0, wide = 0, high = 0, column = [];
    const close = () => { for (const b of column) b.x = x + (wide - b.w) / 2; x += wide + 40; };
    for (const b of boxes) {
      if (column.length && y + b.h > most) { close(); column = []; y = 0; wide = 0; }
      b.y = y; y += b.h + GAP; wide = Math.max(wide, b.w); high = Math.max(high, b.y + b.h); column.push(b);
    }
    close();
    if (l.edges.length) for (let i = 1; i < boxes.length; i++) {
      const [x1, y1] = bottom(boxes[i - 1]), [x2, y2] = top(boxes[i]);
      if (y2 > y1) l.arrows.push([[x1, y1], [x2, y2]]);
      else {  // an arrow to the next column
        const turn = boxes[i].x - 24;
        l.arrows.push([[x1, y1], [x1, high + 8], [turn, high + 8], [turn, -8], [x2, -8], [x2, y2]]);
        l.wrapped = true;
      }
    }
    if (l.wrapped) { shift(l, 12); high += 22; }
    return { w: x - 40, h: high };
  }
  function shift(l, by) {
    for (const child of l.children) child.box.y += by;
    l.arrows = l.arrows.map((points) => points.map(([x, y]) => [x, y + by]));
  }
  function row(l) {
    let x = 0, high = 0;
    for (const { box } of l.children) { box.x = x; x += box.w + GAP; high = Math.max(high, box.h); }
    const w = x - GAP, start = { x: w / 2 - PORT / 2, y: 0, w: PORT, h: PORT }, stop = { ...start, y: high + PORT + 2 * GAP };
    l.ports = [start, stop];
    for (const { box } of l.children) {
      box.y = PORT + GAP + (high - box.h) / 2;
      l.arrows.push([bottom(start), top(box)], [bottom(box), top(stop)]);
    }
    return { w, h: stop.y + PORT };
  }
  function graph(l) {
    const g = new dagre.graphlib.Graph(), named = (end) => (typeof end === "string" ? end : `c${end}`);
    g.setGraph({ rankdir: "TB", nodesep: GAP, ranksep: GAP + 6 }); g.setDefaultEdgeLabel(() => ({}));
    const ports = new Map();
    for (const end of new Set(l.edges.flat().filter((e) => typeof e === "string"))) ports.set(end, { width: PORT, height: PORT });
    for (const [end, size] of ports) g.setNode(end, size);
    l.children.forEach(({ box }, i) => g.setNode(named(i), { width: box.w, height: box.h }));
    for (const [a, b] of l.edges) g.setEdge(named(a), named(b));
    dagre.layout(g);
    const placed = (name) => { const n = g.node(name); return { x: n.x - n.width / 2, y: n.y - n.height / 2, w: n.width, h: n.height }; };
    l.children.forEach((c, i) => Object.assign(c.box, placed(named(i))));
    l.ports = [...ports.keys()].map(placed);
    l.arrows = g.edges().map((e) => g.edge(e).points.map((p) => [p.x, p.y]));
    return { w: g.graph().width, h: g.graph().height };
  }
  function place(l, x, y, out) {  // convert positions in the container to positions in the picture
    l.box.x = x; l.box.y = y; out.layers.push(l);
    for (const b of l.ports) out.ports.push({ x: b.x + x, y: b.y + y });
    for (const points of l.arrows) out.arrows.push(points.map(([px, py]) => [px + x, py + y]));
    if (l.open) for (const child of l.children) place(child, x + child.box.x, y + child.box.y, out);
  }

  const element = (name, attributes, ...children) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
    e.append(...children);
    return e;
  };
  function group(l) {
    const { x, y, w, h } = l.box, look = `layer k-${l.kind}${l.verdict ? ` v-${l.verdict}` : ""}`;
    const g = element("g", { id: l.id, class: `${l.open ? "cluster" : "node"} ${look}` });
    g.append(element("rect", { class: "frame", x, y, width: w, height: h, rx: 5 }));
    if (!l.open && l.children.length) g.append(element("rect", { class: "second", x: x + 2.5, y: y + 2.5, width: w - 5, height: h - 5, rx: 3 }));
    if (!l.open) g.append(element("rect", { class: "bar", x, y, width: BAR, height: h, rx: 2 }));
    l.text.forEach((line, i) => {
      const at = l.open ? { x: x + PAD, y: y + LINE } : { x: x + BAR + (w - BAR) / 2, y: y + PAD + 10.5 + i * LINE, "text-anchor": "middle" };
      g.append(element("text", { ...at, "font-size": 11, ...(i || l.open ? {} : { "font-weight": "bold" }) }, line));
    });
    if (l.bars.length) {
      const most = Math.max(...l.bars), one = (w - BAR - 2 * PAD) / l.bars.length, foot = y + h - PAD;
      const bar = (n, i) => `M${x + BAR + PAD + i * one} ${foot}v${(-HISTOGRAM * n) / most}h${0.85 * one}V${foot}z`;
      g.append(element("path", { class: "weights", d: l.bars.map(bar).join("") }));
    }
    return g;
  }
  return (root, text, bars, pane) => {
    const out = { layers: [], ports: [], arrows: [] };
    measure(root, text, bars, pane);
    place(root, 0, 0, out);
    const tip = element("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
      element("path", { d: "M0 0 L8 4 L0 8 z" }));
    const graph = element("g", { class: "graph" });
    graph.append(...out.layers.filter((l) => l.open).map(group));
    for (const points of out.arrows) graph.append(element("g", { class: "edge" }, element("path", { d: `M${points.map((p) => p.join(" ")).join(" L")}`, "marker-end": "url(#tip)" })));
    for (const { x, y } of out.ports) graph.append(element("circle", { class: "port", cx: x + PORT / 2, cy: y + PORT / 2, r: PORT / 2 }));
    graph.append(...out.layers.filter((l) => !l.open).map(group));
    return element("svg", { viewBox: `0 0 ${root.box.w} ${root.box.h}` }, element("defs", {}, tip), graph);
  };
})();
