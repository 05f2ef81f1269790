"""Scrapes of the guard's metrics, read as strictly as Prometheus reads them."""

import os
import re

HELP = re.compile(r"# HELP (xapi_guard_[a-z0-9_]+) (\S.*)")
TYPE = re.compile(r"# TYPE (xapi_guard_[a-z0-9_]+) (counter|gauge|histogram)")
SAMPLE = re.compile(r'(xapi_guard_[a-z0-9_]+)(?:\{((?:[a-z_]+="[^"\\\n]*",?)+)\})? (\S+)')

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Scrape:
    """`types` and `helps` by family; value("name", label="x") of one series."""

    def __init__(self, text):
        self.types, self.helps, self.series = {}, {}, {}
        assert text.endswith("\n"), "the last line has no end"
        family = None
        for line in text.splitlines():
            if found := HELP.fullmatch(line):
                assert found[1] not in self.helps, line
                self.helps[found[1]] = found[2]
            elif found := TYPE.fullmatch(line):
                family = found[1]
                assert family in self.helps and family not in self.types, line
                self.types[family] = found[2]
            else:
                found = SAMPLE.fullmatch(line)
                assert found, "neither comment nor sample: " + line
                self._sample(family, found[1], found[2] or "", float(found[3]), line)

    def _sample(self, family, name, labels, value, line):
        suffixes = ("_bucket", "_sum", "_count") if self.types[family] == "histogram" else ("",)
        assert name in [family + suffix for suffix in suffixes], "not of the family above: " + line
        key = (name, frozenset(label for label in labels.split(",") if label))
        assert key not in self.series, "twice: " + line
        self.series[key] = value

    def names(self):
        return {name for name, _ in self.series}

    def value(self, name, **labels):
        return self.series[(name, frozenset('%s="%s"' % item for item in labels.items()))]

    def state(self, name):
        """Which of the labels of a family of states is 1; exactly one is."""
        present = [label for (series, labels), value in self.series.items() if series == name and value == 1
                   for label in labels]
        assert len(present) == 1, "%s: %s" % (name, present)
        return present[0].split('"')[1]


def scrape(client):
    """By an HttpClient of the control socket, or of one that looks like it."""
    answer = client.request("GET", "/metrics")
    assert answer.status == 200, answer.status
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8", answer.headers
    return Scrape(answer.body.decode())


def documented_table(heading):
    """The rows of the first table below a heading of docs/OPERATIONS.md, as lists of cells without backquotes."""
    with open(os.path.join(ROOT, "docs", "OPERATIONS.md"), encoding="utf-8") as file:
        lines = file.read().split("\n## " + heading + "\n", 1)[1].splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows[2:]
