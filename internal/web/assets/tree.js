// The derivations of a job as a tree: below each derivation are those that it needs. A derivation is in the tree
// once, below the first that needs it and needs no other that does. A failed one is at the top, with the end
// of its log. If there are many, one that is being built is at the top as well, because it could be a hundred
// levels down.
//
// The document has only the open parts of the tree, up to a limit. A button shows more of a list.
import { element, onTheme, pieces } from "./ansi.js";
import { arrange, made, seconds } from "./words.js";

const KNOWN = 20000; // the most that are kept in memory: a job can report any number, also of ones that do not exist
const FEW = 20; // up to this number, all derivations are shown, each in its place
const MOST = 400; // the most that are shown at once
const AT_TOP = 30; // at the top, before the button for more is used
const MORE = 100; // the number that a button adds
const TAIL_PIECES = 20; // of a line of a failed derivation's log: each piece of text with a style is an element

const byId = (id) => document.getElementById(id);

const RANKS = { failed: 0, building: 1, waiting: 2, built: 3 }; // the order

class Node {
  constructor(path) {
    this.path = path;
    this.name = path.replace(/^.*\/[a-z0-9]{32}-/, "").replace(/\.drv$/, "");
    this.state = "waiting";
    this.needs = []; // the derivations below this one
    this.open = undefined; // true or false if the user has opened or closed it
    this.room = MORE; // how many of those below are shown
  }
}

export class Tree {
  // open is called to show the log of a derivation, with its path and its name.
  constructor(open) {
    this.open = open;
    this.nodes = []; // each after the ones that it needs
    this.numbered = []; // the same, in the order of the plan
    this.known = new Map(); // by path
    this.isFull = false; // there are more, which are not shown
    this.top = new Node(""); // all others are below it
    this.top.room = AT_TOP;
    this.top.list = byId("derivations-list");
    this.box = byId("derivations");
    this.box.addEventListener("toggle", () => this.redraw?.());
    onTheme(() => {
      for (const node of this.nodes) node.tail = node.tail?.remove();
      this.redraw?.();
    });
  }

  // clear removes all derivations.
  clear() {
    this.nodes = [];
    this.numbered = [];
    this.known.clear();
    this.isFull = false;
    this.top.list.replaceChildren();
    this.box.hidden = true;
  }

  // plan adds derivations that will be built.
  plan({ first, derivations }) {
    derivations.forEach(({ derivation, needs = [] }, i) => {
      const node = this.known.get(derivation) ?? this.add(derivation);
      if (!node) return;
      for (const number of needs) {
        const needed = this.numbered[number];
        if (!needed || needed.above) continue;
        needed.above = node;
        node.needs.push(needed);
      }
      this.numbered[first + i] = node;
    });
  }

  // add returns the node of a derivation that is not known yet; undefined if there are too many.
  add(path) {
    this.isFull = this.nodes.length >= KNOWN;
    if (this.isFull) return undefined;
    const node = new Node(path);
    this.nodes.push(node);
    this.known.set(path, node);
    return node;
  }

  // take sets the state of a derivation, at a time in ms.
  take({ derivation, state, phase, log }, at) {
    const node = this.known.get(derivation) ?? this.add(derivation);
    if (!node) return;
    const again = node.state !== "building" && state === "building";
    if (again || !node.began) node.began = at;
    node.ended = state === "building" ? undefined : at;
    if (again && node.tail) node.tail = node.tail.remove();
    Object.assign(node, { state, phase, log });
  }

  // draw shows the tree at a time. When the job has ended, no derivation is shown as being built.
  draw(now, ended) {
    if (!this.nodes.length) return;
    this.now = now;
    this.over = ended;
    this.redraw = () => this.draw(this.now, this.over);
    this.few = this.nodes.length <= FEW;
    const failed = this.sum();
    if (this.box.hidden) {
      this.box.hidden = false;
      this.box.open = this.few || matchMedia("(min-width: 40rem)").matches;
    }
    if (failed && !this.shownFailure) this.box.open = this.shownFailure = true;
    byId("derivations-count").textContent = `(${this.isFull ? "more than " : ""}${this.nodes.length})`;
    if (!this.box.open) return;
    const focused = document.activeElement;
    this.left = MOST;
    this.fill(this.top, this.roots);
    if (focused === document.activeElement) return;
    const goesOn = focused.isConnected && !focused.hidden && !focused.disabled; // the element was moved
    (goesOn ? focused : this.top.list.parentElement).focus({ preventScroll: true });
  }

  // sum counts the nodes below each node, finds those at the top, and returns whether one of them has failed.
  sum() {
    for (const node of this.nodes) node.builds = node.state === "building";
    this.roots = [];
    for (const node of this.nodes) { // each node before those above it
      node.rank = node.builds ? RANKS.building : RANKS[node.state];
      if (node.above && node.builds) node.above.builds = true;
      if (!node.above || this.isUp(node)) this.roots.push(node);
    }
    return this.roots.some((node) => node.state === "failed");
  }

  // isUp reports whether a node is at the top because of its state.
  isUp(node) {
    return node.state === "failed" || node.state === "building" && !this.few;
  }

  // fill puts nodes into the list of the node above them.
  fill(above, nodes) {
    const sorted = nodes.toSorted((a, b) => a.rank - b.rank);
    const shown = sorted.slice(0, Math.min(above.room, this.left));
    this.left -= shown.length;
    const items = shown.map((node) => this.item(node));
    const rest = sorted.slice(shown.length);
    if (rest.length) items.push(this.rest(above, rest));
    arrange(above.list, items);
  }

  // item returns the element of a node, with the open nodes below it.
  item(node) {
    if (!node.item) this.make(node);
    node.button.disabled = !node.began;
    put(node.word, this.wordOf(node.state), `how ${node.state}`);
    put(node.took, this.notesOf(node).join(" · "));
    if (node.log?.length && !node.tail) node.list.before(node.tail = tailOf(node));
    const below = node.needs.filter((needed) => !this.isUp(needed));
    node.fold.hidden = !below.length;
    const open = below.length > 0 && (node.open ?? this.few);
    node.fold.setAttribute("aria-expanded", open);
    node.list.hidden = !open;
    if (open) this.fill(node, below);
    else node.list.replaceChildren();
    return node.item;
  }

  wordOf(state) {
    return this.over ? { waiting: "not built", building: "ended" }[state] ?? state : state;
  }

  notesOf(node) {
    const notes = [];
    if (node.began) notes.push(seconds((node.ended ?? this.now) - node.began));
    if (node.state === "building" && node.phase && !this.over) notes.push(node.phase);
    if (node.above && this.isUp(node)) notes.push(`${node.above.name} needs it`);
    return notes;
  }

  make(node) {
    node.item = made("li");
    const line = made("div", "node");
    node.fold = made("button", "fold");
    node.fold.type = "button";
    node.fold.setAttribute("aria-label", `What ${node.name} needs`);
    node.fold.addEventListener("click", () => {
      node.open = node.fold.getAttribute("aria-expanded") !== "true";
      this.redraw();
    });
    node.word = made("span");
    node.took = made("span", "took");
    node.list = made("ul");
    node.list.setAttribute("role", "list"); // which lists without marks are not to all browsers
    const fold = made("span", "folds");
    fold.append(node.fold);
    node.button = made("button", "name", node.name);
    node.button.type = "button";
    node.button.title = "The derivation's log";
    node.button.addEventListener("click", () => this.open(node.path, node.name));
    line.append(fold, node.button, node.word, node.took);
    node.item.append(line, node.list);
  }

  // rest returns the button for the nodes that are not shown.
  rest(above, nodes) {
    const counts = new Map();
    for (const { state } of nodes) counts.set(state, (counts.get(state) ?? 0) + 1);
    const text = `${nodes.length} more: ${[...counts].map(([state, count]) => `${count} ${this.wordOf(state)}`).join(", ")}`;
    if (!above.rest) {
      const button = made("button", "show");
      button.type = "button";
      button.addEventListener("click", () => {
        above.room += MORE;
        this.redraw();
      });
      above.rest = made("li", "rest");
      above.rest.append(button);
    }
    const [button] = above.rest.children;
    button.disabled = this.left <= 0; // the limit of shown nodes is reached
    put(button, button.disabled ? `${text} (fold others to see them)` : text);
    return above.rest;
  }
}

// put sets an element's text and class if they differ.
function put(element, text, name = element.className) {
  if (element.textContent !== text) element.textContent = text;
  if (element.className !== name) element.className = name;
}

// tailOf returns the last lines of the log of a failed derivation.
function tailOf(node) {
  const tail = made("pre");
  for (const line of node.log) tail.append(...pieces(line, TAIL_PIECES).map(({ text, style }) => element(text, style)), "\n");
  tail.tabIndex = 0;
  tail.setAttribute("aria-label", `Last lines of ${node.name}`);
  tail.setAttribute("role", "region");
  return tail;
}
