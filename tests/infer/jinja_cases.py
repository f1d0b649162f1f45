#!/usr/bin/env python3
"""Renders every template of jinja_cases.json anew with Jinja2 (3.1) in the setting of chat templates, and rewrites what it
must give: `expected` text, or `error`, a part of the message (empty where only that it fails matters). To add cases, add
objects with a `template` and run this."""
import datetime
import json
import pathlib

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_show"), [], [], body).set_lineno(line)

    def _show(self, caller):
        return caller()


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = datetime.datetime(2026, 1, 15, 10, 30).strftime

path = pathlib.Path(__file__).with_suffix(".json")
data = json.loads(path.read_text(encoding="utf-8"))
lines = []
for case in data["cases"]:
    try:
        case = {"template": case["template"],
                "expected": environment.from_string(case["template"]).render(**data["context"])}
    except Exception as error:  # templates fail in every way that Python can
        part = case.get("error", "")
        case = {"template": case["template"], "error": part if part in str(error) else ""}
    lines.append("  " + json.dumps(case))
context = json.dumps(data["context"], ensure_ascii=False)
path.write_text('{"context": ' + context + ',\n "cases": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
