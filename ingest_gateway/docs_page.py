"""The API documentation as one page of HTML, made from the OpenAPI document: no script, no style sheet and no font from
anywhere, so that it works in a closed network and under any content security policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

import orjson

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2.5rem; }
h2 b { display: inline-block; min-width: 3.5rem; }
code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { border: 1px solid var(--line); border-radius: 6px; padding: .75rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top; }
"""


def page(document: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        document: OpenAPI 3.1, as the gateway serves it.
    """
    info = document["info"]
    body = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    for path, methods in sorted(document["paths"].items()):
        for method, operation in methods.items():
            body += _operation(document, path, method.upper(), operation)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>"
    )


def _operation(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> list[str]:
    parts = [f"<h2><b>{method}</b> <code>{escape(path)}</code></h2>", f"<p>{escape(operation.get('summary', ''))}</p>"]
    if "description" in operation:
        parts.append(f"<p>{_code(operation['description'])}</p>")
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            (each["name"], each["in"], _rule(each.get("schema", {})), each.get("description", ""))
            for each in parameters
        ]
        parts.append(_table(("parameter", "in", "rule", ""), rows))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<h3>Body, <code>{escape(media)}</code></h3>{_schema(document, content['schema'])}")
    parts.append("<h3>Answers</h3>")
    answers = sorted(operation["responses"].items())
    parts.append(_table(("status", "when"), [(status, answer.get("description", "")) for status, answer in answers]))
    for status, answer in answers:
        for media, content in answer.get("content", {}).items():
            if media == "application/json" and content.get("schema"):
                parts.append(f"<h3>{escape(status)}</h3>{_schema(document, content['schema'])}")
    return parts


def _schema(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The members of an object as a table; anything else as it is."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema:
        return f"<pre>{escape(orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode())}</pre>"
    required = schema.get("required", [])
    rows = [
        (name, "required" if name in required else "", _rule(member), member.get("description", ""))
        for name, member in schema["properties"].items()
    ]
    return _table(("member", "", "rule", ""), rows)


def _rule(schema: Mapping[str, Any]) -> str:
    """What a value must be, in a few words."""
    kind = schema.get("type", "")
    words = [" or ".join(kind) if isinstance(kind, list) else kind]
    if "const" in schema:
        words.append(str(schema["const"]))
    words += [", ".join(map(str, schema["enum"]))] if "enum" in schema else []
    words += [schema["format"]] if "format" in schema else []
    if "maxLength" in schema:
        words.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    words += [f"pattern {schema['pattern']}"] if "pattern" in schema else []
    return "; ".join(filter(None, words)) or "any JSON value"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = ["".join(f"<td>{_code(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _code(text: str) -> str:
    """Text with what stands between backquotes as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if position % 2 else part for position, part in enumerate(parts))
