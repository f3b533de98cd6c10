"""How Sphinx builds the pages: ``sphinx-build -n -W docs build/docs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc._version import __version__

if TYPE_CHECKING:
    from docutils.nodes import document
    from sphinx.application import Sphinx

project = "intake-idc"
author = "The intake-idc developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"intake-idc {release}"
exclude_patterns = ["_build", "decisions/0000-template.md"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_numpy_docstring = True

# The build needs no network, so there are no inventories to link into: names
# of other packages stay plain text. Our own names must all resolve.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!intake_idc).*"),
    # Documented under `intake_idc.lazy`, where they are public.
    (r"py:class", r"intake_idc\.lazy\.\w+\.\w+"),
]


def plain_words(_app: Sphinx, doctree: document) -> None:
    """Leave words of types as they are; "path" would be any attribute of ours."""
    # The tests import this file as well, and need no Sphinx.
    from sphinx.addnodes import pending_xref

    for node in list(doctree.findall(pending_xref)):
        word = node.get("reftarget", "")
        if node.get("refdomain") == "py" and word.isalpha() and word.islower():
            node.replace_self(node.children)


def setup(app: Sphinx) -> None:
    """Connect what Sphinx has no setting for."""
    app.connect("doctree-read", plain_words)
