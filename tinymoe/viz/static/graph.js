// A computation graph to explore: values forwards, gradients backwards one tape entry at a time.

import { OPS, SIGNS, backward, computable, forward, reverseOrder } from "./scalar.js";
import { layered } from "./layout.js";
import { card, follow, h, number, s, send, slider } from "./common.js";

const [W, H] = [94, 52];
const SHRINK = 0.02; // step size of "one step downhill"

function render({ model, el }) {
  const life = new AbortController();
  const root = card(el, "graph", model.get("title"));
  let nodes = [];
  let output = 0;
  let order = [];
  let layout = null;
  let scalar = false;
  let done = 0;
  let selected = null;
  let timer = 0;
  let marks = [];
  let sliders = new Map();

  const picture = s("svg", { class: "tm-picture", role: "group", "aria-label": "computation graph" });
  const scroll = h("div", { class: "tm-canvas" }, picture);
  const button = (text, label, action, kind = "tm-quiet") => h("button", { type: "button", class: kind, title: label, onclick: action }, text);
  const controls = {
    reset: button("Reset", "forget the gradients", () => go(0)),
    back: button("‹ Back", "undo one step of the backward pass", () => go(done - 1)),
    step: button("Backward step ›", "pass one gradient back", () => go(done + 1), "tm-button"),
    play: button("Play all", "play the whole backward pass", play),
  };
  const progress = h("span", { class: "tm-note", role: "status" });
  const story = h("p", { class: "tm-story", "aria-live": "polite" });
  const panel = h("div", { class: "tm-detail" });
  const leaves = h("div", { class: "tm-leaves" });
  const moved = h("p", { class: "tm-note", "aria-live": "polite" });
  const descend = button("One step downhill", "move every input a little against its gradient", downhill);
  root.append(scroll, h("div", { class: "tm-tape" }, Object.values(controls), progress), story,
    h("div", { class: "tm-lower" }, panel, h("div", { class: "tm-inputs" }, leaves, moved)));

  function load() {
    clearTimeout(timer);
    const graph = model.get("graph");
    const index = new Map(graph.nodes.map((node, i) => [node.id, i]));
    let unnamed = 0;
    nodes = graph.nodes.map((node) => ({
      ...node, inputs: node.inputs.map((id) => index.get(id)), label: node.label || (node.op === null ? "" : `v${++unnamed}`),
    }));
    output = index.get(graph.output);
    scalar = computable(nodes);
    if (scalar) {
      forward(nodes);
      backward(nodes, output);
    }
    order = reverseOrder(nodes, output);
    layout = layered(nodes, { columnGap: W + 34, rowGap: H + 24 });
    done = Math.min(done, order.length);
    if (selected === null || selected >= nodes.length) selected = output;
    build();
    makeSliders();
    draw();
  }

  const nameOf = (i) => nodes[i].label || show(nodes[i].value) || "constant";
  const show = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return number(value);
    return `array ${shapeOf(value).join(" × ")}`;
  };
  const inBox = (value) => show(value).replace(/^array (?=.*×)/, ""); // there is little room
  const shapeOf = (value) => (Array.isArray(value) ? [value.length, ...shapeOf(value[0] ?? 0)] : []);

  function build() {
    const pad = 14;
    const [width, height] = [layout.width + W + 2 * pad, layout.height + 2 * pad + 6];
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.style.minWidth = `${Math.round(width * 0.62)}px`;
    picture.style.maxWidth = `${Math.round(width * 1.12)}px`;
    const edges = s("g", {});
    const boxes = s("g", {});
    marks = nodes.map(() => ({ edges: [] }));
    nodes.forEach((node, to) => node.inputs.forEach((from, n) => {
      const points = layout.routes.get(`${from}>${to}>${n}`).map(({ x, y }) => ({ x: x + pad + W / 2, y: y + pad + 3 }));
      points[0].x += W / 2;
      points[points.length - 1].x -= W / 2;
      const twice = node.inputs.filter((k) => k === from).length > 1 ? (n - (node.inputs.length - 1) / 2) * 16 : 0;
      points[points.length - 1].y += twice;
      const line = s("path", { class: "tm-edge", d: curve(points) });
      const flow = s("path", { class: "tm-flow", d: curve(points), pathLength: 1 });
      edges.append(line, flow);
      marks[to].edges[n] = { line, flow };
    }));
    nodes.forEach((node, i) => {
      const value = s("text", { class: "tm-value", x: W / 2, y: 39, "text-anchor": "middle" });
      const grad = s("text", { class: "tm-grad", x: W / 2, y: H + 15, "text-anchor": "middle" });
      const sign = node.op === null ? "" : SIGNS[node.op] ?? node.op;
      const box = s("g", {
        class: `tm-node${node.op === null ? node.constant ? " tm-constant" : " tm-leaf" : ""}${i === output ? " tm-output" : ""}`,
        transform: `translate(${layout.spots[i].x + pad} ${layout.spots[i].y + pad + 3 - H / 2})`, tabindex: 0, role: "button",
        onclick: () => select(i),
        onkeydown: (event) => {
          const next = { ArrowRight: nodes.findIndex((one) => one.inputs.includes(i)), ArrowLeft: node.inputs[0] ?? -1 }[event.key] ?? -1;
          if (event.key === "Enter" || event.key === " ") select(i);
          else if (next >= 0) {
            select(next);
            marks[next].box.focus();
          } else return;
          event.preventDefault();
        },
      }, s("rect", { width: W, height: H, rx: node.op === null ? 10 : H / 2 }),
      s("text", { class: "tm-name", x: W / 2, y: 21, "text-anchor": "middle" }, node.label, sign && s("tspan", { class: sign.length > 1 ? "tm-sign tm-op" : "tm-sign", dx: 7 }, sign), node.constant && !node.label && s("tspan", { class: "tm-sign" }, "constant")),
      value, grad);
      boxes.append(box);
      Object.assign(marks[i], { box, value, grad });
    });
    picture.replaceChildren(edges, boxes);
  }

  /** A smooth line that passes the slots of a long edge level. */
  function curve(points) {
    let d = `M${points[0].x} ${points[0].y}`;
    for (let i = 1; i < points.length; i++) {
      const [p, q] = [points[i - 1], points[i]];
      const middle = (p.x + q.x) / 2;
      d += `C${middle} ${p.y},${middle} ${q.y},${q.x} ${q.y}`;
    }
    return d;
  }

  /** What has reached node i after `done` steps; null when nothing has. */
  function arrived(i) {
    if (i === output) return done > 0 ? nodes[i].grad : null;
    const passed = order.slice(0, done);
    const users = passed.filter((k) => nodes[k].inputs.includes(i));
    if (!users.length) return null;
    const all = order.filter((k) => nodes[k].inputs.includes(i));
    if (users.length === all.length) return nodes[i].grad;
    if (!scalar) return undefined; // on its way, and only the final sum is known
    return users.reduce((sum, k) => sum + nodes[k].inputs.reduce((part, input, n) => part + (input === i ? nodes[k].parts[n] : 0), 0), 0);
  }

  function draw() {
    const now = done > 0 ? order[done - 1] : null;
    nodes.forEach((node, i) => {
      const { box, value, grad, edges } = marks[i];
      const got = node.constant ? null : arrived(i);
      value.textContent = inBox(node.value);
      grad.textContent = got === null ? "" : got === undefined ? "grad …" : `grad ${inBox(got)}`;
      box.classList.toggle("tm-selected", i === selected);
      box.classList.toggle("tm-now", i === now);
      box.classList.toggle("tm-reached", got !== null);
      box.setAttribute("aria-label", `${nameOf(i)}: value ${show(node.value)}${got === null ? "" : `, gradient ${show(got)}`}`);
      edges.forEach(({ line, flow }, n) => {
        const passed = order.indexOf(i) < done && order.includes(i) && !nodes[node.inputs[n]].constant;
        line.classList.toggle("tm-passed-edge", passed);
        flow.classList.toggle("tm-flowing", passed && i === now);
      });
    });
    controls.reset.disabled = controls.back.disabled = done === 0;
    controls.step.disabled = controls.play.disabled = done === order.length;
    progress.textContent = `${done} of ${order.length} steps`;
    story.replaceChildren(...tell(now));
    drawPanel();
  }

  const code = (text) => h("code", {}, text);

  function tell(now) {
    if (now === null) {
      return ["The values are computed from left to right. Step backward to pass gradients from right to left, in the reverse order of the tape."];
    }
    const node = nodes[now];
    const seed = done === 1 ? ["The output's gradient with respect to itself is 1. "] : [];
    const op = OPS[node.op];
    if (!op || !scalar) return [...seed, code(node.op), " passes its gradient to its inputs through its vjp."];
    const formulas = op.pull(node.inputs.map(nameOf), nameOf(now), node.options ?? {});
    const parts = node.inputs.flatMap((k, n) => (nodes[k].constant ? [] : [[k, n]]));
    return [...seed, code(`${nameOf(now)} = ${op.show(node.inputs.map(nameOf), node.options ?? {})}`), ` has gradient g = ${show(node.grad)}. It passes `,
      ...parts.flatMap(([k, n], i) => [i ? " and " : "", code(formulas[n]), ` = ${show(node.parts[n])} to `, code(nameOf(k))]), "."];
  }

  function drawPanel() {
    const node = nodes[selected];
    const op = OPS[node.op];
    const got = node.constant ? null : arrived(selected);
    const names = node.inputs.map(nameOf);
    const rows = [["value", detail(node.value)]];
    const slope = `∂${nameOf(output)} / ∂${nameOf(selected)}`;
    if (!node.constant) rows.push([op && scalar ? `g = ${slope}` : slope, got === null ? "not reached yet" : got === undefined ? "on its way" : detail(got)]);
    const table = op && scalar ? h("table", { class: "tm-vjp" },
      h("thead", {}, h("tr", {}, ["input", "local derivative", "passed back"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, node.inputs.map((k, n) => h("tr", {}, h("td", {}, code(names[n])), h("td", {}, number(node.slopes[n])),
        h("td", {}, nodes[k].constant ? "nothing: a constant" : code(op.pull(names, nameOf(selected), node.options ?? {})[n])))))) : null;
    panel.replaceChildren(h("h4", {}, node.op === null ? (node.constant ? "Constant " : "Input ") : `${node.op}: `, code(nameOf(selected)),
      op ? [" = ", code(op.show(names, node.options ?? {}))] : null), h("dl", {}, rows.map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)])), table ?? "");
  }

  /** A number, or a small table of the first entries of an array. */
  function detail(value) {
    if (!Array.isArray(value)) return show(value);
    const rows = Array.isArray(value[0]) ? value : [value];
    const cut = rows.slice(0, 6).map((row) => (Array.isArray(row[0]) ? [] : row.slice(0, 6)));
    if (!cut[0]?.length) return show(value);
    return [h("table", { class: "tm-array" }, h("tbody", {}, cut.map((row) => h("tr", {}, row.map((x) => h("td", {}, number(x, 3))))))),
      rows.length > 6 || rows[0].length > 6 ? h("small", {}, `first entries of ${shapeOf(value).join(" × ")}`) : null];
  }

  function select(i) {
    selected = i;
    draw();
  }

  function go(to) {
    clearTimeout(timer);
    done = Math.max(0, Math.min(order.length, to));
    if (done > 0) selected = order[done - 1];
    draw();
  }

  function play() {
    go(done + 1);
    if (done < order.length && !life.signal.aborted) timer = setTimeout(play, 900);
  }

  function makeSliders() {
    sliders = new Map();
    const free = nodes.map((node, i) => [node, i]).filter(([node]) => node.op === null && !node.constant && typeof node.value === "number");
    const live = (scalar || model.get("callable")) && free.length > 0;
    leaves.replaceChildren();
    leaves.parentElement.hidden = !live;
    if (!live) return;
    for (const [node, i] of free) {
      const reach = Math.max(2, 2 ** Math.ceil(Math.log2(Math.abs(node.value) + 1e-9)));
      const one = slider({
        label: nameOf(i), min: -reach, max: reach, step: reach / 200, value: node.value, show: (x) => number(x, 3),
        oninput: (x) => change(new Map([[i, x]])),
      });
      sliders.set(i, one);
      leaves.append(one.el);
    }
    leaves.prepend(h("h4", {}, "Inputs"));
    if (scalar) leaves.append(descend);
  }

  /** Give leaves new values, recompute, and compare the change of the output with what the gradient foretold. */
  function change(values) {
    if (!scalar) {
      clearTimeout(timer);
      timer = setTimeout(() => send(model, { kind: "recompute", values: Object.fromEntries([...values].map(([i, x]) => [nodes[i].label || nodes[i].id, x])) }), 60);
      return;
    }
    const before = nodes[output].value;
    let foretold = 0;
    for (const [i, x] of values) {
      foretold += nodes[i].grad * (x - nodes[i].value);
      nodes[i].value = x;
    }
    forward(nodes);
    backward(nodes, output);
    const really = nodes[output].value - before;
    moved.replaceChildren(`${nameOf(output)} changed by `, h("b", {}, number(really, 3)), `; the gradient foretold ${number(foretold, 3)}.`);
    draw();
  }

  function downhill() {
    const values = new Map([...sliders.keys()].map((i) => [i, nodes[i].value - SHRINK * nodes[i].grad]));
    change(values);
    values.forEach((x, i) => sliders.get(i).set(x));
  }

  follow(model, life.signal, "change:graph", load);
  life.signal.addEventListener("abort", () => clearTimeout(timer));
  load();
  return () => life.abort();
}

export default { render };
