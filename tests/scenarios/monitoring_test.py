"""The dashboard and the alert rules of packaging/: well-formed, and every metric and label in them exists in a real scrape."""

import json
import os
import re

import yaml

from guardtest import HttpClient, Scenario, main
from metricstest import ROOT, scrape

METRIC = re.compile(r"\bxapi_guard_[a-z0-9_]+")
SELECTOR = re.compile(r"(xapi_guard_[a-z0-9_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
# Given by Prometheus, not by the guard.
FOREIGN_LABELS = {"instance", "job"}


def packaged(name):
    with open(os.path.join(ROOT, "packaging", name), encoding="utf-8") as file:
        return file.read()


class Monitoring(Scenario):
    def setUp(self):
        super().setUp()
        self.start_all(0)
        self.scrape = scrape(self.track(HttpClient(self.guard.control)))

    def check(self, expression):
        """All names and labels of an expression are real."""
        for name in METRIC.findall(expression):
            self.assertIn(name, self.scrape.names(), expression)
        for name, matchers in SELECTOR.findall(expression):
            found = MATCHER.findall(matchers)
            self.assertEqual(len(found), matchers.count("=\"") + matchers.count("=~\""), expression)
            for label, operator, value in found:
                if label in FOREIGN_LABELS:
                    continue
                there = {item for series, labels in self.scrape.series if series == name for item in labels}
                self.assertTrue(any(item.startswith(label + "=") for item in there), expression)
                if operator != "=~":
                    self.assertIn('%s="%s"' % (label, value), there, expression)
        for left, right in ("()", "{}", "[]"):
            self.assertEqual(expression.count(left), expression.count(right), expression)

    def test_every_panel_of_the_dashboard_shows_something(self):
        dashboard = json.loads(packaged("grafana-dashboard.json"))
        panels = dashboard["panels"]
        self.assertGreater(len(panels), 10)
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        for panel in panels:
            self.assertTrue(panel["title"] and panel["targets"])
            for target in panel["targets"]:
                self.assertTrue(METRIC.search(target["expr"]), panel["title"])
                self.check(target["expr"])
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
        self.assertEqual(len(set(places)), len(places))
        for variable in dashboard["templating"]["list"]:
            self.check(variable["query"])

    def test_every_rule_can_fire(self):
        (group,) = yaml.safe_load(packaged("prometheus-rules.yml"))["groups"]
        rules = {rule["alert"]: rule for rule in group["rules"]}
        self.assertEqual(len(rules), len(group["rules"]))
        for name, rule in rules.items():
            self.assertLessEqual(set(rule), {"alert", "expr", "for", "labels", "annotations"}, name)
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
            self.assertTrue(rule["annotations"]["summary"])
            self.assertTrue(re.fullmatch(r"\d+[smh]", rule.get("for", "0s")), name)
            self.check(rule["expr"])
        for wanted in ("NotScraped", "DataPending", "Held", "Parked", "JournalFailed", "Damage"):
            self.assertIn("XapiGuard" + wanted, rules)

    def test_the_check_sees_what_is_not_there(self):
        for wrong in ("xapi_guard_nothing > 0", 'xapi_guard_mode{mode="odd"} == 1', 'xapi_guard_mode{color="x"} == 1',
                      "rate(xapi_guard_reads_total[5m]"):
            with self.assertRaises(AssertionError):
                self.check(wrong)


if __name__ == "__main__":
    main()
