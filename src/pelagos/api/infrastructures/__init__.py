"""The dialect of infrastructures: their own resources, runs and plans, definitions, and the ancestor's paths."""

from pelagos.api.infrastructures import ancestor, definitions, history, keeping, resources, runs

__all__ = ["ENDPOINTS"]

ENDPOINTS = (
    *resources.ENDPOINTS,
    *keeping.ENDPOINTS,
    *history.ENDPOINTS,
    *runs.ENDPOINTS,
    *definitions.ENDPOINTS,
    *ancestor.ENDPOINTS,
)
