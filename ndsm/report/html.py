"""Reports as one self-contained HTML file: no network, readable on a phone, in the dark and by a screen reader.

The parts are functions that return markup; any text given to them is escaped. A page is put together as

    page("digits", "what this is", [Section("Curves", [plot(figure, "Loss falls from 3 to 1."), table(...)])])
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#5B5EA6")
"""Lines and bars: after Okabe and Ito, told apart with any colour vision on light and dark ground."""


@dataclass(frozen=True)
class Section:
    """A heading, which the page's contents name, and what stands under it."""

    title: str
    parts: Sequence[Markup]


def text(words: str) -> Markup:
    """A paragraph."""
    return Markup("<p>{}</p>").format(words)


def note(words: str) -> Markup:
    """A paragraph of lesser weight: what is missing, and why."""
    return Markup('<p class="note">{}</p>').format(words)


def heading(title: str) -> Markup:
    """A heading inside a section."""
    return Markup("<h3>{}</h3>").format(title)


def code(lines: str) -> Markup:
    """Text as it is typed."""
    return Markup('<pre tabindex="0"><code>{}</code></pre>').format(lines)


def facts(pairs: Mapping[str, Any]) -> Markup:
    """Names and what they are."""
    items = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(k, number(v)) for k, v in pairs.items() if v is not None
    )
    return Markup("<dl>{}</dl>").format(items)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table whose first column names the rows; None is an empty cell."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in header)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            number(first), Markup("").join(Markup("<td>{}</td>").format(number(x)) for x in rest)
        )
        for first, *rest in rows
    )
    # Scrolled by keyboard too where it is wider than the screen.
    return Markup(
        '<div class="wide" role="region" tabindex="0" aria-label="{}"><table><caption>{}</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(caption, caption, head, body)


def fold(summary: str, parts: Iterable[Markup]) -> Markup:
    """Parts that are shown on demand."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, Markup("").join(parts))


def side_by_side(plots: Iterable[Markup]) -> Markup:
    """Figures in as many columns as the screen has room for."""
    return Markup('<div class="plots">{}</div>').format(Markup("").join(plots))


def picture(png: bytes, alt: str) -> Markup:
    """A PNG and what it shows."""
    data = base64.b64encode(png).decode()
    return Markup(
        '<figure><img src="data:image/png;base64,{}" alt="{}"><figcaption>{}</figcaption></figure>'
    ).format(data, alt, alt)


def plot(figure: Any, says: str, numbers: Markup | None = None) -> Markup:
    """An interactive figure.

    Args:
        figure: plotly's, with a title and axis titles.
        says: what it shows in a sentence: its caption, and what a screen reader reads in its place.
        numbers: the same as a table, for those who do not see it.
    """
    # Slow to import, and `import ndsm` should stay fast.
    import plotly.io

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
    drawn = re.sub("<script[^>]*>", '<script type="module">', drawn)
    below = "" if numbers is None else fold("the numbers", [numbers])
    return Markup(
        '<figure><div class="plot" role="img" aria-label="{}">{}</div><figcaption>{}</figcaption>{}</figure>'
    ).format(says, Markup(drawn), says, below)


def number(value: Any) -> str | Markup:
    """A value as it is shown: four significant digits, thousands apart, nothing for None."""
    match value:
        case None:
            return ""
        case Markup():
            return value
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
        case _:
            return str(value)


def page(title: str, lead: Iterable[Markup], sections: Sequence[Section]) -> str:
    """The whole document.

    Args:
        title: of the page.
        lead: the first screen: what this is about, and how well it went.
        sections: the rest, listed under the lead.
    """
    links, body = [], []
    for i, section in enumerate(sections):
        links.append(Markup('<li><a href="#section-{}">{}</a></li>').format(i, section.title))
        body.append(
            Markup('<section aria-labelledby="section-{}"><h2 id="section-{}">{}</h2>{}</section>').format(
                i, i, section.title, Markup("").join(section.parts)
            )
        )
    first = Markup("").join(lead)
    # Megabytes long, and needed where the first figure is: after the first screen if that has none.
    script = _plotly() if any('class="plot"' in part for part in (first, *body)) else ""
    early = 'class="plot"' in first
    style = (resources.files("ndsm.report") / "page.css").read_text(encoding="utf-8")
    markup = Markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,"><style>{style}</style></head>'
        '<body><a class="skip" href="#main">skip to the results</a><header><h1>{title}</h1></header>'
        '<main id="main">{early}{lead}<nav aria-label="contents"><ul>{links}</ul></nav>{late}{body}</main>'
        "</body></html>\n"
    ).format(
        title=title,
        style=Markup(style),
        early=script if early else "",
        late="" if early else script,
        lead=first,
        links=Markup("").join(links),
        body=Markup("").join(body),
    )
    return str(markup)


def _plotly() -> Markup:
    """plotly's own script, once for all figures of a page."""
    from plotly.offline import get_plotlyjs

    return Markup("<script>{}</script>").format(Markup(get_plotlyjs()))
