"""Starts programs as the tests of the pipeline do."""

from __future__ import annotations

from tests.pipeline.conftest import programs_begin_quickly

__all__ = ["programs_begin_quickly"]
