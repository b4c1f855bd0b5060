"""Docstrings are prose with shapes such as [prompt][sample], which Markdown would take for links."""

import re

import griffe


class Brackets(griffe.Extension):
    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            parts = re.split(r"(`[^`]*`)", obj.docstring.value)
            parts[::2] = [part.replace("][", "]\\[") for part in parts[::2]]
            obj.docstring.value = "".join(parts)
