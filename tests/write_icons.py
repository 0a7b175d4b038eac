"""Writes web/icons/*.png from web/icon.svg: `.venv/bin/python tests/write_icons.py`.

Chromium draws them. A maskable icon fills its square and keeps its drawing within the middle 80 %,
as https://www.w3.org/TR/appmanifest/#icon-masks asks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import build  # noqa: E402

ICONS = ROOT / "web" / "icons"
GROUND = "#1d5c50"  # of icon.svg
SHARE = 0.8  # of a maskable icon's width that its drawing takes


def main() -> None:
    svg = (ROOT / "web/icon.svg").read_text("utf-8")
    ICONS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=build.find_chromium())
        for size in (192, 512):
            page = browser.new_page(viewport={"width": size, "height": size})
            for name, ground, share in (("", "transparent", 1), ("maskable-", GROUND, SHARE)):
                page.set_content(
                    f"<style>body {{ margin: 0; background: {ground}; height: {size}px; "
                    "display: grid; place-items: center; } "
                    f"svg {{ width: {size * share}px; }}</style>{svg}"
                )
                path = ICONS / f"{name}{size}.png"
                page.screenshot(path=path, omit_background=True)
        browser.close()


if __name__ == "__main__":
    main()
