"""The pictures of the page that answer to the mouse, as Vega-Lite specifications. The page's script hands them their rows.

Axes, order of drawing and what is shown beside a point are here, so that the script knows nothing of them.
"""

from typing import Any

import altair as alt

ROWS = "rows"
"""What the script calls the data."""
QUALITY = "QUALITY"
"""In place of the metric's title, which the script sets."""
TITLES = ["TITLES"]
"""In place of the methods' titles, which the script sets: scales of the same domain share a legend."""
ROLES = ("reference", "method", "baseline", "control")


def quality_against_bytes() -> dict[str, Any]:
    """Rows of the leaderboard, those of one panel and metric. Controls are drawn last, on top, and larger.

    The script sets the parameters: the ends of both axes, and the bytes of the full table. `place` is a row's bytes, moved a little
    where another result would cover it.
    """
    wanted = {"low": 0.0, "high": 1.0, "smallest": 1.0, "largest": 10.0, "full": 1.0}
    parameters = [alt.param(name=name, value=value) for name, value in wanted.items()]
    size = alt.X(
        "place:Q",
        scale=_between("smallest", "largest", type="log"),
        axis=alt.Axis(title="bytes of the embeddings", format="~s", tickCount=6, labelOverlap="greedy"),
    )
    quality = alt.Y("mean:Q", scale=_between("low", "high"), axis=alt.Axis(title=QUALITY, tickCount=6))
    tooltip = [
        alt.Tooltip("name:N", title="result"),
        alt.Tooltip("mean:Q", title=QUALITY, format=".5~g"),
        alt.Tooltip("sd:Q", title="SD", format=".2~g"),
        alt.Tooltip("n:Q", title="seeds"),
        alt.Tooltip("bytes:Q", format=",.0f"),
        alt.Tooltip("share:Q", title="of the full table", format=".2~%"),
        alt.Tooltip("core_seconds:Q", title="core-seconds", format=",.0f"),
    ]
    rows = alt.Chart(alt.NamedData(ROWS))
    front = rows.transform_filter("datum.front").mark_line(
        interpolate="step-after", strokeWidth=8, opacity=0.25, color="#888888", clip=True
    )
    lines = rows.mark_line(strokeWidth=1.2, opacity=0.7, clip=True).encode(
        detail="method:N",
        color=_series(),
        strokeDash=alt.StrokeDash("title:N", title=None, legend=_legend(), scale=alt.Scale(domain=TITLES)),
    )
    bars = rows.mark_rule(strokeWidth=1, clip=True).encode(
        y=alt.Y("bottom:Q", title=QUALITY), y2="top:Q", color=_series()
    )
    above = "datum.role == 'control' || datum.role == 'reference'"
    points = rows.mark_point(filled=True, opacity=1, clip=True, cursor="pointer").encode(
        color=_series(),
        shape=alt.Shape("title:N", title=None, scale=alt.Scale(domain=TITLES), legend=_legend()),
        size=alt.Size("role:O", scale=alt.Scale(domain=list(ROLES), range=[190, 70, 70, 140]), legend=None),
        stroke=alt.condition(above, alt.value("#888888"), alt.value(None)),
        strokeWidth=alt.value(2),
        order=alt.Order("rank:Q"),
        tooltip=tooltip,
    )
    share = rows.mark_point(opacity=0, tooltip=None).encode(
        x=alt.X(
            "share:Q",
            scale=_between("smallest / full", "largest / full", type="log"),
            axis=alt.Axis(
                title="share of the full table", orient="top", format="~%", tickCount=6, labelOverlap="greedy"
            ),
        )
    )
    of_bytes = alt.layer(front, lines, bars, points).encode(x=size, y=quality)
    layers = alt.layer(of_bytes, share).resolve_scale(x="independent").add_params(*parameters)
    return _spec(layers, height=380)


def _between(low: str, high: str, **scale: Any) -> alt.Scale:
    ends = {"domainMin": alt.ExprRef(low), "domainMax": alt.ExprRef(high)}
    if not scale:  # a logarithm has no 0 anyway
        scale = {"zero": False}
    return alt.Scale(nice=False, **ends, **scale)


def _series() -> alt.Color:
    """Colour, shape and dashes tell the methods apart, in one legend."""
    return alt.Color("title:N", title=None, scale=alt.Scale(scheme="tableau20", domain=TITLES), legend=_legend())


def _legend() -> alt.Legend:
    """The same for colour, shape and dashes, so that Vega-Lite joins them."""
    return alt.Legend(symbolLimit=80, symbolOpacity=1)


def paper_against_ours() -> dict[str, Any]:
    """A pair of points for each result of which the paper prints a number."""
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=260))
    rows = alt.Chart(alt.NamedData(ROWS))
    line = rows.mark_rule(strokeWidth=2, color="#888888").encode(x="paper:Q", x2="mean:Q", y=y)
    points = (
        rows.transform_fold(["mean", "paper"], ["of", "value"])
        .transform_calculate(whose="datum.of == 'mean' ? 'ours' : 'the paper'")
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=alt.X("value:Q", scale=alt.Scale(zero=False, padding=12), axis=alt.Axis(tickCount=6), title=QUALITY),
            y=y,
            color=alt.Color(
                "whose:N", title=None, scale=alt.Scale(range=["#0173b2", "#de8f05"]), legend=alt.Legend(orient="top")
            ),
            shape=alt.Shape("whose:N", title=None),
            tooltip=["name:N", "whose:N", alt.Tooltip("value:Q", format=".5~g")],
        )
    )
    return _spec(alt.layer(line, points))


def learning_curve() -> dict[str, Any]:
    """Validation loss by epoch, a line per seed."""
    chart = (
        alt.Chart(alt.NamedData(ROWS))
        .mark_line(point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(format="d", labelExpr="datum.value % 1 ? '' : datum.label")),
            y=alt.Y("loss:Q", title="validation loss", scale=alt.Scale(zero=False)),
            color=alt.Color("seed:N"),
            strokeDash=alt.StrokeDash("seed:N"),
            tooltip=["seed:N", "epoch:Q", alt.Tooltip("loss:Q", format=".5~g")],
        )
    )
    return _spec(chart, height=160)


def _spec(chart: Any, **sizes: Any) -> dict[str, Any]:
    """A chart as wide as its place, as a plain value whose every name is fixed."""
    sized = chart.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"), **sizes)
    spec: dict[str, Any] = sized.to_dict(validate=True)
    return spec
