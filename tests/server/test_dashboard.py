"""docs/grafana.json asks for what /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from http_server import Served
from prometheus_client.parser import text_string_to_metric_families
from server_process import chat

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"
NAME = re.compile(r"antiphon:\w+")


def test_its_expressions_name_metrics(served: Served) -> None:
    asked = served.http.post("/v1/chat/completions", json=chat("How much is two plus three?"))
    assert asked.status_code == 200
    text = served.http.get("/metrics").text
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    names, labels = {each.name for each in samples}, {name for each in samples for name in each.labels}
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["templating"]["list"][0]["name"] == "source"
    shown = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "${source}"
        for target in panel["targets"]:
            found = set(NAME.findall(target["expr"]))
            assert found, target
            assert found <= names, target
            by = {
                name
                for group in re.findall(r"by \(([\w, ]+)\)", target["expr"])
                for name in group.split(", ")
            }
            by |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - {"instance"}
            assert by <= labels, target
            shown |= found
    own = {family.name for family in text_string_to_metric_families(text)}
    own = {name for name in own if not name.endswith("_created")}
    missing = [name for name in own if not any(each.startswith(name) for each in shown)]
    assert missing == []
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_it_lies_on_a_grid_without_overlaps() -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    cells = [(p["x"] + x, p["y"] + y) for p in places for x in range(p["w"]) for y in range(p["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
