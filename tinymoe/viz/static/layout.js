// Layered graph drawing (Sugiyama et al. 1981): ranks by depth, order by barycenter, edges through their own slots.

/** nodes: [{ inputs: [index…] }…] in topological order. Gives { spots: [{ x, y }…], routes: Map "from>to>n" → points, width, height }. */
export function layered(nodes, { columnGap, rowGap }) {
  const users = nodes.map(() => []);
  nodes.forEach((node, i) => node.inputs.forEach((k) => users[k].push(i)));
  const depth = nodes.map(() => 0);
  nodes.forEach((node, i) => {
    depth[i] = Math.max(0, ...node.inputs.map((k) => depth[k] + 1));
  });
  // A leaf stands just before its first use, not at the far left.
  nodes.forEach((node, i) => {
    if (!node.inputs.length && users[i].length) depth[i] = Math.min(...users[i].map((k) => depth[k])) - 1;
  });
  const shift = Math.min(...depth);
  const slots = nodes.map((_, i) => ({ layer: depth[i] - shift, before: [], after: [], size: 1 }));
  const chains = new Map();
  nodes.forEach((node, to) => node.inputs.forEach((from, n) => {
    const chain = [from];
    for (let layer = slots[from].layer + 1; layer < slots[to].layer; layer++) {
      slots.push({ layer, before: [], after: [], size: 0.45 });
      chain.push(slots.length - 1);
    }
    chain.push(to);
    for (let i = 1; i < chain.length; i++) {
      slots[chain[i]].before.push(chain[i - 1]);
      slots[chain[i - 1]].after.push(chain[i]);
    }
    chains.set(`${from}>${to}>${n}`, chain);
  }));

  const layers = [];
  slots.forEach((slot, i) => (layers[slot.layer] ??= []).push(i));
  const rank = slots.map(() => 0);
  const number = () => layers.forEach((layer) => layer.forEach((i, place) => {
    rank[i] = place;
  }));
  number();
  const mean = (list) => list.reduce((sum, i) => sum + rank[i], 0) / list.length;
  let best = { crossings: Infinity };
  for (let sweep = 0; sweep < 12; sweep++) {
    const forwards = sweep % 2 === 0;
    for (const layer of forwards ? layers : [...layers].reverse()) {
      const wish = new Map(layer.map((i) => {
        const near = forwards ? slots[i].before : slots[i].after;
        return [i, near.length ? mean(near) : rank[i]];
      }));
      layer.sort((a, b) => wish.get(a) - wish.get(b) || rank[a] - rank[b]);
      layer.forEach((i, place) => {
        rank[i] = place;
      });
    }
    const crossings = countCrossings(layers, slots, rank);
    if (crossings < best.crossings) best = { crossings, layers: layers.map((layer) => [...layer]) };
  }
  best.layers.forEach((layer, i) => {
    layers[i] = layer;
  });
  number();

  const y = place(layers, slots);
  const top = Math.min(...slots.map((slot, i) => y[i] - slot.size / 2));
  const bottom = Math.max(...slots.map((slot, i) => y[i] + slot.size / 2));
  const at = (i) => ({ x: slots[i].layer * columnGap, y: (y[i] - top) * rowGap });
  const routes = new Map([...chains].map(([name, chain]) => [name, chain.map(at)]));
  return { spots: nodes.map((_, i) => at(i)), routes, width: (layers.length - 1) * columnGap, height: (bottom - top) * rowGap };
}

function countCrossings(layers, slots, rank) {
  let crossings = 0;
  for (const layer of layers) {
    const edges = layer.flatMap((i) => slots[i].after.map((k) => [rank[i], rank[k]]));
    for (let a = 0; a < edges.length; a++) {
      for (let b = a + 1; b < edges.length; b++) {
        if ((edges[a][0] - edges[b][0]) * (edges[a][1] - edges[b][1]) < 0) crossings++;
      }
    }
  }
  return crossings;
}

/** Heights: each slot is drawn to the mean of its neighbors, then neighbors in a layer are pushed apart. */
function place(layers, slots) {
  const y = slots.map(() => 0);
  for (const layer of layers) {
    let cursor = 0;
    layer.forEach((i) => {
      y[i] = cursor + slots[i].size / 2;
      cursor += slots[i].size;
    });
    layer.forEach((i) => {
      y[i] -= cursor / 2;
    });
  }
  for (let round = 0; round < 60; round++) {
    for (const layer of round % 2 ? layers : [...layers].reverse()) {
      const wish = layer.map((i) => {
        const near = [...slots[i].before, ...slots[i].after];
        return near.length ? near.reduce((sum, k) => sum + y[k], 0) / near.length : y[i];
      });
      spread(layer, wish, slots).forEach((value, n) => {
        y[layer[n]] = value;
      });
    }
  }
  return y;
}

/** Positions nearest to `wish` (least squares) that keep order and distance: pool adjacent violators. */
function spread(layer, wish, slots) {
  const offset = [];
  let sum = 0;
  layer.forEach((i, n) => {
    sum += n ? (slots[layer[n - 1]].size + slots[i].size) / 2 : 0;
    offset.push(sum);
  });
  const blocks = [];
  wish.forEach((value, n) => {
    blocks.push({ mean: value - offset[n], count: 1 });
    while (blocks.length > 1 && blocks.at(-2).mean >= blocks.at(-1).mean) {
      const last = blocks.pop();
      const block = blocks.at(-1);
      block.mean = (block.mean * block.count + last.mean * last.count) / (block.count + last.count);
      block.count += last.count;
    }
  });
  return blocks.flatMap((block) => Array(block.count).fill(block.mean)).map((value, n) => value + offset[n]);
}
