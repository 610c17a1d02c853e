"""The parts of a report as a browser shows them: no network, no error, nothing wider than the screen."""

import pytest

from ndsm.report.parts import Code, Facts, Fold, Note, Plot, Section, SideBySide, Table, Text, page


@pytest.fixture(scope="module")
def some_page(tmp_path_factory):
    """A page with every part, and text that would be markup if it were not escaped."""
    import plotly.graph_objects as go

    def figure(title):
        lines = [go.Scatter(x=[1, 2, 3], y=[3, 1, k], name=f"line {k}") for k in range(3)]
        return go.Figure(lines).update_layout(title_text=title, xaxis_title="step", yaxis_title="loss")

    wide = Table("Many columns", [f"column {i}" for i in range(12)], [[i * 1.5 for i in range(12)]])
    path = tmp_path_factory.mktemp("page") / "page.html"
    markup = page(
        "A <title> & more",
        [Text("The <b>lead</b>."), Facts({"rows": 12345, "loss": -1.23456, "device": None})],
        [
            Section("Figures", [SideBySide([Plot(figure("Loss"), "Falls."), Plot(figure("</script>"), "Rises.", wide)])]),
            Section("Tables", [wide, Note("nothing else"), Fold("more", [Code("ndsm train x --a <b>")])]),
        ],
    )  # fmt: skip
    path.write_text(markup, encoding="utf-8")
    return path


def test_text_is_escaped_and_missing_facts_left_out(some_page):
    markup = some_page.read_text(encoding="utf-8")
    assert "<h1>A &lt;title&gt; &amp; more</h1>" in markup
    assert "&lt;b&gt;lead&lt;/b&gt;" in markup
    assert "<dd>12,345</dd><dt>loss</dt><dd>-1.235</dd></dl>" in markup


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1440, True)])
def test_page_is_self_contained_and_fits_the_screen(chromium, some_page, width, dark):
    chromium.open(some_page, width, dark)
    assert chromium.requests() == []
    assert chromium.errors() == []
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    sizes = chromium.run(
        "return [...document.querySelectorAll('.main-svg')].map(e => e.getBoundingClientRect().width)"
    )
    assert sizes
    assert all(200 < size <= width for size in sizes)
    assert chromium.accessibility() == []
