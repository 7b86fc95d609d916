"""Pictures of traces, records and descriptions, for matplotlib, terminals, pages and notebooks. Knows no model.

from fanlight import views
views.mask_figure(labels=["The", " cat", " sat"]).savefig("mask.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanlight.views.attention import attention_figure
    from fanlight.views.attention_pair import attention_pair_figure
    from fanlight.views.beams import beams_figure
    from fanlight.views.branches import branches_figure
    from fanlight.views.contributions import contributions_figure
    from fanlight.views.ending import ending_figure
    from fanlight.views.fan import fan_figure
    from fanlight.views.figures import save
    from fanlight.views.filters import filters_figure
    from fanlight.views.lens import lens_figure
    from fanlight.views.mask import mask_effect_figure, mask_figure
    from fanlight.views.next_tokens import next_figure
    from fanlight.views.report import report_html, write_report
    from fanlight.views.ribbon import ribbon_figure
    from fanlight.views.ribbon_html import ribbon_html
    from fanlight.views.stack import stack_figure
    from fanlight.views.temperature import temperature_figure
    from fanlight.views.tracking import tracking_figure
    from fanlight.views.waterfall import waterfall_figure
    from fanlight.views.widget import TraceWidget

_HOMES = {
    "TraceWidget": "widget",
    "attention_figure": "attention",
    "attention_pair_figure": "attention_pair",
    "beams_figure": "beams",
    "branches_figure": "branches",
    "contributions_figure": "contributions",
    "ending_figure": "ending",
    "fan_figure": "fan",
    "filters_figure": "filters",
    "lens_figure": "lens",
    "mask_effect_figure": "mask",
    "mask_figure": "mask",
    "next_figure": "next_tokens",
    "report_html": "report",
    "ribbon_figure": "ribbon",
    "ribbon_html": "ribbon_html",
    "save": "figures",
    "stack_figure": "stack",
    "temperature_figure": "temperature",
    "tracking_figure": "tracking",
    "waterfall_figure": "waterfall",
    "write_report": "report",
}
__all__ = [
    "TraceWidget",
    "attention_figure",
    "attention_pair_figure",
    "beams_figure",
    "branches_figure",
    "contributions_figure",
    "ending_figure",
    "fan_figure",
    "filters_figure",
    "lens_figure",
    "mask_effect_figure",
    "mask_figure",
    "next_figure",
    "report_html",
    "ribbon_figure",
    "ribbon_html",
    "save",
    "stack_figure",
    "temperature_figure",
    "tracking_figure",
    "waterfall_figure",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fanlight.views' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"fanlight.views.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
