"""The page in a headless browser, as a visitor uses it. Screenshots go to YOLOS_SCREENSHOTS, or the temp folder."""

import numpy as np
import pytest
from page_window import SHOTS, attention, choose, click, picture, png, says, shows, upload, wait_for

pytestmark = pytest.mark.page
pytest.importorskip("gradio", reason="the page's packages are not installed (make test-page installs them)")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make test-page)")


def test_upload_click_layer_and_head(served, window):
    """One visit: each part shows what the functions behind it give for the state that the visitor chose."""
    from yolos_jax.tools.page.drawings import all_heads, with_boxes
    from yolos_jax.tools.page.viewer import token_at

    page, _ = window
    upload(page, "fruit.png", png(picture()))
    wait_for(page, lambda: says(page, "6 objects with a score of at least 0.50"), "what was found")
    want = np.asarray(with_boxes(served.look, 0.5), np.float32)
    assert want.shape == (320, 480, 3)
    wait_for(page, lambda: shows(page, "boxes", want), "boxes")
    best = int(served.look.over(0)[0])
    wait_for(page, lambda: shows(page, "attention", attention(served, best, 0, None)), "attention of the best token")
    page.screenshot(path=SHOTS / "1-uploaded.png", full_page=True)

    # A click where the smallest box is that of another token
    points = [(x, y) for x in range(2, 96, 4) for y in range(2, 64, 4)]
    point, token = next((p, t) for p in points if (t := token_at(served.look, *p, 0.5)) is not None and t != best)
    click(page, "boxes", point, served.look.image.size)
    wait_for(page, lambda: says(page, f"Token {token} is chosen."), "the token of the box that was clicked")
    seen = [attention(served, token, 0, None)]
    wait_for(page, lambda: shows(page, "attention", seen[0]), "its attention")
    facts = page.inner_text("#facts")
    assert f"Token #{token} apple" in facts and f"mean score 0.{token}23, images {7 + token}" in facts

    page.fill("#layer input[type=number]", "2")
    page.press("#layer input[type=number]", "Tab")
    seen.append(attention(served, token, 2, None))
    wait_for(page, lambda: shows(page, "attention", seen[1]), "another layer")
    for head in (0, 1):
        choose(page, "head", str(head))
        seen.append(attention(served, token, 2, head))
        wait_for(page, lambda: shows(page, "attention", seen[-1]), f"head {head}")
    page.click("#smooth input")
    seen.append(attention(served, token, 2, 1, smooth=False))
    wait_for(page, lambda: shows(page, "attention", seen[-1]), "patch by patch")
    page.screenshot(path=SHOTS / "2-clicked.png", full_page=True)
    for i, one in enumerate(seen):  # a visitor tells them apart
        assert all(np.abs(one - other).mean() > 3 for other in seen[:i])
    assert shows(page, "heads", np.asarray(all_heads(served.look, token, 2, False), np.float32))

    page.fill("#threshold input[type=number]", "0.99")
    page.press("#threshold input[type=number]", "Tab")
    wait_for(page, lambda: says(page, "0 objects with a score of at least 0.99"), "another threshold")
    none = np.asarray(with_boxes(served.look, 0.99), np.float32)
    wait_for(page, lambda: shows(page, "boxes", none), "the image without boxes")  # a click before that would be lost
    click(page, "boxes", point, served.look.image.size)
    wait_for(page, lambda: says(page, "There is no box here."), "no box under the click")


def test_images_of_the_data_set_and_another_checkpoint(served, window):
    page, _ = window
    page.fill("#threshold input[type=number]", "0.5")
    page.press("#threshold input[type=number]", "Tab")
    assert len(page.query_selector_all("#gallery img")) == 3  # the fourth is no image
    page.click("#gallery button:has(img) >> nth=1")
    wait_for(page, lambda: served.look.image.getpixel((50, 50)) == picture(11).getpixel((50, 50)), "the second image")
    first = served.look
    choose(page, "checkpoint", served.viewer.names[1])
    wait_for(page, lambda: served.look is not first, "the other checkpoint")
    assert np.abs(served.look.boxes - first.boxes).max() > 0.1
    wait_for(page, lambda: "over the data set" not in page.inner_text("#facts"), "no table for this checkpoint")
    page.screenshot(path=SHOTS / "3-chosen.png", full_page=True)
