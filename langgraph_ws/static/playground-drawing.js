/**
 * The drawing of a graph, in layers, and the light on the nodes that run.
 *
 * @module
 */

import { byId, h, svg } from "./playground-dom.js";
import { isEnd, label, layout, short } from "./playground-layers.js";

/** @import { Frame, GraphData, GraphNode, Layout, Route, Spot } from "./playground-layers.js" */

/** How far around things an edge that leads back goes. */
const ROUND = 12;
/** What tells the frame of a subgraph from a node of the same name. */
const FRAME = "frame ";
/** The scales that the drawing in the page may have, and the large one. */
const SMALL = { least: 0.6, most: 1 };
const LARGE = { least: 0.85, most: 1.5 };

/** The drawing in the page, and beside it a large one where there is need of it. */
export class Drawing {
  /** @type {GraphData} */
  #graph = { nodes: [], edges: [] };
  /** How each node and frame stands. @type {Map<string, string>} */
  #states = new Map();
  /** How wide the place was that the small one was drawn for. */
  #room = 0;

  constructor() {
    this.small = byId("drawing");
    this.large = byId("large-drawing");
    byId("enlarge").addEventListener("click", () => this.#enlarge());
    byId("large").addEventListener("close", () => this.large.replaceChildren());
    new ResizeObserver(() => this.#fit()).observe(this.small);
  }

  /**
   * Draw another graph.
   *
   * @param {GraphData} graph
   */
  show(graph) {
    this.#graph = graph;
    this.#states.clear();
    this.#room = 0;
    byId("enlarge").hidden = graph.nodes.length === 0;
    this.small.replaceChildren(h("p", { class: "hint" }, "This graph cannot be drawn."));
    this.#fit();
  }

  /** Draw anew, for the room that there is now. */
  #fit() {
    const width = this.small.clientWidth;
    if (width === 0 || width === this.#room || this.#graph.nodes.length === 0) return;
    this.#room = width;
    this.small.replaceChildren(draw(this.#graph, { width, height: Infinity }, SMALL));
    this.#mark();
  }

  #enlarge() {
    byId("large").showModal();
    const room = { width: this.large.clientWidth, height: this.large.clientHeight };
    this.large.replaceChildren(draw(this.#graph, room, LARGE));
    this.#mark();
  }

  /**
   * Show how far the steps of a run have come; the last of each node counts.
   *
   * @param {readonly import("./client.js").StepView[]} steps
   */
  light(steps) {
    this.#states.clear();
    const nodes = new Set(this.#graph.nodes.map(({ id }) => id));
    for (const { step, namespace, status } of steps) {
      const id = [...namespace.map((part) => part.split(":")[0]), step].join(":");
      // A subgraph's frame is lit as its node would be.
      this.#states.set(nodes.has(id) ? id : FRAME + id, status);
    }
    this.#mark();
  }

  #mark() {
    for (const picture of [this.small, this.large]) {
      for (const element of picture.querySelectorAll("[data-node]")) {
        const state = this.#states.get(element.dataset.node) ?? "";
        if (element.dataset.state !== state) element.dataset.state = state;
      }
    }
  }
}

/**
 * The graph in the direction, from top to bottom or from left to right, in which it is the largest.
 *
 * @param {GraphData} graph
 * @param {{width: number, height: number}} room
 * @param {{least: number, most: number}} scales
 */
function draw(graph, room, { least, most }) {
  const ways = [false, true].flatMap((outer) => [outer, !outer].map((inner) => [outer, inner]));
  const scale = (/** @type {Layout} */ { width, height }) =>
    Math.min(most, room.width / width, room.height / height);
  const [best] = ways
    .map(([outer, inner]) => layout(graph, outer, inner))
    .sort((one, other) => scale(other) - scale(one));
  return picture(best, Math.max(least, scale(best)));
}

/**
 * @param {Layout} layout
 * @param {number} scale
 */
function picture({ width, height, spots, routes, frames }, scale) {
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    width: Math.round(width * scale),
    height: Math.round(height * scale),
    role: "img",
    "aria-label": `The graph: ${named(spots).join(", ")}`,
  });
  const arrow = svg("path", { d: "M0 0L7 3.5L0 7z" });
  const id = `arrow-${++arrows}`;
  const marker = { id, viewBox: "0 0 7 7", refX: 6, refY: 3.5, orient: "auto" };
  const size = { markerWidth: 6.5, markerHeight: 6.5 };
  picture.append(svg("defs", {}, svg("marker", { ...marker, ...size }, arrow)));
  for (const frame of frames) picture.append(frameOf(frame));
  for (const route of routes) {
    const kind = route.edge.conditional ? "edge conditional" : "edge";
    const d = curve(route);
    picture.append(svg("path", { class: kind, d, "marker-end": `url(#${id})` }));
  }
  for (const spot of spots) if (spot.node !== null) picture.append(nodeOf(spot, spot.node));
  return picture;
}

/** @param {Frame} frame */
function frameOf({ path, x, y, width, height }) {
  const group = svg("g", { class: "frame", "data-node": FRAME + path });
  group.append(svg("rect", { x, y, width, height, rx: 10 }));
  group.append(svg("text", { x: x + 9, y: y + 11 }, short(path.split(":").at(-1) ?? "")));
  return group;
}

/**
 * @param {Spot} spot
 * @param {GraphNode} node
 */
function nodeOf({ x, y, width, height }, node) {
  const edge = isEnd(node);
  const group = svg("g", { class: edge ? "node end" : "node", "data-node": node.id });
  group.append(svg("title", {}, node.name));
  const rx = edge ? height / 2 : 8;
  group.append(svg("rect", { x: x - width / 2, y: y - height / 2, width, height, rx }));
  group.append(svg("text", { x, y: y + 0.5 }, label(node)));
  return group;
}

let arrows = 0;

/** @param {Spot[]} spots */
function named(spots) {
  return spots.flatMap(({ node }) => (node === null || isEnd(node) ? [] : [node.name]));
}

// --- edges ----------------------------------------------------------------------------------------

/** @param {Route} route */
function curve({ spots, back, edge, across = false, side = 0 }) {
  const from = spots[0];
  const to = spots[spots.length - 1];
  if (edge.source === edge.target) return loop(from, across);
  if (back) return leadingBack(from, to, across, side);
  // In and out of every spot that is passed; only out of the first, only into the last.
  const points = spots
    .flatMap((spot) => [-1, 1].map((end) => port(spot, end, across)))
    .slice(1, -1);
  return points.slice(1).reduce(
    (path, [x, y], index) => {
      const [fromX, fromY] = points[index];
      const half = across ? (x - fromX) / 2 : (y - fromY) / 2;
      return across
        ? `${path}C${fromX + half} ${fromY} ${x - half} ${y} ${x} ${y}`
        : `${path}C${fromX} ${fromY + half} ${x} ${y - half} ${x} ${y}`;
    },
    `M${points[0].join(" ")}`,
  );
}

/**
 * Where edges begin (1) or end (-1) at a spot.
 *
 * @param {Spot} spot
 * @param {number} end
 * @param {boolean} across
 */
function port({ x, y, width, height }, end, across) {
  return across ? [x + (end * width) / 2, y] : [x, y + (end * height) / 2];
}

/**
 * @param {Spot} spot
 * @param {boolean} across
 */
function loop({ x, y, width, height }, across) {
  if (across) {
    const edge = y + height / 2;
    return `M${x + 9} ${edge}C${x + 16} ${edge + 12} ${x - 16} ${edge + 12} ${x - 9} ${edge}`;
  }
  const edge = x + width / 2;
  return `M${edge} ${y + 7}C${edge + 20} ${y + 18} ${edge + 20} ${y - 18} ${edge} ${y - 7}`;
}

/**
 * An edge that leads back, around what lies between.
 *
 * @param {Spot} from
 * @param {Spot} to
 * @param {boolean} across
 * @param {number} side how far that reaches
 */
function leadingBack(from, to, across, side) {
  const far = side + ROUND;
  if (across) {
    const [start, end] = [from.y + from.height / 2, to.y + to.height / 2];
    const turn = Math.sign(to.x - from.x) * ROUND;
    return (
      `M${from.x} ${start}C${from.x} ${far} ${from.x} ${far} ${from.x + turn} ${far}` +
      `L${to.x - turn} ${far}C${to.x} ${far} ${to.x} ${far} ${to.x} ${end}`
    );
  }
  const [start, end] = [from.x + from.width / 2, to.x + to.width / 2];
  const turn = Math.sign(to.y - from.y) * ROUND;
  return (
    `M${start} ${from.y}C${far} ${from.y} ${far} ${from.y} ${far} ${from.y + turn}` +
    `L${far} ${to.y - turn}C${far} ${to.y} ${far} ${to.y} ${end} ${to.y}`
  );
}
