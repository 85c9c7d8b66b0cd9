"""The project whose demo was run, as for the pipeline's tests, and made once for both."""

from tests.pipeline.conftest import _done_once, done

__all__ = ["_done_once", "done"]
