"""The pages' Jinja templates, which stand beside this file."""

from __future__ import annotations

from importlib import resources

import jinja2


def html_template(name: str) -> jinja2.Template:
    """A template of this package, with the filter ``thousands`` (``1,234``).

    Captions, row names, overrides and errors are anybody's text: escaping is on for everything, whatever the file's
    name ends in. A name that the template knows and the page does not is an error.

    Args:
        name: Of the file.
    """
    source = resources.files("i0t.report").joinpath(name).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = "{:,}".format
    return environment.from_string(source)
