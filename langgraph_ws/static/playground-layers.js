/**
 * Where the nodes of a graph stand in its drawing, and which way its edges go.
 *
 * @module
 */

/** @typedef {{id: string, name: string}} GraphNode */
/** @typedef {{source: string, target: string, conditional: boolean}} GraphEdge */
/** @typedef {{nodes: GraphNode[], edges: GraphEdge[]}} GraphData */
/**
 * A node, or a bend of an edge that passes its layer (then `node` is null).
 *
 * @typedef {{id: string, node: GraphNode | null, layer: number, along: number, width: number,
 *   height: number, x: number, y: number}} Spot
 */
/**
 * An edge between two things of one graph; the real one may lead into a subgraph.
 *
 * @typedef {GraphEdge & {real: GraphEdge}} Edge
 */
/** @typedef {{edge: Edge, back: boolean, spots: Spot[], across?: boolean, side?: number}} Route */

const HEIGHT = 30;
const PADDING = 11;
const LETTER = 7.1;
const LAYER_GAP = 27;
const SIDE_GAP = 12;
const END = "__end__";
const MARGIN = 8;
const INNER_MARGIN = 10;
const TITLE = 12;
const BACK = 14;
/** What the ids of bends begin with, and those of nodes do not. */
const BEND = "\n";
const LONGEST_NAME = 22;
const SWEEPS = 6;
/** How strongly an edge keeps its bends in line, and how little it draws nodes to them. */
const STRAIGHT = 4;
const PASSING = 0.1;

/** @typedef {{path: string, x: number, y: number, width: number, height: number}} Frame */
/**
 * @typedef {{width: number, height: number, spots: Spot[], routes: Route[], frames: Frame[],
 *   across: boolean}} Layout
 */

/**
 * Every graph in layers by the longest way from its start; a subgraph is one thing in the graph
 * around it, so that nothing else comes to lie in its frame.
 *
 * @param {GraphData} graph
 * @param {boolean} across from left to right, not from top to bottom
 * @param {boolean} innerAcross the same, for the subgraphs
 * @param {string} path of the subgraph; empty: the whole
 * @returns {Layout}
 */
export function layout(graph, across, innerAcross, path = "") {
  const itemOf = (/** @type {string} */ id) => itemIn(path, id);
  const { items, inner } = itemsOf(graph, innerAcross, path);
  const known = new Set(graph.nodes.map(({ id }) => id));
  const edges = graph.edges
    .filter(({ source, target }) => known.has(source) && known.has(target))
    .map((real) => ({ ...real, source: itemOf(real.source), target: itemOf(real.target), real }))
    // What stays within a subgraph is drawn there.
    .filter(({ source, target }) => source !== target || !inner.has(source));
  const back = backEdges(items, edges);
  const layerOf = layers(items, edges, back);
  const spots = items.map((node) => spotOf(node, layerOf.get(node.id) ?? 0, inner.get(node.id)));
  const routes = routed(edges, back, spots);
  const rows = ordered(spots, routes);
  aligned(rows, routes, across);
  const size = placed(rows, across, path === "" ? MARGIN : INNER_MARGIN, path === "" ? 0 : TITLE);
  for (const route of routes) if (route.back) route.side = outermost(route, rows, across);
  return assembled({ ...size, spots, routes, frames: [], across }, inner);
}

/**
 * The node that an id names in a graph, or the path of the subgraph that it lies in.
 *
 * @param {string} path
 * @param {string} id
 */
function itemIn(path, id) {
  const start = path === "" ? 0 : path.length + 1;
  const end = id.indexOf(":", start);
  return end < 0 ? id : id.slice(0, end);
}

/**
 * The nodes of a graph and, in the place of those of its subgraphs, the subgraphs.
 *
 * @param {GraphData} graph
 * @param {boolean} across
 * @param {string} path
 */
function itemsOf({ nodes, edges }, across, path) {
  /** @type {Map<string, GraphNode[]>} */
  const groups = new Map();
  for (const node of nodes) {
    const item = itemIn(path, node.id);
    groups.set(item, [...(groups.get(item) ?? []), node]);
  }
  /** @type {Map<string, Layout>} */
  const inner = new Map();
  const items = [...groups].map(([id, members]) => {
    if (members[0].id === id) return members[0];
    const ids = new Set(members.map((member) => member.id));
    const own = edges.filter(({ source, target }) => ids.has(source) && ids.has(target));
    inner.set(id, layout({ nodes: members, edges: own }, across, across, id));
    return { id, name: id };
  });
  return { items, inner };
}

/**
 * How far what lies beside an edge that leads back reaches: it has to go around all of that.
 *
 * @param {Route} route
 * @param {Spot[][]} rows
 * @param {boolean} across
 */
function outermost({ spots }, rows, across) {
  const passed = spots.map(({ layer }) => layer);
  const [first, last] = [Math.min(...passed), Math.max(...passed)];
  const beside = rows.flat().filter(({ layer }) => layer >= first && layer <= last);
  return Math.max(
    ...beside.map(({ x, y, width, height }) => (across ? y + height / 2 : x + width / 2)),
  );
}

/**
 * Put the subgraphs where their places are, and lead the edges to their nodes.
 *
 * @param {Layout} outer
 * @param {Map<string, Layout>} inner
 * @returns {Layout}
 */
function assembled(outer, inner) {
  const { routes, frames, across } = outer;
  const spots = outer.spots.filter(({ id }) => !inner.has(id));
  for (const { id, x, y, width, height } of outer.spots) {
    const part = inner.get(id);
    if (part === undefined) continue;
    const [left, top] = [x - width / 2, y - height / 2];
    for (const spot of part.spots) [spot.x, spot.y] = [spot.x + left, spot.y + top];
    for (const frame of part.frames) [frame.x, frame.y] = [frame.x + left, frame.y + top];
    spots.push(...part.spots);
    frames.push({ path: id, x: left, y: top, width, height }, ...part.frames);
    for (const route of part.routes) {
      if (route.side !== undefined) route.side += route.across ? top : left;
    }
    routes.push(...part.routes);
  }
  const byId = new Map(spots.map((spot) => [spot.id, spot]));
  for (const route of routes) {
    const last = route.spots.length - 1;
    route.across ??= across;
    route.spots[0] = byId.get(route.edge.real.source) ?? route.spots[0];
    route.spots[last] = byId.get(route.edge.real.target) ?? route.spots[last];
  }
  return { ...outer, ...grown(outer), spots, routes, frames };
}

/**
 * The edges that close a circle, as seen from the start.
 *
 * @param {GraphNode[]} nodes
 * @param {Edge[]} edges
 */
function backEdges(nodes, edges) {
  /** @type {Set<Edge>} */
  const back = new Set();
  /** @type {Map<string, "open" | "done">} */
  const seen = new Map();
  const visit = (/** @type {string} */ id) => {
    seen.set(id, "open");
    for (const edge of edges) {
      if (edge.source !== id) continue;
      if (seen.get(edge.target) === "open") back.add(edge);
      else if (!seen.has(edge.target)) visit(edge.target);
    }
    seen.set(id, "done");
  };
  for (const { id } of nodes) if (!seen.has(id)) visit(id);
  return back;
}

/**
 * @param {GraphNode[]} nodes
 * @param {Edge[]} edges
 * @param {Set<Edge>} back
 */
function layers(nodes, edges, back) {
  const layerOf = new Map(nodes.map(({ id }) => [id, 0]));
  const forward = edges.filter((edge) => !back.has(edge));
  for (let changed = true, rounds = nodes.length; changed && rounds > 0; rounds--) {
    changed = false;
    for (const { source, target } of forward) {
      const least = (layerOf.get(source) ?? 0) + 1;
      if ((layerOf.get(target) ?? 0) >= least) continue;
      layerOf.set(target, least);
      changed = true;
    }
  }
  // The end comes after everything, also after what only leads back from there.
  const deepest = Math.max(...layerOf.values());
  const alone = [...layerOf.values()].filter((layer) => layer === deepest).length === 1;
  if (layerOf.get(END) === deepest && !alone) layerOf.set(END, deepest + 1);
  return layerOf;
}

/**
 * @param {GraphNode} node
 * @param {number} layer
 * @param {Layout | undefined} inner what it holds, if it is a subgraph
 * @returns {Spot}
 */
function spotOf(node, layer, inner) {
  const width = inner?.width ?? Math.round(label(node).length * LETTER + 2 * PADDING);
  const height = inner?.height ?? (isEnd(node) ? HEIGHT - 6 : HEIGHT);
  return { id: node.id, node, layer, along: 0, width, height, x: 0, y: 0 };
}

/**
 * The edges, with a bend in each layer that they pass.
 *
 * @param {Edge[]} edges
 * @param {Set<Edge>} back
 * @param {Spot[]} spots the bends are added
 * @returns {Route[]}
 */
function routed(edges, back, spots) {
  const known = new Map(spots.map((spot) => [spot.id, spot]));
  return edges.map((edge, number) => {
    const from = /** @type {Spot} */ (known.get(edge.source));
    const to = /** @type {Spot} */ (known.get(edge.target));
    /** @type {Spot[]} */
    const bends = [];
    for (let layer = from.layer + 1; !back.has(edge) && layer < to.layer; layer++) {
      const id = `${BEND}${number} ${layer}`;
      bends.push({ id, node: null, layer, along: 0, width: 4, height: 4, x: 0, y: 0 });
    }
    spots.push(...bends);
    return { edge, back: back.has(edge), spots: [from, ...bends, to] };
  });
}

/**
 * The layers, each in an order that brings neighbours together: in turns from both ends.
 *
 * @param {Spot[]} spots
 * @param {Route[]} routes
 */
function ordered(spots, routes) {
  /** @type {Spot[][]} */
  const rows = [];
  for (const spot of spots) (rows[spot.layer] ??= []).push(spot);
  const filled = rows.filter((row) => row !== undefined);
  const { above, below } = neighbours(routes);
  for (const row of filled) number(row);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const near = sweep % 2 === 0 ? above : below;
    for (const row of sweep % 2 === 0 ? filled : filled.toReversed()) {
      const wanted = new Map(row.map((spot) => [spot, middle(near.get(spot)) ?? spot.along]));
      row.sort((one, other) => (wanted.get(one) ?? 0) - (wanted.get(other) ?? 0));
      number(row);
    }
  }
  return filled;
}

/** @param {Spot[]} row */
function number(row) {
  row.forEach((spot, index) => {
    spot.along = index - (row.length - 1) / 2;
  });
}

/** @param {Route[]} routes */
function neighbours(routes) {
  /** @type {Map<Spot, Spot[]>} */
  const above = new Map();
  /** @type {Map<Spot, Spot[]>} */
  const below = new Map();
  for (const { spots, back } of routes) {
    for (let at = 1; !back && at < spots.length; at++) {
      above.set(spots[at], [...(above.get(spots[at]) ?? []), spots[at - 1]]);
      below.set(spots[at - 1], [...(below.get(spots[at - 1]) ?? []), spots[at]]);
    }
  }
  return { above, below };
}

/** @param {Spot[] | undefined} spots */
function middle(spots) {
  if (spots === undefined) return null;
  let [sum, weights] = [0, 0];
  for (const spot of spots) {
    // A node stands by the nodes that follow, not by an edge that passes them.
    const weight = spot.node === null ? PASSING : 1;
    sum += spot.along * weight;
    weights += weight;
  }
  return sum / weights;
}

/**
 * Move the spots of each layer to where their neighbours are, in turns from both ends, as far as
 * their order and their size let them: edges become straight.
 *
 * @param {Spot[][]} rows
 * @param {Route[]} routes
 * @param {boolean} across
 */
function aligned(rows, routes, across) {
  const { above, below } = neighbours(routes);
  for (const row of rows) settle(row, new Map(), across);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const near = sweep % 2 === 0 ? above : below;
    for (const row of sweep % 2 === 0 ? rows : rows.toReversed()) {
      settle(row, new Map(row.map((spot) => [spot, middle(near.get(spot))])), across);
    }
  }
}

/**
 * Put the spots of a layer as near as can be to where they are wanted: those that would overlap
 * move together to the middle of what they want.
 *
 * @param {Spot[]} row
 * @param {Map<Spot, number | null>} wanted where nothing is said of it, a spot stays
 * @param {boolean} across
 */
function settle(row, wanted, across) {
  /** @type {{sum: number, weight: number, spots: [Spot, number][]}[]} */
  const groups = [];
  let offset = 0;
  for (const spot of row) {
    offset += breadth(spot, across) / 2;
    // Long edges are what the eye follows: their bends give way least.
    const weight = spot.node === null ? STRAIGHT : 1;
    const at = (wanted.get(spot) ?? spot.along) - offset;
    let group = {
      sum: at * weight,
      weight,
      spots: /** @type {[Spot, number][]} */ ([[spot, offset]]),
    };
    for (let last = groups.at(-1); last && mean(last) >= mean(group); last = groups.at(-1)) {
      groups.pop();
      group = {
        sum: last.sum + group.sum,
        weight: last.weight + group.weight,
        spots: [...last.spots, ...group.spots],
      };
    }
    groups.push(group);
    offset += breadth(spot, across) / 2 + SIDE_GAP;
  }
  for (const group of groups) {
    for (const [spot, beside] of group.spots) spot.along = mean(group) + beside;
  }
}

/** @param {{sum: number, weight: number}} group */
function mean({ sum, weight }) {
  return sum / weight;
}

/**
 * @param {Spot} spot
 * @param {boolean} across
 */
function breadth({ width, height }, across) {
  return across ? height : width;
}

/**
 * Give every spot its place.
 *
 * @param {Spot[][]} rows
 * @param {boolean} across
 * @param {number} margin around everything
 * @param {number} title how high the name above everything is
 */
function placed(rows, across, margin, title) {
  const edges = rows.flat().flatMap((spot) => {
    const half = breadth(spot, across) / 2;
    return [spot.along - half, spot.along + half];
  });
  const first = Math.min(...edges);
  let depth = margin + (across ? 0 : title);
  const shift = margin + (across ? title : 0) - first;
  for (const row of rows) {
    const thick = Math.max(...row.map((spot) => breadth(spot, !across)));
    for (const spot of row) {
      const side = spot.along + shift;
      // An edge passes a layer straight, lest it cross what lies beside it.
      if (spot.node === null) spot[across ? "width" : "height"] = thick;
      [spot.x, spot.y] = across ? [depth + thick / 2, side] : [side, depth + thick / 2];
    }
    depth += thick + LAYER_GAP;
  }
  const deep = depth - LAYER_GAP + margin;
  const wide = Math.max(...edges) + shift + margin;
  return across ? { width: deep, height: wide } : { width: wide, height: deep };
}

/**
 * The size of a picture, with room for the edges that lead back.
 *
 * @param {Layout} layout
 */
function grown({ width, height, routes, across }) {
  const back = routes.some((route) => route.back && route.across === across);
  const room = back ? BACK : 0;
  return { width: width + (across ? 0 : room), height: height + (across ? room : 0) };
}

/** @param {GraphNode} node */
export function isEnd({ id, name }) {
  return /(^|:)__(start|end)__$/.test(id) || name === "__start__" || name === "__end__";
}

/** @param {GraphNode} node */
export function label(node) {
  return isEnd(node) ? node.name.replaceAll("_", "") : short(node.name);
}

/** @param {string} name */
export function short(name) {
  return name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;
}
