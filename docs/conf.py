"""How the documentation is built: `sphinx-build -W -b html docs docs/_build/html`."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from trio_queue import __version__  # noqa: E402  # found by the line above

project = "trio_queue"
author = "The trio_queue authors"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "soft_references",
    "plain_attributes",
    "plain_signatures",
    "worker_tables",
    "deviation_tables",
    "figure_tables",
    "message_tables",
    "stage_diagram",
    "command_line",
]
exclude_patterns = ["_build"]
root_doc = "index"
nitpicky = True
# What the annotations name and these pages do not describe: the libraries beneath, and private modules.
# (Their inventories would be fetched over the network, and a build must work without one.)
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(trio|asyncio|attrs|attr|click|collections|contextlib|datetime|enum|logging|os)\..*",
    ),
    (r"py:.*", r"(psycopg|psycopg_pool|typing|typing_extensions|types|sniffio)(\..*)?"),
    (r"py:.*", r"pathlib\.Path"),
    (r"py:.*", r"trio_queue\._.*"),
    # Type variables, aliases, and the protocols of the floors beneath.
    (
        r"py:.*",
        r"(trio_queue\.\w+\.)?(P|R|T|Args|Flavor|JSONValue|JSONDict|RetryValue|KeywordArgumentsOnly|WorkerOptions|Binaries|ServerState)",
    ),
    (
        r"py:.*",
        r"trio_queue\.(store|verbs|management|owners|job_context|utils|embedded\.\w+)\.[A-Z]\w+",
    ),
]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# A name in single backticks, in docstrings: a link where these pages describe it, else plain code.
default_role = "soft"
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("JSONDict", "JSONValue")}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Options", "params_style")]

html_theme = "furo"
html_title = f"trio_queue {version}"
html_static_path = ["_static"]
html_css_files = ["trio_queue.css"]
html_theme_options = {"navigation_with_keys": True}
