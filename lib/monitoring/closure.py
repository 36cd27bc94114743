"""The rules that one alert stands on, and no others: enough to try it, in a fraction of the time that all rules take.

Names are found in the text of an expression, so a mutated one that hardly parses has its rules too. Refuses an alert that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lib.monitoring.rules import Group, Rule

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def of(groups: Sequence[Group], alert: str, labels: Mapping[str, str] | None = None) -> list[Group]:
    """Groups with the alert's rules (those with all of `labels`) and what they read, in order. Raises KeyError."""
    wanted = [rule for group in groups for rule in group["rules"]
              if rule.get("alert") == alert and (labels or {}).items() <= rule.get("labels", {}).items()]
    if not wanted:
        raise KeyError(f"no rule alerts {alert} with {labels or {}}")
    return below(groups, wanted)


def below(groups: Sequence[Group], rules: Sequence[Rule]) -> list[Group]:
    """Groups with these rules and what they read, in order."""
    every, wanted = [rule for group in groups for rule in group["rules"]], {id(rule) for rule in rules}
    while more := {id(rule) for rule in every if id(rule) not in wanted and "record" in rule
                   and any(_answers(rule, asking) for asking in every if id(asking) in wanted)}:
        wanted |= more
    kept = [{**group, "rules": [rule for rule in group["rules"] if id(rule) in wanted]} for group in groups]
    return [group for group in kept if group["rules"]]


def names(rule: Rule) -> set[str]:
    """Everything in its expression that may be the name of a series."""
    return set(NAME.findall(STRING.sub('""', rule["expr"])))


def _answers(rule: Rule, asking: Rule) -> bool:
    """Whether one is read by the other, and not by a selector that only wants it with labels that it does not carry."""
    if rule["record"] not in names(asking):
        return False
    carried = rule.get("labels", {})
    asked = re.findall(rf"(?<![\w:]){re.escape(rule['record'])}(?![\w:])(?:\{{([^}}]*)\}})?", asking["expr"])
    return any(all(carried.get(key, value) == value for key, value in re.findall(r'(\w+)="([^"]*)"', matchers)) for matchers in asked)
