"""Pictures of models at work: matplotlib plots and interactive widgets.

The widgets take plain data (lists, NumPy arrays) and do their work in the browser, so that they stay alive in a
static page. matplotlib and anywidget are imported with the first name that needs them.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "attention_grid": "plots", "bars": "plots", "heatmap": "plots", "lines": "plots", "loss_curves": "plots",
    "probability_bars": "plots", "style": "plots", "use_style": "plots",
    "AttentionView": "widgets", "GenerationView": "widgets", "GraphView": "widgets", "SchedulePlay": "widgets",
    "TokenizerView": "widgets", "TrainingCurve": "widgets",
    "RopePlay": "positions",
    "AnswersPlay": "reasoning",
    "BalancePlay": "balance",
    "Dashboard": "dashboard",
    "CachePlay": "caches", "ChatTemplates": "chats",
    "CostCalculator": "calculator", "MaskPlay": "masks",
    "KeptTokens": "kept",
    "RankPlay": "adapters",
    "TilePlay": "tiles",
    "RewardPath": "preferences",
    "ModelCard": "zoo", "ModelMap": "zoo", "model_cards": "zoo",
    "RouteIt": "routing", "RoutingExplorer": "routing", "RoutingFlow": "routing",
    "expert_load": "routing_plots", "specialization": "routing_plots",
    "Information": "routes", "expert_domain_table": "routes", "expert_information": "routes",
    "expert_kind_table": "routes", "expert_loads": "routes", "mutual_information": "routes", "token_kind": "routes",
    "Generation": "data", "Run": "data", "Settings": "data", "TokenStep": "data", "Vocabulary": "data",
    "graph_of": "data", "token_steps": "data", "vocabulary_of": "data",
}  # fmt: skip
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
