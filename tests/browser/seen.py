"""What can be measured of a page: names for screen readers, contrast, places on the screen."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

_CONTROLS = {
    "button", "checkbox", "combobox", "link", "radio", "searchbox", "slider", "spinbutton",
    "switch", "tab", "textbox",
}  # fmt: skip

# WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, 3 for text of 24 px (or 18.66 px and bold) and for icons
# (here letters of a font); what is disabled is exempt. Colours with alpha are laid over what is
# behind them.
_LOW_CONTRAST = """
() => {
  const parsed = (css) => {
    const found = css.match(/[\\d.]+/g).map(Number);
    return { r: found[0], g: found[1], b: found[2], a: found.length > 3 ? found[3] : 1 };
  };
  const over = (top, under) => ({
    r: top.r * top.a + under.r * (1 - top.a),
    g: top.g * top.a + under.g * (1 - top.a),
    b: top.b * top.a + under.b * (1 - top.a),
    a: 1,
  });
  const light = (colour) => {
    const [r, g, b] = [colour.r, colour.g, colour.b].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour.startsWith('rgb')) layers.push(parsed(colour));
      if (layers.length && layers[layers.length - 1].a === 1) break;
    }
    const canvas = { r: 255, g: 255, b: 255, a: 1 };
    return layers.reverse().reduce((under, top) => over(top, under), canvas);
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const said = texts.currentNode.textContent.trim();
    if (!said || !element || !element.checkVisibility({ opacityProperty: true })) continue;
    if (element.closest('[disabled], [aria-disabled=true], canvas, script, style')) continue;
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2 || !style.color.startsWith('rgb')) continue;
    const behind = ground(element);
    const [high, low] = [light(over(parsed(style.color), behind)), light(behind)].sort(
      (one, other) => other - one,
    );
    const ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const icon = style.fontFamily.includes('Material Symbols');
    const large = icon || size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${said.slice(0, 60)}`);
  }
  return found;
}
"""


def unnamed_controls(page: Page) -> list[str]:
    """Controls that a screen reader would call by their role alone."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    found: list[str] = []
    for node in tree["nodes"]:
        role: Any = node.get("role", {}).get("value")
        if node.get("ignored") or role not in _CONTROLS:
            continue
        if not str(node.get("name", {}).get("value", "")).strip():
            found.append(f"{role} {node.get('backendDOMNodeId')}")
    return found


def low_contrast(page: Page) -> list[str]:
    """Visible texts that are too near to their ground, with the ratio."""
    found: list[str] = page.evaluate(_LOW_CONTRAST)
    return found


def focused(page: Page) -> str:
    """The name of what has the focus."""
    said: str = page.evaluate(
        """() => {
          const at = document.activeElement;
          const labels = at.labels && at.labels.length ? at.labels[0].textContent : '';
          const words = at.querySelector('[data-testid=stMarkdownContainer]') || at; // no icons
          return (at.getAttribute('aria-label') || labels || words.textContent || '').trim();
        }"""
    )
    return said
