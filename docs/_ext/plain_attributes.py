"""Napoleon reads `#: Higher runs first: 3 before 2` as a type and a description. Here it is a sentence."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring


def setup(_: Sphinx) -> dict[str, Any]:
    read = GoogleDocstring.__init__

    def read_as_text(self: GoogleDocstring, *args: Any, **kwargs: Any) -> None:
        # (docstring, config, app, what, ...): there is no setting for this.
        if len(args) > 3 and args[3] in {"attribute", "data", "property"}:
            args = (*args[:3], "method", *args[4:])
        read(self, *args, **kwargs)

    GoogleDocstring.__init__ = read_as_text  # type: ignore[method-assign]  # the extension has no hook for it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
