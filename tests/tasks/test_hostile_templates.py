"""Hostile templates and expressions: each ends in less than two seconds with a bounded text or an error of its own."""

from __future__ import annotations

import random
import time

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Example
from metalm_cli.tasks.expressions import MAX_TEXT_LENGTH, TemplateError, compile_expression, compile_text
from metalm_cli.templates.render import render
from metalm_cli.templates.template import Template
from metalm_cli.templates.template_ast import TemplateAst

TIME_S = 2.0
VALUES = {
    "s": "A man inspects a uniform. " * 400,
    "t": "<b>x</b> " * 100_000,
    "l": ["yes", "no", "maybe"] * 50,
    "rows": [{"a": [1, 2, 3], "b": "text"}] * 100,
    "n": 7,
}
EXPECTED_ERRORS = (TemplateError, ValueError, TypeError, LookupError, ArithmeticError)
"""Errors of a rendering that its callers report as errors of the template."""


def end_of(source: str, *, expression: bool = False) -> str:
    """Compile and evaluate a source; return its text, or the error that it ends with, after checking the time."""
    start = time.process_time()
    try:
        value = (compile_expression if expression else compile_text)(source)(VALUES)
        result = str(value)
        assert len(result) <= (20 if expression else 1) * MAX_TEXT_LENGTH
    except EXPECTED_ERRORS as error:
        result = f"{type(error).__name__}: {error!s:.300}"
    seconds = time.process_time() - start
    assert seconds < TIME_S, f"{source:.200}: {seconds:.1f} s"
    return result


BIG = 10**8
REFUSED = {
    "padding by format": "{{ '{:>30000000000}'.format(s) | length }}",
    "format by item": "{{ '{:>30000000000}'['format'](s) | length }}",
    "format of a map": "{{ '{a:>3000000000}'.format_map(rows[0]) }}",
    "format by a filter": "{{ ['{:>300000000}'] | map('format', 1) | list }}",
    "format by attribute": "{{ '{:>300000000}' | attr('format') }}",
    "width of %": "{{ '%99999999d' % n }}",
    "repetition": "{{ s * 100000000 }}",
    "repetition of a list": "{{ (l * 100000000) | length }}",
    "center": f"{{{{ s | center({BIG}) }}}}",
    "center of a text": f"{{{{ s.center({BIG}) }}}}",
    "ljust": f"{{{{ s.ljust({BIG}) }}}}",
    "zfill": f"{{{{ s.zfill({BIG}) }}}}",
    "tabs": f"{{{{ '\\t'.expandtabs({BIG}) }}}}",
    "translation": "{{ s.translate({65: t}) }}",
    "bytes": f"{{{{ n.to_bytes({BIG}, 'big') }}}}",
    "codec": "{{ s.encode('idna') }}",
    "indent": f"{{{{ s | indent({BIG}) }}}}",
    "wordwrap": "{{ t | wordwrap(1, wrapstring=t) }}",
    "indent of JSON": f"{{{{ rows | tojson(indent={BIG}) }}}}",
    "slices": f"{{{{ s | slice({BIG}) | list | length }}}}",
    "batches": f"{{{{ s | batch({BIG}, 'x') | list | length }}}}",
    "batches of a thousand": "{{ t | batch(10000, 'x') | map('batch', 10000, 'x') | list | length }}",
    "join": "{{ (t | list) | join(t) | length }}",
    "join of a text": "{{ t.join(t) | length }}",
    "replace": "{{ t | replace('', t) | length }}",
    "replace of a text": "{{ t.replace('x', t) | length }}",
    "sum of lists": "{{ ([l] * 3) | sum(start=[]) }}",
    "sum of many lists": "{{ rows | sum(attribute='a', start=[]) }}",
    "range": f"{{{{ range({BIG}) | list | length }}}}",
    "ranges": "{{ [range(10000), range(10000)] | map('list') | map('join', t) | list | length }}",
    "round": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "powers": "{{ 10 ** 10 ** 10 }}",
    "power of a power": "{% set a = 999 ** 20 %}{{ a ** 20 }}",
    "shift": "{{ 1 << 100000000 }}",
    "hexadecimal digits": "{{ 0x" + "f" * 5_000 + " }}",
    "digits of a text": "{{ ('1' ~ t) | replace('<b>x</b> ', '1') | int(base=2) }}",
    "digits": "{{ " + "9" * 5_000 + " }}",
    "lorem ipsum": "{{ lipsum(n=1000000) }}",
    "namespace": "{% set x = namespace(a=s) %}{% for i in range(40) %}{% set x.a = x.a ~ x.a %}{% endfor %}{{ x.a }}",
    "cycler": "{{ cycler(s).next() }}",
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "call block": "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{% endcall %}",
    "block": "{% block b %}{{ self.b() }}{% endblock %}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as x %}",
    "from import": "{% from '/etc/passwd' import x %}",
    "extends": "{% extends '/etc/passwd' %}",
    "recursive loop": "{% for x in l recursive %}{{ loop(l) }}{% endfor %}",
    "filter block": "{% filter upper %}{{ s }}{% endfilter %}",
    "set block": "{% set b %}{{ s }}{% endset %}{{ b }}",
    "autoescape": "{% autoescape true %}{{ s }}{% endautoescape %}",
    "loops": "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "loops in conditions": "{% for a in range(10000) if a in range(10000) | list %}{% endfor %}",
    "loop over a text": "{% for a in t %}{% for b in t %}{% endfor %}{% endfor %}",
    "six loops": "{% for a in l %}" * 6 + "{% endfor %}" * 6,
    "slices of a long text": "{% for a in range(10000) %}{% for b in range(100) %}{% if t[1:] %}{% endif %}{% endfor %}"
    "{% endfor %}",
    "comparison of long texts": "{% for a in range(10000) %}{% for b in range(100) %}{{ t == t[1:] }}{% endfor %}"
    "{% endfor %}",
    "search in a long text": "{% for a in range(10000) %}{{ 'y' in t }}{% endfor %}",
    "search from the right": "{{ ('a' ~ t).rfind('b' ~ t) }}",
    "strip": "{{ t.strip(t) }}",
    "trim": "{{ t | trim(t) }}",
    "tags": "{{ ('<' ~ t) | replace('x', '<!---->') | striptags }}",
    "sorted characters": "{{ t | sort | unique | sort | groupby(0) | length }}",
    "upper again and again": "{{ (t" + " | upper | lower" * 400 + ") | length }}",
    "doubling": "{% set a = t %}" + "{% set a = a ~ a %}" * 40 + "{{ a | length }}",
    "doubling by +": "{% set a = t %}" + "{% set a = a + a %}" * 40 + "{{ a | length }}",
    "doubling by a list": "{% set a = l %}" + "{% set a = a + a %}" * 40 + "{{ a | length }}",
    "doubling by references": "{% set a = l %}" + "{% set a = [a, a] %}" * 60 + "{{ a | string | length }}",
    "doubling in a tuple": "{% set a = (s, n) %}" + "{% set a = (a, a) %}" * 60 + "{{ rows[0][a] }}",
    "doubling in a mapping": "{% set a = s %}" + "{% set a = {'x': a, 'y': a} %}" * 60 + "{{ a }}",
    "doubling of two lists": "{% set a = [s] %}{% set b = [s] %}"
    + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60
    + "{{ a == b }}",
    "doubling by with": "{% with a = t %}"
    + "{% with a = a ~ a ~ a %}" * 20
    + "{{ a | length }}"
    + "{% endwith %}" * 21,
    "squaring": "{% set a = 999999999 %}" + "{% set a = a * a %}" * 40 + "{{ a }}",
    "brackets": "{{ " + "(" * 300 + "s" + ")" * 300 + " }}",
    "lists": "{{ " + "[" * 300 + "]" * 300 + " }}",
    "not": "{{ " + "not " * 3_000 + "s }}",
    "minus": "{{ " + "-" * 3_000 + "n }}",
    "plus": "{{ " + "s + " * 3_000 + "s }}",
    "comparisons": "{{ " + "n == " * 30_000 + "n }}",
    "attributes": "{{ s" + ".a" * 3_000 + " }}",
    "filters": "{{ s" + " | trim" * 3_000 + " }}",
    "conditions": "{{ " + "s if n else " * 3_000 + "s }}",
    "nested conditions": "{% if s %}" * 3_000 + "{% endif %}" * 3_000,
    "nested loops": "{% for s in l %}" * 300 + "{% endfor %}" * 300,
    "open brackets": "{{ " + "{[(" * 30_000,
    "many expressions": "{{ s }}" * 12_000,
    "a long source": "x" * 100_001,
    "open comments": "{#" * 40_000,
    "open strings": "{{ '" + "\\'" * 40_000,
    "a method of an image": "{{ n.real.conjugate() }}",
    "private attributes": "{{ s.__class__.__mro__ }}",
    "a method that changes": "{{ l.append(1) }}",
}
"""Templates that must end with an error."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_takes_too_much_is_refused(name) -> None:
    source = REFUSED[name]
    result = end_of(source)
    assert any(result.startswith(kind) for kind in ("Security", "Template", "Undefined", "Value", "Type", "Zero"))
    assert len(result) < 500
    if source.startswith("{{ ") and source.count("{") == 2:
        assert "Error: " in end_of(source[3:-3], expression=True)


@pytest.mark.parametrize("name", REFUSED)
def test_its_error_names_the_template(name) -> None:
    example = Example("rte", 3, {"s": VALUES["s"], "t": VALUES["t"], "n": "7"}, ("yes",), ("yes", "no"), 0)
    try:
        template = Template.model_construct(name="t", input=REFUSED[name], parts=None, target="yes", inverted=False)
        TemplateAst(REFUSED[name])
    except TemplateError:
        return
    start = time.process_time()
    with pytest.raises(MetalmError, match="template t fails on rte") as caught:
        render(example, template)
    assert time.process_time() - start < TIME_S
    assert caught.value.where == "rte row 3 (t)"
    assert caught.value.why
    assert caught.value.remedy


HARMLESS = {
    "{% for o in choices %}{{ loop.index }}. {{ o }}{{ '\n' if not loop.last }}{% endfor %}": "1. yes\n2. no",
    "{% for k, v in fields.items() if k != 'b' %}{{ k }}={{ v | trim }}{% endfor %}": "a=x y",
    "{% set first = choices[0] %}{% if first in choices %}{{ first ~ '!' }}{% endif %}": "yes!",
    "{{ {'yes': 'It is.', 'no': 'It is not.'}[answer] }}": "It is not.",
    "{{ ['A', 'B'][choices.index(answer)] }}": "B",
    "{{ choices | map('upper') | join(', ') }}": "YES, NO",
    "{{ choices | select('equalto', 'no') | first }}": "no",
    "{{ a.split(' ')[1:] | join('-') + a.replace('x', 'z').strip() }}": "yz y",
    "{{ a[:1] | upper }}{{ ' x ' | trim }}{{ 'ab' | title }}{{ a | wordcount }}": "XxAb2",
    "{{ 2 * 3 + 7 // 2 - 1 }} {{ 2 ** 10 }} {{ 7 % 4 }} {{ 1.26 | round(1) }} {{ [1, 2] | sum }}": "8 1024 3 1.3 3",
    "{{ range(3) | join }} {{ (choices, 1) | length }}": "012 2",
    "{{ choices | batch(2) | first | join }} {{ {'a': [1]} | tojson }} {{ '<b>x</b>' | striptags }}": "yesno "
    '{"a": [1]} x',
    "{% with b = a | length %}{{ b }}{% endwith %}": "3",
    "{{ loop_var | default('none') }} {{ a is defined and a is string }}": "none True",
    "{{ rows | map(attribute='a') | map('first') | join }} {{ rows | groupby('a') | length }}": "12 2",
    "{% for x in rows %}{% for y in x.a %}{{ loop.cycle('o', 'e') }}{{ y }}{% endfor %}{% endfor %}": "o1o2",
    "{{ rows | selectattr('b', 'eq', 2) | map(attribute='a') | join }} {{ '-'.join(choices) }}": "2 yes-no",
    "{{ 'x' | string ~ 3 | float ~ '4' | int }} {{ a | truncate(4) }} {{ 'ab cd ef gh ij' | truncate(7) }}": "x3.04 "
    "x y ab...",
}


@pytest.mark.parametrize("source", HARMLESS)
def test_what_templates_are_written_with_still_works(source) -> None:
    values = {
        "a": "x y",
        "choices": ["yes", "no"],
        "answer": "no",
        "fields": {"a": " x y ", "b": "c"},
        "rows": [{"a": "1", "b": 1}, {"a": "2", "b": 2}],
    }
    assert compile_text(source)(values) == HARMLESS[source]


# -- made-up templates ------------------------------------------------------------------------------------------------

ATOMS = ["s", "t", "l", "rows", "n", "'x'", "''", "0", "-1", "99999", "[]", "range(10000)", "{'a': s}", "none", "1.5"]
FILTER_CALLS = """
    length upper title list join trim sort unique reverse sum int float round abs string first last max min batch(3)
    batch(99999) slice(9999) replace('x',t) replace('',s) join(t) truncate(9) round(99) map('upper') map('list')
    map('join',s) tojson striptags wordcount groupby(0) select default(t) center(99999999) indent(9999999) wordwrap(1)
    items dictsort sum(start=l) map('batch',9999) escape safe tojson(99999999)
"""
METHOD_CALLS = """
    upper() split() split('') join(l) join(t) replace('a',t) strip(t) rfind(t) count(t) index('x') items() get('a')
    format(s) center(99999999) zfill(99999999) splitlines() title() encode() to_bytes(99999999) expandtabs(99999999)
    ljust(99999999) partition(t) rsplit(t) casefold() append(1) startswith(t)
"""
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "not in", "and", "or"]


def made_up_expression(rng: random.Random, depth: int) -> str:
    kind = rng.randrange(8) if depth else 0
    if kind <= 1:
        return rng.choice(ATOMS)
    inner = made_up_expression(rng, depth - 1)
    if kind == 2:
        return f"({inner} {rng.choice(OPERATORS)} {made_up_expression(rng, depth - 1)})"
    if kind == 3:
        return f"({inner}).{rng.choice(METHOD_CALLS.split())}"
    if kind == 4:
        return f"[{', '.join([inner] * rng.randint(1, 9))}]"
    if kind == 5:
        return f"({inner})[{rng.choice(['1:', ':-1', '0', '::2', '::-1'])}]"
    return f"({inner}) | {rng.choice(FILTER_CALLS.split())}"


def made_up_template(rng: random.Random, depth: int) -> str:
    pieces = []
    for _ in range(rng.randint(1, 3)):
        expression = made_up_expression(rng, 3)
        body = made_up_template(rng, depth - 1) if depth else "{{ " + made_up_expression(rng, 2) + " }}"
        pieces.append(
            rng.choice(
                [
                    "{{ " + expression + " }}",
                    "{% for x in " + expression + " %}" + body + "{% endfor %}",
                    "{% for i in range(10000) %}" + body + "{% endfor %}",
                    "{% if " + expression + " %}" + body + "{% else %}" + body + "{% endif %}",
                    "{% set s = s ~ t ~ " + expression + " %}" * rng.randint(1, 20) + body,
                    "{% set l = [l, l, l] %}" * rng.randint(1, 20) + body,
                ]
            )
        )
    return "".join(pieces)


@pytest.mark.parametrize("seed", range(4))
def test_made_up_templates_end_in_time(seed) -> None:
    rng = random.Random(seed)
    ends = [end_of(made_up_template(rng, rng.randint(0, 3))) for _ in range(60)]
    ends += [end_of(made_up_expression(rng, 4), expression=True) for _ in range(30)]
    assert 10 < sum("Error: " in end for end in ends) < len(ends)
