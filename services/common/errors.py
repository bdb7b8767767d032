"""Errors that a person must act on."""

from __future__ import annotations


class LandlineError(Exception):
    """Something went wrong that has a plain explanation; the message says what to do."""


class ConfigError(LandlineError):
    """The configuration is wrong; the message names the file, the key and the remedy."""
