// Shows a line of terminal output: its colours become styles, and all other control sequences and control
// characters are removed. No part of a line is ever read as HTML.

// The control sequences of terminals (ECMA-48; scan.go has the same), and control characters.
const CONTROL = /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b]*\x1b\\|\x1b[ -/]*[0-~]|[\x00-\x08\x0a-\x1f\x7f-\x9f]/g;

// pieces splits a line into pieces of text with one style each. If they would be more than most, the last has all the
// other text.
export function pieces(line, most = Infinity) {
  const found = [];
  let style = {}, from = 0;
  const add = (text) => {
    if (text && found.length < most) found.push({ text, style });
    else if (text) found.at(-1).text += text;
  };
  for (const match of line.matchAll(CONTROL)) {
    add(line.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[2] === "m" && /^[\d;:]*$/.test(match[1])) style = restyled(style, match[1]);
  }
  add(line.slice(from));
  return found;
}

// Select Graphic Rendition (ECMA-48): the styles that a number switches on and off.
const ON = { 1: "bold", 2: "dim", 3: "italic", 4: "underlined", 7: "inverse", 9: "struck" };
const OFF = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underlined"], 27: ["inverse"], 29: ["struck"], 39: ["color"], 49: ["ground"] };

const COLORS = { 38: "color", 48: "ground", 58: "" }; // 58 is the colour of the underline, which is not shown

function restyled(style, parameters) {
  let next = { ...style };
  const all = parameters.split(";");
  for (let i = 0; i < all.length; i++) {
    const [n, ...parts] = all[i].split(":").map(Number);
    if (n === 0) next = {};
    else if (n === 4 && parts[0] === 0) delete next.underlined;
    else if (n in ON) next[ON[n]] = true;
    else if (n in OFF) for (const name of OFF[n]) delete next[name];
    else if (n >= 30 && n <= 37) next.color = n - 30;
    else if (n >= 90 && n <= 97) next.color = n - 90 + 8;
    else if (n >= 40 && n <= 47) next.ground = n - 40;
    else if (n >= 100 && n <= 107) next.ground = n - 100 + 8;
    else if (n in COLORS) {
      const color = parts.length ? colorOf(parts) : colorOf(all.slice(i + 1, i + 5).map(Number));
      if (color !== undefined && COLORS[n]) next[COLORS[n]] = color;
      if (!parts.length) i += Number(all[i + 1]) === 2 ? 4 : 2;
    }
  }
  return next;
}

// colorOf returns one of the 256 colours or an RGB colour; undefined if it is none. With colons (ISO 8613-6), the
// number of a colour space may precede RGB, and more may follow.
function colorOf([kind, ...values]) {
  if (kind === 5 && values[0] <= 255) return values[0];
  const rgb = values.length > 3 ? values.slice(1, 4) : values;
  if (kind === 2 && rgb.length === 3 && rgb.every((c) => c <= 255)) return rgb;
  return undefined;
}

const LEVELS = [0, 95, 135, 175, 215, 255];
const SIXTEEN = ["000000", "a81e28", "1a7340", "8a6100", "1a5fb4", "8a2a8c", "06727d", "c8d0d6",
  "5b6873", "e0525c", "3fae6d", "d9a520", "5a9bea", "c667c9", "35b3bf", "ffffff"];

// toRGB returns the RGB values of one of the 256 colours, or of an RGB colour.
function toRGB(color) {
  if (Array.isArray(color)) return color;
  if (color < 16) return [0, 2, 4].map((i) => parseInt(SIXTEEN[color].slice(i, i + 2), 16));
  if (color >= 232) return Array(3).fill(8 + 10 * (color - 232));
  const n = color - 16;
  return [LEVELS[Math.floor(n / 36)], LEVELS[Math.floor(n / 6) % 6], LEVELS[n % 6]];
}

// luminance and contrast are defined by WCAG.
function luminance(rgb) {
  const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

const READABLE = 5.5;

// readable returns the most similar colour that is readable on a background.
function readable(rgb, ground) {
  const end = luminance(ground) > 0.18 ? 0 : 255;
  for (let mixed = rgb, share = 0; ; share += 0.1) {
    mixed = rgb.map((c) => Math.round(c + (end - c) * Math.min(1, share)));
    if (share >= 1 || contrast(mixed, ground) >= READABLE) return mixed;
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const pageGround = () => dark.matches ? [20, 28, 35] : [255, 255, 255];

// onTheme calls back when the theme changes, and colours must be computed again.
export const onTheme = (redraw) => dark.addEventListener("change", redraw);

const css = (rgb) => `rgb(${rgb.join(" ")})`;

// element returns an element with a piece of text in its style.
export function element(text, style) {
  const names = Object.keys(style);
  if (names.length === 0) return document.createTextNode(text);
  const span = document.createElement("span");
  span.textContent = text;
  for (const name of ["bold", "dim", "italic", "underlined", "struck"]) if (style[name]) span.classList.add(name);
  let { color, ground } = style;
  if (style.inverse) [color, ground] = [ground ?? pageGround(), color ?? (dark.matches ? [220, 230, 237] : [21, 33, 43])];
  if (ground !== undefined) {
    const under = toRGB(ground);
    span.style.backgroundColor = css(under);
    span.style.color = css(readable(color === undefined ? under : toRGB(color), under));
  } else if (typeof color === "number" && color < 16) {
    span.classList.add(`c${color}`);
  } else if (color !== undefined) {
    span.style.color = css(readable(toRGB(color), pageGround()));
  }
  return span;
}
