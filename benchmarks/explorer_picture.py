"""docs/explore.png: the explorer on the real hare and lynx counts, as a headless Chromium shows it.

python benchmarks/explorer_picture.py [--draws 200] [--quality fast]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from explorer import observation, serve
from playwright.sync_api import sync_playwright

import fsimformer as fsf
from fsimformer.explorer.board import Board
from fsimformer.explorer.picture import Settings

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
DRAWN = "() => window.Bokeh && Bokeh.documents[0]?.get_model_by_name('status')?.text.includes('joint draws')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hare_lynx")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--points", type=int, default=21)
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "explore.png")
    args = parser.parse_args()
    joint = fsf.load(args.model)
    board = Board.of(joint.schema, observation(joint, args.model))
    served = serve(joint, board, Settings(args.model, args.draws, args.points, quality=args.quality))
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=FLAGS, timeout=600_000)
        page = browser.new_page(viewport={"width": 1220, "height": 900})
        page.goto(served.url, timeout=600_000)
        page.wait_for_function(DRAWN, timeout=1_200_000)
        page.wait_for_timeout(1_000)
        page.screenshot(path=args.out, full_page=True, timeout=600_000)
        browser.close()
    served.loop.add_callback(served.loop.stop)


if __name__ == "__main__":
    main()
