"""Versions of the packages that make programs, as bundle.json records them."""

from __future__ import annotations

from importlib import metadata


def version_of(package: str) -> str:
    """Public version of an installed package: a local build tag such as +cpu is dropped."""
    return metadata.version(package).split("+")[0]
