"""Parts of a page, and the page: one HTML file without a network, for phones, dark screens and screen readers too.

Parts are plain records; `page.html.j2` turns them into HTML and escapes their text:

    page("digits", [Text("What this is.")], [Section("Curves", [Plot(figure, "Loss falls from 3 to 1."), Table(...)])])
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#5B5EA6")
"""Lines and bars: after Okabe and Ito, told apart with any colour vision on light and dark ground."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str


@dataclass(frozen=True)
class Note:
    """A paragraph of lesser weight, such as what is missing and why."""

    words: str


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    title: str


@dataclass(frozen=True)
class Code:
    """Text as it is typed."""

    lines: str


@dataclass(frozen=True)
class Facts:
    """Names and their values; those that are None are left out."""

    pairs: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows; None is an empty cell."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Fold:
    """Parts that are shown on demand."""

    summary: str
    parts: Sequence["Part"]


@dataclass(frozen=True)
class SideBySide:
    """Parts in as many columns as the screen has room for."""

    parts: Sequence["Part"]


@dataclass(frozen=True)
class Picture:
    """A PNG, and its description."""

    png: bytes
    alt: str

    @property
    def base64(self) -> str:
        """The PNG as text."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Plot:
    """An interactive figure."""

    figure: Any
    """Plotly's, with a title and axis titles."""
    says: str
    """What it shows in a sentence: its caption, and what a screen reader reads in its place."""
    numbers: Table | None = None
    """The same as a table, for those who do not see it."""

    @property
    def drawn(self) -> Markup:
        """The figure as HTML, without Plotly's script."""
        # Slow to import, and `import ndsm` should stay fast.
        import plotly.io

        figure = self.figure
        figure.update_layout(
            template="none",
            autosize=True,
            margin={"l": 8, "r": 8, "t": 44, "b": 8} | figure.layout.margin.to_plotly_json(),
            font={"family": "system-ui, sans-serif", "size": 12},
            title={"font": {"size": 14}, "x": 0, "xref": "paper", "y": 0.98, "yanchor": "top"},
            legend={"orientation": "h", "y": -0.28, "x": 0, "yanchor": "top"},
            colorway=COLOURS,
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            hoverlabel={"bgcolor": "#1b1f24", "font": {"color": "#ffffff"}},
        )
        figure.update_xaxes(automargin=True, showgrid=True, zeroline=False)
        figure.update_yaxes(automargin=True, showgrid=True, zeroline=False)
        drawn = plotly.io.to_html(
            figure,
            config={"displayModeBar": False, "responsive": True},
            include_plotlyjs=False,
            full_html=False,
            default_height="300px",
        )
        # A module runs when the whole page is parsed: until then a column of figures may be as wide as two.
        return Markup(re.sub("<script[^>]*>", '<script type="module">', drawn))


Part = Text | Note | Heading | Code | Facts | Table | Fold | SideBySide | Picture | Plot


@dataclass(frozen=True)
class Section:
    """A heading, which the page's contents list, and the parts under it."""

    title: str
    parts: Sequence[Part]


def number(value: Any) -> str:
    """Return a value as it is shown: four significant digits, thousands apart, nothing for None."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
        case _:
            return str(value)


def page(title: str, lead: Sequence[Part], sections: Sequence[Section]) -> str:
    """Return a document as HTML.

    Args:
        title: of the page.
        lead: the first screen: what this is about, and how well it went.
        sections: the rest, listed under the lead.
    """
    environment = Environment(
        loader=PackageLoader("ndsm.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "kind": lambda part: type(part).__name__}
    first, later = _has_plot(lead), any(_has_plot(section.parts) for section in sections)
    return environment.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        sections=sections,
        style=Markup((resources.files("ndsm.report") / "page.css").read_text(encoding="utf-8")),
        plotly=_plotly() if first or later else "",
        script_first=first,
    )


def _has_plot(parts: Iterable[Part]) -> bool:
    return any(
        isinstance(part, Plot) or (isinstance(part, SideBySide | Fold) and _has_plot(part.parts))
        for part in parts
    )


def _plotly() -> Markup:
    """Return Plotly's script, which is written once for all figures of a page."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())
