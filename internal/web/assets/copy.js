// Buttons that copy a text.

const SHOWN = 1500; // ms for which a button shows that it has copied

// letCopy makes each button with data-copy copy that text, including buttons that are added later.
export function letCopy() {
  document.addEventListener("click", async (e) => {
    const button = e.target.closest?.("button[data-copy]");
    if (!button) return;
    const { copy: text } = button.dataset;
    const copied = await copy("address" in button.dataset ? new URL(text, location.href).href : text, button);
    button.dataset.copied = copied ? "yes" : "no";
    clearTimeout(button.timer);
    button.timer = setTimeout(() => delete button.dataset.copied, SHOWN);
  });
}

// copy reports whether the text was copied. Browsers allow the clipboard only for pages over https and pages of
// this machine. For other pages copy uses execCommand.
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    button.after(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    button.focus();
    return copied;
  }
}
