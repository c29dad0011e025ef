/**
 * The drawing of a graph, in layers, and the light on the nodes that run.
 *
 * @module
 */

import { h, svg } from "./playground-dom.js";
import { isEnd, label, layout, short } from "./playground-layers.js";

/** @import { Frame, GraphData, GraphNode, Layout, Route, Spot } from "./playground-layers.js" */

/** How far around things an edge that leads back goes. */
const ROUND = 12;

/** A drawing in the page. */
export class Drawing {
  /** @type {Map<string, Element>} */
  #elements = new Map();

  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.parent = parent;
  }

  /**
   * Draw another graph.
   *
   * @param {GraphData} graph
   */
  show(graph) {
    this.#elements.clear();
    if (graph.nodes.length === 0) {
      this.parent.replaceChildren(h("p", { class: "hint" }, "This graph cannot be drawn."));
      return;
    }
    const room = this.parent.clientWidth || 360;
    const ways = [false, true].flatMap((one) => [one, !one].map((two) => [one, two]));
    const layouts = ways.map(([outer, inner]) => layout(graph, outer, inner));
    const scale = (/** @type {Layout} */ { width }) => Math.min(1, room / width);
    const [best] = layouts.sort((one, other) => scale(other) - scale(one));
    this.parent.replaceChildren(this.#draw(best));
  }

  /**
   * Show how far the steps of a run have come; the last of each node counts.
   *
   * @param {readonly import("./client.js").StepView[]} steps
   */
  light(steps) {
    const states = new Map();
    for (const { step, namespace, status } of steps) {
      const path = [...namespace.map((part) => part.split(":")[0]), step];
      states.set(path.join(":"), status);
      // A subgraph's frame is lit as its node would be.
      if (!this.#elements.has(path.join(":"))) states.set(`frame ${path.join(":")}`, status);
    }
    for (const [id, element] of this.#elements) {
      const state = states.get(id) ?? "";
      if (element.getAttribute("data-state") !== state) element.setAttribute("data-state", state);
    }
  }

  /** @param {Layout} layout */
  #draw({ width, height, spots, routes, frames }) {
    const picture = svg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": `The graph: ${named(spots).join(", ")}`,
    });
    const arrow = svg("path", { d: "M0 0L7 3.5L0 7z" });
    const marker = { id: "arrow", viewBox: "0 0 7 7", refX: 6, refY: 3.5, orient: "auto" };
    const size = { markerWidth: 6.5, markerHeight: 6.5 };
    picture.append(svg("defs", {}, svg("marker", { ...marker, ...size }, arrow)));
    for (const frame of frames) picture.append(this.#frame(frame));
    for (const route of routes) {
      const kind = route.edge.conditional ? "edge conditional" : "edge";
      const d = curve(route);
      picture.append(svg("path", { class: kind, d, "marker-end": "url(#arrow)" }));
    }
    for (const spot of spots) if (spot.node !== null) picture.append(this.#node(spot, spot.node));
    return picture;
  }

  /** @param {Frame} frame */
  #frame({ path, x, y, width, height }) {
    const group = svg("g", { class: "frame" });
    group.append(svg("rect", { x, y, width, height, rx: 10 }));
    group.append(svg("text", { x: x + 9, y: y + 11 }, short(path.split(":").at(-1) ?? "")));
    this.#elements.set(`frame ${path}`, group);
    return group;
  }

  /**
   * @param {Spot} spot
   * @param {GraphNode} node
   */
  #node({ x, y, width, height }, node) {
    const edge = isEnd(node);
    const group = svg("g", { class: edge ? "node end" : "node", "data-node": node.id });
    group.append(svg("title", {}, node.name));
    const rx = edge ? height / 2 : 8;
    group.append(svg("rect", { x: x - width / 2, y: y - height / 2, width, height, rx }));
    group.append(svg("text", { x, y: y + 0.5 }, label(node)));
    this.#elements.set(node.id, group);
    return group;
  }
}

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
