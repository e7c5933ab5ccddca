// The derivations of a job as a tree, those that others need below them. A derivation stands
// once: below the first that needs it, which needs no other that does. One that has failed
// stands at the top, with the end of its log, and among many also one that builds: the way
// down to it could be a hundred steps.
//
// Only what is open is in the document, and so much at once. The rest of a list is a button
// that shows more of it.
import { element, onTheme, pieces } from "./ansi.js";
import { arrange, made, seconds } from "./words.js";

const FEW = 20; // of so many derivations all are shown, each in its place
const MOST = 400; // that are shown at once
const AT_TOP = 30; // of the top, before somebody wants more
const MORE = 100; // that a button shows

const byId = (id) => document.getElementById(id);

const RANKS = { failed: 0, building: 1, waiting: 2, built: 3 }; // what comes first

class Node {
  constructor(path) {
    this.path = path;
    this.name = path.replace(/^.*\/[a-z0-9]{32}-/, "").replace(/\.drv$/, "");
    this.state = "waiting";
    this.needs = []; // of those, the ones that stand below it
    this.open = undefined; // as somebody has chosen
    this.room = MORE; // for those below, likewise
  }
}

export class Tree {
  // open is called to show the log of a derivation, with its path and its name.
  constructor(open) {
    this.open = open;
    this.nodes = []; // each after those that it needs
    this.numbered = []; // likewise, as the plan has them
    this.known = new Map(); // by path
    this.top = new Node(""); // all others stand below it
    this.top.room = AT_TOP;
    this.top.list = byId("derivations-list");
    this.box = byId("derivations");
    this.box.addEventListener("toggle", () => this.redraw?.());
    onTheme(() => {
      for (const node of this.nodes) node.tail = node.tail?.remove();
      this.redraw?.();
    });
  }

  // plan takes derivations that are to be built.
  plan({ first, derivations }) {
    derivations.forEach(({ derivation, needs = [] }, i) => {
      const node = this.known.get(derivation) ?? this.add(derivation);
      for (const number of needs) {
        const needed = this.numbered[number];
        if (!needed || needed.above) continue;
        needed.above = node;
        node.needs.push(needed);
      }
      this.numbered[first + i] = node;
    });
  }

  add(path) {
    const node = new Node(path);
    this.nodes.push(node);
    this.known.set(path, node);
    return node;
  }

  // take takes another state of one, at a time in ms.
  take({ derivation, state, phase, log }, at) {
    const node = this.known.get(derivation) ?? this.add(derivation);
    const again = node.state !== "building" && state === "building";
    if (again || !node.began) node.began = at;
    node.ended = state === "building" ? undefined : at;
    if (again && node.tail) node.tail = node.tail.remove();
    Object.assign(node, { state, phase, log });
  }

  // draw shows the tree as it is at a time. When the job has ended, nothing builds any more.
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
    byId("derivations-count").textContent = `(${this.nodes.length})`;
    if (!this.box.open) return;
    const focused = document.activeElement;
    this.left = MOST;
    this.fill(this.top, this.roots);
    if (focused === document.activeElement) return;
    const goesOn = focused.isConnected && !focused.hidden && !focused.disabled; // it was moved
    (goesOn ? focused : this.top.list.parentElement).focus({ preventScroll: true });
  }

  // sum adds up what is below each node, finds those at the top, and returns whether one of
  // them has failed.
  sum() {
    for (const node of this.nodes) node.builds = node.state === "building";
    this.roots = [];
    for (const node of this.nodes) { // each before those above it
      node.rank = node.builds ? RANKS.building : RANKS[node.state];
      if (node.above && node.builds) node.above.builds = true;
      if (!node.above || this.isUp(node)) this.roots.push(node);
    }
    return this.roots.some((node) => node.state === "failed");
  }

  // isUp says of a node whether it stands at the top for what it does.
  isUp(node) {
    return node.state === "failed" || node.state === "building" && !this.few;
  }

  // fill puts nodes into the list of the one that they stand below.
  fill(above, nodes) {
    const sorted = nodes.toSorted((a, b) => a.rank - b.rank);
    const shown = sorted.slice(0, Math.min(above.room, this.left));
    this.left -= shown.length;
    const items = shown.map((node) => this.item(node));
    const rest = sorted.slice(shown.length);
    if (rest.length) items.push(this.rest(above, rest));
    arrange(above.list, items);
  }

  // item returns the element of a node, with what is open below it.
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
    node.button.title = "Its own log";
    node.button.addEventListener("click", () => this.open(node.path, node.name));
    line.append(fold, node.button, node.word, node.took);
    node.item.append(line, node.list);
  }

  // rest returns the element of those that are not shown.
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
    button.disabled = this.left <= 0; // there is no room for them
    put(button, button.disabled ? `${text} (fold others to see them)` : text);
    return above.rest;
  }
}

// put changes an element's text and class where they are not the same already.
function put(element, text, name = element.className) {
  if (element.textContent !== text) element.textContent = text;
  if (element.className !== name) element.className = name;
}

// tailOf returns the last lines of the log of a derivation that has failed.
function tailOf(node) {
  const tail = made("pre");
  for (const line of node.log) tail.append(...pieces(line).map(({ text, style }) => element(text, style)), "\n");
  tail.tabIndex = 0;
  tail.setAttribute("aria-label", `Last lines of ${node.name}`);
  tail.setAttribute("role", "region");
  return tail;
}
