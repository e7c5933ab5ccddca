// Addresses of the builder, and requests to it.

// Only the browser knows where the builder is: it may be below a path of a proxy, such as /builder/.
const ROOT = new URL("../", import.meta.url);

// address returns the address of a path of the builder, such as "api/v1/jobs".
export const address = (path) => new URL(path, ROOT).href;

const SETTLED = 2000; // ms after which a page may reload itself, so that it never does so in a loop

// ask requests a path of the builder. If the browser is signed out, because the token has changed or another tab
// has signed out, the page is loaded again: the builder then asks for the token.
export async function ask(path, options) {
  const response = await fetch(address(path), options);
  if (response.status === 401 && performance.now() > SETTLED) location.reload();
  return response;
}

// sentenceOf returns the builder's sentence in an answer that refuses something. A proxy answers with a document,
// which nobody wants to read.
export async function sentenceOf(response) {
  const isSentence = response.headers.get("Content-Type")?.startsWith("text/plain");
  return isSentence ? response.text() : `The builder, or a proxy in front of it, answers with status ${response.status}.`;
}

// correctAddress replaces the builder's address in a command: the server does not know whether a proxy speaks TLS, or
// below which path it is.
export function correctAddress(box) {
  const own = ROOT.href.replace(/^http/, "ws").replace(/\/$/, "");
  const text = box.querySelector("pre"), button = box.querySelector("button");
  button.dataset.copy = text.textContent = text.textContent.replace(box.dataset.address, own);
}
