// Scalar operations with their derivatives, named as in tinymoe/ops.py, and the two passes over a graph of them.

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/**
 * op: { value(args, options), slopes(args, out, options), show(names, options) the formula,
 *       pull(names, out, options) the vjp as text, one for each input }.
 */
export const OPS = {
  add: { value: ([a, b]) => a + b, slopes: () => [1, 1], show: ([a, b]) => `${a} + ${b}`, pull: () => ["g", "g"] },
  sub: { value: ([a, b]) => a - b, slopes: () => [1, -1], show: ([a, b]) => `${a} − ${b}`, pull: () => ["g", "−g"] },
  mul: { value: ([a, b]) => a * b, slopes: ([a, b]) => [b, a], show: ([a, b]) => `${a} · ${b}`, pull: ([a, b]) => [`g · ${b}`, `g · ${a}`] },
  div: {
    value: ([a, b]) => a / b, slopes: ([a, b]) => [1 / b, -a / (b * b)],
    show: ([a, b]) => `${a} / ${b}`, pull: ([a, b]) => [`g / ${b}`, `−g · ${a} / ${b}²`],
  },
  neg: { value: ([a]) => -a, slopes: () => [-1], show: ([a]) => `−${a}`, pull: () => ["−g"] },
  power: {
    value: ([a], { exponent }) => a ** exponent, slopes: ([a], _, { exponent }) => [exponent * a ** (exponent - 1)],
    show: ([a], { exponent }) => `${a}^${exponent}`, pull: ([a], _, { exponent }) => [`g · ${exponent} · ${a}^${Number((exponent - 1).toPrecision(6))}`],
  },
  exp: { value: ([a]) => Math.exp(a), slopes: (_, y) => [y], show: ([a]) => `exp(${a})`, pull: (_, y) => [`g · ${y}`] },
  log: { value: ([a]) => Math.log(a), slopes: ([a]) => [1 / a], show: ([a]) => `log(${a})`, pull: ([a]) => [`g / ${a}`] },
  tanh: { value: ([a]) => Math.tanh(a), slopes: (_, y) => [1 - y * y], show: ([a]) => `tanh(${a})`, pull: (_, y) => [`g · (1 − ${y}²)`] },
  sigmoid: { value: ([a]) => sigmoid(a), slopes: (_, y) => [y * (1 - y)], show: ([a]) => `sigmoid(${a})`, pull: (_, y) => [`g · ${y} · (1 − ${y})`] },
  relu: { value: ([a]) => Math.max(a, 0), slopes: ([a]) => [a > 0 ? 1 : 0], show: ([a]) => `relu(${a})`, pull: ([a]) => [`g if ${a} > 0 else 0`] },
  silu: {
    value: ([a]) => a * sigmoid(a), slopes: ([a]) => [sigmoid(a) * (1 + a * (1 - sigmoid(a)))],
    show: ([a]) => `silu(${a})`, pull: ([a]) => [`g · s · (1 + ${a} · (1 − s)), s = sigmoid(${a})`],
  },
};

export const SIGNS = { add: "+", sub: "−", mul: "×", div: "÷", neg: "−", power: "^" };

/** Whether the browser can recompute the graph: scalars only, through known operations only. */
export function computable(nodes) {
  return nodes.every((node) => (node.op === null ? typeof node.value === "number" : !Array.isArray(node.value) && node.op in OPS));
}

/** Values of all nodes from those of the leaves; `nodes` are in the order of the tape, `inputs` are indices. */
export function forward(nodes) {
  for (const node of nodes) {
    if (node.op !== null) node.value = OPS[node.op].value(node.inputs.map((i) => nodes[i].value), node.options ?? {});
  }
}

/** Gradients of the output with respect to all nodes; each node keeps in `parts` what it passes to each input. */
export function backward(nodes, output) {
  for (const node of nodes) node.grad = 0;
  nodes[output].grad = 1;
  for (let i = output; i >= 0; i--) {
    const node = nodes[i];
    if (node.op === null) continue;
    const slopes = OPS[node.op].slopes(node.inputs.map((k) => nodes[k].value), node.value, node.options ?? {});
    node.slopes = slopes;
    node.parts = slopes.map((slope) => node.grad * slope);
    node.inputs.forEach((k, n) => {
      nodes[k].grad += node.parts[n];
    });
  }
}

/** The nodes that the output depends on and that pass a gradient on, in the order the reverse pass visits them. */
export function reverseOrder(nodes, output) {
  const reached = new Set([output]);
  const order = [];
  for (let i = output; i >= 0; i--) {
    if (!reached.has(i)) continue;
    if (nodes[i].op === null) continue;
    order.push(i);
    nodes[i].inputs.forEach((k) => reached.add(k));
  }
  return order;
}
