"""Reads metrics with the official parser, and alert rules and a dashboard: which figures there are, and which are asked for."""
import json
import re
import sys

import yaml
from prometheus_client.parser import text_string_to_metric_families

folder = sys.argv[1]
families = list(text_string_to_metric_families(sys.stdin.read()))
names, labels = set(), set()
for family in families:
    assert family.documentation, family.name
    assert family.type != "unknown", family.name
    for sample in family.samples:
        assert (sample.name, tuple(sorted(sample.labels.items()))) not in names, sample
        names.add((sample.name, tuple(sorted(sample.labels.items()))))
        labels.update(sample.labels)
    if family.type == "counter":
        assert all(sample.name.endswith("_total") for sample in family.samples), family.name
    if family.type == "histogram":
        series = {}
        for sample in family.samples:
            rest = tuple(sorted(item for item in sample.labels.items() if item[0] != "le"))
            series.setdefault(rest, []).append(sample)
        for samples in series.values():
            counts = [sample.value for sample in samples if sample.name.endswith("_bucket")]
            assert counts == sorted(counts), family.name
            total = [sample.value for sample in samples if sample.name.endswith("_count")]
            assert total == counts[-1:], family.name
known = {name for name, _ in names}
# A counter that has counted nothing yet may have no sample.
known |= {f"{family.name}_total" for family in families if family.type == "counter"}
with open(f"{folder}/alerts.yml") as file:
    rules = yaml.safe_load(file)["groups"][0]["rules"]
with open(f"{folder}/grafana.json") as file:
    panels = json.load(file)["panels"]
expressions = [rule["expr"] for rule in rules]
expressions += [target["expr"] for panel in panels for target in panel["targets"]]
asked = {name for text in expressions for name in re.findall(r"polysystems_\w+", text)}
print(json.dumps({
    "families": len(families), "labels": sorted(labels), "rules": len(rules), "panels": len(panels),
    "unknown": sorted(asked - known), "unwatched": sorted(
        family.name for family in families
        if not any(sample.name in asked for sample in family.samples)),
}))
